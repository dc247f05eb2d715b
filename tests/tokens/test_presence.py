"""A card counts as pulled after half a second."""

from __future__ import annotations

import pytest

from securepacs.tokens.presence import Presence


@pytest.mark.parametrize(
    ("looks", "removed"),
    [
        ([(True, 0.0)], False),
        ([(False, 0.0)], False),
        ([(False, 0.0), (False, 0.4)], False),
        ([(False, 0.0), (False, 0.5)], True),
        ([(False, 0.0), (True, 0.3), (False, 0.6), (False, 1.0)], False),  # two short losses are no long one
        ([(False, 0.0), (False, 0.5), (True, 0.7)], False),
    ],
)
def test_looks(looks: list[tuple[bool, float]], removed: bool) -> None:
    presence = Presence()
    for present, at in looks:
        presence.saw(present, at=at)
    assert presence.removed is removed


def test_a_change_is_told_once() -> None:
    presence = Presence(grace=0.5)
    looks = [(True, 0.0), (False, 1.0), (False, 1.5), (False, 2.0), (True, 3.0), (True, 4.0)]
    assert [presence.saw(present, at=at) for present, at in looks] == [False, False, True, False, True, False]
