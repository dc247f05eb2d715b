"""What ITI-81 answers: Bundles of AuditEvents page by page, one AuditEvent, OperationOutcomes, the CapabilityStatement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from securepacs.audit.fhir import to_fhir
from securepacs.audit.message import ActiveParticipant
from securepacs.audit.reader import read
from securepacs.audit.repository.fhir_query import PARAMETERS, AuditEventQuery, place_text
from securepacs.audit.repository.repository import Repository
from securepacs.audit.syslog import parse_record
from securepacs.store.tables import moment_text

Json = dict[str, Any]
MOST_READ = 20_000  # records looked at for one page; then the page ends early, with a link to go on
_TOKEN_TYPES = frozenset(("address", "agent-name", "entity-name"))


def search(repository: Repository, query: AuditEventQuery, *, base: str, reader: ActiveParticipant, at: datetime) -> Json:
    """Return one page as a Bundle, after the search was recorded (Audit Log Used). `base` is the service's own URL."""
    details = {"ITI-81": urlencode(query.given).encode()}
    entries: list[Json] = []
    skipped, last = 0, ""
    with repository.reading(reader=reader, at=at, details=details) as reading:
        for looked, (record, raw) in enumerate(reading.contents(query.criteria, after=query.after)):
            if len(entries) == query.count or looked == MOST_READ:
                break
            last = place_text(moment_text(record.at), record.id)
            message = read(parse_record(raw).msg).message if raw else None
            if message is None:
                skipped += 1
            elif query.holds(message):
                resource = to_fhir(message, resource_id=str(record.id))
                entries.append({"fullUrl": f"{base}/AuditEvent/{record.id}", "resource": resource, "search": {"mode": "match"}})
        else:
            last = ""
    return _bundle(query, entries, skipped, last, base)


def _bundle(query: AuditEventQuery, entries: list[Json], skipped: int, last: str, base: str) -> Json:
    def link(relation: str, *more: tuple[str, str]) -> Json:
        return {"relation": relation, "url": f"{base}/AuditEvent?{urlencode([*query.given, *more])}"}

    bundle: Json = {"resourceType": "Bundle", "type": "searchset"}
    if not last and query.after is None:
        bundle["total"] = len(entries)
    bundle["link"] = [link("self"), *([link("next", ("_after", last))] if last else ())]
    if skipped:
        text = f"{skipped} records of the period are no audit messages that can be read, or were lawfully erased"
        entries = [*entries, {"resource": outcome("warning", "incomplete", text), "search": {"mode": "outcome"}}]
    if entries:
        bundle["entry"] = entries
    return bundle


def one(repository: Repository, record_id: int, *, reader: ActiveParticipant, at: datetime) -> tuple[int, Json]:
    """Return (HTTP status, resource) of one record: 404 when there is none, 410 when it was erased, 422 when it is no message."""
    with repository.reading(reader=reader, at=at, details={"record": str(record_id).encode()}) as reading:
        found = reading.record(record_id)
    if found is None:
        return 404, outcome("error", "not-found", "there is no such record")
    _, raw = found
    if not raw:
        return 410, outcome("error", "deleted", "the record was lawfully erased")
    message = read(parse_record(raw).msg).message
    if message is None:
        return 422, outcome("error", "processing", "the record is no audit message that can be read")
    return 200, to_fhir(message, resource_id=str(record_id))


def outcome(severity: str, code: str, diagnostics: str) -> Json:
    """Return an OperationOutcome."""
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, "diagnostics": diagnostics}]}


def capability(at: datetime) -> Json:
    """Return the CapabilityStatement: what `GET /metadata` answers."""
    parameters: Sequence[Json] = [
        {"name": name, "type": "date" if name == "date" else "string" if name in _TOKEN_TYPES else "token"} for name in PARAMETERS
    ]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": moment_text(at),
        "kind": "instance",
        "implementation": {"description": "securepacs audit record repository (IHE ITI-81)"},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "mutual TLS (IHE ITI-19); auditors only; every use is recorded"},
                "resource": [
                    {
                        "type": "AuditEvent",
                        "interaction": [{"code": "read"}, {"code": "search-type"}],
                        "searchParam": parameters,
                    }
                ],
            }
        ],
    }
