"""What a second, foreign CA may say in a running gateway; and the setting that asks for keys in hardware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association

from securepacs.codes import SECURITY_ALERT, VERIFICATION_SOP_CLASS
from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs_proxy.config import examine, load
from securepacs_proxy.identity import path_of
from securepacs_proxy.reload import read_snapshot
from tests.support.gateway import Gateway, running_gateway
from tests.support.gateway_files import gateway_files
from tests.support.net import wait_until
from tests.support.pki import TestPki, make_pki, pem_of

PERSON = CertificateProfile.RADIOLOGIST
HOUSE = '[[anchor]]\ncertificate = "root.pem"\nroles = ["*"]'


@pytest.fixture
def archive() -> Iterator[tuple[str, int]]:
    """An archive that answers C-ECHO."""
    entity = AE("ARCHIVE")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)])
    assert server is not None
    try:
        yield "127.0.0.1", int(server.server_address[1])
    finally:
        server.shutdown()


def with_partner(gateway: Gateway, anchor: str) -> TestPki:
    """Trust a second CA whose scope is `anchor`."""
    partner = make_pki(gateway.folder / "partner", name="Partner Clinic")
    partner.folder.mkdir(exist_ok=True)
    (gateway.folder / "partner.pem").write_bytes(pem_of(partner.ca.root))
    partner.write_crls()
    gateway.write()
    text = gateway.config.read_text()
    text = text.replace('trust = ["root.pem"]', 'trust = ["root.pem", "partner.pem"]')
    text = text.replace('"root.crl"]', '"root.crl", "partner/issuing.crl", "partner/root.crl"]')
    text = text.replace("[limits]", f'{HOUSE}\n[[anchor]]\ncertificate = "partner.pem"\n{anchor}\n[limits]')
    gateway.config.write_text(text)
    return partner


def call(gateway: Gateway, pki: TestPki, name: str, calling: str, called: str = "ARCHIVE") -> Association:
    gateway._credentials.setdefault((PERSON, name), pki.credential(PERSON, name))
    return gateway.associate(name, calling=calling, called=called, profile=PERSON)


def said(gateway: Gateway, words: str) -> bool:
    return any(words in text for text in gateway.texts(event=SECURITY_ALERT.csd_code))


def test_a_partner_cannot_say_more_than_its_scope(tmp_path: Path, archive: tuple[str, int]) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": archive, "SECRET": archive})
    partner = with_partner(
        gateway, 'roles = ["radiologist"]\norganizations = ["Partner Clinic"]\nae_titles = ["PC*"]\nroutes = ["ARCHIVE"]'
    )
    try:
        gateway.start("--drain", "2")
        good = call(gateway, partner, "Dr Park", "PC1")
        assert good.is_established
        (row,) = gateway.status()
        assert row["roles"] == ["radiologist"]
        assert row["assurance"] == "software"
        good.release()
        assert not call(gateway, partner, "Dr Park", "VIEWER").is_established
        assert not call(gateway, partner, "Dr Park", "PC1", "SECRET").is_established
        own = call(gateway, gateway.pki, "Dr Lee", "VIEWER", "SECRET")
        assert own.is_established
        own.release()
        wait_until(lambda: said(gateway, "may not be used with the calling AE title VIEWER"), what="the record")
        wait_until(lambda: said(gateway, "may not be used for SECRET"), what="the record")
        caller = [who for message in gateway.records() for who in message.ActiveParticipant if who.UserName == "Dr Park"]
        assert caller
        assert all("assurance-software" in {role.csd_code for role in who.RoleIDCode} for who in caller if who.RoleIDCode)
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_a_role_out_of_scope_is_ignored_and_alarmed_once(tmp_path: Path, archive: tuple[str, int]) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": archive}, workers=1)
    partner = with_partner(gateway, 'roles = ["referring_physician"]')
    try:
        gateway.start("--drain", "2")
        for _ in range(3):
            assert not call(gateway, partner, "Dr Park", "PC1").is_established
        wait_until(lambda: said(gateway, "ignored, because its CA may not give them: radiologist"), what="the record")
        assert sum("ignored, because" in text for text in gateway.texts()) == 1
        assert gateway.stop() == 0
    finally:
        gateway.kill()


@pytest.mark.parametrize("enrolled", [False, True])
def test_people_of_a_public_ca_must_be_enrolled(tmp_path: Path, archive: tuple[str, int], enrolled: bool) -> None:
    row = '[[person]]\ncertificate_common_name = "Dr Park"\nroles = ["radiologist"]' if enrolled else ""
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": archive}, workers=1, extra=row)
    partner = with_partner(gateway, 'roles = ["*"]\npublic = true')
    try:
        gateway.start("--drain", "2")
        association = call(gateway, partner, "Dr Park", "PC1")
        assert association.is_established is enrolled
        association.release()
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_hardware_is_asked_for_when_the_operator_wants_it(tmp_path: Path, archive: tuple[str, int]) -> None:
    person = '[[person]]\ncertificate_common_name = "Dr Card"\nroles = ["radiologist"]\nassurance = "hardware"'
    extra = f"[policy]\npersons_need_hardware = true\n{person}"
    with running_gateway(tmp_path, {"ARCHIVE": archive}, workers=1, extra=extra) as gateway:
        assert not call(gateway, gateway.pki, "Dr Soft", "VIEWER").is_established
        card = call(gateway, gateway.pki, "Dr Card", "VIEWER")
        assert card.is_established
        machine = gateway.associate("ct1", calling="CT1")
        assert machine.is_established
        assert {(row["name"], row["assurance"]) for row in gateway.status()} == {("Dr Card", "hardware"), ("ct1", "software")}
        card.release()
        machine.release()
        wait_until(lambda: said(gateway, "persons-need-hardware"), what="the record")
        done = gateway.run("explain", "--cert", str(gateway.folder / "clients" / "Dr_Soft.pem"), "--action", "C-FIND")
        assert done.returncode == 1
        assert "hardware" in done.stdout


def test_every_trusted_certificate_needs_a_scope_when_one_has(tmp_path: Path) -> None:
    files = gateway_files(tmp_path)
    other = make_pki(tmp_path / "other", name="Other")
    (tmp_path / "other.pem").write_bytes(pem_of(other.ca.root))
    _, problems = examine(files.write("[audit]", '[[anchor]]\ncertificate = "other.pem"\nroles = []\n[audit]'))
    assert [(problem.key, problem.message.split()[-1]) for problem in problems] == [
        ("anchor[0].certificate", str(tmp_path / "other.pem")),
        ("listener[0].trust", "section"),
    ]
    with pytest.raises(ConfigError, match="has a scope already"):
        load(files.write("[audit]", f"{HOUSE}\n{HOUSE}\n[audit]"))
    load(files.write("[audit]", f"{HOUSE}\n[audit]"))


@pytest.mark.parametrize("value", ['"1.2.x"', '"3.1"', '"12"'])
def test_what_is_no_object_identifier_is_refused(tmp_path: Path, value: str) -> None:
    files = gateway_files(tmp_path)
    with pytest.raises(ConfigError, match="out of range"):
        load(files.write("[audit]", f"[policy]\nhardware_policies = [{value}]\n[audit]"))


def test_the_path_of_a_certificate_that_is_not_connected(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    credential = pki.credential(CertificateProfile.MODALITY, "ct1")
    assert path_of(credential.certificate, credential.chain, [pki.ca.root]) == (pki.ca.issuing, pki.ca.root)
    assert path_of(credential.certificate, (), [pki.ca.root]) == ()
    assert path_of(credential.certificate, (), [pki.ca.issuing]) == (pki.ca.issuing,)
    assert path_of(pki.ca.root, (), []) == ()


def test_a_certificate_that_two_anchors_vouch_for_has_the_scope_of_the_path_it_came_by(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", 104)})
    partner = with_partner(gateway, 'roles = ["referring_physician"]')
    snapshot = read_snapshot(gateway.config)
    certificate = gateway.pki.credential(PERSON, "Dr Park").certificate
    for _ in range(2):  # the second time from memory
        house = snapshot.identify(certificate, (gateway.pki.ca.issuing, gateway.pki.ca.root))
        other = snapshot.identify(certificate, (gateway.pki.ca.issuing, partner.ca.root))
        assert (house.roles, house.ignored_roles) == ({"radiologist"}, frozenset())
        assert (other.roles, other.ignored_roles) == (frozenset(), {"radiologist"})
        assert house.anchor_sha256 != other.anchor_sha256
