"""Evidence over thirty years: every renewal in time, every one too late, and every flipped byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509

from securepacs.errors import MalformedError, UsageError, VerificationError
from securepacs.pki import CertificateProfile
from securepacs.signatures import evaluate as evaluate_signatures
from securepacs.signatures.evidence import EvidenceReport, collect, evaluate, is_due, renew, verify
from securepacs.trust import TrustPolicy
from securepacs.trust.evidence import Evidence, Material, decode, extend
from tests.support.encoded import element, part10
from tests.support.eras import Era, era, moment
from tests.support.pki import make_pki, of_version
from tests.support.signing import signed_bytes

SIGNED, RENEWED, RENEWED_AGAIN, LAST = moment(2026), moment(2033), moment(2040), moment(2056)
SMALL = part10(element(0x00080018, b"UI", b"1.2.3.4\0") + element(0x00100010, b"PN", b"Test^Patient"))


def first() -> Era:
    return era(2026)


def anchors(*years: int) -> TrustPolicy:
    return TrustPolicy(anchors=tuple(era(year).pki.ca.root for year in years))


def policy_at(at: datetime, *years: int) -> TrustPolicy:
    """The roots of some eras, and the CRLs and CA certificates of the day."""
    known = [era(year).pki.ca for year in years]
    return replace(
        anchors(*years),
        intermediates=tuple(ca.issuing for ca in known),
        crls=tuple(crl for ca in known for crl in (ca.crl(at=at), ca.root_crl(at=at))),
    )


@cache
def signed() -> bytes:
    doctor = first().pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Long", key_kind="rsa-2048")
    return signed_bytes(SMALL, doctor, profile="base", at=SIGNED)


@cache
def collected() -> Evidence:
    return collect(signed(), policy_at(SIGNED, 2026), stamp=first().stamper(SIGNED), at=SIGNED)


@cache
def renewed() -> Evidence:
    stamp = era(2033).stamper(RENEWED)
    return renew(signed(), collected(), policy_at(RENEWED, 2026, 2033), stamp=stamp, digest="sha384", at=RENEWED)


@cache
def lifelong() -> Evidence:
    """2026, 2033, 2040, 2047, 2054: five authorities, four of them long expired in 2056."""
    evidence = renewed()
    years = [2026, 2033]
    for year in (2040, 2047, 2054):
        years.append(year)
        at = moment(year)
        stamp = era(year).stamper(at)
        evidence = renew(signed(), evidence, policy_at(at, *years), stamp=stamp, digest="sha512", at=at)
    return evidence


def report(evidence: Evidence, policy: TrustPolicy, at: datetime, raw: bytes | None = None) -> EvidenceReport:
    return evaluate(signed() if raw is None else raw, decode(evidence.encode()), policy, at=at)


def outcome(*arguments: object) -> tuple[str, str]:
    found = report(*arguments)  # type: ignore[arg-type]
    return found.verdict, found.sub_indication


ALL = (2026, 2033, 2040, 2047, 2054)


def test_the_image_alone_cannot_be_verified_thirty_years_later() -> None:
    found = evaluate_signatures(signed(), policy_at(SIGNED, 2026), at=LAST)
    assert (found.verdict, found.signatures[0].sub_indication) == ("INDETERMINATE", "OUT_OF_BOUNDS_NO_POE")


@pytest.mark.parametrize(("year", "records"), [(2026, 1), (2034, 2), (2045, 3), (2054, 4), (2056, 5)])
def test_with_evidence_it_verifies_offline_at_any_time(year: int, records: int) -> None:
    """Nothing but the roots is brought: no CRL, no intermediate, no network."""
    evidence = Evidence(lifelong().records[:records])
    found = verify(signed(), evidence, anchors(*ALL[:records]), at=moment(year, 7))
    assert found.verdict == "TOTAL-PASSED"
    assert [stamp.gen_time for stamp in found.timestamps] == [moment(begun) for begun in ALL[:records]]
    assert found.proven == SIGNED
    assert found.signatures is not None
    assert (
        found.signatures.signatures[0].warnings
        == evaluate_signatures(signed(), policy_at(SIGNED, 2026), at=SIGNED).signatures[0].warnings
    )
    assert [stamp.digest_algorithm for stamp in found.timestamps] == ["sha256", "sha384", "sha512", "sha512", "sha512"][:records]


def test_what_has_expired_since() -> None:
    assert all(era(year).tsa.certificate.not_valid_after_utc < LAST for year in ALL[:4])
    assert era(2026).pki.ca.root.not_valid_after_utc < LAST
    assert era(2033).pki.ca.root.not_valid_after_utc < LAST


@pytest.mark.parametrize("missing", ALL)
def test_every_root_of_the_past_is_needed(missing: int) -> None:
    kept = anchors(*(year for year in ALL if year != missing))
    assert outcome(lifelong(), kept, LAST) == ("INDETERMINATE", "NO_CERTIFICATE_CHAIN_FOUND")


def test_renewed_too_late() -> None:
    """The first authority's certificate ended in 2034; by 2036 nothing proves the first time stamp any more."""
    late = moment(2036)
    assert outcome(collected(), policy_at(late, 2026), late) == ("INDETERMINATE", "OUT_OF_BOUNDS_NO_POE")
    with pytest.raises(VerificationError, match="OUT_OF_BOUNDS_NO_POE"):
        renew(signed(), collected(), policy_at(late, 2026, 2033), stamp=era(2033).stamper(late), at=late)
    forced = extend(collected(), signed(), Material(), stamp=era(2033).stamper(late))
    assert outcome(forced, policy_at(late, 2026, 2033), late)[0] == "INDETERMINATE"


