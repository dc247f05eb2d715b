"""TLS with keys in tokens and in files: 1.2 and 1.3, RSA and P-256, both sides, a pynetdicom association, and honest errors."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import ConfigError, TokenError, UsageError
from securepacs.pki import CertificateProfile
from securepacs.pki.keys import KeyKind
from securepacs.tokens import p11kit
from securepacs.tokens.credential import Credential
from securepacs.tokens.probe import proves_possession
from securepacs.tokens.tls_key import TokenHandshakeError, client_context, server_context, use_credential
from tests.support.pki import TestPki, make_pki
from tests.support.softhsm import KINDS, enrolled_token, token_credential

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@contextmanager
def echo_server(context: ssl.SSLContext) -> Iterator[tuple[int, list[Any]]]:
    """A TLS server for one connection: answers with what it got; tells what it saw of the client, or its error."""
    seen: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                with connection, context.wrap_socket(connection, server_side=True) as tls:
                    seen.append(tls.getpeercert(binary_form=True))
                    tls.sendall(tls.recv(100))
            except OSError as error:
                seen.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], seen
        finally:
            thread.join()


def talk(port: int, context: ssl.SSLContext) -> tuple[bytes, str | None]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"hello")
        return tls.recv(100), tls.version()


def server_of(pki: TestPki, **more: Any) -> ssl.SSLContext:
    return server_context(pki.credential(CertificateProfile.GATEWAY_SERVER, "server"), trust=[pki.ca.root], **more)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("kind", KINDS)
def test_client_with_a_token(kind: KeyKind, version: ssl.TLSVersion) -> None:
    _, pki = enrolled_token()
    with token_credential(kind) as mine, echo_server(server_of(pki, maximum_version=version)) as (port, seen):
        answer, used = talk(port, client_context(mine, trust=[pki.ca.root]))
    assert answer == b"hello"
    assert used == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert seen == [mine.certificate.public_bytes(Encoding.DER)]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("kind", KINDS)
def test_server_with_a_token(tmp_path: Path, kind: KeyKind, version: ssl.TLSVersion) -> None:
    _, pki = enrolled_token()
    client = client_context(pki.credential(CertificateProfile.MODALITY, "client"), trust=[pki.ca.root], maximum_version=version)
    with token_credential(kind) as mine, echo_server(server_context(mine, trust=[pki.ca.root])) as (port, seen):
        assert talk(port, client)[0] == b"hello"
    assert isinstance(seen[0], bytes)


@pytest.mark.parametrize("kind", ["rsa-2048", "p256"])
def test_software_keys_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: KeyKind) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "watched"))
    (tmp_path / "watched").mkdir()
    pki = make_pki(tmp_path)
    mine = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim", key_kind=kind)
    with echo_server(server_of(pki)) as (port, seen):
        assert talk(port, client_context(mine, trust=[pki.ca.root])) == (b"hello", "TLSv1.3")
    assert seen == [mine.certificate.public_bytes(Encoding.DER)]
    assert list((tmp_path / "watched").iterdir()) == []


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_when_the_token_is_gone_its_own_error_is_told(version: ssl.TLSVersion) -> None:
    _, pki = enrolled_token()
    with token_credential("rsa-2048") as mine:
        context = client_context(mine, trust=[pki.ca.root])
    with echo_server(server_of(pki, maximum_version=version)) as (port, _), pytest.raises(TokenHandshakeError) as caught:
        talk(port, context)
    assert "the token was closed" in str(caught.value)
    assert isinstance(caught.value.__cause__, TokenError)
    assert isinstance(caught.value, ssl.SSLError)
    assert isinstance(caught.value, TokenError)


def test_in_memory_handshakes_tell_the_same() -> None:
    _, pki = enrolled_token()
    with token_credential("p256") as mine:
        context = client_context(mine, trust=[pki.ca.root])
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_of(pki).wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(TokenHandshakeError, match="closed"):
        shake(client, server)


def shake(*sides: ssl.SSLObject) -> None:
    """Let both sides take turns."""
    for _ in range(10):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


def test_other_failures_stay_what_they_are(tmp_path: Path) -> None:
    _, pki = enrolled_token()
    stranger = make_pki(tmp_path)
    with token_credential("rsa-2048") as mine, echo_server(server_of(pki)) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            talk(port, client_context(mine, trust=[stranger.ca.root]))
        assert not isinstance(caught.value, TokenError)


def test_any_context_takes_a_token() -> None:
    _, pki = enrolled_token()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.ca.root.public_bytes(Encoding.DER))
    with token_credential("p256") as mine, echo_server(server_of(pki)) as (port, seen):
        use_credential(context, mine)
        assert talk(port, context)[0] == b"hello"
    assert seen == [mine.certificate.public_bytes(Encoding.DER)]


def test_what_a_token_leaves_in_openssls_queue_does_not_spoil_the_next_context(tmp_path: Path) -> None:
    token, pki = enrolled_token()
    for _ in range(3):
        p11kit.library(token.module)
        with token_credential("rsa-2048") as mine:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=pki.ca.root.public_bytes(Encoding.DER))
            proves_possession(mine.private_key)
            context.load_verify_locations(cadata=pki.ca.issuing.public_bytes(Encoding.DER))


def test_misuse_is_refused(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    mine = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")
    other = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Lee")
    with pytest.raises(UsageError):
        client_context(mine, trust=[])
    with pytest.raises(ConfigError):
        client_context(Credential(mine.certificate, other.private_key), trust=[pki.ca.root])


def test_a_key_that_does_not_fit_its_certificate_fails_the_handshake() -> None:
    """A delegate's key cannot be compared beforehand; the server refuses the signature."""
    _, pki = enrolled_token()
    mine = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim", key_kind="rsa-2048")
    with token_credential("rsa-2048") as other:
        context = client_context(
            replace(mine, private_key=other.private_key), trust=[pki.ca.root], maximum_version=ssl.TLSVersion.TLSv1_2
        )
        with echo_server(server_of(pki)) as (port, seen), pytest.raises(OSError, match=r"."):
            talk(port, context)
    assert isinstance(seen[0], ssl.SSLError)


