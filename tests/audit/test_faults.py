"""Everything that was acknowledged arrives: senders and repository killed at random instants, a disk that is full.

A sender (spool and forwarder in one process, as in the gateway) appends records and tells each acknowledged one. It is killed with
SIGKILL at random instants and started again; every third time the repository is killed as well, and for a while its disk is full
(a limit on the size of its files). At the end every acknowledged record is in the repository, exactly once when those marked as
duplicates are left out, in the order of sending.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from securepacs.audit.repository import Criteria, Repository
from securepacs.audit.senders import Transport
from tests.support.audit import AT, LEE, TlsFiles
from tests.support.net import free_port
from tests.support.pki import make_pki

SENDER = """
import sys
from securepacs.audit import Forwarder, Spool
from securepacs.audit.senders import Transport, make_sender
from securepacs.tls import client_context
folder, transport, port, trust, cert, key, run, mode = sys.argv[1:]
from pathlib import Path
context = lambda: client_context(certificate=Path(cert), key=Path(key), trust=[Path(trust)])
sender = make_sender(Transport(transport), "localhost", int(port), context=context)
with Spool.open(folder, destinations=["repository"], segment_bytes=65536) as spool:
    forwarder = Forwarder([folder], sender, name="repository",
                          window_bytes=1_000_000, window_seconds=60.0, first_delay=0.05, longest_delay=0.2, poll_seconds=0.01)
    forwarder.start()
    if mode.startswith("drain "):
        print(forwarder.stop(drain_seconds=float(mode.split()[1])), flush=True)
        sys.exit()
    for number in range(1_000_000):
        record = b"<85>1 - h sender %s - - record %s.%d " % (run.encode(), run.encode(), number)
        spool.append(record.ljust(500, b"x"))
        print(number, flush=True)
"""


class World:
    """A repository on one port and a sender, both of which may die."""

    def __init__(self, folder: Path, seed: int, transport: Transport = Transport.TLS) -> None:
        self.folder = folder
        self.transport = transport
        self.files = TlsFiles(make_pki(folder / "pki"), folder / "pki")
        self.store = f"sqlite:///{folder}/audit.db"
        self.port = free_port()
        self.tcp_port = free_port()
        self.random = random.Random(seed)
        self.acknowledged: list[str] = []
        self.repository: subprocess.Popen[str] | None = None

    def begin_repository(self, *, limit: int | None = None) -> None:
        """Start `audit serve`; `limit` is the size no file of it may exceed."""
        arguments = [
            sys.executable, "-c", "from securepacs.cli.main import main; main()", "audit", "serve", "--listen",
            f"127.0.0.1:{self.port}", "--store", self.store, "--cert", str(self.files.server_cert), "--key",
            str(self.files.server_key), "--trust", str(self.files.trust),
        ]  # fmt: skip
        if self.transport is Transport.UNSAFE_TCP:
            arguments += ["--unsafe-tcp", f"127.0.0.1:{self.tcp_port}"]

        def limited() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        with (self.folder / "repository.log").open("a") as log:
            self.repository = subprocess.Popen(arguments, stderr=log, text=True, preexec_fn=limited)

    def end_repository(self, number: signal.Signals) -> None:
        assert self.repository is not None
        self.repository.send_signal(number)
        self.repository.wait(timeout=60)

    def send(self, run: int, mode: str = "send") -> subprocess.Popen[str]:
        tls = (self.files.trust, self.files.client_cert, self.files.client_key)
        port = self.port if self.transport is Transport.TLS else self.tcp_port
        where = (self.folder / "spool", self.transport, port, *tls)
        arguments = [sys.executable, "-c", SENDER, *map(str, where), str(run), mode]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def send_and_kill(self, run: int) -> None:
        """Run a sender, kill it at a random instant after its first record, and note what it told."""
        process = self.send(run)
        assert process.stdout is not None
        wanted = self.random.randrange(1, 400)
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if len(told) == wanted:
                process.kill()
        process.wait(timeout=60)
        process.stdout.close()
        self.acknowledged += [f"{run}.{int(line)}" for line in told if line.endswith("\n")]

    def drain(self, seconds: int = 60) -> bool:
        """Deliver what is in the spool; tell whether the repository confirmed all of it in time."""
        told, _ = self.send(0, f"drain {seconds}").communicate(timeout=120)
        return told == "True\n"

    def check(self) -> None:
        """Compare what arrived with what was acknowledged."""
        with Repository(self.store) as repository:
            found = repository.search(Criteria(text="record", newest_first=False, limit=100_000), reader=LEE, at=AT)
            transport = self.transport.removeprefix("unsafe-")
            arrived = sorted((each for each in found if each.transport == transport), key=lambda each: each.id)
            once = [repository.raw(each.id).split()[8].decode() for each in arrived if each.duplicate_of is None]
        assert len(set(once)) == len(once)
        assert [each for each in self.acknowledged if each not in set(once)] == []
        order = [tuple(map(int, each.split("."))) for each in once]
        assert order == sorted(order)


def run_world(world: World, kills: int) -> None:
    world.begin_repository()
    for run in range(1, kills + 1):
        world.send_and_kill(run)
        if run % 3 == 0:
            world.end_repository(signal.SIGKILL)
            world.begin_repository()
    assert world.drain()
    world.end_repository(signal.SIGTERM)
    world.check()


@pytest.mark.parametrize("transport", [Transport.TLS, Transport.UNSAFE_TCP])
def test_kill_9_at_some_random_instants(tmp_path: Path, transport: Transport) -> None:
    run_world(World(tmp_path, seed=1, transport=transport), 5)


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_kill_9_at_200_random_instants(tmp_path: Path) -> None:
    run_world(World(tmp_path, seed=2), 200)


def full_disk(world: World) -> None:
    world.begin_repository(limit=600_000)  # the schema fits, some hundred records, then nothing more


def stopped(world: World) -> None:
    world.begin_repository()
    world.end_repository(signal.SIGTERM)


@pytest.mark.parametrize("transport", [Transport.TLS, Transport.UNSAFE_TCP])
@pytest.mark.parametrize("trouble", [full_disk, stopped])
def test_a_repository_that_cannot_take_records_gets_them_later(
    tmp_path: Path, trouble: Callable[[World], None], transport: Transport
) -> None:
    world = World(tmp_path, seed=3, transport=transport)
    trouble(world)
    for run in (1, 2, 3):
        world.send_and_kill(run)
    assert not world.drain(3)
    if trouble is full_disk:
        assert "cannot be stored" in (tmp_path / "repository.log").read_text()
    assert world.repository is not None
    if world.repository.poll() is None:
        world.end_repository(signal.SIGKILL)
    world.begin_repository()
    assert world.drain()
    world.end_repository(signal.SIGTERM)
    world.check()
    assert len(world.acknowledged) > 3
