"""What a signature covers and what it leaves open: profile, elements, byte ranges (PS3.15 C.2-C.4, PS3.3 C.12.1.1.3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from securepacs.dicom.elements import ITEM, Part, Token
from securepacs.dicom.part10 import EncodedDataSet, compression_of
from securepacs.errors import MalformedError
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
    CERTIFICATE_OF_SIGNER,
    DATA_ELEMENTS_SIGNED,
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_ALGORITHM,
    MAC_ID_NUMBER,
    MAC_PARAMETERS_SEQUENCE,
    SIGNATURE,
    MacParameters,
    Scope,
    SignatureItem,
    derive,
    scope_tokens,
)

_MOST_ATTRIBUTES = 65_536  # PS3.6 has some 5000
_STEP = 4096  # elements looked at together
_ITEM_TAG = re.compile(rb"\xfe\xff\x00\xe0", re.DOTALL)
_NO_ATTRIBUTES = frozenset({MAC_PARAMETERS_SEQUENCE, DIGITAL_SIGNATURES_SEQUENCE, ITEM})
_LISTS = {
    Profile.CREATOR: profiles.Coverage.CREATOR,
    Profile.AUTHORIZATION: profiles.Coverage.AUTHORIZATION,
    Profile.SR: profiles.Coverage.SR,
}


@dataclass(frozen=True, slots=True)
class Outline:
    """What is in one data set: all its tags, group lengths and signatures aside, and what the profiles ask about it."""

    tags: frozenset[int]
    traits: Traits

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
    warnings: tuple[str, ...] = ()


def outline(dataset: EncodedDataSet, scope: Scope | None = None) -> Outline:
    """Return what is in the outermost data set, or in the item of `scope`."""
    place = scope or Scope((), dataset.start, dataset.end, signed_pixels=False, mac_parameters=None, signatures=None)
    attributes = derive(dataset, place, _attributes)
    verified = profiles.VERIFICATION_FLAG in attributes and any(
        bytes(dataset.value(token)).strip(b" \0") == b"VERIFIED"
        for token in scope_tokens(dataset, place)
        if token.tag == profiles.VERIFICATION_FLAG and token.part is Part.ELEMENT and not token.depth
    )
    return Outline(attributes, Traits(profiles.CREATOR_VERSION_UID in attributes, verified))


def _attributes(found: Iterable[Token]) -> frozenset[int]:
    """Return the tags of depth 0, group lengths and signatures aside."""
    tags: set[int] = set()
    found = iter(found)
    while batch := list(islice(found, _STEP)):
        tags.update([token[1] for token in batch if not token[6]])
        if len(tags) > _MOST_ATTRIBUTES:
            raise MalformedError(f"a signed data set has more than {_MOST_ATTRIBUTES} attributes", offset=batch[-1].offset)
    return frozenset([tag for tag in tags if tag & 0xFFFF and tag not in _NO_ATTRIBUTES])


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
    count = _measure if len(own.tags) + len(outermost.tags) <= profiles.MANY_TAGS else _measure.__wrapped__
    coverage = count(own, outermost, seen, parameters.tags, parameters.algorithm, in_profiles, scope.path == (), purpose)
    warnings = coverage.warnings
    if not seen.isdisjoint(PIXEL_TAGS) and _embeds_item_tag(dataset, scope):
        warnings = (*warnings, "fragment-embeds-item-tag")
    return replace(coverage, warnings=warnings)


@lru_cache(maxsize=32)  # the images of a series are alike
def _measure(
    own: Outline,
    outermost: Outline,
    seen: frozenset[int],
    listed: tuple[int, ...],
    algorithm: str,
    in_profiles: bool,
    on_top: bool,
    purpose: tuple[str, str] | None,
) -> Coverage:
    """Measure what does not depend on where things stand in the file."""
    met = _profiles_met(own, seen, algorithm, purpose) if in_profiles and on_top else set()
    if in_profiles and algorithm in PROFILE_ALGORITHMS:
        met.add(Profile.BASE)
    order = (Profile.CREATOR, Profile.AUTHORIZATION, Profile.SR, Profile.BASE)
    return Coverage(
        profile=next((profile for profile in order if profile in met), Profile.NONE),
        profiles=frozenset(str(profile) for profile in met),
        covered=tuple(name_tag(tag) for tag in sorted(seen)),
        uncovered=tuple(name_tag(tag) for tag in sorted(own.tags - seen, key=_importance)),
        warnings=_warnings(own, outermost, seen, listed, on_top=on_top),
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


def _warnings(own: Outline, outermost: Outline, seen: frozenset[int], listed: tuple[int, ...], *, on_top: bool) -> tuple[str, ...]:
    covered_here = seen if on_top else frozenset[int]()
    grave = sorted((tag for tag in outermost.tags - covered_here if _importance(tag)[0] < 2), key=_importance)
    warnings = [f"uncovered:{name_tag(tag)}" for tag in grave]
    if not on_top:
        warnings.append("covers-item-only")
    absent = sorted(set(listed) - own.tags)
    warnings += [f"listed-but-absent:{name_tag(tag)}" for tag in absent]
    return tuple(warnings)


def _embeds_item_tag(dataset: EncodedDataSet, scope: Scope) -> bool:
    """Return whether a fragment contains the bytes of an item tag at an even offset: its boundaries could have been moved."""
    if not compression_of(dataset.transfer_syntax):
        return False
    return any(
        found.start() % 2 == 0
        for token in scope_tokens(dataset, scope)
        if token.part is Part.FRAGMENT and not token.depth
        for found in _ITEM_TAG.finditer(dataset.value(token))
    )


def open_ranges(
    dataset: EncodedDataSet, scope: Scope, stream: MacStream, parameters: MacParameters, item: SignatureItem
) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges that may change while the signature still fits, ascending.

    The head of the file, elements not signed, what in signed sequences is not hashed, and of the two signature sequences all but
    the parameters, hashed elements, certificate and signature value of this signature: framing, other signatures, time stamps.
    """
    left_open = [(0, scope.start), *stream.skipped, (scope.end, len(dataset.view))]
    guarded = sorted(_guarded(dataset, stream, parameters, item))
    merged: list[tuple[int, int]] = []
    for whole in left_open:
        for start, end in _without(*whole, guarded):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
    return tuple(merged)


