"""Bounded BER check: what passes is one complete value, and whatever fails names the offset."""

from __future__ import annotations

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from securepacs.cms import ber
from securepacs.errors import MalformedError

VALUES = st.recursive(
    st.binary(max_size=300).map(lambda value: core.OctetString(value).dump()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: core.Sequence(contents=b"".join(parts)).dump()),
        st.lists(inner, max_size=4).map(lambda parts: b"\x30\x80" + b"".join(parts) + b"\0\0"),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_well_formed_values_pass(value: bytes) -> None:
    ber.check(value)


@given(VALUES, st.data())
def test_every_truncation_is_refused(value: bytes, data: st.DataObject) -> None:
    with pytest.raises(MalformedError):
        ber.check(value[: data.draw(st.integers(0, len(value) - 1))])


@given(VALUES, st.binary(min_size=1, max_size=8))
def test_data_after_the_value_is_refused(value: bytes, more: bytes) -> None:
    with pytest.raises(MalformedError):
        ber.check(value + more)


@given(st.binary(max_size=200))
def test_garbage_is_answered_with_the_typed_error_or_passes(garbage: bytes) -> None:
    try:
        ber.check(garbage)
    except MalformedError as error:
        offset = error.offset
    else:
        offset = len(garbage)
    assert offset is not None
    assert 0 <= offset <= len(garbage)


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (b"\x30", 0),
        (b"\x04\x80\0\0", 0),  # primitive with indefinite length
        (b"\x30\x80\x00\x01\x00\0\0", 2),  # end-of-contents with contents
        (b"\x30\x03\x04\x02\x00", 2),  # longer than its holder
        (b"\x04\x82\x01", 0),  # length cut off
        (b"\x04\x89" + bytes(9), 0),  # length of nine bytes
        (b"\x1f\x81\x81\x81\x81\x81\x00", 0),  # endless tag
        (b"\x04\x00\x04\x00", 2),  # two values
    ],
)
def test_offset_of_the_first_fault(data: bytes, offset: int) -> None:
    with pytest.raises(MalformedError) as caught:
        ber.check(data)
    assert caught.value.offset == offset


def test_a_thousand_indefinite_lengths_are_refused_and_not_recursed_into() -> None:
    with pytest.raises(MalformedError, match="deep"):
        ber.check(b"\x30\x80" * 1000 + b"\0\0" * 1000)


def test_nesting_up_to_the_limit_passes() -> None:
    ber.check(b"\x30\x80" * ber.MAX_DEPTH + b"\0\0" * ber.MAX_DEPTH)


def test_the_number_of_values_is_limited() -> None:
    many = core.Sequence(contents=b"\x05\x00" * 100).dump()
    ber.check(many, max_elements=101)
    with pytest.raises(MalformedError, match="more than 100 values"):
        ber.check(many, max_elements=100)


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError])
def test_what_asn1_decoders_raise_becomes_malformed(error: type[Exception]) -> None:
    with pytest.raises(MalformedError, match="thing does not follow"), ber.asn1_errors("thing"):
        raise error("inner text is not passed on")
