"""The lines between supervisor, workers and visitors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import MalformedError
from securepacs_proxy.control import LineReader, encode

MESSAGES = st.lists(
    st.fixed_dictionaries({"type": st.text(max_size=10)}, optional={"id": st.integers(), "text": st.text(max_size=40)}), max_size=8
)


@given(MESSAGES, st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_any_split_gives_the_same_messages(messages: list[dict[str, object]], cuts: list[int]) -> None:
    stream, reader = b"".join(map(encode, messages)), LineReader()
    got, position, turn = [], 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        got += reader.feed(stream[position : position + step])
        position, turn = position + step, turn + 1
    assert got == messages


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b"{}\n", b'{"type": 1}\n', b"\xff\n"])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedError):
        LineReader().feed(line)


def test_a_line_without_end_is_bounded() -> None:
    reader = LineReader(limit=100)
    assert reader.feed(b"x" * 100) == []
    with pytest.raises(MalformedError):
        reader.feed(b"x")
