from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.dicom.edit import replace_elements, splice
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import MalformedError, UsageError, VerificationError
from securepacs.pki import CertificateProfile
from securepacs.pki.tsa import TimestampAuthority
from securepacs.signatures import evaluate, verify
from securepacs.signatures.mac import Reading
from securepacs.signatures.sequences import DIGITAL_SIGNATURES_SEQUENCE, MAC_PARAMETERS_SEQUENCE
from securepacs.tokens.credential import Credential
from securepacs.trust import TrustPolicy
from securepacs.trust.timestamp import build_request, read_response
from tests.support.encoded import RLE, element, encapsulated, item, part10, sequence
from tests.support.pki import make_pki
from tests.support.samples import sample
from tests.support.signing import forge, pki, policy, self_signed, signed_bytes, signed_sample, signer

NAME_TAG, UID_TAG = 0x00100010, 0x00080018
SMALL = part10(element(UID_TAG, b"UI", b"1.2.3\0") + element(NAME_TAG, b"PN", b"Test^P"))
PADDED = part10(element(UID_TAG, b"UI", b"1.2.3\0") + element(NAME_TAG, b"PN", b"Test^P  "))
NOW = datetime.now(UTC)


def judged(raw: bytes, trust: TrustPolicy | None = None, **options: Any) -> Any:
    (result,) = evaluate(raw, trust or policy(), **options).signatures
    return result


def verdict(raw: bytes, trust: TrustPolicy | None = None, **options: Any) -> tuple[str, str]:
    result = judged(raw, trust, **options)
    return result.indication, result.sub_indication


PASSED = ("TOTAL-PASSED", "")
CHANGED = ("TOTAL-FAILED", "HASH_FAILURE")


def failed(sub_indication: str) -> tuple[str, str]:
    return "TOTAL-FAILED", sub_indication


def undecided(sub_indication: str) -> tuple[str, str]:
    return "INDETERMINATE", sub_indication


# --- content ------------------------------------------------------------------------------------------------------------


def test_one_changed_pixel_is_told_of_the_right_signature() -> None:
    raw = bytearray(signed_sample("CT_small.dcm", identity=True))
    pixels = next(found for found in open_dataset(bytes(raw)).elements() if found.tag == 0x7FE00010)
    raw[pixels.value_offset + 1000] ^= 1
    image, identity = evaluate(bytes(raw), policy()).signatures
    assert (image.indication, image.sub_indication, image.detail) == (*CHANGED, "the signed content was changed")
    assert identity.indication == "TOTAL-PASSED"
    assert evaluate(bytes(raw), policy()).verdict == "TOTAL-FAILED"


def test_a_removed_signed_element_is_a_change() -> None:
    raw = replace_elements(signed_sample("CT_small.dcm"), {0x00080080: None})
    assert verdict(raw) == CHANGED
    assert "listed-but-absent:InstitutionName" in judged(raw).warnings


def test_an_added_element_is_uncovered() -> None:
    raw = replace_elements(signed_bytes(SMALL, profile="base"), {0x00100020: element(0x00100020, b"LO", b"42")})
    result = judged(raw)
    assert (result.indication, result.uncovered) == ("TOTAL-PASSED", ("PatientID",))
    assert "uncovered:PatientID" in result.warnings
    new = element(0x00100020, b"LO", b"42")
    place = raw.index(new)
    assert any(start <= place and place + len(new) <= end for start, end in result.uncovered_ranges)
    assert not any(start <= raw.index(b"Test^P") < end for start, end in result.uncovered_ranges)


def test_an_element_added_inside_a_signed_sequence_is_a_change() -> None:
    dataset = open_dataset(signed_sample("reportsi.dcm", profile="base"))
    new = {0x00080104: element(0x00080104, b"LO", b"Other")}
    pieces = splice(dataset, new, path=((0x0040A730, 0), (0x0040A043, 0)))
    assert verdict(bytes(dataset.view[: dataset.start]) + b"".join(pieces)) == CHANGED


def test_a_changed_vr_is_a_change() -> None:
    raw = signed_bytes(SMALL, profile="base").replace(b"\x10\0\x10\0PN", b"\x10\0\x10\0LO")
    assert verdict(raw) == CHANGED


