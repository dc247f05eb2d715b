"""The verdict about one certificate: path, purpose, strength, revocation (RFC 5280 6; ETSI EN 319 102-1 words)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography import x509

from securepacs.errors import UsageError
from securepacs.trust.policy import (
    WARNING_REVOCATION_UNCHECKED,
    Indication,
    PathResult,
    Purpose,
    SubIndication,
    TrustPolicy,
)
from securepacs.trust.usage import read_problem, usage_problem, weakness

if TYPE_CHECKING:
    from securepacs.trust.chains import Candidate

_WEIGHT = {name: position for position, name in enumerate(SubIndication)}


_recorders: ContextVar[tuple[list[PathResult], ...]] = ContextVar("recorders", default=())


@contextmanager
def recorded() -> Iterator[list[PathResult]]:
    """Collect the result of every `validate` inside the block: what its verdicts rested on, for keeping as evidence."""
    results: list[PathResult] = []
    token = _recorders.set((*_recorders.get(), results))
    try:
        yield results
    finally:
        _recorders.reset(token)


def validate(
    certificate: x509.Certificate,
    *,
    policy: TrustPolicy,
    at: datetime,
    purpose: Purpose,
    extra: Iterable[x509.Certificate] = (),
) -> PathResult:
    """Judge `certificate` for `purpose` as of `at` (aware), RFC 5280 6.1 and 6.3. Never raises for a bad certificate or chain.

    `extra` are certificates that came with it, untrusted. Steps: 1 build paths to the anchors; 2 validity, names, path length and
    signatures of each link; 3 key strength; 4 purpose; 5 revocation. The first path that passes wins; else the weightiest reason is
    told (in the order of SubIndication). Does not compare host names and does not judge what the certificate signed.
    """
    if at.tzinfo is None:
        raise UsageError("the moment of validation must carry a time zone")
    result = _validate(certificate, policy, at, purpose, extra)
    for results in _recorders.get():
        results.append(result)
    return result


def _validate(
    certificate: x509.Certificate, policy: TrustPolicy, at: datetime, purpose: Purpose, extra: Iterable[x509.Certificate]
) -> PathResult:
    unreadable = read_problem(certificate)
    if unreadable:
        return _undecided(SubIndication.NO_CERTIFICATE_CHAIN_FOUND, f"the certificate cannot be read: {unreadable}")
    if certificate in policy.anchors:
        return _directly_trusted(certificate, policy, at, purpose)
    known = tuple(other for other in (*extra, *policy.intermediates) if not read_problem(other))
    results = []
    with policy.fetcher.budget() if policy.online else nullcontext():
        for result in _paths(certificate, policy, at, purpose, known):
            if result.passed:
                return result
            results.append(result)
    if not results:
        detail = f"no path from issuer {certificate.issuer.rfc4514_string()!r} to a trust anchor"
        return _undecided(SubIndication.NO_CERTIFICATE_CHAIN_FOUND, detail)
    return min(results, key=lambda result: _WEIGHT[SubIndication(result.sub_indication)])


def _paths(
    certificate: x509.Certificate, policy: TrustPolicy, at: datetime, purpose: Purpose, others: tuple[x509.Certificate, ...]
) -> Iterator[PathResult]:
    from securepacs.trust.revocation import missing_issuers

    found = False
    for candidate in _candidates(certificate, policy, at, others):
        found = True
        yield _judge(candidate, policy, at, purpose, others)
    if found or not policy.online:
        return
    others = (*others, *missing_issuers(certificate, policy, others))
    for candidate in _candidates(certificate, policy, at, others):
        yield _judge(candidate, policy, at, purpose, others)


def _candidates(
    certificate: x509.Certificate, policy: TrustPolicy, at: datetime, others: tuple[x509.Certificate, ...]
) -> Iterator[Candidate]:
    from securepacs.trust.chains import candidates  # the validator is heavy to import

    return candidates(
        certificate,
        anchors=policy.anchors,
        others=others,
        at=at,
        minimum_rsa_bits=policy.minimum_rsa_bits,
        policies=policy.certificate_policies,
    )


def _judge(
    candidate: Candidate, policy: TrustPolicy, at: datetime, purpose: Purpose, others: tuple[x509.Certificate, ...]
) -> PathResult:
    from securepacs.trust.revocation import check_chain

    chain = candidate.chain
    if candidate.problem is not None and not candidate.leaf_out_of_bounds:
        return _undecided(candidate.problem, candidate.detail, chain)
    weak = weakness(chain, minimum_rsa_bits=policy.minimum_rsa_bits)
    if weak:
        return _undecided(SubIndication.CRYPTO_CONSTRAINTS_FAILURE, weak, chain)
    misuse = usage_problem(chain[0], purpose)
    if misuse:
        return _undecided(SubIndication.CHAIN_CONSTRAINTS_FAILURE, misuse, chain)
    revocation = check_chain(chain, policy=policy, at=at, others=others)
    if revocation.revoked:
        return PathResult(
            Indication.TOTAL_FAILED,
            SubIndication.REVOKED,
            revocation.detail,
            chain,
            revocation.warnings,
            revocation.revocation_time,
            revocation.reason,
            revocation.data,
        )
    if candidate.problem is not None:  # expired or not yet valid: revocation was looked at first because it weighs more
        result = _undecided(candidate.problem, candidate.detail, chain)
    elif revocation.unanswered:
        result = _undecided(SubIndication.TRY_LATER, revocation.detail, chain)
    else:
        result = PathResult(Indication.TOTAL_PASSED, chain=chain)
    return replace(
        result, warnings=revocation.warnings, revocation_time=revocation.revocation_time, revocation_data=revocation.data
    )


def _directly_trusted(certificate: x509.Certificate, policy: TrustPolicy, at: datetime, purpose: Purpose) -> PathResult:
    """Judge a certificate that is itself an anchor (IHE ITI-19: trust by directly installed certificates, self-signed allowed)."""
    chain = (certificate,)
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        detail = f"the certificate is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}"
        return _undecided(SubIndication.OUT_OF_BOUNDS_NO_POE, detail, chain)
    weak = weakness(chain, minimum_rsa_bits=policy.minimum_rsa_bits)
    if weak:
        return _undecided(SubIndication.CRYPTO_CONSTRAINTS_FAILURE, weak, chain)
    misuse = usage_problem(certificate, purpose)
    if misuse:
        return _undecided(SubIndication.CHAIN_CONSTRAINTS_FAILURE, misuse, chain)
    self_issued = certificate.issuer == certificate.subject
    return PathResult(Indication.TOTAL_PASSED, chain=chain, warnings=() if self_issued else (WARNING_REVOCATION_UNCHECKED,))


def _undecided(sub_indication: SubIndication, detail: str, chain: tuple[x509.Certificate, ...] = ()) -> PathResult:
    return PathResult(Indication.INDETERMINATE, sub_indication, detail, chain)
