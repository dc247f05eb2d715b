"""Secure references in evaluation: what each outcome does to the signature over the document (PS3.15 A.4)."""

from __future__ import annotations

import functools
import hashlib
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from securepacs import signatures
from securepacs.dicom import open_dataset
from securepacs.errors import MalformedError, UsageError
from securepacs.signatures.manifests import add_references, build_manifest, encode
from securepacs.signatures.reference_check import Outcome
from securepacs.signatures.references import InstanceMac, mac_digest, mac_of, read_references
from securepacs.signatures.report import SignatureReport
from securepacs.signatures.sequences import survey
from tests.support.encoded import element, part10
from tests.support.pki import make_pki
from tests.support.programs import dcmtk
from tests.support.samples import flip_pixel, new_instance
from tests.support.signing import policy, signed_bytes, signer

Instances = dict[str, bytes]
STUDY = "1.2.826.0.1.3680043.10.999.1"
ONE, TWO = f"{STUDY}.1.1", f"{STUDY}.1.2"


@pytest.fixture
def instances() -> Instances:
    return {ONE: signed_bytes(new_instance("CT_small.dcm", 1)), TWO: new_instance("MR_small_RLE.dcm", 2)}


def plain(instances: Instances) -> Dataset:
    """An unsigned key object whose references are not secured."""
    document = build_manifest(instances.values(), at=datetime.now(UTC))
    for item in items_of(document):
        del item.ReferencedSOPInstanceMACSequence
    return document


def items_of(document: Dataset) -> list[Dataset]:
    studies = document.get("CurrentRequestedProcedureEvidenceSequence") or document.PertinentOtherEvidenceSequence
    return list(studies[0].ReferencedSeriesSequence[0].ReferencedSOPSequence)


def sign_document(document: Dataset, **options: Any) -> bytes:
    signatures.sign(document, signer(), **({"profile": "sr"} | options))
    return encode(document)


def secured(instances: Instances, **how: bool) -> bytes:
    document = plain(instances)
    assert add_references(document, instances, **how) == len(instances)
    return sign_document(document)


def outcomes(report: SignatureReport) -> list[str]:
    return [str(one.outcome) for one in report.references]


def test_untouched_instances_match(instances: Instances) -> None:
    report = signatures.verify(secured(instances), policy(), references=instances)
    assert outcomes(report) == ["matches", "matches"]
    assert [one.uncovered for one in report.references] == [(), ()]
    assert not [warning for warning in report.signatures[0].warnings if warning.startswith("references")]


def test_without_a_place_to_look_a_warning_says_so(instances: Instances) -> None:
    report = signatures.verify(secured(instances), policy())
    assert "references-unchecked" in report.signatures[0].warnings
    assert report.references == ()


def test_a_changed_instance_fails_the_document(instances: Instances) -> None:
    document = secured(instances)
    report = signatures.evaluate(document, policy(), references=instances | {ONE: flip_pixel(instances[ONE])})
    assert outcomes(report) == ["differs", "matches"]
    (result,) = report.signatures
    assert (result.indication, result.sub_indication) == ("TOTAL-FAILED", "HASH_FAILURE")
    assert result.detail == "a referenced instance is not what was signed for"


def test_a_missing_instance_is_a_warning(instances: Instances) -> None:
    report = signatures.verify(secured(instances), policy(), references={ONE: instances[ONE]})
    assert outcomes(report) == ["matches", "missing"]
    assert "references-missing:1" in report.signatures[0].warnings


def test_an_unsecured_reference_is_a_warning(instances: Instances) -> None:
    report = signatures.verify(sign_document(plain(instances)), policy(), references=instances)
    assert outcomes(report) == ["unsecured", "unsecured"]
    assert "references-unsecured:2" in report.signatures[0].warnings


