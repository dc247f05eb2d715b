"""Whether the clock of this machine is kept right (IHE ITI-1, Consistent Time).

Asked are chrony, ntpsec, systemd-timesyncd or, when none answers, the kernel. Nothing is refused because of the clock; its state is
recorded and alarmed. Records carry the time of this clock.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from securepacs import codes
from securepacs.audit import events
from securepacs.audit.message import ActiveParticipant, AuditMessage, AuditSourceIdentification, EventOutcomeIndicator

HOUR = 3600.0
MAX_OFFSET = 1.0  # seconds; ITI-1 asks for a median error below it
_UNSYNCHRONIZED = 0x40  # STA_UNSYNC of adjtimex(2)
_SECONDS = 3.0  # for a program to answer
_CHRONYC = ("chronyc", "-c", "tracking")
_NTPQ = ("ntpq", "-n", "-c", "rv 0 leap,offset")
_TIMEDATECTL = ("timedatectl", "show", "--property=NTPSynchronized", "--value")


@dataclass(frozen=True, slots=True)
class ClockState:
    """What was found out. `synchronized` is None when nobody tells; `offset` in seconds, None when it is not told."""

    synchronized: bool | None
    service: str = ""
    offset: float | None = None

    @property
    def right(self) -> bool:
        """Whether the time can be relied on."""
        return self.synchronized is True and (self.offset is None or abs(self.offset) < MAX_OFFSET)

    def __str__(self) -> str:
        if self.synchronized is None:
            return "nobody tells whether the clock is synchronized"
        kept = f"clock synchronized by {self.service}" if self.synchronized else f"clock not synchronized, says {self.service}"
        return kept if self.offset is None else f"{kept}, offset {self.offset:+.6f} s"


def clock_state(
    *, chronyc: Sequence[str] = _CHRONYC, ntpq: Sequence[str] = _NTPQ, timedatectl: Sequence[str] = _TIMEDATECTL
) -> ClockState:
    """Ask the programs in turn; the first that answers counts, the kernel last. Takes some seconds at worst."""
    for ask, command in ((_chrony, chronyc), (_ntpsec, ntpq), (_timesyncd, timedatectl)):
        found = ask(_answer(command))
        if found is not None:
            return found
    return _kernel()


def clock_record(
    state: ClockState, *, source: AuditSourceIdentification, reporter: ActiveParticipant, at: datetime
) -> AuditMessage:
    """Return the record of a state: a Security Alert (Network Configuration), informative or, when the clock is not right, not."""
    return events.security_alert(
        source=source,
        at=at,
        alert_type=codes.NETWORK_CONFIGURATION,
        reporter=reporter,
        alert_description=str(state),
        outcome=EventOutcomeIndicator.SUCCESS if state.right else EventOutcomeIndicator.MINOR_FAILURE,
    )


class ClockWatch:
    """A thread that looks at the clock at once and every hour; `tell(state, at)` records it."""

    def __init__(
        self,
        tell: Callable[[ClockState, datetime], None],
        *,
        seconds: float = HOUR,
        ask: Callable[[], ClockState] = clock_state,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tell = tell
        self._seconds = seconds
        self._ask = ask
        self._now = now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._tell(self._ask(), self._now())
            if self._stopping.wait(self._seconds):
                return


def _answer(command: Sequence[str]) -> str:
    """Return what a program says; "" when it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _chrony(text: str) -> ClockState | None:
    """Read `chronyc -c tracking`: the offset of the clock is the fifth field, the leap status the last."""
    fields = text.strip().split(",")
    try:
        return ClockState(fields[-1] != "Not synchronised", "chrony", float(fields[4])) if len(fields) >= 14 else None
    except ValueError:
        return None


def _ntpsec(text: str) -> ClockState | None:
    """Read `ntpq -c "rv 0 leap,offset"`: leap 11 means not synchronized, the offset is in milliseconds."""
    leap, offset = re.search(r"\bleap=([01]{2})", text), re.search(r"\boffset=([-+.\d]+)", text)
    if leap is None:
        return None
    try:
        return ClockState(leap[1] != "11", "ntpsec", float(offset[1]) / 1000 if offset else None)
    except ValueError:
        return None


def _timesyncd(text: str) -> ClockState | None:
    """Read `timedatectl show --property=NTPSynchronized --value`."""
    word = text.strip()
    return ClockState(word == "yes", "systemd-timesyncd") if word in ("yes", "no") else None


def _kernel() -> ClockState:
    """Ask adjtimex(2), which whoever keeps the clock tells."""
    buffer = ctypes.create_string_buffer(256)  # struct timex, asked for and not set: modes = 0
    try:
        failed = ctypes.CDLL(None).adjtimex(buffer) < 0
    except AttributeError:
        failed = True
    if failed or ctypes.sizeof(ctypes.c_long) != 8:
        return ClockState(None)
    status = int.from_bytes(buffer.raw[40:44], sys.byteorder)  # after int modes and four longs
    return ClockState(not status & _UNSYNCHRONIZED, "the kernel")
