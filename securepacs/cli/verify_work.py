"""The work of `securepacs verify`: which files, on how many processes, with what outcome for each."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from securepacs.cli.paths import files_in, readable
from securepacs.cli.trusting import read_policy
from securepacs.errors import MalformedError, SecurePacsError

if TYPE_CHECKING:
    from securepacs.signatures.report import SignatureReport
    from securepacs.signatures.verify import Verifier

_CHUNK = 8  # files handed to a worker at a time
_AHEAD = 4  # chunks per worker that wait for their turn

State: TypeAlias = "tuple[int, int, int]"  # size, time of the last change of content and of the file's description


@dataclass(frozen=True)
class Question:
    """What to verify against: everything a worker process needs to build its own verifier.

    `places`: the arguments of the command; secure references are looked for among the files they name.
    """

    trust: tuple[Path, ...]
    intermediates: tuple[Path, ...]
    crls: tuple[Path, ...]
    online: bool
    at: datetime
    require: tuple[str, ...]
    bit_exact: bool
    allow_weak_hash: bool
    trust_signing_time: bool
    places: tuple[Path, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def verifier(self) -> Verifier:
        """Read the certificates and build the verifier. ConfigError when there is nobody to trust."""
        from securepacs.signatures.lookup import InstanceIndex
        from securepacs.signatures.verify import Verifier

        policy = read_policy(self.trust, self.intermediates, self.crls, online=self.online, allow_host=self.allowed_hosts)
        index = InstanceIndex(target for target in targets_in(self.places) if isinstance(target, Path))
        return Verifier(
            policy, self.at, self.require, self.bit_exact, self.allow_weak_hash, self.trust_signing_time, references=index
        )


@dataclass(frozen=True)
class Outcome:
    """The result for one file: a report, or the error that kept it from being read. `state` is that of the file before."""

    file: str
    code: int
    report: SignatureReport | None = None
    error: str = ""
    error_code: str = ""
    offset: int | None = None
    state: State | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of this file."""
        if self.report is not None:
            return self.report.to_dict() | {"file": self.file}
        error = {"code": self.error_code, "message": self.error, "offset": self.offset}
        return {"file": self.file, "verdict": None, "signatures": [], "error": error}


def targets_in(places: Iterable[Path]) -> Iterator[Path | Outcome]:
    """Yield the files to verify in order: those given, those below folders, those that a DICOMDIR names.

    A DICOMDIR stands for the files it names and is no target itself; with one, every file is named once. What it names and cannot
    be verified is an outcome already.
    """
    from securepacs.media.directory import is_dicomdir

    paths = files_in(places)
    directories = {path for path in paths if is_dicomdir(path)}
    if not directories:
        yield from paths
        return
    seen: set[str] = set()
    for path in paths:
        for target in _of_directory(path) if path in directories else [path]:
            if isinstance(target, Outcome):
                yield target
            elif (key := os.path.realpath(target)) not in seen:
                seen.add(key)
                yield target


def _of_directory(path: Path) -> Iterator[Path | Outcome]:
    """Yield the files of a DICOMDIR, and an outcome for each that is not there or not allowed."""
    from securepacs.dicom.files import map_file
    from securepacs.media.directory import file_ids, resolve

    name = readable(path)
    found = False
    try:
        for components in file_ids(map_file(path)):
            found = True
            try:
                target = resolve(path.parent, components)
            except MalformedError as error:
                yield Outcome(name, 3, error=str(error), error_code=error.code)
                continue
            missing = readable(path.parent.joinpath(*components))
            yield target or Outcome(missing, 1, error="the DICOMDIR names this file and it is not there", error_code="missing")
    except MalformedError as error:
        yield Outcome(name, 3, error=str(error), error_code=error.code, offset=error.offset)
        return
    if not found:
        yield Outcome(name, 1, error="the DICOMDIR names no files", error_code="missing")


def judge(verifier: Verifier, file: Path) -> Outcome:
    """Verify one file; what keeps it from being read becomes part of the outcome."""
    from securepacs.wiring import exit_code

    name = readable(file)
    state = state_of(file)
    try:
        report = verifier.evaluate(file)
    except SecurePacsError as error:
        offset = error.offset if isinstance(error, MalformedError) else None
        return Outcome(name, exit_code(error), error=str(error), error_code=error.code, offset=offset, state=state)
    return Outcome(name, 0 if report.verdict == "TOTAL-PASSED" else 1, report, state=state)


def state_of(file: Path) -> State | None:
    """Return what shows that a file was touched; None when it cannot be asked."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def outcomes_of(files: Sequence[Path], question: Question, verifier: Verifier, workers: int) -> Iterator[Outcome]:
    """Verify files, in order; on several processes only as far ahead as they need, however many files there are."""
    if workers == 1 or len(files) <= 1:
        yield from (judge(verifier, file) for file in files)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor

    chunks = (files[at : at + _CHUNK] for at in range(0, len(files), _CHUNK))
    with ProcessPoolExecutor(
        min(workers, len(files)), multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(question,)
    ) as pool:
        waiting: deque[Future[list[Outcome]]] = deque(
            pool.submit(_judge_in_worker, chunk) for chunk in islice(chunks, workers * _AHEAD)
        )
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(_judge_in_worker, chunk) for chunk in islice(chunks, 1))
            yield from done


_worker: list[Verifier] = []  # the verifier of a worker process


def _start_worker(question: Question) -> None:
    _worker.append(question.verifier())


def _judge_in_worker(files: Sequence[Path]) -> list[Outcome]:
    return [judge(_worker[0], file) for file in files]
