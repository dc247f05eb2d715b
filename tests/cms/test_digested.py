"""DigestedData and telling nested layers apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from asn1crypto import cms, core
from hypothesis import given
from hypothesis import strategies as st

from securepacs.cms import digested
from securepacs.cms.nesting import layer_of
from securepacs.cms.signed import Signer, sign
from securepacs.codes import ID_DATA
from securepacs.errors import IntegrityFailure, MalformedError, SecurePacsError, UsageError
from tests.support.cms_samples import holder, openssl_cms

CONTENT = b"counted, " * 30


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("bare", [False, True])
def test_round_trip(digest: str, bare: bool) -> None:
    assert digested.check(digested.seal(CONTENT, digest=digest, bare=bare)) == (ID_DATA, CONTENT)


def test_weak_digests_are_not_written() -> None:
    with pytest.raises(UsageError):
        digested.seal(CONTENT, digest="sha1")


def test_changed_content() -> None:
    with pytest.raises(IntegrityFailure):
        digested.check(digested.seal(CONTENT).replace(CONTENT, CONTENT[:-1] + b"!"))


def test_content_elsewhere() -> None:
    info = cms.ContentInfo.load(digested.seal(CONTENT))
    del info["content"]["encap_content_info"]["content"]
    with pytest.raises(MalformedError, match="no content"):
        digested.check(info.dump(force=True))


def test_every_truncation_gives_a_typed_error() -> None:
    message = digested.seal(b"small")
    for size in range(len(message)):
        with pytest.raises(MalformedError):
            digested.check(message[:size])


@given(st.data())
def test_any_flipped_bit_is_noticed_or_harmless(data: st.DataObject) -> None:
    message = bytearray(digested.seal(CONTENT, bare=True))
    position = data.draw(st.integers(0, 8 * len(message) - 1))
    message[position // 8] ^= 1 << position % 8
    try:
        assert digested.check(bytes(message))[1] == CONTENT
    except SecurePacsError:
        return


def test_layers_are_told_by_their_form() -> None:
    who = holder("signer")
    for bare in (False, True):
        assert layer_of(sign(CONTENT, [Signer(who.certificate, who.private_key)], signing_time=None, bare=bare)) == "signed"
        assert layer_of(digested.seal(CONTENT, bare=bare)) == "digested"
    assert layer_of(cms.ContentInfo({"content_type": "data", "content": core.OctetString(b"x")}).dump()) == "other"
    assert layer_of(core.SequenceOf([core.Integer(1), core.Integer(2)], spec=core.Integer).dump()) == "other"
    assert layer_of(core.SequenceOf([core.OctetString(b"")] * 2, spec=core.OctetString).dump()) == "other"
    for empty in (b"\x30\x00", b"\x30\x80\0\0", b"\x30\x03\x02\x01\x00", b"\x04\x00"):
        assert layer_of(empty) == "other"
    with pytest.raises(MalformedError):
        layer_of(b"DICM")


@pytest.mark.interop
def test_openssl_reads_ours_and_we_read_openssls(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(digested.seal(CONTENT))
    assert openssl_cms("-digest_verify", "-binary", "-inform", "DER", "-in", message) == CONTENT
    theirs = openssl_cms("-digest_create", "-binary", "-nodetach", "-md", "sha256", "-outform", "DER", stdin=CONTENT)
    assert digested.check(theirs) == (ID_DATA, CONTENT)
