"""The auditor's signature: CMS over the page of a report (RFC 5652 5), kept beside it and in the audit trail itself."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from securepacs.audit.reports.model import Report
from securepacs.audit.reports.scope import Scope
from securepacs.cms.signed import Signer, sign
from securepacs.tokens.credential import Credential

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


def signature_path(page: Path) -> Path:
    """Return where the signature of a page stands."""
    return page.with_name(page.name + SIGNATURE_SUFFIX)
