"""Octet-counted frames: any split gives the same frames, oversize ones are consumed in step, broken ones are noticed."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.framing import Frame, FrameReader
from securepacs.audit.syslog import frame
from securepacs.errors import MalformedError

BOM = b"\xef\xbb\xbf"
MIB = 1024 * 1024


def whole(data: bytes) -> Frame:
    return Frame(data, len(data), sha256(data).digest())


def cut(data: bytes, kept: int) -> Frame:
    return Frame(data[:kept], len(data), sha256(data).digest(), truncated=True)


STREAM = frame(b"<85>1 one") + BOM + frame(b"two") + b"\r\n" + b"<13>line ended\n" + frame(b"x" * 40) + frame(b"last")
FRAMES = [whole(b"<85>1 one"), whole(b"two"), whole(b"<13>line ended"), cut(b"x" * 40, 30), whole(b"last")]


def test_a_count_of_zero_is_no_count() -> None:
    reader = FrameReader()
    assert reader.feed(frame(b"a") + b"0 ") == [whole(b"a")]
    assert reader.error is not None
    assert reader.error.offset == 3


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_every_split_gives_the_same_frames(size: int) -> None:
    reader = FrameReader(limit=30)
    found = [each for start in range(0, len(STREAM), size) for each in reader.feed(STREAM[start : start + size])]
    assert found == FRAMES
    assert not reader.inside_frame
    assert reader.end() is None


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_any_records_in_any_pieces(records: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, records))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = FrameReader()
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [each for piece in pieces for each in reader.feed(memoryview(piece))] == [whole(each) for each in records]


@pytest.mark.parametrize("size", [2048, 8192, 32_768, MIB - 1, MIB])
def test_sizes_up_to_the_limit_are_whole(size: int) -> None:
    record = b"y" * size
    assert FrameReader(limit=MIB).feed(frame(record)) == [whole(record)]


@pytest.mark.parametrize("size", [MIB + 1, 20 * MIB])
def test_more_than_the_limit_is_cut_and_the_stream_stays_in_step(size: int) -> None:
    record = b"z" * size
    assert FrameReader(limit=MIB).feed(frame(record) + frame(b"next")) == [cut(record, MIB), whole(b"next")]


def test_a_huge_frame_costs_no_more_memory_than_the_limit() -> None:
    reader = FrameReader(limit=100)
    assert reader.feed(b"9999999999 " + b"x" * 5000) == []
    assert len(reader._kept) == 100


def test_ten_thousand_pipelined() -> None:
    assert len(FrameReader().feed(frame(b"<85>1 x") * 10_000)) == 10_000


@pytest.mark.parametrize(
    ("stream", "offset"),
    [(b"abc", 0), (b"07 ", 0), (b"5x", 1), (b"12345678901 ", 10), (b" 5 ", 0), (b"5\n", 1), (b"1 a" + b"GET /", 3), (b"-1 ", 0)],
)
@pytest.mark.parametrize("step", [1, 100])
def test_what_begins_no_frame_is_named_by_its_offset(stream: bytes, offset: int, step: int) -> None:
    reader = FrameReader()
    for start in range(0, len(stream), step):
        if reader.error is None:
            reader.feed(stream[start : start + step])
    assert reader.error is not None
    assert reader.error.offset == offset
    with pytest.raises(MalformedError):
        reader.feed(b"5 hello")


@pytest.mark.parametrize("stream", [b"10 half", b"<13>no line end"])
def test_what_the_end_cuts_off_is_kept_as_truncated(stream: bytes) -> None:
    reader = FrameReader()
    assert reader.feed(stream) == []
    assert reader.inside_frame
    rest = reader.end()
    assert rest is not None
    assert rest.truncated
    assert rest.data in (b"half", b"<13>no line end")
    assert rest.length == len(rest.data)


def test_an_end_inside_the_count_leaves_nothing() -> None:
    reader = FrameReader()
    reader.feed(b"12")
    assert reader.inside_frame
    assert reader.end() is None


@pytest.mark.parametrize("step", [1, 3, 100])
def test_octets_that_begin_no_frame_are_kept_as_truncated(step: int) -> None:
    stream = frame(b"good") + b"12x" + frame(b"after")
    reader = FrameReader()
    for start in range(0, len(stream), step):
        if reader.error is None:
            reader.feed(stream[start : start + step])
    rest = reader.end()
    assert rest is not None
    assert rest.truncated
    assert (b"12x" + frame(b"after")).startswith(rest.data)
    assert rest.data.startswith(b"12x")
    assert rest.sha256 == sha256(rest.data).digest()


def test_octets_after_the_break_are_kept_up_to_the_limit() -> None:
    reader = FrameReader(limit=20)
    assert reader.feed(b"12x") == []
    for _ in range(3):
        reader.feed_rest(b"0123456789")
    whole_rest = b"12x" + b"0123456789" * 3
    assert reader.end() == cut(whole_rest, 20)


LINES = b"<85>1 one\n<13>two with \xc3\xa9\r\n\n12 monkeys\n  indented\n" + b"x" * 40 + b"\n<85>1 last\n"
LINE_FRAMES = [
    whole(b"<85>1 one"),
    whole(b"<13>two with \xc3\xa9\r"),
    whole(b"12 monkeys"),
    whole(b"  indented"),
    cut(b"x" * 40, 30),
    whole(b"<85>1 last"),
]


@pytest.mark.parametrize("size", range(1, len(LINES) + 1))
def test_a_stream_of_lines_is_lines_to_its_end(size: int) -> None:
    reader = FrameReader(limit=30, by_line=True)
    assert [each for start in range(0, len(LINES), size) for each in reader.feed(LINES[start : start + size])] == LINE_FRAMES
    assert not reader.inside_frame
    assert reader.end() is None


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_a_stream_that_begins_with_a_count_is_read_by_counts(size: int) -> None:
    reader = FrameReader(limit=30, by_line=True)
    assert [each for start in range(0, len(STREAM), size) for each in reader.feed(STREAM[start : start + size])] == FRAMES


@given(st.binary(max_size=300), st.integers(1, 40), st.booleans())
def test_no_octet_is_lost_whatever_comes(stream: bytes, step: int, by_line: bool) -> None:
    reader, kept = FrameReader(by_line=by_line), bytearray()
    for start in range(0, len(stream), step):
        if reader.error is None:
            kept += b"".join(each.data for each in reader.feed(stream[start : start + step]))
    rest = reader.end()
    kept += rest.data if rest else b""
    if reader.error is None and not stream[:1].isdigit() and by_line:
        assert bytes(kept).replace(b"\r", b"") == stream.lstrip(BOM + b"\r\n").replace(b"\n", b"").replace(b"\r", b"")
    assert len(kept) <= len(stream)
