"""Revocation while the gateway runs: a CA that publishes over HTTP, a card that is revoked, two workers, live associations."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags
from pynetdicom import AE, evt
from pynetdicom.association import Association

from securepacs.codes import SECURITY_ALERT, VERIFICATION_SOP_CLASS
from securepacs.pki.server import PkiServer, serve
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import free_port, wait_until
from tests.support.pki import TestPki, make_pki


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


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[TestPki, PkiServer]]:
    """A CA whose certificates name a CRL and an OCSP responder, both of which answer."""
    port = free_port()
    pki = make_pki(tmp_path, base_url=f"http://127.0.0.1:{port}")
    with serve(pki.ca, port=port) as server:
        yield pki, server


def section(**changes: object) -> str:
    settings = {"allowed_hosts": '["127.0.0.1"]', "refresh_seconds": 1, **changes}
    return "\n".join(["[revocation]", *(f"{name} = {value}" for name, value in settings.items())])


@contextmanager
def gateway_with(tmp_path: Path, archive: tuple[str, int], pki: TestPki, **changes: object) -> Iterator[Gateway]:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, pki=pki, crls=False, extra=section(**changes)) as gateway:
        yield gateway


def echoes(association: Association) -> bool:
    return association.is_established and association.send_c_echo().Status == 0


def revoke(gateway: Gateway, name: str, reason: ReasonFlags) -> None:
    pem = (gateway.folder / "clients" / f"{name}.pem").read_bytes()
    gateway.pki.ca.revoke(x509.load_pem_x509_certificate(pem), at=datetime.now(UTC), reason=reason)


def said(gateway: Gateway, words: str) -> bool:
    return any(words in text for text in gateway.texts(event=SECURITY_ALERT.csd_code))


def associations_in_both_workers(gateway: Gateway) -> list[Association]:
    live: list[Association] = []

    def one_more() -> bool:
        live.append(gateway.associate("ct1", calling="CT1"))
        assert live[-1].is_established
        return {row["worker"] for row in gateway.status()} == {"worker-0", "worker-1"}

    wait_until(one_more, seconds=60, what="an association in each worker")
    return live


@pytest.mark.parametrize("ocsp", ["true", "false"])
def test_a_revoked_card_ends_its_live_associations(
    tmp_path: Path, archive: tuple[str, int], published: tuple[TestPki, PkiServer], ocsp: str
) -> None:
    with gateway_with(tmp_path, archive, published[0], ocsp=ocsp) as gateway:
        live = associations_in_both_workers(gateway)
        other = gateway.associate("peer1", calling="PEER1")
        assert all(map(echoes, [*live, other]))
        revoke(gateway, "ct1", ReasonFlags.key_compromise)
        wait_until(lambda: all(one.is_aborted for one in live), what="the end of every live association")
        assert echoes(other)
        other.release()
        assert not gateway.associate("ct1", calling="CT1").is_established
        wait_until(lambda: sum("was revoked at" in text for text in gateway.texts()) >= len(live) + 1, what="the records")
        assert said(gateway, "was ended: the certificate was revoked at")
        assert len(gateway.children()) == 4  # two workers, the auditor, the keeper


def test_another_reason_than_compromise_ends_it_too(
    tmp_path: Path, archive: tuple[str, int], published: tuple[TestPki, PkiServer]
) -> None:
    with gateway_with(tmp_path, archive, published[0]) as gateway:
        live = gateway.associate("ct1", calling="CT1")
        assert echoes(live)
        revoke(gateway, "ct1", ReasonFlags.superseded)
        wait_until(lambda: live.is_aborted, what="the end")
        assert said(gateway, "(superseded)")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_old_tls_session_opens_no_door_after_the_revocation(
    tmp_path: Path, archive: tuple[str, int], published: tuple[TestPki, PkiServer], version: ssl.TLSVersion
) -> None:
    with gateway_with(tmp_path, archive, published[0]) as gateway:
        context = gateway.client_context("ct1")
        context.minimum_version = context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", gateway.port))
        with context.wrap_socket(plain, server_hostname="localhost") as first:
            wait_until(lambda: {row["state"] for row in gateway.status()} == {"authenticated"}, what="the first connection")
            session = first.session
            revoke(gateway, "ct1", ReasonFlags.key_compromise)
            first.settimeout(20)
            assert first.recv(100)[:1] == b"\x07"  # A-ABORT
        with (
            socket.create_connection(("127.0.0.1", gateway.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as second,
        ):
            assert not second.session_reused
            second.settimeout(20)
            assert second.recv(100) == b""
        assert not any(row["state"] == "authenticated" for row in gateway.status())


def test_known_certificates_go_on_when_the_ca_is_silent_and_new_ones_do_not(
    tmp_path: Path, archive: tuple[str, int], published: tuple[TestPki, PkiServer]
) -> None:
    pki, server = published
    with gateway_with(tmp_path, archive, pki) as gateway:
        live = gateway.associate("ct1", calling="CT1")
        assert echoes(live)
        server.stop()
        wait_until(lambda: said(gateway, "no revocation data from http://127.0.0.1"), what="the alarm")
        assert echoes(live)
        again = gateway.associate("ct1", calling="CT1")
        assert echoes(again)
        again.release()
        live.release()
        assert not gateway.associate("peer1", calling="PEER1").is_established
        wait_until(lambda: said(gateway, "its revocation status is not known"), what="the record")


def test_a_list_in_the_folder_counts_without_a_reload(tmp_path: Path, archive: tuple[str, int]) -> None:
    pki = make_pki(tmp_path)  # names no addresses
    folder = tmp_path / "lists"
    pki.write_crls(folder)
    with gateway_with(tmp_path, archive, pki, crl_folder='"lists"') as gateway:
        live = gateway.associate("ct1", calling="CT1")
        assert echoes(live)
        (folder / "issuing.crl").write_bytes(b"half a list")
        wait_until(lambda: said(gateway, "cannot be read, the last ones count"), what="the alarm")
        assert echoes(live)
        revoke(gateway, "ct1", ReasonFlags.cessation_of_operation)
        (folder / "issuing.crl").write_bytes(pki.ca.crl(at=datetime.now(UTC)).public_bytes(Encoding.DER))
        wait_until(lambda: live.is_aborted, what="the end")


@pytest.mark.parametrize("accept", [False, True])
def test_a_certificate_about_which_nothing_can_be_learned(tmp_path: Path, archive: tuple[str, int], accept: bool) -> None:
    changes = {"unsafe_accept_unchecked": "true"} if accept else {}
    with gateway_with(tmp_path, archive, make_pki(tmp_path), **changes) as gateway:
        association = gateway.associate("ct1", calling="CT1")
        assert association.is_established is accept
        wait_until(lambda: said(gateway, "no revocation list is at hand"), what="the record")
        association.release()


def test_a_new_keeper_goes_on_where_the_old_one_ended(
    tmp_path: Path, archive: tuple[str, int], published: tuple[TestPki, PkiServer]
) -> None:
    with gateway_with(tmp_path, archive, published[0]) as gateway:
        live = gateway.associate("ct1", calling="CT1")
        assert echoes(live)
        keeper = gateway.children()[1]
        assert "revocation" in {entry.name for entry in gateway.spool.iterdir()}
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: said(gateway, "keeper (pid"), what="the record")
        assert echoes(live)
        revoke(gateway, "ct1", ReasonFlags.key_compromise)
        wait_until(lambda: live.is_aborted, what="the end")


def test_revocation_survives_a_restart_without_the_ca(
    tmp_path: Path, archive: tuple[str, int], published: tuple[TestPki, PkiServer]
) -> None:
    pki, server = published
    with gateway_with(tmp_path, archive, pki, ocsp="false") as gateway:
        live, other = gateway.associate("ct1", calling="CT1"), gateway.associate("peer1", calling="PEER1")
        assert echoes(live)
        assert echoes(other)
        other.release()
        revoke(gateway, "ct1", ReasonFlags.key_compromise)
        wait_until(lambda: live.is_aborted, what="the end")
        server.stop()
        assert gateway.stop() == 0
        gateway.start("--drain", "2")
        assert not gateway.associate("ct1", calling="CT1").is_established
        known = gateway.associate("peer1", calling="PEER1")
        assert echoes(known)
        known.release()
