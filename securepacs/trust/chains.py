"""Building and validating certification paths with pyhanko-certvalidator (RFC 5280 6.1), as a plain synchronous call.

The library is written with coroutines because it can fetch over the network. It is never allowed to here (`revocation` and `fetch`
do that), so its coroutines run to their end without waiting and need neither an event loop nor a thread.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko_certvalidator import ValidationContext
from pyhanko_certvalidator.authority import CertTrustAnchor, TrustQualifiers, derive_quals_from_cert
from pyhanko_certvalidator.errors import (
    CRLNoMatchesError,
    CRLValidationIndeterminateError,
    DisallowedAlgorithmError,
    ExpiredError,
    NotYetValidError,
    PathBuildingError,
    PathValidationError,
    RevokedError,
)
from pyhanko_certvalidator.path import ValidationPath
from pyhanko_certvalidator.policy_decl import (
    CertRevTrustPolicy,
    DisallowWeakAlgorithmsPolicy,
    FreshnessReqType,
    PKIXValidationParams,
    RevocationCheckingPolicy,
    RevocationCheckingRule,
)
from pyhanko_certvalidator.registry import SimpleTrustManager
from pyhanko_certvalidator.revinfo.validate_crl import verify_crl
from pyhanko_certvalidator.util import CancelableAsyncIterator
from pyhanko_certvalidator.validate import async_validate_path

from securepacs.trust.policy import ANY_POLICY, CertificatePolicies, SubIndication
from securepacs.trust.status import NOT_CONCERNED, Outcome, RevocationStatus

T = TypeVar("T")

MAX_PATHS = 8  # cross-certified hierarchies have a few; more than this is an attempt to make us work
_ANY_LENGTH = 255
_ANY_POLICIES = CertificatePolicies()
_UNCHECKED = RevocationCheckingPolicy(RevocationCheckingRule.NO_CHECK, RevocationCheckingRule.NO_CHECK)
_BY_THE_BOOK = CertRevTrustPolicy(_UNCHECKED, retroactive_revinfo=True)
_ANY_AGE = CertRevTrustPolicy(
    _UNCHECKED, freshness=timedelta(days=36_500), freshness_req_type=FreshnessReqType.MAX_DIFF_REVOCATION_VALIDATION
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path from the certificate (first) to an anchor (last), and what RFC 5280 6.1 has against it (empty: nothing)."""

    chain: tuple[x509.Certificate, ...]
    problem: SubIndication | None = None
    detail: str = ""
    leaf_out_of_bounds: bool = False


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits to its result; RuntimeError if it tries to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError("path validation tried to wait for something")


def may_issue(certificate: x509.Certificate) -> bool:
    """Whether a trust anchor may stand above other certificates: a CA by basicConstraints and keyUsage, or a version 1 root.

    An end-entity certificate that was installed directly is trusted for itself alone; its key must not vouch for others.
    """
    if certificate.version is x509.Version.v1:
        return True
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    return constraints.ca and signs


def candidates(
    certificate: x509.Certificate,
    *,
    anchors: Iterable[x509.Certificate],
    others: Iterable[x509.Certificate],
    at: datetime,
    minimum_rsa_bits: int,
    policies: CertificatePolicies = _ANY_POLICIES,
) -> Iterator[Candidate]:
    """Yield the paths to the anchors, each judged as of `at`; nothing when none can be built. Revocation is not looked at.

    Raises ValueError when `certificate` itself cannot be parsed by the library.
    """
    leaf = _asn1(certificate)
    context = ValidationContext(
        trust_manager=SimpleTrustManager.build([_anchor(anchor) for anchor in anchors if may_issue(anchor)]),
        other_certs=[_asn1(other) for other in others],
        moment=at,
        revinfo_policy=_BY_THE_BOOK,
        algorithm_usage_policy=_strength(minimum_rsa_bits),
    )
    paths = context.path_builder.async_build_paths_lazy(leaf)
    for _ in range(MAX_PATHS):
        try:
            path = run(_next(paths))
        except (StopAsyncIteration, PathBuildingError):
            return
        yield _judge(context, path, policies)


async def _next(paths: CancelableAsyncIterator[ValidationPath]) -> ValidationPath:
    return await paths.__anext__()


def _strength(minimum_rsa_bits: int) -> DisallowWeakAlgorithmsPolicy:
    return DisallowWeakAlgorithmsPolicy(rsa_key_size_threshold=minimum_rsa_bits)  # type: ignore[no-untyped-call]


