from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from securepacs.dicom.edit import replace_elements
from securepacs.dicom.part10 import open_dataset, read_part10
from securepacs.errors import MalformedError, UsageError
from securepacs.pki import CertificateProfile
from securepacs.signatures import evaluate, sign
from securepacs.signatures.sequences import DIGITAL_SIGNATURES_SEQUENCE, MAC_PARAMETERS_SEQUENCE
from securepacs.signatures.sign import make_options, parse_item, sign_encoded
from securepacs.tokens.credential import Credential
from tests.support.encoded import element, item, part10, sequence
from tests.support.samples import sample
from tests.support.signing import ENCAPSULATED, NATIVE, pki, policy, self_signed, signed_bytes, signed_sample, signer

NAME = element(0x00100010, b"PN", b"Test^P")
UID = element(0x00080018, b"UI", b"1.2.3\0")


def only(raw: bytes) -> Any:
    (result,) = evaluate(raw, policy()).signatures
    return result


@pytest.mark.parametrize("name", NATIVE + ENCAPSULATED)
@pytest.mark.parametrize("profile", ["creator", "base"])
def test_what_is_signed_passes(name: str, profile: str) -> None:
    result = only(signed_sample(name, profile=profile))
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    assert "trimmed-values" not in result.warnings
    assert profile in result.profiles


@pytest.mark.parametrize("name", NATIVE + ENCAPSULATED)
def test_every_other_byte_stays(name: str) -> None:
    raw = sample(name).read_bytes()
    unsigned = replace_elements(
        signed_bytes(raw, profile="base"), {MAC_PARAMETERS_SEQUENCE: None, DIGITAL_SIGNATURES_SEQUENCE: None}
    )
    before, after = open_dataset(raw), open_dataset(unsigned)
    assert bytes(after.view[after.start :]) == bytes(before.view[before.start :])
    head = read_part10(raw).dataset_offset
    assert unsigned[:head] == raw[:head]


@pytest.mark.parametrize("mac", ["sha256", "sha384", "sha512"])
def test_mac_algorithms(mac: str) -> None:
    result = only(signed_sample("MR_small.dcm", mac=mac))
    assert (result.indication, result.mac_algorithm) == ("TOTAL-PASSED", mac.upper())


def test_the_signed_file_is_dicom_for_pydicom() -> None:
    dataset = pydicom.dcmread(BytesIO(signed_sample("CT_small.dcm", purpose=5, identity=True)))
    assert [one.MACIDNumber for one in dataset.MACParametersSequence] == [0, 1]
    first = dataset.DigitalSignaturesSequence[0]
    assert first.CertificateType == "X509_1993_SIG"
    assert first.DigitalSignaturePurposeCodeSequence[0].CodeValue == "5"
    assert dataset.MACParametersSequence[0].MACCalculationTransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert dataset.DigitalSignaturesSequence[0].DigitalSignatureDateTime[-5:] == "+0000"


def test_a_deflated_file_names_a_plain_mac_syntax() -> None:
    dataset = pydicom.dcmread(BytesIO(signed_sample("image_dfl.dcm")))
    assert dataset.MACParametersSequence[0].MACCalculationTransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_signatures_add_up_and_all_pass() -> None:
    twice = signed_bytes(signed_sample("MR_small.dcm"), signer("Dr. Second"), profile="authorization")
    report = evaluate(twice, policy())
    assert [(result.indication, result.profile) for result in report.signatures] == [
        ("TOTAL-PASSED", "creator"),
        ("TOTAL-PASSED", "authorization"),
    ]
    assert [one.MACIDNumber for one in pydicom.dcmread(BytesIO(twice)).MACParametersSequence] == [0, 1]


def test_identity_is_a_second_signature() -> None:
    first, second = evaluate(signed_sample("CT_small.dcm", identity=True), policy()).signatures
    assert "PatientName" in first.uncovered
    assert {"PatientName", "PatientID", "SOPInstanceUID", "StudyInstanceUID"} <= set(second.covered)
    assert "PixelData" in first.covered
    assert "PixelData" not in second.covered


def test_an_item_is_signed_inside() -> None:
    raw = signed_sample("reportsi.dcm", item="ContentSequence[1]/0040A043[0]")
    result = only(raw)
    assert (result.indication, result.location) == ("TOTAL-PASSED", "0040A730[1]/0040A043[0]")
    assert "covers-item-only" in result.warnings
    assert set(result.covered) >= {"CodeValue", "CodeMeaning"}
    pydicom.dcmread(BytesIO(raw)).ContentSequence[1].ConceptNameCodeSequence[0].DigitalSignaturesSequence[0]


def test_mac_ids_are_unique_in_the_instance() -> None:
    raw = signed_bytes(signed_sample("reportsi.dcm", item="0040A730[0]"), profile="base")
    inner, outer = evaluate(raw, policy()).signatures[::-1]
    assert (inner.indication, outer.indication) == ("TOTAL-PASSED", "TOTAL-PASSED")
    assert "mac-id-not-unique" not in inner.warnings
    dataset = pydicom.dcmread(BytesIO(raw))
    assert dataset.MACParametersSequence[0].MACIDNumber == 1