@pytest.mark.parametrize(
    ("algorithm", "outcome"), [("SHA1", "weak"), ("MD5", "weak"), ("RIPEMD160", "matches"), ("SHA224", "undecided")]
)
def test_the_hash_of_a_mac_is_judged(algorithm: str, outcome: str, instances: Instances) -> None:
    document = plain(instances)
    add_references(document, instances)
    change_mac(document, instances[ONE], algorithm)
    raw = sign_document(document)
    report = signatures.evaluate(raw, policy(), references=instances)
    assert outcomes(report) == [outcome, "matches"]
    expected = {"weak": "CRYPTO_CONSTRAINTS_FAILURE", "undecided": "SIGNED_DATA_NOT_FOUND", "matches": ""}
    assert report.signatures[0].sub_indication == expected[outcome]
    assert ("references-weak-hash" in report.signatures[0].warnings) is (outcome == "matches")
    if outcome == "weak":
        allowed = signatures.verify(raw, policy(), references=instances, allow_weak_hash=True)
        assert "references-weak-hash" in allowed.signatures[0].warnings


def change_mac(document: Dataset, raw: bytes, algorithm: str, tags: tuple[int, ...] | None = None) -> None:
    good = mac_of(raw)
    mac = InstanceMac(
        good.transfer_syntax, algorithm, tags or good.tags, mac_digest(open_dataset(raw), tags or good.tags, algorithm.lower())
    )
    item = items_of(document)[0].ReferencedSOPInstanceMACSequence[0]
    item.MACAlgorithm, item.DataElementsSigned, item.MAC = mac.algorithm, list(mac.tags), mac.mac


def test_a_reference_to_a_part_is_called_so(instances: Instances) -> None:
    document = plain(instances)
    add_references(document, instances)
    change_mac(document, instances[ONE], "SHA256", (0x00080018, 0x7FE00010))
    report = signatures.verify(sign_document(document), policy(), references=instances)
    assert "PatientName" in report.references[0].uncovered
    assert "PixelData" not in report.references[0].uncovered
    assert "references-partial:1" in report.signatures[0].warnings


@pytest.mark.interop
def test_another_transfer_syntax_is_undecided(instances: Instances, tmp_path: Path) -> None:
    raw = secured(instances)
    (tmp_path / "rle.dcm").write_bytes(instances[TWO])
    subprocess.run([dcmtk("dcmdrle"), tmp_path / "rle.dcm", tmp_path / "plain.dcm"], check=True, timeout=30)
    report = signatures.evaluate(raw, policy(), references=instances | {TWO: (tmp_path / "plain.dcm").read_bytes()})
    assert outcomes(report) == ["matches", "undecided"]
    assert report.signatures[0].sub_indication == "SIGNED_DATA_NOT_FOUND"


def test_what_cannot_be_read_is_undecided(instances: Instances) -> None:
    report = signatures.evaluate(secured(instances), policy(), references=instances | {TWO: b"no dicom"})
    assert outcomes(report) == ["matches", "undecided"]


def test_another_instance_in_its_place_differs(instances: Instances) -> None:
    report = signatures.evaluate(secured(instances), policy(), references={ONE: instances[TWO], TWO: instances[TWO]})
    assert outcomes(report) == ["differs", "matches"]


# --- copies of signatures ---


def signed_pair() -> Instances:
    return {uid: signed_bytes(new_instance("CT_small.dcm", number)) for number, uid in enumerate((ONE, TWO), 1)}


def test_copied_signatures_match() -> None:
    instances = signed_pair()
    raw = secured(instances, macs=False, signatures=True)
    references = read_references(open_dataset(raw))
    assert all(reference.mac is None and len(reference.signatures) == 1 for reference in references)
    report = signatures.verify(raw, policy(), references=instances)
    assert outcomes(report) == ["matches", "matches"]
    # a creator's signature leaves the patient's name open
    assert "PatientName" in report.references[0].uncovered
    assert "references-partial:2" in report.signatures[0].warnings


def test_content_under_a_copied_signature_may_not_change() -> None:
    instances = signed_pair()
    raw = secured(instances, macs=False, signatures=True)
    report = signatures.evaluate(raw, policy(), references=instances | {ONE: flip_pixel(instances[ONE])})
    assert outcomes(report) == ["differs", "matches"]


def test_a_copied_signature_that_is_gone_or_another_differs() -> None:
    instances = signed_pair()
    raw = secured(instances, macs=False, signatures=True)
    unsigned, resigned = new_instance("CT_small.dcm", 1), signed_bytes(new_instance("CT_small.dcm", 2))
    report = signatures.evaluate(raw, policy(), references={ONE: unsigned, TWO: resigned})
    assert outcomes(report) == ["differs", "differs"]


