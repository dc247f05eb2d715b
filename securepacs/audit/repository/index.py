"""What a record says and the terms it is found by."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache

from securepacs.audit.grading import Verdict, grade
from securepacs.audit.message import ActiveParticipant, AuditMessage
from securepacs.audit.repository.quick import quick_index
from securepacs.audit.repository.terms import (
    MAX_YEAR,
    MIN_YEAR,
    SEARCHABLE_LENGTH,
    Index,
    Terms,
    is_patient,
    json_list,
    readable,
    storable,
)
from securepacs.audit.syslog import parse_record
from securepacs.codes import STUDY_INSTANCE_UID_TYPE
from securepacs.store.tables import moment_text

# the common form of what `parse_record` reads: no structured data, no byte order mark
_PLAIN_HEADER = re.compile(rb"<\d{1,3}>[1-9]\d{0,2} \S+ \S+ \S+ \S+ \S+ - (?=<AuditMessage)")
_moment_text = lru_cache(maxsize=64)(moment_text)  # the records of a batch came at one moment
_logger = logging.getLogger(__name__)


def index(raw: bytes, received: datetime) -> Index:
    """Read a record and return what it is found by. Never fails: what cannot be read is indexed by its text."""
    moment = _moment_text(received)
    try:
        header = _PLAIN_HEADER.match(raw)
        quick = quick_index(raw[header.end() :] if header else parse_record(raw).msg, moment)
        if quick is not None:
            return quick
        graded = grade(raw)
        if graded.message is None:
            text = graded.record.msg if graded.record else raw
            return _unparsed(graded.dialect, text, moment)
        return _index(graded.verdict, graded.dialect, graded.message, moment)
    except Exception as error:  # a fault of ours must never cost the record itself; its text may name patients
        _logger.error("audit repository: a record could not be indexed (%s)", type(error).__name__)
        return _unparsed("", raw, moment)


def _unparsed(dialect: str, text: bytes, moment: str) -> Index:
    shown = storable(text[: 4 * SEARCHABLE_LENGTH].decode("utf-8", errors="replace")).casefold()[:SEARCHABLE_LENGTH]
    return Index(Verdict.UNPARSED.value, dialect, moment, "", "", "", None, "", "", "", "", shown, "[]", "[]", ())


def _index(verdict: Verdict, dialect: str, message: AuditMessage, received: str) -> Index:
    event, source = message.EventIdentification, message.AuditSourceIdentification
    terms, patients, studies = _terms(message)
    return Index(
        verdict=verdict.value,
        dialect=dialect,
        moment=moment_text(event.EventDateTime) if MIN_YEAR <= event.EventDateTime.year <= MAX_YEAR else received,
        event_code=event.EventID.csd_code,
        event_name=event.EventID.originalText,
        action=event.EventActionCode or "",
        outcome=int(event.EventOutcomeIndicator),
        source_id=source.AuditSourceID,
        site_id=source.AuditEnterpriseSiteID,
        requestor=_requestor(message.ActiveParticipant),
        description=_description(message),
        searchable=storable("\n".join(filter(None, _texts(message)))).casefold()[:SEARCHABLE_LENGTH],
        patients=json_list(patients),
        studies=json_list(studies),
        terms=terms.all(),
    )


def _requestor(people: tuple[ActiveParticipant, ...]) -> str:
    chosen = next((who for who in people if who.UserIsRequestor), people[0] if people else None)
    return chosen.UserID if chosen else ""


def _description(message: AuditMessage) -> str:
    event = message.EventIdentification
    parts = [code.originalText or code.csd_code for code in event.EventTypeCode]
    parts.append(event.EventOutcomeDescription)
    parts.extend(
        detail.value.decode("utf-8", errors="replace")
        for each in message.ParticipantObjectIdentification
        for detail in each.ParticipantObjectDetail
        if detail.type == "Alert Description"
    )
    return storable(": ".join(filter(None, parts)))


def _terms(message: AuditMessage) -> tuple[Terms, set[str], set[str]]:
    terms, patients, studies = Terms(), set[str](), set[str]()
    for code in message.EventIdentification.EventTypeCode:
        terms.event_type(code.csd_code)
    for who in message.ActiveParticipant:
        for user in (who.UserID, who.AlternativeUserID, who.UserName):
            terms.user(user)
        for each in who.RoleIDCode:
            terms.role(each.csd_code)
    for what in message.ParticipantObjectIdentification:
        kind, role = what.ParticipantObjectIDTypeCode, what.ParticipantObjectTypeCodeRole
        if is_patient(what.ParticipantObjectTypeCode, role, kind.csd_code, kind.codeSystemName):
            terms.patient(what.ParticipantObjectID, patients)
        if kind.csd_code == STUDY_INSTANCE_UID_TYPE.csd_code:
            terms.study(what.ParticipantObjectID, studies)
        if what.ParticipantObjectDescription is not None:
            for study in what.ParticipantObjectDescription.ParticipantObjectContainsStudy:
                terms.study(study, studies)
    return terms, patients, studies


def _texts(message: AuditMessage) -> Iterator[str]:
    """Yield everything a person might look for."""
    event, source = message.EventIdentification, message.AuditSourceIdentification
    yield event.EventID.originalText
    yield from (code.originalText for code in event.EventTypeCode)
    yield event.EventOutcomeDescription
    for who in message.ActiveParticipant:
        yield from (who.UserID, who.AlternativeUserID, who.UserName, who.NetworkAccessPointID)
    yield from (source.AuditSourceID, source.AuditEnterpriseSiteID)
    for what in message.ParticipantObjectIdentification:
        yield from (what.ParticipantObjectID, what.ParticipantObjectName)
        yield from (text for detail in what.ParticipantObjectDetail for text in (detail.type, readable(detail.value)))
        if what.ParticipantObjectDescription is not None:
            yield from what.ParticipantObjectDescription.Accession
