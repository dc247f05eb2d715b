"""The bounded BER tokenizer: any split gives the same, claims reserve nothing, depth is limited, and what is written reads back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs.cms.stream import Level, Reader, Stream, framed, header, tlv
from securepacs.errors import MalformedError, UsageError

EOC = b"\0\0"


def split(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def octets(data: bytes, size: int = 1 << 20) -> bytes:
    reader = Reader(split(data, size))
    content = b"".join(bytes(piece) for piece in reader.octets(0x04))
    reader.finish()
    return content


def segmented(pieces: list[bytes]) -> bytes:
    return b"\x24\x80" + b"".join(tlv(4, piece) for piece in pieces) + EOC


@st.composite
def octet_strings(draw: st.DrawFn, depth: int = 3) -> tuple[bytes, bytes]:
    """An octet string in some encoding, and its contents."""
    if not depth or draw(st.booleans()):
        content = draw(st.binary(max_size=200))
        return tlv(4, content), content
    parts = draw(st.lists(octet_strings(depth - 1), max_size=5))
    inside, content = b"".join(part[0] for part in parts), b"".join(part[1] for part in parts)
    return (tlv(0x24, inside) if draw(st.booleans()) else b"\x24\x80" + inside + EOC), content


@settings(max_examples=200)
@given(octet_strings(), st.integers(1, 50))
def test_octet_strings_in_every_encoding_and_split(sample: tuple[bytes, bytes], size: int) -> None:
    encoded, content = sample
    assert octets(encoded, size) == content


@pytest.mark.parametrize("size", [7, 1000, 4100, 1 << 20])
@pytest.mark.parametrize("segment", [1, 100, 4096, 100_000])
def test_many_equal_segments_and_a_shorter_last_one(segment: int, size: int) -> None:
    pieces = [bytes((n,)) * segment for n in range(20)] + [b"end"]
    assert octets(segmented(pieces), size) == b"".join(pieces)


def test_segments_of_a_reused_buffer_are_not_mixed_up() -> None:
    """A source may write the next chunk over the last one; nothing that was not yet yielded may be lost."""
    encoded = segmented([bytes((n % 256,)) * 50 for n in range(1000)])
    buffer = bytearray(777)

    def reusing() -> Iterator[memoryview]:
        for piece in split(encoded, len(buffer)):
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]

    content = b"".join(bytes(piece) for piece in Reader(reusing()).octets(0x04))
    assert content == b"".join(bytes((n % 256,)) * 50 for n in range(1000))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x04",
        b"\x04\x05abc",
        b"\x24\x80\x04\x01a",
        b"\x24\x80\x04\x01a\x00",
        b"\x24\x80\x05\x00\x00\x00",
        b"\x24\x80\x04\x80\x00\x00\x00\x00",
        b"\x24\x03\x04\x05ab",
        b"\x24\x04\x24\x80\x04\x00",
        b"\x30\x00",
        b"\x04\x89" + b"\xff" * 9,
        b"\x04\x01a\x00",
    ],
    ids=bytes.hex,
)
@pytest.mark.parametrize("size", [1, 100])
def test_bad_octet_strings(bad: bytes, size: int) -> None:
    with pytest.raises(MalformedError):
        octets(bad, size)


@pytest.mark.parametrize("closed", [True, False])
def test_a_thousand_nested_indefinite_lengths(closed: bool) -> None:
    nested = b"\x24\x80" * 1000 + (EOC * 1000 if closed else b"")
    with pytest.raises(MalformedError, match="nested more than 64 deep"):
        octets(nested)
    with pytest.raises(MalformedError, match="nested more than 64 deep"):
        Reader([nested.replace(b"\x24", b"\x30")]).value()


def test_a_claimed_length_reserves_nothing() -> None:
    tracemalloc.start()
    try:
        for encoded in (b"\x04\x88\x7f" + b"\xff" * 7, b"\x24\x80\x04\x87\x7f" + b"\xff" * 6, b"\x04\x84\xff\xff\xff\xff"):
            with pytest.raises(MalformedError, match="ends before"):
                octets(encoded + b"a few octets")
            with pytest.raises(MalformedError, match="longer than"):
                Reader([encoded.replace(b"\x24\x80", b"\x30\x80")]).value()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_whole_values() -> None:
    inner = b"\x30\x80\x02\x01\x07\x30\x03\x02\x01\x08" + EOC
    reader = Reader(split(tlv(0x30, inner, b"\x05\x00"), 1))
    reader.enter(0x30, "sequence")
    assert reader.value() == inner
    assert reader.value() == b"\x05\x00"
    assert reader.at_end()
    reader.leave()
    reader.finish()
    assert reader.peek() == -1


def test_a_value_may_not_grow_by_empty_ones() -> None:
    with pytest.raises(MalformedError, match="longer than 100"):
        Reader([b"\x30\x80" + b"\x05\x00" * 1000]).value(limit=100)


def test_containers_hold_what_is_in_them() -> None:
    for encoded in (b"\x30\x02\x05\x00", b"\x30\x80\x05\x00\x00\x00"):
        reader = Reader([encoded])
        reader.enter(0x30, "sequence")
        with pytest.raises(MalformedError, match="more than it should"):
            reader.leave()
        with pytest.raises(MalformedError, match="no set where one belongs"):
            reader.enter(0x31, "set")
    reader = Reader([b"\x30\x02\x04\x05abcde"])
    reader.enter(0x30, "sequence")
    with pytest.raises(MalformedError, match="longer than what holds it"):
        reader.value()


def test_offsets_in_errors_count_from_the_beginning() -> None:
    reader = Reader(split(tlv(0x30, tlv(4, bytes(100)), b"\x02\x05ab"), 13))
    reader.enter(0x30, "sequence")
    reader.value()
    with pytest.raises(MalformedError) as caught:
        reader.value()
    assert caught.value.offset == 104


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans(), st.integers(1, 60))
def test_what_is_framed_reads_back(pieces: list[bytes], known: bool, size: int) -> None:
    content = b"".join(pieces)
    levels = [Level(0x30, b"\x02\x01\x00", 4), Level(0xA0), Level(0x30, b"\x05\x00", 3)]
    trailers = [tlv(4, b"up"), b"", tlv(2, b"\x09")]
    stream = framed(levels, 0x04, Stream(len(content) if known else None, iter(pieces)), lambda: trailers)
    encoded = b"".join(bytes(chunk) for chunk in stream.chunks)
    assert stream.size in (None, len(encoded))
    assert (b"\x24\x80" in encoded) or known
    reader = Reader(split(encoded, size))
    reader.enter(0x30, "outer")
    assert reader.value() == b"\x02\x01\x00"
    reader.enter(0xA0, "middle")
    reader.enter(0x30, "inner")
    assert reader.value() == b"\x05\x00"
    assert b"".join(bytes(piece) for piece in reader.octets(0x04)) == content
    assert reader.value() == trailers[2]
    reader.leave()
    reader.leave()
    assert reader.value() == trailers[0]
    reader.leave()
    reader.finish()


@pytest.mark.parametrize("claimed", [4, 6])
def test_content_that_changes_its_size_is_noticed(claimed: int) -> None:
    stream = framed([Level(0x30)], 0x04, Stream(claimed, [b"five!"]), lambda: [b""])
    with pytest.raises(UsageError, match="changed its size"):
        list(stream.chunks)


@pytest.mark.parametrize(
    ("length", "encoded"), [(0, "0400"), (127, "047f"), (128, "048180"), (65536, "0483010000"), (None, "0480")]
)
def test_headers(length: int | None, encoded: str) -> None:
    assert header(4, length).hex() == encoded


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(1, 20))
def test_garbage_ends_in_a_typed_error_or_a_value(garbage: bytes, size: int) -> None:
    for read in (lambda reader: reader.value(), lambda reader: list(reader.octets(0x04))):
        try:
            read(Reader(split(garbage, size)))
        except MalformedError:
            continue