@pytest.mark.interop
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pynetdicom_association(kind: KeyKind, version: ssl.TLSVersion) -> None:
    pynetdicom = pytest.importorskip("pynetdicom")
    verification = "1.2.840.10008.1.1"
    _, pki = enrolled_token()
    seen: list[bytes | None] = []

    def on_accept(event: Any) -> None:
        seen.append(event.assoc.dul.socket.socket.getpeercert(binary_form=True))

    archive = pynetdicom.AE("ARCHIVE")
    archive.add_supported_context(verification)
    handlers = [(pynetdicom.evt.EVT_ACCEPTED, on_accept)]
    server = archive.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=server_of(pki, maximum_version=version), evt_handlers=handlers
    )
    try:
        port = server.socket.getsockname()[1]
        with token_credential(kind) as mine:
            client = pynetdicom.AE("VIEWER")
            client.add_requested_context(verification)
            association = client.associate("127.0.0.1", port, tls_args=(client_context(mine, trust=[pki.ca.root]), "localhost"))
            assert association.is_established
            assert association.send_c_echo().Status == 0
            association.release()
    finally:
        server.shutdown()
    assert seen == [mine.certificate.public_bytes(Encoding.DER)]


def test_a_pynetdicom_association_with_a_gone_token_ends_at_once() -> None:
    pynetdicom = pytest.importorskip("pynetdicom")
    _, pki = enrolled_token()
    with token_credential("rsa-2048") as mine:
        context = client_context(mine, trust=[pki.ca.root])
    with echo_server(server_of(pki)) as (port, seen):
        client = pynetdicom.AE("VIEWER")
        client.add_requested_context("1.2.840.10008.1.1")
        association = client.associate("127.0.0.1", port, tls_args=(context, "localhost"))
        assert not association.is_established
    assert isinstance(seen[0], OSError)
