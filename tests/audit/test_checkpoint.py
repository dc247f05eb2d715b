"""Checkpoints as signed notes: the vector of Go's sumdb, round trips, and every flipped bit."""

from __future__ import annotations

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from securepacs.audit.checkpoint import LogKey, LogPublicKey, parse_checkpoint
from securepacs.audit.merkle import leaf_hash
from securepacs.errors import ConfigError, MalformedError, VerificationError

ORIGIN = "hospital.example/audit"
ROOT = leaf_hash(b"x")
# golang.org/x/mod/sumdb/note, package example (BSD-3-Clause): a verifier key
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def pem_of(key: object) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def key() -> LogKey:
    return LogKey.load(pem_of(Ed25519PrivateKey.generate()), origin=ORIGIN)


def test_a_verifier_key_of_the_go_implementation() -> None:
    key = LogPublicKey.parse(PETER)
    assert str(key) == PETER
    assert (key.name, key.key_id.hex()) == ("PeterNeumann", "c74f20a3")


def test_what_is_signed_verifies(key: LogKey) -> None:
    signed = key.sign(1234, ROOT)
    assert signed.note.startswith(f"{ORIGIN}\n1234\n{b64encode(ROOT).decode()}\n\n— {ORIGIN} ")
    assert key.public.verify(signed.note) == signed
    assert LogPublicKey.parse(str(key.public)).verify(signed.note) == signed
    pem = key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert LogPublicKey.parse(pem, name=ORIGIN).verify(signed.note) == signed


def test_lines_of_witnesses_are_passed_over(key: LogKey) -> None:
    witness = LogKey.load(pem_of(Ed25519PrivateKey.generate()), origin="witness.example")
    signed = key.sign(7, ROOT)
    line = f"— witness.example {b64encode(witness.public.key_id + witness.key.sign(signed.body.encode())).decode()}\n"
    assert key.public.verify(signed.note + line).size == 7
    with pytest.raises(VerificationError):
        witness.public.verify(signed.note + line)


def test_every_flipped_bit_is_noticed(key: LogKey) -> None:
    note = key.sign(1234, ROOT).note.encode()
    for at in range(len(note)):
        for bit in range(8):
            changed = bytearray(note)
            changed[at] ^= 1 << bit
            with pytest.raises((VerificationError, MalformedError)):
                key.public.verify(changed.decode("utf-8", errors="surrogateescape"))


def test_what_is_no_checkpoint(key: LogKey) -> None:
    note = key.sign(5, ROOT).note
    body, _, signatures = note.partition("\n\n")
    for wrong in ("", body, f"{body}\n\n", f"{body}\nextension\n\n{signatures}", note + "\n", note + "x\n", note + " " * 20_000,
                  note.replace("\n5\n", "\n05\n"), note.replace("\n", "\r\n")):  # fmt: skip
        with pytest.raises(MalformedError):
            parse_checkpoint(wrong)


def test_another_key_does_not_verify(key: LogKey) -> None:
    other = LogKey.load(pem_of(Ed25519PrivateKey.generate()), origin=ORIGIN)
    with pytest.raises(VerificationError):
        other.public.verify(key.sign(5, ROOT).note)
    elsewhere = LogKey.load(pem_of(key.key), origin="elsewhere.example")
    with pytest.raises(VerificationError):
        elsewhere.public.verify(key.sign(5, ROOT).note)


def test_keys_that_cannot_be_used() -> None:
    for pem in (b"", b"no key", pem_of(generate_private_key(SECP256R1()))):
        with pytest.raises(ConfigError):
            LogKey.load(pem, origin=ORIGIN)
    for origin in ("", "two words", "a+b"):
        with pytest.raises(ConfigError):
            LogKey.load(pem_of(Ed25519PrivateKey.generate()), origin=origin)
    for text in ("", "name", PETER.replace("c74f", "c74e"), PETER[:-4], PETER.replace("AR", "BR"), "-----BEGIN x"):
        with pytest.raises(ConfigError):
            LogPublicKey.parse(text)
