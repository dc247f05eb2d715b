"""Group commit: many callers hand in items, one writer thread makes all that arrived meanwhile durable with one commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from securepacs.errors import SecurePacsError, Unavailable

T = TypeVar("T")
R = TypeVar("R")
OnDone = Callable[[R | None, BaseException | None], None]
StillWanted = Callable[[], bool]
GATHER_SECONDS = 0.002
_logger = logging.getLogger(__name__)


def notify(callback: Callable[..., object], *arguments: object) -> None:
    """Call back; an error of the callback (an event loop that is closed already) is logged and stops no thread of ours."""
    try:
        callback(*arguments)
    except Exception:
        _logger.exception("a callback failed")


class GroupCommit(Generic[T, R]):
    """Runs `commit(items)` in one thread of its own; it returns one result or one error for each item, in order.

    Callers who waited for one commit come back one after another: the writer gives them a moment (a quarter of the last commit, at
    most GATHER_SECONDS) to share the next one. A single caller never waits for others.

    An exception of `commit` is the error of every item of that call; the thread goes on. `size_of` and `max_pending` bound what
    may wait: beyond it `submit` raises Unavailable at once.
    """

    def __init__(
        self,
        commit: Callable[[list[T]], Sequence[R | SecurePacsError]],
        *,
        name: str,
        size_of: Callable[[T], int],
        max_pending: int = 64 * 1024 * 1024,
    ) -> None:
        self._commit = commit
        self._size_of = size_of
        self._max_pending = max_pending
        self._waiting: list[tuple[T, OnDone[R], StillWanted]] = []
        self._waiting_size = 0
        self._closed = False
        self._wanted = 1  # how many must wait for the writer to be woken
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T, on_done: OnDone[R], *, still_wanted: StillWanted = lambda: True) -> None:
        """Hand in an item and return; `on_done(result, error)` is called from the writer thread and must not block.

        `still_wanted` is asked in the writer thread right before the commit, after the callbacks of all earlier commits. An item
        that must not follow one that failed answers False there and gets Unavailable: order holds although both were handed in.
        """
        size = self._size_of(item)
        with self._changed:
            if self._closed:
                raise Unavailable("the writer is closed", retryable=False)
            if self._waiting and self._waiting_size + size > self._max_pending:
                raise Unavailable("too much waits to be written")
            self._waiting.append((item, on_done, still_wanted))
            self._waiting_size += size
            if len(self._waiting) >= self._wanted:
                self._changed.notify()

    def call(self, item: T) -> R:
        """Hand in an item and wait for its result; raises its error."""
        if threading.current_thread() is self._thread:
            raise Unavailable("the writer thread cannot wait for itself", retryable=False, hint="use submit in a callback")
        outcome: list[tuple[R | None, BaseException | None]] = []
        done = threading.Lock()
        done.acquire()

        def finish(result: R | None, error: BaseException | None) -> None:
            outcome.append((result, error))
            done.release()

        self.submit(item, finish)
        done.acquire()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None only beside an error, unless R itself allows it

    def close(self) -> None:
        """Commit what waits and end the thread; later calls of `submit` raise Unavailable."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        shared, patience = 1, 0.0
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if len(self._waiting) < shared and not self._closed:
                    self._wanted = shared
                    self._changed.wait(patience)
                    self._wanted = 1
                batch, self._waiting, self._waiting_size = self._waiting, [], 0
            if not batch:
                return
            began = time.monotonic()
            wanted: list[tuple[T, OnDone[R]]] = []
            for item, on_done, still_wanted in batch:
                if still_wanted():
                    wanted.append((item, on_done))
                else:
                    notify(on_done, None, Unavailable("what came before it could not be written"))
            if wanted:
                self._commit_all(wanted)
            shared, patience = len(batch), min((time.monotonic() - began) / 4, GATHER_SECONDS)

    def _commit_all(self, batch: list[tuple[T, OnDone[R]]]) -> None:
        results: Sequence[R | BaseException]
        try:
            results = self._commit([item for item, _ in batch])
        except Exception as error:  # handed to every caller: nobody may believe in a record that was not written
            results = [error] * len(batch)
        for (_, on_done), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                notify(on_done, None, result)
            else:
                notify(on_done, result, None)
