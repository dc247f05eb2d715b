"""Evidence beside a signed instance, so that its signatures verify decades later and offline (PS3.15 C, RFC 3161, after RFC 4998).

    collect(file, policy, stamp=...)               verify, and keep what the verdict rests on under a time stamp
    renew(file, evidence, policy, stamp=...)       one more time stamp over everything, before the newest one ages
    evaluate(file, evidence, policy, at=...)       the verdict; never raises for bad evidence or signatures
    verify(file, evidence, policy, at=...)         the same, raising unless everything passes

The evidence is about every byte of the file: after any change, also a further signature, it has to be collected again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securepacs.errors import IntegrityFailure, UsageError, VerificationError
from securepacs.signatures.instances import Target, raw_of
from securepacs.signatures.report import INDETERMINATE, TOTAL_FAILED, TOTAL_PASSED, SignatureReport
from securepacs.signatures.verify import Verifier
from securepacs.trust import TrustPolicy
from securepacs.trust.evidence import Evidence, Stamp, extend, material_of, policy_as_of, verify_evidence
from securepacs.trust.path import recorded
from securepacs.trust.timestamp import TimestampResult

SUFFIX = ".evidence.json"


def sidecar_of(path: Path) -> Path:
    """Return where the evidence about a file stands: beside it."""
    return path.with_name(path.name + SUFFIX)


@dataclass(frozen=True, slots=True)
class EvidenceReport:
    """The verdict about an instance and its evidence.

    `indication`, `sub_indication`, `detail` are about the evidence; `timestamps` are its records' time stamps, oldest first, when
    they hold; `signatures` the verdict about the signatures as of the first time stamp, None when the evidence does not hold.
    """

    file: str
    indication: str
    sub_indication: str = ""
    detail: str = ""
    timestamps: tuple[TimestampResult, ...] = ()
    signatures: SignatureReport | None = None

    @property
    def verdict(self) -> str:
        """The evidence's indication unless it passed, else the verdict about the signatures."""
        return self.indication if self.signatures is None else self.signatures.verdict

    @property
    def proven(self) -> datetime | None:
        """When the instance was seen first, by the oldest time stamp; None when the evidence does not hold."""
        return self.timestamps[0].gen_time if self.timestamps else None

    @property
    def renew_before(self) -> datetime | None:
        """When the certificate of the newest authority expires: from then on the evidence proves nothing."""
        return self.timestamps[-1].tsa.not_valid_after_utc if self.timestamps else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the authorities' certificates."""
        return tuple(dict.fromkeys(warning for stamp in self.timestamps for warning in stamp.path.warnings))

    def __bool__(self) -> bool:
        raise TypeError("an EvidenceReport is not a truth value; ask .verdict")

    def to_dict(self) -> dict[str, Any]:
        """Return the report under its published names, ready for JSON."""
        return {
            "file": self.file,
            "verdict": self.verdict,
            "indication": self.indication,
            "sub_indication": self.sub_indication,
            "detail": self.detail,
            "proven": self.proven.isoformat() if self.proven else None,
            "renew_before": self.renew_before.isoformat() if self.renew_before else None,
            "timestamps": [
                {
                    "time": stamp.gen_time.isoformat(),
                    "digest": stamp.digest_algorithm,
                    "authority": stamp.tsa.subject.rfc4514_string(),
                    "expires": stamp.tsa.not_valid_after_utc.isoformat(),
                }
                for stamp in self.timestamps
            ],
            "warnings": list(self.warnings),
            "signatures": [result.to_dict() for result in self.signatures.signatures] if self.signatures is not None else [],
        }


