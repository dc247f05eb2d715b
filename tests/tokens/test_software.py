"""Keys in files: PEM, DER, PKCS #12, passwords, and what does not belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, pkcs12

from securepacs.errors import ConfigError, PinIncorrect, TokenError
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Assurance
from securepacs.tokens.software import load_certificates, load_pem, load_pkcs12, order_chain
from tests.support.cms_samples import Holder, holder
from tests.support.pki import make_pki, pem_of

SECRET = b"open sesame"


def key_pem(who: Holder, password: bytes | None = None, encoding: Encoding = Encoding.PEM) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return who.private_key.private_bytes(encoding, PrivateFormat.PKCS8, encryption)


def never() -> bytes:
    pytest.fail("the password was asked although nothing is encrypted")


@pytest.mark.parametrize("kind", ["rsa-2048", "p256"])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_pem_and_der(tmp_path: Path, kind: str, encoding: Encoding) -> None:
    who = holder("alice", kind)
    key, certificate = tmp_path / "key", tmp_path / "cert"
    key.write_bytes(key_pem(who, encoding=encoding))
    certificate.write_bytes(who.certificate.public_bytes(encoding))
    credential = load_pem(key, certificate, password=never)
    assert credential.certificate == who.certificate
    assert credential.private_key.public_key() == who.private_key.public_key()
    assert credential.assurance is Assurance.SOFTWARE
    assert credential.chain == ()


def test_encrypted_key_asks_once(tmp_path: Path) -> None:
    who = holder("alice")
    (tmp_path / "key").write_bytes(key_pem(who, SECRET))
    _, certificate = who.write(tmp_path)
    asked = []

    def password() -> bytes:
        asked.append(1)
        return SECRET

    load_pem(tmp_path / "key", certificate, password=password)
    assert asked == [1]
    with pytest.raises(PinIncorrect) as caught:
        load_pem(tmp_path / "key", certificate, password=lambda: b"wrong-one")
    assert "wrong-one" not in str(caught.value)
    with pytest.raises(TokenError, match="protected by a password"):
        load_pem(tmp_path / "key", certificate)


def test_the_leaf_is_found_and_the_chain_ordered(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    credential = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")
    stranger = holder("stranger").certificate
    key, certificate = pki.write_pem(credential)
    certificate.write_bytes(pem_of(pki.ca.root, credential.certificate))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem_of(stranger, pki.ca.issuing))
    loaded = load_pem(key, certificate, chain=chain)
    assert loaded.certificate == credential.certificate
    assert loaded.chain == (pki.ca.issuing, pki.ca.root)
    assert order_chain(stranger, [pki.ca.root, stranger]) == ()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    alice, bob = holder("alice"), holder("bob", "p256")
    key, _ = alice.write(tmp_path)
    other = tmp_path / "bob.pem"
    other.write_bytes(bob.certificate.public_bytes(Encoding.PEM))
    with pytest.raises(ConfigError, match="does not belong"):
        load_pem(key, other)
    with pytest.raises(ConfigError, match="no private key that can be read"):
        load_pem(other, other)
    with pytest.raises(ConfigError, match="no certificate"):
        load_pem(key, key)
    with pytest.raises(ConfigError, match="cannot read"):
        load_pem(tmp_path / "none", other)
    large = tmp_path / "large"
    large.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ConfigError, match="too large"):
        load_certificates(large)


def test_other_kinds_of_keys_are_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    _, certificate = holder("alice").write(tmp_path)
    with pytest.raises(ConfigError, match="neither RSA nor elliptic curve"):
        load_pem(key, certificate)


def bundle(path: Path, who: Holder, password: bytes | None, others: list[x509.Certificate] | None = None) -> Path:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"n", who.private_key, who.certificate, others, encryption))  # type: ignore[arg-type]
    return path


def test_pkcs12(tmp_path: Path) -> None:
    who = holder("alice")
    credential = load_pkcs12(bundle(tmp_path / "a.p12", who, SECRET), password=lambda: SECRET)
    assert credential.certificate == who.certificate
    assert load_pkcs12(bundle(tmp_path / "b.p12", who, None), password=None).certificate == who.certificate


def test_pkcs12_errors(tmp_path: Path) -> None:
    path = bundle(tmp_path / "a.p12", holder("alice"), SECRET)
    with pytest.raises(PinIncorrect):
        load_pkcs12(path, password=lambda: b"wrong")
    with pytest.raises(TokenError, match="protected by a password"):
        load_pkcs12(path, password=None)
    junk = tmp_path / "junk.p12"
    junk.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="not a PKCS #12 file"):
        load_pkcs12(junk, password=lambda: SECRET)
    junk.write_bytes(b"0junk")
    with pytest.raises(ConfigError, match="can be read"):
        load_pkcs12(junk, password=lambda: SECRET)
    only_certificate = tmp_path / "c.p12"
    raw = pkcs12.serialize_key_and_certificates(None, None, None, [holder("alice").certificate], NoEncryption())
    only_certificate.write_bytes(raw)
    with pytest.raises(ConfigError, match="no private key"):
        load_pkcs12(only_certificate, password=None)
