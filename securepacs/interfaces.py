"""The seams of securepacs on one page: small protocols that any implementation may fill; each is defined in its room.

A library user passes an object. Every implementation of a seam runs the same tests.
"""

from __future__ import annotations

from securepacs.audit.message import AuditSink
from securepacs.originals.registry import OriginalRegistry
from securepacs.pacs.connector import PacsConnector
from securepacs.policy.subject import Policy

__all__ = ["AuditSink", "OriginalRegistry", "PacsConnector", "Policy"]