def test_not_renewed_at_all() -> None:
    assert outcome(renewed(), anchors(2026, 2033), moment(2042)) == ("INDETERMINATE", "OUT_OF_BOUNDS_NO_POE")


def test_due() -> None:
    found = report(collected(), anchors(2026), SIGNED)
    assert found.renew_before == first().tsa.certificate.not_valid_after_utc
    assert not is_due(found, within=timedelta(days=90), at=moment(2033))
    assert is_due(found, within=timedelta(days=90), at=found.renew_before - timedelta(days=90))


def test_signer_revoked_after_the_evidence_was_collected_stays_good() -> None:
    own = Era(era(2026).pki)
    doctor = own.pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Gone", key_kind="rsa-2048")
    raw = signed_bytes(SMALL, doctor, profile="base", at=SIGNED)
    before = collect(raw, policy_at(SIGNED, 2026), stamp=own.stamper(SIGNED), at=SIGNED)
    later = SIGNED + timedelta(days=30)
    own.pki.ca.revoke(doctor.certificate, at=SIGNED + timedelta(days=1), reason=x509.ReasonFlags.key_compromise)
    assert evaluate_signatures(raw, policy_at(later, 2026), at=later).verdict == "TOTAL-FAILED"
    assert outcome(before, policy_at(later, 2026), later, raw) == ("TOTAL-PASSED", "")
    with pytest.raises(VerificationError, match="did not pass"):
        collect(raw, policy_at(later, 2026), stamp=own.stamper(later), at=later)


@pytest.mark.parametrize(("reason", "expected"), [("key_compromise", "REVOKED"), ("cessation_of_operation", "")])
def test_authority_revoked(reason: str, expected: str) -> None:
    own = Era(era(2026).pki)
    own.tsa = own.pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, f"TSA {reason}", key_kind="p256")
    evidence = collect(signed(), policy_at(SIGNED, 2026), stamp=own.stamper(SIGNED), at=SIGNED)
    later = SIGNED + timedelta(days=30)
    own.pki.ca.revoke(own.tsa.certificate, at=SIGNED + timedelta(days=1), reason=x509.ReasonFlags[reason])
    assert outcome(evidence, policy_at(later, 2026), later)[1] == expected
    if not expected:  # and the renewal keeps what says so
        further = renew(signed(), evidence, policy_at(later, 2026), stamp=first().stamper(later), at=later)
        assert outcome(further, anchors(2026), later + timedelta(days=200)) == ("TOTAL-PASSED", "")


def test_authority_that_nobody_trusts_shows_when_collecting() -> None:
    other = make_pki(Path("unused"), name="Elsewhere", now=moment(2026, 1))
    with pytest.raises(VerificationError, match="NO_CERTIFICATE_CHAIN_FOUND"):
        collect(signed(), policy_at(SIGNED, 2026), stamp=Era(other).stamper(SIGNED), at=SIGNED)


def test_unsigned_and_changed_instances_are_not_worth_evidence() -> None:
    for raw in (SMALL, signed().replace(b"Test^P", b"Test^Q")):
        with pytest.raises(VerificationError, match="did not pass"):
            collect(raw, policy_at(SIGNED, 2026), stamp=first().stamper(SIGNED), at=SIGNED)


