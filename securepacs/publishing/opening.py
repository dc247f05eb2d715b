"""Open a disc: decrypt the file-set, and compare it with the manifests of those who signed it (PS3.10 7.4, PS3.15 C.4, D.1).

A manifest speaks for the disc when it is signed by one who signed the DICOMDIR. Whether that one is to be trusted is a question
of the trust policy; without a policy only changes show, and nothing is proven about the origin.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from securepacs import codes
from securepacs.dicom import map_file, open_dataset
from securepacs.errors import IntegrityFailure, MalformedError, SecurePacsError, UsageError, VerificationError
from securepacs.media.directory_records import UNREADABLE
from securepacs.media.file_set import OpenedFileSet, OpenedMember, Progress, is_secure_file_set, open_file_set, silent
from securepacs.media.volume import FolderVolume, Volume, is_image, open_image
from securepacs.signatures.manifests import SIGNED_MANIFEST, Manifest, read_manifest
from securepacs.signatures.references import uids_of
from securepacs.signatures.report import TOTAL_FAILED, TOTAL_PASSED
from securepacs.signatures.study import StudyReport, check_study
from securepacs.signatures.verify import Verifier
from securepacs.trust import TrustPolicy

if TYPE_CHECKING:
    from securepacs.cms.passwords import Password
    from securepacs.tokens.credential import Credential

_PATIENT_ID = 0x00100020
_CLAUSE = "PS3.15 C.4, D.1"


@dataclass(frozen=True, slots=True)
class OpenedDisc:
    """What was opened. `studies`: the comparison with each signed manifest.

    `warnings`: no-manifest (nobody vouches that it is complete), no-integrity, several-signers, several-patients, unnamed-files,
    incomplete, and those of single files.
    """

    file_set: OpenedFileSet
    studies: tuple[StudyReport, ...]
    warnings: tuple[str, ...]

    @property
    def origin(self) -> str:
        """Whether trusted signers made every file: only ever proven when a trust policy was given."""
        return "proven" if all(member.opened.origin == "proven" for member in self.file_set.members) else "not proven"


@contextmanager
def volume_at(place: Path) -> Iterator[Volume]:
    """Give the volume at `place`: a folder, or an ISO 9660 image, whose files are copied to a temporary folder one by one."""
    if place.is_dir():
        yield FolderVolume(place)
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="securepacs-") as scratch, open_image(place, Path(scratch)) as volume:
        yield volume


def is_disc(place: Path) -> bool:
    """Return whether there is an image, or a folder with a secure file-set, at `place`."""
    return is_image(place) or (place.is_dir() and is_secure_file_set(FolderVolume(place)))


def open_disc(
    place: Path,
    output: Path,
    credential: Credential | None = None,
    *,
    password: Password | None = None,
    policy: TrustPolicy | None = None,
    at: datetime | None = None,
    allow_no_integrity: bool = False,
    allow_incomplete: bool = False,
    progress: Progress = silent,
) -> OpenedDisc:
    """Open the disc at `place` into the new folder `output`; files are named by their File IDs.

    Errors as `media.file_set.open_file_set`. IntegrityFailure when an instance is not the one of the manifest, when one is missing
    or none of the manifest's, VerificationError when `policy` does not trust the manifest. On any error nothing appears at
    `output`. With `allow_incomplete` what can be opened is, and the rest becomes warnings.
    """
    moment = at or datetime.now(UTC)
    if output.exists() or output.is_symlink():
        raise UsageError(f"{output} is there already", hint="name a new folder")
    work = output.parent / f".securepacs-{secrets.token_hex(8)}"
    try:
        work.mkdir(mode=0o700)
        with volume_at(place) as volume:
            opened = open_file_set(
                volume, work, credential, password=password, policy=policy, at=moment, allow_no_integrity=allow_no_integrity,
                allow_incomplete=allow_incomplete, progress=progress,
            )  # fmt: skip
        disc = _judged(opened, policy, moment, allow_incomplete=allow_incomplete)
        work.rename(output)
        moved = tuple(replace(member, path=output.joinpath(*member.file_id)) for member in opened.members)
        return replace(disc, file_set=replace(opened, members=moved))
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _judged(opened: OpenedFileSet, policy: TrustPolicy | None, moment: datetime, *, allow_incomplete: bool) -> OpenedDisc:
    directory, instances = opened.members[0], opened.members[1:]
    warnings: dict[str, None] = {}
    signers = {frozenset(signer.certificate for signer in member.opened.signers) for member in opened.members}
    facts = [_Facts.of(member) for member in instances]
    for name, true in (
        ("several-signers", len(signers) > 1),
        ("several-patients", len({each.patient_id for each in facts}) > 1),
        ("unnamed-files", bool(opened.unnamed)),
        ("incomplete", bool(opened.failed)),
    ):
        warnings |= {name: None} if true else {}
    for member in opened.members:
        warnings |= dict.fromkeys(member.opened.warnings)
    trusted = _policy(directory, policy)
    reports: list[StudyReport] = []
    if trusted is not None:
        verifier = Verifier(trusted, at=moment)
        for manifest, members in _manifests(facts, directory):
            report = check_study(manifest.path, [each.path for each in members], verifier)
            _require_whole(report, demanded=policy is not None, allow_incomplete=allow_incomplete)
            reports.append(report)
    covered = {report.study_instance_uid for report in reports}
    if any(each.study_instance_uid not in covered for each in facts) or not facts:
        warnings["no-manifest"] = None
    return OpenedDisc(opened, tuple(reports), tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Facts:
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    patient_id: str

    @classmethod
    def of(cls, member: OpenedMember) -> _Facts:
        dataset = open_dataset(map_file(member.path))
        uids = uids_of(dataset)
        identity = b""
        for element in dataset.elements():
            if element.tag >= _PATIENT_ID:
                identity = bytes(dataset.value(element)) if element.tag == _PATIENT_ID else b""
                break
        return cls(
            member.path, uids.sop_class_uid, uids.sop_instance_uid, uids.study_instance_uid, identity.decode("latin-1").strip(" \0")
        )


def _policy(directory: OpenedMember, policy: TrustPolicy | None) -> TrustPolicy | None:
    """Return whom manifests are asked of: those the policy trusts, else those who signed the DICOMDIR; None when nobody did.

    The chain of the signer came along with the DICOMDIR: it helps to find a path and is trusted for nothing.
    """
    if policy is not None:
        return replace(policy, intermediates=(*policy.intermediates, *directory.opened.certificates))
    anchors = tuple(signer.certificate for signer in directory.opened.signers)
    return TrustPolicy(anchors=anchors) if anchors else None


def _manifests(facts: Sequence[_Facts], directory: OpenedMember) -> Iterator[tuple[_Facts, list[_Facts]]]:
    """Yield the disc's own manifest of every study that has one, with the instances of the study.

    Manifests that came along, because they were published as part of the study, are named in the disc's own.
    """
    own = {signer.certificate for signer in directory.opened.signers}
    for study in dict.fromkeys(each.study_instance_uid for each in facts):
        members = [each for each in facts if each.study_instance_uid == study]
        found: dict[str, tuple[_Facts, Manifest]] = {}
        for each in members:
            document = _manifest(each)
            if document is not None and own & _signers(each.path):
                found[each.sop_instance_uid] = (each, document)
        named = {reference.instance.sop_instance_uid for _, document in found.values() for reference in document.references}
        outermost = [each for uid, (each, _) in found.items() if uid not in named]
        if len(outermost) > 1:
            raise VerificationError("a study has two manifests that do not know of each other", standard=_CLAUSE)
        if outermost:
            yield outermost[0], members


def _manifest(each: _Facts) -> Manifest | None:
    if each.sop_class_uid != codes.KEY_OBJECT_SELECTION_DOCUMENT:
        return None
    try:
        document = read_manifest(bytes(map_file(each.path)))
    except (MalformedError, *UNREADABLE):
        return None  # a Key Object of another kind
    return document if document.title == SIGNED_MANIFEST else None


def _signers(path: Path) -> set[object]:
    """Return the certificates in the signatures of a document, unverified."""
    from cryptography import x509

    from securepacs.signatures.sequences import read_signatures, survey
    from securepacs.signatures.values import der_value

    dataset = open_dataset(map_file(path))
    scope = survey(dataset).at(())
    try:
        items = () if scope is None else read_signatures(dataset, scope)
        return {x509.load_der_x509_certificate(der_value(item.certificate)) for item in items}
    except (ValueError, SecurePacsError):
        return set()


def _require_whole(report: StudyReport, *, demanded: bool, allow_incomplete: bool) -> None:
    if report.changed or report.extra or report.undecided or report.manifest.verdict == TOTAL_FAILED:
        raise IntegrityFailure("the files are not those of the signed manifest", report=report, standard=_CLAUSE)
    if report.missing and not allow_incomplete:
        text = f"{len(report.missing)} instances of the signed manifest are not on the medium"
        raise IntegrityFailure(text, report=report, standard=_CLAUSE)
    if demanded and report.manifest.verdict != TOTAL_PASSED:
        raise VerificationError("the signature of the manifest is not trusted", report=report.manifest, standard=_CLAUSE)
