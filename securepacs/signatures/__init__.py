"""DICOM digital signatures: sign, verify, report (PS3.15 Annex C, PS3.3 C.12.1.1.3).

    sign(dataset_or_file, credential) -> UID
    evaluate(target, policy) -> SignatureReport     never raises for a bad signature
    verify(target, policy) -> SignatureReport       raises VerificationError unless everything passes

    remove(file, uid, output=...)               add_timestamp(file, uid, timestamp, output=...)
    manifest(instances, credential) -> file     add_references(document, instances)     check_study(manifest, instances, verifier)

`profiles` what each profile covers; `mac` the byte stream; `sequences` the two sequences; `check` the mathematics; `judgement` the
numbered steps; `coverage` what is left open; `report` the result; `references` and `reference_check` what SR and Key Object
documents say of other instances; `manifests` and `study` the signed manifest; `amendment` later changes; `session`
many instances with one PIN.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# bound here, after the modules of the same names: signatures.sign is the function
from securepacs.signatures.profiles import Coverage, Profile
from securepacs.signatures.report import SignatureReport, SignatureResult
from securepacs.signatures.sign import sign
from securepacs.signatures.verify import Verifier, evaluate, verify

if TYPE_CHECKING:
    from securepacs.signatures.amendment import add_timestamp, remove
    from securepacs.signatures.manifests import add_references, manifest
    from securepacs.signatures.session import SigningSession
    from securepacs.signatures.study import StudyReport, check_study

_ON_FIRST_USE = {  # these need pydicom, or are rarely needed
    "SigningSession": "session",
    "StudyReport": "study",
    "add_references": "manifests",
    "add_timestamp": "amendment",
    "check_study": "study",
    "manifest": "manifests",
    "remove": "amendment",
}

__all__ = [
    "Coverage",
    "Profile",
    "SignatureReport",
    "SignatureResult",
    "SigningSession",
    "StudyReport",
    "Verifier",
    "add_references",
    "add_timestamp",
    "check_study",
    "evaluate",
    "manifest",
    "remove",
    "sign",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(import_module(f"securepacs.signatures.{_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
