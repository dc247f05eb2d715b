"""The supervisor: binds, forks, replaces what dies, reloads, answers `gateway status`. One thread, nothing that waits.

SIGTERM and SIGINT drain and end, a second one ends at once; SIGHUP reloads.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from securepacs.errors import ConfigError, Unavailable
from securepacs_proxy.control import Message
from securepacs_proxy.reload import Snapshot, needs_restart, read_snapshot
from securepacs_proxy.workers.auditor import AUDITOR, Notes, auditor_main
from securepacs_proxy.workers.children import Child, fork
from securepacs_proxy.workers.desk import Desk
from securepacs_proxy.workers.listening import ConnectionCounts, bind
from securepacs_proxy.workers.moves import SharedMoves
from securepacs_proxy.workers.records import worker_name
from securepacs_proxy.workers.visits import SharedVisits
from securepacs_proxy.workers.worker import Place, contexts_of, worker_main

_log = logging.getLogger(__name__)
DRAIN_SECONDS = 30.0
_START_SECONDS = 60.0
_END_SECONDS = 20.0  # beyond the drain: the last aborts, the last records
_BACK_OFF = (0.1, 10.0)  # first and longest pause before a dead child is replaced
_STABLE_SECONDS = 30.0  # a child that lived so long is replaced at once
_TICK_SECONDS = 1.0
_OWN_DESCRIPTORS = 128


def run_gateway(config: Path, *, drain_seconds: float = DRAIN_SECONDS, ready_fd: int | None = None) -> None:
    """Run a gateway until it is told to stop. Raises ConfigError when it cannot start, Unavailable when a process does not come up.

    When it listens, `securepacs-proxy: ready on HOST:PORT` is written to stderr for each listener, and to `ready_fd`, which is then
    closed.
    """
    snapshot = read_snapshot(config)
    contexts_of(snapshot.listeners)  # TLS settings that OpenSSL refuses must be known before a port is opened
    _create_spool(snapshot)
    _raise_descriptor_limit(snapshot.config.limits.max_connections)
    sockets = bind((*snapshot.listeners, *snapshot.egress))
    try:
        Supervisor(snapshot, sockets, drain_seconds, ready_fd).run()
    finally:
        for sock in sockets:
            sock.close()


def _create_spool(snapshot: Snapshot) -> None:
    try:
        snapshot.config.audit.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{snapshot.config.audit.spool} cannot be made: {error.strerror}", key="audit.spool") from None


def _raise_descriptor_limit(connections: int) -> None:
    """Allow two sockets for each connection; one worker may come to hold them all."""
    needed = 2 * connections + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        _log.warning("%d open files are allowed, %d connections may need %d: raise LimitNOFILE", allowed, connections, needed)


class Supervisor:
    """The state of the parent process."""

    def __init__(self, snapshot: Snapshot, sockets: list[socket.socket], drain_seconds: float, ready_fd: int | None) -> None:
        self._snapshot = snapshot
        self._sockets = sockets
        self._drain_seconds = drain_seconds
        self._ready_fd = ready_fd
        self._counts = ConnectionCounts(snapshot.config.gateway.workers)
        self._moves = SharedMoves(snapshot.config.gateway.workers)
        self._visits = SharedVisits(snapshot.config.gateway.workers)
        self._children: dict[str, Child] = {}
        self._restarts: dict[str, tuple[float, float]] = {}  # name -> (when, pause)
        self._signals: list[int] = []
        self._stopping = False
        self._deadline = time.monotonic() + _START_SECONDS
        self._started = False
        self._notes = Notes()
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._desk = Desk(snapshot.config.audit.spool, self._on_request)

    def run(self) -> None:
        """Start everything, then serve events until the last child has ended."""
        self._catch_signals()
        gc.collect()
        gc.freeze()  # what all processes share is not touched by the collector, and so stays shared
        try:
            self._start(AUDITOR)
            self._notes.add("started", at=_now())
            self._send_notes()
            for number in range(self._snapshot.config.gateway.workers):
                self._start(worker_name(number))
            while self._children or not self._stopping:
                self._turn()
        finally:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGKILL)
            self._desk.close()
            signal.set_wakeup_fd(-1)
            os.close(self._wake_in)
            os.close(self._wake_out)

    # --- one turn of the loop -------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        poll = select.poll()
        by_descriptor = {child.pipe.fileno(): child for child in self._children.values()}
        for descriptor in (self._wake_in, *by_descriptor, *self._desk.descriptors):
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(_TICK_SECONDS * 1000):
            if descriptor == self._wake_in:
                os.read(self._wake_in, 4096)
            elif descriptor in by_descriptor:
                self._hear(by_descriptor[descriptor])
            else:
                self._desk.serve(descriptor)
        for number in self._drain_signals():
            self._on_signal(number)
        self._reap()
        self._check_time()

    def _hear(self, child: Child) -> None:
        for message in child.receive() or ():
            match message["type"]:
                case "ready":
                    child.ready = True
                    self._announce_when_ready()
                case "recorded":
                    self._notes.recorded(int(message["number"]))
                    self._end_when_quiet()
                case "status" | "ended":
                    self._desk.answer(int(message["id"]), child.name, message)
                case "reload-failed":
                    self._note("failed", f"{child.name} keeps the old configuration: {message['reason']}")
                case "reloaded":
                    _log.info("%s works by version %.12s", child.name, message["version"])

    def _check_time(self) -> None:
        now = time.monotonic()
        if now > self._deadline:
            if not self._started:
                raise Unavailable("a process of the gateway did not come up", hint="the lines above say why")
            if self._stopping:
                _log.error("children that did not end in time are killed: %s", ", ".join(self._children))
                for child in self._children.values():
                    os.kill(child.pid, signal.SIGKILL)
        for name, (when, _) in tuple(self._restarts.items()):
            if now >= when and name not in self._children and not self._stopping:
                self._start(name)
                self._send_notes()

    # --- children -------------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        pipes = (child.pipe.fileno() for child in self._children.values())
        close = [self._wake_in, self._wake_out, *self._desk.descriptors, *pipes]
        if self._ready_fd is not None:
            close.append(self._ready_fd)
        main: Callable[[socket.socket], int]
        if name == AUDITOR:
            main = functools.partial(auditor_main, snapshot=self._snapshot)
            close += [sock.fileno() for sock in self._sockets]
        else:
            place = Place(int(name.rpartition("-")[2]), self._sockets, self._counts, self._drain_seconds, self._moves, self._visits)
            main = functools.partial(worker_main, place=place, snapshot=self._snapshot)
        self._children[name] = fork(name, main, close=close, now=time.monotonic())

    def _reap(self) -> None:
        for child in tuple(self._children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._hear(child)
                self._bury(child, os.waitstatus_to_exitcode(status))

    def _bury(self, child: Child, code: int) -> None:
        del self._children[child.name]
        child.pipe.close()
        if child.name != AUDITOR:
            self._counts.set(int(child.name.rpartition("-")[2]), 0)
        if not self._started and not self._stopping:
            raise Unavailable(f"{child.name} could not start", hint="the lines above say why")
        if self._stopping:
            self._end_when_quiet()
            return
        lived = time.monotonic() - child.since
        _, pause = self._restarts.get(child.name, (0.0, 0.0))
        pause = _BACK_OFF[0] if lived > _STABLE_SECONDS else min(max(2 * pause, _BACK_OFF[0]), _BACK_OFF[1])
        self._restarts[child.name] = (time.monotonic() + pause, pause)
        self._note("failed", f"{child.name} (pid {child.pid}) ended with {code} and is replaced")

    def _announce_when_ready(self) -> None:
        if self._started or not all(child.ready for child in self._children.values()):
            return
        self._started = True
        lines = [f"securepacs-proxy: ready on {_address(sock)}\n" for sock in self._sockets]
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
        if self._ready_fd is not None:
            os.write(self._ready_fd, "".join(lines).encode())
            os.close(self._ready_fd)
            self._ready_fd = None

    # --- signals and orders ---------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda received, _frame: self._signals.append(received))

    def _drain_signals(self) -> list[int]:
        numbers, self._signals = self._signals, []
        return numbers

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop()

    def _stop(self) -> None:
        """First call: drain. Second call: now."""
        if self._stopping:
            self._deadline = time.monotonic()
            return
        self._stopping = True
        self._deadline = time.monotonic() + self._drain_seconds + _END_SECONDS
        for sock in self._sockets:
            sock.close()
        for child in self._workers():
            child.send({"type": "drain"})
        self._end_when_quiet()

    def _end_when_quiet(self) -> None:
        """When the last worker is gone, record the stop; when that is durable, end the auditor too."""
        auditor = self._children.get(AUDITOR)
        if not self._stopping or self._workers() or auditor is None:
            return
        if not self._notes.closed:
            self._notes.add("stopped", at=_now())
            self._notes.closed = True
            self._send_notes()
        elif not self._notes.waiting:
            auditor.send({"type": "drain"})

    def _reload(self) -> None:
        """Read everything anew; what is broken changes nothing and is recorded."""
        try:
            snapshot = read_snapshot(self._snapshot.path)
            contexts_of(snapshot.listeners)
        except ConfigError as error:
            self._note("failed", f"the new configuration is refused, the old one stays: {error.key}: {error.message}")
            return
        key = needs_restart(self._snapshot, snapshot)
        if key:
            self._note("failed", f"the new configuration is refused, the old one stays: {key} cannot change without a restart")
            return
        self._snapshot = snapshot
        for child in self._workers():
            child.send({"type": "reload", "version": snapshot.version})
        self._note("changed", f"the configuration was replaced, version {snapshot.version[:12]}")

    def _on_request(self, number: int, request: Message) -> list[str]:
        """Pass a request of the control socket on to all workers; return whom to wait for."""
        workers = self._workers()
        for child in workers:
            child.send({**request, "id": number})
        return [child.name for child in workers]

    def _workers(self) -> list[Child]:
        return [child for child in self._children.values() if child.name != AUDITOR]

    def _note(self, kind: str, text: str) -> None:
        (_log.info if kind == "changed" else _log.error)("%s", text)
        self._notes.add(kind, at=_now(), text=text)
        self._send_notes()

    def _send_notes(self) -> None:
        auditor = self._children.get(AUDITOR)
        if auditor is not None:
            for message in self._notes.unsent(auditor.pid):
                auditor.send(message)


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _now() -> datetime:
    return datetime.now(UTC)
