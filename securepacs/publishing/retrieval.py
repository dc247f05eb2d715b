"""Studies from an archive, to be published: fetched by C-GET into a private folder, and counted (PS3.4 C.4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset

from securepacs.errors import ProtocolError, UsageError
from securepacs.pacs import PacsConnector, QueryLevel

_CLAUSE = "PS3.4 C.4"


def fetch_studies(archive: PacsConnector, study_instance_uids: Iterable[str], folder: Path) -> list[Path]:
    """Fetch whole studies into `folder` and return their files; errors of `PacsConnector`.

    UsageError for a study that the archive does not have, ProtocolError when it sent fewer instances than it counts.
    """
    files: list[Path] = []
    for number, uid in enumerate(dict.fromkeys(study_instance_uids)):
        if not uid or not set(uid) <= set("0123456789."):
            raise UsageError("a study is named by its Study Instance UID", standard="PS3.5 9.1")
        keys = {"StudyInstanceUID": uid, "SOPClassesInStudy": "", "NumberOfStudyRelatedInstances": ""}
        matches = [match for match in archive.find(QueryLevel.STUDY, keys) if str(match.get("StudyInstanceUID", "")) == uid]
        if not matches:
            raise UsageError(f"the archive has no study {uid}", standard=_CLAUSE)
        got = archive.retrieve(uid, folder / str(number), sop_classes=_classes(matches))
        expected = max(_count(match) for match in matches)
        if not got or len(got) < expected:
            raise ProtocolError(f"the archive sent {len(got)} of {expected or 'some'} instances of study {uid}", standard=_CLAUSE)
        files += got
    return files


def _classes(matches: Iterable[Dataset]) -> list[str]:
    found: dict[str, None] = {}
    for match in matches:
        value = match.get("SOPClassesInStudy") or ()
        found |= dict.fromkeys([value] if isinstance(value, str) else map(str, value))
    return list(found)


def _count(match: Dataset) -> int:
    try:
        return int(match.get("NumberOfStudyRelatedInstances") or 0)
    except (TypeError, ValueError):
        return 0
