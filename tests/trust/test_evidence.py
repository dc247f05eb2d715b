"""Records over any bytes: their written form, their limits, and what links them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import IntegrityFailure, MalformedError, Unavailable, UsageError, VerificationError
from securepacs.trust import Purpose, TrustPolicy, evidence, validate
from securepacs.trust.evidence import Evidence, Material, Record, decode, extend, material_of, policy_as_of, verify_evidence
from securepacs.trust.path import recorded
from tests.support.eras import era, moment
from tests.support.pki import make_crl, make_party, pem_of, usage
from tests.support.programs import require

AT = moment(2026)
SUBJECT = b"any bytes at all"


def stamp(data: bytes, digest: str) -> bytes:
    return era(2026).stamp(AT, data, digest)


def policy() -> TrustPolicy:
    return era(2026).pki.policy()


def made(**changes: Any) -> Evidence:
    """Two records; `changes` are made to the last one before it is stamped."""
    first = extend(None, SUBJECT, Material((b"\x30\x00",), (b"\x30\x00",), (b"\x30\x00",)), stamp=stamp)
    second = extend(first, SUBJECT, Material(), stamp=lambda data, digest: b"", digest="sha512").records[1]
    second = replace(second, **changes)
    return Evidence((*first.records, replace(second, timestamp=stamp(second.stamped(), second.digest))))


def written(value: dict[str, Any]) -> bytes:
    """Spell a value as `encode` does, with a checksum that is right."""
    value = {name: found for name, found in value.items() if name != "checksum"}
    checksum = hashlib.sha256(evidence._canonical(value)).hexdigest()
    return evidence._canonical({**value, "checksum": checksum}) + b"\n"


def test_round_trip() -> None:
    raw = made().encode()
    assert decode(raw) == made().__class__(decode(raw).records)
    assert decode(raw).encode() == raw == written(json.loads(raw))
    assert raw.isascii()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"records": []},
        {"records": None},
        {"records": [1]},
        {"records": [{}]},
        {"more": 1},
    ],
)
def test_other_content_is_refused_although_its_checksum_is_right(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        decode(written({**json.loads(made().encode()), **change}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "sha1"),
        ("digest", ["sha256"]),
        ("subject", "zz"),
        ("subject", "AB"),
        ("subject", None),
        ("certificates", ["MA="]),
        ("certificates", ["MAA B"]),
        ("certificates", ["MAB="]),
        ("certificates", "MAA="),
        ("crls", None),
        ("timestamp", None),
        ("note", "hello"),
    ],
)
def test_fields_have_one_spelling(field: str, value: object) -> None:
    told = json.loads(made().encode())
    told["records"][0][field] = value
    with pytest.raises(MalformedError):
        decode(written(told))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b"null", b"[]", b"1" * 10_000, b"[" * 100_000, b'{"format": 1}', b"NaN", "é".encode()]
)
def test_what_is_no_evidence(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(raw)


def test_other_spacing_and_order_are_refused() -> None:
    raw = made().encode()
    for other in (raw + b"\n", raw[:-1], raw.replace(b": ", b":", 1), json.dumps(json.loads(raw)).encode()):
        with pytest.raises(MalformedError):
            decode(other)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = made().encode()
    monkeypatch.setattr(evidence, "MAX_RECORDS", 1)
    with pytest.raises(MalformedError, match="2 records"):
        decode(raw)
    with pytest.raises(UsageError, match="at most 1"):
        extend(Evidence(made().records[:1]), SUBJECT, Material(), stamp=stamp)
    monkeypatch.setattr(evidence, "MAX_BYTES", 100)
    with pytest.raises(MalformedError, match="more than 100"):
        decode(raw)


def test_weak_hash_is_not_used_and_nobody_is_asked() -> None:
    with pytest.raises(UsageError, match="sha1"):
        extend(None, SUBJECT, Material(), stamp=lambda data, digest: pytest.fail("asked"), digest="sha1")


def test_errors_of_the_authority_come_through() -> None:
    def unavailable(data: bytes, digest: str) -> bytes:
        raise Unavailable("closed")

    with pytest.raises(Unavailable):
        extend(None, SUBJECT, Material(), stamp=unavailable)


def simple() -> Evidence:
    return extend(None, SUBJECT, Material(), stamp=stamp)


def test_time_stamp_and_subject() -> None:
    (result,) = verify_evidence(simple(), SUBJECT, policy=policy(), at=AT)
    assert result.gen_time == AT
    for view in (bytearray(SUBJECT), memoryview(SUBJECT)):
        verify_evidence(simple(), view, policy=policy(), at=AT)
    with pytest.raises(IntegrityFailure, match=r"record 0 .* other content"):
        verify_evidence(simple(), SUBJECT + b"\0", policy=policy(), at=AT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": b"\0" * 64}, "record 1 .* other content"),
        ({"previous": b""}, "record 1 .* does not follow"),
        ({"previous": b"\0" * 64}, "record 1 .* does not follow"),
    ],
)
def test_records_that_do_not_belong_together(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(IntegrityFailure, match=words):
        verify_evidence(made(**changes), SUBJECT, policy=policy(), at=AT)


def test_first_record_that_claims_to_follow() -> None:
    record = Record("sha256", hashlib.sha256(SUBJECT).digest(), b"\0" * 32, Material())
    forged = Evidence((replace(record, timestamp=stamp(record.stamped(), "sha256")),))
    with pytest.raises(IntegrityFailure, match=r"record 0 .* does not follow"):
        verify_evidence(forged, SUBJECT, policy=policy(), at=AT)


@pytest.mark.parametrize("field", ["material", "timestamp"])
def test_what_is_stamped(field: str) -> None:
    record = simple().records[0]
    other = Material((b"\x30\x00",)) if field == "material" else stamp(record.stamped() + b"x", "sha256")
    with pytest.raises(IntegrityFailure, match="other data"):
        verify_evidence(Evidence((replace(record, **{field: other}),)), SUBJECT, policy=policy(), at=AT)


def test_time_stamp_by_another_hash_than_the_record() -> None:
    """Else a record of sha512 could rest on a weaker one."""
    record = extend(None, SUBJECT, Material(), stamp=lambda data, digest: stamp(data, "sha256"), digest="sha512")
    with pytest.raises(VerificationError, match="over sha256 stands on a record of sha512"):
        verify_evidence(record, SUBJECT, policy=policy(), at=AT)


def test_time_stamps_in_the_wrong_order() -> None:
    later = era(2026).stamper(AT + timedelta(days=1))
    backwards = extend(extend(None, SUBJECT, Material(), stamp=later), SUBJECT, Material(), stamp=stamp)
    with pytest.raises(VerificationError, match="in the future"):
        verify_evidence(backwards, SUBJECT, policy=policy(), at=AT + timedelta(days=2))


def test_older_time_stamps_rest_on_what_the_next_record_kept_and_on_nothing_else() -> None:
    """The authority's issuing CA is known to the verifier, but was not kept."""
    first = simple()
    token_alone = replace(
        first.records[0],
        timestamp=era(2026).stamp(AT, first.records[0].stamped(), "sha256"),
    )
    again = extend(Evidence((token_alone,)), SUBJECT, Material(), stamp=stamp)
    assert len(verify_evidence(again, SUBJECT, policy=policy(), at=AT)) == 2  # the chain came inside the token
    past = policy_as_of(again.records[1], replace(policy(), online=True, crls=era(2026).crls(AT)))  # type: ignore[arg-type]
    assert (past.anchors, past.intermediates, past.crls, past.online) == (policy().anchors, (), (), False)


