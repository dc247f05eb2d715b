"""Cuts one side's bytes into PDUs without copying what may pass (PS3.8 9.3.1). The data plane: fast before small.

Rules:
1. A length is checked, and the state asked, when the header is there: before anything of the body is kept.
2. A P-DATA-TF with one data PDV streams through as it arrives; every other PDU is collected whole, or read where it
   lies when all of it is in `data`.
3. While a message passes, neighbouring PDUs of it leave as one range of the event's buffer.
4. Any split of the bytes gives the same calls to the handler, up to where ranges are cut.
"""

from __future__ import annotations

import struct
from typing import Protocol

from securepacs_proxy.dicom.pdu import HEADER_LENGTH, LAST, MAX_ASSOCIATE_LENGTH, PDV_HEADER_LENGTH, PduType
from securepacs_proxy.dicom.wire import AbortReason, Violation

_DATA_HEADER_LENGTH = HEADER_LENGTH + PDV_HEADER_LENGTH
_MIN_ASSOCIATE_LENGTH = 68
_HEADER = struct.Struct(">BxI")
_DATA_HEADER = struct.Struct(">BxIIBB")
_P_DATA = int(PduType.P_DATA_TF)
_KNOWN = frozenset(PduType)
_ASSOCIATE = frozenset((PduType.ASSOCIATE_RQ, PduType.ASSOCIATE_AC))


class Handler(Protocol):
    """What the cutter reports to. A range is `data[start:stop]`, valid during the call only; all methods may raise Violation.

    `passing` is the presentation context whose data fragments pass now, -1 for none.
    """

    passing: int
    open: bool

    def admit(self, kind: PduType) -> None:
        """A header has arrived: may such a PDU come now?"""
        ...

    def control(self, kind: PduType, body: memoryview) -> None:
        """A whole PDU that is not P-DATA-TF."""
        ...

    def p_data(self, data: memoryview, start: int, stop: int) -> None:
        """A whole P-DATA-TF."""
        ...

    def begin_fragment(self, context_id: int) -> None:
        """The header of a P-DATA-TF with one data PDV has arrived."""
        ...

    def fragment(self, data: memoryview, start: int, value: int, stop: int, *, last: bool) -> None:
        """A part of it; `value` is where the fragment's bytes begin, `last` that the message's data set ends here."""
        ...

    def passed(self, data: memoryview, start: int, stop: int, *, last: bool) -> None:
        """A range of data PDUs of the passing message; `last` that its data set ends here."""
        ...


