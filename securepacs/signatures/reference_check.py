"""Comparing the secure references of a document with the instances they name (PS3.15 A.4, PS3.3 C.17.2.1).

A copied signature (0400,0402) agrees when the instance carries a signature of that UID and value, and that signature holds under
the same rules as every other; a MAC (0400,0403) agrees when it is the digest of the instance as it is, bit by bit. What a
comparison does to the signatures over the document:

    differs      TOTAL-FAILED / HASH_FAILURE: a signed data object is not what was signed (ETSI EN 319 102-1)
    weak         INDETERMINATE / CRYPTO_CONSTRAINTS_FAILURE, unless weak hashes are allowed
    undecided    INDETERMINATE / SIGNED_DATA_NOT_FOUND: the instance is there, but not in a form that can be compared, or the copied
                 signature is not trusted
    missing      warning `references-missing:N`: nothing is known about N instances that are not at hand
    unsecured    warning `references-unsecured:N`: A.4 asks for a secure reference, and N items have none
    partial      warning `references-partial:N`: N references agree, but leave out pixel data or patient identity
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from securepacs.dicom.part10 import EncodedDataSet, compression_of, open_dataset
from securepacs.errors import MalformedError, UsageError
from securepacs.signatures.coverage import outline
from securepacs.signatures.instances import raw_of
from securepacs.signatures.judgement import Judgement, Rules
from securepacs.signatures.lookup import Find
from securepacs.signatures.mac import UnsignableError
from securepacs.signatures.profiles import (
    AGEING_ALGORITHMS,
    IDENTITY_TAGS,
    PIXEL_TAGS,
    PROFILE_ALGORITHMS,
    WEAK_ALGORITHMS,
    name_tag,
)
from securepacs.signatures.references import (
    EVIDENCE,
    InstanceMac,
    SecureReference,
    SignatureCopy,
    mac_digest,
    read_references,
    referable_tags,
    uids_of,
)
from securepacs.signatures.report import INDETERMINATE, TOTAL_FAILED, TOTAL_PASSED, SignatureResult
from securepacs.signatures.sequences import Survey, read_mac_parameters, read_signatures, survey

if TYPE_CHECKING:
    from securepacs.signatures.coverage import Outline


class Outcome(StrEnum):
    """What became of one reference."""

    MATCHES = "matches"
    DIFFERS = "differs"
    MISSING = "missing"
    WEAK = "weak"
    UNDECIDED = "undecided"
    UNSECURED = "unsecured"


_GRAVEST = (Outcome.DIFFERS, Outcome.WEAK, Outcome.UNDECIDED, Outcome.MATCHES)
_GRAVE_TAGS = frozenset((*PIXEL_TAGS, *IDENTITY_TAGS))
_VERDICTS = (
    (Outcome.DIFFERS, TOTAL_FAILED, "HASH_FAILURE", "a referenced instance is not what was signed for"),
    (Outcome.WEAK, INDETERMINATE, "CRYPTO_CONSTRAINTS_FAILURE", "a referenced instance is bound by a weak hash only"),
    (
        Outcome.UNDECIDED,
        INDETERMINATE,
        "SIGNED_DATA_NOT_FOUND",
        "a referenced instance cannot be compared with its reference",
    ),
)


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """The outcome of one reference. `uncovered`: elements of the instance that a reference in agreement says nothing about."""

    sop_instance_uid: str
    outcome: Outcome
    detail: str = ""
    uncovered: tuple[str, ...] = ()
    sequence: int = EVIDENCE[0]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result under its published names, ready for JSON."""
        return {"sop_instance_uid": self.sop_instance_uid, "outcome": str(self.outcome), "detail": self.detail}


@dataclass(frozen=True, slots=True)
class _Compared:
    outcome: Outcome
    detail: str = ""
    covered: frozenset[int] = frozenset()
    warnings: tuple[str, ...] = ()


def has_references(outermost: Outline) -> bool:
    """Return whether a data set has an evidence sequence."""
    return not outermost.tags.isdisjoint(EVIDENCE)


def check_references(dataset: EncodedDataSet, find: Find, rules: Rules) -> tuple[ReferenceResult, ...]:
    """Compare every reference of a document with the instance that `find` gives for it; never raises for what it finds."""
    try:
        references = read_references(dataset)
    except MalformedError as error:
        return tuple(ReferenceResult("", Outcome.UNDECIDED, error.message, sequence=tag) for tag in EVIDENCE)
    return tuple(_check(reference, find, rules) for reference in references)


def _check(reference: SecureReference, find: Find, rules: Rules) -> ReferenceResult:
    uid, sequence = reference.instance.sop_instance_uid, reference.sequence
    if reference.mac is None and not reference.signatures:
        return ReferenceResult(uid, Outcome.UNSECURED, "the reference has neither MAC nor signature", sequence=sequence)
    try:
        target = find(uid)
        if target is None:
            return ReferenceResult(uid, Outcome.MISSING, "the instance is not at hand", sequence=sequence)
        dataset = open_dataset(raw_of(target)[0])
        if uids_of(dataset) != reference.instance:
            detail = "the instance is of another study, series, class or UID than was signed for"
            return ReferenceResult(uid, Outcome.DIFFERS, detail, sequence=sequence)
        present = frozenset(referable_tags(dataset))
        found = _compare(dataset, reference, rules)
    except (MalformedError, UsageError) as error:
        return ReferenceResult(uid, Outcome.UNDECIDED, f"the instance cannot be read: {error.message}", sequence=sequence)
    covered = frozenset[int]().union(*(one.covered for one in found if one.outcome is Outcome.MATCHES))
    gravest = min(found, key=lambda one: _GRAVEST.index(one.outcome))
    warnings = tuple(dict.fromkeys(warning for one in found for warning in one.warnings))
    uncovered = tuple(name_tag(tag) for tag in sorted(present - covered)) if gravest.outcome is Outcome.MATCHES else ()
    return ReferenceResult(uid, gravest.outcome, gravest.detail, uncovered, sequence, warnings)