def test_every_flipped_byte_of_the_instance_is_noticed() -> None:
    raw = signed()
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        assert outcome(renewed(), anchors(2026, 2033), RENEWED, changed) == ("TOTAL-FAILED", "HASH_FAILURE"), position
    assert outcome(renewed(), anchors(2026, 2033), RENEWED, raw + b"\0") == ("TOTAL-FAILED", "HASH_FAILURE")


def flips(raw: bytes, step: int) -> list[bytes]:
    return [raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :] for position in range(0, len(raw), step)]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.full), 7])
def test_every_flipped_byte_of_the_evidence_is_noticed(step: int) -> None:
    for changed in flips(renewed().encode(), step):
        with pytest.raises(MalformedError):
            decode(changed)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.full), 61])
def test_forger_who_mends_the_checksum_gets_no_further(step: int) -> None:
    """Only within the newest token may a byte change without notice: parts of it nobody signs, and they say nothing."""
    evidence = renewed()
    raw = evidence.encode()
    newest = json.dumps(evidence.records[-1].to_json()["timestamp"]).encode()
    start = raw.rindex(newest)
    body = raw[: raw.rindex(b',\n "checksum"')]
    honest = report(evidence, anchors(2026, 2033), RENEWED).to_dict()
    forged = 0
    for position in [*range(0, len(body), step)]:
        for bit in (1, 2):  # one of them gives another base64 or hexadecimal digit
            changed = body[:position] + bytes([body[position] ^ bit]) + body[position + 1 :]
            try:
                value = json.loads(changed + b"\n}")
                checksum = hashlib.sha256(json.dumps(value, indent=1, separators=(",", ": ")).encode()).hexdigest()
                mended = json.dumps({**value, "checksum": checksum}, indent=1, separators=(",", ": ")).encode() + b"\n"
                found = report(decode(mended), anchors(2026, 2033), RENEWED)
            except (ValueError, MalformedError):
                continue
            forged += 1
            if start <= position < start + len(newest):
                assert found.verdict != "TOTAL-PASSED" or found.to_dict() == honest
            else:
                assert found.verdict in ("TOTAL-FAILED", "INDETERMINATE"), position
    assert forged > 10


def test_certificate_of_unknown_version_in_a_record() -> None:
    """The parser's error for it is no ValueError."""
    broken = Material((of_version(first().pki.ca.root, 1),))
    forged = extend(None, signed(), broken, stamp=first().stamper(SIGNED))
    with pytest.raises(MalformedError, match="certificate or CRL"):
        report(forged, anchors(2026), SIGNED)


def test_records_cannot_be_dropped_swapped_or_taken_from_another_image() -> None:
    records = lifelong().records
    for taken in (records[1:], (records[1], records[0]), (records[0], records[2])):
        assert outcome(Evidence(taken), anchors(*ALL), LAST) == ("TOTAL-FAILED", "HASH_FAILURE")
    other = signed_bytes(SMALL.replace(b"Patient", b"Another"), profile="base")
    assert outcome(lifelong(), anchors(*ALL), LAST, other) == ("TOTAL-FAILED", "HASH_FAILURE")
    assert outcome(Evidence(records[:1]), anchors(*ALL), LAST) == ("INDETERMINATE", "OUT_OF_BOUNDS_NO_POE")


def test_report_is_no_truth_value_and_names_what_it_found() -> None:
    found = report(renewed(), anchors(2026, 2033), RENEWED)
    with pytest.raises(TypeError, match="truth value"):
        bool(found)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["verdict"] == "TOTAL-PASSED"
    assert [stamp["digest"] for stamp in told["timestamps"]] == ["sha256", "sha384"]
    assert told["proven"].startswith("2026-06-01")
    assert told["signatures"][0]["indication"] == "TOTAL-PASSED"
    with pytest.raises(VerificationError) as caught:
        verify(signed() + b"\0", renewed(), anchors(2026, 2033), at=RENEWED)
    assert caught.value.report.verdict == "TOTAL-FAILED"


def test_moments_need_a_time_zone() -> None:
    with pytest.raises(UsageError, match="time zone"):
        evaluate(signed(), renewed(), anchors(2026, 2033), at=RENEWED.replace(tzinfo=None))
