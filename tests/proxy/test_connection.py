"""The shell around a relay, over real sockets and TLS: order, barrier, back-pressure, limits, ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509

from securepacs.errors import AccessDenied
from securepacs.policy.subject import Subject
from securepacs_proxy.commands import Audit, Close, Command, Destination, OpenUpstream, Send, SetTimer
from securepacs_proxy.connection import Limits, ends, relayed
from securepacs_proxy.events import (
    AuditFailed,
    ConnectionAccepted,
    DataReceived,
    Event,
    HandshakeFailed,
    PeerAuthenticated,
    SessionEnded,
    Side,
    StreamEnded,
    TimerExpired,
    UpstreamConnected,
    UpstreamUnreachable,
)
from securepacs_proxy.sessions import SessionState
from tests.support.net import free_port
from tests.support.pki import TestPki, make_pki
from tests.support.shell import EchoRelay, RecordingRelay, Running, TunnelRelay, archive, record, running, tunnel_to, until


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


def run(scenario: Coroutine[object, object, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(90):
            await scenario

    asyncio.run(limited())


async def settled(gateway: Running) -> None:
    """Wait until no connection is left."""
    await until(lambda: not gateway.shell.connections)
    assert len(gateway.shell.sessions) == 0


# --- the life of a connection -------------------------------------------------------------------------------------------


def test_events_come_in_order_and_the_session_is_kept(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            (session,) = gateway.shell.sessions
            assert (session.received, session.sent, session.state) == (5, 5, SessionState.AUTHENTICATED)
            assert session.to_dict()["user"] == "ct1"
            writer.close()
            await settled(gateway)
            kinds = [type(event) for event in gateway.relays[0].events]
            assert kinds == [ConnectionAccepted, PeerAuthenticated, bytes, StreamEnded]
            authenticated = gateway.relays[0].events[1]
            assert isinstance(authenticated, PeerAuthenticated)
            assert authenticated.subject.name == "ct1"
            assert (authenticated.peer.host, authenticated.peer.tls_version) == ("127.0.0.1", "TLSv1.3")
            assert authenticated.peer.cipher
            totals = gateway.shell.sessions.totals
            assert (totals.accepted, totals.authenticated, totals.received, totals.sent) == (1, 1, 5, 5)

    run(scenario())


def test_data_sent_right_behind_the_handshake_is_not_lost(pki: TestPki) -> None:
    """In TLS 1.3 a client's Finished and its first data may come in one segment."""

    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = gateway.client_context().wrap_bio(incoming, outgoing)
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            tls.write(b"early bird")
            writer.write(outgoing.read())
            await until(lambda: b"early bird" in gateway.relays[0].events)
            writer.close()

    run(scenario())


def test_tls_data_in_single_bytes(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = gateway.client_context().wrap_bio(incoming, outgoing)
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)

            async def flush() -> None:
                for byte in outgoing.read():
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0)

            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await flush()
                    incoming.write(await reader.read(65536))
            tls.write(b"slow but sure")
            await flush()
            await until(lambda: b"slow but sure" in gateway.relays[0].events)
            writer.close()

    run(scenario())


# --- who may not come in ------------------------------------------------------------------------------------------------


def refused(gateway: Running, number: int = 0) -> str:
    (event,) = gateway.relays[number].seen(HandshakeFailed)
    assert isinstance(event, HandshakeFailed)
    return event.reason


def test_without_a_certificate(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            context = gateway.client_context(certificate=False)
            with contextlib.suppress(ssl.SSLError, ConnectionError):  # TLS 1.3 tells the client after its own handshake
                reader, _ = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
                await reader.read()
            await settled(gateway)
            assert refused(gateway) == "no certificate was shown"
            assert gateway.spool.texts == ["no certificate was shown"]
            assert gateway.shell.sessions.totals.handshakes_failed == 1

    run(scenario())


def test_a_certificate_nobody_enrolled(pki: TestPki) -> None:
    def stranger(certificate: x509.Certificate) -> Subject:
        raise AccessDenied("the device is not enrolled")

    async def scenario() -> None:
        async with running(pki, EchoRelay, identify=stranger) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"let me in")
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert await reader.read() == b""
            await settled(gateway)
            assert refused(gateway) == "the device is not enrolled"
            assert not gateway.relays[0].seen(bytes)
            assert not gateway.relays[0].seen(PeerAuthenticated)

    run(scenario())


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not TLS: an HTTP request"),
        (b"\x01\x00\x00\x00\x00\x44\x00\x01" + bytes(66), "not TLS: an unencrypted DICOM association request"),
        (random.Random(7).randbytes(4000), "not TLS"),
    ],
)
def test_not_tls(pki: TestPki, opening: bytes, reason: str) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(opening)
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()  # at most an alert; then the end
                assert answer[:1] in (b"", b"\x15")
            writer.close()
            await settled(gateway)
            assert refused(gateway) == reason

    run(scenario())


