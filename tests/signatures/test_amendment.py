"""Removing signatures and stamping them later: every other byte stays, and DCMTK agrees."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from securepacs import signatures
from securepacs.dicom import open_dataset, replace_elements
from securepacs.errors import UsageError
from securepacs.pki import CertificateProfile
from securepacs.pki.tsa import TimestampAuthority
from securepacs.signatures import evaluate
from securepacs.signatures.amendment import add_timestamp_encoded, remove_encoded
from securepacs.signatures.sequences import MAC_PARAMETERS_SEQUENCE, read_mac_parameters, read_signatures, survey
from securepacs.trust.timestamp import build_request, read_response
from tests.support.programs import dcmtk
from tests.support.samples import sample
from tests.support.signing import NATIVE, pki, policy, signed_bytes, signed_sample, signer


@cache
def stamper() -> Callable[[bytes], bytes]:
    authority = TimestampAuthority(pki().credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256"))

    def stamp(value: bytes) -> bytes:
        request = build_request(value)
        return read_response(authority.respond(request, at=datetime.now(UTC)), request)

    return stamp


def uids(raw: bytes) -> list[str]:
    return [result.uid for result in evaluate(raw, policy()).signatures]


def without(raw: bytes, uid: str) -> bytes:
    return b"".join(remove_encoded(raw, uid).pieces)


def stamped(raw: bytes, uid: str, *, replace: bool = False) -> bytes:
    return b"".join(add_timestamp_encoded(raw, uid, stamper(), replace=replace).pieces)


# --- removal ---


@pytest.mark.parametrize("name", [*(name for name in NATIVE if name != "image_dfl.dcm"), "MR_small_RLE.dcm"])
def test_removal_gives_back_the_file_byte_for_byte(name: str) -> None:
    raw = sample(name).read_bytes()
    signed = signed_bytes(raw, profile="base")
    (uid,) = uids(signed)
    assert without(signed, uid) == raw


def test_a_deflated_file_gives_back_its_data_set() -> None:
    raw = sample("image_dfl.dcm").read_bytes()
    signed = signed_bytes(raw, profile="base")
    assert bytes(open_dataset(without(signed, uids(signed)[0])).view) == bytes(open_dataset(raw).view)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_other_signatures_stay_valid(position: int) -> None:
    raw = signed_sample("CT_small.dcm", profile="base")
    raw = signed_bytes(signed_bytes(raw, signer("Dr. Second")), signer("Dr. Third"), mac="sha512")
    before = uids(raw)
    after = without(raw, before[position])
    report = evaluate(after, policy())
    assert report.verdict == "TOTAL-PASSED"
    assert uids(after) == [uid for uid in before if uid != before[position]]
    dataset = open_dataset(after)
    (scope,) = survey(dataset).scopes
    ids = {one.mac_id for one in read_mac_parameters(dataset, scope)}
    assert ids == {one.mac_id for one in read_signatures(dataset, scope)}


def test_parameters_that_another_signature_uses_stay() -> None:
    dataset = dcmread(BytesIO(signed_bytes(signed_sample("CT_small.dcm", profile="base"), profile="base")))
    dataset.DigitalSignaturesSequence[1].MACIDNumber = dataset.DigitalSignaturesSequence[0].MACIDNumber
    buffer = BytesIO()
    dataset.save_as(buffer)
    first = dataset.DigitalSignaturesSequence[0].DigitalSignatureUID
    left = dcmread(BytesIO(without(buffer.getvalue(), first)))
    assert [item.MACIDNumber for item in left.MACParametersSequence] == [0, 1]


@pytest.mark.parametrize("undefined", [False, True])
def test_removal_inside_an_item_of_either_length(undefined: bool) -> None:
    dataset = dcmread(sample("reportsi.dcm"))
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    buffer = BytesIO()
    dataset.save_as(buffer)
    raw = buffer.getvalue()
    place = "0040A730[0]/0040A043[0]"
    signed = signed_bytes(signed_bytes(raw, profile="base", item=place), profile="base")
    outer, inner = sorted(evaluate(signed, policy()).signatures, key=lambda result: result.location)
    only_outer = without(signed, inner.uid)
    assert evaluate(only_outer, policy()).verdict == "TOTAL-PASSED"
    assert without(only_outer, outer.uid) == raw


def test_a_sequence_of_undefined_length_keeps_its_form() -> None:
    dataset = dcmread(BytesIO(signed_bytes(signed_sample("CT_small.dcm", profile="base"), profile="base")))
    dataset["DigitalSignaturesSequence"].is_undefined_length = True
    buffer = BytesIO()
    dataset.save_as(buffer)
    first, second = uids(buffer.getvalue())
    left = without(buffer.getvalue(), first)
    assert uids(left) == [second]
    assert evaluate(left, policy()).verdict == "TOTAL-PASSED"
    assert dcmread(BytesIO(left))["DigitalSignaturesSequence"].is_undefined_length


def test_a_signature_is_removed_even_without_its_parameters() -> None:
    signed = signed_sample("CT_small.dcm", profile="base")
    orphan = replace_elements(signed, {MAC_PARAMETERS_SEQUENCE: None})
    assert without(orphan, uids(signed)[0]) == sample("CT_small.dcm").read_bytes()


def test_files_and_datasets(tmp_path: Path) -> None:
    source, out = tmp_path / "in.dcm", tmp_path / "out.dcm"
    source.write_bytes(signed_sample("CT_small.dcm", profile="base"))
    (uid,) = uids(source.read_bytes())
    signatures.remove(source, uid, output=out)
    assert out.read_bytes() == sample("CT_small.dcm").read_bytes()
    dataset = dcmread(source)
    signatures.remove(dataset, uid)
    assert "DigitalSignaturesSequence" not in dataset
    assert "MACParametersSequence" not in dataset
    assert dataset == dcmread(sample("CT_small.dcm"))


def test_what_is_not_there_cannot_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    path.write_bytes(signed_sample("CT_small.dcm", profile="base"))
    with pytest.raises(UsageError, match="no signature of that UID"):
        signatures.remove(path, "1.2.3", output=path)
    with pytest.raises(UsageError, match="no output"):
        signatures.remove(path, "1.2.3")
    with pytest.raises(UsageError, match="in place"):
        signatures.remove(dcmread(path), "1.2.3", output=path)


# --- time stamps ---


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_implicit.dcm", "ExplVR_BigEnd.dcm", "image_dfl.dcm", "MR_small_RLE.dcm"]
)
def test_a_late_time_stamp_breaks_nothing(name: str) -> None:
    signed = signed_sample(name, profile="base")
    (uid,) = uids(signed)
    (result,) = evaluate(stamped(signed, uid), policy()).signatures
    assert (result.uid, result.indication, result.sub_indication) == (uid, "TOTAL-PASSED", "")
    assert result.timestamp is not None


def test_every_other_byte_stays() -> None:
    signed = signed_sample("CT_small.dcm", profile="base")
    (uid,) = uids(signed)
    later = stamped(signed, uid)
    assert len(later) > len(signed)
    before, after = (dcmread(BytesIO(raw)) for raw in (signed, later))
    for keyword in ("CertifiedTimestamp", "CertifiedTimestampType"):
        del after.DigitalSignaturesSequence[0][keyword]
    assert after == before
    assert without(later, uid) == sample("CT_small.dcm").read_bytes()


def test_a_signature_in_an_item_is_stamped() -> None:
    place = "0040A730[0]/0040A043[0]"
    signed = signed_sample("reportsi.dcm", profile="base", item=place)
    (result,) = evaluate(stamped(signed, uids(signed)[0]), policy()).signatures
    assert (result.location, result.indication) == (place, "TOTAL-PASSED")
    assert result.timestamp is not None


def test_an_elliptic_curve_signature_is_stamped_without_its_pad_byte() -> None:
    for _ in range(8):  # a DER signature has odd length every other time
        signed = signed_sample("CT_small.dcm", credential=signer("Dr. Curve", "p256"), profile="none")
        (result,) = evaluate(stamped(signed, uids(signed)[0]), policy()).signatures
        assert (result.indication, result.timestamp is not None) == ("TOTAL-PASSED", True)


def test_an_older_stamp_is_kept_unless_told() -> None:
    signed = signed_sample("CT_small.dcm", profile="base", timestamp=stamper())
    (uid,) = uids(signed)
    with pytest.raises(UsageError, match="already"):
        stamped(signed, uid)
    again = stamped(signed, uid, replace=True)
    (result,) = evaluate(again, policy()).signatures
    assert (result.indication, result.timestamp is not None) == ("TOTAL-PASSED", True)


def test_a_dataset_is_stamped_in_place() -> None:
    dataset = dcmread(BytesIO(signed_sample("CT_small.dcm", profile="base")))
    (uid,) = (item.DigitalSignatureUID for item in dataset.DigitalSignaturesSequence)
    signatures.add_timestamp(dataset, uid, stamper())
    assert dataset.DigitalSignaturesSequence[0].CertifiedTimestampType == "CMS_TSP"
    assert evaluate(dataset, policy()).signatures[0].timestamp is not None


@pytest.mark.interop
def test_dcmtk_verifies_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    raw = signed_bytes(signed_sample("CT_small.dcm", profile="base"), profile="base")
    first, second = uids(raw)
    path.write_bytes(stamped(without(raw, first), second))
    verified = subprocess.run([dcmtk("dcmsign"), "--verify", str(path)], capture_output=True, text=True, check=False, timeout=30)
    assert verified.returncode in (0, 101), verified.stderr  # 101: dcmsign was given nobody to trust
    assert "Signature #1" in verified.stderr + verified.stdout or second in verified.stderr + verified.stdout
    assert "signature verification failed" not in (verified.stderr + verified.stdout).lower()