def test_an_outer_signature_outlives_inner_ones() -> None:
    outer_first = signed_bytes(signed_sample("reportsi.dcm", profile="base"), item="0040A730[0]")
    assert evaluate(outer_first, policy()).verdict == "TOTAL-PASSED"


def test_status_attributes_are_left_out_unless_named() -> None:
    raw = part10(UID + NAME + element(0x01000410, b"CS", b"AO"))
    assert only(signed_bytes(raw, profile="base")).uncovered == ("SOPInstanceStatus",)
    assert only(signed_bytes(raw, profile="base", tags=["01000410", "PatientName"])).covered == ("PatientName", "SOPInstanceStatus")


def test_named_tags_join_the_coverage_of_a_profile() -> None:
    result = only(signed_sample("CT_small.dcm", tags=["PatientName"]))
    assert {"PatientName", "PixelData"} <= set(result.covered)


def test_a_sequence_with_unknown_content_is_left_out() -> None:
    raw = part10(UID + sequence(0x00081032, item(element(0x00091001, b"UN", b"??"))) + NAME)
    assert only(signed_bytes(raw, profile="base")).uncovered == ("ProcedureCodeSequence",)


@pytest.mark.parametrize("tag", ["ProcedureCodeSequence", "StudyID", "MACParametersSequence"])
def test_naming_what_cannot_be_signed_is_a_usage_error(tag: str) -> None:
    raw = part10(UID + sequence(0x00081032, item(element(0x00091001, b"UN", b"??"))) + NAME)
    with pytest.raises(UsageError, match="cannot sign"):
        signed_bytes(raw, profile="base", tags=[tag])


def test_structured_reports() -> None:
    result = only(signed_sample("reportsi.dcm", profile="sr"))
    assert (result.profile, result.purpose) == ("sr", "1 ASTM-sigpurpose")


def test_a_verified_report_gets_a_verification_signature() -> None:
    raw = sample("reportsi.dcm").read_bytes()
    flag = element(0x0040A493, b"CS", b"VERIFIED")
    observer = sequence(0x0040A073, item(element(0x0040A075, b"PN", b"Doe^Jo")))
    result = only(signed_bytes(replace_elements(raw, {0x0040A493: flag, 0x0040A073: observer}), profile="sr"))
    assert (result.profile, result.purpose) == ("sr", "5 ASTM-sigpurpose")
    assert {"SOPInstanceUID", "VerificationFlag", "VerifyingObserverSequence"} <= set(result.covered)


def test_elliptic_curve_keys_sign_outside_the_profiles() -> None:
    result = only(signed_sample("CT_small.dcm", credential=signer("Dr. Curve", "p256"), profile="none", coverage="creator"))
    assert (result.indication, result.profile, result.signature_algorithm) == ("TOTAL-PASSED", "none", "ECDSA-secp256r1")
    assert "outside-dicom-profiles" in result.warnings


class TokenKey(rsa.RSAPrivateKey):
    """A key as tokens give it: signs, and gives nothing else away."""

    def __init__(self, inner: rsa.RSAPrivateKey) -> None:
        self._inner = inner

    @property
    def key_size(self) -> int:
        return self._inner.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._inner.public_key()

    def sign(self, *arguments: Any) -> bytes:
        return self._inner.sign(*arguments)

    def _refuse(self, *arguments: Any) -> Any:
        raise AssertionError("the key must stay in its token")

    decrypt = private_numbers = private_bytes = __copy__ = __deepcopy__ = _refuse


def test_a_key_that_never_leaves_its_token_signs() -> None:
    software = signer()
    assert isinstance(software.private_key, rsa.RSAPrivateKey)
    result = only(signed_sample("CT_small.dcm", credential=replace(software, private_key=TokenKey(software.private_key))))
    assert result.indication == "TOTAL-PASSED"


