"""Sign many files at once (PS3.15 C): while one is signed, the next is hashed and the one before is on its way to the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread

from cryptography.hazmat.primitives.asymmetric import rsa

from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import PendingFile, default_mode, map_file, sync_folder
from securepacs.dicom.part10 import is_deflated
from securepacs.errors import SecurePacsError, TokenError, UsageError
from securepacs.signatures.preparation import Digest, Preparation, SigningOptions, Value
from securepacs.signatures.sequences import DIGITAL_SIGNATURES_SEQUENCE
from securepacs.signatures.sign import check_credential, prepare
from securepacs.tokens.credential import Credential

_GROUP = 8  # files that go to the disk together
_PATIENCE = 0.05  # seconds that a group waits for its next file
_PENDING = 3 * _GROUP  # files a FileWriter holds at most
_UNWRITTEN = 6  # of these, at most, whose content is still in memory
_LARGE = 16 << 20  # bytes of a file that is written while it is hashed
_BEHIND = 2 * _GROUP  # files that may be signed and not yet written


class FileWriter:
    """Writes many files, each as `write_atomically` does, in a thread of its own while the caller prepares the next ones.

    A context manager: at its end all files are written, and their folders synchronized once each. At any moment a `path` holds the
    old content or all of the new one; after a power cut, files written before the end may be back at their old content.

    Files take their names in groups, after the content of the whole group is on the disk: one journal commit of the file system
    serves them all (docs/adr/0032).
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._room = BoundedSemaphore(_PENDING)
        self._memory = BoundedSemaphore(_UNWRITTEN)
        self._folders: dict[Path, None] = {}
        self._mode = default_mode()
        self._group: list[tuple[PendingFile, Future[None]]] = []
        self._thread = Thread(target=self._work, name="file-writer", daemon=True)
        self._thread.start()

    def write(self, path: Path, pieces: Iterable[Buffer], *, mode: int | None = None) -> Future[None]:
        """Hand over a file; waits while many are pending. The future's result raises the UsageError of a file that failed."""
        self._room.acquire()
        self._memory.acquire()
        written: Future[None] = Future()
        written.add_done_callback(lambda _: self._room.release())
        self._jobs.put(partial(self._write, path, pieces, self._mode if mode is None else mode, written))
        return written

    def settle(self) -> None:
        """Let the files handed over so far be completed without waiting for more of them."""
        self._jobs.put(self._complete)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_PATIENCE if self._group else None)
            except Empty:
                job = self._complete
            if job is None:
                break
            job()
        self._complete()

    def _write(self, path: Path, pieces: Iterable[Buffer], mode: int, written: Future[None]) -> None:
        try:
            self._group.append((PendingFile(path, pieces, mode), written))
        except BaseException as error:  # whatever it is, it is the caller's
            written.set_exception(error)
        finally:
            self._memory.release()
        if len(self._group) >= _GROUP:
            self._complete()

    def _complete(self) -> None:
        group, self._group = self._group, []
        for step in (PendingFile.synchronize, PendingFile.take_name):
            for file, written in group:
                try:
                    if not written.done():
                        step(file)
                except BaseException as error:
                    written.set_exception(error)
        for file, written in group:
            if not written.done():
                self._folders[file.path.parent] = None
                written.set_result(None)

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.put(None)
        self._thread.join()
        for folder in self._folders:
            sync_folder(folder)


@dataclass(frozen=True, slots=True)
class SignedFile:
    """What became of one file: the UIDs of the signatures made, or the error that left the target as it was.

    `padded`: some signed text value carries surplus padding, which verifiers that trim values (DCMTK) will not reproduce.
    """

    source: Path
    target: Path
    uids: tuple[str, ...] = ()
    padded: bool = False
    error: SecurePacsError | None = None


def sign_files(
    pairs: Iterable[tuple[Path, Path]], credential: Credential, options: Callable[[], SigningOptions]
) -> Iterator[SignedFile]:
    """Sign each source into its target and yield the outcomes in order, each once its target is complete (PS3.15 C.1).

    `options` is asked before every file, so that each signature carries its own moment. Each target holds the old content or all of
    the new one; that the new one also survives a power cut is certain when the iterator has ended. A problem with one file is its
    outcome's error; TokenError ends the run, after what was signed before it is written.
    """
    waiting: deque[tuple[SignedFile, Future[None] | None]] = deque()
    with FileWriter() as writer, ThreadPoolExecutor(1, thread_name_prefix="hasher") as hasher:
        try:
            for one in _one_ahead(_prepared(pairs, credential, options, hasher)):
                waiting.append((one, None) if isinstance(one, SignedFile) else _signed(one, credential, writer))
                while len(waiting) > _BEHIND:
                    yield _outcome(waiting.popleft())
        except TokenError:
            writer.settle()
            yield from map(_outcome, waiting)
            raise
        writer.settle()
        yield from map(_outcome, waiting)


