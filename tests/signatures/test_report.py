from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from securepacs.signatures.report import SignatureReport, SignatureResult

KEYS = {
    "uid", "location", "profile", "mac_algorithm", "signature_algorithm", "signer", "signing_time", "timestamp", "indication",
    "sub_indication", "covered", "uncovered", "uncovered_ranges", "warnings",
}  # fmt: skip


def result(indication: str = "TOTAL-PASSED", *, location: str = "", uncovered: tuple[str, ...] = ()) -> SignatureResult:
    return SignatureResult(
        uid="1.2.3",
        location=location,
        profile="base",
        mac_algorithm="SHA256",
        signature_algorithm="RSA-2048",
        signer="CN=X",
        signing_time=datetime(2027, 1, 1, tzinfo=UTC),
        timestamp=None,
        indication=indication,
        sub_indication="",
        detail="",
        uncovered=uncovered,
        uncovered_ranges=((0, 10),),
    )


@pytest.mark.parametrize(
    ("indications", "verdict"),
    [
        ((), "NO-SIGNATURE"),
        (("TOTAL-PASSED",), "TOTAL-PASSED"),
        (("TOTAL-PASSED", "INDETERMINATE"), "INDETERMINATE"),
        (("INDETERMINATE", "TOTAL-FAILED", "TOTAL-PASSED"), "TOTAL-FAILED"),
    ],
)
def test_the_worst_signature_counts(indications: tuple[str, ...], verdict: str) -> None:
    assert SignatureReport("f", tuple(map(result, indications))).verdict == verdict


def test_a_missing_requirement_turns_a_pass_into_doubt() -> None:
    assert SignatureReport("f", (result(),), ("sr",)).verdict == "INDETERMINATE"
    assert SignatureReport("f", (result("TOTAL-FAILED"),), ("sr",)).verdict == "TOTAL-FAILED"


def test_the_published_names() -> None:
    published = SignatureReport("f", (result(),)).to_dict()
    assert set(published) == {"file", "verdict", "signatures"}
    assert set(published["signatures"][0]) == KEYS
    assert published["signatures"][0]["uncovered_ranges"] == [[0, 10]]
    assert json.loads(json.dumps(published)) == published


def test_reports_are_no_truth_values() -> None:
    with pytest.raises(TypeError):
        bool(SignatureReport("f", ()))
    with pytest.raises(TypeError):
        bool(result())


def test_uncovered_is_what_no_passed_signature_covers() -> None:
    first = result(uncovered=("PixelData", "PatientName", "StudyID"))
    second = result(uncovered=("PatientName", "StudyID", "Modality"))
    failed = result("TOTAL-FAILED")
    inner = result(location="0040A730[0]")
    assert SignatureReport("f", (first, second, failed, inner)).uncovered == ("PatientName", "StudyID")
    assert SignatureReport("f", (failed,)).uncovered == ()
