"""What is trusted, for which purpose, and how a verdict about a certificate is said (ETSI EN 319 102-1 words). Pure data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from securepacs.errors import UsageError
from securepacs.trust.status import RevocationData

if TYPE_CHECKING:
    from securepacs.trust.fetch import Fetcher


class Purpose(StrEnum):
    """What the end-entity certificate is used for; decides which key usages are required (RFC 5280 4.2.1.3, 4.2.1.12)."""

    SIGNER = "signer"
    TLS_CLIENT = "tls-client"
    TLS_SERVER = "tls-server"
    TIMESTAMPING = "timestamping"
    OCSP = "ocsp"
    ANY = "any"


class Indication(StrEnum):
    """The three verdicts of ETSI EN 319 102-1 5.1.3."""

    TOTAL_PASSED = "TOTAL-PASSED"
    TOTAL_FAILED = "TOTAL-FAILED"
    INDETERMINATE = "INDETERMINATE"


class SubIndication(StrEnum):
    """Why a certificate did not pass (ETSI EN 319 102-1 5.1.3), in the order in which they win over each other."""

    REVOKED = "REVOKED"
    TRY_LATER = "TRY_LATER"
    OUT_OF_BOUNDS_NO_POE = "OUT_OF_BOUNDS_NO_POE"
    CHAIN_CONSTRAINTS_FAILURE = "CHAIN_CONSTRAINTS_FAILURE"
    CRYPTO_CONSTRAINTS_FAILURE = "CRYPTO_CONSTRAINTS_FAILURE"
    NO_CERTIFICATE_CHAIN_FOUND = "NO_CERTIFICATE_CHAIN_FOUND"


WARNING_REVOCATION_UNCHECKED = "revocation-unchecked"  # at least one certificate of the chain had no revocation data to check
WARNING_REVOCATION_STALE = "revocation-stale"  # data past its nextUpdate was accepted within TrustPolicy.revocation_grace


ANY_POLICY = "2.5.29.32.0"


@dataclass(frozen=True, slots=True)
class CertificatePolicies:
    """Which certificate policies a path must be valid for: the inputs (c) to (g) of RFC 5280 6.1.1.

    `acceptable`: dotted OIDs in the policy domain of the anchor, any by default; with `explicit` one of them must hold for the
    whole path. `inhibit_mapping`, `inhibit_any`: do not follow policyMappings, do not count anyPolicy.
    """

    acceptable: frozenset[str] = frozenset({ANY_POLICY})
    explicit: bool = False
    inhibit_mapping: bool = False
    inhibit_any: bool = False

    def __post_init__(self) -> None:
        if not self.acceptable:
            raise UsageError("no certificate policy is acceptable, so no certificate is", hint="name one, or leave it out")


@dataclass(frozen=True)
class TrustPolicy:
    """What a relying party trusts and how strictly it asks.

    `anchors`: certificates trusted as they are; one may be an end-entity certificate (a directly installed peer, IHE ITI-19).
    `intermediates`: helpers for building a path, not trusted. `crls`, `ocsp_responses` (DER): revocation data at hand; a
    certificate whose issuer has a CRL here must be covered by it. `online`: fetch what the certificates declare (AIA, CDP) over
    HTTP, from public hosts and `allowed_hosts`. `minimum_rsa_bits` holds for every key in the chain. `timestamp_anchors`: whom
    to trust for time stamps, the same anchors when None. `revocation_grace`: how long past nextUpdate revocation data may be
    used, with a warning. `require_revocation`: a certificate that nothing is known about does not pass with a warning but is
    INDETERMINATE/TRY_LATER. `certificate_policies`: which certificate policies the path must hold for. `cache_folder`: where
    fetched revocation data is kept between processes (`trust.cache`); in memory only when None.
    """

    anchors: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    ocsp_responses: tuple[bytes, ...] = ()
    online: bool = False
    minimum_rsa_bits: int = 2048
    timestamp_anchors: tuple[x509.Certificate, ...] | None = None
    allowed_hosts: frozenset[str] = frozenset()
    revocation_grace: timedelta = timedelta(0)
    require_revocation: bool = False
    certificate_policies: CertificatePolicies = CertificatePolicies()
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.anchors:
            raise UsageError("a trust policy without anchors trusts nobody", hint="name at least one root certificate")

    @classmethod
    def from_files(
        cls,
        trust: Iterable[Path],
        *,
        intermediates: Iterable[Path] = (),
        crls: Iterable[Path] = (),
        online: bool = False,
        timestamp_trust: Iterable[Path] | None = None,
        allowed_hosts: Iterable[str] = (),
        cache_folder: Path | None = None,
    ) -> TrustPolicy:
        """Read a policy from PEM or DER files, or folders of them. Raises ConfigError for a missing, empty or unreadable one."""
        from securepacs.trust.files import load_certificates, load_crls

        return cls(
            anchors=load_certificates(trust, key="trust"),
            intermediates=load_certificates(intermediates, key="intermediates", required=False),
            crls=load_crls(crls, key="crls", required=False),
            online=online,
            timestamp_anchors=None if timestamp_trust is None else load_certificates(timestamp_trust, key="timestamp_trust"),
            allowed_hosts=frozenset(host.lower() for host in allowed_hosts),
            cache_folder=cache_folder,
        )

    @cached_property
    def fetcher(self) -> Fetcher:
        """The HTTP client of this policy, with its memory of recent answers; used only when `online`."""
        from securepacs.trust.cache import DiskCache
        from securepacs.trust.fetch import Fetcher

        return Fetcher(allowed_hosts=self.allowed_hosts, cache=DiskCache(self.cache_folder) if self.cache_folder else None)

    def for_timestamps(self) -> TrustPolicy:
        """Return the same policy with the time stamp anchors in place of the anchors."""
        return self if self.timestamp_anchors is None else self._timestamp_policy

    @cached_property
    def _timestamp_policy(self) -> TrustPolicy:
        """Made once, so that it remembers what it fetched."""
        return replace(self, anchors=self.timestamp_anchors or self.anchors, timestamp_anchors=None)


@dataclass(frozen=True)
class PathResult:
    """The verdict about one certificate at one moment.

    `sub_indication` is empty for TOTAL-PASSED; `chain` runs from the certificate to the anchor, both included, as far as a path was
    found; `revocation_time` is set when a certificate of the chain is revoked, also when that came after the moment asked about;
    `revocation_reason` (RFC 5280 5.3.1) when that is the end entity. `revocation_data`: the CRLs and OCSP responses relied on.
    """

    indication: Indication
    sub_indication: str = ""
    detail: str = ""
    chain: tuple[x509.Certificate, ...] = ()
    warnings: tuple[str, ...] = ()
    revocation_time: datetime | None = None
    revocation_reason: str = ""
    revocation_data: tuple[RevocationData, ...] = field(default=(), repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """True only for TOTAL-PASSED."""
        return self.indication is Indication.TOTAL_PASSED

    def __bool__(self) -> bool:
        raise TypeError("a PathResult is not a truth value; ask .indication or .passed")
