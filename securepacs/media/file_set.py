"""Secure file-sets (PS3.10 7.4, 8; PS3.11 X.3.5): every DICOM file of the set is a Secure DICOM File, the DICOMDIR too.

Writing: the files get File IDs that count, the DICOMDIR comes last. Opening: the DICOMDIR first, then what it names, each with the
checks of `secure_file.open`; every file may have other recipients, integrity and signers (PS3.11 D.3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from securepacs.cms.ciphers import CIPHERS
from securepacs.cms.passwords import Password
from securepacs.cms.recipients import KeyTransport
from securepacs.dicom.files import map_file, write_atomically
from securepacs.dicom.part10 import MEDIA_STORAGE_SOP_INSTANCE_UID, read_part10
from securepacs.errors import IntegrityFailure, MalformedError, SecurePacsError, UsageError, VerificationError
from securepacs.media import directory, secure_file
from securepacs.media.file_ids import DICOMDIR, FileId, file_id, place
from securepacs.media.secure_file import DEFAULT_CIPHER, OpenedFile
from securepacs.media.volume import Volume
from securepacs.tokens.credential import Credential
from securepacs.trust import TrustPolicy

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PAGE = "OPEN.HTM"
T = TypeVar("T")


class Progress(Protocol):
    """Yields what it is given and may show how far it is, for example `cli.output.with_progress`."""

    def __call__(self, steps: Iterable[T], total: int, text: str) -> Iterable[T]:
        """Return `steps`."""
        ...


def silent(steps: Iterable[T], total: int, text: str) -> Iterable[T]:
    """Show nothing."""
    return steps


MAX_DIRECTORY = 1 << 30  # octets; a DICOMDIR beyond this is refused


@dataclass(frozen=True, slots=True)
class Sealing:
    """How the files of a set are protected; see `secure_file.protect`."""

    recipients: Sequence[x509.Certificate] = ()
    password: Password | None = None
    signer: Credential | None = None
    cipher: str = DEFAULT_CIPHER
    key_transport: KeyTransport = "pkcs1v15"
    at: datetime | None = None

    @property
    def within_profile(self) -> bool:
        """Whether only what PS3.15 D.1 has is used: RSA of PKCS #1 v1.5 and CBC ciphers."""
        rsa = all(isinstance(each.public_key(), RSAPublicKey) for each in self.recipients)
        return rsa and self.key_transport == "pkcs1v15" and self.cipher in CIPHERS and CIPHERS[self.cipher].within_profile

    def protect(self, content: bytes | Path, output: Path) -> None:
        """Write one Secure DICOM File."""
        secure_file.protect(
            content, recipients=self.recipients, password=self.password, signer=self.signer, cipher=self.cipher,
            key_transport=self.key_transport, at=self.at, output=output,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """An instance to be written: its attributes without pixel data, its transfer syntax, and how to get at its file.

    `name` is what error texts call it.
    """

    name: str
    head: Dataset = field(repr=False)
    transfer_syntax_uid: str
    content: Callable[[], bytes | Path] = field(repr=False)


def write_file_set(folder: Path, members: Iterable[Member], sealing: Sealing, *, page: bytes | None = None) -> int:
    """Write a secure file-set into the empty `folder` and return how many instances it holds (PS3.11 D, J).

    `page` becomes the readable OPEN.HTM. UsageError when there is no instance or one twice; errors of `secure_file.protect`. What
    was written before an error stays: give a folder of its own and throw it away.
    """
    from securepacs.media.dicomdir import Entry, build_dicomdir
    from securepacs.media.directory_records import records_of

    entries = []
    for number, member in enumerate(members):
        identifier = file_id(number)
        try:
            records = records_of(member.head, number)
        except (MalformedError, UsageError) as error:
            raise type(error)(f"{member.name}: {error.message}", hint=error.hint, standard=error.standard) from None
        entry = Entry(
            identifier,
            records,
            str(member.head.SOPClassUID),
            str(member.head.SOPInstanceUID),
            member.transfer_syntax_uid,
        )
        target = place(folder, identifier)
        _make_folder(target.parent)
        sealing.protect(member.content(), target)
        entries.append(entry)
    plain = build_dicomdir(entries)
    if page is not None:
        write_atomically(folder / PAGE, [page])
    sealing.protect(plain, folder / DICOMDIR)
    return len(entries)


@dataclass(frozen=True, slots=True)
class OpenedMember:
    """A file of the set, opened at `path`."""

    file_id: FileId
    path: Path
    opened: OpenedFile


@dataclass(frozen=True, slots=True)
class OpenedFileSet:
    """The DICOMDIR first, then the files in its order.

    `failed`: what it names and did not open; `unnamed`: what it does not name.
    """

    members: tuple[OpenedMember, ...]
    failed: tuple[tuple[FileId, SecurePacsError], ...] = ()
    unnamed: tuple[str, ...] = ()


def is_secure_file_set(volume: Volume) -> bool:
    """Return whether the volume has a DICOMDIR that is a Secure DICOM File."""
    found = volume.find((DICOMDIR,))
    if found is None:
        return False
    try:
        return secure_file.inspect(found).kind == "secure"
    except SecurePacsError:
        return False


def open_file_set(
    volume: Volume,
    folder: Path,
    credential: Credential | None = None,
    *,
    password: Password | None = None,
    policy: TrustPolicy | None = None,
    at: datetime | None = None,
    allow_no_integrity: bool = False,
    allow_incomplete: bool = False,
    progress: Progress = silent,
) -> OpenedFileSet:
    """Open every file of a secure file-set into the empty `folder`, under its File ID.

    Errors as `secure_file.open`, of the DICOMDIR or the first file; MalformedError for a File ID that leads out of the set or is
    none; VerificationError for a file that is missing; IntegrityFailure for one that is not the instance the DICOMDIR says. With
    `allow_incomplete` the errors of single files stand in `failed`. What was written before an error stays in `folder`.
    """

    def opened(source: Path, target: Path) -> OpenedFile:
        _make_folder(target.parent)
        return secure_file.open(
            source, credential, password=password, policy=policy, at=at, allow_no_integrity=allow_no_integrity, output=target
        )

    start = volume.find((DICOMDIR,))
    if start is None:
        raise MalformedError("the medium has no DICOMDIR", standard="PS3.10 8.6")
    first = OpenedMember((DICOMDIR,), folder / DICOMDIR, opened(start, folder / DICOMDIR))
    members, failed = [first], []
    named = _named(first.path)
    for identifier, uid in progress(named, len(named), "opening"):
        try:
            target = folder.joinpath(*identifier)
            member = OpenedMember(identifier, target, opened(_found(volume, identifier), target))
            _require_instance(target, uid)
            members.append(member)
        except SecurePacsError as error:
            if not allow_incomplete:
                raise
            failed.append((identifier, error))
            folder.joinpath(*identifier).unlink(missing_ok=True)
    known = {(DICOMDIR,), (PAGE,), *(tuple(part.upper() for part in identifier) for identifier, _ in named)}
    unnamed = tuple("/".join(name) for name in volume.names() if tuple(part.upper() for part in name) not in known)
    return OpenedFileSet(tuple(members), tuple(failed), unnamed)


def _named(path: Path) -> list[tuple[FileId, str]]:
    """Return File ID and SOP Instance UID of everything a DICOMDIR names: none leads out of its folder or stands there twice."""
    raw = map_file(path)
    if not directory.directory_in(raw) or len(raw) > MAX_DIRECTORY:
        raise MalformedError("what is named DICOMDIR is no directory of a file-set", standard="PS3.10 8.6")
    named = list(directory.files_named(raw))
    for identifier, _ in named:
        directory.require_inside(identifier)
    names = {tuple(component.upper() for component in identifier) for identifier, _ in named}  # as file systems may see them
    if len(names) < len(named) or (DICOMDIR,) in names:
        raise MalformedError("the DICOMDIR names a file twice, or itself", standard="PS3.10 8.6")
    return named


def _found(volume: Volume, identifier: FileId) -> Path:
    found = volume.find(identifier)
    if found is None:
        raise VerificationError(
            f"the DICOMDIR names {'/'.join(identifier)}, which is not on the medium",
            hint="copy the medium again",
            standard="PS3.10 8.6",
        )
    return found


def _require_instance(path: Path, uid: str) -> None:
    meta = read_part10(map_file(path)).meta
    if not uid or meta.get(MEDIA_STORAGE_SOP_INSTANCE_UID, b"").decode("latin-1").strip(" \0") != uid:
        raise IntegrityFailure("a file is not the instance that the DICOMDIR names in its place", standard="PS3.3 F.3.2.2")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
