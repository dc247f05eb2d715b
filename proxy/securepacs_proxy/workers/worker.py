"""One worker: an event loop that accepts, relays and reports; ends when told, when its supervisor is gone, or on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from OpenSSL import SSL

from securepacs.audit.sinks import SpoolSink
from securepacs.errors import SecurePacsError
from securepacs_proxy.connection import InnerPort, Limits, RelayedConnection, Shell
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.dicom.budget import Visits
from securepacs_proxy.dicom.moves import MoveBook
from securepacs_proxy.dicom.relay import DicomRelay, RelaySettings
from securepacs_proxy.dicom.settings import EGRESS
from securepacs_proxy.events import PolicyReplaced, SessionEnded
from securepacs_proxy.reload import Listener, Snapshot, read_snapshot
from securepacs_proxy.tls_bio import server_context
from securepacs_proxy.ways import ingress_routes
from securepacs_proxy.workers.listening import ConnectionCounts
from securepacs_proxy.workers.moves import SharedMoves
from securepacs_proxy.workers.records import (
    TurnedAwayRecorder,
    activity,
    ended_alert,
    open_spool,
    sink_of,
    turned_away_alert,
    worker_name,
)
from securepacs_proxy.workers.visits import SharedVisits

_log = logging.getLogger(__name__)
_GOODBYE_SECONDS = 8.0  # for the abort to be recorded and to reach the peer
_ORPHAN_DRAIN_SECONDS = 2.0
_TURNED_AWAY_EVERY = 60.0


def contexts_of(listeners: Sequence[Listener]) -> list[SSL.Context]:
    """Build a TLS context for every listener. Raises ConfigError."""
    return [
        server_context(listener.profile, credential=listener.credential, trust=listener.trust, crls=listener.crls)
        for listener in listeners
    ]


@dataclass(frozen=True)
class Place:
    """What a worker shares with the others: its number, the listening sockets, counts, moves and visits; and how long it may drain.

    The sockets are those of the listeners, then those of the inner ports.
    """

    number: int
    sockets: Sequence[socket.socket]
    counts: ConnectionCounts
    drain_seconds: float
    moves: SharedMoves
    visits: SharedVisits

    @property
    def name(self) -> str:
        """The name of the worker in records and in the log."""
        return worker_name(self.number)


def worker_main(pipe: socket.socket, *, place: Place, snapshot: Snapshot) -> int:
    """Serve until told to stop; the exit code of the process. The first and the last record are those of its start and stop."""
    with open_spool(snapshot, place.name) as spool:
        sink = sink_of(spool)
        sink.emit(activity(snapshot, place.name, at=datetime.now(UTC), started=True))
        asyncio.run(Worker(place, snapshot, sink).serve(pipe))
        sink.emit(activity(snapshot, place.name, at=datetime.now(UTC), started=False))
    return 0


class Worker:
    """The loop's side of one worker: settings in force, the shell, orders from the supervisor."""

    def __init__(self, place: Place, snapshot: Snapshot, sink: SpoolSink) -> None:
        self._place = place
        self._snapshot = snapshot
        self._sink = sink
        self._drain_seconds = place.drain_seconds
        self._contexts = contexts_of(snapshot.listeners)
        self._moves = place.moves.of(place.number)
        self._visits = place.visits.of(place.number)
        self._relay_settings = relay_settings(snapshot, place.name, self._moves, self._visits)

    async def serve(self, pipe: socket.socket) -> None:
        """Accept on the shared sockets and follow orders; returns when everything is drained."""
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()
        self._turned_away = TurnedAwayRecorder(functools.partial(loop.call_later, _TURNED_AWAY_EVERY), self._record_turned_away)
        self._shell = Shell(
            make_relay=self._make_relay,
            identify=lambda certificate: self._snapshot.identify(certificate),
            spool=self._sink,
            admission=self,
            client_tls=self._snapshot.client_tls,
            limits=_limits(self._snapshot),
        )
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        reader, writer = await asyncio.open_unix_connection(sock=pipe)
        accepts = [functools.partial(self._accept, index) for index in range(len(self._place.sockets))]
        servers = [await loop.create_server(accept, sock=sock) for accept, sock in zip(accepts, self._place.sockets, strict=True)]
        self._answer = writer.write
        self._answer(encode({"type": "ready"}))
        orders = loop.create_task(self._follow_orders(reader))
        await self._stopping.wait()
        for server in servers:
            server.close()
        await self._drain()
        orders.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await orders
        writer.close()

    # --- admission, asked by the shell ----------------------------------------------------------------------------------

    def admit(self) -> bool:
        """Say whether one more connection may come, over all workers."""
        return not self._stopping.is_set() and self._place.counts.total() < self._snapshot.config.limits.max_connections

    def turned_away(self, host: str) -> None:
        """Record a connection that was not admitted, together with others."""
        self._turned_away.count(host)

    def changed(self, count: int) -> None:
        """Keep the count that all workers see."""
        self._place.counts.set(self._place.number, count)
        (self._empty.clear if count else self._empty.set)()

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _accept(self, number: int) -> asyncio.BaseProtocol:
        if number < len(self._contexts):
            return self._shell.accept(self._contexts[number])
        egress = self._snapshot.egress[number - len(self._contexts)]
        settings = replace(self._relay_settings, routes=egress.routes, direction=EGRESS)

        def make_relay(connection_id: str) -> DicomRelay:
            return DicomRelay(settings, self._snapshot.policy, association_id=connection_id)

        return self._shell.accept(InnerPort(egress.identify, make_relay))

    def _make_relay(self, connection_id: str) -> DicomRelay:
        return DicomRelay(self._relay_settings, self._snapshot.policy, association_id=connection_id)

    def _record_turned_away(self, text: str, hosts: Counter[str]) -> None:
        alert = turned_away_alert(self._snapshot, self._place.name, at=self._shell.now(), text=text, hosts=hosts)
        self._shell.record(alert)

    async def _follow_orders(self, reader: asyncio.StreamReader) -> None:
        lines = LineReader()
        while data := await reader.read(65_536):
            for order in lines.feed(data):
                self._order(order)
        _log.error("%s lost its supervisor and stops", self._place.name)
        self._drain_seconds = min(self._drain_seconds, _ORPHAN_DRAIN_SECONDS)
        self._stopping.set()

    def _order(self, order: Message) -> None:
        match order["type"]:
            case "drain":
                self._stopping.set()
            case "reload":
                self._reload(str(order["version"]))
            case "status":
                self._answer(encode({"type": "status", "id": order["id"], **self._status()}))
            case "end":
                count = self._end(str(order["session"]), str(order["reason"]))
                self._answer(encode({"type": "ended", "id": order["id"], "count": count}))
            case unknown:
                _log.error("unknown order %s", unknown)

    def _status(self) -> Message:
        table = self._shell.sessions
        return {"sessions": [session.to_dict() for session in table], "totals": asdict(table.totals)}

    def _end(self, session: str, reason: str) -> int:
        chosen = [connection for connection in self._shell.connections if connection.id == session]
        for connection in chosen:
            self._end_connection(connection, reason)
        return len(chosen)

    def _end_connection(self, connection: RelayedConnection, reason: str) -> None:
        at, session = self._shell.now(), connection.session
        self._shell.record(ended_alert(self._snapshot, self._place.name, at=at, session=session, reason=reason))
        connection.handle(SessionEnded(reason))

    def _reload(self, version: str) -> None:
        """Take new settings into use for new connections, and judge the live ones by them."""
        try:
            snapshot = read_snapshot(self._snapshot.path)
            contexts = contexts_of(snapshot.listeners)
        except SecurePacsError as error:
            self._answer(encode({"type": "reload-failed", "reason": error.message}))
            return
        if snapshot.version != version:
            self._answer(encode({"type": "reload-failed", "reason": "the files changed since the supervisor read them"}))
            return
        self._snapshot, self._contexts = snapshot, contexts
        self._relay_settings = relay_settings(snapshot, self._place.name, self._moves, self._visits)
        self._shell.client_tls = snapshot.client_tls
        self._shell.limits = _limits(snapshot)
        for connection in self._shell.connections:
            subject, certificate = connection.session.subject, connection.certificate
            reason = snapshot.verdict(certificate, subject) if subject is not None and certificate is not None else ""
            if reason:
                self._end_connection(connection, reason)
            else:
                connection.handle(PolicyReplaced(snapshot.policy))
        self._answer(encode({"type": "reloaded", "version": version}))

    async def _drain(self) -> None:
        """Let associations end by themselves, then abort them, then cut them."""
        for patience, event in ((self._drain_seconds, SessionEnded("the gateway is shutting down")), (_GOODBYE_SECONDS, None)):
            if not self._shell.connections:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), patience)
            if event is not None:
                self._shell.broadcast(event)
        for connection in self._shell.connections:
            connection.cut()
        await asyncio.sleep(0)


def _limits(snapshot: Snapshot) -> Limits:
    return Limits(handshake_seconds=snapshot.config.limits.handshake_seconds)


def relay_settings(snapshot: Snapshot, process: str, moves: MoveBook, visits: Visits) -> RelaySettings:
    """Return what the relays of a worker need to know of the configuration, for what peers ask of the archive."""
    config, limits = snapshot.config, snapshot.config.limits
    return RelaySettings(
        gateway=config.gateway.name,
        ae_title=config.gateway.ae_title,
        source=snapshot.source(process),
        routes=ingress_routes(config),
        max_pdu_length=limits.max_pdu_length,
        command_bytes=limits.command_bytes,
        head_bytes=limits.head_bytes,
        association_seconds=limits.association_seconds,
        idle_seconds=limits.idle_seconds,
        moves=moves,
        visits=visits,
        identity_rules=snapshot.identity_rules,
    )
