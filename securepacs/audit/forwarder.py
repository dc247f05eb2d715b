"""The forwarder that keeps a destination up to date, whatever the transport.

Syslog has no acknowledgement, and closing a connection loses what was on its way. What the forwarder counts as delivered:
1. what the peer confirmed by answering our orderly end (it has read everything by then), at a clean stop;
2. what was sent longer than `window_seconds` ago, or more than `window_bytes` before the newest, on a connection that still stands.
Everything else is sent again on the next connection: at least once, in order, duplicates marked by the repository.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from securepacs.audit.group import notify
from securepacs.audit.segments import Cursor, SpoolReader, SpoolRecord
from securepacs.errors import Unavailable

_BATCH_BYTES = 256 * 1024
_logger = logging.getLogger(__name__)


class SyslogSender(Protocol):
    """One way to a syslog receiver. Not for several threads, except `interrupt`."""

    def connect(self) -> None:
        """Be ready to send. Raises Unavailable."""

    def send(self, records: Sequence[bytes]) -> None:
        """Send records; returning says nothing about delivery. Raises Unavailable."""

    def check(self) -> None:
        """Raise Unavailable when the receiver is known to be gone."""

    def close(self, *, seconds: float = 10.0) -> bool:
        """End in order; True when all that was sent counts as delivered."""

    def abort(self) -> None:
        """End at once."""

    def interrupt(self) -> None:
        """Make a `send` or `close` that blocks in another thread fail now."""


@dataclass(frozen=True, slots=True)
class ForwarderStatus:
    """A moment's view: `sent` counts records put on the wire, repetitions included; `error` is why it is not connected."""

    connected: bool = False
    sent: int = 0
    connections: int = 0
    error: str = ""


class RecordReader(Protocol):
    """Reads records in order of their sequence numbers, each once."""

    def read(self, *, at_most: int) -> Sequence[SpoolRecord]:
        """Return the next records, about `at_most` octets of them; none when there is none yet. Raises Unavailable."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What a forwarder delivers: `open(after)` reads what follows a sequence number, `cursor` is the destination's position."""

    cursor: Cursor
    open: Callable[[int], RecordReader]

    @classmethod
    def of_spool(cls, folder: Path, name: str) -> Supply:
        """Return the records of a spool folder; the position of destination `name` stands in the same folder."""
        return cls(Cursor(folder, name), lambda after: SpoolReader(folder, after=after))


@dataclass(slots=True)
class _Source:
    """One supply as one destination sees it. `window` holds (sequence, size, moment sent) of what may be lost."""

    supply: Supply
    confirmed: int
    saved: int
    reader: RecordReader
    window: deque[tuple[int, int, float]] = field(default_factory=deque)
    window_size: int = 0

    def rewind(self) -> None:
        self.reader.close()
        self.reader = self.supply.open(self.confirmed)
        self.window.clear()
        self.window_size = 0

    def sent(self, records: Sequence[SpoolRecord], now: float) -> None:
        for record in records:
            self.window.append((record.sequence, len(record.data), now))
            self.window_size += len(record.data)

    def confirm_before(self, moment: float, size: int) -> None:
        while self.window and (self.window[0][2] <= moment or self.window_size - self.window[0][1] >= size):
            self.confirmed, taken, _ = self.window.popleft()
            self.window_size -= taken

    def save(self) -> None:
        if self.confirmed != self.saved:
            self.supply.cursor.save(self.confirmed)
            self.saved = self.confirmed


