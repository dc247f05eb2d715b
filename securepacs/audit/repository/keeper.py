"""The thread that keeps the log of a running repository: signs it, tells witnesses, has it stamped, and ends retention.

What fails is tried again at the next turn. A log that does not continue what was signed is never signed again: that is recorded
as a Security Alert (PS3.15 A.5.3.11), once, and left for people to look at.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import Self

from securepacs.audit import events
from securepacs.audit.message import AuditSink, EventOutcomeIndicator
from securepacs.audit.repository.repository import Repository
from securepacs.audit.repository.retention import RecordClass
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.witness import witness_message
from securepacs.codes import OBJECT_SECURITY_ATTRIBUTES_CHANGED
from securepacs.errors import IntegrityFailure, SecurePacsError

DAY = timedelta(days=1)
_logger = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class LogKeeper:
    """Makes a checkpoint every `seconds` when something came, and stamps and erases once a day.

    `witness` is where checkpoints go as audit records, normally a spool with a forwarder. `retention` of None keeps for ever;
    classes of records may have a time of their own.
    """

    def __init__(
        self,
        repository: Repository,
        signer: LogSigner,
        *,
        seconds: float = 10.0,
        witness: AuditSink | None = None,
        stamp_urls: Sequence[str] = (),
        retention: timedelta | None = None,
        retention_by_class: Mapping[RecordClass, timedelta] = MappingProxyType({}),
        law: str = "",
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._repository = repository
        self._signer = signer
        self._seconds = seconds
        self._witness = witness
        self._stamp_urls = tuple(stamp_urls)
        self._retention = retention
        self._by_class = dict(retention_by_class)
        self._law = law
        self._clock = clock
        self._next_daily = clock()
        self._changed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-log-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the thread after a last checkpoint."""
        self._stopping.set()
        self._thread.join()
        self.turn()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self.turn()

    def turn(self) -> None:
        """Do what is due now; what fails is logged and tried again at the next turn."""
        at = self._clock()
        for step in (self._sign, self._daily):
            try:
                step(at)
            except SecurePacsError as error:
                _logger.error("audit log: %s", error)

    def _sign(self, at: datetime) -> None:
        if self._changed:
            return
        try:
            checkpoint = self._repository.checkpoint(self._signer, at=at)
        except IntegrityFailure as error:
            self._changed = True
            self._alert(str(error), at)
            raise
        if checkpoint is not None and self._witness is not None:
            source, uri = self._repository.source, self._repository.uri
            self._witness.emit(witness_message(checkpoint, source=source, log_uri=uri, at=at))

    def _daily(self, at: datetime) -> None:
        if at < self._next_daily:
            return
        if self._stamp_urls:
            self._repository.stamp(self._stamp_urls, at=at)
        who = events.participant(self._repository.source.AuditSourceID, requestor=True, host=self._repository.hostname)
        for kind, keep in self._by_class.items():
            self._repository.retain(keep, actor=who, law=self._law, at=at, of=kind)
        if self._retention is not None:
            self._repository.retain(self._retention, actor=who, law=self._law, at=at, but=self._by_class)
        self._next_daily = at + DAY

    def _alert(self, reason: str, at: datetime) -> None:
        repository = self._repository
        message = events.security_alert(
            source=repository.source,
            at=at,
            alert_type=OBJECT_SECURITY_ATTRIBUTES_CHANGED,
            reporter=events.participant(repository.source.AuditSourceID, host=repository.hostname),
            uri=repository.uri,
            alert_description=reason,
            outcome=EventOutcomeIndicator.MAJOR_FAILURE,
        )
        repository.record(message, at=at)
        if self._witness is not None:
            self._witness.emit(message)
