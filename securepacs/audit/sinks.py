"""Audit sinks: the spool as an AuditSink, and Python's logging as a way into any sink."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from securepacs.audit import events
from securepacs.audit.message import AuditMessage, AuditSink, AuditSourceIdentification, EventOutcomeIndicator
from securepacs.audit.spool import DEFAULT_QUOTA, Spool, SpoolAlarm
from securepacs.audit.syslog import to_syslog
from securepacs.codes import USE_OF_RESTRICTED_FUNCTION, CodedValue
from securepacs.errors import UsageError


class SpoolSink:
    """An AuditSink that writes syslog records into a spool; a forwarder takes them from there."""

    def __init__(self, spool: Spool, *, hostname: str, app_name: str) -> None:
        self.spool = spool
        self._hostname = hostname
        self._app_name = app_name

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        app_name: str,
        hostname: str | None = None,
        quota_bytes: int = DEFAULT_QUOTA,
        destinations: Iterable[str] = (),
        on_alarm: Callable[[SpoolAlarm], None] | None = None,
    ) -> Self:
        """Open the spool folder (see `Spool.open`) and return a sink for it that closes it at the end of a `with` block."""
        spool = Spool.open(folder, quota_bytes=quota_bytes, destinations=destinations, on_alarm=on_alarm)
        return cls(spool, hostname=hostname or socket.gethostname(), app_name=app_name)

    def emit(self, message: AuditMessage, *, reserved: bool = False) -> None:
        """Return when the record is durable; raise Unavailable when it cannot be made so."""
        self.spool.append(self._record(message), reserved=reserved)

    def submit(self, message: AuditMessage, on_durable: Callable[[BaseException | None], None], *, reserved: bool = False) -> None:
        """Hand in a message; `on_durable(error or None)` is called from the spool's writer thread."""
        self.spool.submit(self._record(message), on_durable, reserved=reserved)

    def close(self) -> None:
        """Close the spool."""
        self.spool.close()

    def _record(self, message: AuditMessage) -> bytes:
        # the process id is asked every time: workers are forked after sinks are configured
        return to_syslog(message, hostname=self._hostname, app_name=self._app_name, procid=str(os.getpid()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


_OUTCOMES = (
    (logging.CRITICAL, EventOutcomeIndicator.MAJOR_FAILURE),
    (logging.ERROR, EventOutcomeIndicator.SERIOUS_FAILURE),
    (logging.WARNING, EventOutcomeIndicator.MINOR_FAILURE),
    (logging.NOTSET, EventOutcomeIndicator.SUCCESS),
)


class _NoLock:
    """Stands where logging expects a lock (from Python 3.13 on it is entered without asking whether there is one)."""

    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class AuditHandler(logging.Handler):
    """Turns log records that are meant for the audit trail into audit messages; all others pass by.

    `log.info(text, extra={"audit": message})` emits `message`, any of `securepacs.audit.events`.
    `log.info(text, extra={"audit_user": "lee@hospital.example"})` emits a Security Alert of that user about this application:
    `text` is the alert description, `audit_type` (a code of CID 403) what kind of alert, the level gives the outcome.
    Unlike other handlers it does not swallow errors: the call to log raises Unavailable when the record cannot be made durable.
    """

    def __init__(self, sink: AuditSink, *, source: str, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._sink = sink
        self._source = AuditSourceIdentification(source)

    def createLock(self) -> None:
        """Have no lock: the sink takes many threads at once, a lock would make each wait for the others' disk writes."""
        self.lock = _NoLock()  # type: ignore[assignment]  # all that logging does with it

    def emit(self, record: logging.LogRecord) -> None:
        """Emit the audit message of a log record, if it is meant to have one."""
        message = getattr(record, "audit", None)
        user = getattr(record, "audit_user", None)
        if message is None and user is None:
            return
        if message is None:
            message = self._alert(record, str(user))
        if not isinstance(message, AuditMessage):
            raise UsageError("extra={'audit': ...} must be an AuditMessage", hint="make one with securepacs.audit.events")
        self._sink.emit(message)

    def _alert(self, record: logging.LogRecord, user: str) -> AuditMessage:
        kind = getattr(record, "audit_type", USE_OF_RESTRICTED_FUNCTION)
        if not isinstance(kind, CodedValue):
            raise UsageError("extra={'audit_type': ...} must be a CodedValue", hint="take one from securepacs.codes")
        return events.security_alert(
            source=self._source,
            at=datetime.fromtimestamp(record.created, UTC),
            alert_type=kind,
            reporter=events.participant(user, requestor=True),
            node_id=self._source.AuditSourceID,
            alert_description=record.getMessage(),
            outcome=next(outcome for level, outcome in _OUTCOMES if record.levelno >= level),
        )
