from __future__ import annotations

from pathlib import Path

import pytest

from securepacs.signatures.lookup import InstanceIndex, sop_instance_uid_of
from tests.support.encoded import element, part10
from tests.support.samples import sample
from tests.support.signing import ENCAPSULATED, NATIVE


@pytest.mark.parametrize("name", [*NATIVE, *ENCAPSULATED])
def test_the_uid_is_read_from_the_head_of_every_kind_of_file(name: str) -> None:
    from pydicom import dcmread

    assert sop_instance_uid_of(sample(name)) == dcmread(sample(name)).SOPInstanceUID


@pytest.mark.parametrize(
    "raw", [b"", b"no dicom", part10(element(0x00100010, b"PN", b"A^B ")), sample("CT_small.dcm").read_bytes()[:300]]
)
def test_what_has_no_uid_has_none(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(raw)
    assert sop_instance_uid_of(tmp_path / "x") == ""
    assert sop_instance_uid_of(tmp_path / "absent") == ""


def test_an_element_longer_than_the_head_is_no_obstacle(tmp_path: Path) -> None:
    long = element(0x00080006, b"UT", b"x" * (1 << 17)) + element(0x00080018, b"UI", b"1.2.3\0")
    (tmp_path / "long").write_bytes(part10(long))
    assert sop_instance_uid_of(tmp_path / "long") == "1.2.3"


def test_the_first_of_two_files_counts(tmp_path: Path) -> None:
    raw = sample("CT_small.dcm").read_bytes()
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(raw)
    index = InstanceIndex(paths)
    assert index(sop_instance_uid_of(paths[0])) == paths[0]
    assert index("1.2.3") is None
    assert index("") is None
