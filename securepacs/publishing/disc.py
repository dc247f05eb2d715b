"""Publish: from instances to a secure file-set in a folder, on a stick or as an ISO 9660 image (PS3.10 7.4, PS3.11 D, J).

Everything is prepared beside the destination and appears there last; what is prepared there is encrypted already. The Export record
is durable before the medium appears.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydicom import dcmread

from securepacs import codes
from securepacs.audit.message import EventOutcomeIndicator
from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import sync_folder
from securepacs.errors import UsageError
from securepacs.media.application_profiles import Medium, profile_for
from securepacs.media.file_set import Member, Progress, Sealing, silent, write_file_set
from securepacs.media.page import CIPHERS, page
from securepacs.media.volume import write_image
from securepacs.publishing.leaving import as_it_leaves
from securepacs.publishing.survey import Source, survey
from securepacs.signatures.manifests import manifest

if TYPE_CHECKING:
    from securepacs.originals import OriginalRegistry
    from securepacs.tokens.credential import Credential

_LABEL = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
_IMAGE = "image"
_OF_THE_SYSTEM = {"System Volume Information", "lost+found", ".Trashes", ".fseventsd", ".Spotlight-V100"}

Recorder: TypeAlias = Callable[[list[Source], Medium, str, EventOutcomeIndicator], None]


@dataclass(frozen=True, slots=True)
class PublishedDisc:
    """What was made. `profile` is the application profile of PS3.11 it conforms to, empty for none; `label` names the medium.

    `instances` counts manifests too. `left_out`: files that are not DICOM. `size`: octets of an image, 0 for a folder.
    """

    output: Path
    medium: Medium
    profile: str
    label: str
    instances: int
    studies: int
    manifests: int
    left_out: tuple[str, ...] = ()
    size: int = 0


def publish(
    paths: Iterable[Path],
    output: Path,
    sealing: Sealing,
    *,
    medium: Medium = Medium.USB,
    at: datetime | None = None,
    several_patients: bool = False,
    skip_others: bool = False,
    any_transfer_syntax: bool = False,
    registry: OriginalRegistry | None = None,
    authorized_copies: bool = False,
    record: Recorder | None = None,
    progress: Progress = silent,
) -> PublishedDisc:
    """Publish the instances in `paths` as a secure file-set at `output`: a new or empty folder, or for `Medium.CD` a new image.

    With a signer in `sealing` each study gets a signed manifest (Key Object, 113031 DCM). With a password the readable page
    OPEN.HTM is added. `record(sources, medium, label, outcome)` must return when the Export record is durable; it is called
    before the medium appears. Errors of `survey` and `secure_file.protect`; UsageError when no profile takes a transfer syntax,
    unless `any_transfer_syntax`, and when something is there already. On any error nothing appears at `output`.
    """
    moment = at or datetime.now(UTC)
    sources, left_out = survey(paths, several_patients=several_patients, skip_others=skip_others)
    profile = profile_for(medium, frozenset(source.published_transfer_syntax_uid for source in sources))
    if profile is None and not any_transfer_syntax:
        raise UsageError(
            f"no secure application profile takes these transfer syntaxes on this medium ({medium.value})",
            hint="decompress the images, write a USB tree instead of an image, or give up the profile",
            standard="PS3.11 D.3.1, J.3.1",
        )
    if sealing.password is not None and sealing.cipher not in CIPHERS:
        raise UsageError("the page on a disc with a password cannot open this cipher", hint="take aes256-cbc")

    def leaving(data: Buffer) -> Buffer:
        return as_it_leaves(data, registry=registry, authorized_copies=authorized_copies)

    label = "".join(secrets.choice(_LABEL) for _ in range(8))
    recorded: list[Source] = []
    try:
        with _prepared(output, medium) as folder:
            manifests = _manifests(sources, sealing.signer, moment, leaving) if sealing.signer is not None else []
            members = [*(_member(source, leaving) for source in sources), *(_member(each, lambda data: data) for each in manifests)]
            steps = progress(members, len(members), "encrypting")
            count = write_file_set(folder, steps, sealing, page=page() if sealing.password is not None else None)
            if medium is Medium.CD:
                write_image(folder, folder.with_name(_IMAGE), label=label)
            if record is not None:
                record([*sources, *manifests], medium, label, EventOutcomeIndicator.SUCCESS)
                recorded = [*sources, *manifests]
    except BaseException:
        if record is not None and recorded:  # what was recorded as done did not come to be
            record(recorded, medium, label, EventOutcomeIndicator.SERIOUS_FAILURE)
        raise
    identifier = profile.identifier if profile is not None and sealing.within_profile else ""
    size = output.stat().st_size if medium is Medium.CD else 0
    studies = len({str(source.head.StudyInstanceUID) for source in sources})
    return PublishedDisc(output, medium, identifier, label, count, studies, len(manifests), tuple(left_out), size)


def _member(source: Source, leaving: Callable[[Buffer], Buffer]) -> Member:
    def content() -> bytes | Path:
        data = source.load()
        left = leaving(data)
        return source.place if left is data else bytes(left)  # unchanged files pass through in constant memory

    return Member(source.name, source.head, source.published_transfer_syntax_uid, content)


def _manifests(
    sources: Sequence[Source], signer: Credential, moment: datetime, leaving: Callable[[Buffer], Buffer]
) -> list[Source]:
    """Return a signed manifest of every study, over its instances as they leave (PS3.15 A.4, PS3.17 W)."""
    by_study: dict[str, list[Source]] = {}
    for source in sources:
        by_study.setdefault(str(source.head.StudyInstanceUID), []).append(source)
    made = []
    for members in by_study.values():
        raw = manifest((leaving(source.load()) for source in members), signer, at=moment)
        made.append(Source("the manifest", raw, dcmread(BytesIO(raw)), codes.EXPLICIT_VR_LITTLE_ENDIAN))
    return made


@contextmanager
def _prepared(output: Path, medium: Medium) -> Iterator[Path]:
    """Give an empty folder for the file-set; when the block ends well it becomes `output`, or the image beside it does."""
    _require_free(output, medium)
    into = medium is Medium.USB and output.is_dir()
    parent = output if into else output.parent
    work = parent / f".securepacs-{secrets.token_hex(8)}"
    try:
        work.mkdir(mode=0o700)
        folder = work / "set"
        folder.mkdir(mode=0o755)
        yield folder
        if medium is Medium.CD:
            (work / _IMAGE).rename(output)
        elif into:
            _move_into(folder, output)
        else:
            folder.rename(output)
        sync_folder(parent)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_free(output: Path, medium: Medium) -> None:
    if medium is Medium.USB and output.is_dir():
        if {entry.name for entry in output.iterdir()} - _OF_THE_SYSTEM:
            raise UsageError(f"{output} is not empty", hint="a secure file-set needs a place of its own", standard="PS3.10 7.4")
    elif output.exists() or output.is_symlink():
        raise UsageError(f"{output} is there already", hint="name a new one")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}")


def _move_into(folder: Path, output: Path) -> None:
    """Move the set into a folder that is there, the DICOMDIR last: without it there is no file-set."""
    moved: list[Path] = []
    try:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "DICOMDIR"):
            entry.rename(output / entry.name)
            moved.append(output / entry.name)
    except OSError:
        for entry in moved:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise
