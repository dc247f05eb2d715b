"""Every recipient and cipher kind of `openssl cms`, in both directions, in definite and indefinite lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from securepacs.cms.enveloped import KeyEncryptionKey, Keys, decrypt_with, encrypt_stream, inspect
from securepacs.cms.passwords import MINIMUM_ITERATIONS
from securepacs.cms.stream import Stream
from securepacs.codes import ID_DATA
from securepacs.errors import IntegrityFailure, NoMatchingRecipient, PasswordIncorrect, UsageError, VerificationError
from tests.support.cms_samples import Holder, holder, openssl_cms

pytestmark = pytest.mark.interop

CONTENT = bytes(range(256)) * 300
PASSWORD = "K7QX-2M4N-P0RS-8TVW-3YZA"
OPENSSL_CIPHERS = {
    "aes128-cbc": "-aes-128-cbc",
    "aes192-cbc": "-aes-192-cbc",
    "aes256-cbc": "-aes-256-cbc",
    "des-ede3-cbc": "-des3",
    "aes128-gcm": "-aes-128-gcm",
    "aes192-gcm": "-aes-192-gcm",
    "aes256-gcm": "-aes-256-gcm",
}
RECIPIENTS: dict[str, tuple[str, list[str]]] = {
    "rsa": ("rsa-2048", []),
    "rsa-3072": ("rsa-3072", []),
    "rsa-keyid": ("rsa-2048", ["-keyid"]),
    "oaep-sha1": ("rsa-2048", ["-keyopt", "rsa_padding_mode:oaep"]),
    "oaep-sha256": ("rsa-2048", ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"]),
    "p256": ("p256", []),
    "p384-sha384": ("p384", ["-keyopt", "ecdh_kdf_md:sha384"]),
    "p521-keyid": ("p521", ["-keyid", "-keyopt", "ecdh_kdf_md:sha512"]),
    "p256-cofactor": ("p256", ["-keyopt", "ecdh_cofactor_mode:1"]),
}


def keys_of(*holders: Holder, password: str = "") -> Keys:
    return Keys(tuple((each.certificate, each.private_key) for each in holders), (password.encode(),) if password else ())


def written(*holders: Holder, cipher: str, known: bool, password: str = "", oaep: bool = False) -> bytes:
    stream = encrypt_stream(
        Stream(len(CONTENT) if known else None, [CONTENT[:1000], CONTENT[1000:]]),
        [each.certificate for each in holders],
        passwords=[password.encode()] if password else [],
        cipher=cipher,
        content_type=ID_DATA,
        key_transport="oaep" if oaep else "pkcs1v15",
    )
    return b"".join(bytes(chunk) for chunk in stream.chunks)


@pytest.mark.parametrize("streaming", [[], ["-stream", "-indef"]], ids=["definite", "indefinite"])
@pytest.mark.parametrize("cipher", OPENSSL_CIPHERS)
@pytest.mark.parametrize("kind", RECIPIENTS)
def test_we_open_what_openssl_wrote(tmp_path: Path, kind: str, cipher: str, streaming: list[str]) -> None:
    key_kind, options = RECIPIENTS[kind]
    who = holder("alice", key_kind)
    _, certificate = who.write(tmp_path)
    message = openssl_cms(
        "-encrypt",
        "-binary",
        OPENSSL_CIPHERS[cipher],
        "-outform",
        "DER",
        *streaming,
        "-recip",
        certificate,
        *options,
        stdin=CONTENT,
    )
    assert decrypt_with(message, keys_of(holder("stranger"), who)) == (ID_DATA, CONTENT)


@pytest.mark.parametrize("known", [True, False], ids=["definite", "indefinite"])
@pytest.mark.parametrize("cipher", OPENSSL_CIPHERS)
@pytest.mark.parametrize("kind", ["rsa-2048", "oaep", "p256", "p384", "p521"])
def test_openssl_opens_what_we_wrote(tmp_path: Path, kind: str, cipher: str, known: bool) -> None:
    if cipher == "des-ede3-cbc" and kind.startswith("p"):
        cipher = "aes192-cbc"  # the same content key size
    who = holder("alice", "rsa-2048" if kind == "oaep" else kind)
    key, certificate = who.write(tmp_path)
    message = written(holder("bob", "p256"), holder("carol"), who, cipher=cipher, known=known, oaep=kind == "oaep")
    assert openssl_cms("-decrypt", "-binary", "-inform", "DER", "-inkey", key, "-recip", certificate, stdin=message) == CONTENT
    assert decrypt_with(message, keys_of(who)) == (ID_DATA, CONTENT)


@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes192-cbc", "aes256-cbc", "des-ede3-cbc"])
@pytest.mark.parametrize("streaming", [[], ["-stream", "-indef"]], ids=["definite", "indefinite"])
def test_passwords_of_openssl(cipher: str, streaming: list[str]) -> None:
    message = openssl_cms(
        "-encrypt", "-binary", OPENSSL_CIPHERS[cipher], "-outform", "DER", *streaming, "-pwri_password", PASSWORD, stdin=CONTENT
    )
    assert decrypt_with(message, keys_of(holder("stranger"), password=PASSWORD)) == (ID_DATA, CONTENT)
    with pytest.raises(PasswordIncorrect):
        decrypt_with(message, keys_of(password=PASSWORD + "x"))


@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes256-cbc", "des-ede3-cbc", "aes256-gcm"])
def test_openssl_opens_our_passwords(cipher: str) -> None:
    message = written(cipher=cipher, known=True, password=PASSWORD)
    assert openssl_cms("-decrypt", "-binary", "-inform", "DER", "-pwri_password", PASSWORD, stdin=message) == CONTENT
    assert MINIMUM_ITERATIONS.to_bytes(3, "big") in message


@pytest.mark.parametrize("cipher", ["aes128-cbc", "des-ede3-cbc", "aes256-gcm"])
@pytest.mark.parametrize("size", [16, 24, 32])
def test_key_encryption_keys_both_ways(size: int, cipher: str) -> None:
    kek = KeyEncryptionKey(b"archive-2027", bytes(range(size)))
    options = ["-secretkey", kek.key.hex(), "-secretkeyid", kek.identifier.hex()]
    theirs = openssl_cms("-encrypt", "-binary", OPENSSL_CIPHERS[cipher], "-outform", "DER", *options, stdin=CONTENT)
    assert decrypt_with(theirs, Keys(keks=(KeyEncryptionKey(b"other", bytes(16)), kek))) == (ID_DATA, CONTENT)
    stream = encrypt_stream(Stream(len(CONTENT), [CONTENT]), [], keks=[kek], cipher=cipher, content_type=ID_DATA)
    ours = b"".join(bytes(chunk) for chunk in stream.chunks)
    assert openssl_cms("-decrypt", "-binary", "-inform", "DER", *options, stdin=ours) == CONTENT
    assert kek.key.hex() not in repr(kek)
    assert [each.kind for each in inspect(ours).recipients] == ["kekri"]
    with pytest.raises(NoMatchingRecipient):
        decrypt_with(ours, Keys(keks=(KeyEncryptionKey(b"other", kek.key),)))
    wrong = Keys(keks=(KeyEncryptionKey(kek.identifier, bytes(size)),))
    try:
        assert decrypt_with(theirs, wrong) != (ID_DATA, CONTENT)
    except IntegrityFailure:
        assert theirs


def test_mixed_recipients_of_both(tmp_path: Path) -> None:
    who = holder("alice")
    key, certificate = who.write(tmp_path)
    ours = written(who, holder("bob", "p384"), cipher="aes256-cbc", known=True, password=PASSWORD)
    assert openssl_cms("-decrypt", "-binary", "-inform", "DER", "-inkey", key, "-recip", certificate, stdin=ours) == CONTENT
    assert openssl_cms("-decrypt", "-binary", "-inform", "DER", "-pwri_password", PASSWORD, stdin=ours) == CONTENT
    theirs = openssl_cms(
        "-encrypt", "-binary", "-aes256", "-outform", "DER", "-pwri_password", PASSWORD, "-recip", certificate, stdin=CONTENT
    )
    assert decrypt_with(theirs, keys_of(who))[1] == decrypt_with(theirs, keys_of(password=PASSWORD))[1] == CONTENT


def test_ciphers_we_do_not_have_are_named(tmp_path: Path) -> None:
    who = holder("alice")
    _, certificate = who.write(tmp_path)
    message = openssl_cms("-encrypt", "-binary", "-camellia256", "-outform", "DER", certificate, stdin=CONTENT)
    with pytest.raises(VerificationError, match=r"1\.2\.392\.200011\.61\.1\.1\.1\.4"):
        decrypt_with(message, keys_of(who))


@pytest.mark.parametrize(("identifier", "key"), [(b"", bytes(16)), (b"id", bytes(15)), (b"id", b"")])
def test_keys_that_wrap_nothing_are_refused(identifier: bytes, key: bytes) -> None:
    with pytest.raises(UsageError):
        KeyEncryptionKey(identifier, key)
