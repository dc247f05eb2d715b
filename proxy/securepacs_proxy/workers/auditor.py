"""The auditor: delivers the records of all processes to the audit repositories and writes those of the supervisor.

A process of its own, because delivering needs threads and the supervisor, which forks, must have none.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from securepacs.audit.forwarder import Forwarder
from securepacs.audit.message import AuditMessage, EventOutcomeIndicator
from securepacs.audit.ntp import HOUR, clock_state
from securepacs.audit.senders import Transport, make_sender
from securepacs.audit.sinks import SpoolSink
from securepacs.codes import SECURITY_CONFIGURATION, SECURITY_ROLES_CHANGED, USER_SECURITY_ATTRIBUTES_CHANGED
from securepacs.errors import Unavailable
from securepacs.tls import client_context
from securepacs_proxy.config import AuditDestinationSection
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.reload import Snapshot
from securepacs_proxy.status import SUPERVISOR
from securepacs_proxy.workers.records import (
    activity,
    change_alert,
    clock_alert,
    configuration_alert,
    destination_name,
    open_spool,
    sink_of,
    spool_folder,
    spool_names,
)

_log = logging.getLogger(__name__)
AUDITOR = "auditor"
_DELIVERY_SECONDS = 5.0  # at the end; what is left is delivered after the next start
_RETRY_SECONDS = 5.0
_CHANGES = {
    "security": SECURITY_CONFIGURATION,
    "roles": SECURITY_ROLES_CHANGED,
    "rights": USER_SECURITY_ATTRIBUTES_CHANGED,
}
_OUTCOMES = {"changed": EventOutcomeIndicator.SUCCESS, "failed": EventOutcomeIndicator.MINOR_FAILURE}


class Notes:
    """What the supervisor wants on record, kept until the auditor says that it is durable.

    Kinds: `started` and `stopped`; `changed` and `failed` of itself; `security`, `roles` and `rights` that somebody changed.
    """

    def __init__(self) -> None:
        self.closed = False
        self._number = 0
        self._waiting: dict[int, Message] = {}
        self._sent_to: dict[int, int] = {}

    def add(self, kind: str, *, at: datetime, text: str = "", by: str = "") -> None:
        """Note something that happened at `at`, because of the user `by`."""
        self._number += 1
        self._waiting[self._number] = {
            "type": "record",
            "number": self._number,
            "kind": kind,
            "at": at.isoformat(),
            "text": text,
            "by": by,
        }

    def unsent(self, pid: int) -> list[Message]:
        """Return what the auditor with this process ID has not been told yet, and count it as told."""
        messages = [message for number, message in self._waiting.items() if self._sent_to.get(number) != pid]
        self._sent_to.update({int(message["number"]): pid for message in messages})
        return messages

    def recorded(self, number: int) -> None:
        """One record is durable."""
        self._waiting.pop(number, None)
        self._sent_to.pop(number, None)

    @property
    def waiting(self) -> bool:
        """Whether anything is not durable yet."""
        return bool(self._waiting)


def auditor_main(pipe: socket.socket, *, snapshot: Snapshot) -> int:
    """Deliver and record until told to stop or the supervisor is gone; the exit code of the process."""
    forwarders = [_forwarder(snapshot, destination) for destination in snapshot.config.audit.destinations]
    with open_spool(snapshot, SUPERVISOR) as spool:
        sink = sink_of(spool)
        for forwarder in forwarders:
            forwarder.start()
        pipe.sendall(encode({"type": "ready"}))
        waiting: list[Message] = []
        clock_due = time.monotonic()
        for order in _orders(pipe):
            if time.monotonic() >= clock_due and _try_to_record(sink, clock_alert(snapshot, clock_state(), at=datetime.now(UTC))):
                clock_due = time.monotonic() + HOUR
            waiting += [order] if order is not None and order["type"] == "record" else []
            while waiting and _try_to_record(sink, _record(snapshot, waiting[0])):
                pipe.sendall(encode({"type": "recorded", "number": waiting.pop(0)["number"]}))
    deadline = time.monotonic() + _DELIVERY_SECONDS
    for forwarder in forwarders:
        if not forwarder.stop(drain_seconds=max(deadline - time.monotonic(), 0.1)):
            _log.warning("audit records wait in the spool for the next start")
    return 0


def _forwarder(snapshot: Snapshot, destination: AuditDestinationSection) -> Forwarder:
    context = partial(
        client_context, destination.tls_profile, trust=destination.trust, certificate=destination.certificate, key=destination.key
    )
    folders = [spool_folder(snapshot, process) for process in spool_names(snapshot)]
    sender = make_sender(Transport(destination.transport), destination.host, destination.port, context=context)
    return Forwarder(folders, sender, name=destination_name(destination))


def _try_to_record(sink: SpoolSink, message: AuditMessage) -> bool:
    """Write a record; False when the spool cannot take it now, for delivering must go on and may free it."""
    try:
        sink.emit(message)
    except Unavailable as error:
        _log.error("a record of the supervisor waits: %s", error)
        return False
    return True


def _orders(pipe: socket.socket) -> Iterator[Message | None]:
    """Yield orders as they come, and None now and then when none comes; ends with `drain` or with the supervisor."""
    lines = LineReader()
    pipe.settimeout(_RETRY_SECONDS)
    while True:
        try:
            data = pipe.recv(65_536)
        except TimeoutError:
            yield None
            continue
        if not data:
            return
        for order in lines.feed(data):
            if order["type"] == "drain":
                return
            yield order


def _record(snapshot: Snapshot, note: Message) -> AuditMessage:
    at = datetime.fromisoformat(note["at"])
    if note["kind"] in _OUTCOMES:
        return configuration_alert(snapshot, at=at, text=str(note["text"]), outcome=_OUTCOMES[note["kind"]])
    if note["kind"] in _CHANGES:
        alert_type, text, by = _CHANGES[note["kind"]], str(note["text"]), str(note["by"])
        return change_alert(snapshot, alert_type=alert_type, at=at, text=text, by=by)
    return activity(snapshot, SUPERVISOR, at=at, started=note["kind"] == "started")
