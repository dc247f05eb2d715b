"""A study against its signed manifest: which instances are there unchanged, changed, missing, or were never signed for (PS3.17 W).

What a manifest says counts only because a signature covers it: without one there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securepacs.dicom.elements import Buffer
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import VerificationError
from securepacs.signatures.instances import raw_of
from securepacs.signatures.manifests import read_manifest
from securepacs.signatures.profiles import name_tag
from securepacs.signatures.reference_check import Outcome, ReferenceResult
from securepacs.signatures.references import CURRENT_EVIDENCE, uids_of
from securepacs.signatures.report import INDETERMINATE, TOTAL_FAILED, TOTAL_PASSED, SignatureReport
from securepacs.signatures.verify import Verifier


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What a comparison with a manifest found, by SOP Instance UID. `manifest` is the report on the document's own signatures.

    `undecided`: instances at hand that could not be compared, for example because they were compressed after signing.
    """

    manifest: SignatureReport
    study_instance_uid: str
    unchanged: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """TOTAL-PASSED when the manifest passes and the study is exactly what it names, unchanged.

        TOTAL-FAILED for a manifest that fails or a changed instance; INDETERMINATE for everything else.
        """
        if self.manifest.verdict == TOTAL_FAILED or self.changed:
            return TOTAL_FAILED
        complete = not (self.missing or self.extra or self.undecided)
        return TOTAL_PASSED if complete and self.manifest.verdict == TOTAL_PASSED else INDETERMINATE

    def __bool__(self) -> bool:
        raise TypeError("a StudyReport is not a truth value; ask .verdict")

    def to_dict(self) -> dict[str, Any]:
        """Return the report under its published names, ready for JSON."""
        lists = {name: list(getattr(self, name)) for name in ("unchanged", "changed", "missing", "extra", "undecided")}
        return {
            "verdict": self.verdict,
            "study_instance_uid": self.study_instance_uid,
            **lists,
            "manifest": self.manifest.to_dict(),
        }


def check_study(manifest: Path | Buffer, instances: Iterable[Path | Buffer], verifier: Verifier) -> StudyReport:
    """Compare the `instances` of a study with its signed manifest; the options and the trust are those of `verifier`.

    The manifest itself may be among the instances. MalformedError when the manifest is none or an instance no DICOM;
    VerificationError when no signature of the document covers what it names, or two instances have one SOP Instance UID.
    """
    raw = bytes(raw_of(manifest)[0])  # bytes, not a mapping: what is verified and what is read must be the same
    document = read_manifest(raw)
    found: dict[str, Path | Buffer] = {}
    for target in instances:
        uid = uids_of(open_dataset(raw_of(target)[0])).sop_instance_uid
        if uid in found:
            raise VerificationError("two instances have the same SOP Instance UID", standard="PS3.5 9")
        if uid != document.sop_instance_uid:
            found[uid] = target
    report = verifier.with_references(found).evaluate(raw)
    evidence = name_tag(CURRENT_EVIDENCE)
    if not any(evidence in result.covered and not result.location for result in report.signatures):
        raise VerificationError("no signature of the manifest covers what it names", report=report, standard="PS3.15 C.4")
    by_outcome: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for one in report.references:
        by_outcome[_weighed(one)].append(one.sop_instance_uid)
    named = {reference.instance.sop_instance_uid for reference in document.references}
    return StudyReport(
        report,
        document.study_instance_uid,
        unchanged=tuple(by_outcome[Outcome.MATCHES]),
        changed=tuple(by_outcome[Outcome.DIFFERS]),
        missing=tuple(by_outcome[Outcome.MISSING]),
        extra=tuple(uid for uid in found if uid not in named),
        undecided=tuple(by_outcome[Outcome.UNDECIDED] + by_outcome[Outcome.WEAK]),
    )


def _weighed(one: ReferenceResult) -> Outcome:
    """Take an element that the manifest does not cover for a change: it was added, or left open to changes."""
    left_open = one.outcome is Outcome.MATCHES and one.uncovered
    return Outcome.DIFFERS if left_open else one.outcome
