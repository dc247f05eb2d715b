"""Where called AE titles lead, and what a configuration may say about it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from securepacs.errors import AccessDenied, ConfigError
from securepacs.pki import CertificateProfile
from securepacs_proxy.commands import Destination
from securepacs_proxy.config import examine, load
from securepacs_proxy.reload import needs_restart, read_snapshot
from securepacs_proxy.ways import client_tls, egress_of, ingress_routes
from tests.support.gateway_files import GatewayFiles, gateway_files

EGRESS = """
[[egress]]
name = "pacs.inside"
port = 11114
addresses = ["10.0.0.0/28", "2001:db8::7"]
ae_titles = ["ARCHIVE"]

[[egress.route]]
called_ae_title = "PARTNER"
destinations = ["partner.example:2762"]

[egress.route.tls]
trust = ["root.pem"]
certificate = "gateway.pem"
key = "gateway.key"

[[egress.route]]
called_ae_title = "CT1"
destinations = ["10.0.0.31:104"]
unsafe_plain = true
"""


@pytest.fixture
def files(tmp_path: Path) -> GatewayFiles:
    made = gateway_files(tmp_path)
    made.write(text=made.text + EGRESS)
    return made


def problems(files: GatewayFiles, old: str, new: str) -> list[tuple[str, str]]:
    _, found = examine(files.write(old, new, text=files.text + EGRESS))
    return [(problem.key, problem.message) for problem in found]


def test_both_directions_are_read(files: GatewayFiles) -> None:
    config = load(files.path)
    (egress,) = egress_of(config)
    (name,) = client_tls(config)
    assert name.startswith("egress[0].route[0].tls#")
    assert ingress_routes(config) == {"ARCHIVE": (Destination("127.0.0.1", 11112),)}
    assert egress.routes == {
        "PARTNER": (Destination("partner.example", 2762, name),),
        "CT1": (Destination("10.0.0.31", 104),),
    }
    assert (egress.subject.user_id, egress.subject.roles, egress.subject.assurance) == ("pacs.inside", {"archive"}, "network")
    tls = client_tls(config)
    assert tls[name].context.verify_mode is ssl.CERT_REQUIRED
    assert tls[name].context.check_hostname


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.15", "::ffff:10.0.0.1", "2001:db8::7"])
def test_the_addresses_of_the_archive_are_known(files: GatewayFiles, address: str) -> None:
    (egress,) = egress_of(load(files.path))
    assert egress.identify(address) is egress.subject


@pytest.mark.parametrize("address", ["10.0.0.16", "::1", "", "not an address", "::ffff:10.0.0.16"])
def test_other_addresses_are_denied(files: GatewayFiles, address: str) -> None:
    (egress,) = egress_of(load(files.path))
    with pytest.raises(AccessDenied):
        egress.identify(address)


def test_a_pin_takes_the_place_of_the_name(files: GatewayFiles) -> None:
    files.write(CALL, f'{CALL}\ncertificate_sha256 = "{"AB:" * 31}AB"', text=files.text + EGRESS)
    (tls,) = client_tls(load(files.path)).values()
    assert tls.certificate_sha256 == "ab" * 32
    assert not tls.context.check_hostname
    assert tls.context.verify_mode is ssl.CERT_REQUIRED


CALL = '[egress.route.tls]\ntrust = ["root.pem"]'
PARTNER, CT1 = 'destinations = ["partner.example:2762"]', 'destinations = ["10.0.0.31:104"]'
WAY = "egress[0].route[0]"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('["10.0.0.0/28", "2001:db8::7"]', "[]", "egress[0].addresses", "no address"),
        ('"10.0.0.0/28"', '"10.0.0.7/28"', "egress[0].addresses[0]", "neither an IP address nor a network"),
        ('ae_titles = ["ARCHIVE"]', "ae_titles = []", "egress[0].ae_titles", "no AE title"),
        ("unsafe_plain = true", "", "egress[0].route[1].tls", "not said how"),
        (PARTNER, f"{PARTNER}\nunsafe_plain = true", f"{WAY}.tls", "both with and without"),
        ('"CT1"\ndestinations', '"PARTNER"\ndestinations', "egress[0].route[1].called_ae_title", "has a route already"),
        (CT1, "destinations = []", "egress[0].route[1].destinations", "leads nowhere"),
        ("port = 11114", 'port = 2762\nhost = "0.0.0.0"', "egress[0].port", "already taken"),
        (CALL, "[egress.route.tls]\ntrust = []", f"{WAY}.tls.trust", "no destination would be accepted"),
        (CALL, f'{CALL}\ntls_profile = "B.1"', f"{WAY}.tls.tls_profile", "no TLS profile"),
        (f'{CALL}\ncertificate = "gateway.pem"', CALL, f"{WAY}.tls.certificate", "belong together"),
        (CALL, CALL.replace("root", "nothing"), f"{WAY}.tls.trust[0]", "cannot be read"),
        ('ae_titles = ["ARCHIVE"]', 'ae_titles = ["ARCHIVE"]\nroles = []', "egress[0].roles", "no role"),
    ],
)
def test_what_is_wrong_is_named(files: GatewayFiles, old: str, new: str, key: str, words: str) -> None:
    found = problems(files, old, new)
    assert [name for name, _ in found] == [key], found
    assert words in found[0][1]


def test_without_a_route_the_section_is_refused(files: GatewayFiles) -> None:
    _, found = examine(files.write(text=files.text + EGRESS.partition("[[egress.route]]")[0] + "route = []\n"))
    assert [(problem.key, problem.hint) for problem in found] == [("egress[0].route", "add a [[egress.route]] section")]


def test_name_and_pin_together_are_refused(files: GatewayFiles) -> None:
    old = "[egress.route.tls]\n"
    found = problems(files, old, old + f'server_name = "a.example"\ncertificate_sha256 = "{"ab" * 32}"\n')
    assert [key for key, _ in found] == ["egress[0].route[0].tls.certificate_sha256"]


def test_a_snapshot_follows_the_files_of_the_way_out_and_keeps_its_port(files: GatewayFiles) -> None:
    before = read_snapshot(files.path)
    other = files.pki.credential(CertificateProfile.GATEWAY_PEER, "out")
    files.pki.write_pem(other, files.folder)
    files.write("unsafe_plain = true", "unsafe_plain = true\n", text=files.text + EGRESS)
    assert read_snapshot(files.path).version != before.version
    files.write("port = 11114", "port = 11115", text=files.text + EGRESS)
    assert needs_restart(before, read_snapshot(files.path)) == "egress"


def test_a_client_key_that_others_can_read_is_refused(files: GatewayFiles) -> None:
    (files.folder / "gateway.key").chmod(0o644)
    with pytest.raises(ConfigError):
        load(files.path)


def test_settings_that_move_or_change_get_another_name(files: GatewayFiles) -> None:
    """A connection that is under way during a reload must not meet the trust of another destination under the old name."""
    names = {*client_tls(load(files.path))}
    files.write(CALL, f'{CALL}\nserver_name = "other.example"', text=files.text + EGRESS)
    names |= {*client_tls(load(files.path))}
    assert len(names) == 2
