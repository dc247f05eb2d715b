"""Sign many files at once: while one is hashed and signed, the one before is on its way to the disk (PS3.15 C)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore

from cryptography.hazmat.primitives.asymmetric import rsa

from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import map_file, replace_file, sync_folder
from securepacs.dicom.part10 import is_deflated
from securepacs.errors import SecurePacsError, TokenError, UsageError
from securepacs.signatures.preparation import Preparation, SigningOptions, Value
from securepacs.signatures.sequences import DIGITAL_SIGNATURES_SEQUENCE
from securepacs.signatures.sign import check_credential, prepare
from securepacs.tokens.credential import Credential

_THREADS = 2  # one can write while the other waits for the disk
_PENDING = 6  # files a FileWriter holds at most
_LARGE = 16 << 20  # bytes of a file that is written while it is hashed
_BEHIND = 6  # files that may be signed and not yet written


class FileWriter:
    """Writes many files, each as `write_atomically` does, in threads of its own while the caller prepares the next ones.

    A context manager: at its end all files are written, and their folders synchronized once each. At any moment a `path` holds the
    old content or all of the new one; after a power cut, files written before the end may be back at their old content.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="file-writer")
        self._room = BoundedSemaphore(_PENDING)
        self._folders: dict[Path, None] = {}

    def write(self, path: Path, pieces: Iterable[Buffer], *, mode: int | None = None) -> Future[None]:
        """Hand over a file; waits while many are pending. The future's result raises the UsageError of a file that failed."""
        self._room.acquire()
        self._folders[path.parent] = None
        written = self._threads.submit(replace_file, path, pieces, mode)
        written.add_done_callback(lambda _: self._room.release())
        return written

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
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
    folders: set[Path] = set()
    with FileWriter() as writer:
        for source, target in pairs:
            try:
                asked = options()
                check_credential(credential, asked.profile)
                if target.parent not in folders:  # to ask the file system for each file costs as much as to sign it
                    target.parent.mkdir(parents=True, exist_ok=True)
                    folders.add(target.parent)
                waiting.append(_sign(source, target, prepare(map_file(source), asked), credential, writer))
            except TokenError:
                yield from map(_outcome, waiting)
                raise
            except OSError as error:
                failure = UsageError(f"cannot write {target}: {error.strerror}")
                waiting.append((SignedFile(source, target, error=failure), None))
            except SecurePacsError as error:
                waiting.append((SignedFile(source, target, error=error), None))
            while len(waiting) > _BEHIND:
                yield _outcome(waiting.popleft())
        yield from map(_outcome, waiting)


def _sign(
    source: Path, target: Path, preparation: Preparation, credential: Credential, writer: FileWriter
) -> tuple[SignedFile, Future[None]]:
    """Sign one file and hand it to the writer; a large one is already being written while it is hashed."""
    size = _value_size(preparation, credential)
    if size is None:
        signed = preparation.assemble(credential, preparation.values(credential))
        return SignedFile(source, target, signed.uids, signed.padded), writer.write(target, signed.pieces)
    draft = preparation.assemble(credential, [Value(bytes(size)) for _ in preparation.drafts])
    blank = draft.additions[DIGITAL_SIGNATURES_SEQUENCE]
    complete: Future[bytes] = Future()  # the same element with the values in it

    def pieces() -> Iterator[Buffer]:
        for piece in draft.pieces:
            yield complete.result() if isinstance(piece, memoryview) and piece.obj is blank else piece

    written = writer.write(target, pieces())
    try:
        signed = preparation.assemble(credential, preparation.values(credential))
        if len(signed.additions[DIGITAL_SIGNATURES_SEQUENCE]) != len(blank):
            raise TokenError("the signature value is not as long as the key", standard="RFC 8017 8.2.1")
    except BaseException as error:
        complete.set_exception(error)  # the writer gives up, and the target stays as it was
        raise
    complete.set_result(signed.additions[DIGITAL_SIGNATURES_SEQUENCE])
    return SignedFile(source, target, signed.uids, signed.padded), written


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
