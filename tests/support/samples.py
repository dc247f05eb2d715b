"""DICOM files to work on: those that pydicom bundles, none is downloaded."""

from __future__ import annotations

from pathlib import Path

from pydicom.data import get_testdata_file


def sample(name: str) -> Path:
    """Return the path of a file that pydicom ships."""
    found = get_testdata_file(name, download=False)
    if not isinstance(found, str):
        raise FileNotFoundError(name)
    return Path(found)


def new_instance(name: str, number: int, *, study: str = "1.2.826.0.1.3680043.10.999.1") -> bytes:
    """Return a sample as a new instance of `study`: same content, one patient, own SOP Instance UID."""
    from io import BytesIO

    from pydicom import dcmread

    dataset = dcmread(sample(name))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "CompressedSamples^CT1", "1CT1", ""
    dataset.StudyInstanceUID, dataset.StudyDate, dataset.StudyTime, dataset.StudyID = study, "20040119", "072730", "1"
    dataset.SeriesInstanceUID = f"{study}.1"
    dataset.SOPInstanceUID = f"{study}.1.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def flip_pixel(data: bytes, position: float = 0.5) -> bytes:
    """Return an uncompressed image with one bit of one pixel changed."""
    from securepacs.dicom import open_dataset

    pixels = next(element for element in open_dataset(data).elements() if element.tag == 0x7FE00010)
    place = pixels.value_offset + int(position * (pixels.length - 1))
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
