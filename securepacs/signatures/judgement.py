"""The verdict about one signature, step by step (PS3.15 C.1, A.2; ETSI EN 319 102-1).

    1  find its MAC Parameters in the same data set, by MAC ID Number
    2  check the terms: transfer syntax, certificate type, MAC algorithm
    3  rebuild the MAC and check the signature value
    4  judge algorithms and key sizes
    5  verify the certified time stamp, if there is one
    6  judge the signer's certificate: at the stamped time, else now; then what the claimed time adds
    7  measure coverage: profile, uncovered elements and byte ranges

A finding is a reason not to pass. TOTAL-FAILED wins over INDETERMINATE; of equals the first counts. No step ends the walk, so that
a changed image signed by a revoked key is reported with everything there is to know about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from securepacs import codes
from securepacs.dicom.edit import format_path
from securepacs.dicom.part10 import EncodedDataSet, compression_of
from securepacs.errors import MalformedError, UsageError, VerificationError
from securepacs.signatures.check import Checked, Fit, PublicKey, Signer, check, read_signer
from securepacs.signatures.coverage import Coverage, Outline, measure, open_ranges
from securepacs.signatures.mac import UnsignableError
from securepacs.signatures.profiles import AGEING_ALGORITHMS, ALGORITHMS, WEAK_ALGORITHMS
from securepacs.signatures.report import INDETERMINATE, TOTAL_FAILED, TOTAL_PASSED, SignatureResult
from securepacs.signatures.sequences import (
    CMS_TSP,
    X509_1993_SIG,
    MacParameters,
    Scope,
    SignatureItem,
)
from securepacs.signatures.values import der_value, parse_date_time
from securepacs.trust import Indication, PathResult, Purpose, TrustPolicy, validate

CLOCK_SKEW = timedelta(minutes=5)  # a claimed signing time may lie this far in the future before it is called so
_MISSPELT_CMS_TSP = "CMS_TS"
_LEAST_EC_BITS = 256


class Finding(NamedTuple):
    """An indication with its reason."""

    indication: str
    sub_indication: str = ""
    detail: str = ""


_PASSED = Finding(TOTAL_PASSED)


@dataclass
class Rules:
    """What the verifier was told, and the certificate verdicts reached so far (`now` is the moment of verification)."""

    policy: TrustPolicy
    now: datetime
    bit_exact: bool = False
    allow_weak_hash: bool = False
    trust_signing_time: bool = False
    _paths: dict[tuple[bytes, datetime], PathResult] = field(default_factory=dict, repr=False)

    def path(self, signer: Signer, at: datetime) -> PathResult:
        """Return the verdict about a signer certificate at a moment, remembered per certificate and moment."""
        key = (signer.fingerprint, at)
        if key not in self._paths:
            self._paths[key] = validate(signer.certificate, policy=self.policy, at=at, purpose=Purpose.SIGNER)
        return self._paths[key]


class Judgement:
    """The steps for one signature. Findings are collected; the gravest decides, the first of equals."""

    def __init__(
        self,
        rules: Rules,
        dataset: EncodedDataSet,
        scope: Scope,
        item: SignatureItem,
        parameters: tuple[MacParameters, ...],
        outermost: Outline,
    ) -> None:
        self.rules = rules
        self.dataset = dataset
        self.scope = scope
        self.item = item
        self.parameters = parameters
        self.outermost = outermost
        self.findings: list[Finding] = []
        self.warnings: list[str] = []
        self.signer: Signer | None = None
        self.key: PublicKey | None = None
        self.stamped: datetime | None = None
        self.claimed: datetime | None = None

    def result(self, *, repeated: bool) -> SignatureResult:
        """Walk through the steps and put the result together."""
        self._read_certificate()
        self._read_claimed_time()
        if repeated:
            self.warnings.append("mac-id-not-unique")
        parameters = self._find_parameters()
        checked = self._check_value(parameters) if parameters and self._check_terms(parameters) else None
        if checked is not None and parameters is not None:
            self._judge_reading(checked, parameters)
            self._judge_algorithms(parameters.algorithm)
        if self.signer is not None:
            self._verify_timestamp()
            self._judge_certificate(self.signer)
        return self._put_together(parameters, checked)

    # --- step 1: MAC Parameters of the same data set ---------------------------------------------------------------
    def _find_parameters(self) -> MacParameters | None:
        for problem in self.item.problems:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", problem)
        if self.item.mac_id is None:
            return None
        found = [parameters for parameters in self.parameters if parameters.mac_id == self.item.mac_id]
        if len(found) == 1:
            return found[0]
        reason = (
            "no MAC Parameters item has its MAC ID Number" if not found else "several MAC Parameters items have its MAC ID Number"
        )
        self._fail(INDETERMINATE, "FORMAT_FAILURE", reason)
        return None

    # --- step 2: terms ---------------------------------------------------------------------------------------------
    def _check_terms(self, parameters: MacParameters) -> bool:
        for problem in parameters.problems:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", problem)
        if self.item.certificate_type != X509_1993_SIG:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", "the certificate type is not X509_1993_SIG")
        if parameters.transfer_syntax in (codes.IMPLICIT_VR_LITTLE_ENDIAN, codes.EXPLICIT_VR_BIG_ENDIAN, ""):
            self._fail(INDETERMINATE, "FORMAT_FAILURE", "the MAC transfer syntax is not explicit VR little endian")
        if parameters.algorithm not in ALGORITHMS:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", "the MAC algorithm is unknown")
        return not self.findings

    # --- step 3: MAC and signature value ---------------------------------------------------------------------------
    def _check_value(self, parameters: MacParameters) -> Checked | None:
        if self.key is None:
            return None
        item = (self.item.start, self.item.end)
        try:
            return check(
                self.dataset, self.scope, frozenset(parameters.tags), item, parameters.algorithm, self.key, self.item.signature
            )
        except UnsignableError as error:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", error.message)
        return None

    def _judge_reading(self, checked: Checked, parameters: MacParameters) -> None:
        if checked.fit is not Fit.MATCHES:
            if self.outermost.pixels_in(parameters.tags) and compression_of(parameters.transfer_syntax) != compression_of(
                self.dataset.transfer_syntax
            ):
                reason = "it was made over pixel data in another transfer syntax; the content it signs is not in this file"
                self._fail(INDETERMINATE, "SIGNED_DATA_NOT_FOUND", reason)
            elif checked.fit is Fit.HASH_FAILURE:
                self._fail(TOTAL_FAILED, "HASH_FAILURE", "the signed content was changed")
            else:
                self._fail(TOTAL_FAILED, "SIG_CRYPTO_FAILURE", "the signature value does not fit the content and the certificate")
            return
        if compression_of(parameters.transfer_syntax) != compression_of(self.dataset.transfer_syntax):
            self.warnings.append("mac-transfer-syntax-differs")
        if checked.reading.fragment_lengths:
            reason = "it matches only in the fragment format of DCMTK before 3.5.4"
            self._fail(INDETERMINATE, "FORMAT_FAILURE", reason)
        if checked.reading.pixel_bytes:
            self.warnings.append("pixel-vr-assumed")
        if checked.reading.trimmed and self.rules.bit_exact:
            self._fail(TOTAL_FAILED, "HASH_FAILURE", "it matches only after trimming padded values")
        elif checked.reading.trimmed:
            self.warnings.append("trimmed-values")

    # --- step 4: algorithms and key sizes --------------------------------------------------------------------------
    def _judge_algorithms(self, algorithm: str) -> None:
        if algorithm in WEAK_ALGORITHMS and not self.rules.allow_weak_hash:
            self._fail(INDETERMINATE, "CRYPTO_CONSTRAINTS_FAILURE", f"{algorithm} is too weak")
        elif algorithm in WEAK_ALGORITHMS | AGEING_ALGORITHMS:
            self.warnings.append("weak-hash")
        key = self.key
        if isinstance(key, rsa.RSAPublicKey):
            least = self.rules.policy.minimum_rsa_bits
            if key.key_size < least:
                self._fail(INDETERMINATE, "CRYPTO_CONSTRAINTS_FAILURE", f"the RSA key has {key.key_size} bits, fewer than {least}")
            return
        self.warnings.append("outside-dicom-profiles")
        if isinstance(key, dsa.DSAPublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _LEAST_EC_BITS):
            self._fail(INDETERMINATE, "CRYPTO_CONSTRAINTS_FAILURE", "the kind or size of the key is too weak")

    # --- step 5: certified time stamp (PS3.3 C.12.1.1.3.1.3, RFC 3161) ----------------------------------------------
    def _verify_timestamp(self) -> None:
        item = self.item
        if not item.timestamp:
            return
        if item.timestamp_type not in (CMS_TSP, _MISSPELT_CMS_TSP):
            self.warnings.append("timestamp-of-unknown-type")
            return
        from securepacs.trust.timestamp import verify_timestamp

        rules = self.rules
        try:
            token = der_value(item.timestamp)
            stamp = verify_timestamp(
                token, self.signature_value, policy=rules.policy, at=rules.now, allow_weak_hash=rules.allow_weak_hash
            )
        except (MalformedError, UsageError):  # UsageError: a CMS message without content
            self._fail(INDETERMINATE, "FORMAT_FAILURE", "the certified time stamp is no TimeStampToken")
        except VerificationError as error:
            if error.report is None:
                self._fail(INDETERMINATE, "SIG_CONSTRAINTS_FAILURE", f"the certified time stamp does not hold: {error.message}")
            else:  # sound, but by an authority that is not trusted: it proves nothing, and takes nothing away
                self.warnings.append("timestamp-untrusted")
        else:
            self.stamped = stamp.gen_time

    @property
    def signature_value(self) -> bytes:
        """The signature without the pad byte of its OB: what a time stamp is made over."""
        signature = self.item.signature
        if isinstance(self.key, rsa.RSAPublicKey):
            return signature[: (self.key.key_size + 7) // 8]
        try:
            return der_value(signature)
        except MalformedError:
            return signature

    # --- step 6: the signer's certificate --------------------------------------------------------------------------
    def _judge_certificate(self, signer: Signer) -> None:
        now = self.rules.now
        moment = self.stamped or now
        expired = moment > signer.not_after
        claimed = self.claimed
        if claimed is not None and not signer.not_before <= claimed <= signer.not_after:
            reason = "the claimed signing time lies outside the validity of the certificate"
            self._fail(INDETERMINATE, "OUT_OF_BOUNDS_NO_POE", reason)
        if expired and claimed is not None and claimed <= signer.not_after:
            moment = self._judge_expired(signer, claimed)
        path = self.rules.path(signer, moment)
        self.warnings += path.warnings
        revoked = path.revocation_time
        if revoked is not None and revoked <= now and (self.stamped is None or self.stamped >= revoked):
            self._fail(TOTAL_FAILED, "REVOKED", path.detail or "the certificate was revoked")
        elif path.indication is not Indication.TOTAL_PASSED:
            self._fail(str(path.indication), str(path.sub_indication), path.detail)

    def _judge_expired(self, signer: Signer, claimed: datetime) -> datetime:
        """Certificate expired, no time stamp: return the moment to judge the path at, so that other reasons still show."""
        if self.rules.trust_signing_time:
            self.warnings.append("signing-time-trusted")
        else:
            reason = "the certificate has expired, and nothing proves that the signature is older"
            self._fail(INDETERMINATE, "OUT_OF_BOUNDS_NO_POE", reason)
        return max(claimed, signer.not_before)

    # --- reading ---------------------------------------------------------------------------------------------------
    def _read_certificate(self) -> None:
        if not self.item.certificate:
            return
        try:
            self.signer = read_signer(self.item.certificate)
        except MalformedError as error:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", error.message)
            return
        self.key = self.signer.key
        if self.key is None:
            self._fail(INDETERMINATE, "FORMAT_FAILURE", "the kind of key in the certificate cannot sign in DICOM")

    def _read_claimed_time(self) -> None:
        try:
            self.claimed, has_offset = parse_date_time(self.item.date_time)
        except ValueError:
            self.warnings.append("signing-time-unreadable")
            return
        if not has_offset:
            self.warnings.append("signing-time-without-offset")
        if self.claimed > self.rules.now + CLOCK_SKEW:
            self.warnings.append("signing-time-in-future")

    def _fail(self, indication: str, sub_indication: str, detail: str) -> None:
        self.findings.append(Finding(indication, sub_indication, detail))

    # --- step 7: coverage, and the result --------------------------------------------------------------------------
    def _put_together(self, parameters: MacParameters | None, checked: Checked | None) -> SignatureResult:
        verdict = next((finding for finding in self.findings if finding.indication == TOTAL_FAILED), None)
        verdict = verdict or next(iter(self.findings), _PASSED)
        coverage, ranges = Coverage(), tuple[tuple[int, int], ...]()
        if parameters is not None and checked is not None:
            in_profiles = isinstance(self.key, rsa.RSAPublicKey)
            coverage = measure(
                self.dataset,
                self.scope,
                parameters,
                checked.stream,
                self.outermost,
                in_profiles=in_profiles,
                purpose=self.item.purpose,
            )
            ranges = open_ranges(self.dataset, self.scope, checked.stream, parameters, self.item)
        return SignatureResult(
            uid=self.item.uid,
            location=format_path(self.scope.path),
            profile=coverage.profile,
            mac_algorithm=parameters.algorithm if parameters else "",
            signature_algorithm=name_key(self.key),
            signer=self.signer.subject if self.signer else "",
            signing_time=self.claimed,
            timestamp=self.stamped,
            indication=verdict.indication,
            sub_indication=verdict.sub_indication,
            detail=verdict.detail,
            covered=coverage.covered,
            uncovered=coverage.uncovered,
            uncovered_ranges=ranges,
            warnings=tuple(dict.fromkeys((*coverage.warnings, *self.warnings))),
            profiles=coverage.profiles,
            purpose=" ".join(self.item.purpose) if self.item.purpose else "",
        )


def name_key(key: object) -> str:
    """Return how reports name the algorithm and size of a public key; empty for what cannot sign in DICOM."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA-{key.curve.name}"
    return f"DSA-{key.key_size}" if isinstance(key, dsa.DSAPublicKey) else ""
