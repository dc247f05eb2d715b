"""The HTTP server of the PKI: what it serves, and what it refuses to wait for."""

from __future__ import annotations

import base64
import http.client
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from securepacs.errors import ConfigError, UsageError
from securepacs.pki import CertificateProfile, serve, server
from securepacs.pki.server import CRL_REFRESH, PkiServer, Publisher, Service
from securepacs.pki.storage import save_register
from securepacs.trust.ocsp import build_request
from securepacs.trust.timestamp import build_request as build_timestamp_request
from tests.support.net import wait_until
from tests.support.pki import TestPki, make_pki

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path, now=NOW)


@pytest.fixture
def running(pki: TestPki) -> Iterator[PkiServer]:
    with serve(pki.ca, clock=lambda: NOW) as started:
        yield started


def ask(running: PkiServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found = response.status, response.headers.get_content_type(), response.read()
    connection.close()
    return found


def test_certificates_and_crls(pki: TestPki, running: PkiServer) -> None:
    for path, certificate in (("/ca/root.cer", pki.ca.root), ("/ca/issuing.cer", pki.ca.issuing)):
        assert ask(running, "GET", path) == (200, "application/pkix-cert", certificate.public_bytes(Encoding.DER))
    for path, issuer in (("/crl/root.crl", pki.ca.root), ("/crl/issuing.crl", pki.ca.issuing)):
        status, kind, body = ask(running, "GET", path)
        assert (status, kind) == (200, "application/pkix-crl")
        assert x509.load_der_x509_crl(body).is_signature_valid(issuer.public_key())  # type: ignore[arg-type]


def test_ocsp_by_post_and_by_get(pki: TestPki, running: PkiServer) -> None:
    doctor = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    request = build_request(doctor, pki.ca.issuing)
    posted = ask(running, "POST", "/ocsp", request, Content_Type="application/ocsp-request")
    fetched = ask(running, "GET", "/ocsp/" + quote(base64.b64encode(request).decode(), safe=""))
    for status, kind, body in (posted, fetched):
        assert (status, kind) == (200, "application/ocsp-response")
        assert ocsp.load_der_ocsp_response(body).certificate_status is ocsp.OCSPCertStatus.GOOD


def test_time_stamp(running: PkiServer) -> None:
    status, kind, body = ask(running, "POST", "/tsa", build_timestamp_request(b"x"), Content_Type="application/timestamp-query")
    assert (status, kind) == (200, "application/timestamp-reply")
    assert b"20260601120000Z" in body


def test_crl_is_kept_until_something_is_revoked_or_an_hour_has_passed(pki: TestPki) -> None:
    moment = NOW
    publisher = Publisher(pki.ca, clock=lambda: moment)
    first = publisher.crl("issuing")
    moment = NOW + timedelta(minutes=1)
    assert publisher.crl("issuing") == first
    doctor = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    pki.ca.revoke(doctor, at=moment)
    second = x509.load_der_x509_crl(publisher.crl("issuing"))
    assert second.get_revoked_certificate_by_serial_number(doctor.serial_number) is not None
    moment += CRL_REFRESH
    assert x509.load_der_x509_crl(publisher.crl("issuing")).last_update_utc > second.last_update_utc


def test_responder_certificate_is_renewed(pki: TestPki) -> None:
    moment = NOW
    publisher = Publisher(pki.ca, clock=lambda: moment)
    doctor = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    request = build_request(doctor, pki.ca.issuing)

    def responder() -> x509.Certificate:
        return ocsp.load_der_ocsp_response(publisher.ocsp(request)).certificates[0]

    first = responder()
    assert responder() == first
    moment = NOW + timedelta(days=28)
    assert responder() != first


def test_revocation_by_another_process_counts_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    pki = make_pki(folder, now=NOW)
    doctor = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    pki.ca.save(folder)
    from securepacs.pki import CertificateAuthority

    publisher = Publisher(CertificateAuthority.load(folder), clock=lambda: NOW, folder=folder)
    request = build_request(doctor, pki.ca.issuing)
    assert ocsp.load_der_ocsp_response(publisher.ocsp(request)).certificate_status is ocsp.OCSPCertStatus.GOOD
    pki.ca.revoke(doctor, at=NOW)
    save_register(pki.ca, folder)
    assert ocsp.load_der_ocsp_response(publisher.ocsp(request)).certificate_status is ocsp.OCSPCertStatus.REVOKED


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/", None, {}, 404),
        ("GET", "/ca/../register.json", None, {}, 404),
        ("GET", "/tsa", None, {}, 404),
        ("GET", "/ocsp/!!!", None, {}, 400),
        ("GET", "/ocsp/" + "A" * 9000, None, {}, 404),
        ("POST", "/crl/root.crl", b"", {}, 404),
        ("POST", "/ocsp", b"x", {"Content_Type": "text/plain"}, 415),
        ("POST", "/ocsp", b"x" * 5000, {"Content_Type": "application/ocsp-request"}, 413),
        ("POST", "/tsa", b"x" * 9000, {"Content_Type": "application/timestamp-query"}, 413),
        ("POST", "/tsa", None, {"Content_Length": "-5"}, 411),
        ("POST", "/tsa", None, {"Content_Length": "5 "}, 411),
        ("POST", "/tsa", None, {"Content_Length": "0x5"}, 411),
        ("PUT", "/ocsp", b"x", {}, 501),
    ],
)
def test_refusals(running: PkiServer, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int) -> None:
    assert ask(running, method, path, body, **headers)[0] == status