def test_closed_during_the_handshake(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"\x16\x03\x01")
            writer.close()
            await settled(gateway)
            assert refused(gateway) == "the connection was closed during the handshake"

    run(scenario())


def test_a_silent_client_is_timed_out_and_delays_nobody(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay, limits=Limits(handshake_seconds=2.0)) as gateway:
            silent = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(20)]
            await until(lambda: len(gateway.relays) == 20)
            reader, writer = await gateway.connect()
            writer.write(b"served")
            assert await reader.readexactly(6) == b"served"
            assert not any(relay.seen(HandshakeFailed) for relay in gateway.relays[:20])
            for quiet, _ in silent:
                assert await quiet.read() == b""
            writer.close()
            for _, quiet_writer in silent:
                quiet_writer.close()
            await settled(gateway)
            assert refused(gateway) == "the handshake was not complete after 2 s"

    run(scenario())


def test_one_connection_too_many_is_closed_at_once(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay, limit=2) as gateway:
            kept = [await gateway.connect() for _ in range(2)]
            reader, extra = await asyncio.open_connection("127.0.0.1", gateway.port)
            assert await reader.read() == b""
            extra.close()
            assert gateway.door.refused == ["127.0.0.1, too many connections"]
            assert len(gateway.relays) == 2
            for _, writer in kept:
                writer.close()
            await settled(gateway)
            reader, writer = await gateway.connect()
            writer.write(b"room again")
            assert await reader.readexactly(10) == b"room again"
            writer.close()

    run(scenario())


# --- the archive's side -------------------------------------------------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_a_tunnel_carries_both_ways_and_both_ends_close(pki: TestPki) -> None:
    async def scenario() -> None:
        async with archive(echo) as port, running(pki, tunnel_to(port)) as gateway:
            reader, writer = await gateway.connect()
            for size in (1, 16_384, 300_000, 7):
                data = os.urandom(size)
                writer.write(data)
                assert await reader.readexactly(size) == data
            (session,) = gateway.shell.sessions
            assert (session.state, session.archive) == (SessionState.RELAYING, f"127.0.0.1:{port}")
            writer.close()
            await settled(gateway)

    run(scenario())


def test_the_second_destination_serves_when_the_first_does_not_answer(pki: TestPki) -> None:
    async def scenario() -> None:
        async with archive(echo) as port:
            factory = tunnel_to(port)

            def with_dead_first(connection_id: str) -> RecordingRelay:
                relay = factory(connection_id)
                relay.destinations = (Destination("127.0.0.1", free_port()), *relay.destinations)  # type: ignore[attr-defined]
                return relay

            async with running(pki, with_dead_first) as gateway:
                reader, writer = await gateway.connect()
                writer.write(b"anybody there")
                assert await reader.readexactly(13) == b"anybody there"
                writer.close()

    run(scenario())


def test_no_destination_answers(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, tunnel_to(free_port())) as gateway:
            reader, writer = await gateway.connect()
            assert await reader.read() == b""
            writer.close()
            await settled(gateway)
            (event,) = gateway.relays[0].seen(UpstreamUnreachable)
            assert isinstance(event, UpstreamUnreachable)
            assert "Connect" in event.reason
            assert "127.0.0.1" in event.reason

    run(scenario())


def test_a_requestor_that_leaves_while_the_archive_is_called(pki: TestPki) -> None:
    async def scenario() -> None:
        with unanswered_port() as port:
            async with running(pki, tunnel_to(port)) as gateway:
                _, writer = await gateway.connect()
                await until(lambda: gateway.relays and gateway.relays[0].seen(PeerAuthenticated))
                writer.close()
                await settled(gateway)
                assert not gateway.relays[0].seen(UpstreamConnected)

    run(scenario())


