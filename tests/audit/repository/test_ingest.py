"""The pipeline of a busy connection: order, bounds, failures; indexers that die; bursts over TLS."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securepacs.audit.repository import Criteria, Receipt, Repository, RepositoryServer, indexer, ingest
from securepacs.audit.repository.index import index
from securepacs.audit.repository.indexer import IndexerPool
from securepacs.audit.repository.ingest import BURST, Ingest
from securepacs.audit.repository.log import Item
from securepacs.audit.syslog import frame, to_syslog
from securepacs.errors import Unavailable
from tests.audit.repository.test_server import deliver, kept
from tests.support.audit import AT, LEE, TlsFiles, numbered
from tests.support.pki import make_pki

NOW = datetime(2027, 2, 1, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def pool() -> Iterator[IndexerPool]:
    made = IndexerPool(2)
    yield made
    made.close()


def records(count: int, *, first: int = 0) -> list[bytes]:
    return [to_syslog(numbered(number), hostname="h", app_name="a", procid="1") for number in range(first, first + count)]


def receipts(raws: list[bytes]) -> list[Receipt]:
    return [Receipt.of(raw, received=NOW, transport="test") for raw in raws]


def test_indexers_answer_as_index_does(pool: IndexerPool) -> None:
    raws = [*records(100), b"", b"\xff\0", b"<AuditMessage>"]
    jobs = [pool.submit(raws, NOW) for _ in range(5)]
    assert all(job.result(60) == [index(raw, NOW) for raw in raws] for job in jobs)


def test_an_indexer_that_dies_costs_nothing(pool: IndexerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = indexer._start

    def dying() -> object:
        process = start()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        started.append(process.pid)
        return process

    monkeypatch.setattr(indexer, "_start", dying)
    raws = records(50)
    for _ in range(2):
        assert pool.submit(raws, NOW).result(60) == [index(raw, NOW) for raw in raws]
    assert len(started) == 2


def test_a_job_and_its_answer() -> None:
    raws, answer = records(3), io.BytesIO()
    asked = io.BytesIO()
    indexer._write(asked, ("2027-02-01T00:00:00.000000Z", raws))
    asked.seek(0)
    indexer.serve(asked, answer)
    answer.seek(0)
    assert indexer._read(answer) == [tuple(index(raw, NOW)) for raw in raws]


def test_order_is_kept_whatever_the_way(repository: Repository, pool: IndexerPool) -> None:
    way, sent = Ingest(repository, pool), list[bytes]()
    for size in (1, BURST, 3, BURST + 7, 1, 1, 200):
        raws = records(size, first=len(sent))
        way.put(receipts(raws), NOW)
        sent += raws
    way.drain()
    way.close()
    assert [repository.raw(number) for number in range(1, len(sent) + 1)] == sent
    assert repository.count() == len(sent)


def test_what_is_underway_is_bounded(repository: Repository, pool: IndexerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_UNDERWAY", 100_000)
    way = Ingest(repository, pool)
    for number in range(20):
        way.put(receipts(records(40, first=40 * number)), NOW)
        assert way._underway <= 100_000
    way.drain()
    way.close()
    assert repository.count() == 800


def test_nothing_follows_what_could_not_be_stored(
    repository: Repository, pool: IndexerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Ingest(repository, pool)
    submit = repository.submit

    def failing(items: list[Item], on_stored: object, **options: object) -> None:
        if b"1.2.3.45<" in b"".join(item.receipt.raw for item in items):
            raise Unavailable("the disk is full")
        submit(items, on_stored, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(repository, "submit", failing)
    way.put(receipts(records(40)), NOW)
    way.put(receipts(records(40, first=40)), NOW)

    def go_on() -> None:  # put or drain raises, as the threads go
        way.put(receipts(records(40, first=80)), NOW)
        way.drain()

    with pytest.raises(Unavailable):
        go_on()
    with pytest.raises(Unavailable):
        way.put(receipts(records(1)), NOW)
    way.close()
    assert repository.count() == 40


def test_a_burst_over_tls_is_stored_in_order_before_the_end_is_confirmed(repository: Repository, tmp_path: Path) -> None:
    files = TlsFiles(make_pki(tmp_path / "pki"), tmp_path / "pki")
    sent = records(3000)
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()) as server:
        deliver(server, files.client_context(), b"".join(map(frame, sent)))
        assert [repository.raw(each.id) for each in kept(repository)] == sent
    assert {each.verdict for each in repository.search(Criteria(limit=5000), reader=LEE, at=AT)} == {"conformant"}


def test_nothing_of_a_connection_follows_what_could_not_be_stored(
    repository: Repository, pool: IndexerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = receipts(records(BURST)), receipts(records(BURST, first=BURST))
    commit, began, go_on = repository._writer._commit, threading.Event(), threading.Event()

    def full_for_the_first(batches: list[list[Item]]) -> object:
        if any(item.receipt is first[0] for items in batches for item in items):
            began.set()
            go_on.wait(60)
            raise Unavailable("the disk is full")
        return commit(batches)

    monkeypatch.setattr(repository._writer, "_commit", full_for_the_first)
    busy = Ingest(repository, pool)
    busy.put(first, NOW)
    assert began.wait(60)
    busy.put(second, NOW)
    while not repository._writer._waiting:  # until it stands behind the first, which has not failed yet
        threading.Event().wait(0.001)
    go_on.set()
    with pytest.raises(Unavailable, match="disk is full"):
        busy.drain()
    busy.close()
    stored = repository.search(Criteria(limit=10_000), reader=LEE, at=AT)
    assert [each for each in stored if each.transport == "test"] == []