def _judge(context: ValidationContext, path: ValidationPath, policies: CertificatePolicies) -> Candidate:
    chain = tuple(x509.load_der_x509_certificate(link.dump()) for link in reversed(list(path.iter_certs(include_root=True))))
    try:
        run(async_validate_path(context, path, parameters=_inputs(policies)))
    except (ExpiredError, NotYetValidError) as error:
        return Candidate(chain, SubIndication.OUT_OF_BOUNDS_NO_POE, str(error), leaf_out_of_bounds=error.is_ee_cert)
    except DisallowedAlgorithmError as error:
        return Candidate(chain, SubIndication.CRYPTO_CONSTRAINTS_FAILURE, str(error))
    except PathValidationError as error:
        signature = "signature" in str(error) and "could not be verified" in str(error)
        kind = SubIndication.NO_CERTIFICATE_CHAIN_FOUND if signature else SubIndication.CHAIN_CONSTRAINTS_FAILURE
        return Candidate(chain, kind, str(error))
    return Candidate(chain)


def _inputs(policies: CertificatePolicies) -> PKIXValidationParams:
    return PKIXValidationParams(
        user_initial_policy_set=frozenset("any_policy" if oid == ANY_POLICY else oid for oid in policies.acceptable),
        initial_explicit_policy=policies.explicit,
        initial_policy_mapping_inhibit=policies.inhibit_mapping,
        initial_any_policy_inhibit=policies.inhibit_any,
    )


def _anchor(certificate: x509.Certificate) -> CertTrustAnchor:
    """Return the anchor with its own validity, path length and name constraints enforced, as TLS libraries do; not its policies."""
    parsed = _asn1(certificate)
    derived = derive_quals_from_cert(parsed)
    names = derived.standard_parameters
    parameters = None
    if names is not None and (names.initial_permitted_subtrees or names.initial_excluded_subtrees):
        parameters = PKIXValidationParams(
            initial_permitted_subtrees=names.initial_permitted_subtrees, initial_excluded_subtrees=names.initial_excluded_subtrees
        )
    return CertTrustAnchor(
        parsed,
        TrustQualifiers(
            standard_parameters=parameters,
            max_path_length=derived.max_path_length,
            max_aa_path_length=_ANY_LENGTH,  # left out, the library subtracts from None as soon as max_path_length is given
            valid_from=derived.valid_from,
            valid_until=derived.valid_until,
        ),
    )


class _TbsCertificate(asn1_x509.TbsCertificate):  # type: ignore[misc]
    """RFC 5280 4.1.2; asn1crypto's own writes unique identifiers without their unused bits, which breaks the signature."""

    _fields = [  # noqa: RUF012 - asn1crypto's declaration style
        (name, core.BitString if name.endswith("_unique_id") else kind, *rest)
        for name, kind, *rest in asn1_x509.TbsCertificate._fields
    ]


class _Certificate(asn1_x509.Certificate):  # type: ignore[misc]
    _fields = [("tbs_certificate", _TbsCertificate), *asn1_x509.Certificate._fields[1:]]  # noqa: RUF012


def _asn1(certificate: x509.Certificate) -> asn1_x509.Certificate:
    return _Certificate.load(certificate.public_bytes(Encoding.DER))


def special_crl_status(
    chain: Sequence[x509.Certificate],
    position: int,
    *,
    crls: Iterable[x509.CertificateRevocationList],
    others: Iterable[x509.Certificate],
    at: datetime,
    minimum_rsa_bits: int,
) -> RevocationStatus:
    """Ask the library what CRLs of any kind say about `chain[position]` (RFC 5280 6.3.3): scopes, deltas, indirect CRLs.

    `others` may sign CRLs too; that none of them is revoked is the caller's concern. First by the book; when the only trouble is
    age, once more regardless of age, because what is revoked stays revoked.
    """
    certificate = _asn1(chain[position])
    path = ValidationPath(_anchor(chain[-1]), [_asn1(link) for link in reversed(chain[position + 1 : -1])], certificate)
    encoded = [crl.public_bytes(Encoding.DER) for crl in crls]
    for policy in (_BY_THE_BOOK, _ANY_AGE):
        context = ValidationContext(
            trust_manager=SimpleTrustManager.build([_anchor(chain[-1])]),
            other_certs=[_asn1(other) for other in others],
            moment=at,
            crls=encoded,
            revinfo_policy=policy,
            algorithm_usage_policy=_strength(minimum_rsa_bits),
        )
        try:
            run(verify_crl(certificate, path, context))
        except RevokedError as error:
            return RevocationStatus(Outcome.REVOKED, "on the CRL", error.revocation_dt, x509.ReasonFlags[error.reason.native].value)
        except CRLNoMatchesError:
            return NOT_CONCERNED
        except CRLValidationIndeterminateError as error:
            answer = RevocationStatus(Outcome.UNUSABLE, "; ".join(str(failure[0]) for failure in error.failures))
            if error.suspect_stale is None:
                return answer
            if policy is _BY_THE_BOOK:
                stale = RevocationStatus(Outcome.UNUSABLE, answer.detail, stale_by=at - error.suspect_stale)
        else:
            return stale if policy is _ANY_AGE else RevocationStatus(Outcome.GOOD)
    return stale
