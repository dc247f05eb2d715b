"""DICOM digital signatures: sign, verify, report (PS3.15 Annex C, PS3.3 C.12.1.1.3).

    sign(dataset_or_file, credential) -> UID
    evaluate(target, policy) -> SignatureReport     never raises for a bad signature
    verify(target, policy) -> SignatureReport       raises VerificationError unless everything passes

`profiles` what each profile covers; `mac` the byte stream; `sequences` the two sequences; `check` the mathematics; `judgement` the
numbered steps; `coverage` what is left open; `report` the result.
"""

from __future__ import annotations

# bound here, after the modules of the same names: signatures.sign is the function
from securepacs.signatures.profiles import Coverage, Profile
from securepacs.signatures.report import SignatureReport, SignatureResult
from securepacs.signatures.sign import sign
from securepacs.signatures.verify import Verifier, evaluate, verify

__all__ = ["Coverage", "Profile", "SignatureReport", "SignatureResult", "Verifier", "evaluate", "sign", "verify"]
