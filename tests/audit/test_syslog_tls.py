"""Delivery over TLS: in order, at least once, over restarts of either side; a clean end is a confirmed one."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from securepacs.audit.forwarder import Forwarder, ForwarderStatus
from securepacs.audit.repository import Criteria, Repository, RepositoryServer
from securepacs.audit.segments import Cursor
from securepacs.audit.spool import Spool
from securepacs.audit.syslog import to_syslog
from securepacs.audit.syslog_tls import SyslogTlsSender
from securepacs.errors import Unavailable
from tests.support.audit import AT, LEE, TlsFiles, numbered
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki


def record(number: int) -> bytes:
    return to_syslog(numbered(number), hostname="gw1", app_name="test", procid="1")


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(make_pki(tmp_path / "pki"), tmp_path / "pki")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def server(repository: Repository, files: TlsFiles) -> Iterator[RepositoryServer]:
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()) as running:
        yield running


def received(repository: Repository, *, duplicates: bool = False) -> list[int]:
    """Return the numbers of the test's messages in order of their receipt."""
    found = repository.search(Criteria(event="110105", limit=100_000), reader=LEE, at=AT)
    found.sort(key=lambda each: each.id)
    return [int(each.studies[0].rpartition(".")[2]) for each in found if duplicates or each.duplicate_of is None]


def forwarder(folder: Path, port: int, files: TlsFiles, **options: object) -> Forwarder:
    sender = SyslogTlsSender("127.0.0.1", port, files.client_context())
    return Forwarder([folder], sender, name="arr", first_delay=0.02, longest_delay=0.1, poll_seconds=0.01, **options)  # type: ignore[arg-type]