def test_an_archive_that_breaks_off_ends_the_requestor(pki: TestPki) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async def scenario() -> None:
        async with archive(breaks) as port, running(pki, tunnel_to(port)) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            assert await reader.read() == b""
            writer.close()
            await settled(gateway)
            (ended,) = gateway.relays[0].seen(StreamEnded)
            assert isinstance(ended, StreamEnded)
            assert ended.side is Side.ACCEPTOR

    run(scenario())


class TwoPartAnswer(RecordingRelay):
    """Answers with a large refusal and closes in the same breath."""

    SIZE = 3_000_000

    def on(self, event: Event) -> list[Command]:
        if isinstance(event, DataReceived):
            self.finished = True
            return [Send(Side.REQUESTOR, bytes(self.SIZE)), Close(Side.REQUESTOR)]
        return []


def test_a_refusal_reaches_a_client_that_goes_on_sending(pki: TestPki) -> None:
    """Closing with unread input would send RST and destroy the answer."""

    async def scenario() -> None:
        async with running(pki, TwoPartAnswer) as gateway:
            reader, writer = await gateway.connect()
            writer.write(bytes(2_000_000))
            answer = b""
            while data := await reader.read(65536):
                answer += data
            assert len(answer) == TwoPartAnswer.SIZE
            writer.close()
            await settled(gateway)

    run(scenario())


# --- the audit barrier --------------------------------------------------------------------------------------------------


class AuditedEcho(RecordingRelay):
    """Two records before each echo, a timer and an echo behind."""

    def on(self, event: Event) -> list[Command]:
        if isinstance(event, DataReceived):
            first, second = event.data[:1], event.data[1:]
            return [
                Send(Side.REQUESTOR, first),
                Audit(record("one")),
                Audit(record("two")),
                Send(Side.REQUESTOR, second),
                Audit(record("three")),
                Send(Side.REQUESTOR, b"."),
            ]
        return []


def test_nothing_behind_a_record_is_sent_before_it_is_durable(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, AuditedEcho) as gateway:
            gateway.spool.withhold = True
            reader, writer = await gateway.connect()
            writer.write(b"abc")
            assert await reader.readexactly(1) == b"a"
            await until(lambda: len(gateway.spool.withheld) == 2)  # consecutive records wait together
            other_reader, other = await gateway.connect("ct2")
            other.write(b"x")  # another connection goes on up to its own record
            assert await other_reader.readexactly(1) == b"x"
            assert gateway.spool.texts == ["one", "two", "one", "two"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.3)
            gateway.spool.let_go()
            assert await reader.readexactly(2) == b"bc"
            await until(lambda: len(gateway.spool.withheld) == 2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.3)
            gateway.spool.let_go()
            assert await reader.readexactly(1) == b"."
            gateway.spool.withhold = False
            for one in (writer, other):
                one.close()

    run(scenario())


def test_what_arrives_meanwhile_is_kept_in_order_and_own_copies(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, AuditedEcho) as gateway:
            gateway.spool.withhold = True
            reader, writer = await gateway.connect()
            other_reader, other = await gateway.connect("ct2")
            expected = b""
            for number in range(1, 60):
                message = bytes([number]) * number
                writer.write(message)
                await writer.drain()
                await until(lambda n=number: len(gateway.relays[0].seen(bytes)) == n)  # type: ignore[misc]
                expected += message + b"."
                other.write(b"\xff" * 1000)  # overwrites the shared buffers
                await until(lambda n=number: len(gateway.relays[1].seen(bytes)) == n)  # type: ignore[misc]

            async def durable() -> None:
                while True:
                    gateway.spool.let_go()
                    await asyncio.sleep(0)

            durable_task = asyncio.create_task(durable())
            assert await reader.readexactly(len(expected)) == expected
            assert set(await other_reader.readexactly(59 * 1001)) == set(b"\xff.")
            writer.close()
            other.close()
            await settled(gateway)
            durable_task.cancel()

    run(scenario())


