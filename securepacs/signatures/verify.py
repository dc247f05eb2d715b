"""Verify the digital signatures of an instance (PS3.15 C.1, A.2; verdicts of ETSI EN 319 102-1).

Every signature of every data set of the instance is judged by the steps of `judgement`; the worst decides. Secure references to
other instances (0400,0402 and 0403) are compared when `references` says where these are, as `reference_check` describes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from securepacs.dicom.part10 import open_dataset
from securepacs.errors import UsageError, VerificationError
from securepacs.signatures.coverage import outline
from securepacs.signatures.instances import Target, raw_of
from securepacs.signatures.judgement import Judgement, Rules
from securepacs.signatures.lookup import References, finder
from securepacs.signatures.profiles import Profile
from securepacs.signatures.reference_check import ReferenceResult, apply_references, check_references, has_references
from securepacs.signatures.report import TOTAL_PASSED, SignatureReport, SignatureResult
from securepacs.signatures.sequences import read_signatures, survey
from securepacs.trust import TrustPolicy

REQUIRABLE = (Profile.CREATOR, Profile.AUTHORIZATION, Profile.SR)


@dataclass
class Verifier:
    """Verifies many instances under one trust policy at one moment; certificate verdicts are reached once and remembered.

    `at`: the moment of verification, now when None. `require`: profiles of which a passed signature must exist. `bit_exact`: refuse
    what matches only after trimming. `allow_weak_hash`: accept MD5 and SHA-1. `trust_signing_time`: believe the claimed time of
    a signature whose certificate has expired since. `references`: where referenced instances are, a folder, a mapping by SOP
    Instance UID or a function of it; without it secure references are not compared, and a warning says so.
    """

    policy: TrustPolicy
    at: datetime | None = None
    require: Iterable[str] = ()
    bit_exact: bool = False
    allow_weak_hash: bool = False
    trust_signing_time: bool = False
    references: References | None = None

    def __post_init__(self) -> None:
        now = self.at or datetime.now(UTC)
        if now.tzinfo is None:
            raise UsageError("the moment of verification has no time zone")
        self._rules = Rules(self.policy, now, self.bit_exact, self.allow_weak_hash, self.trust_signing_time)
        unknown = set(self.require).difference(REQUIRABLE)
        self._find = None if self.references is None else finder(self.references)
        if unknown:
            raise UsageError(f"no such profile to require: {', '.join(sorted(unknown))}")

    def with_references(self, references: References | None) -> Verifier:
        """Return the same verifier, certificate verdicts included, that looks for referenced instances somewhere else."""
        other = replace(self, references=references)
        other._rules = self._rules
        return other

    def evaluate(self, target: Target) -> SignatureReport:
        """Report on every signature of an instance. Raises only for what is no DICOM: MalformedError, UsageError."""
        raw, name = raw_of(target)
        dataset = open_dataset(raw)
        found = survey(dataset)
        results: list[SignatureResult] = []
        compared = None
        if found.scopes:
            outermost = outline(dataset)
            for scope, parameters in zip(found.scopes, found.parameters, strict=True):
                results += [
                    Judgement(self._rules, dataset, scope, item, parameters, outermost).result(repeated=found.mac_ids_repeat)
                    for item in read_signatures(dataset, scope)
                ]
            if has_references(outermost):
                if self._find is not None:
                    compared = check_references(dataset, self._find, self._rules)
                results = apply_references(results, compared)
        return self._report(name, results, compared or ())

    def _report(self, name: str, results: list[SignatureResult], references: tuple[ReferenceResult, ...] = ()) -> SignatureReport:
        met = {profile for result in results if result.passed and not result.location for profile in result.profiles}
        missing = tuple(str(profile) for profile in REQUIRABLE if profile in self.require and profile not in met)
        return SignatureReport(name, tuple(results), missing if results else (), references)


def evaluate(
    target: Target,
    policy: TrustPolicy,
    *,
    at: datetime | None = None,
    require: Iterable[str] = (),
    bit_exact: bool = False,
    allow_weak_hash: bool = False,
    trust_signing_time: bool = False,
    references: References | None = None,
) -> SignatureReport:
    """Report on all signatures of a file, its bytes or a Dataset; never raises for a bad signature (PS3.15 C.1).

    Raises MalformedError for what is no DICOM instance. The report is no truth value: ask its `verdict`. The options are those of
    `Verifier`.
    """
    return Verifier(policy, at, tuple(require), bit_exact, allow_weak_hash, trust_signing_time, references).evaluate(target)


def verify(
    target: Target,
    policy: TrustPolicy,
    *,
    at: datetime | None = None,
    require: Iterable[str] = (),
    bit_exact: bool = False,
    allow_weak_hash: bool = False,
    trust_signing_time: bool = False,
    references: References | None = None,
) -> SignatureReport:
    """Return the report when every signature passes and there is at least one; else raise VerificationError with it."""
    report = evaluate(
        target,
        policy,
        at=at,
        require=require,
        bit_exact=bit_exact,
        allow_weak_hash=allow_weak_hash,
        trust_signing_time=trust_signing_time,
        references=references,
    )
    if report.verdict != TOTAL_PASSED:
        raise VerificationError(f"the signatures did not pass: {report.verdict}", report=report, standard="PS3.15 C.1")
    return report
