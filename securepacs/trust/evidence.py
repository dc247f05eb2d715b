"""Evidence that outlives certificates and algorithms: records about some bytes, each under a time stamp (RFC 3161, after RFC 4998).

    record 0   digest of the subject; the certificates, CRLs and OCSP responses its signatures rest on      <- time stamp 0
    record n   digest of the subject, anew; digest of all records before, their time stamps included;
               the certificates, CRLs and OCSP responses that time stamp n-1 rests on                       <- time stamp n

The newest time stamp is judged now; it proves that the record before existed while its own authority was still to be believed, and
so on down to record 0, as of whose time the signatures of the subject are judged. Anchors are never taken from the evidence:
whoever verifies brings them, the old ones included.

This file knows nothing of what the subject is. The written form is canonical JSON (docs/reference/evidence.md): any other spelling
is refused, and a checksum notices damage that no time stamp covers, because nothing covers the newest token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import IntegrityFailure, MalformedError, UsageError, VerificationError
from securepacs.trust.policy import PathResult, TrustPolicy
from securepacs.trust.timestamp import IMPRINT_OCTETS, TimestampResult, verify_timestamp

FORMAT = "securepacs-evidence"
VERSION = 1
MAX_BYTES = 256 * 1024 * 1024
MAX_RECORDS = 256

Stamp = Callable[[bytes, str], bytes]  # (data, name of the hash) -> DER TimeStampToken over the data


@dataclass(frozen=True, slots=True)
class Material:
    """What verdicts rest on, DER: certificates (anchors included, untrusted), CRLs, OCSP responses."""

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsp_responses: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One time-stamped statement. `subject` and `previous` are digests by `digest` (sha256, sha384, sha512).

    `previous` is empty in the first record; `timestamp` is empty until the record is stamped.
    """

    digest: str
    subject: bytes
    previous: bytes
    material: Material
    timestamp: bytes = b""

    def stamped(self) -> bytes:
        """Return the bytes that the time stamp is made over: everything but the time stamp."""
        fields = self.to_json()
        del fields["timestamp"]
        return _canonical({"format": FORMAT, "version": VERSION, **fields})

    def to_json(self) -> dict[str, Any]:
        """Return the record under its published names."""
        return {
            "digest": self.digest,
            "subject": self.subject.hex(),
            "previous": self.previous.hex(),
            "certificates": _texts(self.material.certificates),
            "crls": _texts(self.material.crls),
            "ocsp_responses": _texts(self.material.ocsp_responses),
            "timestamp": _texts([self.timestamp])[0],
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records, oldest first; at least one."""

    records: tuple[Record, ...]

    def encode(self) -> bytes:
        """Return the one written form of this evidence."""
        value = {"format": FORMAT, "version": VERSION, "records": [record.to_json() for record in self.records]}
        checksum = hashlib.sha256(_canonical(value)).hexdigest()
        return _canonical({**value, "checksum": checksum}) + b"\n"


def decode(raw: bytes) -> Evidence:
    """Read evidence; MalformedError for anything that `encode` would not have written, such as a file with one flipped byte."""
    if len(raw) > MAX_BYTES:
        raise MalformedError(f"the evidence has more than {MAX_BYTES} bytes")
    try:
        value = json.loads(raw.decode("ascii"))
        if value["format"] != FORMAT or value["version"] != VERSION:
            raise MalformedError(f"not evidence of version {VERSION}")
        evidence = Evidence(tuple(_record(fields) for fields in value["records"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError(f"the evidence cannot be read ({type(error).__name__})") from error
    if not 1 <= len(evidence.records) <= MAX_RECORDS:
        raise MalformedError(f"the evidence has {len(evidence.records)} records")
    if evidence.encode() != raw:
        raise MalformedError("the evidence was damaged: its checksum or its form is not what it was written with")
    return evidence


def material_of(results: Iterable[PathResult], policy: TrustPolicy) -> Material:
    """Return what the verdicts `results` (see `trust.path.recorded`) rest on, certificates that sign the CRLs included."""
    certificates: dict[bytes, None] = {}
    crls: dict[bytes, None] = {}
    responses: dict[bytes, None] = {}
    issuers: list[x509.Name] = []
    for result in results:
        certificates |= dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in result.chain)
        for data in result.revocation_data:
            if isinstance(data, bytes):
                responses[data] = None
            else:
                crls[data.public_bytes(Encoding.DER)] = None
                issuers.append(data.issuer)
    certificates |= dict.fromkeys(
        certificate.public_bytes(Encoding.DER) for certificate in policy.intermediates if certificate.subject in issuers
    )
    return Material(tuple(certificates), tuple(crls), tuple(responses))


def extend(
    evidence: Evidence | None, subject: bytes | bytearray | memoryview, material: Material, *, stamp: Stamp, digest: str = "sha256"
) -> Evidence:
    """Return the evidence with one record more, stamped now. UsageError for a weak hash; raises what `stamp` raises."""
    if digest not in IMPRINT_OCTETS:
        raise UsageError(f"evidence is not made with {digest}", hint=", ".join(IMPRINT_OCTETS))
    before = evidence.records if evidence else ()
    if len(before) >= MAX_RECORDS:
        raise UsageError(f"evidence holds at most {MAX_RECORDS} records")
    record = Record(digest, _digest(digest, subject), _previous(digest, before), material)
    return Evidence((*before, replace(record, timestamp=stamp(record.stamped(), digest))))


def verify_evidence(
    evidence: Evidence, subject: bytes | bytearray | memoryview, *, policy: TrustPolicy, at: datetime
) -> tuple[TimestampResult, ...]:
    """Verify that the records hold and belong to `subject` as of `at`; return their time stamps, oldest first.

    Steps: 1 every record names the subject; 2 every record names all records before; 3 from the newest to the oldest, the time
    stamp holds: the newest as of `at` under `policy`, the others as of the one after, with the data kept by the one after.
    Raises IntegrityFailure for steps 1 and 2, for step 3 what `verify_timestamp` raises. What the subject says is not looked at.
    """
    digests: dict[str, bytes] = {}
    for position, record in enumerate(evidence.records):
        if record.digest not in digests:
            digests[record.digest] = _digest(record.digest, subject)
        if record.subject != digests[record.digest]:
            raise IntegrityFailure(f"record {position} of the evidence is about other content")
        if record.previous != _previous(record.digest, evidence.records[:position]):
            raise IntegrityFailure(f"record {position} of the evidence does not follow from those before it")
    results: list[TimestampResult] = []
    for record in reversed(evidence.records):
        result = verify_timestamp(record.timestamp, record.stamped(), policy=policy, at=at)
        if result.digest_algorithm != record.digest:
            raise VerificationError(f"a time stamp over {result.digest_algorithm} stands on a record of {record.digest}")
        results.append(result)
        policy, at = policy_as_of(record, policy), result.gen_time
    return tuple(reversed(results))


def policy_as_of(record: Record, policy: TrustPolicy) -> TrustPolicy:
    """Return `policy` for what `record` preserves: the same anchors and rules, the record's data and no other, no network."""
    try:
        certificates = tuple(x509.load_der_x509_certificate(raw) for raw in record.material.certificates)
        crls = tuple(x509.load_der_x509_crl(raw) for raw in record.material.crls)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError("a certificate or CRL of the evidence cannot be read") from error
    return replace(
        policy,
        intermediates=certificates,
        crls=crls,
        ocsp_responses=record.material.ocsp_responses,
        online=False,
        cache_folder=None,
    )


def _record(fields: dict[str, Any]) -> Record:
    digest = fields["digest"]
    if digest not in IMPRINT_OCTETS:
        raise MalformedError("a record of the evidence is made with an unknown hash")
    material = Material(_bytes(fields["certificates"]), _bytes(fields["crls"]), _bytes(fields["ocsp_responses"]))
    (timestamp,) = _bytes([fields["timestamp"]])
    return Record(digest, bytes.fromhex(fields["subject"]), bytes.fromhex(fields["previous"]), material, timestamp)


def _previous(digest: str, records: tuple[Record, ...]) -> bytes:
    return _digest(digest, _canonical([record.to_json() for record in records])) if records else b""


def _digest(name: str, data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.new(name, data).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, indent=1, separators=(",", ": ")).encode("ascii")


def _texts(values: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(value).decode("ascii") for value in values]


def _bytes(values: Iterable[str]) -> tuple[bytes, ...]:
    try:
        return tuple(base64.b64decode(value, validate=True) for value in values)
    except binascii.Error as error:
        raise MalformedError("a value of the evidence is not base64") from error
