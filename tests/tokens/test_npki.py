"""Korean accredited certificates: folders made anew with SEED, by OpenSSL where it can, and by the format's own rules."""

from __future__ import annotations

import hashlib
import subprocess
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from securepacs.errors import ConfigError, PinIncorrect, TokenError
from securepacs.tokens.credential import Assurance
from securepacs.tokens.npki import load_npki
from tests.support.pki import cached_key, make_pki
from tests.support.programs import require

PASSWORD, NUMBER = b"hush-password", "9001011234567"
RANDOM = bytes(range(20))
OTHER_NAME, VID, R = "1.2.410.200004.10.1.1", "1.2.410.200004.10.1.1.1", "1.2.410.200004.10.1.1.3"


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 0xFF])
    return bytes([tag]) + length + body


def oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def hash_content(number: str) -> bytes:
    return der(0x30, der(0x13, number.encode()), der(0x03, b"\0" + RANDOM))


def certificate(key: Any) -> x509.Certificate:
    pki = make_pki(Path())
    digest = hashlib.sha256(hashlib.sha256(hash_content(NUMBER)).digest()).digest()
    sha256 = der(0x30, oid("2.16.840.1.101.3.4.2.1"), b"\x05\x00")
    vid = der(0x30, sha256, der(0xA0, der(0x04, digest)))
    identify = der(0x30, der(0x0C, "홍길동".encode()), der(0x30, der(0x30, oid(VID), vid)))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "홍길동")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(pki.now)
        .not_valid_after(pki.now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.OtherName(x509.ObjectIdentifier(OTHER_NAME), identify)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def private_key_info(key: Any) -> bytes:
    """PKCS #8 with the attribute that keeps the random number R."""
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    body = plain[4:]  # 30 82 xx xx
    return der(0x30, body, der(0xA0, der(0x30, oid(R), der(0x31, der(0x03, b"\0" + RANDOM)))))


def seed_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cryptography.hazmat.decrepit.ciphers.algorithms import SEED

        encryptor = Cipher(SEED(key), modes.CBC(iv)).encryptor()
    padder = PKCS7(128).padder()
    return encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()


def pbes1(plain: bytes, algorithm: str) -> bytes:
    salt, derived = b"saltsalt", PASSWORD + b"saltsalt"
    for _ in range(2048):
        derived = hashlib.sha1(derived).digest()
    iv = hashlib.sha1(derived[16:]).digest()[:16] if algorithm.endswith(".15") else b"0123456789012345"
    parameters = der(0x30, der(0x04, salt), der(0x02, (2048).to_bytes(2, "big")))
    return der(0x30, der(0x30, oid(algorithm), parameters), der(0x04, seed_cbc(derived[:16], iv, plain)))


def pbes2(plain: bytes, folder: Path, prf: str) -> bytes:
    """Made by OpenSSL, whose legacy provider knows SEED."""
    (folder / "plain.der").write_bytes(plain)
    done = subprocess.run(
        [require("openssl"), "pkcs8", "-topk8", "-inform", "DER", "-in", folder / "plain.der", "-outform", "DER", "-v2", "seed-cbc",
         "-v2prf", prf, "-passout", "env:KEY_PASSWORD", "-provider", "legacy", "-provider", "default"],
        env={"KEY_PASSWORD": PASSWORD.decode()}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("this openssl has no SEED")
    return done.stdout


def write(folder: Path, scheme: str) -> Path:
    key = cached_key("rsa-2048", "npki")
    plain = private_key_info(key)
    folder.mkdir()
    (folder / "signCert.der").write_bytes(certificate(key).public_bytes(Encoding.DER))
    encrypted = pbes2(plain, folder, scheme) if scheme.startswith("hmac") else pbes1(plain, scheme)
    (folder / "signPri.key").write_bytes(encrypted)
    return folder


SCHEMES = ["1.2.410.200004.1.15", "1.2.410.200004.1.4", "hmacWithSHA1", "hmacWithSHA256"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_load(tmp_path: Path, scheme: str) -> None:
    credential = load_npki(write(tmp_path / "user", scheme), password=lambda: PASSWORD)
    assert credential.assurance is Assurance.SOFTWARE
    key: Any = credential.private_key
    signature = key.sign(b"x", padding.PKCS1v15(), hashes.SHA256())
    credential.certificate.public_key().verify(signature, b"x", padding.PKCS1v15(), hashes.SHA256())  # type: ignore[union-attr, call-arg, arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_password(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(PinIncorrect) as caught:
        load_npki(write(tmp_path / "user", scheme), password=lambda: b"wrong-password")
    assert "wrong-password" not in str(caught.value)


def test_identity_is_checked_only_when_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "user", SCHEMES[0])

    def nobody() -> str:
        raise AssertionError("asked")

    load_npki(folder, password=lambda: PASSWORD, ask=nobody)
    load_npki(folder, password=lambda: PASSWORD, check_identity=True, ask=lambda: NUMBER)
    load_npki(folder, password=lambda: PASSWORD, check_identity=True, ask=lambda: "900101-1234567")
    with pytest.raises(TokenError, match="not that of") as caught:
        load_npki(folder, password=lambda: PASSWORD, check_identity=True, ask=lambda: "9001011234568")
    assert "9001011234568" not in str(caught.value)


def test_identity_is_read_from_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "user", SCHEMES[0])
    with (tmp_path / "input").open("w+") as no_terminal:
        monkeypatch.setattr("sys.stdin", no_terminal)
        with pytest.raises(TokenError, match="terminal"):
            load_npki(folder, password=lambda: PASSWORD, check_identity=True)


@pytest.mark.parametrize("content", [b"", b"\x30\x00", b"not DER", bytes(100), pbes1(b"x" * 32, "1.2.410.200004.1.16")])
def test_what_is_no_key_is_told(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "user", SCHEMES[0])
    (folder / "signPri.key").write_bytes(content)
    with pytest.raises(ConfigError):
        load_npki(folder, password=lambda: PASSWORD)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_npki(tmp_path, password=lambda: PASSWORD)
    folder = write(tmp_path / "user", SCHEMES[0])
    (folder / "signCert.der").write_bytes(certificate(cached_key("rsa-2048", "other")).public_bytes(Encoding.DER))
    with pytest.raises(ConfigError, match="not the RSA key"):
        load_npki(folder, password=lambda: PASSWORD)
    (folder / "signCert.der").write_bytes(b"x")
    with pytest.raises(ConfigError, match="no certificate"):
        load_npki(folder, password=lambda: PASSWORD)
