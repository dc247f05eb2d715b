"""Embedded archives: started, answering, stopped; and what is said when one cannot be."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from securepacs.errors import Unavailable
from securepacs_proxy import archives
from tests.support.programs import dcmtk, require


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_qrscp_keeps_its_files_in_the_folder_and_ends(tmp_path: Path) -> None:
    with archives.qrscp(tmp_path / "q", destinations={"VIEWER": ("127.0.0.1", 11113)}) as archive:
        assert answers(archive.port)
        assert archive.folder.is_dir()
        assert archive.folder.is_relative_to(tmp_path)
    assert not answers(archive.port)


@pytest.mark.interop
def test_orthanc_answers_dicom_and_http_and_ends(tmp_path: Path) -> None:
    require(str(archives.ORTHANC))
    with archives.orthanc(tmp_path / "o", modalities={"VIEWER": ("127.0.0.1", 11113)}) as archive:
        ports = (archive.port, int(archive.http_url.rsplit(":", 1)[1]))
        assert all(map(answers, ports))
    assert not any(map(answers, ports))


@pytest.mark.interop
def test_storescp_answers_and_ends(tmp_path: Path) -> None:
    dcmtk("storescp")
    with archives.storescp(tmp_path / "s") as archive:
        assert answers(archive.port)
    assert not answers(archive.port)


@pytest.mark.parametrize(("name", "start"), [("ORTHANC", archives.orthanc), ("STORESCP", archives.storescp)])
def test_a_program_that_is_not_installed_is_unavailable(
    name: str, start: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, name, tmp_path / "nothing")
    with pytest.raises(Unavailable, match="not installed") as caught, start(tmp_path / "a"):  # type: ignore[operator]
        pass
    assert "apt-get install" in caught.value.hint


def test_a_program_that_ends_instead_of_starting_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "STORESCP", Path("/bin/false"))
    with pytest.raises(Unavailable, match="ended with status 1") as caught, archives.storescp(tmp_path):
        pass
    assert "storescp.log" in caught.value.hint


def test_a_program_that_never_listens_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 600\n")
    idle.chmod(0o755)
    monkeypatch.setattr(archives, "STORESCP", idle)
    monkeypatch.setattr(archives, "_START_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="did not start"), archives.storescp(tmp_path):
        pass


def test_a_program_that_does_not_want_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = tmp_path / "stubborn"
    listen = (
        "import signal, socket, sys; signal.signal(15, signal.SIG_IGN); s = socket.create_server(('127.0.0.1', int(sys.argv[-1])))"
    )
    stubborn.write_text(f"#!{sys.executable}\n{listen}\nwhile True: signal.pause()\n")
    stubborn.chmod(0o755)
    monkeypatch.setattr(archives, "STORESCP", stubborn)
    monkeypatch.setattr(archives, "_STOP_SECONDS", 0.2)
    with archives.storescp(tmp_path) as archive:
        assert answers(archive.port)
    assert not answers(archive.port)
