"""Whether anything in a chain is revoked (RFC 5280 6.3, RFC 6960), from data at hand and, when the policy is online, fetched data.

The rule is chosen per certificate: with a CRL of its issuer or an OCSP answer about it at hand an answer is required; without, but
with an address in the certificate and an online policy, it is fetched and required; else the certificate passes with a warning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from securepacs.errors import ConfigError, Unavailable
from securepacs.trust.crl import crl_status, weightiest
from securepacs.trust.files import parse_certificates, parse_crls
from securepacs.trust.ocsp import build_request, ocsp_status
from securepacs.trust.policy import WARNING_REVOCATION_STALE, WARNING_REVOCATION_UNCHECKED, TrustPolicy
from securepacs.trust.status import NOT_CONCERNED, Outcome, RevocationData, RevocationStatus

DECIDED = (Outcome.GOOD, Outcome.REVOKED)

_MAX_FETCHED_ISSUERS = 4
_MAX_ADDRESSES = 3


@dataclass(frozen=True, slots=True)
class ChainRevocation:
    """The sum over a chain. `unanswered`: at least one required answer is missing. `revocation_time`: the earliest one known.

    `reason`: why the end entity is revoked, empty when it is a CA. `data`: the CRLs and OCSP responses that the sum rests on.
    """

    revoked: bool = False
    unanswered: bool = False
    detail: str = ""
    revocation_time: datetime | None = None
    warnings: tuple[str, ...] = ()
    reason: str = ""
    data: tuple[RevocationData, ...] = ()


def check_chain(
    chain: Sequence[x509.Certificate], *, policy: TrustPolicy, at: datetime, others: Sequence[x509.Certificate] = ()
) -> ChainRevocation:
    """Check every certificate of `chain` (end entity first, anchor last) except the anchor, as of `at`.

    A revocation later than `at` does not count, but is reported in `revocation_time`.
    """
    warnings: dict[str, None] = {}
    later: datetime | None = None
    missing = ""
    data: list[RevocationData] = []
    for position, certificate in enumerate(chain[:-1]):
        status = _status(chain, position, policy, at, others)
        data += [item for item in status.data if item not in data]
        name = "the certificate" if position == 0 else f"CA certificate {certificate.subject.rfc4514_string()!r}"
        if status.outcome is Outcome.REVOKED and status.revocation_time is not None:
            if status.revocation_time <= at:
                detail = f"{name} was revoked at {status.revocation_time:%Y-%m-%d %H:%M:%S}Z ({status.reason})"
                reason = status.reason if position == 0 else ""
                return ChainRevocation(True, False, detail, status.revocation_time, tuple(warnings), reason, tuple(data))
            later = min(later, status.revocation_time) if later else status.revocation_time
        elif status.outcome is Outcome.UNUSABLE:
            if status.stale_by is not None and status.stale_by <= policy.revocation_grace:
                warnings[WARNING_REVOCATION_STALE] = None
            else:
                missing = missing or f"no revocation status for {name}: {status.detail}"
        elif status.outcome is Outcome.NOT_CONCERNED and policy.require_revocation:
            missing = missing or f"no revocation data about {name}"
        elif status.outcome is Outcome.NOT_CONCERNED:
            warnings[WARNING_REVOCATION_UNCHECKED] = None
    return ChainRevocation(False, bool(missing), missing, later, tuple(warnings), data=tuple(data))


def missing_issuers(
    certificate: x509.Certificate, policy: TrustPolicy, known: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """Fetch the issuers that the certificates name (caIssuers, RFC 5280 4.2.2.1) until one is known; empty when nothing answers.

    Only from listed hosts: a certificate that does not chain to an anchor may have been written by anybody, to make us knock.
    What is fetched is a hint for building paths and is trusted no more than a certificate that came along.
    """
    found: list[x509.Certificate] = []
    below = certificate
    for _ in range(_MAX_FETCHED_ISSUERS):
        if any(below.issuer == other.subject for other in (*policy.anchors, *known, *found)):
            break
        issuer = _fetch_issuer(below, policy)
        if issuer is None:
            break
        found.append(issuer)
        below = issuer
    return tuple(found)


def _fetch_issuer(certificate: x509.Certificate, policy: TrustPolicy) -> x509.Certificate | None:
    for url in _access_urls(certificate, AuthorityInformationAccessOID.CA_ISSUERS):
        if not policy.fetcher.is_listed(url):
            continue
        try:
            fetched = parse_certificates(policy.fetcher.get(url), url)
        except (Unavailable, ConfigError):
            continue
        for candidate in fetched:
            if candidate.subject == certificate.issuer:
                return candidate
    return None


def _status(
    chain: Sequence[x509.Certificate], position: int, policy: TrustPolicy, at: datetime, others: Sequence[x509.Certificate]
) -> RevocationStatus:
    certificate, issuer, least = chain[position], chain[position + 1], policy.minimum_rsa_bits
    answers = [
        replace(ocsp_status(raw, certificate, issuer, at=at, minimum_rsa_bits=least), data=(raw,)) for raw in policy.ocsp_responses
    ]
    answers.append(_crls(chain, position, policy.crls, policy, at, others))
    best = weightiest(answers)
    if best.outcome in DECIDED or not policy.online:
        return best
    fetched = _fetched_ocsp(certificate, issuer, policy, at)
    if fetched.outcome not in DECIDED:
        fetched = weightiest([fetched, _fetched_crl(chain, position, policy, at, others)])
    return weightiest([best, fetched])


def _crls(
    chain: Sequence[x509.Certificate],
    position: int,
    crls: Sequence[x509.CertificateRevocationList],
    policy: TrustPolicy,
    at: datetime,
    others: Sequence[x509.Certificate],
) -> RevocationStatus:
    return crl_status(chain, position, crls=crls, others=others, at=at, minimum_rsa_bits=policy.minimum_rsa_bits)


def _fetched_ocsp(certificate: x509.Certificate, issuer: x509.Certificate, policy: TrustPolicy, at: datetime) -> RevocationStatus:
    request = build_request(certificate, issuer)
    return _asked(
        _access_urls(certificate, AuthorityInformationAccessOID.OCSP),
        policy,
        request,
        fetch=lambda url: policy.fetcher.post(url, request, content_type="application/ocsp-request"),
        judge=lambda raw, _: replace(
            ocsp_status(raw, certificate, issuer, at=at, minimum_rsa_bits=policy.minimum_rsa_bits), data=(raw,)
        ),
    )


def _fetched_crl(
    chain: Sequence[x509.Certificate], position: int, policy: TrustPolicy, at: datetime, others: Sequence[x509.Certificate]
) -> RevocationStatus:
    def judge(raw: bytes, url: str) -> RevocationStatus:
        crls = parse_crls(raw, url)
        due = [crl.next_update_utc for crl in crls if crl.next_update_utc is not None]
        return replace(_crls(chain, position, crls, policy, at, others), valid_until=min(due, default=None))

    return _asked(_crl_urls(chain[position]), policy, b"", fetch=policy.fetcher.get, judge=judge)


def _asked(
    urls: Sequence[str],
    policy: TrustPolicy,
    request: bytes,
    *,
    fetch: Callable[[str], bytes],
    judge: Callable[[bytes, str], RevocationStatus],
) -> RevocationStatus:
    """Ask one address after the other until one decides; what an earlier run stored counts only if it decides."""
    answer = NOT_CONCERNED
    for url in urls:
        stored = policy.fetcher.stored(url, request)
        if stored is not None:
            with contextlib.suppress(ConfigError):  # stored by somebody else, or damaged: not worth a word
                answer = weightiest([answer, judge(stored, url)])
        if answer.outcome not in DECIDED:
            try:
                raw = fetch(url)
                found = judge(raw, url)
            except (Unavailable, ConfigError) as error:
                answer = weightiest([answer, RevocationStatus(Outcome.UNUSABLE, str(error))])
                continue
            if found.outcome in DECIDED and found.valid_until is not None:
                policy.fetcher.store(url, request, raw, until=found.valid_until.timestamp())
            answer = weightiest([answer, _required(found, url)])
        if answer.outcome in DECIDED:
            break
    return answer


def _required(status: RevocationStatus, url: str) -> RevocationStatus:
    if status.outcome is Outcome.NOT_CONCERNED:
        return RevocationStatus(Outcome.UNUSABLE, f"{url} answered about other certificates")
    return status


def _access_urls(certificate: x509.Certificate, method: x509.ObjectIdentifier) -> list[str]:
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return []
    return _http([entry.access_location for entry in access if entry.access_method == method])


def _crl_urls(certificate: x509.Certificate) -> list[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return _http([name for point in points for name in point.full_name or ()])


def _http(names: Sequence[x509.GeneralName]) -> list[str]:
    """Return the first few HTTP addresses; LDAP and others are left alone."""
    urls = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    return [url for url in urls if url.lower().startswith(("http://", "https://"))][:_MAX_ADDRESSES]
