"""A stage in another thread: the same octets, its errors here, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs.errors import MalformedError
from securepacs.media.ahead import ahead


def stages() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "securepacs-ahead"]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 700_000), max_size=12))
def test_same_octets(sizes: list[int]) -> None:
    buffer = bytearray(700_000)

    def reusing() -> Iterator[memoryview]:
        for number, size in enumerate(sizes):
            buffer[:size] = bytes((number,)) * size
            yield memoryview(buffer)[:size]

    assert b"".join(map(bytes, ahead(reusing()))) == b"".join(bytes((number,)) * size for number, size in enumerate(sizes))
    assert stages() == []


def test_errors_arrive_after_what_came_before() -> None:
    def failing() -> Iterator[bytes]:
        yield bytes(1 << 19)
        raise MalformedError("broken")

    seen: list[int] = []
    with pytest.raises(MalformedError, match="broken"):
        seen.extend(len(piece) for piece in ahead(failing()))
    assert sum(seen) == 1 << 19
    assert stages() == []


def test_a_consumer_that_stops_early_leaves_no_thread() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    stage = ahead(endless())
    next(stage)
    stage.close()  # type: ignore[attr-defined]
    assert stages() == []
