"""The auditor's signature: CMS over the page of a report (RFC 5652 5), kept beside it and in the audit trail itself."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path

from securepacs.audit.reports.model import Report
from securepacs.audit.reports.scope import Scope
from securepacs.audit.reports.seen import message_of
from securepacs.audit.repository.repository import INTERNAL
from securepacs.audit.repository.search import AuditRecord
from securepacs.cms.signed import Signer, SignerResult, sign, verify
from securepacs.codes import AUDIT_LOG_USED
from securepacs.errors import VerificationError
from securepacs.tokens.credential import Credential
from securepacs.trust import PathResult, Purpose, TrustPolicy, validate

SIGNATURE_SUFFIX = ".p7s"


def sign_page(page: bytes, auditor: Credential, scope: Scope) -> bytes:
    """Return a detached signature in DER. Raises UsageError for a key that signs no documents."""
    signing = auditor.for_documents()
    signer = Signer(signing.certificate, signing.private_key, signing.chain)
    return sign(page, (signer,), signing_time=scope.at, detached=True)


def record_signature(report: Report, page: bytes, signature: bytes, auditor: Credential, scope: Scope) -> int:
    """Store in the audit trail that the auditor signed this very page: its digest, its figures and the signature."""
    figures = "\n".join(f"{name}: {value}" for name, value in report.figures)
    checks = "\n".join(f"{'+' if each.clear else '!'} {each.question} {each.finding}" for each in report.checks)
    details = {
        "signed report": report.kind,
        "period": scope.period(),
        "auditor": auditor.certificate.subject.rfc4514_string(),
        "sha256": sha256(page).hexdigest(),
        "figures": figures,
        "checks": checks,
    }
    recorded = {name: value.encode("utf-8", errors="replace") for name, value in details.items() if value}
    return scope.repository.used(scope.reader, at=scope.at, details={**recorded, "signature": signature})


def find_signature(page: bytes, signature: bytes, scope: Scope) -> AuditRecord | None:
    """Return the record of the audit trail that holds this very signature of this very page; None when there is none."""
    digest = sha256(page).hexdigest()
    with scope.repository.reading(reader=scope.reader, at=scope.at, details={"check of report": digest.encode()}) as reading:
        for record, raw in reading.contents(scope.criteria(event=AUDIT_LOG_USED.csd_code, text=digest)):
            message = message_of(raw) if record.transport == INTERNAL else None  # others can claim anything
            kept = {
                detail.type: detail.value
                for each in (message.ParticipantObjectIdentification if message else ())
                for detail in each.ParticipantObjectDetail
            }
            if kept.get("signature") == signature and kept.get("sha256") == digest.encode():
                return record
    return None


def check_signature(page: bytes, signature: bytes, policy: TrustPolicy, *, at: datetime) -> tuple[SignerResult, PathResult]:
    """Return who signed a page, and the path of the certificate as of `at`.

    Raises IntegrityFailure when the signature is not of this page, VerificationError when nobody who signed it is trusted.
    """
    content = verify(signature, detached_content=page)
    judged = [
        (each, validate(each.certificate, policy=policy, at=at, purpose=Purpose.SIGNER, extra=content.certificates))
        for each in content.signers
    ]
    for signer, path in judged:
        if path.passed:
            return signer, path
    reason = "; ".join(f"{path.sub_indication}: {path.detail}" for _, path in judged)
    raise VerificationError(f"no signer of the report is trusted: {reason}", report=[path for _, path in judged])


def signature_path(page: Path) -> Path:
    """Return where the signature of a page stands."""
    return page.with_name(page.name + SIGNATURE_SUFFIX)
