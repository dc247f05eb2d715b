"""TLS profiles of PS3.15 Annex B: contexts made from them, in real handshakes on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from securepacs import tls
from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from tests.support.pki import TestPki, make_crl, make_party, make_pki, pem_of, usage


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    made = make_pki(tmp_path_factory.mktemp("tls"))
    made.write_trust()
    made.write_crls()
    return made


@pytest.fixture(scope="module")
def files(pki: TestPki) -> dict[str, Path]:
    """Paths of the credentials: server, client and person, each with key."""
    found = {"trust": pki.folder / "root.pem"}
    for name, profile in (
        ("server", CertificateProfile.GATEWAY_SERVER),
        ("modality", CertificateProfile.MODALITY),
        ("person", CertificateProfile.RADIOLOGIST),
    ):
        found[f"{name}.key"], found[name] = pki.write_pem(pki.credential(profile, name, key_kind="p256"))
    return found


def server_context(files: dict[str, Path], profile: str = "B.12", **changes: Any) -> ssl.SSLContext:
    return tls.server_context(
        profile, **{"certificate": files["server"], "key": files["server.key"], "trust": [files["trust"]], **changes}
    )


def client_context(files: dict[str, Path], profile: str = "B.12", **changes: Any) -> ssl.SSLContext:
    defaults = {"trust": [files["trust"]], "certificate": files["modality"], "key": files["modality.key"]}
    return tls.client_context(profile, **{**defaults, **changes})


def handshake(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    *,
    name: str = "localhost",
    session: ssl.SSLSession | None = None,
    look: Callable[[ssl.SSLSocket], Any] = lambda sock: None,
) -> tuple[Any, BaseException | None]:
    """Shake hands over loopback; return what `look` saw on the client's side and what the server raised. Client errors raise."""
    failure: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            raw, _ = listener.accept()
            raw.settimeout(10)
            try:
                with server.wrap_socket(raw, server_side=True) as wrapped:
                    wrapped.sendall(wrapped.recv(4))
                    wrapped.recv(1)
            except OSError as error:
                failure.append(error)
                raw.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=name, session=session) as sock,
            ):
                sock.sendall(b"ping")
                if sock.recv(4) != b"ping":
                    raise ConnectionError("the server hung up")
                seen = look(sock)
        finally:
            thread.join(15)
    return seen, failure[0] if failure else None