@dataclass(frozen=True, slots=True)
class _Job:
    """A file that is ready to be signed; `digests` are on their way, None when they are not to be made ahead."""

    source: Path
    target: Path
    preparation: Preparation
    digests: Future[list[Digest]] | None


def _prepared(
    pairs: Iterable[tuple[Path, Path]], credential: Credential, options: Callable[[], SigningOptions], hasher: ThreadPoolExecutor
) -> Iterator[_Job | SignedFile]:
    """Read each file and have it hashed; what cannot be signed is an outcome already."""
    folders: set[Path] = set()
    for source, target in pairs:
        try:
            asked = options()
            check_credential(credential, asked.profile)
            if target.parent not in folders:  # to ask the file system for each file costs as much as to sign it
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            preparation = prepare(map_file(source), asked)
            ahead = len(preparation.raw) < _LARGE
            yield _Job(source, target, preparation, hasher.submit(preparation.digests) if ahead else None)
        except TokenError:
            raise
        except OSError as error:
            yield SignedFile(source, target, error=UsageError(f"cannot write {target}: {error.strerror}"))
        except SecurePacsError as error:
            yield SignedFile(source, target, error=error)


def _one_ahead(jobs: Iterator[_Job | SignedFile]) -> Iterator[_Job | SignedFile]:
    """Yield the jobs in order, each after the next has been prepared, so that the hasher is never idle."""
    ahead = next(jobs, None)
    while ahead is not None:
        current, ahead = ahead, next(jobs, None)
        yield current


def _signed(job: _Job, credential: Credential, writer: FileWriter) -> tuple[SignedFile, Future[None] | None]:
    """Sign one file and hand it to the writer; a large one is already being written while it is hashed."""
    preparation = job.preparation
    size = _value_size(preparation, credential)
    try:
        if size is not None:
            return _signed_while_written(job, size, credential, writer)
        digests = preparation.digests() if job.digests is None else job.digests.result()
        signed = preparation.assemble(credential, preparation.values(credential, digests))
        return SignedFile(job.source, job.target, signed.uids, signed.padded), writer.write(job.target, signed.pieces)
    except TokenError:
        raise
    except SecurePacsError as error:
        return SignedFile(job.source, job.target, error=error), None


def _signed_while_written(
    job: _Job, size: int, credential: Credential, writer: FileWriter
) -> tuple[SignedFile, Future[None] | None]:
    preparation = job.preparation
    draft = preparation.assemble(credential, [Value(bytes(size)) for _ in preparation.drafts])
    blank = draft.additions[DIGITAL_SIGNATURES_SEQUENCE]
    complete: Future[bytes] = Future()  # the same element with the values in it

    def pieces() -> Iterator[Buffer]:
        for piece in draft.pieces:
            yield complete.result() if isinstance(piece, memoryview) and piece.obj is blank else piece

    written = writer.write(job.target, pieces())
    try:
        signed = preparation.assemble(credential, preparation.values(credential))
        if len(signed.additions[DIGITAL_SIGNATURES_SEQUENCE]) != len(blank):
            raise TokenError("the signature value is not as long as the key", standard="RFC 8017 8.2.1")
    except BaseException as error:
        complete.set_exception(error)  # the writer gives up, and the target stays as it was
        raise
    complete.set_result(signed.additions[DIGITAL_SIGNATURES_SEQUENCE])
    return SignedFile(job.source, job.target, signed.uids, signed.padded), written


def _value_size(preparation: Preparation, credential: Credential) -> int | None:
    """Return how long each signature value will be, when that is known beforehand and worth knowing: large file, RSA, no stamp."""
    key = credential.private_key
    plain = isinstance(key, rsa.RSAPrivateKey) and preparation.options.timestamp is None
    if not plain or is_deflated(preparation.dataset.transfer_syntax) or len(preparation.raw) < _LARGE:
        return None
    return (key.key_size + 7) // 8


def _outcome(entry: tuple[SignedFile, Future[None] | None]) -> SignedFile:
    done, written = entry
    try:
        if written is not None:
            written.result()
    except SecurePacsError as error:
        return SignedFile(done.source, done.target, error=error)
    return done