class Forwarder:
    """A thread that delivers the records of spool folders, or other supplies, to one destination, each in its order.

    `name` names the cursor files in spool folders, so it must stay the same over restarts and differ between destinations.
    `on_change` is called from the thread when a connection is made or lost.
    """

    def __init__(
        self,
        supplies: Sequence[Path | str | Supply],
        sender: SyslogSender,
        *,
        name: str,
        window_bytes: int = 8 * 1024 * 1024,
        window_seconds: float = 300.0,
        first_delay: float = 0.5,
        longest_delay: float = 60.0,
        poll_seconds: float = 0.1,
        on_change: Callable[[ForwarderStatus], None] | None = None,
    ) -> None:
        self._sender = sender
        self._window_bytes = window_bytes
        self._window_seconds = window_seconds
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._next_save = 0.0
        self._status = ForwarderStatus()
        self._sources = [self._source(each if isinstance(each, Supply) else Supply.of_spool(Path(each), name)) for each in supplies]
        self._thread = threading.Thread(target=self._run, name=f"audit-forwarder-{name}", daemon=True)

    @staticmethod
    def _source(supply: Supply) -> _Source:
        reached = supply.cursor.load() or 0
        return _Source(supply, reached, -1, supply.open(reached))

    @property
    def status(self) -> ForwarderStatus:
        """What it is doing."""
        return self._status

    def start(self) -> None:
        """Begin to deliver. The cursors are saved first, so that a spool keeps what this destination has not seen."""
        for source in self._sources:
            source.supply.cursor.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            source.save()
        self._thread.start()

    def wake(self) -> None:
        """Look at the spool now, not at the next poll."""
        self._wake.set()

    def stop(self, *, drain_seconds: float = 10.0) -> bool:
        """Deliver what is there, close in order and end, all within `drain_seconds`.

        True when the peer confirmed everything; otherwise the rest stays in the spool and is sent (again) after the next start.
        """
        self._deadline = time.monotonic() + drain_seconds
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(drain_seconds)
        if self._thread.is_alive():
            self._sender.interrupt()
            self._thread.join()
        complete = all(not source.window and not source.reader.read(at_most=1) for source in self._sources)
        for source in self._sources:
            source.reader.close()
        return complete

    # --- the thread --------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        delay = self._first_delay
        while not self._stopping.is_set() or time.monotonic() < self._deadline:
            began = time.monotonic()
            try:
                self._sender.connect()
                self._change(connected=True, connections=self._status.connections + 1, error="")
                if self._deliver():
                    break
            except (Unavailable, OSError) as error:
                self._sender.abort()
                self._change(connected=False, error=str(error))
            if time.monotonic() - began > delay:
                delay = self._first_delay
            self._pause(delay)
            delay = min(2 * delay, self._longest_delay)
        self._sender.abort()
        self._change(connected=False)
        self._save(now=True)

    def _deliver(self) -> bool:
        """Send over the standing connection until told to stop; True when the end was in order."""
        for source in self._sources:
            source.rewind()
        while True:
            sent = sum(self._send_some(source) for source in self._sources)
            self._confirm()
            if sent:
                continue
            if self._stopping.is_set():
                return self._finish()
            self._sender.check()
            self._wake.wait(self._poll_seconds)
            self._wake.clear()

    def _send_some(self, source: _Source) -> int:
        if self._stopping.is_set() and time.monotonic() > self._deadline:
            return 0
        records = source.reader.read(at_most=_BATCH_BYTES)
        if records:
            self._sender.send([record.data for record in records])
            source.sent(records, time.monotonic())
            self._status = replace(self._status, sent=self._status.sent + len(records))
        return len(records)

    def _confirm(self) -> None:
        moment = time.monotonic() - self._window_seconds
        for source in self._sources:
            source.confirm_before(moment, self._window_bytes)
        self._save()

    def _finish(self) -> bool:
        if self._sender.close(seconds=max(self._deadline - time.monotonic(), 0.1)):
            for source in self._sources:
                source.confirm_before(time.monotonic(), 0)
        return True

    def _save(self, *, now: bool = False) -> None:
        if now or time.monotonic() >= self._next_save:
            self._next_save = time.monotonic() + 1.0
            for source in self._sources:
                try:
                    source.save()
                except Unavailable as error:  # costs repetitions after a restart, and keeps segments; delivery goes on
                    _logger.error("audit forwarder: %s", error)

    def _pause(self, seconds: float) -> None:
        """Wait out the back-off; a stop shortens it, new records do not."""
        if self._stopping.wait(seconds):
            time.sleep(max(min(self._first_delay, self._deadline - time.monotonic()), 0))

    def _change(self, *, connected: bool, connections: int | None = None, error: str | None = None) -> None:
        before = self._status
        self._status = replace(
            before,
            connected=connected,
            connections=before.connections if connections is None else connections,
            error=before.error if error is None else error,
        )
        if (before.connected, before.error) != (self._status.connected, self._status.error):
            _logger.log(
                logging.INFO if connected else logging.WARNING, "audit forwarder: connected=%s %s", connected, self._status.error
            )
            if self._on_change is not None:
                notify(self._on_change, self._status)