@pytest.mark.parametrize("profile", ["B.12", "B.13"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mutual_handshake_in_both_versions(files: dict[str, Path], profile: str, version: ssl.TLSVersion) -> None:
    client = client_context(files, profile)
    client.maximum_version = version
    seen, failure = handshake(
        server_context(files, profile), client, look=lambda sock: (sock.version(), sock.cipher(), sock.compression())
    )
    assert failure is None
    assert seen[0] == version.name.replace("_", ".")
    assert "GCM" in seen[1][0]
    assert seen[2] is None


def test_highest_version_is_taken(files: dict[str, Path]) -> None:
    seen, _ = handshake(server_context(files), client_context(files), look=lambda sock: sock.version())
    assert seen == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(files: dict[str, Path], version: ssl.TLSVersion) -> None:
    client = client_context(files)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.minimum_version = client.maximum_version = version
    with pytest.raises(ssl.SSLError):
        handshake(server_context(files), client)


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_suites_outside_the_profile_are_refused(files: dict[str, Path], cipher: str) -> None:
    client = client_context(files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server_context(files), client)


@pytest.mark.parametrize("profile", tls.PROFILES)
def test_every_suite_of_a_profile_is_known_to_openssl(files: dict[str, Path], profile: str) -> None:
    wanted = tls.profile(profile)
    names = [entry["name"] for entry in server_context(files, profile).get_ciphers()]
    assert [name for name in names if not name.startswith("TLS_")] == list(wanted.tls12_suites)
    assert {name for name in names if name.startswith("TLS_")} <= set(wanted.tls13_suites)


@pytest.mark.parametrize("profile", tls.PROFILES)
def test_no_forbidden_suite(profile: str) -> None:
    """PS3.15 B.13 and RFC 9325 4.1: forward secrecy and AEAD only."""
    for suite in tls.profile(profile).tls12_suites:
        assert suite.startswith("ECDHE-")
        assert any(word in suite for word in ("GCM", "CCM", "CHACHA20"))


def test_options_of_servers(files: dict[str, Path]) -> None:
    context = server_context(files)
    for option in (ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_TICKET, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert context.options & option
    assert context.num_tickets == 0
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_server_sends_no_tickets(files: dict[str, Path]) -> None:
    server = server_context(files)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = client_context(files)
        client.maximum_version = version
        session, _ = handshake(server, client, look=lambda sock: sock.session)
        assert session is None or not session.has_ticket


def test_server_wants_a_client_certificate(files: dict[str, Path]) -> None:
    anonymous = tls.client_context(trust=[files["trust"]])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server_context(files), anonymous)
    _, failure = handshake(server_context(files, require_client_certificate=False, trust=()), anonymous)
    assert failure is None


def test_client_certificate_of_a_stranger(files: dict[str, Path], tmp_path: Path) -> None:
    stranger = make_pki(tmp_path)
    key, certificate = stranger.write_pem(stranger.credential(CertificateProfile.MODALITY, "ct1", key_kind="p256"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server_context(files), client_context(files, certificate=certificate, key=key))


def test_server_certificate_must_not_be_a_persons(files: dict[str, Path]) -> None:
    server = server_context(files, certificate=files["person"], key=files["person.key"])
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(server, client_context(files, check_hostname=False))


def test_host_name_is_compared_unless_switched_off(files: dict[str, Path]) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server_context(files), client_context(files), name="other.example")
    _, failure = handshake(server_context(files), client_context(files, check_hostname=False), name="other.example")
    assert failure is None


def test_alpn(files: dict[str, Path]) -> None:
    seen, _ = handshake(
        server_context(files, alpn=["dicom"]),
        client_context(files, alpn=["dicom"]),
        look=lambda sock: sock.selected_alpn_protocol(),
    )
    assert seen == "dicom"


def test_directly_installed_self_signed_peer(files: dict[str, Path], tmp_path: Path, pki: TestPki) -> None:
    node = make_party("node", now=pki.now, key_usage=usage(digital_signature=True))
    (tmp_path / "node.pem").write_bytes(pem_of(node.certificate))
    (tmp_path / "node.key").write_bytes(node.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    client = client_context(files, certificate=tmp_path / "node.pem", key=tmp_path / "node.key")
    assert handshake(server_context(files, trust=[tmp_path / "node.pem"]), client)[1] is None


def test_directly_installed_certificate_below_a_ca_that_is_not_trusted(files: dict[str, Path]) -> None:
    assert handshake(server_context(files, trust=[files["modality"]]), client_context(files))[1] is None
    person = client_context(files, certificate=files["person"], key=files["person.key"])
    issuing_is_trusted_too = server_context(files, trust=[files["modality"]])
    assert handshake(issuing_is_trusted_too, person)[1] is None  # modality.pem carries its chain: the issuing CA became an anchor


def test_revoked_client_is_refused_with_crls(files: dict[str, Path], tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    gone = pki.credential(CertificateProfile.MODALITY, "gone", key_kind="p256")
    stays = pki.credential(CertificateProfile.MODALITY, "stays", key_kind="p256")
    server_key, server_pem = pki.write_pem(pki.credential(CertificateProfile.GATEWAY_SERVER, "server", key_kind="p256"))
    pki.ca.revoke(gone.certificate, at=pki.now)
    trust, crls = pki.write_trust(), pki.write_crls()
    server = tls.server_context(certificate=server_pem, key=server_key, trust=[trust], crls=crls)

    def client(credential: Any) -> ssl.SSLContext:
        key, certificate = pki.write_pem(credential)
        return tls.client_context(trust=[trust], certificate=certificate, key=key)

    assert handshake(server, client(stays))[1] is None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server, client(gone))
    unchecked = tls.server_context(certificate=server_pem, key=server_key, trust=[trust])
    assert handshake(unchecked, client(gone))[1] is None


def test_revoked_server_is_refused_by_clients_with_crls(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    credential = pki.credential(CertificateProfile.GATEWAY_SERVER, "server", key_kind="p256")
    key, certificate = pki.write_pem(credential)
    pki.ca.revoke(credential.certificate, at=pki.now)
    trust, crls = pki.write_trust(), pki.write_crls()
    server = tls.server_context(certificate=certificate, key=key, trust=[trust], require_client_certificate=False)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(server, tls.client_context(trust=[trust], crls=crls))


def test_missing_crl_of_one_ca_refuses_everybody(files: dict[str, Path], pki: TestPki) -> None:
    only_issuing = server_context(files, crls=[pki.folder / "issuing.crl"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(only_issuing, client_context(files))


def test_crls_in_der(files: dict[str, Path], pki: TestPki, tmp_path: Path) -> None:
    for name, crl in (("issuing", pki.ca.crl(at=pki.now)), ("root", pki.ca.root_crl(at=pki.now))):
        (tmp_path / f"{name}.crl").write_bytes(crl.public_bytes(Encoding.DER))
    assert handshake(server_context(files, crls=[tmp_path]), client_context(files))[1] is None


def write_key(path: Path, key: Any, password: bytes | None = None) -> Path:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


def test_encrypted_key(files: dict[str, Path], pki: TestPki, tmp_path: Path) -> None:
    credential = pki.credential(CertificateProfile.GATEWAY_SERVER, "server", key_kind="p256")
    key = write_key(tmp_path / "server.key", credential.private_key, b"secret")
    assert server_context(files, key=key, password=lambda: b"secret").verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ConfigError, match="no password"):
        server_context(files, key=key)
    with pytest.raises(ConfigError, match="does not open") as caught:
        server_context(files, key=key, password=lambda: b"wrong-one")
    assert "wrong-one" not in str(caught.value)


def test_errors_name_the_argument(files: dict[str, Path], tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    cases: list[tuple[Callable[[], object], str, str]] = [
        (lambda: server_context(files, "B.1"), "tls_profile", "unknown TLS profile"),
        (lambda: server_context(files, certificate=tmp_path / "none.pem"), "certificate", "cannot be read"),
        (lambda: server_context(files, key=tmp_path / "none.key"), "key", "cannot be read"),
        (lambda: server_context(files, certificate=files["server.key"]), "certificate", "not a certificate"),
        (lambda: server_context(files, key=files["server"]), "key", "not a private key"),
        (lambda: server_context(files, key=files["modality.key"]), "key", "not the key of"),
        (lambda: server_context(files, key=junk), "certificate", "cannot be loaded"),
        (lambda: server_context(files, certificate=broken), "certificate", "cannot be loaded"),
        (lambda: server_context(files, trust=[]), "trust", "no file is named"),
        (lambda: server_context(files, trust=[files["server.key"]]), "trust", "private key"),
        (lambda: server_context(files, crls=[files["server"]]), "crls", "no CRL"),
        (lambda: client_context(files, key=None), "key", "together"),
        (lambda: client_context(files, certificate=None), "certificate", "together"),
    ]
    for call, key, words in cases:
        with pytest.raises(ConfigError, match=words) as caught:
            call()
        assert caught.value.key == key


def test_weak_own_certificate(files: dict[str, Path], pki: TestPki, tmp_path: Path) -> None:
    weak = make_party("weak", now=pki.now, key=rsa.generate_private_key(65537, 1024))
    (tmp_path / "weak.pem").write_bytes(pem_of(weak.certificate))
    key = write_key(tmp_path / "weak.key", weak.key)
    with pytest.raises(ConfigError, match="too weak"):
        server_context(files, certificate=tmp_path / "weak.pem", key=key)


def test_weak_client_certificate(files: dict[str, Path], pki: TestPki, tmp_path: Path) -> None:
    weak = make_party("weak", now=pki.now, key=rsa.generate_private_key(65537, 1024), key_usage=usage(digital_signature=True))
    (tmp_path / "weak.pem").write_bytes(pem_of(weak.certificate))
    key = write_key(tmp_path / "weak.key", weak.key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.load_cert_chain(tmp_path / "weak.pem", key)
    client.load_verify_locations(files["trust"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server_context(files, trust=[tmp_path / "weak.pem"]), client)


def test_profiles_say_what_the_standard_says() -> None:
    for profile in tls.PROFILES.values():
        assert profile.server_versions == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        assert profile.minimum_rsa_bits == 2048
        assert profile.minimum_ec_bits == 256
        assert profile.clause == f"PS3.15 {profile.name}"
    mandatory = {"ECDHE-ECDSA-AES256-CCM", "ECDHE-ECDSA-AES256-CCM8", "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-AES128-CCM8"}
    assert mandatory <= set(tls.profile("B.13").tls12_suites)
    assert "TLS_AES_128_CCM_8_SHA256" in tls.profile("B.13").tls13_suites


def test_crl_of_a_stranger_does_not_help(files: dict[str, Path], pki: TestPki, tmp_path: Path) -> None:
    stranger = make_party("Stranger", now=pki.now, ca=True)
    path = tmp_path / "stranger.crl"
    crl: x509.CertificateRevocationList = make_crl(stranger, now=pki.now)
    path.write_bytes(crl.public_bytes(Encoding.PEM))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server_context(files, crls=[path]), client_context(files))
