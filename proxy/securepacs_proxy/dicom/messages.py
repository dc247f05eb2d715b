"""One direction of an association as DIMSE messages (PS3.7 6.3, PS3.8 Annex E): holds what is undecided, passes what is permitted.

Rules:
1. A message's fragments follow each other: command, then data set, in one presentation context, not interleaved.
2. Nothing of a message leaves before it is permitted; what is held is bounded; a refused message's data set is swallowed.
3. PDUs leave as received. One PDU with fragments of a permitted and of a refused message is cut at the message's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from securepacs.errors import MalformedError
from securepacs_proxy.dicom.dimse import Command, Status, decode_command
from securepacs_proxy.dicom.head import HeadReader
from securepacs_proxy.dicom.pdu import COMMAND, HEADER_LENGTH, LAST, PduType, PresentationDataValue, p_data_header, pdvs
from securepacs_proxy.dicom.wire import AbortReason, Violation
from securepacs_proxy.events import Side

MAX_PDVS = 128
_HELD_FRAMING = 65_536  # bytes of PDU and PDV headers that may be held beside the values


class Phase(Enum):
    """What is being done with the message at hand."""

    COMMAND = "its command set is being collected"
    HEAD = "its data set's head is being read"
    IDENTIFIER = "its whole data set is being collected"
    PASS = "it passes"  # noqa: S105  (not a password)
    SWALLOW = "it was refused, the rest is dropped"


@dataclass(slots=True)
class Message:
    """A message on its way. `phase` is set by the rules (`exchange`) when command, head or identifier are known.

    `refusal` is the status to answer with once the data set is swallowed, None for a message that needs no answer.
    """

    side: Side
    context_id: int
    transfer_syntax: str
    command: Command
    phase: Phase = Phase.SWALLOW
    refusal: int | None = None


class Rules(Protocol):
    """What decides about messages; every method sets `message.phase` to PASS or SWALLOW, `command` also to HEAD or IDENTIFIER."""

    def command(self, side: Side, context_id: int, command: Command) -> Message:
        """A whole command set is there."""
        ...

    def head(self, message: Message, values: dict[int, bytes]) -> None:
        """The head of a data set to be stored is known."""
        ...

    def identifier(self, message: Message, data: bytes) -> None:
        """The whole identifier is there."""
        ...

    def refuse(self, message: Message, status: Status, reason: str) -> None:
        """The data set cannot be read or is too long."""
        ...

    def ended(self, message: Message) -> None:
        """The last fragment is gone or dropped."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many bytes may be held: of a command set, of a data set's head, of an identifier."""

    command_bytes: int = 65_536
    head_bytes: int = 65_536
    identifier_bytes: int = 1_048_576


