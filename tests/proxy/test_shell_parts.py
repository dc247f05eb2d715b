"""Small parts of the processes: records of who was turned away, the supervisor's notes, shared counts, the control socket."""

from __future__ import annotations

import getpass
import socket
import stat
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securepacs.audit.message import AuditMessage
from securepacs.errors import ConfigError, Unavailable
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.reload import read_snapshot
from securepacs_proxy.status import SOCKET_NAME, ask, end_session, sessions
from securepacs_proxy.workers import auditor
from securepacs_proxy.workers.auditor import Notes
from securepacs_proxy.workers.desk import Asked, Desk
from securepacs_proxy.workers.listening import ConnectionCounts
from securepacs_proxy.workers.records import TurnedAwayRecorder
from tests.support.gateway import Gateway
from tests.support.pki import make_pki

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_flood_makes_one_record_at_once_and_one_a_minute() -> None:
    later: list[Callable[[], None]] = []
    written: list[tuple[str, Counter[str]]] = []
    recorder = TurnedAwayRecorder(later.append, lambda text, hosts: written.append((text, hosts)))
    recorder.count("192.0.2.1")
    for number in range(1000):
        recorder.count(f"198.51.100.{number % 50}")
    assert [hosts.total() for _, hosts in written] == [1]
    later.pop()()
    assert [hosts.total() for _, hosts in written] == [1, 1000]
    assert len(written[1][1]) == TurnedAwayRecorder.MAX_HOSTS + 1  # the rest is counted together
    assert written[1][1]["others"] > 0
    later.pop()()  # a quiet minute: no record, and the next one is at once again
    assert len(written) == 2
    recorder.count("192.0.2.1")
    assert len(written) == 3


def test_notes_wait_for_an_auditor_and_are_told_to_its_successor() -> None:
    notes = Notes()
    notes.add("started", at=AT)
    notes.add("failed", at=AT, text="broken")
    assert [message["number"] for message in notes.unsent(100)] == [1, 2]
    assert notes.unsent(100) == []
    notes.recorded(1)
    assert notes.waiting
    assert [message["text"] for message in notes.unsent(101)] == ["broken"]  # a new process
    notes.recorded(2)
    notes.recorded(2)
    assert not notes.waiting


def test_counts_are_those_of_all_workers() -> None:
    """That other processes see them, test_workers shows with the limit of connections."""
    counts = ConnectionCounts(3)
    counts.set(1, 40)
    counts.set(0, 2)
    assert counts.total() == 42
    counts.set(1, 0)
    assert counts.total() == 2


class DeskKeeper:
    """A desk served by a thread, with workers that answer as they are told."""

    def __init__(self, folder: Path, answers: dict[str, Message]) -> None:
        self.requests: list[Message] = []
        self._answers = answers
        self.desk = Desk(folder, self._ask)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _ask(self, number: int, request: Message) -> Asked:
        user = request.pop("by")
        assert user == getpass.getuser()
        self.requests.append(request)
        self._number = number
        return Asked(list(self._answers))

    def _serve(self) -> None:
        import select

        while not self._end.is_set():
            poll = select.poll()
            for descriptor in self.desk.descriptors:
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(20):
                before = len(self.requests)
                self.desk.serve(descriptor)
                if len(self.requests) > before:
                    for worker, message in self._answers.items():
                        self.desk.answer(self._number, worker, message)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self.desk.close()


def test_sessions_of_all_workers_are_joined_oldest_first(tmp_path: Path) -> None:
    keeper = DeskKeeper(
        tmp_path,
        {
            "worker-0": {"type": "status", "sessions": [{"id": "b", "since": "2026-01-02"}]},
            "worker-1": {"type": "status", "sessions": [{"id": "a", "since": "2026-01-01"}, {"id": "c", "since": "2026-01-03"}]},
        },
    )
    try:
        rows = sessions(tmp_path)
        assert [(row["id"], row["worker"]) for row in rows] == [("a", "worker-1"), ("b", "worker-0"), ("c", "worker-1")]
    finally:
        keeper.close()


