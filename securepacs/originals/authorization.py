"""Authorization of a study: from OR to AO on the strength of a physician's signed Key Object (PS3.15 A.1 T2, A.4, C.4).

Everything that decides whether a study is authorized stands in `authorize`, step by step; the registry changes in one transaction
at the very end or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography import x509

from securepacs import codes, signatures
from securepacs.dicom import open_dataset
from securepacs.dicom.elements import Buffer
from securepacs.errors import AccessDenied, IntegrityFailure, UsageError, VerificationError
from securepacs.originals.instances import Target, load
from securepacs.originals.key_object import PURPOSES, KeyObject, read_key_object
from securepacs.originals.registry import Evidence, Holding, InstanceFacts, OriginalRegistry
from securepacs.originals.stamp import check_comment, check_texts, facts_of
from securepacs.signatures.references import InstanceUids, check_mac
from securepacs.signatures.sequences import read_signatures, survey
from securepacs.signatures.values import der_value

if TYPE_CHECKING:
    from securepacs.signatures.report import SignatureReport, SignatureResult
    from securepacs.trust import TrustPolicy

CLAUSE = "PS3.15 A.1, A.4"

# what the signature must cover so that the key object means what it seems to mean
MUST_COVER = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "ValueType",
    "ConceptNameCodeSequence",
    "CurrentRequestedProcedureEvidenceSequence",
    "ContentSequence",
)


@dataclass(frozen=True, slots=True)
class Authorization:
    """What was authorized, by whom, and where it is proven."""

    evidence: Evidence
    signer: x509.Certificate
    actor: str
    report: SignatureReport
    holdings: tuple[Holding, ...]


def authorize(
    key_object: Target,
    instances: Iterable[Target],
    registry: OriginalRegistry,
    *,
    policy: TrustPolicy,
    at: datetime,
    required_role: str = codes.ROLE_RADIOLOGIST,
    holder: str | None = None,
    equipment: str = "",
    comment: str = "",
) -> Authorization:
    """Authorize the instances that a signed Key Object names: OR to AO for all, or for none (PS3.15 A.1 T2).

    `instances` are the files of all of them, `policy` says whom to trust, `required_role` is the hcRole that the signer's
    certificate must carry, `equipment` and `comment` what becomes (0100,0426) and (0100,0424). Files are not touched: `stamped`
    gives their new content. Raises MalformedError for a Key Object that is none, VerificationError unless its signatures are
    TOTAL-PASSED, AccessDenied for a signer who may not authorize, IntegrityFailure for an instance that is not the one signed for
    and registered, IllegalTransition for one that is not an OR held here or a study that is not complete.
    """
    check_texts(comment=comment, equipment=equipment)
    if not required_role:
        raise UsageError("authorization needs the role that the signer must have")
    # bytes, not a mapping: what is verified and what is read afterwards must be the same
    raw = bytes(load(key_object))
    # 1. Its signatures are valid and trusted; nothing of it is believed, or parsed any further, before.
    report = signatures.verify(raw, policy, at=at)
    # 2. One of them is by a person who may authorize, for that purpose, and covers all that matters.
    signer, result = _authorizing(raw, report, required_role)
    # 3. The key object is one, and says which instances it is about.
    document = read_key_object(raw)
    # 4. Every instance named is at hand, is the one signed for, and nothing else is at hand.
    expected = _check_instances(document, instances, comment)
    # 5. Each is held here as OR, unchanged since it was registered, and none of the study is left out: one transaction.
    evidence = Evidence(document.sop_instance_uid, result.uid)
    actor = signer.subject.rfc4514_string()
    holdings = registry.authorize(
        expected, at=at, actor=actor, evidence=evidence, holder=holder, equipment=equipment, comment=comment
    )
    return Authorization(evidence, signer, actor, report, holdings)


def _authorizing(raw: Buffer, report: SignatureReport, required_role: str) -> tuple[x509.Certificate, SignatureResult]:
    """Return the first signature of the key object that authorizes, and its signer; refuse when there is none."""
    from securepacs.trust import roles_of

    certificates = _certificates(raw)
    refusal: VerificationError | AccessDenied | None = None
    for result in report.signatures:
        certificate = certificates.get(result.uid)
        if result.location or certificate is None:
            continue  # a signature inside an item speaks for that item alone
        left_out = [keyword for keyword in MUST_COVER if keyword not in result.covered]
        if left_out:
            refusal = VerificationError(f"the signature does not cover {left_out[0]}", report=report, standard=CLAUSE)
        elif result.purpose not in PURPOSES:
            refusal = VerificationError(
                "the signature is not an author's or a verification signature", report=report, standard=CLAUSE
            )
        elif required_role not in roles_of(certificate):
            refusal = AccessDenied(
                f"the signer's certificate does not carry the role {required_role!r}",
                hint="the study must be signed by somebody who may authorize it",
                standard="ISO 17090-2 hcRole",
            )
        else:
            return certificate, result
    raise refusal or VerificationError("the key object itself is not signed", report=report, standard="PS3.15 C.4")


def _certificates(raw: Buffer) -> Mapping[str, x509.Certificate]:
    """Return the signer certificate of each signature of the outermost data set, by Digital Signature UID."""
    dataset = open_dataset(raw)
    scope = survey(dataset).at(())
    if scope is None:
        return {}
    items = read_signatures(dataset, scope)
    if len({item.uid for item in items}) < len(items):
        raise VerificationError("two signatures of the key object have the same UID", standard="PS3.3 C.12.1.1.3")
    return {item.uid: x509.load_der_x509_certificate(der_value(item.certificate)) for item in items}


def _check_instances(document: KeyObject, instances: Iterable[Target], comment: str) -> dict[str, str]:
    """Compare each instance with its reference; return SOP Instance UID to content digest of all that are named."""
    references = {reference.instance.sop_instance_uid: reference for reference in document.references}
    expected: dict[str, str] = {}
    for target in instances:
        data = load(target)
        facts = facts_of(data)
        reference = references.get(facts.sop_instance_uid)
        if reference is None or reference.mac is None:
            raise UsageError(f"the key object does not name instance {facts.sop_instance_uid}")
        if _identity(facts) != _identity(reference.instance):
            raise IntegrityFailure(
                f"instance {facts.sop_instance_uid} is not of the study, series or class signed for", standard=CLAUSE
            )
        check_mac(data, reference.mac)
        check_comment(data, comment)
        expected[facts.sop_instance_uid] = facts.content_sha256
    missing = len(references) - len(expected)
    if missing:
        raise IntegrityFailure(
            f"{missing} of {len(references)} instances that the key object names are not at hand",
            hint="give the files of all instances",
            standard=CLAUSE,
        )
    return expected


def _identity(named: InstanceFacts | InstanceUids) -> tuple[str, str, str]:
    return named.study_instance_uid, named.series_instance_uid, named.sop_class_uid
