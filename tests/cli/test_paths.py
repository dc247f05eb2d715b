from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securepacs.cli.paths import files_in, outputs_for, parse_moment, printable
from securepacs.errors import UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", "c/d/3.dcm"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def names(paths: list[Path], tree: Path) -> list[str]:
    return [str(path.relative_to(tree)) for path in paths]


def test_arguments_keep_their_order_and_folders_are_sorted(tree: Path) -> None:
    assert names(files_in([tree / "c", tree / "a.dcm", tree / "b"]), tree) == ["c/d/3.dcm", "a.dcm", "b/1.dcm", "b/2.dcm"]


def test_pipes_in_a_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "d").symlink_to(tmp_path / "nowhere")
    assert files_in([tmp_path]) == [tmp_path / "a", tmp_path / "c"]


def test_missing_files_and_empty_folders_are_usage_errors(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tree / "absent", tmp_path / "empty"):
        with pytest.raises(UsageError):
            files_in([path])


def test_one_file_goes_to_one_file(tree: Path, tmp_path: Path) -> None:
    assert outputs_for([tree / "a.dcm"], tmp_path / "out.dcm", in_place=False) == [(tree / "a.dcm", tmp_path / "out.dcm")]


def test_one_file_goes_into_a_folder_that_exists(tree: Path, tmp_path: Path) -> None:
    assert outputs_for([tree / "a.dcm"], tmp_path, in_place=False) == [(tree / "a.dcm", tmp_path / "a.dcm")]


def test_a_folder_keeps_its_shape(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [target for _, target in outputs_for([tree], out, in_place=False)] == [
        out / "a.dcm",
        out / "b/1.dcm",
        out / "b/2.dcm",
        out / "c/d/3.dcm",
    ]


def test_in_place(tree: Path) -> None:
    assert outputs_for([tree / "a.dcm"], None, in_place=True) == [(tree / "a.dcm", tree / "a.dcm")]


@pytest.mark.parametrize("in_place", [True, False])
def test_exactly_one_destination(tree: Path, tmp_path: Path, in_place: bool) -> None:
    with pytest.raises(UsageError, match="where the result goes"):
        outputs_for([tree / "a.dcm"], tmp_path / "x" if in_place else None, in_place=in_place)


def test_an_input_is_not_overwritten_by_the_way(tree: Path) -> None:
    for output in (tree / "a.dcm", tree, tree / "b/../a.dcm"):
        with pytest.raises(UsageError, match="also an input"):
            outputs_for([tree / "a.dcm"], output, in_place=False)


def test_a_link_to_an_input_is_an_input(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link.dcm").symlink_to(tree / "a.dcm")
    with pytest.raises(UsageError, match="also an input"):
        outputs_for([tree / "a.dcm"], tmp_path / "link.dcm", in_place=False)


def test_two_inputs_do_not_share_an_output(tree: Path, tmp_path: Path) -> None:
    (tree / "c/1.dcm").touch()
    with pytest.raises(UsageError, match="two inputs"):
        outputs_for([tree / "b/1.dcm", tree / "c/1.dcm"], tmp_path / "out", in_place=False)


def test_moments() -> None:
    assert parse_moment("2027-01-31T08:00:00Z") == datetime(2027, 1, 31, 8, tzinfo=UTC)
    for text in ("2027-01-31T08:00:00", "yesterday", ""):
        with pytest.raises(UsageError):
            parse_moment(text)


def test_control_characters_are_not_printed() -> None:
    assert printable("a\x1b[31mb\nc\udcff") == "a?[31mb?c?"


def test_evidence_beside_a_file_is_no_file_to_work_on(tree: Path) -> None:
    sidecar = tree / "b" / "1.dcm.evidence.json"
    sidecar.touch()
    assert names(files_in([tree / "b"]), tree) == ["b/1.dcm", "b/2.dcm"]
    assert files_in([sidecar]) == [sidecar]
