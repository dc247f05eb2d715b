"""The supervisor: binds, forks, replaces what dies, reloads, answers `gateway status`. One thread, nothing that waits.

SIGTERM and SIGINT drain and end, a second one ends at once; SIGHUP reloads.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from securepacs.errors import ConfigError, Unavailable
from securepacs_proxy.control import Message
from securepacs_proxy.metrics import GatewayState, exposition
from securepacs_proxy.reload import Snapshot, needs_restart, read_snapshot
from securepacs_proxy.workers.auditor import AUDITOR, Notes, auditor_main
from securepacs_proxy.workers.children import Child, fork
from securepacs_proxy.workers.desk import Asked, Desk
from securepacs_proxy.workers.endpoint import Endpoint
from securepacs_proxy.workers.keep_out import MAX_REASON, KeepOut
from securepacs_proxy.workers.keeper import KEEPER, keeper_main
from securepacs_proxy.workers.ledger import put_on_record
from securepacs_proxy.workers.listening import ConnectionCounts, PeerCounts, address_of, bind
from securepacs_proxy.workers.moves import SharedMoves
from securepacs_proxy.workers.place import Place
from securepacs_proxy.workers.preparing import create_spool, raise_descriptor_limit
from securepacs_proxy.workers.records import worker_name
from securepacs_proxy.workers.reverse import SharedWaiting
from securepacs_proxy.workers.settings import contexts_of
from securepacs_proxy.workers.sharer import SHARER, sharer_main
from securepacs_proxy.workers.visits import SharedVisits
from securepacs_proxy.workers.worker import worker_main

_log = logging.getLogger(__name__)
DRAIN_SECONDS = 30.0
_START_SECONDS = 60.0
_END_SECONDS = 20.0  # beyond the drain: the last aborts, the last records
_BACK_OFF = (0.1, 10.0)  # first and longest pause before a dead child is replaced
_STABLE_SECONDS = 30.0  # a child that lived so long is replaced at once
_TICK_SECONDS = 1.0
_WITHOUT_PORTS = {AUDITOR: auditor_main, KEEPER: keeper_main, SHARER: sharer_main}


def run_gateway(config: Path, *, drain_seconds: float = DRAIN_SECONDS, ready_fd: int | None = None) -> None:
    """Run a gateway until it is told to stop. Raises ConfigError when it cannot start, Unavailable when a process does not come up.

    When it listens, `securepacs-proxy: ready on HOST:PORT` is written to stderr for each listener, and to `ready_fd`, then closed.
    """
    snapshot = read_snapshot(config)
    contexts_of(snapshot.listeners)  # TLS settings that OpenSSL refuses must be known before a port is opened
    create_spool(snapshot)
    raise_descriptor_limit(snapshot.config.limits.max_connections)
    sockets = bind((*snapshot.listeners, *snapshot.egress))
    try:
        Supervisor(snapshot, sockets, drain_seconds, ready_fd).run()
    finally:
        for sock in sockets:
            sock.close()


class Supervisor:
    """The state of the parent process."""

    def __init__(self, snapshot: Snapshot, sockets: list[socket.socket], drain_seconds: float, ready_fd: int | None) -> None:
        self._snapshot = snapshot
        self._sockets = sockets
        self._ports = [int(sock.getsockname()[1]) for sock in sockets]
        self._drain_seconds = drain_seconds
        self._ready_fd = ready_fd
        self._counts = ConnectionCounts(snapshot.config.gateway.workers)
        self._moves = SharedMoves(snapshot.config.gateway.workers)
        self._visits = SharedVisits(snapshot.config.gateway.workers)
        self._waiting = SharedWaiting(snapshot.config.gateway.workers)
        self._peers = PeerCounts(snapshot.config.gateway.workers)
        self._rates = PeerCounts(snapshot.config.gateway.workers)
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
        self._keep_out = KeepOut(snapshot.config, self._notes, self._send_to_workers, self._send_to)
        self._desk = Desk(snapshot.config.audit.spool, self._on_request)
        self._replaced: Counter[str] = Counter()
        self._reloads = Counter({"accepted": 0, "refused": 0})
        metrics, self._endpoint = snapshot.config.metrics, None
        if metrics is not None:
            self._endpoint = Endpoint(metrics, ask=self._ask_metrics, missing=self._missing, write=self._metrics)

    def run(self) -> None:
        """Start everything, then serve events until the last child has ended."""
        self._catch_signals()
        gc.collect()
        gc.freeze()  # what all processes share is not touched by the collector, and so stays shared
        try:
            self._start(AUDITOR)
            self._notes.add("started", at=_now())
            put_on_record(self._snapshot, self._notes, at=_now(), reason="start of the gateway")
            self._send_notes()
            for name in self._expected()[1:]:
                self._start(name)
            while self._children or not self._stopping:
                self._turn()
        finally:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGKILL)
            self._desk.close()
            if self._endpoint is not None:
                self._endpoint.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told twice: the end of the interpreter would die of the second
            os.close(self._wake_in)
            os.close(self._wake_out)

    def _turn(self) -> None:
        poll = select.poll()
        by_descriptor = {child.pipe.fileno(): child for child in self._children.values()}
        metrics = self._endpoint.descriptors if self._endpoint is not None else []
        for descriptor in (self._wake_in, *by_descriptor, *self._desk.descriptors, *metrics):
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(_TICK_SECONDS * 1000):
            if descriptor == self._wake_in:
                os.read(self._wake_in, 4096)
            elif descriptor in by_descriptor:
                self._hear(by_descriptor[descriptor])
            elif self._endpoint is not None and descriptor in metrics:
                self._endpoint.serve(descriptor)
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
                    self._keep_out.came_up(child.name)
                case "failed":
                    child.fault = str(message["fault"])
                case "recorded":
                    self._notes.recorded(int(message["number"]))
                    self._end_when_quiet()
                case "metrics":
                    if self._endpoint is not None:
                        self._endpoint.answer(int(message["id"]), child.name, message)
                case "status" | "ended" | "blocked":
                    self._desk.answer(int(message["id"]), child.name, message)
                case "inquire" | "in-use":
                    self._send_to(KEEPER, message)
                case "verdicts" | "staple":
                    self._send_to_workers(message)
                case "shared":
                    self._keep_out.follow(message, at=_now())
                    self._send_notes()
                case "alarm":
                    self._note("failed" if message["bad"] else "changed", str(message["text"]))
                case "reload-failed":
                    self._note("failed", f"{child.name} keeps the old configuration: {message['reason']}")
                case "reloaded":
                    _log.info("%s works by version %.12s", child.name, message["version"])

    def _check_time(self) -> None:
        now = time.monotonic()
        if self._endpoint is not None:
            self._endpoint.check_time()
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
        close += self._endpoint.descriptors if self._endpoint is not None else []
        if self._ready_fd is not None:
            close.append(self._ready_fd)
        main: Callable[[socket.socket], int]
        if name in _WITHOUT_PORTS:
            main = functools.partial(_WITHOUT_PORTS[name], snapshot=self._snapshot)
            close += [sock.fileno() for sock in self._sockets]
        else:
            place = Place(
                int(name.rpartition("-")[2]),
                self._sockets,
                counts=self._counts,
                peers=self._peers,
                rates=self._rates,
                moves=self._moves,
                visits=self._visits,
                waiting=self._waiting,
                drain_seconds=self._drain_seconds,
            )
            main = functools.partial(worker_main, place=place, snapshot=self._snapshot, blocks=self._keep_out.blocks)
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
        if child.name not in _WITHOUT_PORTS:
            number = int(child.name.rpartition("-")[2])
            self._counts.set(number, 0)
            self._peers.clear(number)
        if not self._started and not self._stopping:
            raise Unavailable(f"{child.name} could not start", hint="the lines above say why")
        if self._stopping:
            self._end_when_quiet()
            return
        self._replaced[child.name] += 1
        lived = time.monotonic() - child.since
        _, pause = self._restarts.get(child.name, (0.0, 0.0))
        pause = _BACK_OFF[0] if lived > _STABLE_SECONDS else min(max(2 * pause, _BACK_OFF[0]), _BACK_OFF[1])
        self._restarts[child.name] = (time.monotonic() + pause, pause)
        self._desk.gone(child.name)
        why = f": {child.fault}" if child.fault else ""
        self._note("failed", f"{child.name} (pid {child.pid}) ended with {code} and is replaced{why}")

    def _announce_when_ready(self) -> None:
        if self._started or not all(child.ready for child in self._children.values()):
            return
        self._started = True
        lines = [f"securepacs-proxy: ready on {address_of(sock)}\n" for sock in self._sockets]
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
            self._reload("", "signal SIGHUP")
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
        self._send_to_workers({"type": "drain"})
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
            for name in (KEEPER, SHARER):
                self._send_to(name, {"type": "drain"})
        elif not self._notes.waiting:
            auditor.send({"type": "drain"})

    def _reload(self, by: str, reason: str) -> Message:
        """Read everything anew; what is broken changes nothing and is recorded. Returns what is said to who asked."""
        try:
            snapshot = read_snapshot(self._snapshot.path)
            contexts_of(snapshot.listeners)
            key = needs_restart(self._snapshot, snapshot)
            if key:
                raise ConfigError("the setting cannot change without a restart", key=key)
            put_on_record(snapshot, self._notes, at=_now(), by=by, reason=reason)
        except ConfigError as error:
            return self._refuse_reload(error)
        self._snapshot = snapshot
        self._send_to(KEEPER, {"type": "reload"})
        self._send_to_workers({"type": "reload", "version": snapshot.version})
        self._reloads["accepted"] += 1
        self._note("changed", f"the configuration was replaced, version {snapshot.version[:12]}")
        return {"version": snapshot.version}

    def _refuse_reload(self, error: ConfigError) -> Message:
        self._reloads["refused"] += 1
        why = f"the new configuration is refused, the old one stays: {error.key}: {error.message}"
        self._note("failed", why)
        return {"error": why, "hint": error.hint}

    def _on_request(self, number: int, request: Message) -> Asked:
        """Follow a request of the control socket, or pass it on to all workers."""
        own: Message | None = None
        match request["type"]:
            case "blocks":
                return Asked(own=self._keep_out.order)
            case "reload":
                return Asked(own=self._reload(str(request["by"]), str(request.get("reason", ""))[:MAX_REASON] or "no reason given"))
            case "block" | "unblock":
                own = self._keep_out.change(request, at=_now())
                if "error" in own:
                    return Asked(own=own)
                self._send_notes()
                request = self._keep_out.order
        self._send_to_workers({**request, "id": number})
        return Asked([child.name for child in self._workers()], own)

    def _ask_metrics(self, number: int) -> list[str]:
        self._send_to_workers({"type": "metrics", "id": number})
        return [child.name for child in self._workers()]

    def _missing(self) -> list[str]:
        """Return what keeps the gateway from serving well; empty when it is ready."""
        missing = [name for name in self._expected() if name not in self._children or not self._children[name].ready]
        return ["stopping", *missing] if self._stopping else missing

    def _metrics(self, answers: Mapping[str, Message]) -> bytes:
        ports = zip(self._ports, self._snapshot.listeners, strict=False)  # inner ports, the last ones, have no certificate
        state = GatewayState(
            version=self._snapshot.version,
            workers=answers,
            children={name: (child.ready, self._replaced[name]) for name, child in self._children.items()},
            blocks=len(self._keep_out.blocks.blocks),
            expiry={port: one.credential.certificate.not_valid_after_utc for port, one in ports},
            reloads=self._reloads,
        )
        return exposition(state)

    def _expected(self) -> list[str]:
        """Return the names of all processes in the order in which they start; the workers last."""
        config = self._snapshot.config
        helpers = [name for name, section in ((KEEPER, config.revocation), (SHARER, config.shared)) if section is not None]
        return [AUDITOR, *helpers, *(worker_name(number) for number in range(config.gateway.workers))]

    def _workers(self) -> list[Child]:
        return [child for child in self._children.values() if child.name not in _WITHOUT_PORTS]

    def _send_to_workers(self, message: Message) -> None:
        for child in self._workers():
            child.send(message)

    def _send_to(self, name: str, message: Message) -> None:
        if name in self._children:
            self._children[name].send(message)

    def _note(self, kind: str, text: str) -> None:
        (_log.info if kind == "changed" else _log.error)("%s", text)
        self._notes.add(kind, at=_now(), text=text)
        self._send_notes()

    def _send_notes(self) -> None:
        auditor = self._children.get(AUDITOR)
        if auditor is not None:
            for message in self._notes.unsent(auditor.pid):
                auditor.send(message)


def _now() -> datetime:
    return datetime.now(UTC)
