"""Structures seen before: recognized exactly when a fresh reading would give the same, and not a moment longer."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from securepacs.dicom import layout
from securepacs.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding, Token, tokens
from securepacs.dicom.layout import Layouts
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import MalformedError
from tests.support.encoded import element, encapsulated, implicit, item, part10, sequence

IMAGE = (
    element(0x00080018, b"UI", b"1.2.3\0")
    + sequence(0x00081032, item(element(0x00080104, b"LO", b"Name")), item(b"", undefined=True), undefined=True)
    + sequence(0x00081140, item(element(0x00081155, b"UI", b"1.2\0")))
    + element(0x00100010, b"PN", b"Test^P")
    + encapsulated(b"", b"\1\2\3\4")
)


def learnt(data: bytes, encoding: Encoding = EXPLICIT_LITTLE) -> Layouts:
    layouts = Layouts()
    for _ in range(2):
        layouts.learn(list(tokens(data, encoding=encoding)), memoryview(data), 0, len(data), encoding)
    return layouts


def test_a_layout_is_known_from_the_second_time_on() -> None:
    layouts, view, found = Layouts(), memoryview(IMAGE), list(tokens(IMAGE))
    layouts.learn(found, view, 0, len(view), EXPLICIT_LITTLE)
    assert layouts.recall(view, 0, len(view), EXPLICIT_LITTLE) is None
    layouts.learn(found, view, 0, len(view), EXPLICIT_LITTLE)
    again = layouts.recall(view, 0, len(view), EXPLICIT_LITTLE)
    assert again is not None
    assert again.tokens is found
    assert layouts.recall(view, 0, len(view), EXPLICIT_BIG) is None


def fresh(data: bytes) -> list[Token] | None:
    try:
        return list(tokens(data))
    except MalformedError:
        return None


def test_any_changed_byte_gives_what_a_fresh_reading_gives() -> None:
    layouts = learnt(IMAGE)
    known = 0
    for position in range(len(IMAGE)):
        for pattern in (1, 0x20, 0x80, 0xFF):
            changed = bytearray(IMAGE)
            changed[position] ^= pattern
            recalled = layouts.recall(memoryview(changed), 0, len(changed), EXPLICIT_LITTLE)
            if recalled is not None:
                known += 1
                assert recalled.tokens == fresh(bytes(changed))
    values = sum(token.length for token in tokens(IMAGE) if token.part.name in ("ELEMENT", "FRAGMENT"))
    assert known == 4 * values  # a changed value leaves the layout known; any changed header does not


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (implicit(0x00080018, b"1.2.3\0"), IMPLICIT_LITTLE),  # the VR may depend on values
        (element(0x00091001, b"UN", implicit(0xFFFEE0DD), length=0xFFFFFFFF), EXPLICIT_LITTLE),  # so inside UN
    ],
)
def test_what_depends_on_more_than_headers_is_read_anew(data: bytes, encoding: Encoding) -> None:
    assert learnt(data, encoding).recall(memoryview(data), 0, len(data), encoding) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_MOST_LAYOUTS", 2)
    monkeypatch.setattr(layout, "_MOST_PLACES", 2)
    layouts = Layouts()
    images = [IMAGE + element(0xFFFCFFFC, b"OB", bytes(2 * size)) for size in range(5)]

    def learn(image: bytes) -> None:
        layouts.learn(list(tokens(image)), memoryview(image), 0, len(image), EXPLICIT_LITTLE)

    def known(image: bytes) -> bool:
        return layouts.recall(memoryview(image), 0, len(image), EXPLICIT_LITTLE) is not None

    for image in images * 2:
        learn(image)
    assert not any(map(known, images))  # each was forgotten before it came again
    for image in images:
        learn(image)
        learn(image)
    assert list(map(known, images)) == [False, False, False, True, True]
    monkeypatch.setattr(layout, "_MOST_TOKENS", 3)
    assert not any(learnt(image).recall(memoryview(image), 0, len(image), EXPLICIT_LITTLE) for image in images)


calls: list[int] = []


def count(found: Iterable[Token], more: int = 0) -> int:
    calls.append(more)
    return len(list(found)) + more


def test_what_follows_from_the_structure_is_computed_once_for_all_alike() -> None:
    files = [part10(IMAGE.replace(b"Test^P", name)) for name in (b"Same^1", b"Same^2", b"Same^3", b"Same^4")]
    calls.clear()
    number = len(list(tokens(IMAGE)))
    assert [open_dataset(raw).derive(count) for raw in files] == [number] * 4
    assert len(calls) <= 2
    assert [open_dataset(raw).derive(count, 5) for raw in files] == [number + 5] * 4
    assert calls.count(5) == 1
