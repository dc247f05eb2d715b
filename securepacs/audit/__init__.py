"""Audit trail of PS3.15 A.5 / RFC 3881 / IHE ATNA: one constructor per event, a durable spool, TLS forwarding, a repository.

    from securepacs.audit import AuditHandler, SpoolSink          # audit from `logging`
    from securepacs.audit import events, from_xml, to_xml         # messages
    from securepacs.audit import from_fhir, to_fhir               # as FHIR R4 AuditEvent and back
    from securepacs.audit import Forwarder, SyslogTlsSender       # delivery
    from securepacs.audit import Repository, RepositoryServer     # the other end (extra `audit`)

Names are imported on first use: messages and their XML need nothing outside the standard library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securepacs.audit import events as events
    from securepacs.audit.fhir import from_fhir, to_fhir
    from securepacs.audit.forwarder import Forwarder, ForwarderStatus
    from securepacs.audit.framing import Frame, FrameReader
    from securepacs.audit.grading import Grade, Verdict, grade
    from securepacs.audit.message import AuditMessage, AuditSink, AuditSourceIdentification
    from securepacs.audit.repository import AuditRecord, Criteria, Receipt, Repository, RepositoryServer
    from securepacs.audit.segments import read_spool
    from securepacs.audit.sinks import AuditHandler, SpoolSink
    from securepacs.audit.spool import Spool, SpoolAlarm
    from securepacs.audit.syslog import frame, parse_record, to_syslog
    from securepacs.audit.syslog_tcp import SyslogTcpSender
    from securepacs.audit.syslog_tls import SyslogTlsSender
    from securepacs.audit.syslog_udp import SyslogUdpSender
    from securepacs.audit.xml import from_xml, to_xml

_HOMES = {
    "AuditMessage": "message", "AuditSink": "message", "AuditSourceIdentification": "message",
    "to_xml": "xml", "from_xml": "xml",
    "to_fhir": "fhir", "from_fhir": "fhir",
    "Grade": "grading", "Verdict": "grading", "grade": "grading",
    "frame": "syslog", "parse_record": "syslog", "to_syslog": "syslog",
    "Frame": "framing", "FrameReader": "framing",
    "Spool": "spool", "SpoolAlarm": "spool", "read_spool": "segments",
    "AuditHandler": "sinks", "SpoolSink": "sinks",
    "Forwarder": "forwarder", "ForwarderStatus": "forwarder",
    "SyslogTlsSender": "syslog_tls", "SyslogTcpSender": "syslog_tcp", "SyslogUdpSender": "syslog_udp",
    "AuditRecord": "repository", "Criteria": "repository", "Receipt": "repository",
    "Repository": "repository", "RepositoryServer": "repository",
}  # fmt: skip
__all__ = [
    "AuditHandler", "AuditMessage", "AuditRecord", "AuditSink", "AuditSourceIdentification", "Criteria", "Forwarder",
    "ForwarderStatus", "Frame", "FrameReader", "Grade", "Receipt", "Repository", "RepositoryServer", "Spool", "SpoolAlarm",
    "SpoolSink", "SyslogTcpSender", "SyslogTlsSender", "SyslogUdpSender", "Verdict", "events", "frame", "from_fhir", "from_xml",
    "grade", "parse_record", "read_spool", "to_fhir", "to_syslog", "to_xml",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "events":
        return import_module(f"{__name__}.events")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