def test_a_standing_barrier_stops_reading_before_memory_grows(pki: TestPki) -> None:
    async def scenario() -> None:
        limits = Limits(waiting_bytes=100_000)
        async with running(pki, AuditedEcho, limits=limits) as gateway:
            gateway.spool.withhold = True
            reader, writer = await gateway.connect()
            total = 24 * 1024 * 1024
            sender = asyncio.create_task(pour(writer, total))
            await until(lambda: gateway.spool.withheld)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sender), 1.0)
            taken = gateway.shell.sessions.totals.received + next(iter(gateway.shell.sessions)).received
            assert taken < 2_000_000

            async def durable() -> None:
                while True:
                    gateway.spool.let_go()
                    await asyncio.sleep(0)

            durable_task = asyncio.create_task(durable())
            received = 0
            while received < total:
                received += len(await reader.read(1 << 20))
            await sender
            writer.close()
            await settled(gateway)
            durable_task.cancel()

    run(scenario())


async def pour(writer: asyncio.StreamWriter, total: int) -> str:
    """Send `total` pseudo-random bytes; return their digest."""
    digest, source = hashlib.sha256(), random.Random(total)
    left = total
    while left:
        part = source.randbytes(min(left, 200_003))
        digest.update(part)
        writer.write(part)
        await writer.drain()
        left -= len(part)
    return digest.hexdigest()


def test_a_record_that_fails_stops_what_it_describes(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, AuditedEcho) as gateway:
            reader, writer = await gateway.connect()
            gateway.spool.failure = OSError("disk full")
            writer.write(b"abc")
            assert await reader.read() == b"a"
            writer.close()
            await settled(gateway)
            (failed,) = gateway.relays[0].seen(AuditFailed)
            assert isinstance(failed, AuditFailed)
            assert "disk full" in failed.reason
            assert gateway.shell.sessions.totals.audit_failures == 1

    run(scenario())


def test_a_spool_that_raises_is_a_record_that_fails(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, AuditedEcho) as gateway:
            reader, writer = await gateway.connect()

            def refuse(*_: object) -> None:
                raise OSError("quota")

            gateway.spool.submit = refuse  # type: ignore[method-assign]
            writer.write(b"abc")
            assert await reader.read() == b"a"
            writer.close()
            await settled(gateway)
            assert gateway.relays[0].seen(AuditFailed)

    run(scenario())


def test_a_spool_that_never_answers_is_a_record_that_fails(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, AuditedEcho, limits=Limits(audit_seconds=1.0)) as gateway:
            gateway.spool.withhold = True
            reader, writer = await gateway.connect()
            writer.write(b"abc")
            assert await reader.read() == b"a"
            writer.close()
            await settled(gateway)
            (failed,) = gateway.relays[0].seen(AuditFailed)
            assert isinstance(failed, AuditFailed)
            assert failed.reason == "the audit spool does not answer"
            gateway.spool.let_go()  # too late: nothing happens any more

    run(scenario())


class RecordsTheEnd(RecordingRelay):
    """Its last record comes when both ends are gone."""

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        if isinstance(event, StreamEnded):
            return [Audit(record("first")), Close(Side.REQUESTOR), Audit(record("last"))]
        return []


def test_the_last_record_is_written_when_nobody_is_connected_any_more(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, RecordsTheEnd) as gateway:
            gateway.spool.withhold = True
            _, writer = await gateway.connect()
            writer.transport.abort()
            await until(lambda: gateway.spool.withheld)
            assert gateway.shell.connections
            while gateway.shell.connections:
                gateway.spool.let_go()
                await asyncio.sleep(0)
            assert gateway.spool.texts == ["first", "last"]

    run(scenario())


# --- back-pressure ------------------------------------------------------------------------------------------------------


def test_a_slow_archive_slows_the_sender_and_every_byte_arrives(pki: TestPki) -> None:
    total = 64 * 1024 * 1024

    async def scenario() -> None:
        digest, received, opened = hashlib.sha256(), 0, asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            await opened.wait()
            while data := await reader.read(65536):
                digest.update(data)
                received += len(data)
            writer.close()

        async with archive(slow) as port, running(pki, tunnel_to(port)) as gateway:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            _, writer = await gateway.connect()
            sender = asyncio.create_task(pour(writer, total))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sender), 1.0)  # nobody reads: the sender must stand still
            (session,) = gateway.shell.sessions
            assert session.received < 24 * 1024 * 1024  # socket buffers of the kernel included
            opened.set()
            sent = await sender
            await until(lambda: received == total)
            writer.close()
            await settled(gateway)
            assert digest.hexdigest() == sent
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 * 1024  # KiB

    run(scenario())


