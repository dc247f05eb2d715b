"""What happens to each attribute: Table E.1-1 of PS3.15 as data, and what its letters mean here.

`attributes.csv` holds the letters: of the basic profile from dicom-anonymizer (BSD license, edition 2026c), of the options from
dicom-standard (MIT license, edition 2020); for rows that are newer than that, an option is given to dates and times, to UIDs and to
free text alone. Of letters that depend on the type of an attribute in its IOD (X/Z, X/D, X/Z/D, Z/D) the one is taken that is legal
for every type.

Beyond the table: private attributes and attributes that no dictionary knows are removed; sequences that the table does not name are
kept, and the rules hold inside them.
"""

from __future__ import annotations

import csv
from enum import Enum, auto
from functools import lru_cache
from importlib.resources import files

from securepacs.confidentiality.options import Option
from securepacs.dicom.vr import TEXT

_CLEANABLE = frozenset({b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"SQ"})
_DATES = frozenset({b"DA", b"DT", b"TM"})
_REPEATING = 0xFF00FFFF  # mask of groups 50xx and 60xx


class Action(Enum):
    """What is done with an attribute (PS3.15 Table E.1-1a)."""

    KEEP = auto()  # K, and what the table does not name
    REMOVE = auto()  # X
    EMPTY = auto()  # Z
    DUMMY = auto()  # D
    UID = auto()  # U
    CLEAN = auto()  # C of a descriptor
    SHIFT = auto()  # C of a date
    ITEMS = auto()  # a sequence whose items the rules are applied to


_BASIC = {
    "X": Action.REMOVE, "Z": Action.EMPTY, "D": Action.DUMMY, "U": Action.UID, "X/Z": Action.EMPTY, "X/D": Action.DUMMY,
    "X/Z/D": Action.DUMMY, "Z/D": Action.DUMMY, "X/Z/U*": Action.ITEMS,
}  # fmt: skip


@lru_cache(maxsize=1)
def table() -> dict[int, tuple[str, dict[Option, str]]]:
    """Return, for each tag, the letter of the basic profile and those of the options; 5000 and 6000 stand for all their groups."""
    text = files("securepacs.confidentiality").joinpath("attributes.csv").read_text(encoding="ascii")
    rows = {}
    for row in csv.DictReader(text.splitlines()):
        options = {option: row[option.value] for option in Option if row[option.value]}
        tag = row["tag"]
        rows[int(tag.replace("xxxxxx", "000000").replace("xx", "00"), 16)] = (row["basic"], options)
    return rows


def _row(tag: int) -> tuple[str, dict[Option, str]] | None:
    group = tag >> 24
    if group == 0x50 and not tag >> 16 & 1:
        return table()[0x50000000]
    return table().get(tag & _REPEATING if group == 0x60 else tag)


@lru_cache(maxsize=4096)
def dictionary_vr(tag: int) -> bytes | None:
    """Return the first VR that PS3.6 gives the attribute; None when it has none (private or unknown)."""
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)[:2].encode("ascii")
    except KeyError:
        return None


def fallback(tag: int) -> Action:
    """Return what the basic profile alone does with an attribute of the table."""
    row = _row(tag)
    return Action.REMOVE if row is None else _BASIC.get(row[0], Action.REMOVE)


def action(tag: int, vr: bytes, options: frozenset[Option]) -> Action:
    """Return what is to be done with the attribute `tag`, whose VR (SQ for every sequence) is `vr`."""
    if tag >> 16 & 1 or tag >> 16 < 8 or tag & 0xFFFF == 0:
        return Action.REMOVE  # private, of a command or of the meta information, group length
    row = _row(tag)
    if row is None:
        if dictionary_vr(tag) is None:
            return Action.REMOVE
        return Action.ITEMS if vr == b"SQ" else Action.KEEP
    letters = {letter for option, letter in row[1].items() if option in options}
    if "K" in letters:
        return Action.ITEMS if vr == b"SQ" and fallback(tag) is Action.ITEMS else Action.KEEP
    if "C" in letters and vr in _DATES:
        return Action.SHIFT
    if "C" in letters and vr in _CLEANABLE:
        return Action.CLEAN
    basic = fallback(tag)
    if basic is Action.ITEMS and vr != b"SQ":
        return Action.EMPTY
    if basic is Action.UID and vr == b"SQ":
        return Action.ITEMS
    if basic is Action.UID and vr not in TEXT | {b"UN"}:
        return Action.REMOVE
    return basic
