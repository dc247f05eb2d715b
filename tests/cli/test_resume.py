"""`securepacs verify --resume`: an interrupted run goes on where it stopped, and never trusts a file that was touched."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs import signatures
from securepacs.cli.main import app
from securepacs.signatures import Verifier
from tests.support.pki import pem_of
from tests.support.samples import new_instance
from tests.support.signing import pki, signed_bytes, signer


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("trust")
    (folder / "issuing.crt").write_bytes(pem_of(pki().ca.issuing))
    return ["--trust", str(pki().write_trust(folder)), "--intermediates", str(folder / "issuing.crt")]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(1, 7):
        (archive / f"{number}.dcm").write_bytes(signed_bytes(new_instance("CT_small.dcm", number)))
    (archive / "7.dcm").write_bytes(b"no dicom")
    return archive


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are really verified, in order."""
    names: list[str] = []
    real = Verifier.evaluate

    def evaluate(self: Verifier, target: Path) -> signatures.SignatureReport:
        names.append(target.name)
        return real(self, target)

    monkeypatch.setattr(Verifier, "evaluate", evaluate)
    return names


def run(*arguments: object, expect: int) -> str:
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.stdout


def test_a_second_run_says_the_same_without_verifying(archive: Path, trust: list[str], tmp_path: Path, verified: list[str]) -> None:
    arguments = [archive, *trust, "--resume", tmp_path / "progress"]
    first = run(*arguments, "--json", expect=3)
    assert len(verified) == 7
    verified.clear()
    assert run(*arguments, "--json", expect=3) == first
    assert verified == []
    details = run(*arguments, "--details", expect=3)
    assert details == run(archive, *trust, "--details", expect=3)
    assert (tmp_path / "progress").stat().st_mode & 0o777 == 0o600


def test_only_what_is_new_or_touched_is_verified(archive: Path, trust: list[str], tmp_path: Path, verified: list[str]) -> None:
    arguments = [archive, *trust, "--json", "--resume", tmp_path / "progress"]
    run(*arguments, expect=3)
    changed = archive / "3.dcm"
    before = changed.stat()
    changed.write_bytes(changed.read_bytes().replace(b"JFK IMAGING CENTER", b"JFK IMAGING CENTRE"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, and the time put back
    (archive / "8.dcm").write_bytes(signed_bytes(new_instance("CT_small.dcm", 8)))
    verified.clear()
    found = [json.loads(line) for line in run(*arguments, expect=3).splitlines()]
    assert verified == ["3.dcm", "8.dcm"]
    assert [one["verdict"] for one in found] == [*["TOTAL-PASSED"] * 2, "TOTAL-FAILED", *["TOTAL-PASSED"] * 3, None, "TOTAL-PASSED"]


def test_a_line_cut_off_by_a_crash_is_done_again(archive: Path, trust: list[str], tmp_path: Path, verified: list[str]) -> None:
    progress = tmp_path / "progress"
    first = run(archive, *trust, "--json", "--resume", progress, expect=3)
    whole = progress.read_bytes()
    for cut in (len(whole) - 5, len(whole) - whole[:-1][::-1].index(b"\n") - 1, 30, 0):
        progress.write_bytes(whole[:cut])
        verified.clear()
        assert run(archive, *trust, "--json", "--resume", progress, expect=3) == first
        assert verified
        assert progress.read_bytes() == whole


def test_an_interrupted_run_continues(archive: Path, trust: list[str], tmp_path: Path) -> None:
    """The run is stopped from outside as soon as its first outcomes are on disk."""
    progress = tmp_path / "progress"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # the last file: whoever opens it waits
    command = [sys.executable, "-c", "from securepacs.cli.main import main; main()", "verify", str(archive), *trust, "--json"]
    command += ["--resume", str(progress)]
    process = subprocess.Popen([*command, str(pipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pipe.open("wb"):  # opens when the run has come to it, with the seven files before it behind
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert len(progress.read_bytes().splitlines()) >= 7
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert len(done.stdout.splitlines()) == 7
    assert "files were done before" in done.stderr


@pytest.mark.parametrize(
    "more",
    [["--require", "sr"], ["--allow-weak-hash"], ["--bit-exact"], ["--offline"], ["--at", "2027-01-01T00:00:00Z"]],
    ids=lambda more: more[0],
)
def test_another_question_is_refused(more: list[str], archive: Path, trust: list[str], tmp_path: Path) -> None:
    run(archive / "1.dcm", *trust, "--resume", tmp_path / "progress", expect=0)
    before = (tmp_path / "progress").read_bytes()
    run(archive / "1.dcm", *trust, *more, "--resume", tmp_path / "progress", expect=2)
    assert (tmp_path / "progress").read_bytes() == before


def test_other_trust_is_another_question(archive: Path, trust: list[str], tmp_path: Path) -> None:
    run(archive / "1.dcm", *trust, "--resume", tmp_path / "progress", expect=0)
    run(archive / "1.dcm", *trust[:2], "--resume", tmp_path / "progress", expect=2)


@pytest.mark.parametrize("content", [b"something else\n", b"something else", b'{"a": 1}\n'])
def test_a_file_that_is_something_else_is_left_alone(content: bytes, archive: Path, trust: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(content)
    run(archive / "1.dcm", *trust, "--resume", tmp_path / "mine.txt", expect=2)
    assert (tmp_path / "mine.txt").read_bytes() == content


def test_two_runs_do_not_share_a_file(archive: Path, trust: list[str], tmp_path: Path) -> None:
    with (tmp_path / "progress").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run(archive / "1.dcm", *trust, "--resume", tmp_path / "progress", expect=2)
    run(archive / "1.dcm", *trust, "--resume", tmp_path / "absent" / "progress", expect=2)


def test_outcomes_that_depend_on_other_files_are_worked_out_again(
    archive: Path, trust: list[str], tmp_path: Path, verified: list[str]
) -> None:
    instances = sorted(path for path in archive.iterdir() if path.name != "7.dcm")
    (archive / "ko.dcm").write_bytes(signatures.manifest(instances, signer()))
    arguments = [archive, *trust, "--json", "--resume", tmp_path / "progress", "--workers", 1]
    run(*arguments, expect=3)
    verified.clear()
    run(*arguments, expect=3)
    assert verified == ["ko.dcm"]


def test_workers_and_resuming_go_together(archive: Path, trust: list[str], tmp_path: Path) -> None:
    for number in range(20, 60):
        (archive / f"{number}.dcm").write_bytes((archive / "1.dcm").read_bytes())
    arguments = [archive, *trust, "--json", "--workers", 2, "--resume", tmp_path / "progress"]
    first = run(*arguments, expect=3)
    assert len(first.splitlines()) == 47
    assert run(*arguments, expect=3) == first
    assert first == run(archive, *trust, "--json", expect=3)
