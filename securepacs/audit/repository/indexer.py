"""Indexing in processes of its own: reading XML is most of the work of a busy repository, and one interpreter is one core.

An indexer reads jobs on its standard input and writes their results to its standard output, each as length (4 octets,
big-endian) and marshalled data: (moment of receipt, [octets, ...]) gives [index tuple, ...]. It keeps no record and ends with its
input. One that fails is replaced, and what it was doing is done here: no record waits for it.
"""

from __future__ import annotations

import gc
import logging
import marshal
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from queue import SimpleQueue
from typing import IO, Any

from securepacs.audit.repository.index import index
from securepacs.audit.repository.terms import Index
from securepacs.store.tables import moment_of, moment_text

_LENGTH = 4
_logger = logging.getLogger(__name__)
_Job = tuple[list[bytes], datetime, "Future[list[Index]]"]


class IndexerPool:
    """`workers` processes, started with the first job; None: one for each core but one. `submit` may be called from any thread."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = max(1, (os.cpu_count() or 2) - 1) if workers is None else workers
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._threads: list[threading.Thread] = []

    def submit(self, raws: list[bytes], received: datetime) -> Future[list[Index]]:
        """Have records indexed; the result is in their order."""
        with self._guard:
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._run, name=f"audit-indexer-{number}", daemon=True)
                    for number in range(self._workers)
                ]
                for thread in self._threads:
                    thread.start()
        future: Future[list[Index]] = Future()
        self._jobs.put((raws, received, future))
        return future

    def close(self) -> None:
        """Finish what was submitted and end the processes."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self) -> None:
        process: subprocess.Popen[bytes] | None = None
        while (job := self._jobs.get()) is not None:
            raws, received, future = job
            try:
                process = process or _start()
                result = _ask(process, raws, received)
            except (OSError, EOFError, ValueError, TypeError) as error:
                _logger.error("audit repository: an indexer failed (%s); another one takes its place", type(error).__name__)
                if process is not None:
                    _end(process)
                process = None
                result = [index(raw, received) for raw in raws]
            future.set_result(result)
        if process is not None:
            _end(process)


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = [sys.executable, "-c", f"from {__name__} import main; main()"]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # it died with octets on their way to it
                _logger.debug("audit repository: an indexer left before its input was read")
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask(process: subprocess.Popen[bytes], raws: list[bytes], received: datetime) -> list[Index]:
    if process.stdin is None or process.stdout is None:
        raise EOFError
    _write(process.stdin, (moment_text(received), raws))
    answer = _read(process.stdout)
    if answer is None or len(answer) != len(raws):
        raise EOFError
    return [Index._make(each) for each in answer]


def _write(stream: IO[bytes], value: Any) -> None:
    data = marshal.dumps(value)
    stream.write(len(data).to_bytes(_LENGTH, "big"))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes]) -> Sequence[Sequence[object]] | None:
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    data = stream.read(int.from_bytes(head, "big"))
    return marshal.loads(data)  # type: ignore[no-any-return]  # noqa: S302  (between a process and its own child)


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer jobs until the input ends."""
    while (job := _read(source)) is not None:
        received, raws = job
        moment = moment_of(str(received))
        _write(sink, [tuple(index(bytes(raw), moment)) for raw in raws])  # type: ignore[call-overload]


def main() -> None:
    """Be an indexer."""
    gc.freeze()
    gc.disable()  # what it makes lives for one job and has no cycles
    serve(sys.stdin.buffer, sys.stdout.buffer)
