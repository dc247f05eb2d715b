"""`securepacs original`: what a user types, sees and gets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from pydicom import dcmread
from typer.testing import CliRunner, Result

from securepacs.cli.main import app
from securepacs.originals import read_key_object, read_stamp
from securepacs.pki import CertificateProfile, serve
from tests.support.pki import TestPki, make_pki
from tests.support.samples import flip_pixel, new_instance

STUDY = "1.2.826.0.1.3680043.10.999.1"


@dataclass
class Desk:
    """A folder with two images of one study, a registry, a CA and a radiologist."""

    folder: Path
    pki: TestPki
    files: list[Path]

    @property
    def store(self) -> list[str]:
        return ["--store", f"sqlite:///{self.folder / 'store.db'}"]

    def run(self, *arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["original", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    def create(self, *more: object, code: int = 0) -> Result:
        return self.run("create", *self.files, *self.store, "--holder", "CT1", "--in-place", *more, code=code)

    def authorize(self, *more: object, code: int = 0, profile: CertificateProfile = CertificateProfile.RADIOLOGIST) -> Result:
        key, certificate = self.pki.write_pem(self.pki.credential(profile, "Dr Kim"), self.folder / "doctor")
        trust = self.pki.write_trust()
        common = [*self.store, "--key", key, "--cert", certificate, "--trust", trust, "--offline", "-o", self.folder / "ko.dcm"]
        return self.run("authorize", *self.files, *common, *more, code=code)

    def statuses(self) -> list[str]:
        result = self.run("status", *self.files, *self.store, "--json")
        return [json.loads(line)["status"] for line in result.stdout.splitlines()]

    def stamps(self) -> list[str]:
        return [read_stamp(path.read_bytes()).status.value for path in self.files]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    files = [tmp_path / "a.dcm", tmp_path / "b.dcm"]
    for number, (path, name) in enumerate(zip(files, ("CT_small.dcm", "MR_small_RLE.dcm"), strict=True), 1):
        path.write_bytes(new_instance(name, number, study=STUDY))
    return Desk(tmp_path, make_pki(tmp_path), files)


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_whole_way(desk: Desk) -> None:
    desk.create("--equipment", "CERT 7")
    assert desk.statuses() == desk.stamps() == ["OR", "OR"]
    result = desk.authorize("--equipment", "WS 9", "--comment", "fine", "--in-place")
    assert "AO 2 instances, authorized by" in result.stdout
    assert desk.statuses() == desk.stamps() == ["AO", "AO"]
    assert dcmread(desk.files[0])[0x01000424].value == "fine"
    desk.run("copy", *desk.files, *desk.store, "-o", desk.folder / "out", "--as", "AC")
    assert [read_stamp((desk.folder / "out" / path.name).read_bytes()).status.value for path in desk.files] == ["AC", "AC"]
    created, authorized = rows(desk.run("history", desk.files[0], *desk.store, "--json"))
    key_object = read_key_object((desk.folder / "ko.dcm").read_bytes())
    assert (created["rule"], created["before"], created["after"], created["actor"]) == ("T1", "", "OR", "CT1")
    assert (authorized["rule"], authorized["after"], authorized["key_object"]) == ("T2", "AO", key_object.sop_instance_uid)
    assert "Dr Kim" in authorized["actor"]


def test_the_physician_sees_what_the_signature_is_for(desk: Desk) -> None:
    desk.create()
    shown = desk.authorize().stderr
    assert "PatientName:       CompressedSamples^CT1" in shown
    assert f"StudyInstanceUID:  {STUDY}" in shown
    assert "Instances:         2" in shown


def test_the_key_object_can_carry_a_time_stamp(desk: Desk) -> None:
    desk.create()
    with serve(desk.pki.ca) as server:
        desk.authorize("--tsa", f"{server.url}/tsa")
    assert "CertifiedTimestamp" in dcmread(desk.folder / "ko.dcm")[0xFFFAFFFA].value[0]


def test_created_files_can_go_elsewhere(desk: Desk) -> None:
    before = [path.read_bytes() for path in desk.files]
    desk.run("create", *desk.files, *desk.store, "--holder", "CT1", "-o", f"{desk.folder / 'out'}/")
    assert [path.read_bytes() for path in desk.files] == before
    assert read_stamp((desk.folder / "out" / "a.dcm").read_bytes()).status.value == "OR"


def test_creating_again_is_safe_but_not_for_somebody_else(desk: Desk) -> None:
    desk.create()
    stamped = [path.read_bytes() for path in desk.files]
    desk.create()
    assert [path.read_bytes() for path in desk.files] == stamped
    result = desk.run("create", *desk.files, *desk.store, "--holder", "CT2", "--in-place", code=1)
    assert "held by CT1 already (I1)" in result.stderr
    assert [path.read_bytes() for path in desk.files] == stamped


def test_a_refused_creation_changes_no_file(desk: Desk) -> None:
    (desk.folder / "c.dcm").write_bytes(b"no DICOM" * 100)
    before = [path.read_bytes() for path in desk.files]
    desk.run("create", *desk.files, desk.folder / "c.dcm", *desk.store, "--holder", "CT1", "--in-place", code=3)
    assert [path.read_bytes() for path in desk.files] == before
    assert "NS" in desk.run("status", desk.files[0], *desk.store).stdout


def test_without_in_place_the_stamp_is_repaired_later(desk: Desk) -> None:
    desk.create()
    desk.authorize()
    assert (desk.statuses(), desk.stamps()) == (["AO", "AO"], ["OR", "OR"])
    assert "stamped OR (--restamp corrects it)" in desk.run("status", desk.files[0], *desk.store).stdout
    desk.run("status", *desk.files, *desk.store, "--restamp")
    assert desk.stamps() == ["AO", "AO"]


def test_a_changed_file_is_reported_and_never_restamped(desk: Desk) -> None:
    desk.create()
    changed = flip_pixel(desk.files[0].read_bytes())
    desk.files[0].write_bytes(changed)
    result = desk.run("status", *desk.files, *desk.store, "--restamp", code=1)
    assert "CHANGED since it was registered" in result.stdout
    assert desk.files[0].read_bytes() == changed
    assert "differs from what was registered" in desk.authorize(code=1).stderr


@pytest.mark.parametrize("reason", ["role", "revoked", "incomplete", "unregistered"])
def test_a_refused_authorization_leaves_nothing_behind(desk: Desk, reason: str) -> None:
    if reason != "unregistered":
        desk.create()
    more: list[object] = []
    if reason == "revoked":
        credential = desk.pki.credential(CertificateProfile.RADIOLOGIST, "Dr Kim")
        desk.pki.write_pem(credential, desk.folder / "doctor")
        desk.pki.credential = lambda *_, **__: credential  # type: ignore[method-assign]  # the same certificate, not a new one
        desk.pki.ca.revoke(credential.certificate, at=desk.pki.now - timedelta(hours=1), reason=x509.ReasonFlags.key_compromise)
        more = [part for path in desk.pki.write_crls() for part in ("--crl", path)]
    if reason == "incomplete":
        desk.files.pop()
    before = [path.read_bytes() for path in desk.files]
    profile = CertificateProfile.REFERRING_PHYSICIAN if reason == "role" else CertificateProfile.RADIOLOGIST
    result = desk.authorize("--in-place", *more, code=1, profile=profile)
    shown = {
        "role": "role 'radiologist'",
        "revoked": "REVOKED",
        "incomplete": "2 instances to authorize, 1 are named",
        "unregistered": "NS to AO",
    }
    assert shown[reason] in result.stderr
    assert not (desk.folder / "ko.dcm").exists()
    assert [path.read_bytes() for path in desk.files] == before
    assert set(desk.statuses()) == ({"NS"} if reason == "unregistered" else {"OR"})


def test_a_key_object_is_never_overwritten(desk: Desk) -> None:
    desk.create()
    (desk.folder / "ko.dcm").write_bytes(b"evidence of something else")
    assert "exists already" in desk.authorize(code=2).stderr
    assert (desk.folder / "ko.dcm").read_bytes() == b"evidence of something else"


def test_exactly_one_key_is_needed(desk: Desk) -> None:
    desk.create()
    trust = desk.pki.write_trust()
    desk.run("authorize", *desk.files, *desk.store, "--trust", trust, "-o", desk.folder / "ko.dcm", code=2)


def test_an_unauthorized_original_cannot_leave_as_authorized_copy(desk: Desk) -> None:
    desk.create()
    result = desk.run("copy", *desk.files, *desk.store, "-o", desk.folder / "out", "--as", "AC", code=1)
    assert "OR to AC is not a transition" in result.stderr
    assert list((desk.folder / "out").iterdir()) == []
    desk.run("copy", *desk.files, *desk.store, "-o", desk.folder / "out", "--as", "NS")
    assert read_stamp((desk.folder / "out" / "b.dcm").read_bytes()).status.value == "NS"


def test_show_lists_a_study_or_an_instance(desk: Desk) -> None:
    desk.create("--equipment", "CERT 7")
    study = rows(desk.run("show", STUDY, *desk.store, "--json"))
    assert [(row["status"], row["ae_title"], row["equipment"], len(row["history"])) for row in study] == [
        ("OR", "CT1", "CERT 7", 1)
    ] * 2
    assert rows(desk.run("show", f"{STUDY}.1.2", *desk.store, "--json")) == study[1:]
    assert "CERT 7" in desk.run("show", STUDY, *desk.store).stdout
    desk.run("show", "1.2.3", *desk.store, code=1)


def test_history_is_a_table_for_people(desk: Desk) -> None:
    desk.create()
    assert "T1" in desk.run("history", f"{STUDY}.1.1", *desk.store).stdout


def test_what_is_neither_file_nor_uid_is_refused(desk: Desk) -> None:
    assert "neither a file nor a UID" in desk.run("status", "nothing.dcm", *desk.store, code=2).stderr


def test_a_store_that_cannot_be_opened_is_unavailable(desk: Desk) -> None:
    desk.run("status", "1.2.3", "--store", f"sqlite:///{desk.folder}/none/store.db", code=5)
    desk.run("status", "1.2.3", "--store", "mysql://x/y", code=2)


KILLED = """
import os, signal, sys
from securepacs.cli import original
from securepacs.cli.main import main
left = int(sys.argv.pop(1))
write = original._write
def write_or_die(path, data):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(path, data)
original._write = write_or_die
main()
"""


def killed(writes: int, *arguments: object) -> None:
    """Run a command that is killed when it wants to write a file more often than `writes` times."""
    command = [sys.executable, "-c", KILLED, str(writes), "original", *map(str, arguments)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == -signal.SIGKILL


@pytest.mark.parametrize("writes", [0, 1])
def test_a_creation_killed_between_registry_and_files_is_completed_by_repeating_it(desk: Desk, writes: int) -> None:
    killed(writes, "create", *desk.files, *desk.store, "--holder", "CT1", "--in-place")
    assert desk.statuses() == ["OR", "OR"]
    assert desk.stamps() == ["OR"] * writes + ["NS"] * (2 - writes)
    desk.create()
    assert desk.stamps() == ["OR", "OR"]
    assert len(rows(desk.run("history", f"{STUDY}.1.1", *desk.store, "--json"))) == 1


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_an_authorization_killed_midway_is_whole_or_was_never(desk: Desk, writes: int) -> None:
    """Killed before the key object is written, between registry and first file, between two files."""
    desk.create()
    key, certificate = desk.pki.write_pem(desk.pki.credential(CertificateProfile.RADIOLOGIST, "Dr Kim"), desk.folder / "doctor")
    options = [*desk.store, "--key", key, "--cert", certificate, "--trust", desk.pki.write_trust(), "--offline", "--in-place"]
    killed(writes, "authorize", *desk.files, *options, "-o", desk.folder / "first.dcm")
    assert (desk.folder / "first.dcm").exists() is (writes > 0)
    if writes == 0:
        assert (desk.statuses(), desk.stamps()) == (["OR", "OR"], ["OR", "OR"])
        desk.authorize("--in-place")
    else:
        assert (desk.statuses(), desk.stamps().count("AO")) == (["AO", "AO"], writes - 1)
        desk.run("status", *desk.files, *desk.store, "--restamp")
    assert (desk.statuses(), desk.stamps()) == (["AO", "AO"], ["AO", "AO"])


def test_without_the_extra_it_says_what_to_install(desk: Desk) -> None:
    program = "import sys; sys.modules['sqlalchemy'] = None; from securepacs.cli.main import main; main()"
    command = [sys.executable, "-c", program, "original", "status", "1.2.3", *desk.store]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert "pip install 'securepacs[audit]'" in result.stderr
