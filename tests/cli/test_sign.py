from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.pki.server import serve
from securepacs.signatures import evaluate
from tests.support.encoded import element, part10
from tests.support.net import free_port
from tests.support.samples import sample
from tests.support.signing import pki, policy, signer

CT, MR, SR = (str(sample(name)) for name in ("CT_small.dcm", "MR_small.dcm", "reportsi.dcm"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    key, certificate = pki().write_pem(signer(), tmp_path_factory.mktemp("key"))
    return ["--key", str(key), "--cert", str(certificate)]


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["sign", *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.output


def test_signing_one_file(key: list[str], tmp_path: Path) -> None:
    out = tmp_path / "ct.dcm"
    said = run(CT, *key, "-o", out)
    (result,) = evaluate(out, policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert result.uid in said
    assert list(tmp_path.iterdir()) == [out]


def test_signing_many_files_into_a_folder(key: list[str], tmp_path: Path) -> None:
    run(CT, MR, *key, "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["CT_small.dcm", "MR_small.dcm"]
    assert evaluate(tmp_path / "out" / "MR_small.dcm", policy()).verdict == "TOTAL-PASSED"


def test_a_dicomdir_is_left_alone(key: list[str], tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    disc.mkdir()
    directory = (Path(CT).parent / "dicomdirtests" / "DICOMDIR").read_bytes()
    (disc / "DICOMDIR").write_bytes(directory)
    (disc / "IM1").write_bytes(Path(CT).read_bytes())
    assert "left alone" in run(disc, *key, "--in-place")
    assert (disc / "DICOMDIR").read_bytes() == directory
    assert evaluate(disc / "IM1", policy()).verdict == "TOTAL-PASSED"


def test_signing_in_place(key: list[str], tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    path.write_bytes(Path(CT).read_bytes())
    path.chmod(0o640)
    run(path, *key, "--in-place", "--identity")
    assert len(evaluate(path, policy()).signatures) == 2
    assert path.stat().st_mode & 0o777 == 0o640


def test_every_option_reaches_the_signature(key: list[str], tmp_path: Path) -> None:
    out = tmp_path / "sr.dcm"
    options = ["--profile", "base", "--coverage", "sr", "--mac", "sha512", "--purpose", "13", "--tags", "PatientName,00100020"]
    run(SR, *key, *options, "-o", out)
    (result,) = evaluate(out, policy()).signatures
    assert (result.mac_algorithm, result.purpose, result.indication) == ("SHA512", "13 ASTM-sigpurpose", "TOTAL-PASSED")
    assert {"PatientName", "PatientID", "ContentSequence"} <= set(result.covered)


def test_signing_an_item(key: list[str], tmp_path: Path) -> None:
    out = tmp_path / "sr.dcm"
    run(SR, *key, "--item", "0040A730[0]/0040A043[0]", "-o", out)
    assert evaluate(out, policy()).signatures[0].location == "0040A730[0]/0040A043[0]"


def test_a_time_stamp_is_fetched(key: list[str], tmp_path: Path) -> None:
    out = tmp_path / "ct.dcm"
    with serve(pki().ca) as server:
        run(CT, *key, "--tsa", f"{server.url}/tsa", "-o", out)
    (result,) = evaluate(out, policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert result.timestamp is not None


def test_no_time_stamp_no_file(key: list[str], tmp_path: Path) -> None:
    run(CT, *key, "--tsa", f"http://127.0.0.1:{free_port()}/tsa", "-o", tmp_path / "ct.dcm", expect=5)
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_file_does_not_keep_the_others_from_being_signed(key: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no dicom")
    said = run(bad, CT, *key, "-o", tmp_path / "out", expect=3)
    assert "bad.dcm" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["CT_small.dcm"]


def test_surplus_padding_is_warned_of(key: list[str], tmp_path: Path) -> None:
    padded = tmp_path / "padded.dcm"
    padded.write_bytes(part10(element(0x00100010, b"PN", b"Test^P  ")))
    assert "surplus padding" in run(padded, *key, "--profile", "base", "-o", tmp_path / "out.dcm")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([CT, "-o", "out.dcm"], id="no key"),
        pytest.param([CT, "KEY"], id="no destination"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--in-place"], id="two destinations"),
        pytest.param([CT, "KEY", "-o", CT], id="over its own source"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--profile", "gold"], id="profile"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--coverage", "half"], id="coverage"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--mac", "md5"], id="mac"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--purpose", "19"], id="purpose"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--tags", "Nonsense"], id="tags"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--item", "x"], id="item"),
        pytest.param([CT, "KEY", "-o", "out.dcm", "--profile", "sr"], id="no report"),
        pytest.param(["absent.dcm", "KEY", "-o", "out.dcm"], id="no such file"),
    ],
)  # fmt: skip
def test_usage_errors(arguments: list[str], key: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expanded = [word for argument in arguments for word in (key if argument == "KEY" else [argument])]
    run(*expanded, expect=2)
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_somebody_else_is_refused(key: list[str], tmp_path: Path) -> None:
    _, other = pki().write_pem(signer("Dr. Second"), tmp_path / "keys")
    run(CT, key[0], key[1], "--cert", other, "-o", tmp_path / "out.dcm", expect=2)
    assert not (tmp_path / "out.dcm").exists()