def collect(
    target: Target,
    policy: TrustPolicy,
    *,
    stamp: Stamp,
    digest: str = "sha256",
    at: datetime | None = None,
    require: Iterable[str] = (),
) -> Evidence:
    """Verify the signatures of an instance and return time-stamped evidence of what the verdict rests on (PS3.15 C.1, RFC 3161).

    `stamp` has data stamped, see `trust.timestamp.request_timestamp`. Raises VerificationError when not every signature passes or
    the authority is not trusted: what is not valid now is not worth keeping. Secure references are not followed.
    """
    moment = _moment(at)
    raw, _ = raw_of(target)
    with recorded() as results:
        report = Verifier(policy, moment, tuple(require)).evaluate(raw)
    if report.verdict != TOTAL_PASSED:
        raise VerificationError(f"the signatures did not pass: {report.verdict}", report=report, standard="PS3.15 C.1")
    return _stamped(None, raw, [result for result in results if result.passed], policy, stamp, digest, moment)


def renew(
    target: Target, evidence: Evidence, policy: TrustPolicy, *, stamp: Stamp, digest: str = "sha256", at: datetime | None = None
) -> Evidence:
    """Return the evidence with a new time stamp over the instance and everything before, by a stronger hash if asked (RFC 4998 5).

    Raises VerificationError when the evidence or a signature does not pass any more: then it is too late.
    """
    moment = _moment(at)
    raw, _ = raw_of(target)
    with recorded() as results:
        report = verify(raw, evidence, policy, at=moment)
    newest = report.timestamps[-1].tsa  # it was judged first, and later perhaps again for an older record
    kept = [result for result in results if result.passed and result.chain[0] == newest][:1]
    return _stamped(evidence, raw, kept, policy, stamp, digest, moment)


def evaluate(target: Target, evidence: Evidence, policy: TrustPolicy, *, at: datetime | None = None) -> EvidenceReport:
    """Report on an instance and its evidence as of `at`, now when None; asks nobody unless `policy` is online.

    Steps: 1 the records and their time stamps, `trust.evidence.verify_evidence`; 2 the signatures as of the first time stamp, with
    the data kept then. Raises MalformedError for what is no DICOM.
    """
    moment = _moment(at)
    raw, name = raw_of(target)
    try:
        stamps = verify_evidence(evidence, raw, policy=policy, at=moment)
    except IntegrityFailure as error:
        return EvidenceReport(name, TOTAL_FAILED, "HASH_FAILURE", error.message)
    except VerificationError as error:
        if isinstance(error.report, TimestampResult):
            path = error.report.path
            return EvidenceReport(name, INDETERMINATE, str(path.sub_indication), error.message)
        return EvidenceReport(name, INDETERMINATE, "SIG_CONSTRAINTS_FAILURE", error.message)
    past = policy_as_of(evidence.records[0], policy)
    report = Verifier(past, stamps[0].gen_time).evaluate(raw)
    return EvidenceReport(name, TOTAL_PASSED, timestamps=stamps, signatures=report)


def verify(target: Target, evidence: Evidence, policy: TrustPolicy, *, at: datetime | None = None) -> EvidenceReport:
    """Return the report when the evidence holds and every signature passed; else raise VerificationError with it."""
    report = evaluate(target, evidence, policy, at=at)
    if report.verdict != TOTAL_PASSED:
        raise VerificationError(f"the evidence did not pass: {report.verdict} {report.detail}".rstrip(), report=report)
    return report


def is_due(report: EvidenceReport, *, within: timedelta, at: datetime | None = None) -> bool:
    """Whether the newest authority's certificate expires within a span, so that the evidence should be renewed."""
    return report.renew_before is not None and report.renew_before - _moment(at) <= within


def _stamped(
    evidence: Evidence | None, raw: Any, results: list[Any], policy: TrustPolicy, stamp: Stamp, digest: str, moment: datetime
) -> Evidence:
    """Add a record, and look at the result as a verifier will: an authority that nobody trusts must show now."""
    extended = extend(evidence, raw, material_of(results, policy), stamp=stamp, digest=digest)
    verify(raw, extended, policy, at=moment)
    return extended


def _moment(at: datetime | None) -> datetime:
    if at is not None and at.tzinfo is None:
        raise UsageError("the moment of verification has no time zone")
    return at or datetime.now(UTC)
