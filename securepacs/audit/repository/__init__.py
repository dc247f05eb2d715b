"""The embedded audit record repository on the store: `Repository` keeps and finds, `RepositoryServer` listens (IHE ATNA)."""

from __future__ import annotations

from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.repository import Repository
from securepacs.audit.repository.search import AuditRecord, Criteria
from securepacs.audit.repository.server import RepositoryServer

__all__ = ["AuditRecord", "Criteria", "Receipt", "Repository", "RepositoryServer"]