@pytest.mark.parametrize(("counts", "found"), [((0, 1), True), ((0, 0), False)])
def test_a_session_is_ended_by_the_worker_that_has_it(tmp_path: Path, counts: tuple[int, int], found: bool) -> None:
    answers: dict[str, Message] = {f"worker-{number}": {"type": "ended", "count": count} for number, count in enumerate(counts)}
    keeper = DeskKeeper(tmp_path, answers)
    try:
        assert end_session(tmp_path, "s1", reason="card lost") is found
        assert keeper.requests == [{"type": "end", "session": "s1", "reason": "card lost"}]
    finally:
        keeper.close()


def test_no_workers_is_an_answer_too(tmp_path: Path) -> None:
    keeper = DeskKeeper(tmp_path, {})
    try:
        assert sessions(tmp_path) == []
    finally:
        keeper.close()


@pytest.mark.parametrize("request_line", [encode({"type": "verdicts"}), b"not json\n", b"x" * 10_000])
def test_what_is_no_request_is_shown_the_door(tmp_path: Path, request_line: bytes) -> None:
    keeper = DeskKeeper(tmp_path, {})
    try:
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(10)
            visitor.connect(str(tmp_path / SOCKET_NAME))
            visitor.sendall(request_line)
            assert hung_up(visitor)
        assert keeper.requests == []
    finally:
        keeper.close()


def hung_up(visitor: socket.socket) -> bool:
    try:
        return visitor.recv(10) == b""
    except ConnectionResetError:  # closed with some of the request unread
        return True


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    keeper = DeskKeeper(folder, {})
    try:
        assert sessions(folder) == []
        assert stat.S_IMODE((folder / SOCKET_NAME).stat().st_mode) == 0o600
    finally:
        keeper.close()


def test_a_stale_socket_is_replaced_and_a_living_one_respected(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / SOCKET_NAME))
    stale.close()
    keeper = DeskKeeper(tmp_path, {})
    try:
        with pytest.raises(ConfigError, match="is running"):
            Desk(tmp_path, lambda *_: Asked())
    finally:
        keeper.close()
    assert not (tmp_path / SOCKET_NAME).exists()


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        Desk(tmp_path, lambda *_: Asked())
    assert (tmp_path / SOCKET_NAME).read_text() == "precious"


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no gateway answers"):
        ask(tmp_path, {"type": "status"})
    with pytest.raises(Unavailable):
        ask(tmp_path / "absent", {"type": "status"})


class FullSpool:
    """Takes no record until it has been asked `refusals` times."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.taken: list[AuditMessage] = []

    def emit(self, message: AuditMessage) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise Unavailable("the audit spool is full")
        self.taken.append(message)


def test_the_auditor_goes_on_delivering_while_its_own_record_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", 104)})
    gateway.write()
    spool = FullSpool(refusals=2)
    monkeypatch.setattr(auditor, "sink_of", lambda _spool: spool)
    monkeypatch.setattr(auditor, "_RETRY_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    thread = threading.Thread(target=auditor.auditor_main, args=(theirs,), kwargs={"snapshot": read_snapshot(gateway.config)})
    thread.start()
    notes, lines, heard = Notes(), LineReader(), []
    notes.add("failed", at=AT, text="the old one stays")
    for message in notes.unsent(1):
        ours.sendall(encode(message))
    while not heard or heard[-1]["type"] != "recorded":
        heard += lines.feed(ours.recv(4096))
    ours.sendall(encode({"type": "drain"}))
    thread.join(20)
    assert not thread.is_alive()
    assert [message["type"] for message in heard] == ["ready", "recorded"]
    taken = [message.EventIdentification.EventTypeCode[0].originalText for message in spool.taken]
    assert sorted(taken) == ["Network Configuration", "Software Configuration"]  # the state of the clock, and what was noted
    assert caplog.text.count("a record of the supervisor waits") == 2
    ours.close()
    theirs.close()
