"""The state of the clock: from a real chronyd, from what the others print, and never an exception."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securepacs.audit import events, ntp
from securepacs.audit.message import AuditSourceIdentification, EventOutcomeIndicator
from securepacs.audit.ntp import ClockState, ClockWatch, clock_record, clock_state
from tests.support.net import free_port, wait_until
from tests.support.programs import require

NOBODY = {"chronyc": ("/nonexistent",), "ntpq": ("/nonexistent",), "timedatectl": ("/nonexistent",)}
NOW = datetime(2027, 1, 31, tzinfo=UTC)


def says(text: str, code: int = 0) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})")


@pytest.mark.interop
def test_chrony_is_asked(tmp_path: Path) -> None:
    daemon, port = require("/usr/sbin/chronyd" if Path("/usr/sbin/chronyd").exists() else "chronyd"), free_port()
    require("chronyc")
    (tmp_path / "chrony.conf").write_text(
        f"local stratum 8\ncmdport {port}\nbindcmdaddress 127.0.0.1\nbindcmdaddress {tmp_path}/sock\nport 0\n"
        f"pidfile {tmp_path}/pid\ncmdallow 127.0.0.1\nuser root\n"
    )
    command = ("chronyc", "-h", "127.0.0.1", "-p", str(port), "-c", "tracking")
    with subprocess.Popen([daemon, "-n", "-x", "-f", str(tmp_path / "chrony.conf")], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: clock_state(**{**NOBODY, "chronyc": command}).service == "chrony", what="chronyd")
            state = clock_state(**{**NOBODY, "chronyc": command})
        finally:
            process.terminate()
    assert (state.synchronized, state.offset) == (True, 0.0)
    assert str(state) == "clock synchronized by chrony, offset +0.000000 s"


@pytest.mark.parametrize(
    ("program", "text", "expected"),
    [
        ("chronyc", "7F7F0101,,8,1796071094.8,-0.25,0,0,0,0,0,0,0,0,Normal", ClockState(True, "chrony", -0.25)),
        ("chronyc", "00000000,,0,0.0,0.0,0,0,0,0,0,1,1,0,Not synchronised", ClockState(False, "chrony", 0.0)),
        ("ntpq", "leap=00, offset=-1.5", ClockState(True, "ntpsec", -0.0015)),
        ("ntpq", "leap=11, offset=0.000000", ClockState(False, "ntpsec", 0.0)),
        ("ntpq", "leap=00", ClockState(True, "ntpsec", None)),
        ("timedatectl", "yes", ClockState(True, "systemd-timesyncd")),
        ("timedatectl", "no", ClockState(False, "systemd-timesyncd")),
    ],
)
def test_what_the_programs_print(program: str, text: str, expected: ClockState) -> None:
    assert clock_state(**{**NOBODY, program: says(text)}) == expected


@pytest.mark.parametrize("program", NOBODY)
@pytest.mark.parametrize("text", ["", "506 Cannot talk to daemon", "a,b,c,d,e,f,g,h,i,j,k,l,m,n", "leap=00x, offset=--", "maybe"])
def test_whatever_else_they_say_the_kernel_is_asked(program: str, text: str) -> None:
    state = clock_state(**{**NOBODY, program: says(text)})
    assert state.service in ("the kernel", "", "ntpsec")
    assert clock_state(**{**NOBODY, program: says("yes", code=1)}) == ntp._kernel()


@pytest.mark.parametrize(
    ("state", "right"),
    [
        (ClockState(True, "chrony", 0.9), True),
        (ClockState(True, "chrony", -1.1), False),
        (ClockState(False, "chrony", 0.0), False),
        (ClockState(None), False),
    ],
)
def test_the_record_is_an_alert_when_the_clock_is_not_right(state: ClockState, right: bool) -> None:
    record = clock_record(state, source=AuditSourceIdentification("gw1"), reporter=events.participant("gw1"), at=NOW)
    outcome = record.EventIdentification.EventOutcomeIndicator
    assert outcome == (EventOutcomeIndicator.SUCCESS if right else EventOutcomeIndicator.MINOR_FAILURE)
    assert str(state) in record.EventIdentification.EventOutcomeDescription


def test_the_watch_looks_at_once_and_again() -> None:
    told: list[ClockState] = []
    with ClockWatch(lambda state, _at: told.append(state), seconds=0.01, ask=lambda: ClockState(True, "chrony")):
        wait_until(lambda: len(told) >= 3, what="three looks")
    assert set(told) == {ClockState(True, "chrony")}