def test_services_apart(pki: TestPki) -> None:
    timestamp, question = build_timestamp_request(b"x"), b"x"
    for service, tsa_status, ocsp_status, crl_status in (
        (Service.TIMESTAMPS, 200, 404, 404),
        (Service.REVOCATION, 404, 200, 200),
    ):
        with serve(pki.ca, clock=lambda: NOW, services=frozenset({service})) as running:
            assert ask(running, "POST", "/tsa", timestamp, Content_Type="application/timestamp-query")[0] == tsa_status
            assert ask(running, "POST", "/ocsp", question, Content_Type="application/ocsp-request")[0] == ocsp_status
            assert ask(running, "GET", "/crl/root.crl")[0] == crl_status
    with pytest.raises(UsageError):
        Publisher(pki.ca, services=frozenset({Service.REVOCATION})).tsa(timestamp)


def test_port_that_is_taken(pki: TestPki, running: PkiServer) -> None:
    with pytest.raises(ConfigError) as caught:
        serve(pki.ca, port=running.port)
    assert caught.value.key == "port"


def test_silent_and_trickling_clients_are_ended(pki: TestPki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_PER_REQUEST", 0.4)
    with serve(pki.ca, clock=lambda: NOW) as running:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", running.port)) as silent:
            silent.settimeout(10)
            assert silent.recv(1) == b""
        with socket.create_connection(("127.0.0.1", running.port)) as trickling:
            trickling.settimeout(0.05)
            trickling.sendall(b"POST /tsa HTTP/1.0\r\nContent-Type: application/timestamp-query\r\nContent-Length: 900\r\n\r\n")
            assert _ends_while_trickling(trickling)
        assert time.monotonic() - started < 8


def _ends_while_trickling(connection: socket.socket) -> bool:
    for _ in range(100):
        try:
            connection.sendall(b"x")
            return connection.recv(1) == b""
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_connections_over_the_limit_are_closed_and_slots_come_back(pki: TestPki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with serve(pki.ca, clock=lambda: NOW) as running:
        holders = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(2)]
        for holder in holders:
            holder.sendall(b"GET /ca/root.cer HTTP/1.0\r\n")

        def refused() -> bool:
            with socket.create_connection(("127.0.0.1", running.port)) as probe:
                probe.settimeout(1)
                try:
                    probe.sendall(b"GET /ca/root.cer HTTP/1.0\r\n\r\n")
                    return probe.recv(1) == b""
                except OSError:
                    return True

        wait_until(refused, what="the third connection to be refused")
        for holder in holders:
            holder.close()
        wait_until(lambda: not refused(), what="the slots to come back")


def test_stopped_server_is_gone(pki: TestPki) -> None:
    with serve(pki.ca) as running:
        port = running.port
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_nothing_on_stderr_for_clients_that_go_away(pki: TestPki, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(pki.ca) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4))
            rude.sendall(b"GET /ca/root.cer HTTP/1.0\r\n")
        assert ask(running, "GET", "/ca/root.cer")[0] == 200
    assert capfd.readouterr().err == ""


def test_register_file_that_vanishes_is_an_answer_not_given(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    pki = make_pki(folder, now=NOW)
    pki.ca.save(folder)
    publisher = Publisher(pki.ca, clock=lambda: NOW, folder=folder)
    (folder / "register.json").unlink()
    with pytest.raises((OSError, ConfigError)):
        publisher.crl("issuing")