def test_a_second_copy_of_a_signed_element_is_a_change() -> None:
    raw = signed_bytes(SMALL, profile="base")
    name = element(NAME_TAG, b"PN", b"Test^P")
    assert verdict(raw.replace(name, name + element(NAME_TAG, b"PN", b"Evil^X"))) == CHANGED


def test_what_matters_most_is_named_first() -> None:
    result = judged(signed_sample("CT_small.dcm", profile="base", tags=["StudyDate"]))
    assert result.uncovered[:3] == ("PixelData", "PatientName", "PatientID")
    assert result.warnings[:2] == ("uncovered:PixelData", "uncovered:PatientName")


def test_moved_fragment_borders_are_warned_of() -> None:
    name = element(UID_TAG, b"UI", b"1.2.3\0")
    whole = part10(name + encapsulated(b"", b"\1\2", b"\3\4"), RLE)
    merged = part10(name + encapsulated(b"", b"\1\2\xfe\xff\x00\xe0\3\4"), RLE)
    signed = signed_bytes(whole, profile="base")
    fragments = encapsulated(b"", b"\1\2", b"\3\4")
    moved = signed.replace(fragments, encapsulated(b"", b"\1\2\xfe\xff\x00\xe0\3\4"))
    assert len(merged) != len(whole)
    assert "fragment-embeds-item-tag" not in judged(signed).warnings
    assert "fragment-embeds-item-tag" in judged(moved).warnings


def test_group_lengths_inside_sequences_are_open() -> None:
    inner = element(0x00080000, b"UL", b"\0\0\0\0")
    raw = signed_bytes(part10(sequence(0x00081032, item(inner + element(0x00080100, b"SH", b"A ")))), profile="base")
    result = judged(raw)
    assert result.indication == "TOTAL-PASSED"
    assert inner in [raw[start:end] for start, end in result.uncovered_ranges]


# --- readings -----------------------------------------------------------------------------------------------------------


def test_values_hashed_without_their_padding_pass_with_a_warning() -> None:
    raw = forge(PADDED, reading=Reading(trimmed=True))
    assert verdict(raw) == PASSED
    assert "trimmed-values" in judged(raw).warnings
    assert verdict(raw, bit_exact=True) == CHANGED


def test_padding_added_later_passes_with_a_warning() -> None:
    raw = forge(SMALL).replace(element(NAME_TAG, b"PN", b"Test^P"), element(NAME_TAG, b"PN", b"Test^P  "))
    assert verdict(raw) == PASSED
    assert "trimmed-values" in judged(raw).warnings


def test_the_old_fragment_format_is_not_accepted() -> None:
    raw = part10(element(UID_TAG, b"UI", b"1.2.3\0") + encapsulated(b"", b"\1\2"), RLE)
    for trimmed in (False, True):
        padded = raw.replace(b"UI\6\0001.2.3\0", b"UI\x08\0001.2.3\0\0\0") if trimmed else raw
        old = forge(padded, tags=(UID_TAG, 0x7FE00010), reading=Reading(trimmed=trimmed, fragment_lengths=True))
        assert verdict(old) == undecided("FORMAT_FAILURE")
        assert "3.5.4" in judged(old).detail


def test_pixels_in_another_syntax_are_not_there() -> None:
    compressed = part10(element(UID_TAG, b"UI", b"1.2.3\0") + encapsulated(b"", b"\1\2"), RLE)
    signed = signed_bytes(compressed, profile="base")
    plain = replace_elements(signed, {0x7FE00010: element(0x7FE00010, b"OB", b"\1\2")}).replace(
        b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0", 1
    )
    assert verdict(plain) == undecided("SIGNED_DATA_NOT_FOUND")


# --- algorithms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["MD5", "SHA1"])
def test_weak_hashes_need_permission(algorithm: str) -> None:
    raw = forge(SMALL, algorithm=algorithm)
    assert verdict(raw) == undecided("CRYPTO_CONSTRAINTS_FAILURE")
    assert verdict(raw, allow_weak_hash=True) == PASSED
    assert "weak-hash" in judged(raw, allow_weak_hash=True).warnings


