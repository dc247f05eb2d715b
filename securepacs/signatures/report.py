"""What a verification found, per signature and per instance, in the words of ETSI EN 319 102-1.

A report is never a truth value: ask `.verdict`, and read `.warnings` and `.uncovered` before relying on a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securepacs.signatures.reference_check import ReferenceResult

TOTAL_PASSED = "TOTAL-PASSED"
TOTAL_FAILED = "TOTAL-FAILED"
INDETERMINATE = "INDETERMINATE"
NO_SIGNATURE = "NO-SIGNATURE"

_WORST_FIRST = (TOTAL_FAILED, INDETERMINATE, TOTAL_PASSED)


@dataclass(frozen=True, slots=True)
class SignatureResult:
    """The verdict about one signature.

    `location`: path of the item that carries it, empty for the outermost data set. `covered`, `uncovered`: keywords (or eight
    hexadecimal digits) of the elements of that data set; what matters most stands first in `uncovered`. `uncovered_ranges`: (start,
    end) in the file, or in the inflated data set of a deflated file, of all bytes that can change while this signature passes: what
    it does not cover, and of the signature sequences their framing, other signatures, time stamps. `profiles`: every profile the
    signature meets; `profile` names the most demanding.
    """

    uid: str
    location: str
    profile: str
    mac_algorithm: str
    signature_algorithm: str
    signer: str
    signing_time: datetime | None
    timestamp: datetime | None
    indication: str
    sub_indication: str
    detail: str
    covered: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()
    uncovered_ranges: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()
    profiles: frozenset[str] = frozenset()
    purpose: str = ""

    @property
    def passed(self) -> bool:
        """True only for TOTAL-PASSED."""
        return self.indication == TOTAL_PASSED

    def __bool__(self) -> bool:
        raise TypeError("a SignatureResult is not a truth value; ask .indication")

    def to_dict(self) -> dict[str, Any]:
        """Return the result under its published names, ready for JSON."""
        return {
            "uid": self.uid,
            "location": self.location,
            "profile": self.profile,
            "mac_algorithm": self.mac_algorithm,
            "signature_algorithm": self.signature_algorithm,
            "signer": self.signer,
            "signing_time": self.signing_time.isoformat() if self.signing_time else None,
            "timestamp": self.timestamp.isoformat() if self.timestamp else None,
            "indication": self.indication,
            "sub_indication": self.sub_indication,
            "covered": list(self.covered),
            "uncovered": list(self.uncovered),
            "uncovered_ranges": [list(span) for span in self.uncovered_ranges],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class SignatureReport:
    """The verdict about one instance: the worst of its signatures, NO-SIGNATURE when it has none.

    `missing`: required profiles that no passed signature of the outermost data set meets; they make a pass INDETERMINATE.
    `references`: the outcome of every secure reference of the document, when they were compared.
    """

    file: str
    signatures: tuple[SignatureResult, ...]
    missing: tuple[str, ...] = ()
    references: tuple[ReferenceResult, ...] = ()

    @property
    def verdict(self) -> str:
        """TOTAL-PASSED, TOTAL-FAILED, INDETERMINATE or NO-SIGNATURE."""
        if not self.signatures:
            return NO_SIGNATURE
        worst = min(self.signatures, key=lambda result: _WORST_FIRST.index(result.indication)).indication
        return INDETERMINATE if self.missing and worst == TOTAL_PASSED else worst

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Elements of the outermost data set that no passed signature covers, in the order of the first signature."""
        tops = [result for result in self.signatures if not result.location and result.passed]
        if not tops:
            return ()
        return tuple(name for name in tops[0].uncovered if all(name in result.uncovered for result in tops))

    def __bool__(self) -> bool:
        raise TypeError("a SignatureReport is not a truth value; ask .verdict")

    def to_dict(self) -> dict[str, Any]:
        """Return the report under its published names, ready for JSON."""
        found = {"file": self.file, "verdict": self.verdict, "signatures": [result.to_dict() for result in self.signatures]}
        return found | {"references": [one.to_dict() for one in self.references]} if self.references else found
