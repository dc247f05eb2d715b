"""One worker: an event loop that accepts, relays and reports; ends when told, when its supervisor is gone, or on SIGTERM."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

from cryptography import x509
from OpenSSL import SSL

from securepacs.audit.message import EventOutcomeIndicator
from securepacs.audit.sinks import SpoolSink
from securepacs.errors import AccessDenied, SecurePacsError
from securepacs.policy.subject import Subject
from securepacs_proxy.blocks import BlockList
from securepacs_proxy.blocks import from_dict as block_from_dict
from securepacs_proxy.connection import AuthenticatedPeer, InnerPort, RelayedConnection, Shell
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.dicom.relay import DicomRelay
from securepacs_proxy.dicom.settings import EGRESS
from securepacs_proxy.events import PolicyReplaced, SessionEnded
from securepacs_proxy.faults import fault
from securepacs_proxy.guard import AssociationPolicy
from securepacs_proxy.reload import Snapshot, read_snapshot
from securepacs_proxy.reverse import ReverseRelay
from securepacs_proxy.sessions import Session
from securepacs_proxy.ways import reception_refusal
from securepacs_proxy.workers.place import Place, peer_name
from securepacs_proxy.workers.records import (
    TurnedAwayRecorder,
    activity,
    ended_alert,
    ignored_roles_alert,
    open_spool,
    sink_of,
    turned_away_alert,
)
from securepacs_proxy.workers.settings import contexts_of, limits_of, relay_settings, reverse_settings
from securepacs_proxy.workers.standing import Standing

_log = logging.getLogger(__name__)
_GOODBYE_SECONDS = 8.0  # for the abort to be recorded and to reach the peer
_ORPHAN_DRAIN_SECONDS = 2.0
_TURNED_AWAY_EVERY = 60.0
_STOPPING = "the gateway is shutting down"
_ALARM_AGAIN = timedelta(hours=1)


def worker_main(pipe: socket.socket, *, place: Place, snapshot: Snapshot, blocks: BlockList) -> int:
    """Serve until told to stop; the exit code of the process. The first and the last record are those of its start and stop."""
    with open_spool(snapshot, place.name) as spool:
        sink = sink_of(spool)
        sink.emit(activity(snapshot, place.name, at=datetime.now(UTC), started=True))
        asyncio.run(Worker(place, snapshot, sink, blocks).serve(pipe))
        sink.emit(activity(snapshot, place.name, at=datetime.now(UTC), started=False))
    return 0


class Worker:
    """The loop's side of one worker: settings in force, the shell, orders from the supervisor."""

    def __init__(self, place: Place, snapshot: Snapshot, sink: SpoolSink, blocks: BlockList | None = None) -> None:
        self._place = place
        self._snapshot = snapshot
        self._sink = sink
        self._drain_seconds = place.drain_seconds
        self._staples: dict[int, bytes] = {}  # by listener
        self._contexts = self._build_contexts(snapshot)
        self._moves = place.moves.of(place.number)
        self._visits = place.visits.of(place.number)
        self._waiting = place.waiting.of(place.number, self._moves)
        self._relay_settings = relay_settings(snapshot, place.name, self._moves, self._visits)
        self._standing: Standing | None = None
        self._alarmed: dict[str, datetime] = {}
        self._blocks = blocks or BlockList()
        self._policies: WeakValueDictionary[str, AssociationPolicy] = WeakValueDictionary()  # by connection

    def _build_contexts(self, snapshot: Snapshot) -> list[SSL.Context]:
        """Return a context for every listener, which staples the latest OCSP answer about its certificate (RFC 6066 8)."""
        contexts = contexts_of(snapshot.listeners)
        for index, context in enumerate(contexts):
            context.set_ocsp_server_callback(lambda _connection, number: self._staples.get(number or 0, b""), index)
        return contexts

    async def serve(self, pipe: socket.socket) -> None:
        """Accept on the shared sockets and follow orders; returns when everything is drained."""
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()
        self._turned_away = TurnedAwayRecorder(functools.partial(loop.call_later, _TURNED_AWAY_EVERY), self._record_turned_away)
        self._shell = Shell(
            make_relay=self._make_relay,
            identify=lambda certificate, chain: self._snapshot.identify(certificate, chain),
            spool=self._sink,
            admission=self,
            client_tls=self._snapshot.client_tls,
            limits=limits_of(self._snapshot),
            verify=self._verify,
            make_reverse_relay=self._make_reverse_relay,
            deliveries=self._waiting,
            verify_destination=self._verify_destination,
        )
        self._waiting.listen(self._deliver, self._shell.now)
        loop.set_exception_handler(self._on_loop_fault)
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        reader, writer = await asyncio.open_unix_connection(sock=pipe)
        accepts = [functools.partial(self._accept, index) for index in range(len(self._place.sockets))]
        servers = [await loop.create_server(accept, sock=sock) for accept, sock in zip(accepts, self._place.sockets, strict=True)]
        self._answer = writer.write
        revocation = self._snapshot.config.revocation
        if revocation is not None:
            refresh = timedelta(seconds=revocation.refresh_seconds)
            self._standing = Standing(lambda: self._shell, refresh=refresh, send=self._tell, end=self._end_connection)
        self._answer(encode({"type": "ready"}))
        orders, stopping = loop.create_task(self._follow_orders(reader)), loop.create_task(self._stopping.wait())
        await asyncio.wait((orders, stopping), return_when=asyncio.FIRST_COMPLETED)
        if orders.done():
            orders.result()  # a worker that follows no orders would know of no block and no revocation: it fails
        for server in servers:
            server.close()
        await self._drain()
        for task in (orders, stopping):
            task.cancel()
        await asyncio.gather(orders, stopping, return_exceptions=True)
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

    def opened(self, host: str) -> str:
        """Count a connection of an address; return why it is one too many, "" when it is not."""
        limits, place = self._snapshot.config.limits, self._place
        minute = int(monotonic() // 60)  # one clock for all processes of a machine
        if limits.connections_per_minute_per_peer:
            if place.rates.estimate(host, window=minute) >= limits.connections_per_minute_per_peer:
                return "too many in a minute"
            place.rates.add(place.number, host, 1, window=minute)
        if limits.max_connections_per_peer and place.peers.estimate(host) >= limits.max_connections_per_peer:
            return "too many at the same time"
        place.peers.add(place.number, host, 1)
        return ""

    def authenticated(self, subject: Subject) -> None:
        """Count an association of a subject."""
        self._place.peers.add(self._place.number, peer_name(subject), 1)

    def closed(self, host: str, subject: Subject | None) -> None:
        """Take back what `opened` and `authenticated` counted; `host` is empty for a caller of an inner port."""
        if host:
            self._place.peers.add(self._place.number, host, -1)
        if subject is not None:
            self._place.peers.add(self._place.number, peer_name(subject), -1)

    def crashed(self, session: Session, reason: str) -> None:
        """Record a connection that was cut because its relay failed."""
        why, at = f"its relay failed: {reason}", self._shell.now()
        failure = EventOutcomeIndicator.SERIOUS_FAILURE
        self._shell.record(ended_alert(self._snapshot, self._place.name, at=at, session=session, reason=why, outcome=failure))

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _tell(self, message: Message) -> None:
        self._answer(encode(message))

    def _on_loop_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take over from asyncio, which would log the arguments of what failed; it closes the connection whose input failed."""
        error = context.get("exception")
        where = fault(error) if isinstance(error, BaseException) else "no exception"
        _log.critical("a step of the event loop of %s failed: %s", self._place.name, where)
        self._shell.sessions.totals.crashes += 1
        now = self._shell.now()
        if now - self._alarmed.get(where, now - _ALARM_AGAIN) >= _ALARM_AGAIN:
            self._alarmed[where] = now
            self._tell({"type": "alarm", "text": f"a step of the event loop of {self._place.name} failed: {where}", "bad": True})

    def _verify(self, peer: AuthenticatedPeer, answer: Callable[[str], None]) -> None:
        if peer.subject.ignored_roles:
            self._alarm_ignored_roles(peer)
        block, limit = self._blocks.of(peer.subject, peer.host), self._snapshot.config.limits.max_associations_per_subject
        if block is not None:
            answer(block.text)
        elif limit and self._place.peers.estimate(peer_name(peer.subject)) >= limit:
            answer(f"{peer.subject.user_id} has {limit} associations already, the limit of one subject")
        elif self._standing is None:
            answer("")
        else:
            self._standing.verify(peer, answer)

    def _verify_destination(self, chain: tuple[x509.Certificate, ...], answer: Callable[[str], None]) -> None:
        if self._standing is None:
            answer("")
        else:
            self._standing.verify_destination(chain, answer)

    def _alarm_ignored_roles(self, peer: AuthenticatedPeer) -> None:
        """One record a certificate and hour: the peer may reconnect every second."""
        now, fingerprint = self._shell.now(), peer.subject.certificate_sha256
        self._alarmed = {known: at for known, at in self._alarmed.items() if now - at < _ALARM_AGAIN}
        if fingerprint not in self._alarmed:
            self._alarmed[fingerprint] = now
            alert = ignored_roles_alert(self._snapshot, self._place.name, at=now, subject=peer.subject, host=peer.host)
            self._shell.record(alert)

    def _accept(self, number: int) -> asyncio.BaseProtocol:
        if number < len(self._contexts):
            return self._shell.accept(self._contexts[number])
        egress = self._snapshot.egress[number - len(self._contexts)]
        settings = replace(self._relay_settings, routes=egress.routes, direction=EGRESS)

        def identify(host: str) -> Subject:
            subject = egress.identify(host)
            block = self._blocks.of(subject, host)
            if block is not None:
                raise AccessDenied(block.text)
            return subject

        def make_relay(connection_id: str) -> DicomRelay:
            return DicomRelay(settings, self._policy_of(connection_id), association_id=connection_id)

        return self._shell.accept(InnerPort(identify, make_relay))

    def _make_relay(self, connection_id: str) -> DicomRelay:
        return DicomRelay(self._relay_settings, self._policy_of(connection_id), association_id=connection_id)

    def _make_reverse_relay(self, connection_id: str) -> ReverseRelay:
        policy, settings = self._policy_of(connection_id), reverse_settings(self._snapshot, self._place.name)

        def judge(subject: Subject, ae_title: str) -> str:
            policy.ae_titles = ("", ae_title)
            return policy.reception_refusal(subject, ae_title) or reception_refusal(self._snapshot.config, subject, ae_title)

        return ReverseRelay(settings, judge, association_id=connection_id)

    def _deliver(self, connection_id: str, inside: socket.socket) -> bool:
        """Hand an association to a connection that was offered for it; False when it is gone."""
        connection = self._shell.connection(connection_id)
        if connection is not None:
            connection.deliver(inside)
        return connection is not None

    def _policy_of(self, connection_id: str) -> AssociationPolicy:
        policy = self._policies[connection_id] = AssociationPolicy(self._snapshot.policy, self._blocks, self._snapshot.scopes)
        return policy

    def _ask_anew(self, connection: RelayedConnection) -> None:
        """Make a connection ask the policy and the blocks that are now in force."""
        policy = self._policies[connection.id]
        policy.policy, policy.blocks, policy.scopes = self._snapshot.policy, self._blocks, self._snapshot.scopes
        connection.handle(PolicyReplaced(policy))

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
            case "metrics":
                states = Counter(session.state.value for session in self._shell.sessions)
                totals = asdict(self._shell.sessions.totals)
                for session in self._shell.sessions:  # what live ones have moved so far is in no total yet
                    totals["received"] += session.received
                    totals["sent"] += session.sent
                self._answer(encode({"type": "metrics", "id": order["id"], "states": states, "totals": totals}))
            case "staple":
                self._staples[int(order["listener"])] = base64.b64decode(order["response"])
            case "end":
                count = self._end(str(order["session"]), f"{order['reason']} (by {order['by']})")
                self._answer(encode({"type": "ended", "id": order["id"], "count": count}))
            case "blocks":
                self._answer(encode({"type": "blocked", "id": order["id"], "count": self._block(order["blocks"])}))
            case "verdicts" if self._standing is not None:
                self._standing.learn(order)
            case unknown:
                _log.error("unknown order %s", unknown)

    def _status(self) -> Message:
        table = self._shell.sessions
        versions = {"configuration": self._snapshot.version, "revocation": self._standing.version if self._standing else None}
        return {"sessions": [self._row(session) for session in table], "totals": asdict(table.totals), "versions": versions}

    def _row(self, session: Session) -> Message:
        policy = self._policies.get(session.id)
        calling, called = policy.ae_titles if policy is not None else ("", "")
        return {**session.to_dict(), "calling_ae_title": calling, "called_ae_title": called}

    def _end(self, session: str, reason: str) -> int:
        chosen = [connection for connection in self._shell.connections if connection.id == session]
        for connection in chosen:
            self._end_connection(connection, reason)
        return len(chosen)

    def _block(self, rows: list[Message]) -> int:
        """Take a new list of blocks; end those it concerns, and make the others ask again. Returns how many were ended."""
        self._blocks = BlockList([block_from_dict(row) for row in rows])
        ended = 0
        for connection in self._shell.connections:
            subject, calling = connection.session.subject, self._policies[connection.id].ae_titles[0]
            if subject is None:  # it will be asked about when it is authenticated
                self._ask_anew(connection)
                continue
            block = self._blocks.of(subject, connection.session.peer.host) or self._blocks.of_ae(calling)
            if block is not None:
                self._end_connection(connection, block.text)
                ended += 1
            else:
                self._ask_anew(connection)
        return ended

    def _end_connection(self, connection: RelayedConnection, reason: str) -> None:
        at, session = self._shell.now(), connection.session
        self._shell.record(ended_alert(self._snapshot, self._place.name, at=at, session=session, reason=reason))
        connection.handle(SessionEnded(reason))

    def _reload(self, version: str) -> None:
        """Take new settings into use for new connections, and judge the live ones by them."""
        try:
            snapshot = read_snapshot(self._snapshot.path)
            contexts = self._build_contexts(snapshot)
        except SecurePacsError as error:
            self._answer(encode({"type": "reload-failed", "reason": error.message}))
            return
        if snapshot.version != version:
            self._answer(encode({"type": "reload-failed", "reason": "the files changed since the supervisor read them"}))
            return
        self._snapshot, self._contexts = snapshot, contexts
        self._relay_settings = relay_settings(snapshot, self._place.name, self._moves, self._visits)
        self._shell.client_tls = snapshot.client_tls
        self._shell.limits = limits_of(snapshot)
        for connection in self._shell.connections:
            subject, certificate = connection.session.subject, connection.certificate
            reason = (
                snapshot.verdict(certificate, subject, connection.chain) if subject is not None and certificate is not None else ""
            )
            if not reason and connection.destination:
                reason = snapshot.destination_verdict(connection.destination[0])
            if reason:
                self._end_connection(connection, reason)
            else:
                self._ask_anew(connection)
        self._answer(encode({"type": "reloaded", "version": version}))

    async def _drain(self) -> None:
        """Let associations end by themselves, then abort them, then cut them; who only waits for a delivery waits elsewhere."""
        self._waiting.close()
        for connection in self._shell.connections:
            if connection.waits:
                connection.handle(SessionEnded(_STOPPING))
        for patience, event in ((self._drain_seconds, SessionEnded(_STOPPING)), (_GOODBYE_SECONDS, None)):
            if not self._shell.connections:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), patience)
            if event is not None:
                self._shell.broadcast(event)
        for connection in self._shell.connections:
            connection.cut()
        await asyncio.sleep(0)