def test_a_clean_close_confirms(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    sender = SyslogTlsSender("127.0.0.1", server.port, files.client_context())
    sender.connect()
    sender.send([record(1), record(2)])
    sender.check()
    assert sender.close() is True
    assert received(repository) == [1, 2]
    assert sender.close() is False


def test_nothing_is_sent_without_a_connection(files: TlsFiles) -> None:
    sender = SyslogTlsSender("127.0.0.1", free_port(), files.client_context())
    with pytest.raises(Unavailable, match="does not answer"):
        sender.connect()
    with pytest.raises(Unavailable, match="not connected"):
        sender.send([b"x"])


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_name_that_is_none_is_unavailable(files: TlsFiles, host: str) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        SyslogTlsSender(host, 6514, files.client_context()).connect()


def test_a_forwarder_that_never_began_can_be_stopped(tmp_path: Path, files: TlsFiles) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        assert forwarder(spool.folder, 1, files).stop() is True


def test_a_server_of_another_ca_is_not_spoken_to(server: RepositoryServer, tmp_path: Path) -> None:
    other = TlsFiles(make_pki(tmp_path / "other", name="Other Hospital"), tmp_path / "other")
    sender = SyslogTlsSender("127.0.0.1", server.port, other.client_context())
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        sender.connect()


def test_a_peer_that_goes_is_noticed_before_the_next_record(files: TlsFiles) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        plain, _ = listener.accept()
        files.server_context().wrap_socket(plain, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    sender = SyslogTlsSender("127.0.0.1", listener.getsockname()[1], files.client_context())
    sender.connect()
    thread.join()
    listener.close()
    with pytest.raises(Unavailable):
        wait_until(lambda: bool(sender.check()), what="the notice")  # type: ignore[func-returns-value]


def test_a_peer_that_never_answers_close_notify_confirms_nothing(files: TlsFiles) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[ssl.SSLSocket] = []

    def serve() -> None:
        plain, _ = listener.accept()
        accepted.append(files.server_context().wrap_socket(plain, server_side=True))

    thread = threading.Thread(target=serve)
    thread.start()
    sender = SyslogTlsSender("127.0.0.1", listener.getsockname()[1], files.client_context())
    sender.connect()
    thread.join()
    sender.send([b"x"])
    assert sender.close(seconds=0.2) is False
    accepted[0].close()
    listener.close()


def test_the_forwarder_delivers_in_order_and_saves_its_cursor(
    tmp_path: Path, server: RepositoryServer, repository: Repository, files: TlsFiles
) -> None:
    changes: list[ForwarderStatus] = []
    with Spool.open(tmp_path / "spool", segment_bytes=4096, quota_bytes=10_000_000, destinations=["arr"]) as spool:
        running = forwarder(spool.folder, server.port, files, on_change=changes.append)
        running.start()
        assert Cursor(spool.folder, "arr").load() == 0
        for number in range(300):
            spool.append(record(number))
        running.wake()
        assert running.stop(drain_seconds=20) is True
        assert Cursor(spool.folder, "arr").load() == 300
    assert received(repository, duplicates=True) == list(range(300))
    assert [each.connected for each in changes] == [True, False]
    assert (running.status.sent, running.status.connections) == (300, 1)


def test_after_a_confirmed_stop_nothing_is_sent_again(
    tmp_path: Path, server: RepositoryServer, repository: Repository, files: TlsFiles
) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        for part in range(3):
            spool.append(record(part))
            running = forwarder(spool.folder, server.port, files)
            running.start()
            assert running.stop(drain_seconds=20)
    assert received(repository, duplicates=True) == [0, 1, 2]


def test_a_repository_that_stops_and_starts_again_loses_nothing(tmp_path: Path, repository: Repository, files: TlsFiles) -> None:
    port = free_port()
    with Spool.open(tmp_path / "spool", segment_bytes=8192, quota_bytes=10_000_000, destinations=["arr"]) as spool:
        running = forwarder(spool.folder, port, files)
        running.start()
        number = 0
        for _ in range(5):  # while it is away, while it is there, while it goes
            for _ in range(40):
                spool.append(record(number))
                number += 1
            with RepositoryServer(repository, host="127.0.0.1", port=port, context=files.server_context()):
                before = repository.count()
                wait_until(lambda before=before: repository.count() > before + 20, what="records arriving")  # type: ignore[misc]
                for _ in range(40):
                    spool.append(record(number))
                    number += 1
        assert running.status.connections >= 2
        with RepositoryServer(repository, host="127.0.0.1", port=port, context=files.server_context()):
            assert running.stop(drain_seconds=30) is True
    assert received(repository) == list(range(number))
    assert len(received(repository, duplicates=True)) >= number


def test_a_stop_without_anybody_there_ends_in_time_and_keeps_the_rest(tmp_path: Path, files: TlsFiles) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        spool.append(record(1))
        running = forwarder(spool.folder, free_port(), files)
        running.start()
        wait_until(lambda: "does not answer" in running.status.error, what="a failed connection")
        assert running.stop(drain_seconds=0.3) is False
        assert Cursor(spool.folder, "arr").load() == 0


def test_a_peer_that_stops_reading_cannot_hold_the_stop(tmp_path: Path, files: TlsFiles) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[ssl.SSLSocket] = []

    def serve() -> None:
        plain, _ = listener.accept()
        accepted.append(files.server_context().wrap_socket(plain, server_side=True))

    thread = threading.Thread(target=serve)
    thread.start()
    with Spool.open(tmp_path / "spool") as spool:
        for _ in range(20):
            spool.append(bytes(1_000_000))
        running = forwarder(spool.folder, listener.getsockname()[1], files)
        running.start()
        thread.join()
        wait_until(lambda: running.status.sent > 0, what="the first batch")
        assert running.stop(drain_seconds=0.5) is False
    accepted[0].close()
    listener.close()


def test_what_left_the_window_is_not_sent_again(tmp_path: Path, repository: Repository, files: TlsFiles) -> None:
    port = free_port()
    size = len(record(0))
    with Spool.open(tmp_path / "spool") as spool:
        running = forwarder(spool.folder, port, files, window_bytes=10 * size)
        with RepositoryServer(repository, host="127.0.0.1", port=port, context=files.server_context()):
            running.start()
            for number in range(100):
                spool.append(record(number % 10 + 10))
            wait_until(lambda: len(received(repository, duplicates=True)) == 100, what="all records")
        spool.append(record(99))
        with RepositoryServer(repository, host="127.0.0.1", port=port, context=files.server_context()):
            assert running.stop(drain_seconds=20)
    repeated = len(received(repository, duplicates=True)) - 101
    assert 0 < repeated <= 11


def test_old_records_of_a_standing_connection_count_as_delivered(tmp_path: Path, server: RepositoryServer, files: TlsFiles) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        running = forwarder(spool.folder, server.port, files, window_seconds=0.0)
        running.start()
        spool.append(record(1))
        wait_until(lambda: Cursor(spool.folder, "arr").load() == 1, what="the cursor")
        running.stop()


def test_several_folders_share_one_connection(
    tmp_path: Path, server: RepositoryServer, repository: Repository, files: TlsFiles
) -> None:
    spools = [Spool.open(tmp_path / f"worker{number}") for number in range(3)]
    sender = SyslogTlsSender("127.0.0.1", server.port, files.client_context())
    running = Forwarder([spool.folder for spool in spools], sender, name="arr", poll_seconds=0.01)
    running.start()
    for step in range(20):
        for index, spool in enumerate(spools):
            spool.append(record(100 * index + step))
    assert running.stop(drain_seconds=20)
    for spool in spools:
        spool.close()
    found = received(repository, duplicates=True)
    for index in range(3):
        assert [number for number in found if number // 100 == index] == list(range(100 * index, 100 * index + 20))
    assert running.status.connections == 1


def test_a_cursor_that_cannot_be_saved_costs_repetitions_not_records(
    tmp_path: Path, server: RepositoryServer, repository: Repository, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        running = forwarder(spool.folder, server.port, files)
        running.start()
        (spool.folder / "arr.cursor-new").mkdir()
        spool.append(record(1))
        assert running.stop(drain_seconds=20)
    assert received(repository) == [1]
    assert "cannot be saved" in caplog.text
