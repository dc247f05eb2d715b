"""The demonstration as a test: a user's first command, with every archive that is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import require

pytestmark = pytest.mark.e2e


def run_demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200"}
    environment.pop("SOFTHSM2_CONF", None)
    command = [sys.executable, "-m", "securepacs_proxy", "demo", "--once", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)


@pytest.mark.parametrize("pacs", ["qrscp", "orthanc"])
def test_every_step_of_the_story_holds(tmp_path: Path, pacs: str) -> None:
    if pacs == "orthanc":
        require("/usr/sbin/Orthanc")
    result = run_demo(tmp_path, "--pacs", pacs)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"^\(([a-g])\)", result.stdout, flags=re.MULTILINE) == list("abcdefg")
    assert "Every step held." in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_archive_is_a_usage_error(tmp_path: Path) -> None:
    result = run_demo(tmp_path, "--pacs", "floppy")
    assert result.returncode == 2
    assert "hint: --pacs qrscp or --pacs orthanc" in result.stderr
    assert list(tmp_path.iterdir()) == []
