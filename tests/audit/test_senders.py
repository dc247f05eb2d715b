"""Senders without TLS: the same promises as far as the transport can keep them, and names for settings."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from securepacs.audit.forwarder import Forwarder, SyslogSender
from securepacs.audit.repository import Criteria, Repository, RepositoryServer
from securepacs.audit.segments import Cursor
from securepacs.audit.senders import Transport, destination_name, make_sender
from securepacs.audit.spool import Spool
from securepacs.audit.syslog import to_syslog
from securepacs.audit.syslog_tcp import SyslogTcpSender
from securepacs.audit.syslog_tls import SyslogTlsSender
from securepacs.audit.syslog_udp import LARGEST, SyslogUdpSender
from securepacs.errors import Unavailable
from tests.support.audit import AT, LEE, TlsFiles, numbered
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki

RECORDS = [to_syslog(numbered(number), hostname="gw1", app_name="test", procid="1") for number in range(300)]
UNSAFE = [Transport.UNSAFE_TCP, Transport.UNSAFE_UDP]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("pki")
    return TlsFiles(make_pki(folder), folder)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def server(repository: Repository, files: TlsFiles) -> Iterator[RepositoryServer]:
    with _listening(repository, files) as running:
        yield running


def _listening(repository: Repository, files: TlsFiles, *, port: int = 0) -> RepositoryServer:
    address = ("127.0.0.1", port)
    return RepositoryServer(
        repository, host="127.0.0.1", port=0, context=files.server_context(), unsafe_tcp=address, unsafe_udp=address
    )  # fmt: skip


def sender_to(server: RepositoryServer, transport: Transport, files: TlsFiles) -> SyslogSender:
    ports = {Transport.TLS: server.port, Transport.UNSAFE_TCP: server.tcp_port, Transport.UNSAFE_UDP: server.udp_port}
    return make_sender(transport, "127.0.0.1", ports[transport], context=files.client_context)


def received(repository: Repository, *, duplicates: bool = False) -> list[bytes]:
    found = repository.search(Criteria(event="110105", limit=100_000), reader=LEE, at=AT)
    found.sort(key=lambda each: each.id)
    return [repository.raw(each.id) for each in found if duplicates or each.duplicate_of is None]


@pytest.mark.parametrize("transport", Transport)
def test_what_is_sent_arrives_as_it_was_and_a_clean_end_says_so(
    server: RepositoryServer, repository: Repository, files: TlsFiles, transport: Transport
) -> None:
    sender = sender_to(server, transport, files)
    sender.connect()
    sender.send(RECORDS[:3])
    sender.check()
    assert sender.close() is True
    wait_until(lambda: len(received(repository)) == 3, what="the records")
    assert received(repository) == RECORDS[:3]
    assert sender.close() is False


@pytest.mark.parametrize("transport", UNSAFE)
def test_nothing_is_sent_without_a_connection(files: TlsFiles, transport: Transport) -> None:
    sender = make_sender(transport, "127.0.0.1", free_port(), context=files.client_context)
    for step in (lambda: sender.send([b"x"]), sender.check):
        with pytest.raises(Unavailable, match="not connected"):
            step()
    sender.interrupt()
    sender.abort()


@pytest.mark.parametrize("transport", UNSAFE)
@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_name_that_is_none_is_unavailable(files: TlsFiles, transport: Transport, host: str) -> None:
    with pytest.raises(Unavailable):
        make_sender(transport, host, 514, context=files.client_context).connect()


def test_a_port_nobody_listens_at_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        SyslogTcpSender("127.0.0.1", free_port()).connect()


def test_datagrams_that_come_back_make_the_receiver_unavailable() -> None:
    sender = SyslogUdpSender("127.0.0.1", _port_without_datagrams())
    sender.connect()
    sender.send([b"<85>x"])
    with pytest.raises(Unavailable, match="does not take datagrams"):
        wait_until(lambda: bool(sender.check()), what="the refusal")  # type: ignore[func-returns-value]


def _port_without_datagrams() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_datagrams_nobody_took_are_not_confirmed() -> None:
    sender = SyslogUdpSender("127.0.0.1", _port_without_datagrams())
    sender.connect()
    sender.send([b"<85>x"])
    assert sender.close() is False


def test_a_connection_that_is_reset_confirms_nothing() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = SyslogTcpSender("127.0.0.1", listener.getsockname()[1])
    sender.connect()
    accepted, _ = listener.accept()
    sender.send([b"<85>x"])
    accepted.close()  # with what was sent unread: a reset
    listener.close()
    assert sender.close() is False


def test_a_peer_that_never_ends_confirms_nothing() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = SyslogTcpSender("127.0.0.1", listener.getsockname()[1])
    sender.connect()
    accepted, _ = listener.accept()
    sender.send([b"<85>x"])
    assert sender.close(seconds=0.2) is False
    accepted.close()
    listener.close()


def test_a_peer_that_goes_is_noticed_before_the_next_record() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = SyslogTcpSender("127.0.0.1", listener.getsockname()[1])
    sender.connect()
    listener.accept()[0].close()
    listener.close()
    with pytest.raises(Unavailable, match="closed the connection"):
        wait_until(lambda: bool(sender.check()), what="the notice")  # type: ignore[func-returns-value]


@pytest.mark.parametrize("place", range(4))
def test_a_record_no_datagram_holds_is_cut_between_characters(caplog: pytest.LogCaptureFixture, place: int) -> None:
    largest = LARGEST[socket.AF_INET]
    record = b"x" * (largest - place) + "가나".encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sender = SyslogUdpSender("127.0.0.1", receiver.getsockname()[1])
        sender.connect()
        sender.send([record, b"next"])
        received = [receiver.recv(70_000) for _ in range(2)]
        assert sender.close() is True
    assert received == [record[: largest if place in (0, 3) else largest - place], b"next"]
    assert received[0].decode()
    assert "was cut" in caplog.text


@pytest.mark.parametrize("transport", UNSAFE)
def test_a_spool_reaches_an_unprotected_destination_in_order(
    tmp_path: Path, server: RepositoryServer, repository: Repository, files: TlsFiles, transport: Transport
) -> None:
    with Spool.open(tmp_path / "spool", segment_bytes=4096, quota_bytes=10_000_000, destinations=["arr"]) as spool:
        running = Forwarder([spool.folder], sender_to(server, transport, files), name="arr", first_delay=0.02, poll_seconds=0.01)
        running.start()
        for record in RECORDS:
            spool.append(record)
        running.wake()
        assert running.stop(drain_seconds=20) is True
        assert Cursor(spool.folder, "arr").load() == len(RECORDS)
    wait_until(lambda: len(received(repository)) == len(RECORDS), what="all records")
    assert received(repository) == RECORDS


@pytest.mark.parametrize("transport", UNSAFE)
def test_records_wait_in_the_spool_until_somebody_listens(
    tmp_path: Path, repository: Repository, files: TlsFiles, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    port = free_port()
    sender = make_sender(transport, "127.0.0.1", port, context=files.client_context)
    with Spool.open(tmp_path / "spool", destinations=["arr"]) as spool:
        running = Forwarder([spool.folder], sender, name="arr", first_delay=0.02, longest_delay=0.05, poll_seconds=0.01)
        running.start()
        for record in RECORDS[:20]:
            spool.append(record)
        wait_until(lambda: bool(running.status.error), what="the notice that nobody listens")
        with _listening(repository, files, port=port):
            wait_until(lambda: len(received(repository)) == 20, what="all records")
            assert running.stop(drain_seconds=20) is True
    assert received(repository) == RECORDS[:20]


def test_every_destination_has_its_own_position(
    tmp_path: Path, server: RepositoryServer, repository: Repository, files: TlsFiles
) -> None:
    """One that is away holds back nobody, and gets everything later."""
    away = free_port()
    names = ["tls", "tcp", "away"]
    with Spool.open(tmp_path / "spool", destinations=names) as spool:
        senders = [
            sender_to(server, Transport.TLS, files),
            sender_to(server, Transport.UNSAFE_TCP, files),
            SyslogTcpSender("127.0.0.1", away),
        ]
        running = [
            Forwarder([spool.folder], sender, name=name, first_delay=0.02, longest_delay=0.05, poll_seconds=0.01)
            for name, sender in zip(names, senders, strict=True)
        ]
        for each in running:
            each.start()
        for record in RECORDS[:10]:
            spool.append(record)
        wait_until(lambda: len(received(repository, duplicates=True)) == 20, what="both copies")
        assert [each.stop(drain_seconds=0.5 if each is running[2] else 20) for each in running] == [True, True, False]
        assert [Cursor(spool.folder, name).load() for name in names] == [10, 10, 0]


def test_an_interrupted_close_ends(files: TlsFiles) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = SyslogTcpSender("127.0.0.1", listener.getsockname()[1])
    sender.connect()
    accepted, _ = listener.accept()
    connection = sender._connected()
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(sender.close(seconds=60)))
    thread.start()
    assert accepted.recv(1) == b""
    connection.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert ended
    accepted.close()
    listener.close()


def test_names_of_destinations() -> None:
    assert destination_name(Transport.TLS, "arr.hospital.example", 6514) == "arr.hospital.example_6514"
    assert destination_name(Transport.UNSAFE_TCP, "arr", 514) == "arr_514_tcp"
    assert destination_name(Transport.UNSAFE_UDP, "fe80::1%eth0", 514) == "fe80__1_eth0_514_udp"


def test_only_tls_makes_a_context(files: TlsFiles) -> None:
    def fail() -> None:
        raise AssertionError

    assert isinstance(make_sender(Transport.UNSAFE_TCP, "h", 1, context=fail), SyslogTcpSender)  # type: ignore[arg-type]
    assert isinstance(make_sender(Transport.UNSAFE_UDP, "h", 1, context=fail), SyslogUdpSender)  # type: ignore[arg-type]
    assert isinstance(make_sender(Transport.TLS, "h", 1, context=files.client_context), SyslogTlsSender)
