"""Checkpoints on their way to witnesses: the audit record that carries one, and reading it back."""

from __future__ import annotations

from datetime import datetime

from securepacs.audit import events
from securepacs.audit.checkpoint import Checkpoint
from securepacs.audit.message import AuditMessage, AuditSourceIdentification
from securepacs.errors import MalformedError

CHECKPOINT_DETAIL = "checkpoint"  # type of the ParticipantObjectDetail that holds the signed note


def witness_message(checkpoint: Checkpoint, *, source: AuditSourceIdentification, log_uri: str, at: datetime) -> AuditMessage:
    """Return the record (Audit Log Used, PS3.15 A.5.3.2) that tells another system of a checkpoint."""
    reporter = events.participant(source.AuditSourceID, requestor=True)
    details = {CHECKPOINT_DETAIL: checkpoint.note.encode()}
    return events.audit_log_used(source=source, at=at, users=(reporter,), log_uri=log_uri, details=details)


def kept_checkpoint(octets: bytes) -> str:
    """Return the signed note in a file somebody kept: the note itself, or an audit record (XML or syslog) that carried it.

    NOT checked: its signature. Raises MalformedError for an audit message without a checkpoint.
    """
    from securepacs.audit.grading import grade

    message = grade(octets).message
    if message is None:
        return octets.decode("utf-8", errors="replace")
    for each in message.ParticipantObjectIdentification:
        for detail in each.ParticipantObjectDetail:
            if detail.type == CHECKPOINT_DETAIL:
                return detail.value.decode("utf-8", errors="replace")
    raise MalformedError("the audit message carries no checkpoint")