def test_ripemd160_passes_with_a_warning() -> None:
    raw = forge(SMALL, algorithm="RIPEMD160")
    assert verdict(raw) == PASSED
    assert "weak-hash" in judged(raw).warnings
    assert judged(raw).profile == "base"


@pytest.mark.parametrize("algorithm", ["RIPEMD160", "MD5", "SHA1", "SHA256"])
def test_content_changed_under_any_hash(algorithm: str) -> None:
    raw = forge(SMALL, algorithm=algorithm).replace(b"Test^P", b"Test^Q")
    assert verdict(raw, allow_weak_hash=True) == CHANGED


def test_hashes_outside_the_profiles_pass_without_profile() -> None:
    result = judged(forge(SMALL, algorithm="SHA3_256"))
    assert (result.indication, result.profile) == ("TOTAL-PASSED", "none")


def test_a_signature_of_another_hash_is_no_match() -> None:
    raw = forge(SMALL).replace(b"SHA256", b"SHA384")
    assert verdict(raw) == failed("SIG_CRYPTO_FAILURE")


@cache
def weak_credential() -> Credential:
    key = rsa.generate_private_key(65537, 1024)
    return Credential(self_signed(key), key)


def test_short_keys_are_not_enough() -> None:
    mine = weak_credential()
    raw = forge(SMALL, credential=mine)
    assert verdict(raw, TrustPolicy((mine.certificate,))) == undecided("CRYPTO_CONSTRAINTS_FAILURE")
    assert verdict(raw, TrustPolicy((mine.certificate,), minimum_rsa_bits=1024)) == PASSED


def test_short_curves_are_not_enough() -> None:
    key = ec.generate_private_key(ec.SECP192R1())
    mine = Credential(self_signed(key), key)
    raw = signed_bytes(SMALL, mine, profile="none")
    assert verdict(raw, TrustPolicy((mine.certificate,))) == undecided("CRYPTO_CONSTRAINTS_FAILURE")


def test_p521_signatures_pass_whatever_their_length() -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    mine = Credential(self_signed(key), key)
    for _ in range(8):  # odd and even DER lengths occur
        assert verdict(signed_bytes(SMALL, mine, profile="none"), TrustPolicy((mine.certificate,))) == PASSED


def test_a_changed_file_signed_by_a_curve_fails() -> None:
    raw = signed_sample("CT_small.dcm", credential=signer("Dr. Curve", "p256"), profile="none", tags=["PatientName"])
    assert verdict(raw.replace(b"CompressedSamples", b"CompressedSamplez")) == failed("SIG_CRYPTO_FAILURE")


# --- trust --------------------------------------------------------------------------------------------------------------


def other_ca() -> TrustPolicy:
    return make_pki(Path("unused"), name="Elsewhere").policy()


def test_no_path_to_an_anchor() -> None:
    assert verdict(signed_bytes(SMALL, profile="base"), other_ca()) == undecided("NO_CERTIFICATE_CHAIN_FOUND")


def test_changed_content_weighs_more_than_missing_trust() -> None:
    raw = signed_bytes(SMALL, profile="base").replace(b"Test^P", b"Test^Q")
    assert verdict(raw, other_ca()) == CHANGED


@pytest.mark.parametrize("usage", [{"key_encipherment": True}, {"key_cert_sign": True}])
def test_key_usage_without_signing(usage: dict[str, bool]) -> None:
    key = signer().private_key
    mine = Credential(self_signed(key, **usage), key)
    raw = signed_bytes(SMALL, mine, profile="base")
    assert verdict(raw, TrustPolicy((mine.certificate,))) == undecided("CHAIN_CONSTRAINTS_FAILURE")


def test_a_server_certificate_is_no_signer() -> None:
    server = pki().credential(CertificateProfile.GATEWAY_SERVER, "gw.hospital.example")
    assert verdict(signed_bytes(SMALL, server, profile="base")) == undecided("CHAIN_CONSTRAINTS_FAILURE")


def test_revocation_nobody_declares_is_unchecked() -> None:
    assert "revocation-unchecked" in judged(signed_bytes(SMALL, profile="base")).warnings


