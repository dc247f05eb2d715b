"""The budget of patients over all workers: each writes its visits into a ring in shared memory, and reads those of the others.

A record is a digest of the subject, one of the patient, and the moment; digests are keyed anew at every start of the gateway. What
a worker has seen lately is not shared again, and one that falls behind by more than a ring misses visits: the count of the others
is then too low, never too high.
"""

from __future__ import annotations

import mmap
import secrets
import struct
from datetime import datetime

from securepacs_proxy.dicom.budget import Ledger

_RECORD = struct.Struct("=8s8sd")
_COUNT = struct.Struct("=Q")
_RECORDS = 4096
_RING_BYTES = 64 + _RECORDS * _RECORD.size  # the count has a cache line of its own


class SharedVisits:
    """The memory, made before workers are forked."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _RING_BYTES)
        self._workers = workers
        self._key = secrets.token_bytes(32)

    def of(self, worker: int) -> WorkerVisits:
        """Return the sight of one worker."""
        return WorkerVisits(self, worker, self._key)

    def written(self, worker: int) -> int:
        """Return how many records a worker has ever written."""
        return int(_COUNT.unpack_from(self._memory, worker * _RING_BYTES)[0])

    def write(self, worker: int, user: bytes, patient: bytes, moment: float) -> None:
        """Append a record to the ring of a worker; the count goes up last."""
        number = self.written(worker)
        _RECORD.pack_into(self._memory, self._place(worker, number), user, patient, moment)
        _COUNT.pack_into(self._memory, worker * _RING_BYTES, number + 1)

    def read(self, worker: int, number: int) -> tuple[bytes, bytes, float]:
        """Return a record by its number."""
        user, patient, moment = _RECORD.unpack_from(self._memory, self._place(worker, number))
        return user, patient, moment

    @property
    def workers(self) -> range:
        """All workers."""
        return range(self._workers)

    def _place(self, worker: int, number: int) -> int:
        return worker * _RING_BYTES + 64 + number % _RECORDS * _RECORD.size


class WorkerVisits:
    """Implements `dicom.budget.Visits`: the ledger of one worker, kept up with the others; a new worker reads the rings."""

    def __init__(self, shared: SharedVisits, worker: int, key: bytes) -> None:
        self._shared = shared
        self._worker = worker
        self._ledger = Ledger(key)
        self._read = dict.fromkeys(shared.workers, 0)

    def visit(self, user_id: str, patient: str, at: datetime) -> None:
        """Note that somebody reached a patient, for all workers."""
        self._catch_up(at)
        user, visited = self._ledger.digest(user_id), self._ledger.digest(patient)
        if self._ledger.note(user, visited, at.timestamp()):
            self._shared.write(self._worker, user, visited, at.timestamp())

    def count(self, user_id: str, at: datetime) -> int:
        """Return how many different patients somebody reached, in any worker."""
        self._catch_up(at)
        return self._ledger.count(user_id, at)

    def _catch_up(self, at: datetime) -> None:
        self._ledger.expire(at.timestamp())
        oldest = at.timestamp() - 3600
        for worker in self._shared.workers:
            written = self._shared.written(worker)
            for number in range(max(self._read[worker], written - _RECORDS + 1, 0), written):
                user, patient, moment = self._shared.read(worker, number)
                if oldest < moment <= at.timestamp() + 1:
                    self._ledger.note(user, patient, moment)
            self._read[worker] = written
