"""Revocation where the gateway is the client, and of certificates that are trusted without a CA (ITI-19)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.x509 import ReasonFlags
from pynetdicom import AE, evt
from pynetdicom.association import Association

from securepacs.codes import VERIFICATION_SOP_CLASS
from securepacs.pki import CertificateProfile
from securepacs.pki.server import PkiServer, serve
from securepacs.tls import server_context
from securepacs.tokens.credential import Credential
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import free_port, wait_until
from tests.support.pki import TestPki, make_pki, pem_of

WAY_OUT = """
[[egress]]
name = "archive.inside"
port = 0
addresses = ["127.0.0.0/8"]
ae_titles = ["ARCHIVE"]
roles = ["archive", "modality"]
[[egress.route]]
called_ae_title = "PARTNER"
destinations = ["localhost:{port}"]
[egress.route.tls]
trust = ["{trust}"]
certificate = "outward.pem"
key = "outward.key"
{more}
"""
ONLINE = '[revocation]\nallowed_hosts = ["127.0.0.1"]\nrefresh_seconds = 1\n'


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[TestPki, PkiServer]]:
    """A CA whose certificates name a CRL and an OCSP responder, both of which answer."""
    port = free_port()
    pki = make_pki(tmp_path, base_url=f"http://127.0.0.1:{port}")
    with serve(pki.ca, port=port) as server:
        yield pki, server


@contextmanager
def partner(pki: TestPki, folder: Path, credential: Credential) -> Iterator[int]:
    """A destination with TLS and mutual authentication that answers C-ECHO; yields its port."""
    key, certificate = pki.write_pem(credential, folder / "partner")
    entity = AE("PARTNER")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    context = server_context("B.12", certificate=certificate, key=key, trust=[pki.write_trust(folder / "partner")])
    handlers = [(evt.EVT_C_ECHO, lambda _event: 0x0000)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def call_out(gateway: Gateway) -> Association:
    """Call as the archive does."""
    entity = AE("ARCHIVE")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    entity.add_requested_context(VERIFICATION_SOP_CLASS)
    return entity.associate("127.0.0.1", gateway.ports[1], ae_title="PARTNER")


def echoes(association: Association) -> bool:
    return association.is_established and association.send_c_echo().Status == 0


def way_out(pki: TestPki, folder: Path, port: int, *, revocation: str = "", trust: str = "root.pem", more: str = "") -> str:
    """Return the settings of an inner port, and write the certificate that the gateway shows outside."""
    pki.write_pem(pki.credential(CertificateProfile.GATEWAY_PEER, "outward"), folder)
    return WAY_OUT.format(port=port, trust=trust, more=more) + revocation


def asking(pki: TestPki, folder: Path, port: int, **more: str) -> str:
    """Return the same with revocation asked for online."""
    return way_out(pki, folder, port, revocation=ONLINE, **more)


@pytest.mark.parametrize("reason", [ReasonFlags.key_compromise, ReasonFlags.superseded])
def test_a_revoked_destination_ends_live_associations_and_is_called_no_more(
    tmp_path: Path, published: tuple[TestPki, PkiServer], reason: ReasonFlags
) -> None:
    pki, _ = published
    credential = pki.credential(CertificateProfile.PACS, "partner")
    with (
        partner(pki, tmp_path, credential) as port,
        running_gateway(tmp_path, {"A": ("127.0.0.1", port)}, pki=pki, crls=False, extra=asking(pki, tmp_path, port)) as gateway,
    ):
        live = call_out(gateway)
        assert echoes(live)
        pki.ca.revoke(credential.certificate, at=datetime.now(UTC), reason=reason)
        wait_until(lambda: live.is_aborted, what="the end of the live association")
        assert not call_out(gateway).is_established
        wait_until(lambda: any("was ended: the certificate was revoked at" in text for text in gateway.texts()), what="the record")
        wait_until(
            lambda: any("its certificate is not accepted: the certificate was revoked" in text for text in gateway.texts()),
            what="the record of the refused one",
        )


def test_a_known_destination_is_called_while_the_ca_is_silent_and_an_unknown_one_is_not(
    tmp_path: Path, published: tuple[TestPki, PkiServer]
) -> None:
    pki, server = published
    one, other = tmp_path / "known", tmp_path / "new"
    with (
        partner(pki, tmp_path, pki.credential(CertificateProfile.PACS, "partner")) as port,
        running_gateway(one, {"A": ("127.0.0.1", port)}, pki=pki, crls=False, extra=asking(pki, one, port)) as known,
        running_gateway(other, {"A": ("127.0.0.1", port)}, pki=pki, crls=False, extra=asking(pki, other, port)) as new,
    ):
        first = call_out(known)
        assert echoes(first)
        first.release()
        server.stop()
        again = call_out(known)
        assert echoes(again)
        again.release()
        assert not call_out(new).is_established
        wait_until(
            lambda: any("its certificate is not accepted: its revocation status is not known" in text for text in new.texts()),
            what="the record",
        )


def test_a_destination_on_a_list_in_a_file_is_refused_and_a_reload_ends_live_associations(tmp_path: Path) -> None:
    pki, lists = make_pki(tmp_path), 'crls = ["issuing.crl", "root.crl"]'
    credential = pki.credential(CertificateProfile.PACS, "partner")
    with (
        partner(pki, tmp_path, credential) as port,
        running_gateway(tmp_path, {"A": ("127.0.0.1", port)}, pki=pki, extra=way_out(pki, tmp_path, port, more=lists)) as gateway,
    ):
        live = call_out(gateway)
        assert echoes(live)
        pki.ca.revoke(credential.certificate, at=datetime.now(UTC), reason=ReasonFlags.key_compromise)
        pki.write_crls(tmp_path, at=datetime.now(UTC))
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: live.is_aborted, what="the end of the live association")
        wait_until(lambda: gateway.log.count("works by version") == 2, what="both workers")
        assert not call_out(gateway).is_established
        wait_until(lambda: any("certificate revoked" in text for text in gateway.texts()), what="the record")


def test_a_destination_that_is_trusted_itself_needs_no_list_and_no_answer(tmp_path: Path) -> None:
    """Its issuer has no say; to take it out of `trust` is its revocation (ITI-19)."""
    foreign = make_pki(tmp_path / "foreign", name="Unknown CA")
    credential = foreign.credential(CertificateProfile.PACS, "partner")
    own = make_pki(tmp_path / "own")
    with partner(own, tmp_path, credential) as port:
        (tmp_path / "gw").mkdir()
        (tmp_path / "gw" / "installed.pem").write_bytes(pem_of(credential.certificate))
        extra = asking(own, tmp_path / "gw", port, trust="installed.pem")
        with running_gateway(tmp_path / "gw", {"A": ("127.0.0.1", port)}, pki=own, crls=False, extra=extra) as gateway:
            live = call_out(gateway)
            assert echoes(live)
            live.release()


def test_a_peer_that_is_trusted_itself_is_let_in_and_ends_when_it_is_taken_out(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    stranger = make_pki(tmp_path / "foreign", name="Unknown CA").credential(CertificateProfile.MODALITY, "ct1")
    pki.write_crls(tmp_path / "lists", at=datetime.now(UTC))
    with echo_archive() as archive:
        gateway = Gateway(tmp_path, pki, {"ARCHIVE": archive}, crls=False, extra=ONLINE + '\ncrl_folder = "lists"')
        gateway.write()
        text = gateway.config.read_text()
        (tmp_path / "installed.pem").write_bytes(pem_of(stranger.certificate))
        gateway.config.write_text(text.replace('trust = ["root.pem"]', 'trust = ["root.pem", "installed.pem"]'))
        gateway._credentials[CertificateProfile.MODALITY, "ct1"] = stranger
        try:
            gateway.start("--drain", "2")
            live, other = gateway.associate("ct1", calling="CT1"), gateway.associate("peer1", calling="PEER1")
            assert echoes(live)
            assert echoes(other)
            gateway.config.write_text(text)
            gateway.signal(signal.SIGHUP)
            wait_until(lambda: live.is_aborted, what="the end of the association of the peer that was taken out")
            assert echoes(other)
            other.release()
            assert not gateway.associate("ct1", calling="CT1").is_established
            assert gateway.stop() == 0
        finally:
            gateway.kill()


@contextmanager
def echo_archive() -> Iterator[tuple[str, int]]:
    """An archive that answers C-ECHO."""
    entity = AE("ARCHIVE")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)])
    assert server is not None
    try:
        yield "127.0.0.1", int(server.server_address[1])
    finally:
        server.shutdown()