def test_a_file_is_signed_into_its_output(tmp_path: Path) -> None:
    output = tmp_path / "signed.dcm"
    uid = sign(sample("CT_small.dcm"), signer(), output=output)
    assert [result.uid for result in evaluate(output, policy()).signatures] == [uid]
    before = output.read_bytes()
    sign(output, signer(), output=output)
    assert len(evaluate(output, policy()).signatures) == 2
    assert before != output.read_bytes()


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm"]
)
def test_a_dataset_is_signed_in_place(name: str, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(sample(name))
    syntax = dataset.file_meta.TransferSyntaxUID
    uid = sign(dataset, signer())
    assert dataset.DigitalSignaturesSequence[0].DigitalSignatureUID == uid
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert evaluate(dataset, policy()).verdict == "TOTAL-PASSED"
    dataset.save_as(tmp_path / "saved.dcm")
    assert evaluate(tmp_path / "saved.dcm", policy()).verdict == "TOTAL-PASSED"


def test_a_dataset_made_from_nothing_is_signed() -> None:
    dataset = pydicom.Dataset()
    dataset.PatientName = "Doe^Jo"
    dataset.SOPInstanceUID = "1.2.3"
    sign(dataset, signer(), profile="base", at=datetime(2027, 1, 1, tzinfo=UTC))
    assert only_of(dataset).covered == ("SOPInstanceUID", "PatientName")
    assert "file_meta" not in dataset.__dict__


def only_of(dataset: pydicom.Dataset) -> Any:
    (result,) = evaluate(dataset, policy()).signatures
    return result


def test_an_item_of_a_dataset_is_signed() -> None:
    dataset = pydicom.dcmread(sample("reportsi.dcm"))
    sign(dataset, signer(), item="ContentSequence[0]")
    assert "DigitalSignaturesSequence" in dataset.ContentSequence[0]
    assert evaluate(dataset, policy()).verdict == "TOTAL-PASSED"


def test_surplus_padding_is_told() -> None:
    raw = part10(UID + element(0x00100010, b"PN", b"Test^P  "))
    assert sign_encoded(raw, signer(), make_options(profile="base")).padded
    assert not sign_encoded(part10(UID + NAME), signer(), make_options(profile="base")).padded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "gold"}, "no such profile"),
        ({"coverage": "half"}, "no such profile or coverage"),
        ({"mac": "sha1"}, "made with"),
        ({"mac": "ripemd160"}, "made with"),
        ({"purpose": 0}, "1 to 18"),
        ({"purpose": 19}, "1 to 18"),
        ({"tags": ["Nonsense"]}, "no attribute"),
        ({"item": "0040A730"}, "no item"),
        ({"item": "0040A730[x]"}, "no item"),
        ({"item": "0040A730[0]", "profile": "creator"}, "whole instance"),
        ({"at": datetime(2027, 1, 1)}, "time zone"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_options(**options)


def test_item_paths_take_numbers_and_keywords() -> None:
    assert parse_item("0040A730[0]/ConceptNameCodeSequence[2]") == ((0x0040A730, 0), (0x0040A043, 2))


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (part10(NAME), {}, "creator profile needs"),
        (part10(UID + NAME), {"profile": "sr"}, "structured reports"),
        (part10(b""), {"profile": "base"}, "nothing to sign"),
        (part10(NAME), {"item": "0040A730[0]"}, "no such item"),
    ],
)
def test_what_a_profile_cannot_do_with_a_file(raw: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        signed_bytes(raw, **options)


@pytest.mark.parametrize("body", [NAME + UID, NAME + NAME, sequence(0x00081032, item(NAME + UID))])
def test_unsorted_elements_are_not_signed(body: bytes) -> None:
    with pytest.raises(MalformedError, match="ascending"):
        signed_bytes(part10(body), profile="base")


def test_a_foreign_key_is_refused() -> None:
    with pytest.raises(UsageError, match="does not belong"):
        signed_sample("CT_small.dcm", credential=replace(signer(), private_key=signer("Dr. Second").private_key))


def test_a_key_of_another_kind_than_the_certificate_is_refused() -> None:
    mixed = replace(signer(), private_key=signer("Dr. Curve", "p256").private_key)
    with pytest.raises(UsageError, match="does not belong"):
        signed_sample("CT_small.dcm", credential=mixed, profile="none")


def test_elliptic_curve_keys_are_refused_by_the_profiles() -> None:
    with pytest.raises(UsageError, match="RSA keys only") as caught:
        signed_sample("CT_small.dcm", credential=signer("Dr. Curve", "p256"))
    assert "--profile none" in caught.value.hint


def test_a_short_rsa_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 1024)
    with pytest.raises(UsageError, match="too weak"):
        signed_sample("CT_small.dcm", credential=Credential(self_signed(key), key))


def test_outputs_must_be_clear() -> None:
    with pytest.raises(UsageError, match="no output"):
        sign(sample("CT_small.dcm"), signer())
    with pytest.raises(UsageError, match="in place"):
        sign(pydicom.dcmread(sample("CT_small.dcm")), signer(), output=Path("x"))
    with pytest.raises(UsageError, match="cannot read DICOM"):
        sign(42, signer())  # type: ignore[arg-type]


def test_a_time_stamp_is_made_over_the_signature(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def stamp(value: bytes) -> bytes:
        seen.append(value)
        return b"\x30\x00"

    raw = signed_sample("CT_small.dcm", timestamp=stamp)
    signature = pydicom.dcmread(BytesIO(raw)).DigitalSignaturesSequence[0]
    assert seen == [signature.Signature]
    assert signature.CertifiedTimestampType == "CMS_TSP"
    assert signature.CertifiedTimestamp == b"\x30\x00"


def test_modalities_sign_too() -> None:
    modality = pki().credential(CertificateProfile.MODALITY, "CT1")
    assert only(signed_sample("CT_small.dcm", credential=modality)).signer == "CN=CT1,O=Test Hospital"
