"""The shell of the gateway in one event loop with a relay of the test's choice, TLS clients, and archives that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from securepacs.audit.events import application_activity, participant
from securepacs.audit.message import AuditMessage, AuditSourceIdentification
from securepacs.pki import CertificateProfile
from securepacs.policy.subject import Subject, SubjectKind
from securepacs.tls import profile
from securepacs_proxy.commands import Audit, Close, Command, Destination, OpenUpstream, Send
from securepacs_proxy.connection import Limits, Shell
from securepacs_proxy.events import (
    AuditFailed,
    DataReceived,
    Event,
    HandshakeFailed,
    PeerAuthenticated,
    SessionEnded,
    Side,
    StreamEnded,
    UpstreamConnected,
    UpstreamUnreachable,
)
from securepacs_proxy.relay import Relay
from securepacs_proxy.sessions import Session
from securepacs_proxy.tls_bio import server_context
from tests.support.pki import TestPki

OnDurable = Callable[[BaseException | None], None]
SOURCE = AuditSourceIdentification("test")


def record(text: str = "something happened") -> AuditMessage:
    """A valid audit message to look for."""
    return application_activity(
        source=SOURCE, at=datetime.now(UTC), started=True, application=participant("test", host="127.0.0.1"), description=text
    )


class RecordingRelay:
    """Base of the relays of these tests: notes every event (data as bytes) and closes when the peer is refused or leaves."""

    def __init__(self, connection_id: str = "") -> None:
        self.id = connection_id
        self.events: list[Event | bytes] = []
        self.finished = False

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        self.events.append(bytes(event.data) if isinstance(event, DataReceived) else event)
        match event:
            case HandshakeFailed():
                self.finished = True
                return [Audit(record(event.reason)), Close(Side.REQUESTOR)]
            case StreamEnded() | SessionEnded() | AuditFailed() | UpstreamUnreachable():
                self.finished = True
                return [Close(Side.REQUESTOR), Close(Side.ACCEPTOR)]
        return self.on(event)

    def on(self, event: Event) -> list[Command]:
        return []

    def seen(self, kind: type[object]) -> list[Event | bytes]:
        return [event for event in self.events if isinstance(event, kind)]


class EchoRelay(RecordingRelay):
    """Gives the requestor back what it sends."""

    def on(self, event: Event) -> list[Command]:
        return [Send(Side.REQUESTOR, event.data)] if isinstance(event, DataReceived) else []


class TunnelRelay(RecordingRelay):
    """Forwards in both directions, as soon as the archive is connected; keeps no copy of the data."""

    destinations: tuple[Destination, ...] = ()

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        if isinstance(event, DataReceived):
            return self.on(event)
        return super().handle(event, at=at)

    def on(self, event: Event) -> list[Command]:
        match event:
            case PeerAuthenticated():
                self._early = bytearray()
                self._connected = False
                return [OpenUpstream(self.destinations)]
            case UpstreamConnected():
                self._connected = True
                return [Send(Side.ACCEPTOR, bytes(self._early))] if self._early else []
            case DataReceived() if not self._connected:
                self._early += event.data
            case DataReceived():
                return [Send(event.side.other, event.data)]
        return []


@dataclass
class MemorySpool:
    """Takes records at once, withholds them, or fails: the three states of a spool."""

    records: list[AuditMessage] = field(default_factory=list)
    withheld: list[OnDurable] = field(default_factory=list)
    withhold: bool = False
    failure: BaseException | None = None

    def submit(self, message: AuditMessage, on_durable: OnDurable, /) -> None:
        self.records.append(message)
        if self.withhold:
            self.withheld.append(on_durable)
        else:
            on_durable(self.failure)

    def let_go(self, error: BaseException | None = None) -> None:
        """Call back for everything withheld so far."""
        waiting, self.withheld = self.withheld, []
        for on_durable in waiting:
            on_durable(error)

    @property
    def texts(self) -> list[str]:
        return [message.EventIdentification.EventOutcomeDescription for message in self.records]


@dataclass
class OpenDoor:
    """Admits up to `limit` connections."""

    limit: int = 1000
    count: int = 0
    refused: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def admit(self) -> bool:
        return self.count < self.limit

    def turned_away(self, host: str) -> None:
        self.refused.append(host)

    def changed(self, count: int) -> None:
        self.count = count

    def opened(self, host: str) -> str:
        return ""

    def authenticated(self, subject: Subject) -> None:
        return

    def crashed(self, session: Session, reason: str) -> None:
        self.crashes.append(reason)

    def closed(self, host: str, subject: Subject | None) -> None:
        return


@dataclass
class Running:
    """A listening shell and what it works with."""

    shell: Shell
    port: int
    relays: list[RecordingRelay]
    spool: MemorySpool
    door: OpenDoor
    pki: TestPki

    def client_context(self, name: str = "ct1", *, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.pki.write_trust())
        if certificate:
            key, pem = self.pki.write_pem(self.pki.credential(CertificateProfile.MODALITY, name))
            context.load_cert_chain(pem, key)
        return context

    async def connect(self, name: str = "ct1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client_context(name), limit=1 << 20)


def subject(certificate: x509.Certificate) -> Subject:
    """Everybody with a certificate is a device."""
    name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    return Subject(SubjectKind.DEVICE, str(name), str(name))


@contextlib.asynccontextmanager
async def running(
    pki: TestPki,
    relay: Callable[[str], RecordingRelay],
    *,
    limits: Limits | None = None,
    identify: Callable[[x509.Certificate], Subject] = subject,
    limit: int = 1000,
) -> AsyncIterator[Running]:
    """Listen on a free port with one relay per connection; everything is cut at the end."""
    relays: list[RecordingRelay] = []

    def make_relay(connection_id: str) -> Relay:
        relays.append(relay(connection_id))
        return relays[-1]

    spool, door = MemorySpool(), OpenDoor(limit)
    shell = Shell(
        make_relay=make_relay, identify=lambda certificate, chain: identify(certificate), spool=spool, admission=door, limits=limits
    )
    context = server_context(
        profile("B.12"),
        credential=pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway"),
        trust=(pki.ca.root,),
        crls=(pki.ca.crl(at=pki.now), pki.ca.root_crl(at=pki.now)),
    )
    server = await asyncio.get_running_loop().create_server(lambda: shell.accept(context), "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    try:
        yield Running(shell, port, relays, spool, door, pki)
    finally:
        server.close()
        for connection in shell.connections:
            connection.cut()
        await until(lambda: not shell.connections)


async def until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Wait in the loop until `condition()` holds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("the condition did not come true")
        await asyncio.sleep(0.005)


def tunnel_to(port: int) -> Callable[[str], RecordingRelay]:
    """Return a factory of tunnels to a port of this machine."""

    def make(connection_id: str) -> TunnelRelay:
        relay = TunnelRelay(connection_id)
        relay.destinations = (Destination("127.0.0.1", port),)
        return relay

    return make


@contextlib.asynccontextmanager
async def archive(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> AsyncIterator[int]:
    """Listen as an archive on a free port; `serve` is called for each connection."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=64 * 1024)  # type: ignore[arg-type]
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
