"""Storing what one connection sends: at once when little comes, in a pipeline (read, index, commit) when much does.

Order is kept, and what is on its way is bounded: `put` waits while too much is. Nothing is confirmed here; `drain` returns when
everything that was put is durable.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from queue import SimpleQueue

from securepacs.audit.repository.indexer import IndexerPool
from securepacs.audit.repository.log import Item
from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.repository import Repository
from securepacs.audit.repository.terms import Index

BURST = 32  # records; fewer are indexed by the caller
MAX_UNDERWAY = 16 * 1024 * 1024  # octets between `put` and the disk
_Job = tuple[Sequence[Receipt], "Future[list[Index]]"]


class Ingest:
    """One connection's way into the repository; `put` and `drain` belong to one thread."""

    def __init__(self, repository: Repository, pool: IndexerPool) -> None:
        self._repository = repository
        self._pool = pool
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._underway = 0
        self._error: BaseException | None = None
        self._broken = math.inf  # number of the job that has the error

    def put(self, receipts: Sequence[Receipt], received: datetime) -> None:
        """Take records; raise Unavailable once any record before could not be stored."""
        if len(receipts) < BURST and not self._underway:
            self._check()
            self._repository.store(receipts)
            return
        size = _size(receipts)
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._underway or self._underway + size <= MAX_UNDERWAY)
            self._check()
            self._underway += size
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audit-ingest", daemon=True)
            self._thread.start()
        self._jobs.put((receipts, self._pool.submit([each.raw for each in receipts], received)))

    def drain(self) -> None:
        """Return when everything is durable; raise Unavailable when something could not be made so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._underway)
        self._check()

    def close(self) -> None:
        """Let what is underway end, and the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _unbroken(self, number: int) -> bool:
        return number < self._broken

    def _run(self) -> None:
        for number in itertools.count():
            if (job := self._jobs.get()) is None:
                return
            receipts, future = job
            size = _size(receipts)
            if self._error is not None:  # nothing may follow what is missing
                self._stored(number, size, None)
                continue
            try:
                items = [Item(receipt, index) for receipt, index in zip(receipts, future.result(), strict=True)]
                self._repository.submit(items, partial(self._stored, number, size), still_wanted=partial(self._unbroken, number))
            except Exception as error:  # told to the connection, which ends
                self._stored(number, size, error)

    def _stored(self, number: int, size: int, error: BaseException | None) -> None:
        with self._changed:
            self._underway -= size
            if error is not None and number < self._broken:
                self._error, self._broken = error, number
            self._changed.notify_all()


def _size(receipts: Sequence[Receipt]) -> int:
    return sum(len(each.raw) for each in receipts)