class PduStream:
    """The bytes of one side. `limit` is the maximum P-DATA-TF length announced to that side."""

    def __init__(self, handler: Handler, limit: int) -> None:
        self.limit = limit
        self._handler = handler
        self._partial = bytearray()
        self._need = HEADER_LENGTH
        self._total = 0  # length of the PDU being collected, 0 while its header is
        self._rest = 0  # bytes still to come of a streaming P-DATA-TF
        self._last = False

    @property
    def within_data(self) -> bool:
        """True when a streaming P-DATA-TF has begun and not ended."""
        return self._rest > 0

    @property
    def within_pdu(self) -> bool:
        """True when a PDU has begun and not ended."""
        return self._rest > 0 or bool(self._partial)

    @property
    def buffered(self) -> int:
        """Bytes kept."""
        return len(self._partial)

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of this side. Raises Violation; what was reported before stands."""
        handler = self._handler
        pos, end = 0, len(data)
        while pos < end and handler.open:
            if handler.passing >= 0 and not self._partial:
                after = self._pass(data, pos, end)
                if after > pos:
                    pos = after
                    continue
            if self._rest:
                pos = self._stream(data, pos, pos, end)
            elif self._partial or end - pos < _DATA_HEADER_LENGTH:
                pos = self._collect(data, pos, end)
            else:
                pos = self._in_place(data, pos, end)

    def _pass(self, data: memoryview, pos: int, end: int) -> int:
        """Pass on as many PDUs of the passing message as there are; stop before what needs a look."""
        start, context, limit = pos, self._handler.passing, self.limit
        rest, last, unpack = self._rest, self._last, _DATA_HEADER.unpack_from
        ended = False
        while True:
            if rest:
                left = end - pos
                if rest > left:
                    pos, rest = end, rest - left
                    break
                pos, rest = pos + rest, 0
                if last:
                    ended = True
                    break
            if end - pos < _DATA_HEADER_LENGTH:
                break
            kind, length, pdv, identity, control = unpack(data, pos)
            if kind != _P_DATA or length > limit or pdv + 4 != length or pdv < 2 or identity != context or control & ~LAST:
                break
            rest, last = length + HEADER_LENGTH, control == LAST
        self._rest, self._last = rest, last
        if pos > start:
            self._handler.passed(data, start, pos, last=ended)
        return pos

    def _stream(self, data: memoryview, start: int, value: int, end: int) -> int:
        """Report what is there of a data PDU whose message does not pass (yet)."""
        stop = min(start + self._rest, end)
        self._rest -= stop - start
        self._handler.fragment(data, start, value, stop, last=self._last and not self._rest)
        return stop

    def _in_place(self, data: memoryview, pos: int, end: int) -> int:
        """Handle the PDU whose headers lie in `data`; return where reading goes on."""
        kind, total = self._admitted(data, pos)
        if kind is PduType.P_DATA_TF and self._streams(data, pos, total):
            return self._stream(data, pos, pos + _DATA_HEADER_LENGTH, end)
        if total <= end - pos:
            self._whole(kind, data, pos, pos + total)
            return pos + total
        self._partial += data[pos:end]
        self._need = self._total = total
        return end

    def _collect(self, data: memoryview, pos: int, end: int) -> int:
        """Gather headers, then a whole PDU, over several events; return where reading goes on."""
        partial = self._partial
        take = min(self._need - len(partial), end - pos)
        partial += data[pos : pos + take]
        pos += take
        if len(partial) < self._need:
            return pos
        if not self._total:
            kind, self._total = self._admitted(partial, 0)
            self._need = _DATA_HEADER_LENGTH if kind is PduType.P_DATA_TF else self._total
            return pos
        whole = memoryview(bytes(partial))
        kind, total = PduType(whole[0]), self._total
        if kind is PduType.P_DATA_TF and len(whole) == _DATA_HEADER_LENGTH and self._streams(whole, 0, total):
            self._reset()
            self._stream(whole, 0, _DATA_HEADER_LENGTH, _DATA_HEADER_LENGTH)
        elif len(whole) < total:
            self._need = total
        else:
            self._reset()
            self._whole(kind, whole, 0, total)
        return pos

    def _reset(self) -> None:
        self._partial.clear()
        self._need, self._total = HEADER_LENGTH, 0

    def _admitted(self, data: memoryview | bytearray, pos: int) -> tuple[PduType, int]:
        """Check a header; return the type and the length of the whole PDU."""
        number, length = _HEADER.unpack_from(data, pos)
        if number not in _KNOWN:
            raise Violation("PDU type is unknown", AbortReason.UNRECOGNIZED_PDU)
        kind = PduType(number)
        self._handler.admit(kind)
        if kind is PduType.P_DATA_TF:
            fits = PDV_HEADER_LENGTH <= length <= self.limit
        elif kind in _ASSOCIATE:
            fits = _MIN_ASSOCIATE_LENGTH <= length <= MAX_ASSOCIATE_LENGTH
        else:
            fits = length == 4
        if not fits:
            raise Violation(f"{kind.standard_name} has a length outside its bounds")
        return kind, HEADER_LENGTH + length

    def _streams(self, data: memoryview, pos: int, total: int) -> bool:
        """Begin a P-DATA-TF that holds one data PDV; False for any other."""
        _, length, pdv, context, control = _DATA_HEADER.unpack_from(data, pos)
        if pdv + 4 != length or control & ~LAST:
            return False
        self._handler.begin_fragment(context)
        self._rest, self._last = total, control == LAST
        return True

    def _whole(self, kind: PduType, data: memoryview, start: int, stop: int) -> None:
        if kind is PduType.P_DATA_TF:
            self._handler.p_data(data, start, stop)
        else:
            self._handler.control(kind, data[start + HEADER_LENGTH : stop])
