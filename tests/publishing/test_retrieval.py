"""Studies fetched from archives: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from securepacs.errors import ProtocolError, UsageError
from securepacs.pacs import QueryLevel
from securepacs.publishing.retrieval import fetch_studies
from tests.support.samples import sample


class SmallArchive:
    """An archive of studies with so many instances each; it sends one fewer than it counts when `short`."""

    def __init__(self, studies: Mapping[str, int], *, short: bool = False) -> None:
        self._studies, self._short = studies, short
        self.asked_for: list[list[str]] = []

    def echo(self) -> None:
        """Answer."""

    def find(self, level: QueryLevel, keys: Mapping[str, str]) -> list[Dataset]:
        """Return all studies, as archives do that do not look at the key."""
        matches = []
        for uid, count in self._studies.items():
            match = Dataset()
            match.StudyInstanceUID = uid
            match.NumberOfStudyRelatedInstances = count
            match.SOPClassesInStudy = ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"][: count or None]
            matches.append(match)
        return matches

    def retrieve(self, study_instance_uid: str, folder: Path, *, sop_classes: Iterable[str] = ()) -> list[Path]:
        """Write the files."""
        self.asked_for.append(list(sop_classes))
        folder.mkdir(parents=True)
        count = self._studies[study_instance_uid] - self._short
        paths = [folder / str(number) for number in range(count)]
        for path in paths:
            path.write_bytes(sample("CT_small.dcm").read_bytes())
        return paths

    def store(self, files: Iterable[Path]) -> tuple[int, ...]:
        """Refuse: nobody stores here."""
        raise NotImplementedError


def test_studies_lie_in_folders_that_say_nothing(tmp_path: Path) -> None:
    archive = SmallArchive({"1.2.3": 1, "1.2.4": 2})
    got = fetch_studies(archive, ["1.2.3", "1.2.4", "1.2.3"], tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in got] == ["0/0", "1/0", "1/1"]
    assert archive.asked_for == [
        ["1.2.840.10008.5.1.4.1.1.2"],
        ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"],
    ]


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no study 1\.2\.5"):
        fetch_studies(SmallArchive({"1.2.3": 1}), ["1.2.5"], tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_study_that_arrives_in_part_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ProtocolError, match=f"sent {count - 1} of {count} instances"):
        fetch_studies(SmallArchive({"1.2.3": count}, short=True), ["1.2.3"], tmp_path)


@pytest.mark.parametrize("uid", ["", "*", "1.2.*", "1.2?", "../x"])
def test_only_whole_uids_are_asked_for(tmp_path: Path, uid: str) -> None:
    with pytest.raises(UsageError, match="Study Instance UID"):
        fetch_studies(SmallArchive({"1.2.3": 1}), [uid], tmp_path)