def test_material_holds_chain_revocation_data_and_the_signers_of_crls() -> None:
    root = make_party("Root", now=AT, ca=True, key_usage=usage(key_cert_sign=True, crl_sign=True))
    issuing = make_party("Issuing", now=AT, issuer=root, ca=True, key_usage=usage(key_cert_sign=True))
    signer = make_party("Issuing", now=AT, issuer=root, key_usage=usage(crl_sign=True))
    leaf = make_party("Leaf", now=AT, issuer=issuing, key_usage=usage(digital_signature=True))
    bystander = make_party("Bystander", now=AT)
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    crls = (make_crl(root, now=AT), make_crl(issuing, now=AT, key=signer.key, extensions=((aki, False),)))
    helpers = tuple(party.certificate for party in (issuing, signer, bystander))
    trusting = TrustPolicy(anchors=(root.certificate,), intermediates=helpers, crls=crls, require_revocation=True)
    with recorded() as results:
        found = validate(leaf.certificate, policy=trusting, at=AT, purpose=Purpose.SIGNER)
    assert found.passed, found.detail
    kept = material_of(results, trusting)
    assert set(kept.certificates) == {party.certificate.public_bytes(Encoding.DER) for party in (root, issuing, signer, leaf)}
    assert set(kept.crls) == {crl.public_bytes(Encoding.DER) for crl in crls}
    past = policy_as_of(Record("sha256", b"", b"", kept), TrustPolicy(anchors=(root.certificate,), require_revocation=True))
    assert validate(leaf.certificate, policy=past, at=AT, purpose=Purpose.SIGNER).passed


@pytest.mark.interop
def test_openssl_verifies_a_record(tmp_path: Path) -> None:
    """As docs/reference/evidence.md says: the time stamp is over the record without it."""
    openssl = require("openssl")
    record = simple().records[0]
    told = json.loads(simple().encode())["records"][0]
    del told["timestamp"]
    data = json.dumps({"format": "securepacs-evidence", "version": 1, **told}, indent=1).encode()
    assert data == record.stamped()
    (tmp_path / "record.json").write_bytes(data)
    (tmp_path / "token.der").write_bytes(record.timestamp)
    (tmp_path / "root.pem").write_bytes(pem_of(era(2026).pki.ca.root))
    (tmp_path / "issuing.pem").write_bytes(pem_of(era(2026).pki.ca.issuing))
    command = [openssl, "ts", "-verify", "-data", "record.json", "-in", "token.der", "-token_in", "-CAfile", "root.pem"]
    command += ["-untrusted", "issuing.pem", "-attime", str(int(AT.timestamp()))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert "Verification: OK" in done.stdout + done.stderr
