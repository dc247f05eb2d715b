"""What damaged and hostile files do: a typed error, nothing under the output's name, bounded memory. Every byte is tried."""

from __future__ import annotations

import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from asn1crypto import cms

from securepacs import media
from securepacs.cms import digested, enveloped, recipients
from securepacs.cms.ciphers import CIPHERS, Encryptor
from securepacs.cms.stream import Stream, tlv
from securepacs.codes import ID_DIGESTED_DATA, ID_SIGNING_TIME
from securepacs.errors import IntegrityFailure, MalformedError, NoMatchingRecipient, SecurePacsError, UsageError
from securepacs.media.source import Source
from securepacs.media.unsealing import Unsealing
from securepacs.tokens.credential import Credential
from tests.support.cms_samples import holder

PART10 = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\x00"
NO_GOOD = (IntegrityFailure, MalformedError)


def credential(name: str = "alice", kind: str = "rsa-2048") -> Credential:
    who = holder(name, kind)
    return Credential(who.certificate, who.private_key)


def pieces(part10: bytes, cipher: str, known: bool) -> bytes:
    inner = digested.seal_stream(Stream(len(part10) if known else None, [part10]), bare=not cipher.endswith("gcm"))
    certificates = [holder("alice").certificate, holder("curve", "p256").certificate]
    stream = enveloped.encrypt_stream(inner, certificates, cipher=cipher, content_type=ID_DIGESTED_DATA)
    return b"".join(bytes(chunk) for chunk in stream.chunks)


MESSAGES = {
    "definite": ("aes256-cbc", True),
    "indefinite": ("aes256-cbc", False),
    "authenticated": ("aes256-gcm", True),
    "authenticated indefinite": ("aes256-gcm", False),
}


@pytest.fixture(scope="module", params=MESSAGES)
def message(request: pytest.FixtureRequest) -> bytes:
    return pieces(PART10, *MESSAGES[request.param])


@pytest.fixture(params=["key", "curve"])
def who(request: pytest.FixtureRequest) -> Credential:
    return credential() if request.param == "key" else credential("curve", "p256")


def test_it_opens_undamaged(message: bytes, who: Credential) -> None:
    assert media.open(message, who).content == PART10


def test_every_truncation(message: bytes, who: Credential) -> None:
    for size in range(len(message)):
        with pytest.raises(NO_GOOD):
            media.open(message[:size], who)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_changed_byte(message: bytes, who: Credential, mask: int) -> None:
    for position in range(len(message)):
        changed = bytearray(message)
        changed[position] ^= mask
        try:
            opened = media.open(bytes(changed), who)
        except SecurePacsError:
            continue
        assert (opened.content, opened.integrity) == (PART10, "digested")


def test_every_byte_too_many(message: bytes, who: Credential) -> None:
    for extra in (b"\0", b"\0\0", message):
        with pytest.raises(NO_GOOD):
            media.open(message + extra, who)


@pytest.mark.parametrize("position", [0.3, 0.6, 0.999])
def test_nothing_appears_before_integrity_is_verified(tmp_path: Path, position: float) -> None:
    source, secure, out = tmp_path / "source", tmp_path / "secure", tmp_path / "out"
    source.write_bytes(PART10 + os.urandom(3 << 20))
    out.mkdir()
    for cipher in ("aes256-cbc", "aes256-gcm"):
        media.protect(source, recipients=[holder("alice").certificate], cipher=cipher, output=secure)
        changed = bytearray(secure.read_bytes())
        changed[int(position * len(changed))] ^= 1
        secure.write_bytes(changed)
        with pytest.raises(IntegrityFailure):
            media.open(secure, credential(), output=out / "plain")
        assert list(out.iterdir()) == []


def test_an_existing_output_survives_failure(tmp_path: Path) -> None:
    out = tmp_path / "plain"
    out.write_bytes(b"from before")
    with pytest.raises(NoMatchingRecipient):
        media.open(pieces(PART10, "aes256-cbc", True), credential("bob"), output=out)
    assert out.read_bytes() == b"from before"


