"""B.13 at security level 0: the suite that needs it is offered, and what the usual level keeps out stays out."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs.tls import profile
from securepacs.tokens.credential import Credential
from securepacs_proxy.tls_bio import Buffers, HandshakeRefused, TlsServer, server_context
from securepacs_proxy.tls_bio.strength import weakness
from tests.support.gateway import Gateway
from tests.support.net import free_port
from tests.support.pki import Party, cached_key, make_party, make_pki, pem_of
from tests.support.programs import require

NOW = datetime.now(UTC).replace(microsecond=0)
B13 = profile("B.13")
STRONG = cached_key("p256", "strong")


def short_rsa() -> Any:
    return rsa.generate_private_key(65537, 1024)


def party(name: str, issuer: Party | None = None, *, key: Any = STRONG, ca: bool = False, algorithm: Any = None) -> Party:
    usage = () if ca else (ExtendedKeyUsageOID.CLIENT_AUTH,)
    return make_party(name, now=NOW, issuer=issuer, key=key, ca=ca, extended_key_usage=usage, algorithm=algorithm)


def handshake(client: Party, chain: tuple[Party, ...], root: Party, folder: Path) -> str:
    """Let a client that takes any level show its certificate to a B.13 listener; return why it was refused, "" when it was not."""
    own = make_pki(folder).credential(CertificateProfile.GATEWAY_SERVER, "gateway", key_kind="p256")
    server = TlsServer(server_context(B13, credential=own, trust=(root.certificate,)), Buffers())
    pem, key = folder / "client.pem", folder / "client.key"
    pem.write_bytes(pem_of(client.certificate, *(one.certificate for one in chain)))
    key.write_bytes(client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(pem, key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    for _ in range(10):
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        server.feed(outgoing.read())
        try:
            if server.established or server.handshake():
                return ""
        except HandshakeRefused as refused:
            return refused.message
        while data := server.pull():
            incoming.write(bytes(data))
    raise AssertionError("the handshake does not end")


def test_a_strong_certificate_is_let_in(tmp_path: Path) -> None:
    root = party("root", ca=True)
    assert handshake(party("client", root), (), root, tmp_path) == ""


def test_a_short_key_is_not_let_in(tmp_path: Path) -> None:
    root = party("root", ca=True)
    assert "its key is too short" in handshake(party("client", root, key=short_rsa()), (), root, tmp_path)


def test_a_short_key_of_a_ca_is_not_let_in(tmp_path: Path) -> None:
    root = party("root", ca=True)
    middle = party("issuing", root, key=short_rsa(), ca=True)
    said = handshake(party("client", middle), (middle,), root, tmp_path)
    assert said == "CA certificate at depth 1: its key is too short, or of a kind that is not used"


def test_a_short_key_of_an_anchor_is_not_let_in(tmp_path: Path) -> None:
    root = party("root", key=short_rsa(), ca=True)
    assert "depth 1: its key is too short" in handshake(party("client", root), (), root, tmp_path)


def signed_over_sha1(root: Party, folder: Path) -> Party:
    """A client as only old CAs make them: by OpenSSL, because the library signs over SHA-1 no more."""
    openssl = require("openssl")
    for name, key in (("root", root.key), ("old", STRONG)):
        (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "root.pem").write_bytes(pem_of(root.certificate))
    request = subprocess.run(
        [openssl, "req", "-new", "-key", folder / "old.key", "-subj", "/CN=old"], check=True, capture_output=True, timeout=60
    )
    command = [openssl, "x509", "-req", "-sha1", "-CA", folder / "root.pem", "-CAkey", folder / "root.key", "-days", "30"]
    done = subprocess.run(command, input=request.stdout, check=True, capture_output=True, timeout=60)
    return Party(x509.load_pem_x509_certificate(done.stdout), STRONG)


def test_a_certificate_signed_over_sha_1_is_not_let_in(tmp_path: Path) -> None:
    root = party("root", ca=True)
    old = signed_over_sha1(root, tmp_path)
    assert handshake(old, (), root, tmp_path) == "certificate: it is signed over SHA1"
    assert weakness(old.certificate, B13, signed=False) == ""  # of an anchor the signature says nothing


@pytest.mark.parametrize(
    ("key", "weak"),
    [
        (rsa.generate_private_key(65537, 2048), False),
        (ec.generate_private_key(ec.SECP224R1()), True),
        (ec.generate_private_key(ec.SECP256R1()), False),
        (ed25519.Ed25519PrivateKey.generate(), False),
        (dsa.generate_private_key(2048), True),
    ],
)
def test_which_keys_are_strong(key: Any, weak: bool) -> None:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
    certificate = builder.not_valid_before(NOW).not_valid_after(NOW).sign(key, algorithm)
    assert bool(weakness(certificate, B13)) is weak


def test_a_weak_certificate_of_our_own_is_refused(tmp_path: Path) -> None:
    key = short_rsa()
    own = party("gateway", key=key)
    with pytest.raises(ConfigError, match=r"too weak for PS3\.15 B\.13"):
        server_context(B13, credential=Credential(own.certificate, key), trust=(own.certificate,))


def test_the_suite_that_needs_it_is_spoken(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", free_port())}, workers=1)
    gateway.write()
    gateway.config.write_text(gateway.config.read_text().replace("port = 0", 'port = 0\ntls_profile = "B.13"'))
    key, certificate, trust = gateway.client_files("ct1")
    command = [require("openssl"), "s_client", "-connect", "", "-CAfile", trust, "-cert", certificate, "-key", key]
    command += ["-cert_chain", certificate, "-ciphersuites", "TLS_AES_128_CCM_8_SHA256", "-cipher", "ALL:@SECLEVEL=0", "-tls1_3"]
    try:
        gateway.start("--drain", "1")
        command[3] = f"127.0.0.1:{gateway.port}"
        done = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
        assert b"Cipher is TLS_AES_128_CCM_8_SHA256" in done.stdout, done.stderr
        assert gateway.stop() == 0
    finally:
        gateway.kill()
