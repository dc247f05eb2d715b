"""Verdicts in words: complete, and without a word of cryptography."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securepacs.cli import verdicts
from securepacs.cli.verify_work import Outcome
from securepacs.signatures import SignatureReport, SignatureResult
from securepacs.signatures.reference_check import Outcome as Reference
from securepacs.signatures.reference_check import ReferenceResult
from securepacs.trust.policy import SubIndication

RESULT = SignatureResult(
    uid="1.2.3",
    location="",
    profile="creator",
    mac_algorithm="SHA256",
    signature_algorithm="RSA-2048",
    signer="CN=Dr. Signer,O=Test Hospital",
    signing_time=datetime(2027, 1, 2, 3, 4, tzinfo=UTC),
    timestamp=None,
    indication="TOTAL-PASSED",
    sub_indication="",
    detail="",
    covered=("PixelData",),
    uncovered=("PatientName", "AccessionNumber", "Manufacturer", "00091001"),
    warnings=("uncovered:PatientName", "uncovered:AccessionNumber", "revocation-unchecked"),
    purpose="5 ASTM-sigpurpose",
)
REPORT = SignatureReport("a.dcm", (RESULT,))


def test_a_passed_signature_in_words() -> None:
    assert verdicts.file_verdict(Outcome("a.dcm", 0, REPORT)) == "VALID"
    assert verdicts.reason(RESULT) == "unchanged since it was signed"
    assert verdicts.signer(RESULT) == "Dr. Signer, Test Hospital"
    assert verdicts.purpose(RESULT) == "Verification Signature"
    assert verdicts.when(RESULT) == "2027-01-02 03:04 UTC (claimed)"
    assert verdicts.open_elements(REPORT) == "patient name, accession number, 2 other elements"
    assert list(verdicts.notes(Outcome("a.dcm", 0, REPORT))) == ["revocation of the certificate was not checked"]


def test_every_reason_has_words() -> None:
    """Whatever the verifier can say has a text of its own; the words it uses are read from its source."""
    said = set(map(str, SubIndication))
    for source in Path("securepacs/signatures").glob("*.py"):
        said |= set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', source.read_text(encoding="utf-8")))
    said &= set(map(str, SubIndication)) | {
        "HASH_FAILURE", "SIG_CRYPTO_FAILURE", "SIG_CONSTRAINTS_FAILURE", "FORMAT_FAILURE", "SIGNED_DATA_NOT_FOUND",
    }  # fmt: skip
    assert len(said) >= 10
    for word in said:
        text = verdicts.reason(replace(RESULT, indication="INDETERMINATE", sub_indication=word))
        assert text
        assert "_" not in text


def test_every_warning_has_words() -> None:
    found: set[str] = set()
    for name in ("judgement", "coverage", "reference_check"):
        text = Path("securepacs/signatures", f"{name}.py").read_text(encoding="utf-8")
        found |= set(re.findall(r'warnings(?:\.append\(| \+= \[f?|=\()"([a-z-]+)', text)) | set(
            re.findall(r'"(references-[a-z-]+)"', text)
        )
    found |= {f"references-{outcome}" for outcome in (Reference.MISSING, Reference.UNSECURED)}
    assert {"trimmed-values", "weak-hash", "covers-item-only", "references-unchecked"} <= found
    for warning in found:
        (words,) = verdicts.warnings(replace(RESULT, warnings=(f"{warning}:2" if warning.endswith("missing") else warning,)))
        assert not words.startswith(warning), warning


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("a", 3, error="cut off", error_code="malformed"), "DAMAGED"),
        (Outcome("a", 1, error="not there", error_code="missing"), "MISSING"),
        (Outcome("a", 2, error="no permission", error_code="usage"), "ERROR"),
        (Outcome("a", 1, SignatureReport("a", ())), "NOT SIGNED"),
        (Outcome("a", 1, SignatureReport("a", (RESULT,), ("sr",))), "UNDECIDED"),
        (Outcome("a", 1, SignatureReport("a", (replace(RESULT, indication="TOTAL-FAILED"),))), "NOT VALID"),
    ],
)
def test_the_verdict_about_a_file(outcome: Outcome, words: str) -> None:
    assert verdicts.file_verdict(outcome) == words


def test_what_nobody_vouches_for_is_all_open() -> None:
    failed = SignatureReport("a", (replace(RESULT, indication="TOTAL-FAILED"),))
    inside = SignatureReport("a", (replace(RESULT, location="0040A730[0]"),))
    assert verdicts.open_elements(failed) == verdicts.open_elements(inside) == "everything"
    assert verdicts.open_elements(SignatureReport("a", (replace(RESULT, uncovered=()),))) == "nothing: all is protected"


def test_references_are_counted() -> None:
    references = tuple(ReferenceResult("1.2", outcome) for outcome in (Reference.MATCHES, Reference.MATCHES, Reference.DIFFERS))
    result = replace(RESULT, warnings=("references-missing:2",))
    notes = list(verdicts.notes(Outcome("a", 1, SignatureReport("a", (result,), ("sr",), references))))
    assert notes == ["lacks the required sr signature", "images it refers to: 2 unchanged, 1 CHANGED"]


@pytest.mark.parametrize(("text", "name"), [("", "unknown"), ("no name", "no name"), ("O=Test Hospital", "O=Test Hospital")])
def test_odd_signers(text: str, name: str) -> None:
    assert verdicts.signer(replace(RESULT, signer=text)) == name


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("PatientBirthDate", "patient birth date"),
        ("SOPInstanceUID", "SOP instance UID"),
        ("00091001", "(0009,1001)"),
        ("KVP", "KVP"),
        ("PatientID", "patient ID"),
    ],
)
def test_keywords_in_words(keyword: str, words: str) -> None:
    assert verdicts.keyword_in_words(keyword) == words


def test_a_time_stamp_beats_the_claim() -> None:
    stamped = replace(RESULT, timestamp=datetime(2027, 2, 3, 4, 5, tzinfo=UTC))
    assert verdicts.when(stamped) == "2027-02-03 04:05 UTC (time-stamped)"
    assert verdicts.when(replace(RESULT, signing_time=None)) == "unknown"


def test_details_are_in_the_words_of_the_standards() -> None:
    text = "\n".join(verdicts.details(Outcome("a.dcm", 0, REPORT)))
    assert "TOTAL-PASSED   a.dcm" in text
    assert "by CN=Dr. Signer,O=Test Hospital" in text
    assert "purpose Verification Signature" in text
