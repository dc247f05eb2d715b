"""The record of a disc: the Export event with the medium as a participant (PS3.15 A.5.3.4, DCM 110106)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from securepacs.audit import events
from securepacs.audit.message import ActiveParticipant, AuditMessage, AuditSourceIdentification, EventOutcomeIndicator
from securepacs.media.application_profiles import MEDIA_TYPES, Medium
from securepacs.publishing.survey import Source


def export_record(
    sources: Iterable[Source],
    *,
    source: AuditSourceIdentification,
    at: datetime,
    users: Sequence[ActiveParticipant],
    medium: Medium,
    place: str,
    label: str,
    outcome: EventOutcomeIndicator = events.SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Return the Export message of what was published: studies with the number of instances by SOP Class, and the patients.

    `users`: 1..2, one of them the requestor. `place`: the URI the medium was written to; `label`: what the medium itself is called.
    """
    studies: dict[str, Counter[str]] = {}
    accession: dict[str, dict[str, None]] = {}
    patients: dict[str, events.PatientObject] = {}
    for each in sources:
        head = each.head
        study = str(head.StudyInstanceUID)
        studies.setdefault(study, Counter())[str(head.SOPClassUID)] += 1
        if number := str(head.get("AccessionNumber") or "").strip():
            accession.setdefault(study, {})[number] = None
        identity = str(head.get("PatientID") or "").strip()
        patients.setdefault(identity, events.PatientObject(identity, str(head.get("PatientName") or "")))
    return events.data_export(
        source=source,
        at=at,
        users=users,
        media=events.media_participant(place, media_type=MEDIA_TYPES[medium], alternative=label),
        studies=[
            events.StudyObject(uid, SOPClass=dict(counts), Accession=tuple(accession.get(uid, ())), Encrypted=True)
            for uid, counts in studies.items()
        ],
        patients=list(patients.values()),
        outcome=outcome,
        description=description,
    )
