"""The options of the Basic Application Level Confidentiality Profile (PS3.15 E.3) that this product has."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from securepacs import codes
from securepacs.codes import CodedValue
from securepacs.errors import UsageError


class Option(StrEnum):
    """What is kept or cleaned where the basic profile alone would remove it; the values are columns of `attributes.csv`."""

    RETAIN_UIDS = "retain-uids"
    RETAIN_DEVICE_IDENTITY = "retain-device-identity"
    RETAIN_INSTITUTION_IDENTITY = "retain-institution-identity"
    RETAIN_PATIENT_CHARACTERISTICS = "retain-patient-characteristics"
    RETAIN_FULL_DATES = "retain-full-dates"
    RETAIN_MODIFIED_DATES = "retain-modified-dates"
    CLEAN_DESCRIPTORS = "clean-descriptors"


_CODES = {
    Option.CLEAN_DESCRIPTORS: codes.CLEAN_DESCRIPTORS_OPTION,
    Option.RETAIN_FULL_DATES: codes.RETAIN_FULL_DATES_OPTION,
    Option.RETAIN_MODIFIED_DATES: codes.RETAIN_MODIFIED_DATES_OPTION,
    Option.RETAIN_PATIENT_CHARACTERISTICS: codes.RETAIN_PATIENT_CHARACTERISTICS_OPTION,
    Option.RETAIN_DEVICE_IDENTITY: codes.RETAIN_DEVICE_IDENTITY_OPTION,
    Option.RETAIN_UIDS: codes.RETAIN_UIDS_OPTION,
    Option.RETAIN_INSTITUTION_IDENTITY: codes.RETAIN_INSTITUTION_IDENTITY_OPTION,
}  # fmt: skip


def checked(options: Iterable[Option | str]) -> frozenset[Option]:
    """Return the options as a set; UsageError for one that does not exist and for two that exclude each other."""
    known = {option.value for option in Option}
    given = list(options)
    for option in given:
        if option not in known:
            raise UsageError(f"there is no option {option}", hint=f"one of {', '.join(sorted(known))}", standard="PS3.15 E.3")
    chosen = frozenset(Option(option) for option in given)
    if {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES} <= chosen:
        raise UsageError("retain-full-dates and retain-modified-dates exclude each other", standard="PS3.15 E.3.6")
    return chosen


def described(options: frozenset[Option]) -> tuple[CodedValue, ...]:
    """Return the coded terms of what was done: the profile, then its options (CID 7050)."""
    return (codes.BASIC_APPLICATION_CONFIDENTIALITY_PROFILE, *(code for option, code in _CODES.items() if option in options))


def longitudinal(options: frozenset[Option]) -> str:
    """Return the value of Longitudinal Temporal Information Modified (0028,0303), PS3.15 E.3.6."""
    if Option.RETAIN_FULL_DATES in options:
        return "UNMODIFIED"
    return "MODIFIED" if Option.RETAIN_MODIFIED_DATES in options else "REMOVED"
