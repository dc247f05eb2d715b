"""Token keys behind pyca's interfaces: everything the token signs and decrypts, and nothing it gives away."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securepacs.errors import TokenError, UsageError
from securepacs.tokens.probe import decrypts, probe, proves_possession
from tests.support.softhsm import token_credential

HASHES = [hashes.SHA1, hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512]
DATA = b"report text" * 50
SHA1_OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


@pytest.fixture
def rsa_key() -> Iterator[Any]:
    with token_credential("rsa-2048") as credential:
        yield credential.private_key


@pytest.fixture
def ec_key() -> Iterator[Any]:
    with token_credential("p256") as credential:
        yield credential.private_key


@pytest.mark.parametrize("make", HASHES)
def test_pkcs1v15(rsa_key: Any, make: Callable[[], hashes.HashAlgorithm]) -> None:
    signature = rsa_key.sign(DATA, padding.PKCS1v15(), make())
    rsa_key.public_key().verify(signature, DATA, padding.PKCS1v15(), make())
    digest = hashlib.new(make().name, DATA).digest()
    assert rsa_key.sign(digest, padding.PKCS1v15(), Prehashed(make())) == signature


def test_pkcs1v15_with_ripemd160(rsa_key: Any) -> None:
    """pyca has no RIPEMD160 any more; only its name and size count for a digest made elsewhere."""

    class Ripemd160(hashes.HashAlgorithm):
        name = "ripemd160"
        digest_size = 20
        block_size = 64

    digest = bytes(range(20))
    signature = rsa_key.sign(digest, padding.PKCS1v15(), Prehashed(Ripemd160()))
    recovered = rsa_key.public_key().recover_data_from_signature(signature, padding.PKCS1v15(), None)
    assert recovered == bytes.fromhex("3021300906052b2403020105000414") + digest


@pytest.mark.parametrize("salt", [padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH, 0, 20])
@pytest.mark.parametrize("make", HASHES)
def test_pss(rsa_key: Any, make: Callable[[], hashes.HashAlgorithm], salt: Any) -> None:
    scheme = padding.PSS(padding.MGF1(make()), salt)
    rsa_key.public_key().verify(rsa_key.sign(DATA, scheme, make()), DATA, scheme, make())


@pytest.mark.parametrize("make", HASHES)
def test_ecdsa(ec_key: Any, make: Callable[[], hashes.HashAlgorithm]) -> None:
    ec_key.public_key().verify(ec_key.sign(DATA, ec.ECDSA(make())), DATA, ec.ECDSA(make()))
    digest = hashlib.new(make().name, DATA).digest()
    signature = ec_key.sign(digest, ec.ECDSA(Prehashed(make())))
    ec_key.public_key().verify(signature, DATA, ec.ECDSA(make()))


@pytest.mark.parametrize("scheme", [padding.PKCS1v15(), SHA1_OAEP])
def test_decrypt(rsa_key: Any, scheme: Any) -> None:
    assert rsa_key.decrypt(rsa_key.public_key().encrypt(b"content key", scheme), scheme) == b"content key"


@pytest.mark.parametrize("ciphertext", [b"", b"\1", bytes(256), b"\xff" * 256, b"\1" * 257])
def test_what_does_not_decrypt_is_a_value_error(rsa_key: Any, ciphertext: bytes) -> None:
    with pytest.raises(ValueError, match="Decryption failed"):
        rsa_key.decrypt(ciphertext, padding.PKCS1v15())


def test_the_interfaces_are_pycas(rsa_key: Any, ec_key: Any) -> None:
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    assert isinstance(ec_key, ec.EllipticCurvePrivateKey)
    assert (rsa_key.key_size, ec_key.key_size, ec_key.curve.name) == (2048, 256, "secp256r1")


def test_pycas_builders_sign_with_them(rsa_key: Any, ec_key: Any) -> None:
    for key in (rsa_key, ec_key):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Dr. Kim")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        assert request.is_signature_valid


def test_nothing_comes_out(rsa_key: Any, ec_key: Any) -> None:
    for key in (rsa_key, ec_key):
        for attempt in (
            key.private_numbers,
            lambda key=key: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            lambda key=key: pickle.dumps(key),
        ):
            with pytest.raises(TokenError, match="does not leave"):
                attempt()
        assert copy.copy(key) is key
        assert copy.deepcopy(key) is key
    with pytest.raises(TokenError):
        ec_key.exchange(ec.ECDH(), ec.generate_private_key(ec.SECP256R1()).public_key())


def test_what_tokens_do_not_do(rsa_key: Any, ec_key: Any) -> None:
    md5_oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.MD5(), None)
    sha256_oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    with pytest.raises(UsageError):
        rsa_key.decrypt(bytes(256), md5_oaep)
    with pytest.raises(TokenError, match="does not decrypt with RSA_PKCS_OAEP"):  # SoftHSM knows OAEP with SHA-1 only
        rsa_key.decrypt(bytes(256), sha256_oaep)
    with pytest.raises(UsageError):
        rsa_key.sign(DATA, sha256_oaep, hashes.SHA256())
    with pytest.raises(UsageError):
        rsa_key.sign(DATA, padding.PKCS1v15(), hashes.SHA3_256())
    with pytest.raises(UsageError):
        rsa_key.sign(DATA, padding.PSS(padding.MGF1(hashes.SHA3_256()), 32), hashes.SHA3_256())
    with pytest.raises(UsageError):
        rsa_key.sign(DATA, padding.PKCS1v15(), "sha256")
    with pytest.raises(UsageError):
        ec_key.sign(DATA, "ecdsa")
    with pytest.raises(ValueError, match="same length"):
        rsa_key.sign(DATA, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    with pytest.raises(ValueError, match="Auto"):
        rsa_key.sign(DATA, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO), hashes.SHA256())


def test_probe() -> None:
    with token_credential("rsa-2048") as credential:
        assert probe(credential) == {"sign": "ok", "decrypt": "ok"}
        other = ec.generate_private_key(ec.SECP256R1())
        assert not proves_possession(credential.private_key, other.public_key())
        assert not proves_possession(other, ec.generate_private_key(ec.SECP256R1()).public_key())
        assert proves_possession(other)
        assert not decrypts(other)
    gone = credential.private_key
    with pytest.raises(TokenError, match="closed"):
        proves_possession(gone)
    assert probe(credential) == {"sign": "the token was closed", "decrypt": "the token was closed"}
    with token_credential("p256") as credential:
        assert probe(credential) == {"sign": "ok", "decrypt": "not offered"}