def _compare(dataset: EncodedDataSet, reference: SecureReference, rules: Rules) -> list[_Compared]:
    by_mac = [_compare_mac(dataset, reference.mac, rules)] if reference.mac else []
    if not reference.signatures:
        return by_mac
    found = survey(dataset)
    by_signature = [_compare_signature(dataset, found, copy, rules) for copy in reference.signatures]
    if by_mac and by_mac[0].outcome is Outcome.MATCHES:
        # the MAC proves the content; that a signature was taken off, or is not trusted, does not change it
        return [*by_mac, *(one for one in by_signature if one is not None and one.outcome is not Outcome.UNDECIDED)]
    absent = _Compared(Outcome.DIFFERS, "the instance does not carry the referenced signature")
    return [*by_mac, *(absent if one is None else one for one in by_signature)]


def _compare_mac(dataset: EncodedDataSet, mac: InstanceMac, rules: Rules) -> _Compared:
    name = PROFILE_ALGORITHMS.get(mac.algorithm)
    if name is None:
        return _Compared(Outcome.UNDECIDED, "the MAC algorithm is none of PS3.15 C.1")
    try:
        same = mac_digest(dataset, mac.tags, name) == mac.mac
    except UnsignableError as error:
        return _Compared(Outcome.UNDECIDED, error.message)
    if not same:
        if compression_of(mac.transfer_syntax) != compression_of(dataset.transfer_syntax):
            return _Compared(Outcome.UNDECIDED, "the MAC was made over another transfer syntax than that of the file")
        return _Compared(Outcome.DIFFERS, "the content is not what was signed for")
    if mac.algorithm in WEAK_ALGORITHMS and not rules.allow_weak_hash:
        return _Compared(Outcome.WEAK, f"{mac.algorithm} is too weak")
    weak = mac.algorithm in WEAK_ALGORITHMS | AGEING_ALGORITHMS
    return _Compared(Outcome.MATCHES, covered=frozenset(mac.tags), warnings=("references-weak-hash",) if weak else ())


def _compare_signature(dataset: EncodedDataSet, found: Survey, copy: SignatureCopy, rules: Rules) -> _Compared | None:
    """Judge the signature that `copy` was taken from; None when the instance does not carry it."""
    outermost = outline(dataset)
    for scope in found.scopes:
        parameters = tuple(read_mac_parameters(dataset, scope))
        for item in read_signatures(dataset, scope):
            if item.uid != copy.uid:
                continue
            if _unpadded(item.signature) != _unpadded(copy.value):
                return _Compared(Outcome.DIFFERS, "the referenced signature has another value in the instance")
            result = Judgement(rules, dataset, scope, item, parameters, outermost).result(repeated=found.mac_ids_repeat)
            if result.indication == TOTAL_FAILED:
                return _Compared(Outcome.DIFFERS, f"the referenced signature does not hold: {result.detail}")
            if result.indication != TOTAL_PASSED:
                weak = result.sub_indication == "CRYPTO_CONSTRAINTS_FAILURE"
                outcome = Outcome.WEAK if weak else Outcome.UNDECIDED
                return _Compared(outcome, f"the referenced signature is not proven: {result.detail}")
            signed = () if scope.path else _tags_of(result, outermost)
            weak_hash = ("references-weak-hash",) if "weak-hash" in result.warnings else ()
            return _Compared(Outcome.MATCHES, covered=frozenset(signed), warnings=weak_hash)
    return None


def _unpadded(value: bytes) -> bytes:
    """Return a signature value without the pad byte that an OB of odd length gets; RSA values have none, and lose none."""
    return value[:-1] if len(value) % 2 == 0 and value.endswith(b"\0") else value


def _tags_of(result: SignatureResult, outermost: Outline) -> Iterable[int]:
    covered = frozenset(result.covered)
    return (tag for tag in outermost.tags if name_tag(tag) in covered)


def apply_references(results: Iterable[SignatureResult], references: Iterable[ReferenceResult] | None) -> list[SignatureResult]:
    """Return the results with what the references do to them; None for `references` says that nothing was compared.

    Only signatures of the outermost data set that cover the evidence sequence concerned are touched.
    """
    changed = []
    for result in results:
        signed = [tag for tag in EVIDENCE if name_tag(tag) in result.covered and not result.location]
        if not signed:
            changed.append(result)
        elif references is None:
            changed.append(replace(result, warnings=(*result.warnings, "references-unchecked")))
        else:
            changed.append(_apply(result, [one for one in references if one.sequence in signed]))
    return changed


def _apply(result: SignatureResult, references: list[ReferenceResult]) -> SignatureResult:
    outcomes = {one.outcome for one in references}
    counts = Counter(str(one.outcome) for one in references)
    partial = sum(any(name_tag(tag) in one.uncovered for tag in _GRAVE_TAGS) for one in references)
    warnings = [f"references-{name}:{counts[name]}" for name in (Outcome.MISSING, Outcome.UNSECURED) if counts[name]]
    warnings += [f"references-partial:{partial}"] if partial else []
    warnings += dict.fromkeys(warning for one in references for warning in one.warnings)
    result = replace(result, warnings=(*result.warnings, *warnings))
    for outcome, indication, sub_indication, detail in _VERDICTS:
        graver = result.indication == TOTAL_PASSED or (indication == TOTAL_FAILED and result.indication != TOTAL_FAILED)
        if outcome in outcomes and graver:
            return replace(result, indication=indication, sub_indication=sub_indication, detail=detail)
    return result
