"""Studies to publish and discs to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset

from tests.support.samples import new_instance

STUDY = "1.2.826.0.1.3680043.10.999.77"
_ANYWHERE = ("1.2.840.10008.",)  # UIDs of the standard say nothing about anybody


def study_folder(folder: Path, *, count: int = 3) -> Path:
    """Write a study of `count` images whose values and names are recognizable; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"kimchulsoo_{number}.dcm"
        path.write_bytes(new_instance("CT_small.dcm", number, study=STUDY))
        change(path, PatientName="Kim^Chulsoo", PatientID="PATIENT-4711", AccessionNumber="ACC0815", InstanceNumber=number + 1)
    return folder


def change(path: Path, **elements: Any) -> None:
    """Set elements of a file."""
    dataset = dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
        if keyword == "SOPInstanceUID":
            dataset.file_meta.MediaStorageSOPInstanceUID = value
    dataset.save_as(path, enforce_file_format=True)


def telling_values(paths: Iterable[Path], *, least: int = 6) -> set[bytes]:
    """Return the encoded values of all elements, at every depth, that are long and varied enough not to occur by chance."""
    found: set[bytes] = set()
    for path in paths:
        dataset = dcmread(path)
        for element in _elements(dataset.file_meta, dataset):
            for value in _encoded(element):
                if len(value) >= least and len(set(value)) > 3 and not value.startswith(tuple(uid.encode() for uid in _ANYWHERE)):
                    found.add(value)
    return found


def _elements(*datasets: Dataset | FileMetaDataset) -> Iterator[DataElement]:
    for dataset in datasets:
        yield from dataset.iterall()


def _encoded(element: DataElement) -> Iterator[bytes]:
    if element.VR == "SQ":
        return
    if isinstance(element.value, bytes):
        for start in (0, len(element.value) // 2):
            yield element.value[start : start + 48]
        return
    values = element.value if element.VM > 1 else [element.value]
    for value in values:
        yield str(value).encode("utf-8")