def test_a_slow_requestor_slows_the_archive_and_every_byte_arrives(pki: TestPki) -> None:
    total = 64 * 1024 * 1024

    async def scenario() -> None:
        sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sent.set_result(await pour(writer, total))
            writer.close()

        async with archive(floods) as port, running(pki, tunnel_to(port)) as gateway:
            reader, writer = await gateway.connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sent), 1.0)
            (session,) = gateway.shell.sessions
            assert session.sent < 24 * 1024 * 1024
            digest = hashlib.sha256()
            while data := await reader.read(1 << 20):
                digest.update(data)
            assert digest.hexdigest() == await sent
            writer.close()

    run(scenario())


class Flooding(RecordingRelay):
    """Answers a little with a lot, and its requestor does not read."""

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        if isinstance(event, DataReceived):
            return [Send(Side.REQUESTOR, bytes(1_000_000))]
        self.events.append(event)
        return [Close(Side.REQUESTOR)] if isinstance(event, StreamEnded) else []


def test_a_client_that_never_reads_its_answers_is_cut(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, Flooding) as gateway:
            context = gateway.client_context()
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, limit=1024)
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    writer.write(b"more")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            await settled(gateway)
            (ended,) = gateway.relays[0].seen(StreamEnded)
            assert isinstance(ended, StreamEnded)
            assert ended.reason == "does not read what it asked for"
            writer.transport.abort()
            del reader

    run(scenario())


# --- many at once, timers, ends, defects --------------------------------------------------------------------------------


def test_no_byte_of_one_connection_leaves_on_another(pki: TestPki) -> None:
    async def scenario() -> None:
        async with archive(echo) as port, running(pki, tunnel_to(port)) as gateway:

            async def talk(number: int) -> None:
                reader, writer = await gateway.connect(f"ct{number % 3}")
                source = random.Random(number)
                for _ in range(15):
                    data = bytes([number]) * source.randint(1, 120_000)
                    writer.write(data)
                    assert await reader.readexactly(len(data)) == data
                writer.close()

            await asyncio.gather(*(talk(number) for number in range(12)))
            await settled(gateway)

    run(scenario())


class Impatient(RecordingRelay):
    """Sets timers, stops one, and closes when the other runs out."""

    def on(self, event: Event) -> list[Command]:
        match event:
            case PeerAuthenticated():
                return [SetTimer("never", 0.05), SetTimer("idle", 30), SetTimer("idle", 0.2), SetTimer("never", None)]
            case TimerExpired():
                self.finished = True
                return [Close(Side.REQUESTOR)]
        return []


def test_timers_run_restart_and_stop(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, Impatient) as gateway:
            reader, writer = await gateway.connect()
            assert await reader.read() == b""
            writer.close()
            await settled(gateway)
            assert gateway.relays[0].seen(TimerExpired) == [TimerExpired("idle")]

    run(scenario())