def test_a_revoked_signer_fails() -> None:
    own = make_pki(Path("unused"), name="Revoking", now=NOW - timedelta(hours=2))
    mine = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Gone")
    raw = signed_bytes(SMALL, mine, profile="base")
    own.ca.revoke(mine.certificate, at=NOW - timedelta(minutes=5))
    crls = (own.ca.crl(at=NOW - timedelta(minutes=1)), own.ca.root_crl(at=NOW - timedelta(minutes=1)))
    assert verdict(raw, own.policy(crls=crls)) == failed("REVOKED")
    assert verdict(raw, own.policy(crls=crls), trust_signing_time=True) == failed("REVOKED")


def expired() -> tuple[bytes, TrustPolicy]:
    """Signed a day ago by a certificate that was valid for two hours."""
    yesterday = NOW - timedelta(days=1)
    own = make_pki(Path("unused"), name="Brief", now=yesterday - timedelta(hours=1))
    mine = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Brief", lifetime=timedelta(hours=2))
    return signed_bytes(SMALL, mine, profile="base", at=yesterday), own.policy()


def test_an_expired_signer_without_proof_of_time() -> None:
    raw, trust = expired()
    assert verdict(raw, trust) == undecided("OUT_OF_BOUNDS_NO_POE")
    assert verdict(raw, trust, at=NOW - timedelta(days=1)) == PASSED
    assert verdict(raw, trust, trust_signing_time=True) == PASSED
    assert "signing-time-trusted" in judged(raw, trust, trust_signing_time=True).warnings


@pytest.mark.parametrize("days", [-3000, 3000])
def test_a_claimed_time_outside_the_certificate_is_not_believed(days: int) -> None:
    raw = signed_bytes(SMALL, profile="base", at=NOW + timedelta(days=days))
    for trusting in (False, True):
        assert verdict(raw, trust_signing_time=trusting) == undecided("OUT_OF_BOUNDS_NO_POE")


@pytest.mark.parametrize(
    ("date_time", "warning"),
    [
        ((NOW + timedelta(hours=1)).strftime("%Y%m%d%H%M%S.000000+0000"), "signing-time-in-future"),
        (NOW.strftime("%Y%m%d%H%M%S.000000"), "signing-time-without-offset"),
        ("yesterday", "signing-time-unreadable"),
    ],
    ids=["future", "no-offset", "unreadable"],
)
def test_odd_claimed_times_are_warned_of(date_time: str, warning: str) -> None:
    assert warning in judged(forge(SMALL, date_time=date_time)).warnings


# --- time stamps --------------------------------------------------------------------------------------------------------


def stamper(own: Any, at: datetime) -> Callable[[bytes], bytes]:
    tsa = own.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")

    def stamp(value: bytes) -> bytes:
        request = build_request(value)
        return read_response(TimestampAuthority(tsa).respond(request, at=at), request)

    return stamp


def test_a_time_stamp_outlives_the_certificate() -> None:
    yesterday = NOW - timedelta(days=1)
    own = make_pki(Path("unused"), name="Stamping", now=yesterday - timedelta(hours=1))
    mine = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Brief", lifetime=timedelta(hours=2))
    raw = signed_bytes(SMALL, mine, profile="base", at=yesterday, timestamp=stamper(own, yesterday))
    result = judged(raw, own.policy())
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    assert result.timestamp == yesterday.replace(microsecond=0)


@pytest.mark.parametrize(("stamped", "expected"), [(60, PASSED), (1, failed("REVOKED"))])
def test_a_time_stamp_before_revocation_saves_the_signature(stamped: int, expected: tuple[str, str]) -> None:
    own = make_pki(Path("unused"), name="Stamping", now=NOW - timedelta(hours=2))
    mine = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Gone")
    made = NOW - timedelta(minutes=stamped)
    raw = signed_bytes(SMALL, mine, profile="base", at=made, timestamp=stamper(own, made))
    own.ca.revoke(mine.certificate, at=NOW - timedelta(minutes=30))
    crls = (own.ca.crl(at=NOW), own.ca.root_crl(at=NOW))
    assert verdict(raw, own.policy(crls=crls)) == expected