def _guarded(
    dataset: EncodedDataSet, stream: MacStream, parameters: MacParameters, item: SignatureItem
) -> Iterator[tuple[int, int]]:
    """Yield what in the two signature sequences cannot change without notice."""
    yield from _without(item.start, item.end, stream.skipped_in_item)
    for tag in (CERTIFICATE_OF_SIGNER, SIGNATURE):
        if tag in item.places:
            yield item.places[tag]
    places = parameters.places
    yield places[MAC_ID_NUMBER]
    start, end = places[MAC_ALGORITHM]
    yield start, end - (end - start - len(bytes(dataset.view[start:end]).rstrip(b"\0 ")))
    start, end = places[DATA_ELEMENTS_SIGNED]
    first = end - 4 * len(parameters.tags)
    seen = frozenset(stream.seen)
    if len(seen) == len(parameters.tags):  # every tag listed was there, and none is listed twice
        yield start, end
        return
    yield start, first
    count = Counter(parameters.tags)
    for number, tag in enumerate(parameters.tags):
        if tag in seen and count[tag] == 1:
            yield first + 4 * number, first + 4 * number + 4


def _without(start: int, end: int, cuts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a range without the `cuts`, which ascend."""
    for cut_start, cut_end in cuts:
        if cut_end <= start:
            continue
        if cut_start >= end:
            break
        if cut_start > start:
            yield start, cut_start
        start = max(start, cut_end)
    if start < end:
        yield start, end
