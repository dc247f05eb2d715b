"""The commands of one call, in order: joins neighbouring ranges, keeps the gateway's own responses out of passing messages."""

from __future__ import annotations

from securepacs.audit.message import AuditMessage
from securepacs_proxy.commands import Audit, Close, Command, Send
from securepacs_proxy.dicom.wire import Violation
from securepacs_proxy.events import Side

MAX_QUEUED = 262_144


class Outbox:
    """Collects commands until `begin` starts the next call; what waits for a gap between messages stays."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._range: tuple[Side, memoryview, int, int] | None = None
        self._queued = {side: bytearray() for side in Side}

    @property
    def buffered(self) -> int:
        """Bytes that wait; bounded."""
        return sum(map(len, self._queued.values()))

    def begin(self) -> list[Command]:
        """Start the list of a new call and return it."""
        self.commands, self._range = [], None
        return self.commands

    def emit(self, command: Command) -> None:
        """Append a command."""
        self.commands.append(command)

    def record(self, message: AuditMessage) -> None:
        """Append an audit record; what is appended later waits for it."""
        self.commands.append(Audit(message))

    def pass_on(self, to: Side, data: memoryview, start: int, stop: int) -> None:
        """Append `data[start:stop]`, or let the last command grow when the range continues it."""
        if self._range is not None and self.commands:
            last_to, last_data, first, end = self._range
            last = self.commands[-1]
            if last_to is to and last_data is data and end == start and isinstance(last, Send) and last.side is to:
                self.commands[-1] = Send(to, data[first:stop])
                self._range = (to, data, first, stop)
                return
        self.commands.append(Send(to, data[start:stop]))
        self._range = (to, data, start, stop)

    def answer(self, to: Side, response: bytes, *, wait: bool) -> None:
        """Append the gateway's own response; `wait` when a message is passing to that side."""
        if not wait:
            self._send_own(to, response)
            return
        self._queued[to] += response
        if len(self._queued[to]) > MAX_QUEUED:
            raise Violation("too many answers wait for a gap")

    def gap(self, to: Side) -> None:
        """A message that passed to that side is over: what waited goes now."""
        if self._queued[to]:
            self._send_own(to, bytes(self._queued[to]))
            self._queued[to].clear()

    def close_both(self) -> None:
        """Append the end of both sides."""
        self.commands += [Close(Side.REQUESTOR), Close(Side.ACCEPTOR)]

    def _send_own(self, to: Side, data: bytes) -> None:
        self._range = None
        self.commands.append(Send(to, data))
