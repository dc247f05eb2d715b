"""EnvelopedData: round trips, wrong keys, damage, and openssl cms in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs.cms.enveloped import decrypt, encrypt, inspect
from securepacs.codes import ID_DATA, ID_SIGNED_DATA
from securepacs.errors import IntegrityFailure, MalformedError, NoMatchingRecipient, SecurePacsError, UsageError, VerificationError
from tests.support.cms_samples import Holder, holder, openssl_cms

CONTENT = b"kept from others, " * 40


def opened(message: bytes, who: Holder) -> tuple[str, bytes]:
    return decrypt(message, who.certificate, who.private_key)


def changed(message: bytes, change: Any) -> bytes:
    info = cms.ContentInfo.load(message)
    change(info["content"])
    return bytes(info.dump(force=True))


@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes192-cbc", "aes256-cbc"])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_round_trip(cipher: str, size: int) -> None:
    alice, bob = holder("alice"), holder("bob", "rsa-3072")
    message = encrypt(bytes(size), [alice.certificate, bob.certificate], cipher=cipher)
    for who in (alice, bob):
        assert opened(message, who) == (ID_SIGNED_DATA, bytes(size))


def test_what_is_written() -> None:
    alice = holder("alice")
    structure = cms.ContentInfo.load(encrypt(CONTENT, [alice.certificate], content_type=ID_DATA))["content"]
    assert structure["version"].native == "v0"
    assert structure["recipient_infos"][0].chosen["version"].native == "v0"
    assert structure["encrypted_content_info"]["content_type"].dotted == ID_DATA


def test_inspect() -> None:
    alice = holder("alice")
    envelope = inspect(encrypt(CONTENT, [alice.certificate]))
    assert (envelope.cipher, envelope.content_type) == ("aes256-cbc", ID_SIGNED_DATA)
    assert envelope.recipients[0].serial_number == alice.certificate.serial_number
    assert envelope.recipients[0].kind == "ktri"
    assert envelope.encrypted_length >= len(CONTENT)


def test_misuse_is_refused() -> None:
    alice = holder("alice").certificate
    with pytest.raises(UsageError, match="at least one"):
        encrypt(CONTENT, [])
    with pytest.raises(UsageError, match="neither RSA nor on a NIST curve"):
        encrypt(CONTENT, [holder("curve", "secp256k1").certificate])
    for cipher in ("rot13", "aes256_cbc", ""):
        with pytest.raises(UsageError, match="cipher"):
            encrypt(CONTENT, [alice], cipher=cipher)


def test_not_a_recipient() -> None:
    message = encrypt(CONTENT, [holder("alice").certificate])
    with pytest.raises(NoMatchingRecipient):
        opened(message, holder("bob", "rsa-3072"))
    with pytest.raises(NoMatchingRecipient):
        opened(message, holder("curve", "p256"))


def test_the_right_certificate_with_another_key_never_gives_the_content() -> None:
    """Implicit rejection: usually the padding tells, one time in 256 meaningless bytes come out."""
    message = encrypt(CONTENT, [holder("alice").certificate])
    for _ in range(20):
        try:
            _, content = decrypt(message, holder("alice").certificate, holder("mallory").private_key)
        except IntegrityFailure:
            continue
        assert content != CONTENT


def test_a_damaged_encrypted_key_looks_the_same() -> None:
    def damage(structure: Any) -> None:
        recipient = structure["recipient_infos"][0].chosen
        value = recipient["encrypted_key"].native
        recipient["encrypted_key"] = value[:-1] + bytes((value[-1] ^ 1,))

    message = changed(encrypt(CONTENT, [holder("alice").certificate]), damage)
    try:
        assert opened(message, holder("alice"))[1] != CONTENT
    except IntegrityFailure:
        return


def test_a_content_key_of_another_length_is_rejected_silently() -> None:
    """AES-128 wrapped where AES-256 is named: a random key takes its place."""
    short = cms.ContentInfo.load(encrypt(CONTENT, [holder("alice").certificate], cipher="aes128-cbc"))["content"]

    def swap(structure: Any) -> None:
        structure["recipient_infos"] = short["recipient_infos"]

    message = changed(encrypt(CONTENT, [holder("alice").certificate]), swap)
    try:
        assert opened(message, holder("alice"))[1] != CONTENT
    except IntegrityFailure:
        return


@pytest.mark.parametrize("cut", [1, 15])
def test_content_that_is_not_whole_blocks(cut: int) -> None:
    def shorten(structure: Any) -> None:
        info = structure["encrypted_content_info"]
        info["encrypted_content"] = info["encrypted_content"].native[:-cut]

    with pytest.raises(MalformedError, match="whole blocks"):
        opened(changed(encrypt(CONTENT, [holder("alice").certificate]), shorten), holder("alice"))


def test_unknown_ciphers_are_named() -> None:
    def rename(structure: Any) -> None:
        structure["encrypted_content_info"]["content_encryption_algorithm"] = {"algorithm": "1.2.3.4"}

    message = changed(encrypt(CONTENT, [holder("alice").certificate]), rename)
    with pytest.raises(VerificationError, match=r"1\.2\.3\.4"):
        opened(message, holder("alice"))
    assert inspect(message).cipher == "1.2.3.4"


def test_content_elsewhere() -> None:
    def remove(structure: Any) -> None:
        del structure["encrypted_content_info"]["encrypted_content"]

    message = changed(encrypt(CONTENT, [holder("alice").certificate]), remove)
    with pytest.raises(MalformedError, match="no encrypted content"):
        opened(message, holder("alice"))


def test_every_truncation_gives_a_typed_error() -> None:
    message = encrypt(b"small", [holder("alice").certificate])
    for size in range(len(message)):
        with pytest.raises(MalformedError):
            opened(message[:size], holder("alice"))


@settings(max_examples=150)
@given(st.data())
def test_a_flipped_bit_gives_nothing_but_typed_errors(data: st.DataObject) -> None:
    message = bytearray(encrypt(b"small", [holder("alice").certificate]))
    position = data.draw(st.integers(0, 8 * len(message) - 1))
    message[position // 8] ^= 1 << position % 8
    try:
        opened(bytes(message), holder("alice"))
        inspect(bytes(message))
    except SecurePacsError:
        return


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_garbage_gives_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(SecurePacsError):
        opened(garbage, holder("alice"))
    with pytest.raises(SecurePacsError):
        inspect(garbage)


@pytest.mark.interop
@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes192-cbc", "aes256-cbc"])
def test_openssl_opens_ours(tmp_path: Path, cipher: str) -> None:
    key, certificate = holder("alice").write(tmp_path)
    message = encrypt(CONTENT, [holder("bob", "rsa-3072").certificate, holder("alice").certificate], cipher=cipher)
    assert openssl_cms("-decrypt", "-inform", "DER", "-inkey", key, "-recip", certificate, stdin=message) == CONTENT


@pytest.mark.interop
@pytest.mark.parametrize("cipher", ["aes128", "aes192", "aes256", "des3"])
@pytest.mark.parametrize("options", [[], ["-stream", "-indef"], ["-keyid"]], ids=" ".join)
def test_we_open_openssls(tmp_path: Path, cipher: str, options: list[str]) -> None:
    _, certificate = holder("alice").write(tmp_path)
    message = openssl_cms("-encrypt", "-binary", f"-{cipher}", "-outform", "DER", *options, certificate, stdin=CONTENT)
    assert opened(message, holder("alice"))[1] == CONTENT


@pytest.mark.interop
def test_password_recipients_of_openssl_are_seen_and_passed_over(tmp_path: Path) -> None:
    _, certificate = holder("alice").write(tmp_path)
    message = openssl_cms(
        "-encrypt", "-binary", "-aes256", "-outform", "DER", "-pwri_password", "secret", certificate, stdin=CONTENT
    )
    assert {one.kind for one in inspect(message).recipients} == {"ktri", "pwri"}
    assert opened(message, holder("alice"))[1] == CONTENT
    with pytest.raises(NoMatchingRecipient):
        opened(message, holder("bob", "rsa-3072"))