def test_another_value_under_the_same_uid_differs() -> None:
    instances = signed_pair()
    document = plain(instances)
    add_references(document, instances, macs=False, signatures=True)
    copy = items_of(document)[0].ReferencedDigitalSignatureSequence[0]
    copy.Signature = bytes([copy.Signature[0] ^ 1]) + copy.Signature[1:]
    report = signatures.evaluate(sign_document(document), policy(), references=instances)
    assert report.references[0].detail == "the referenced signature has another value in the instance"


def test_a_mac_outlives_a_signature_that_was_taken_off() -> None:
    instances = signed_pair()
    raw = secured(instances, macs=True, signatures=True)
    report = signatures.verify(raw, policy(), references=instances | {ONE: new_instance("CT_small.dcm", 1)})
    assert outcomes(report) == ["matches", "matches"]


def test_a_signature_nobody_trusts_proves_nothing(tmp_path: Path) -> None:
    from securepacs.pki import CertificateProfile

    stranger = make_pki(tmp_path, name="Strangers", now=datetime.now(UTC) - timedelta(hours=1))
    theirs = stranger.credential(CertificateProfile.RADIOLOGIST, "Dr. Stranger")
    instances = {ONE: signed_bytes(new_instance("CT_small.dcm", 1), theirs)}
    report = signatures.evaluate(secured(instances, macs=False, signatures=True), policy(), references=instances)
    assert outcomes(report) == ["undecided"]
    assert report.signatures[0].sub_indication == "SIGNED_DATA_NOT_FOUND"


# --- which signatures are concerned ---


def test_a_signature_that_leaves_the_evidence_out_is_not_touched(instances: Instances) -> None:
    document = plain(instances)
    add_references(document, instances)
    signatures.sign(document, signer(), profile="base", tags=["SOPInstanceUID"])
    report = signatures.evaluate(encode(document), policy(), references={ONE: flip_pixel(instances[ONE])})
    assert report.signatures[0].indication == "TOTAL-PASSED"
    assert outcomes(report) == ["differs", "missing"]


def test_other_evidence_counts_too(instances: Instances) -> None:
    document = plain(instances)
    document.PertinentOtherEvidenceSequence = document.CurrentRequestedProcedureEvidenceSequence
    del document.CurrentRequestedProcedureEvidenceSequence
    add_references(document, instances)
    report = signatures.evaluate(
        sign_document(document), policy(), references={TWO: instances[TWO], ONE: flip_pixel(instances[ONE])}
    )
    assert outcomes(report) == ["differs", "matches"]
    assert report.verdict == "TOTAL-FAILED"


def test_evidence_that_cannot_be_read_is_undecided(instances: Instances) -> None:
    document = plain(instances)
    add_references(document, instances)
    mac = items_of(document)[0].ReferencedSOPInstanceMACSequence
    mac.append(mac[0])
    report = signatures.evaluate(sign_document(document), policy(), references=instances)
    assert {one.outcome for one in report.references} == {Outcome.UNDECIDED}
    assert report.signatures[0].sub_indication == "SIGNED_DATA_NOT_FOUND"


def test_a_folder_and_a_function_are_places_to_look(instances: Instances, tmp_path: Path) -> None:
    raw = secured(instances)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one").write_bytes(instances[ONE])
    (tmp_path / "two.dcm").write_bytes(instances[TWO])
    (tmp_path / "note.txt").write_text("no dicom")
    assert outcomes(signatures.verify(raw, policy(), references=tmp_path)) == ["matches", "matches"]
    assert outcomes(signatures.verify(raw, policy(), references=instances.get)) == ["matches", "matches"]
    with pytest.raises(UsageError, match="no folder"):
        signatures.verify(raw, policy(), references=tmp_path / "absent")


def test_the_report_names_the_references_for_programs(instances: Instances) -> None:
    found = signatures.verify(secured(instances), policy(), references=instances).to_dict()
    assert found["references"][0] == {"sop_instance_uid": ONE, "outcome": "matches", "detail": ""}
    assert "references" not in signatures.evaluate(instances[ONE], policy(), references=instances).to_dict()


# --- making them ---