def test_the_temporary_file_is_private_and_beside_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, Path]] = []
    chunks = Unsealing.chunks

    def watching(self: Unsealing) -> Iterator[object]:
        for chunk in chunks(self):
            yield chunk
            seen.extend((stat.S_IMODE(path.stat().st_mode), path) for path in tmp_path.iterdir())

    monkeypatch.setattr("securepacs.media.unsealing.Unsealing.chunks", watching)
    media.open(pieces(PART10, "aes256-cbc", True), credential(), output=tmp_path / "plain")
    assert {mode for mode, _ in seen} == {0o600}
    assert all(path.name != "plain" for _, path in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def many_recipients(count: int, last: bytes = b"") -> bytes:
    info = cms.ContentInfo.load(pieces(PART10, "aes256-cbc", True))["content"]
    stranger = recipients.write([holder("stranger").certificate], bytes(32))[0]
    one = cms.RecipientInfos.load(stranger)[0].dump()
    mine = b"".join(each.dump() for each in info["recipient_infos"])
    structure = tlv(0x30, info["version"].dump(), tlv(0x31, one * count, last or mine), info["encrypted_content_info"].dump())
    return tlv(0x30, cms.ContentType("enveloped_data").dump(), tlv(0xA0, structure))


def test_ten_thousand_recipients() -> None:
    message = many_recipients(recipients.MAX_RECIPIENTS - 2)
    tracemalloc.start()
    try:
        assert media.open(message, credential()).content == PART10
        with pytest.raises(NoMatchingRecipient):
            media.open(message, credential("bob"))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(MalformedError, match="more than 10000 recipients"):
        media.open(many_recipients(recipients.MAX_RECIPIENTS - 1), credential())
    with pytest.raises(MalformedError, match="longer than 65536"):
        media.open(many_recipients(1, tlv(0x30, bytes(70_000))), credential())


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    source, secure, plain = tmp_path / "source", tmp_path / "secure", tmp_path / "plain"
    source.write_bytes(PART10 + os.urandom(1 << 20) * 48)
    mine = holder("alice").certificate
    for cipher in ("aes128-cbc", "aes256-gcm"):
        tracemalloc.start()
        try:
            media.protect(source, recipients=[mine], cipher=cipher, output=secure)
            media.open(secure, credential(), output=plain)
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()
        assert plain.read_bytes() == source.read_bytes()


def test_a_pipe_is_protected_in_indefinite_lengths(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, PART10 + b"x" * 1000)
    os.close(writing)
    try:
        secure = tmp_path / "secure"
        media.protect(Path(f"/dev/fd/{reading}"), recipients=[holder("alice").certificate], output=secure)
    finally:
        os.close(reading)
    assert secure.read_bytes()[:2] == b"\x30\x80"
    assert media.open(secure, credential()).content == PART10 + b"x" * 1000


def test_a_file_that_grows_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(PART10)
    head = Source.head

    def growing(self: Source) -> bytes:
        with source.open("ab") as file:
            file.write(b"more")
        return head(self)

    monkeypatch.setattr("securepacs.media.source.Source.head", growing)
    with pytest.raises(UsageError, match="changed its size"):
        media.protect(source, recipients=[holder("alice").certificate], output=out)
    assert not out.exists()


def test_the_envelope_does_not_tell_whether_the_inside_looked_right() -> None:
    """A damaged envelope is reported as such whether or not the content could be read: no oracle (RFC 3218)."""
    good = enveloped.encrypt(digested.seal(PART10, bare=True), [holder("alice").certificate])
    noise = enveloped.encrypt(os.urandom(200), [holder("alice").certificate])
    answers = set()
    for message in (good, noise):
        with pytest.raises(MalformedError) as caught:
            media.open(message + b"\x05\x00", credential())
        answers.add(caught.value.message.rpartition(" at byte ")[0])
    assert answers == {"data follows the value"}


def test_authenticated_attributes_of_other_writers() -> None:
    """RFC 5083 puts them after the content: the second reading knows them."""
    cipher = CIPHERS["aes256-gcm"]
    key, nonce = bytes(32), bytes(12)
    attribute = cms.CMSAttribute({"type": ID_SIGNING_TIME, "values": [cms.Time("utc_time", "260101000000Z")]}).dump()
    encryptor = Encryptor(cipher, key, nonce)
    encryptor._context.authenticate_additional_data(tlv(0x31, attribute))
    encrypted = b"".join(bytes(chunk) for chunk in encryptor.encrypt([digested.seal(PART10)]))
    infos, _ = recipients.write([holder("alice").certificate], key)

    def message(attributes: bytes) -> bytes:
        content = tlv(0x30, cms.ContentType("data").dump(), cipher.identifier(nonce), tlv(0x80, encrypted))
        structure = tlv(0x30, b"\x02\x01\x00", infos, content, tlv(0xA1, attributes), tlv(4, encryptor.tag))
        return tlv(0x30, cms.ContentType("authenticated_enveloped_data").dump(), tlv(0xA0, structure))

    assert media.open(message(attribute), credential()).content == PART10
    with pytest.raises(IntegrityFailure):
        media.open(message(attribute[:-1] + b"\x5b"), credential())
