"""The Key Object of an authorization: what it says, and that other programs read it."""

from __future__ import annotations

import contextlib
import subprocess
import warnings
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from securepacs.errors import MalformedError, UsageError
from securepacs.originals.key_object import build_key_object, read_key_object, sign_key_object
from securepacs.pki import CertificateProfile
from securepacs.pki.keys import KeyKind
from securepacs.signatures import verify
from securepacs.signatures.manifests import encode
from securepacs.signatures.references import mac_of
from tests.support.pki import make_pki, pem_of
from tests.support.programs import dcmtk
from tests.support.samples import new_instance

AT = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "test-SR.dcm", "waveform_ecg.dcm")


@pytest.fixture
def instances() -> list[bytes]:
    return [new_instance(name, number) for number, name in enumerate(NAMES, 1)]


def test_it_names_every_instance_with_its_mac(instances: list[bytes]) -> None:
    document = build_key_object(instances, at=AT, observer="Dr^Kim")
    read = read_key_object(encode(document))
    assert (read.sop_instance_uid, read.study_instance_uid) == (document.SOPInstanceUID, "1.2.826.0.1.3680043.10.999.1")
    assert [reference.mac for reference in read.references] == [mac_of(data) for data in instances]
    assert [reference.instance.sop_instance_uid[-1] for reference in read.references] == ["1", "2", "3", "4"]


def test_its_content_follows_the_template(instances: list[bytes]) -> None:
    document = build_key_object(instances, at=AT, observer="Dr^Kim")
    assert (document.Modality, document.ValueType, document.ContentDate) == ("KO", "CONTAINER", "20270102")
    assert document.ConceptNameCodeSequence[0].CodeMeaning == "Signed Manifest"
    assert [item.ValueType for item in document.ContentSequence] == ["CODE", "PNAME", "IMAGE", "IMAGE", "COMPOSITE", "WAVEFORM"]
    assert document.ContentSequence[1].PersonName == "Dr Kim"
    first = dcmread(BytesIO(instances[0]))
    assert (document.PatientID, document.PatientName, document.StudyDate) == (first.PatientID, first.PatientName, first.StudyDate)


def test_a_korean_name_is_kept() -> None:
    dataset = dcmread(BytesIO(new_instance("CT_small.dcm", 1)))
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    dataset.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    buffer = BytesIO()
    dataset.save_as(buffer)
    document = dcmread(BytesIO(encode(build_key_object([buffer.getvalue()], at=AT, observer="김의사"))))
    assert document.PatientName == "Hong^Gildong=洪^吉洞=홍^길동"
    assert document.ContentSequence[1].PersonName == "김의사"


def test_no_observer_is_named_without_a_name(instances: list[bytes]) -> None:
    assert [item.ValueType for item in build_key_object(instances[:1], at=AT).ContentSequence] == ["IMAGE"]


def test_what_cannot_be_one_study_is_refused(instances: list[bytes]) -> None:
    with pytest.raises(UsageError, match="at least one"):
        build_key_object([], at=AT)
    with pytest.raises(UsageError, match="more than one study"):
        build_key_object([instances[0], new_instance("CT_small.dcm", 9, study="1.2.3")], at=AT)
    with pytest.raises(UsageError, match="twice"):
        build_key_object([instances[0], instances[0]], at=AT)


@pytest.mark.parametrize("kind", ["rsa-2048", "p256"])
def test_a_signed_key_object_verifies(instances: list[bytes], tmp_path: Path, kind: KeyKind) -> None:
    pki = make_pki(tmp_path)
    credential = pki.credential(CertificateProfile.RADIOLOGIST, "Dr Kim", key_kind=kind)
    signed = sign_key_object(build_key_object(instances, at=pki.now), credential, at=pki.now)
    (result,) = verify(signed, pki.policy(), at=pki.now, require=("sr",) if kind == "rsa-2048" else ()).signatures
    assert (result.purpose, result.uncovered) == ("5 ASTM-sigpurpose", ())
    assert read_key_object(signed).references == read_key_object(encode(build_key_object(instances, at=pki.now))).references