def test_references_are_made_for_every_item_or_none(instances: Instances) -> None:
    document = plain(instances)
    with pytest.raises(UsageError, match="not at hand"):
        add_references(document, {ONE: instances[ONE]})
    with pytest.raises(UsageError, match="no signature to refer to"):
        add_references(document, instances, macs=False, signatures=True)
    with pytest.raises(UsageError, match="another one"):
        add_references(document, {ONE: instances[TWO], TWO: instances[TWO]})
    with pytest.raises(UsageError, match="a MAC, a signature, or both"):
        add_references(document, instances, macs=False)
    assert not any("ReferencedSOPInstanceMACSequence" in item for item in items_of(document))


def test_references_are_made_before_signing(instances: Instances) -> None:
    document = plain(instances)
    signatures.sign(document, signer(), profile="sr")
    with pytest.raises(UsageError, match="signed already"):
        add_references(document, instances)
    bare = Dataset()
    bare.CurrentRequestedProcedureEvidenceSequence = Sequence([])
    with pytest.raises(UsageError, match="no evidence"):
        add_references(bare, instances)


def test_the_mac_is_the_one_of_the_instance(instances: Instances) -> None:
    document = plain(instances)
    add_references(document, instances)
    assert mac_of(instances[ONE]).mac == items_of(document)[0].ReferencedSOPInstanceMACSequence[0].MAC
    assert len(mac_of(instances[ONE]).mac) == hashlib.sha256().digest_size


# --- every byte ---


def tiny(number: int) -> bytes:
    uids = ((0x00080016, "1.2.840.10008.5.1.4.1.1.7"), (0x00080018, f"1.2.{number}"), (0x0020000D, "1.3"), (0x0020000E, "1.4"))
    texts = b"".join(element(tag, b"UI", text.encode() + b"\0" * (len(text) % 2)) for tag, text in uids[:2])
    texts += element(0x00100010, b"PN", b"Doe^Jane")
    texts += b"".join(element(tag, b"UI", text.encode() + b"\0" * (len(text) % 2)) for tag, text in uids[2:])
    return part10(texts + element(0x7FE00010, b"OB", bytes(range(16))))


def test_every_flipped_byte_of_a_referenced_instance_is_noticed() -> None:
    instance = tiny(1)
    document = secured({"1.2.1": instance})
    verifier = signatures.Verifier(policy())
    start = open_dataset(instance).start
    for position in range(start, len(instance)):
        flipped = bytearray(instance)
        flipped[position] ^= 0x01
        report = verifier.with_references({"1.2.1": bytes(flipped)}).evaluate(document)
        assert report.verdict != "TOTAL-PASSED", position
        assert report.references[0].outcome in (Outcome.DIFFERS, Outcome.UNDECIDED), position


def test_every_flipped_byte_of_a_document_is_noticed() -> None:
    """References included; the two signature sequences themselves are another test's matter."""
    instance = tiny(1)
    document = secured({"1.2.1": instance})
    verifier = signatures.Verifier(policy(), bit_exact=True).with_references({"1.2.1": instance})
    dataset = open_dataset(document)
    (scope,) = survey(dataset).scopes
    own = {place for piece in (scope.mac_parameters, scope.signatures) if piece for place in range(*piece)}
    for position in sorted(set(range(dataset.start, len(document))) - own):
        flipped = bytearray(document)
        flipped[position] ^= 0x01
        try:
            report = verifier.evaluate(bytes(flipped))
        except MalformedError:
            continue
        if report.verdict == "TOTAL-PASSED":
            ranges = report.signatures[0].uncovered_ranges
            assert any(begin <= position < end for begin, end in ranges), position


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_garbage_in_evidence_never_crashes(garbage: bytes, place: int) -> None:
    document = base_document()
    at = document.index(b"\x40\x00\x75\xa3SQ") + 12 + place % 400
    broken = document[:at] + garbage + document[at + len(garbage) :]
    try:
        report = signatures.Verifier(policy()).with_references({"1.2.1": tiny(1)}).evaluate(broken)
    except MalformedError:
        return
    assert broken == document or report.verdict != "TOTAL-PASSED"


@functools.cache
def base_document() -> bytes:
    return secured({"1.2.1": tiny(1)})