def test_a_time_stamp_nobody_trusts_proves_nothing() -> None:
    elsewhere = make_pki(Path("unused"), name="Elsewhere", now=NOW - timedelta(hours=1))
    raw = signed_bytes(SMALL, profile="base", timestamp=stamper(elsewhere, NOW))
    result = judged(raw)
    assert (result.indication, result.timestamp) == ("TOTAL-PASSED", None)
    assert "timestamp-untrusted" in result.warnings


def test_a_time_stamp_over_something_else_is_a_failure() -> None:
    stamp = stamper(make_pki(Path("unused"), name="Stamping", now=NOW - timedelta(hours=1)), NOW)
    raw = signed_bytes(SMALL, profile="base", timestamp=lambda _: stamp(b"something else"))
    assert verdict(raw) == undecided("SIG_CONSTRAINTS_FAILURE")


def test_a_whole_response_is_no_token() -> None:
    own = make_pki(Path("unused"), name="Stamping", now=NOW - timedelta(hours=1))
    tsa = own.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")
    raw = signed_bytes(SMALL, profile="base", timestamp=lambda value: TimestampAuthority(tsa).respond(build_request(value), at=NOW))
    assert verdict(raw) == undecided("FORMAT_FAILURE")


def test_a_time_stamp_of_unknown_type_is_warned_of() -> None:
    raw = forge(SMALL, timestamp=b"\x30\x00").replace(b"CMS_TSP ", b"OTHER   ")
    assert "timestamp-of-unknown-type" in judged(raw).warnings


# --- broken structures --------------------------------------------------------------------------------------------------


def with_second_parameters(raw: bytes) -> bytes:
    dataset = open_dataset(raw)
    place = next(found for found in dataset.elements() if found.tag == MAC_PARAMETERS_SEQUENCE)
    whole = bytes(dataset.view[place.value_offset : place.next_offset])
    return replace_elements(raw, {MAC_PARAMETERS_SEQUENCE: sequence(MAC_PARAMETERS_SEQUENCE, whole, whole)})


PEM = signer().certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        pytest.param(with_second_parameters(forge(SMALL)), "several MAC Parameters items", id="duplicate MAC ID"),
        pytest.param(forge(SMALL, mac_ids=(0, 1)), "no MAC Parameters item", id="orphan"),
        pytest.param(
            replace_elements(forge(SMALL), {MAC_PARAMETERS_SEQUENCE: None}), "no MAC Parameters item", id="no parameters at all"
        ),
        pytest.param(forge(SMALL, certificate=PEM), "is PEM", id="PEM"),
        pytest.param(forge(SMALL, certificate=b"\x30\x02\x01\x01"), "cannot be read", id="no certificate"),
        pytest.param(
            forge(SMALL, certificate=signer().certificate.public_bytes(Encoding.DER) * 2), "cannot be read", id="chain"
        ),
        pytest.param(forge(SMALL).replace(b"X509_1993_SIG", b"X509_2023_SIG"), "certificate type", id="certificate type"),
        pytest.param(forge(SMALL).replace(b"SHA256", b"SHA999"), "MAC algorithm is unknown", id="algorithm"),
        pytest.param(
            forge(SMALL, parameters=element(0x04000005, b"US", b"\0\0")), "Data Elements Signed", id="empty parameters"
        ),
        pytest.param(
            replace_elements(SMALL, {DIGITAL_SIGNATURES_SEQUENCE: sequence(DIGITAL_SIGNATURES_SEQUENCE, item(b""))}),
            "cannot be read|is missing",
            id="empty signature",
        ),
    ],
)  # fmt: skip
def test_broken_signatures_are_format_failures(raw: bytes, detail: str) -> None:
    result = judged(raw)
    assert (result.indication, result.sub_indication) == undecided("FORMAT_FAILURE")
    assert re.search(detail, result.detail)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_a_mac_syntax_that_the_standard_bars(syntax: str) -> None:
    raw = forge(SMALL)
    dataset = open_dataset(raw)
    head, tail = raw[: dataset.start], raw[dataset.start :]
    written = element(0x04000010, b"UI", b"1.2.840.10008.1.2.1\0")
    barred = element(0x04000010, b"UI", syntax.encode().ljust(20, b"\0"))
    assert verdict(head + tail.replace(written, barred)) == undecided("FORMAT_FAILURE")


