"""DigestedData and telling nested layers apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from asn1crypto import cms, core
from hypothesis import given
from hypothesis import strategies as st

from securepacs.cms import digested
from securepacs.cms.enveloped import encrypt
from securepacs.cms.nesting import enter
from securepacs.cms.signed import Signer, sign
from securepacs.cms.stream import Reader, tlv
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


def signed_by_a(bare: bool) -> bytes:
    return sign(CONTENT, [Signer(holder("a").certificate, holder("a").private_key)], signing_time=None, bare=bare)


def encrypted_for_a(bare: bool) -> bytes:
    message = encrypt(CONTENT, [holder("a").certificate])
    return tlv(0x30, cms.ContentInfo.load(message)["content"].contents) if bare else message


LAYERS = {"signed": signed_by_a, "digested": lambda bare: digested.seal(CONTENT, bare=bare), "enveloped": encrypted_for_a}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("bare", [True, False])
def test_layers_are_known_by_their_form(layer: str, bare: bool) -> None:
    assert enter(Reader([LAYERS[layer](bare)])) == (layer, 1 if bare else 3)


@pytest.mark.parametrize(
    "other",
    [
        b"DICM",
        b"",
        b"\x30\x00",
        b"\x30\x80\x00\x00",
        core.SequenceOf([core.Integer(1), core.Integer(2)], spec=core.Integer).dump(),
        core.SequenceOf([core.OctetString(b"")] * 2, spec=core.OctetString).dump(),
        cms.ContentInfo({"content_type": "data", "content": core.OctetString(b"x")}).dump(),
    ],
)
def test_what_is_no_layer_is_malformed(other: bytes) -> None:
    with pytest.raises(MalformedError):
        enter(Reader([other]))


@pytest.mark.interop
def test_openssl_reads_ours_and_we_read_openssls(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(digested.seal(CONTENT))
    assert openssl_cms("-digest_verify", "-binary", "-inform", "DER", "-in", message) == CONTENT
    theirs = openssl_cms("-digest_create", "-binary", "-nodetach", "-md", "sha256", "-outform", "DER", stdin=CONTENT)
    assert digested.check(theirs) == (ID_DATA, CONTENT)