@pytest.mark.interop
def test_dcmtk_reads_and_verifies_it(instances: list[bytes], tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    credential = pki.credential(CertificateProfile.RADIOLOGIST, "Dr Kim")
    path = tmp_path / "ko.dcm"
    path.write_bytes(sign_key_object(build_key_object(instances, at=pki.now, observer="Dr Kim"), credential, at=pki.now))
    dump = subprocess.run([dcmtk("dcmdump"), str(path)], capture_output=True, text=True, check=True, timeout=30)
    assert dump.stderr == ""
    assert dump.stdout.count("=KeyObjectSelectionDocument") == 2
    (tmp_path / "ca.pem").write_bytes(pem_of(pki.ca.root))
    (tmp_path / "issuing.pem").write_bytes(pem_of(pki.ca.issuing))
    command = [dcmtk("dcmsign"), "--verify", "+cf", str(tmp_path / "ca.pem"), "+uf", str(tmp_path / "issuing.pem"), str(path)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert verified.returncode == 0, verified.stderr
    report = subprocess.run([dcmtk("dsrdump"), str(path)], capture_output=True, text=True, check=True, timeout=30)
    assert "Key Object Selection Document" in report.stdout
    assert "Signed Manifest" in report.stdout


def altered(document: Dataset, path: str) -> bytes:
    """Delete one element, given as a path of keywords through first items."""
    *parents, last = path.split(".")
    target = document
    for keyword in parents:
        target = target[keyword].value[0]
    delattr(target, last)
    return encode(document)


REFERENCE = "CurrentRequestedProcedureEvidenceSequence.ReferencedSeriesSequence.ReferencedSOPSequence"


@pytest.mark.parametrize(
    "path",
    [
        "CurrentRequestedProcedureEvidenceSequence",
        "ConceptNameCodeSequence",
        "StudyInstanceUID",
        "CurrentRequestedProcedureEvidenceSequence.StudyInstanceUID",
        f"{REFERENCE}.ReferencedSOPInstanceUID",
        f"{REFERENCE}.ReferencedSOPInstanceMACSequence",
        f"{REFERENCE}.ReferencedSOPInstanceMACSequence.MAC",
        f"{REFERENCE}.ReferencedSOPInstanceMACSequence.MACAlgorithm",
        f"{REFERENCE}.ReferencedSOPInstanceMACSequence.DataElementsSigned",
    ],
)
def test_a_missing_element_is_malformed(instances: list[bytes], path: str) -> None:
    with pytest.raises(MalformedError):
        read_key_object(altered(build_key_object(instances, at=AT), path))


def test_other_documents_are_refused(instances: list[bytes]) -> None:
    with pytest.raises(MalformedError, match="Key Object Selection"):
        read_key_object(instances[0])
    document = build_key_object(instances, at=AT)
    document.ConceptNameCodeSequence[0].CodeValue = "113000"
    with pytest.raises(MalformedError, match="113031"):
        read_key_object(encode(document))


def test_a_reference_with_two_macs_is_refused(instances: list[bytes]) -> None:
    document = build_key_object(instances, at=AT)
    item = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    item.ReferencedSOPInstanceMACSequence.append(item.ReferencedSOPInstanceMACSequence[0])
    with pytest.raises(MalformedError, match="more than one"):
        read_key_object(encode(document))


def test_an_instance_named_twice_is_refused(instances: list[bytes]) -> None:
    document = build_key_object(instances, at=AT)
    items = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    items.append(items[0])
    with pytest.raises(MalformedError, match="twice"):
        read_key_object(encode(document))


def test_instances_of_another_study_are_refused(instances: list[bytes]) -> None:
    document = build_key_object(instances, at=AT)
    document.StudyInstanceUID = "1.2.3"
    with pytest.raises(MalformedError, match="another study"):
        read_key_object(encode(document))


def test_two_evidence_sequences_are_refused(instances: list[bytes]) -> None:
    from securepacs.dicom import open_dataset

    raw = encode(build_key_object(instances, at=AT))
    evidence = next(element for element in open_dataset(raw).elements() if element.tag == 0x0040A375)
    doubled = raw[: evidence.next_offset] + raw[evidence.offset : evidence.next_offset] + raw[evidence.next_offset :]
    with pytest.raises(MalformedError, match="order"):
        read_key_object(doubled)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255), length=st.integers(1, 8))
def test_a_damaged_key_object_is_malformed_or_reads(instances: list[bytes], place: float, by: int, length: int) -> None:
    raw = bytearray(_document(instances))
    start = 132 + int(place * (len(raw) - 140))
    raw[start : start + length] = bytes(value ^ by for value in raw[start : start + length])
    with contextlib.suppress(MalformedError), warnings.catch_warnings(action="ignore"):
        read_key_object(bytes(raw))


_documents: list[bytes] = []


def _document(instances: list[bytes]) -> bytes:
    """One key object for all examples."""
    if not _documents:
        _documents.append(encode(build_key_object(instances, at=AT, observer="Dr Kim")))
    return _documents[0]