def test_a_key_that_cannot_sign_in_dicom() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = self_signed(signer().private_key)
    from cryptography import x509

    certificate = (
        x509.CertificateBuilder(name.subject, name.subject, key.public_key(), 1, NOW - timedelta(1), NOW + timedelta(1))
        .sign(key, None)
        .public_bytes(Encoding.DER)
    )
    assert verdict(forge(SMALL, certificate=certificate)) == undecided("FORMAT_FAILURE")


def test_a_signature_value_of_the_wrong_size() -> None:
    assert verdict(forge(SMALL, signature_tail=b"\0\0")) == failed("SIG_CRYPTO_FAILURE")


def test_a_sequence_with_unknown_content_cannot_be_checked() -> None:
    raw = part10(sequence(0x00081032, item(element(0x00080100, b"SH", b"A "))))
    spoilt = signed_bytes(raw, profile="base").replace(b"SH\2\0A ", b"UN\0\0\0\0\0\0")
    with pytest.raises(MalformedError):
        evaluate(spoilt, policy())


def test_unknown_content_at_equal_length_cannot_be_checked() -> None:
    long = element(0x00080119, b"UC", b"AB")
    raw = signed_bytes(part10(sequence(0x00081032, item(long))), profile="base")
    assert verdict(raw.replace(long, element(0x00080119, b"UN", b"AB"))) == undecided("FORMAT_FAILURE")


def test_mac_ids_repeated_across_levels_are_warned_of() -> None:
    inner = forge(SMALL)
    body = inner[open_dataset(inner).start :]
    raw = forge(part10(element(UID_TAG, b"UI", b"1.2.3\0") + sequence(0x00081032, item(body))))
    report = evaluate(raw, policy())
    assert report.verdict == "TOTAL-PASSED"
    assert all("mac-id-not-unique" in result.warnings for result in report.signatures)


# --- reports and requirements -------------------------------------------------------------------------------------------


def test_no_signature() -> None:
    assert evaluate(SMALL, policy()).verdict == "NO-SIGNATURE"


@pytest.mark.parametrize(
    ("required", "expected"),
    [
        ((), "TOTAL-PASSED"),
        (("creator",), "TOTAL-PASSED"),
        (("authorization",), "TOTAL-PASSED"),
        (("creator", "sr"), "INDETERMINATE"),
    ],
)
def test_required_profiles(required: tuple[str, ...], expected: str) -> None:
    report = evaluate(signed_sample("CT_small.dcm"), policy(), require=required)
    assert report.verdict == expected


def test_a_failed_signature_meets_no_requirement() -> None:
    report = evaluate(signed_sample("CT_small.dcm"), other_ca(), require=["creator"])
    assert report.missing == ("creator",)


@pytest.mark.parametrize("options", [{"require": ["gold"]}, {"require": ["base"]}, {"at": datetime(2027, 1, 1)}])
def test_questions_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        evaluate(SMALL, policy(), **options)


def test_verify_returns_or_raises_with_the_report() -> None:
    good = signed_bytes(SMALL, profile="base")
    assert verify(good, policy()).verdict == "TOTAL-PASSED"
    for bad in (SMALL, good.replace(b"Test^P", b"Test^Q")):
        with pytest.raises(VerificationError) as caught:
            verify(bad, policy())
        assert caught.value.report.verdict != "TOTAL-PASSED"
        assert "Test" not in str(caught.value)


def test_samples_without_signature_are_told_as_such() -> None:
    assert evaluate(sample("MR_small.dcm"), policy()).verdict == "NO-SIGNATURE"


def test_another_signer_of_the_same_key_does_not_inherit_trust() -> None:
    mine = signer()
    impostor = replace(mine, certificate=self_signed(mine.private_key, common_name="Dr. Signer"))
    assert verdict(signed_bytes(SMALL, impostor, profile="base")) == undecided("NO_CERTIFICATE_CHAIN_FOUND")