def test_a_broken_stream_is_told_from_a_clean_end(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            _, clean = await gateway.connect()
            await until(lambda: gateway.relays and gateway.relays[0].seen(PeerAuthenticated))
            clean.close()
            _, rude = await gateway.connect()
            await until(lambda: len(gateway.relays) == 2 and gateway.relays[1].seen(PeerAuthenticated))
            reset(rude)
            await settled(gateway)
            assert gateway.relays[0].seen(StreamEnded) == [StreamEnded(Side.REQUESTOR, "")]
            (broken,) = gateway.relays[1].seen(StreamEnded)
            assert isinstance(broken, StreamEnded)
            assert broken.reason

    run(scenario())


def test_a_session_can_be_ended_from_outside(pki: TestPki) -> None:
    async def scenario() -> None:
        async with archive(echo) as port, running(pki, tunnel_to(port)) as gateway:
            reader, writer = await gateway.connect()
            await until(lambda: gateway.relays[0].seen(UpstreamConnected))
            gateway.shell.broadcast(SessionEnded("the card was pulled"))
            assert await reader.read() == b""
            writer.close()
            await settled(gateway)

    run(scenario())


class Defective(RecordingRelay):
    """Breaks the promise of every relay."""

    def on(self, event: Event) -> list[Command]:
        if isinstance(event, DataReceived):
            raise ValueError("PATIENT^NAME")
        return []


def test_a_defective_relay_ends_its_connection_and_its_words_are_not_logged(pki: TestPki, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(pki, Defective) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await settled(gateway)
            assert gateway.shell.sessions.totals.crashes == 1

    run(scenario())
    assert "ValueError at" in caplog.text
    assert "PATIENT" not in caplog.text


class Early(RecordingRelay):
    """Sends to an archive that is not connected and closes what is not open: nothing happens."""

    def on(self, event: Event) -> list[Command]:
        if isinstance(event, PeerAuthenticated):
            return [Send(Side.ACCEPTOR, b"x"), Close(Side.ACCEPTOR), OpenUpstream(()), Send(Side.REQUESTOR, b"done")]
        return []


def test_commands_for_an_absent_archive_are_harmless(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, Early) as gateway:
            reader, writer = await gateway.connect()
            assert await reader.read() == b"done"
            writer.close()
            await settled(gateway)
            assert gateway.relays[0].seen(UpstreamUnreachable) == [UpstreamUnreachable("the route has no destination")]

    run(scenario())


def test_both_sockets_have_nodelay(pki: TestPki) -> None:
    async def scenario() -> None:
        async with archive(echo) as port, running(pki, tunnel_to(port)) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            await reader.readexactly(1)
            (connection,) = gateway.shell.connections
            for end in (connection._outside, connection._inside):  # the options are visible nowhere else
                assert end is not None
                assert end._socket is not None
                assert end._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            writer.close()

    run(scenario())


def test_the_clock_of_a_worker_never_runs_backwards(pki: TestPki) -> None:
    async def scenario() -> None:
        async with running(pki, EchoRelay) as gateway:
            times = [gateway.shell.now() for _ in range(1000)]
            assert times == sorted(times)

    run(scenario())


# --- patience ends ------------------------------------------------------------------------------------------------------


def test_an_archive_that_does_not_answer_the_call(pki: TestPki) -> None:
    async def scenario() -> None:
        with unanswered_port() as port:
            async with running(pki, tunnel_to(port), limits=Limits(connect_seconds=0.5)) as gateway:
                reader, writer = await gateway.connect()
                assert await reader.read() == b""
                writer.close()
                await settled(gateway)
                assert gateway.relays[0].seen(UpstreamUnreachable) == [
                    UpstreamUnreachable(f"127.0.0.1:{port}: no answer within 0.5 s")
                ]

    run(scenario())


@contextlib.contextmanager
def unanswered_port() -> Iterator[int]:
    """A port whose backlog is full, so that the kernel answers no further SYN."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(hole.getsockname())
    try:
        yield int(hole.getsockname()[1])
    finally:
        for sock in (*fillers, hole):
            sock.close()


class ClosesOnData(RecordingRelay):
    """Closes the requestor as soon as it says something."""

    def on(self, event: Event) -> list[Command]:
        return [Close(Side.REQUESTOR)] if isinstance(event, DataReceived) else []


def test_a_peer_that_never_closes_its_end_is_cut(pki: TestPki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "LINGER_SECONDS", 0.3)

    async def scenario() -> None:
        async with running(pki, ClosesOnData) as gateway:
            tls, reader, writer = await by_hand(gateway)
            writer.write(tls(b"x"))
            await settled(gateway)  # although the client has neither answered the close_notify nor closed
            writer.transport.abort()
            del reader

    run(scenario())


async def by_hand(gateway: Running) -> tuple[Callable[[bytes], bytes], asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect with TLS of our own over plain streams; return what encrypts, and the streams."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = gateway.client_context().wrap_bio(incoming, outgoing)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    while True:
        try:
            tls.do_handshake()
            writer.write(outgoing.read())
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))

    def encrypt(data: bytes) -> bytes:
        tls.write(data)
        return outgoing.read()

    return encrypt, reader, writer


class NeverCloses(RecordingRelay):
    """Ignores that its ends are gone."""

    destinations: tuple[Destination, ...] = ()

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        return [OpenUpstream(self.destinations)] if isinstance(event, PeerAuthenticated) else []


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection with RST instead of ending it."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("first", ["requestor", "archive"])
def test_an_end_that_the_relay_forgets_is_cut(pki: TestPki, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    monkeypatch.setattr(relayed, "LINGER_SECONDS", 0.1)
    archives: list[asyncio.StreamWriter] = []

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        archives.append(writer)
        await reader.read()

    async def scenario() -> None:
        async with archive(waits) as port:
            monkeypatch.setattr(NeverCloses, "destinations", (Destination("127.0.0.1", port),))
            async with running(pki, NeverCloses, limits=Limits(audit_seconds=0.2)) as gateway:
                _, writer = await gateway.connect()
                await until(lambda: archives and next(iter(gateway.shell.sessions)).state is SessionState.RELAYING)
                reset(writer if first == "requestor" else archives[0])
                await settled(gateway)
                writer.transport.abort()

    run(scenario())


def test_a_connection_is_cut_while_the_archive_is_called(pki: TestPki) -> None:
    async def scenario() -> None:
        with unanswered_port() as port:
            async with running(pki, tunnel_to(port)) as gateway:
                _, writer = await gateway.connect()
                await until(lambda: gateway.relays[0].seen(PeerAuthenticated))
                gateway.shell.connections[0].cut()
                await settled(gateway)
                writer.transport.abort()

    run(scenario())


class Mourning(RecordingRelay):
    """Wants to record that nothing can be recorded."""

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        if isinstance(event, AuditFailed):
            self.events.append(event)
            return [Audit(record("too late")), Send(Side.REQUESTOR, b"sorry"), SetTimer("left", 60), Close(Side.REQUESTOR)]
        if isinstance(event, DataReceived):
            return [Audit(record("first")), Send(Side.REQUESTOR, b"never")]
        return []


def test_records_after_a_failed_one_are_tried_without_waiting(pki: TestPki, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(pki, Mourning) as gateway:
            gateway.spool.failure = OSError("disk full")
            reader, writer = await gateway.connect()
            writer.write(b"x")
            assert await reader.read() == b"sorry"
            writer.close()
            await settled(gateway)
            assert gateway.spool.texts == ["first", "too late"]
            assert len(gateway.relays[0].seen(AuditFailed)) == 1

    run(scenario())
    assert "an audit record was not written: disk full" in caplog.text


class AuditedTunnel(TunnelRelay):
    """A record before every piece that is forwarded."""

    def on(self, event: Event) -> list[Command]:
        commands = super().on(event)
        return [Audit(record()), *commands] if isinstance(event, DataReceived) and commands else commands


def test_a_standing_barrier_holds_the_archive_too(pki: TestPki) -> None:
    total = 24 * 1024 * 1024

    async def scenario() -> None:
        async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await pour(writer, total)
            writer.close()

        async with archive(floods) as port:

            def make(connection_id: str) -> RecordingRelay:
                relay = AuditedTunnel(connection_id)
                relay.destinations = (Destination("127.0.0.1", port),)
                return relay

            async with running(pki, make, limits=Limits(waiting_bytes=100_000)) as gateway:
                gateway.spool.withhold = True
                reader, writer = await gateway.connect()
                await until(lambda: gateway.spool.withheld)
                await asyncio.sleep(0.3)
                (connection,) = gateway.shell.connections
                assert connection._waiting_bytes < 1_000_000

                async def durable() -> None:
                    while True:
                        gateway.spool.let_go()
                        await asyncio.sleep(0)

                durable_task = asyncio.create_task(durable())
                digest, expected, source, left = hashlib.sha256(), hashlib.sha256(), random.Random(total), total
                while left:
                    part = source.randbytes(min(left, 200_003))
                    expected.update(part)
                    left -= len(part)
                while data := await reader.read(1 << 20):
                    digest.update(data)
                assert digest.hexdigest() == expected.hexdigest()
                writer.close()
                await settled(gateway)
                durable_task.cancel()

    run(scenario())