class MessageStream:
    """Handler of one side's PduStream. `send` gets ranges to pass on, or bytes that were held."""

    def __init__(
        self,
        side: Side,
        *,
        bounds: Bounds,
        admit: Callable[[Side, PduType], None],
        control: Callable[[Side, PduType, memoryview], None],
        send: Callable[[Side, memoryview, int, int], None],
    ) -> None:
        self.passing = -1
        self.open = True
        self.message: Message | None = None
        self._side = side
        self._rules_in_force: Rules | None = None
        self._bounds = bounds
        self._admit = admit
        self._control = control
        self._send = send
        self._context_id = 0
        self._command = bytearray()
        self._held = bytearray()
        self._held_at: tuple[memoryview, int, int] | None = None
        self._identifier = bytearray()
        self._reader: HeadReader | None = None

    def establish(self, rules: Rules) -> None:
        """The association stands; `rules` judge its messages."""
        self._rules_in_force = rules

    def new_event(self) -> None:
        """The buffer of the last event is no longer valid."""
        self._held_at = None

    @property
    def idle(self) -> bool:
        """True between messages."""
        return self.message is None and not self._context_id

    @property
    def forwarding(self) -> bool:
        """True when a message has begun to leave and its end has not."""
        return self.message is not None and self.message.phase is Phase.PASS

    @property
    def buffered(self) -> int:
        """Bytes kept."""
        return len(self._command) + len(self._held) + len(self._identifier)

    # --- Handler of stream.PduStream ---

    def admit(self, kind: PduType) -> None:
        """Ask the state table; a message must be whole before release is asked for."""
        self._admit(self._side, kind)
        if kind in (PduType.RELEASE_RQ, PduType.RELEASE_RP) and not self.idle:
            raise Violation(f"{kind.standard_name} inside a message", AbortReason.UNEXPECTED_PDU)

    def control(self, kind: PduType, body: memoryview) -> None:
        """Hand a PDU that is not P-DATA-TF to the association."""
        self._control(self._side, kind, body)

    def begin_fragment(self, context_id: int) -> None:
        """Check that a data fragment may come now, and that what is held stays within bounds."""
        message = self.message
        if message is None or message.context_id != context_id:
            raise Violation("data fragment outside its message")
        self._check_held(message)

    def passed(self, data: memoryview, start: int, stop: int, *, last: bool) -> None:
        """Pass a range of data PDUs on."""
        self._send(self._side, data, start, stop)
        if last:
            self._end()

    def fragment(self, data: memoryview, start: int, value: int, stop: int, *, last: bool) -> None:
        """Read a part of a data PDU whose message does not pass yet, then hold, pass or drop it."""
        message = self._present()
        self._read(message, data[value:stop], last)
        self._dispose(message, data, start, stop)
        if last:
            self._end()

    def p_data(self, data: memoryview, start: int, stop: int) -> None:
        """Read a collected PDU PDV by PDV; cut it only where a message ends inside."""
        values = []
        for value in pdvs(data[start + HEADER_LENGTH : stop]):
            values.append(value)
            if len(values) > MAX_PDVS:
                raise Violation("P-DATA-TF has too many PDVs")
        first = pos = start + HEADER_LENGTH
        for value in values:
            pos += len(value.item)
            last = self._pdv(value)
            if last or pos == stop:
                self._segment(data, start, first, pos, stop)
                first = pos
                if last:
                    self._end()

    # --- one message ---

    def _pdv(self, value: PresentationDataValue) -> bool:
        """Take one PDV; return whether its message ends here."""
        last = bool(value.control & LAST)
        if not value.control & COMMAND:
            self.begin_fragment(value.context_id)
            self._read(self._present(), value.fragment, last)
            return last
        if self.message is not None or (self._context_id and self._context_id != value.context_id):
            raise Violation("command fragment inside another message")
        self._context_id = value.context_id
        self._command += value.fragment
        if len(self._command) > self._bounds.command_bytes or len(self._held) > self._bounds.command_bytes + _HELD_FRAMING:
            raise Violation("command set is too long")
        if not last:
            return False
        command = decode_command(bytes(self._command))
        self._command.clear()
        self._begin(self._rules.command(self._side, value.context_id, command))
        return not command.has_data_set

    def _begin(self, message: Message) -> None:
        self.message = message
        if message.phase is Phase.HEAD:
            self._reader = HeadReader(message.transfer_syntax, limit=self._bounds.head_bytes)

    def _read(self, message: Message, fragment: memoryview, last: bool) -> None:
        if message.phase is Phase.HEAD and self._reader is not None:
            try:
                complete = self._reader.feed(fragment)
                if last and not complete:
                    self._reader.finish()
                    complete = True
            except MalformedError as error:
                self._rules.refuse(message, Status.CANNOT_UNDERSTAND, error.message)
            else:
                if complete:
                    self._rules.head(message, self._reader.values)
        elif message.phase is Phase.IDENTIFIER:
            if len(self._identifier) + len(fragment) > self._bounds.identifier_bytes:
                self._rules.refuse(message, Status.CANNOT_UNDERSTAND, "identifier is too long")
                return
            self._identifier += fragment
            if last:
                self._rules.identifier(message, bytes(self._identifier))

    def _segment(self, data: memoryview, start: int, first: int, pos: int, stop: int) -> None:
        """Hold, pass or drop the PDVs between `first` and `pos` of the PDU `start`..`stop`."""
        if first == start + HEADER_LENGTH and pos == stop:
            whole, begin, end = data, start, stop
        else:
            whole = memoryview(p_data_header(data[start + 1], pos - first) + bytes(data[first:pos]))
            begin, end = 0, len(whole)
        if self.message is None:
            self._hold(whole, begin, end)
        else:
            self._dispose(self.message, whole, begin, end)

    def _dispose(self, message: Message, data: memoryview, start: int, stop: int) -> None:
        if message.phase is Phase.PASS:
            if self._held:
                start = self._release(data, start)
            self._send(self._side, data, start, stop)
            self.passing = message.context_id
        elif message.phase is Phase.SWALLOW:
            self._drop()
        else:
            self._hold(data, start, stop)

    def _hold(self, data: memoryview, start: int, stop: int) -> None:
        """Keep a copy; remember where it lies as long as all of it is one range of the event at hand."""
        place = self._held_at
        if not self._held:
            self._held_at = (data, start, stop)
        elif place is not None and place[0] is data and place[2] == start:
            self._held_at = (data, place[1], stop)
        else:
            self._held_at = None
        self._held += data[start:stop]

    def _release(self, data: memoryview, start: int) -> int:
        """Send what was held; when it lies just before `start`, return where it begins instead, so that one range leaves."""
        place = self._held_at
        if place is not None and place[0] is data and place[2] == start:
            start = place[1]
        else:
            self._send(self._side, memoryview(bytes(self._held)), 0, len(self._held))
        self._held.clear()
        return start

    def _check_held(self, message: Message) -> None:
        """Bound framing too: a peer may send its fragments in many tiny PDUs. Asked at PDU starts, so that splits do not matter."""
        limits = {Phase.HEAD: self._bounds.head_bytes, Phase.IDENTIFIER: self._bounds.identifier_bytes}
        limit = limits.get(message.phase)
        if limit is not None and len(self._held) > self._bounds.command_bytes + limit + _HELD_FRAMING:
            self._rules.refuse(message, Status.CANNOT_UNDERSTAND, "data set comes in too many tiny fragments")

    @property
    def _rules(self) -> Rules:
        if self._rules_in_force is None:
            raise Violation("message before the association stands", AbortReason.UNEXPECTED_PDU)
        return self._rules_in_force

    def _present(self) -> Message:
        if self.message is None:
            raise Violation("data fragment outside its message")
        return self.message

    def _drop(self) -> None:
        self._held.clear()
        self._identifier.clear()
        self._reader = None

    def _end(self) -> None:
        message = self._present()
        self.message, self.passing, self._context_id = None, -1, 0
        self._drop()
        self._rules.ended(message)
