"""Forwarding: octets unchanged, every destination at its own position, at least once whatever is killed."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from securepacs.audit.forwarder import Forwarder
from securepacs.audit.framing import FrameReader
from securepacs.audit.repository import Criteria, Receipt, Repository, RepositoryServer
from securepacs.audit.repository.forwarding import StoreReader
from securepacs.audit.segments import Cursor
from securepacs.audit.syslog import frame, to_syslog
from securepacs.audit.syslog_tcp import SyslogTcpSender
from securepacs.audit.syslog_tls import SyslogTlsSender
from tests.support.audit import AT, LEE, TlsFiles, all_messages, numbered
from tests.support.net import free_port, wait_for_port, wait_until
from tests.support.pki import make_pki

ODD = [
    b"\xef\xbb\xbf<85>1 - - - - - - mark",
    b"<13>Nov 22 11:00:00 host old format\r",
    b"no syslog at all \xff\x00\xfe",
    b"<85>1 - h a - - - two\nlines\n",
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><AuditMessage>&x;</AuditMessage>',
    b"<85>1 - - - - - - ".ljust(200_000, b"y"),
]
RAWS = [*ODD, *(to_syslog(each, hostname="h", app_name="a", procid="1") for each in all_messages().values())]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("pki")
    return TlsFiles(make_pki(folder), folder)


def opened(folder: Path, name: str) -> Repository:
    return Repository(f"sqlite:///{folder}/{name}.db", hostname=name)


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Repository]:
    with opened(tmp_path, "first") as repository:
        yield repository


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Repository]:
    with opened(tmp_path, "second") as repository:
        yield repository


def store(repository: Repository, raws: list[bytes]) -> list[int]:
    return repository.store(Receipt.of(raw, received=AT, transport="test") for raw in raws)


def kept(repository: Repository, *, duplicates: bool = False) -> list[bytes]:
    """Return what came over the network, in order of receipt."""
    found = repository.search(Criteria(limit=100_000), reader=LEE, at=AT)
    found = [each for each in found if each.transport != "internal" and (duplicates or each.duplicate_of is None)]
    return [repository.raw(each.id) for each in sorted(found, key=lambda each: each.id)]


def forwarder(repository: Repository, folder: Path, sender: object, name: str = "next") -> Forwarder:
    return Forwarder(
        [repository.supply(folder / "positions", name)],
        sender,  # type: ignore[arg-type]
        name=name,
        first_delay=0.02,
        longest_delay=0.1,
        poll_seconds=0.01,
    )


@pytest.mark.parametrize("at_most", [1, 1000, 10_000_000])
def test_the_store_is_read_in_order_and_read_on(first: Repository, at_most: int) -> None:
    reader = StoreReader(first._engine)
    assert reader.read() == []
    ids = store(first, RAWS)
    found = []
    while more := reader.read(at_most=at_most):
        found += more
    assert [(each.sequence, each.data) for each in found] == list(zip(ids, RAWS, strict=True))
    (later,) = store(first, [b"<85>later"])
    assert [(each.sequence, each.data) for each in reader.read()] == [(later, b"<85>later")]
    assert [each.data for each in StoreReader(first._engine, after=later - 1).read()] == [b"<85>later"]
    reader.close()


def test_more_than_one_look_takes_is_read(first: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securepacs.audit.repository.forwarding._LOOKED_AT", 3)
    raws = [b"<85>%d" % number for number in range(10)]
    store(first, [*raws[:2], *raws[:2] * 3, *raws[2:]])  # six repetitions are more than one look
    reader, found = StoreReader(first._engine), []
    while more := reader.read():
        found += [each.data for each in more]
    assert found == raws


def test_what_was_erased_is_passed_over(first: Repository) -> None:
    ids = store(first, [b"<85>one", b"<85>two", b"<85>three"])
    first.erase([ids[1]], actor=LEE, reason="a request", law="GDPR 17", at=AT)
    found = [each.data for each in StoreReader(first._engine).read()]
    assert found[:2] == [b"<85>one", b"<85>three"]
    assert len(found) == 3  # the record of the erasure itself


def test_octets_arrive_unchanged_and_the_position_is_kept(
    tmp_path: Path, first: Repository, second: Repository, files: TlsFiles
) -> None:
    store(first, RAWS)
    with RepositoryServer(second, host="127.0.0.1", port=0, context=files.server_context()) as server:
        running = forwarder(first, tmp_path, SyslogTlsSender("127.0.0.1", server.port, files.client_context()))
        running.start()
        wait_until(lambda: len(kept(second)) == len(RAWS), what="everything")
        late = store(first, [b"<85>late"])[0]
        assert running.stop(drain_seconds=20) is True
        assert kept(second) == [*RAWS, b"<85>late"]
        assert Cursor(tmp_path / "positions", "next").load() == late
        again = forwarder(first, tmp_path, SyslogTlsSender("127.0.0.1", server.port, files.client_context()))
        again.start()
        assert again.stop(drain_seconds=20) is True
    assert kept(second, duplicates=True) == [*RAWS, b"<85>late"]


def test_each_destination_has_its_own_position(tmp_path: Path, first: Repository, second: Repository, files: TlsFiles) -> None:
    away = free_port()
    store(first, RAWS)
    with RepositoryServer(second, host="127.0.0.1", port=0, context=files.server_context(), unsafe_tcp=("127.0.0.1", 0)) as server:
        here = forwarder(first, tmp_path, SyslogTcpSender("127.0.0.1", server.tcp_port), "here")
        gone = forwarder(first, tmp_path, SyslogTcpSender("127.0.0.1", away), "gone")
        for each in (here, gone):
            each.start()
        assert here.stop(drain_seconds=20) is True
        assert gone.stop(drain_seconds=0.1) is False
    assert kept(second) == RAWS
    assert Cursor(tmp_path / "positions", "gone").load() == 0
    assert Cursor(tmp_path / "positions", "here").load() == len(RAWS)


def test_two_that_forward_to_each_other_come_to_rest(
    tmp_path: Path, first: Repository, second: Repository, files: TlsFiles
) -> None:
    servers = [RepositoryServer(each, host="127.0.0.1", port=0, context=files.server_context()) for each in (first, second)]
    targets = [SyslogTlsSender("127.0.0.1", each.port, files.client_context()) for each in reversed(servers)]
    running = [
        forwarder(repository, tmp_path / str(number), target)
        for number, (repository, target) in enumerate(zip((first, second), targets, strict=True))
    ]
    for each in (*servers, *running):
        each.start()
    store(first, RAWS)
    wait_until(lambda: set(RAWS) <= set(kept(second)), what="the records in the second")
    wait_until(lambda: len(kept(first, duplicates=True)) > len(RAWS), what="their way back")
    before = first.count() + second.count()
    rounds = store(first, [b"<85>one more"])
    assert rounds
    wait_until(lambda: b"<85>one more" in kept(second), what="one more")
    for forwarding in running:
        assert forwarding.stop(drain_seconds=20)
    for server in servers:
        server.stop()
    for repository in (first, second):
        assert kept(repository).count(b"<85>one more") == 1
        assert kept(repository, duplicates=True).count(b"<85>one more") <= 2
    assert first.count() + second.count() < before + 100


class World:
    """A repository that forwards to two others; all of them may die."""

    def __init__(self, folder: Path, files: TlsFiles) -> None:
        self.folder = folder
        self.files = files
        self.ports = {name: free_port() for name in ("first", "second", "third", "tcp")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, name: str) -> None:
        files = self.files
        arguments = [
            "--listen", f"127.0.0.1:{self.ports[name]}", "--store", self.store(name), "--cert", str(files.server_cert),
            "--key", str(files.server_key), "--trust", str(files.trust),
        ]  # fmt: skip
        if name == "first":
            arguments += [
                "--forward", f"localhost:{self.ports['second']}", "--unsafe-forward", f"tcp://127.0.0.1:{self.ports['tcp']}",
                "--positions", str(self.folder / "positions"),
            ]  # fmt: skip
        if name == "third":
            arguments += ["--unsafe-tcp", f"127.0.0.1:{self.ports['tcp']}"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", "from securepacs.cli.main import main; main()", "audit", "serve", *arguments], stderr=log
            )
        wait_for_port(self.ports[name])

    def store(self, name: str) -> str:
        return f"sqlite:///{self.folder}/{name}.db"

    def end(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)
        self.processes[name].wait(timeout=60)

    def send(self, raws: list[bytes]) -> None:
        sender = SyslogTlsSender("localhost", self.ports["first"], self.files.client_context())
        sender.connect()
        sender.send(raws)
        assert sender.close() is True

    def received(self, name: str, *, duplicates: bool = False) -> list[bytes]:
        with Repository(self.store(name), must_exist=True) as repository:
            return [each for each in kept(repository, duplicates=duplicates) if b"Study" in each and b"1.2.3." in each]


def test_kill_9_of_any_of_them_loses_nothing(tmp_path: Path, files: TlsFiles) -> None:
    world, chance, sent = World(tmp_path, files), random.Random(4), list[bytes]()
    for name in ("second", "third", "first"):
        world.begin(name)
    try:
        for turn in range(6):
            raws = [
                to_syslog(numbered(1000 * turn + number), hostname="h", app_name="a", procid="1")
                for number in range(chance.randrange(50, 200))
            ]
            world.send(raws)
            sent += raws
            victim = ("first", "second", "third")[turn % 3]
            world.end(victim, signal.SIGKILL)
            world.begin(victim)
        for name in ("second", "third"):
            wait_until(lambda name=name: len(world.received(name)) >= len(sent), seconds=60, what=f"all at {name}")  # type: ignore[misc]
        world.end("first", signal.SIGTERM)
    finally:
        for process in world.processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)
    assert world.received("first") == sent
    assert world.received("second") == sent
    assert world.received("third") == sent


def test_what_rests_at_a_stop_is_sent_with_the_next_start(tmp_path: Path, first: Repository) -> None:
    """And to a receiver of other hands: what it gets are the frames of RFC 6587 3.4.1, nothing else."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    store(first, RAWS)
    running = forwarder(first, tmp_path, SyslogTcpSender("127.0.0.1", port))
    running.start()
    wait_until(lambda: bool(running.status.error), what="the notice that nobody is there")
    assert running.stop(drain_seconds=0.1) is False
    listener = socket.create_server(("127.0.0.1", port))
    running = forwarder(first, tmp_path, SyslogTcpSender("127.0.0.1", port))
    running.start()
    connection, _ = listener.accept()
    expected, data = b"".join(map(frame, RAWS)), b""
    while len(data) < len(expected):
        data += connection.recv(1 << 16)
    assert data == expected
    assert [each.data for each in FrameReader().feed(data)] == RAWS
    connection.close()
    listener.close()
    running.stop(drain_seconds=0.1)


def test_erasing_by_retention_does_not_wait_for_a_destination(tmp_path: Path, first: Repository) -> None:
    store(first, [b"<85>old"])
    reader = StoreReader(first._engine)
    assert first.retain(timedelta(days=800), actor=LEE, law="PIPA", at=AT + timedelta(days=900)) >= 1
    assert b"<85>old" not in [each.data for each in reader.read()]
