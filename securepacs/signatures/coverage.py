"""What a signature covers and what it leaves open: profile, elements, byte ranges (PS3.15 C.2-C.4, PS3.3 C.12.1.1.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from securepacs.dicom.elements import Part
from securepacs.dicom.part10 import EncodedDataSet
from securepacs.signatures import profiles
from securepacs.signatures.mac import MacStream
from securepacs.signatures.profiles import (
    IDENTITY_TAGS,
    MANDATORY,
    PIXEL_TAGS,
    PROFILE_ALGORITHMS,
    Profile,
    Traits,
    name_tag,
)
from securepacs.signatures.sequences import (
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_PARAMETERS_SEQUENCE,
    MacParameters,
    Scope,
    scope_tokens,
)

_ITEM_TAG = re.compile(rb"\xfe\xff\x00\xe0", re.DOTALL)
_OWN = (MAC_PARAMETERS_SEQUENCE, DIGITAL_SIGNATURES_SEQUENCE)
_LISTS = {
    Profile.CREATOR: profiles.Coverage.CREATOR,
    Profile.AUTHORIZATION: profiles.Coverage.AUTHORIZATION,
    Profile.SR: profiles.Coverage.SR,
}


class Place(NamedTuple):
    """One element of a data set: where it stands."""

    tag: int
    vr: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Outline:
    """The elements of one data set in file order, and what the profiles ask about it. `fragments`: spans of encapsulated data."""

    places: tuple[Place, ...]
    fragments: tuple[tuple[int, int], ...]
    traits: Traits

    @property
    def tags(self) -> frozenset[int]:
        """All tags that are there, group lengths and signatures aside."""
        return frozenset(place.tag for place in self.places if place.tag & 0xFFFF and place.tag not in _OWN)

    def pixels_in(self, tags: Iterable[int]) -> bool:
        """Return whether the data set has pixel data and `tags` name it."""
        return any(tag in PIXEL_TAGS and tag in self.tags for tag in tags)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The measure of one signature; the fields are those of SignatureResult."""

    profile: str = Profile.NONE
    profiles: frozenset[str] = frozenset()
    covered: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()


def outline(dataset: EncodedDataSet, scope: Scope | None = None) -> Outline:
    """Return the elements of the outermost data set, or of the item of `scope`."""
    whole = Scope((), dataset.start, dataset.end, signed_pixels=False, mac_parameters=None, signatures=None)
    places: list[Place] = []
    fragments: list[tuple[int, int]] = []
    start = 0
    raw_data = verified = False
    for token in scope_tokens(dataset, scope or whole):
        if token.depth:
            continue
        if token.part is Part.ELEMENT:
            places.append(Place(token.tag, token.vr, token.offset, token.value_offset + token.length))
            raw_data |= token.tag == profiles.CREATOR_VERSION_UID
            if token.tag == profiles.VERIFICATION_FLAG:
                verified = bytes(dataset.value(token)).strip(b" \0") == b"VERIFIED"
        elif token.part in (Part.SEQUENCE, Part.FRAGMENTS):
            start = token.offset
        elif token.part is Part.FRAGMENT:
            fragments.append((token.value_offset, token.value_offset + token.length))
        else:
            places.append(Place(token.tag, token.vr, start, token.value_offset))
    return Outline(tuple(places), tuple(fragments), Traits(raw_data, verified))


def measure(
    dataset: EncodedDataSet,
    scope: Scope,
    parameters: MacParameters,
    stream: MacStream,
    outermost: Outline,
    *,
    in_profiles: bool,
    purpose: tuple[str, str] | None,
) -> Coverage:
    """Measure a signature from what its MAC stream has met. `in_profiles`: whether its key is one the profiles allow."""
    own = outline(dataset, scope) if scope.path else outermost
    seen = frozenset(stream.seen)
    present = own.tags
    met = _profiles_met(own, seen, parameters.algorithm, purpose) if in_profiles and not scope.path else set()
    if in_profiles and parameters.algorithm in PROFILE_ALGORITHMS:
        met.add(Profile.BASE)
    order = (Profile.CREATOR, Profile.AUTHORIZATION, Profile.SR, Profile.BASE)
    open_tags = sorted(present - seen, key=_importance)
    return Coverage(
        profile=next((profile for profile in order if profile in met), Profile.NONE),
        profiles=frozenset(str(profile) for profile in met),
        covered=tuple(name_tag(tag) for tag in sorted(seen)),
        uncovered=tuple(name_tag(tag) for tag in open_tags),
        ranges=_open_ranges(dataset, scope, own, seen, stream),
        warnings=_warnings(dataset, scope, own, outermost, seen, parameters),
    )


def _profiles_met(own: Outline, seen: frozenset[int], algorithm: str, purpose: tuple[str, str] | None) -> set[Profile]:
    """Return the profiles with a coverage list whose every demand is met (PS3.15 C.2-C.4)."""
    if algorithm not in PROFILE_ALGORITHMS:
        return set()
    met = set()
    for profile, coverage in _LISTS.items():
        traits = own.traits
        if profile is Profile.SR:
            if not profiles.is_structured_report(own.tags) or purpose is None or purpose[1] != profiles.PURPOSE_SCHEME:
                continue
            traits = Traits(verified=traits.verified and purpose[0] == str(profiles.VERIFICATION))
        if MANDATORY[profile] <= seen and profiles.required(coverage, own.tags, traits) <= seen:
            met.add(profile)
    return met


def _importance(tag: int) -> tuple[int, int]:
    """Sort key: pixel data, then whose image it is, then the rest."""
    if tag in PIXEL_TAGS:
        return 0, tag
    return (1, IDENTITY_TAGS.index(tag)) if tag in IDENTITY_TAGS else (2, tag)


def _warnings(
    dataset: EncodedDataSet, scope: Scope, own: Outline, outermost: Outline, seen: frozenset[int], parameters: MacParameters
) -> tuple[str, ...]:
    covered_here = frozenset[int]() if scope.path else seen
    grave = sorted((tag for tag in outermost.tags - covered_here if _importance(tag)[0] < 2), key=_importance)
    warnings = [f"uncovered:{name_tag(tag)}" for tag in grave]
    if scope.path:
        warnings.append("covers-item-only")
    absent = sorted(set(parameters.tags) - own.tags)
    warnings += [f"listed-but-absent:{name_tag(tag)}" for tag in absent]
    if any(tag in seen for tag in PIXEL_TAGS) and _embeds_item_tag(dataset, own):
        warnings.append("fragment-embeds-item-tag")
    return tuple(warnings)


def _embeds_item_tag(dataset: EncodedDataSet, own: Outline) -> bool:
    """Return whether a fragment contains the bytes of an item tag at an even offset: its boundaries could have been moved."""
    return any(found.start() % 2 == 0 for start, end in own.fragments for found in _ITEM_TAG.finditer(dataset.view[start:end]))


def _open_ranges(
    dataset: EncodedDataSet, scope: Scope, own: Outline, seen: frozenset[int], stream: MacStream
) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges outside the signature: head of the file, elements not signed, parts of sequences not hashed."""
    spans = [(0, scope.start), (scope.end, len(dataset.view))]
    spans += [(place.start, place.end) for place in own.places if place.tag not in seen and place.tag not in _OWN]
    spans += stream.skipped
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)
