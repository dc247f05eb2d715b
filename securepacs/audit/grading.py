"""Grading audit messages: conformant, usable with findings, or unparsed; real messages are rarely the first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, tzinfo
from enum import StrEnum
from functools import cache
from importlib.resources import files

from lxml import etree

from securepacs.audit import reader
from securepacs.audit.findings import Finding, Findings
from securepacs.audit.message import AuditMessage
from securepacs.audit.syslog import SyslogRecord, parse_record

EDITION = "PS3.15 2020b with IHE ITI-20 PurposeOfUse"
MAX_SCHEMA_FINDINGS = 20
_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"


class Verdict(StrEnum):
    """What a message is worth."""

    CONFORMANT = "conformant"
    USABLE = "usable with findings"
    UNPARSED = "unparsed"


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict over one message, why, and the message itself when it could be read. `record` is its syslog header, if any."""

    verdict: Verdict
    dialect: str
    findings: tuple[Finding, ...]
    message: AuditMessage | None
    record: SyslogRecord | None = None


def grade(raw: bytes, *, zone: tzinfo = UTC, max_bytes: int = reader.MAX_BYTES) -> Grade:
    """Grade XML, or a syslog record that carries XML, against the grammar of A.5.1 and the one-requestor rule.

    Never raises for input. NOT checked: codes against their context groups, and the tables of A.5.3.
    """
    record = parse_record(raw)
    text = record.msg if record.pri is not None else raw
    reading = reader.read(text, zone=zone, max_bytes=max_bytes)
    header = record if record.pri is not None else None
    if reading.message is None or reading.root is None:
        return Grade(Verdict.UNPARSED, reading.dialect, reading.findings, None, header)
    findings = (*reading.findings, *schema_findings(reading.root))
    verdict = Verdict.CONFORMANT if all(each.is_note for each in findings) else Verdict.USABLE
    return Grade(verdict, reading.dialect, findings, reading.message, header)


def schema_findings(root: etree._Element) -> tuple[Finding, ...]:
    """Validate against `schema/audit-message.rng`; xsi attributes, which the published grammar forgot, are ignored."""
    for each in root.iter(etree.Element):
        for name in [key for key in map(str, each.attrib) if key.startswith(_XSI)]:
            del each.attrib[name]
    schema = _schema()
    if schema.validate(root):
        return ()
    found = Findings()
    for entry in list(schema.error_log)[:MAX_SCHEMA_FINDINGS]:
        found.add("schema", f"line {entry.line}", _without_values(entry.message))
    return found.all


def conforms(root: etree._Element) -> bool:
    """Tell whether a tree meets the schema as it stands, without saying why not."""
    return bool(_schema().validate(root))


def _without_values(text: str) -> str:
    """Cut the quoted value out of an error of libxml2; what it says about names stays."""
    return text.partition(" value ")[0] if " value " in text else text


@cache
def _schema() -> etree.RelaxNG:
    # one object serves all threads of a process: lxml locks it while it validates
    return etree.RelaxNG(etree.fromstring((files("securepacs.audit") / "schema" / "audit-message.rng").read_bytes()))
