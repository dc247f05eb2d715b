from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import MalformedError
from securepacs.signatures.values import der_value, format_date_time, parse_date_time


@pytest.mark.parametrize(("data", "value"), [
    (b"\x30\x02\1\2", b"\x30\x02\1\2"), (b"\x30\x01\1\0", b"\x30\x01\1"), (b"\x30\x81\x01\1\0", b"\x30\x81\x01\1"),
    (b"\x30\x82\0\x01\1", b"\x30\x82\0\x01\1"),
])  # fmt: skip
def test_der_ends_where_it_says(data: bytes, value: bytes) -> None:
    assert der_value(data) == value


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x04\x00", b"\x30\x05\1", b"\x30\x80\0\0", b"\x30\x82\1", b"-----BEGIN", b"\x30\0\0\0"]
)
def test_what_is_not_one_der_value_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        der_value(data)


@given(st.binary(max_size=300))
def test_any_der_sequence_with_one_pad_byte_is_read(content: bytes) -> None:
    size = len(content)
    head = bytes([0x30, size]) if size < 128 else bytes([0x30, 0x82, *size.to_bytes(2, "big")])
    assert der_value(head + content + b"\0" * ((len(head) + size) % 2)) == head + content


@pytest.mark.parametrize(("text", "moment", "has_offset"), [
    ("20270101000000.000000+0000", datetime(2027, 1, 1, tzinfo=UTC), True),
    ("20270101093000.5-0530", datetime(2027, 1, 1, 15, 0, 0, 500000, tzinfo=UTC), True),
    ("20270101000000", datetime(2027, 1, 1, tzinfo=UTC), False),
    ("20161231235960+0000", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC), True),
])  # fmt: skip
def test_date_times_are_read(text: str, moment: datetime, has_offset: bool) -> None:
    assert parse_date_time(text) == (moment, has_offset)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2027",
        "20271301000000+0000",
        "20270101000000+00",
        "20270101000000.x+0000",
        "20270101000000.1_2+0000",
        "20270101000061+0000",
        "２０２７０１０１００００００",
        "20270101000000+2500",
    ],
)
def test_other_texts_are_no_date_times(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (several causes, one meaning)
        parse_date_time(text)


@given(
    st.datetimes(
        min_value=datetime(1900, 1, 1),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(-timedelta(hours=5, minutes=30))]),
    )
)
def test_date_times_round_trip(moment: datetime) -> None:
    assert parse_date_time(format_date_time(moment)) == (moment, True)
