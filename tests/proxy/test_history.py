"""The history of policy and configuration: what is kept, what counts as which change, and `explain` for any past day."""

from __future__ import annotations

import json
import os
import pwd
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securepacs.codes import SECURITY_ALERT, SECURITY_CONFIGURATION, SECURITY_ROLES_CHANGED, USER_SECURITY_ATTRIBUTES_CHANGED
from securepacs.errors import ConfigError, UsageError
from securepacs.pki import CertificateProfile
from securepacs.policy.cedar import shipped_texts
from securepacs_proxy.history import Change, ChangeKind, History, Past, Version
from securepacs_proxy.history.changes import NOTHING, Compared, differences
from securepacs_proxy.reload import read_snapshot
from tests.support.gateway import Gateway, running_gateway, text_of
from tests.support.gateway_files import GatewayFiles, gateway_files
from tests.support.net import free_port, wait_until

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def files(tmp_path: Path) -> GatewayFiles:
    return gateway_files(tmp_path)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history", limit=100)


def kept(history: History, files: GatewayFiles, at: datetime = AT, *, by: str = "kim", product: str = "1") -> Version | None:
    return history.add(read_snapshot(files.path).contents, at=at, by=by, reason="test", product=product)


def compared(settings: dict[str, str]) -> Compared:
    return Compared(settings, {}, {})


@pytest.mark.parametrize(
    ("before", "after", "kind", "line"),
    [
        ({"device[a].roles": "x"}, {"device[a].roles": "y"}, ChangeKind.ROLES, "~ device[a].roles: x -> y"),
        ({}, {"device[a].roles": "x"}, ChangeKind.ENROLMENT, "+ device[a].roles = x"),
        ({"person[a].user_names": "n"}, {"person[a].user_names": "m"}, ChangeKind.ENROLMENT, "~ person[a].user_names: n -> m"),
        ({"person[a].roles": "x"}, {}, ChangeKind.ENROLMENT, "- person[a].roles = x"),
        ({}, {"anchor[r.pem].roles": "*"}, ChangeKind.ROLES, "+ anchor[r.pem].roles = *"),
        ({"egress[p].roles": "a"}, {"egress[p].roles": "b"}, ChangeKind.ROLES, "~ egress[p].roles: a -> b"),
        ({}, {"policy.persons_need_hardware": "true"}, ChangeKind.POLICY, "+ policy.persons_need_hardware = true"),
        ({"limits.idle_seconds": "1"}, {"limits.idle_seconds": "2"}, ChangeKind.CONFIGURATION, "~ limits.idle_seconds: 1 -> 2"),
    ],
)
def test_what_counts_as_which_change(before: dict[str, str], after: dict[str, str], kind: ChangeKind, line: str) -> None:
    assert differences(compared(before), compared(after)) == (Change(kind, (line,)),)


def test_policies_are_compared_line_by_line() -> None:
    old, new = Compared({}, {"a.cedar": "one\ntwo\n", "b.cedar": "x\n"}, {}), Compared({}, {"a.cedar": "one\nthree\n"}, {})
    (change,) = differences(old, new)
    assert change.kind is ChangeKind.POLICY
    assert {"-two", "+three", "--- policy b.cedar", "+++ none", "-x"} <= set(change.lines)
    assert differences(NOTHING, new) == (Change(ChangeKind.POLICY, ("+ policy a.cedar",)),)


def test_a_version_comes_back_as_it_was(history: History, files: GatewayFiles) -> None:
    first = kept(history, files)
    assert first is not None
    assert history.newest() == first
    assert {change.kind for change in first.changes} == {ChangeKind.POLICY, ChangeKind.ENROLMENT, ChangeKind.CONFIGURATION}
    assert kept(history, files, AT + timedelta(days=1)) is None  # nothing changed: the first one is still in force
    files.write('["modality"]', '["modality", "gateway_peer"]')
    second = kept(history, files, AT + timedelta(days=2))
    assert second is not None
    roles = Change(ChangeKind.ROLES, ("~ device[ct1.hospital.example].roles: modality -> modality, gateway_peer",))
    assert second.changes == (roles,)
    assert second.previous == first.digest
    assert history.at(AT + timedelta(days=1)) == first
    assert history.at(AT + timedelta(days=2)) == second
    assert history.find(second.version[:8]) == second
    with pytest.raises(UsageError, match="begins at 2026-03-01"):
        history.at(AT - timedelta(seconds=1))
    with pytest.raises(UsageError, match="no version"):
        history.find("zz")


def test_another_product_is_another_version_and_says_so_when_its_settings_are_unknown(
    history: History, files: GatewayFiles
) -> None:
    kept(history, files)
    contents = replace(read_snapshot(files.path).contents, configuration=b"[gone]\nx = 1\n", version="0" * 64)
    version = history.add(contents, at=AT, by="kim", reason="test", product="0.0.9")
    assert version is not None
    with pytest.raises(ConfigError, match=r"securepacs 0\.0\.9 wrote it"):
        Past(history, version)
    assert kept(history, files, product="2") is not None


def test_recorded_time_never_runs_backwards(history: History, files: GatewayFiles) -> None:
    kept(history, files)
    files.write("[audit]", "[limits]\nidle_seconds = 5\n[audit]")
    second = kept(history, files, AT - timedelta(days=1))
    assert second is not None
    assert second.since == AT + timedelta(microseconds=1)


def test_private_keys_leave_no_trace(history: History, files: GatewayFiles) -> None:
    key = (files.folder / "gateway.key").read_bytes()
    kept(history, files)
    written = b"".join(path.read_bytes() for path in (files.folder / "history").rglob("*") if path.is_file())
    assert b"PRIVATE KEY" not in written
    assert key.splitlines()[1] not in written
    assert "gateway.key" not in " ".join(read_snapshot(files.path).contents.digests)


def test_the_history_is_private_bounded_and_keeps_no_text_that_nobody_names(tmp_path: Path, files: GatewayFiles) -> None:
    history = History(tmp_path / "history", limit=3)
    for number in range(6):
        files.write("[audit]", f"[limits]\nidle_seconds = {10 + number}\n[audit]")
        kept(history, files, AT + timedelta(days=number))
    assert [version.since.day for version in history.versions()] == [4, 5, 6]
    objects = list((tmp_path / "history" / "objects").iterdir())
    named = {digest for one in history.versions() for digest in (one.configuration, one.schema)}
    named |= {digest for one in history.versions() for digest in (*one.policies.values(), *one.certificates.values())}
    assert {path.name for path in objects} == named
    modes = {stat.S_IMODE(path.stat().st_mode) for path in objects}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o700


def test_an_altered_text_is_not_believed(history: History, files: GatewayFiles) -> None:
    version = kept(history, files)
    assert version is not None
    (files.folder / "history" / "objects" / version.configuration).write_bytes(b"[gateway]")
    with pytest.raises(ConfigError, match="damaged"):
        Past(history, version)
    next(path for path in (files.folder / "history").iterdir() if path.suffix == ".json").write_text("{}")
    with pytest.raises(ConfigError, match="damaged"):
        history.versions()


def test_a_folder_that_cannot_be_written_adds_nothing(tmp_path: Path, files: GatewayFiles) -> None:
    (tmp_path / "history").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="cannot be"):
        kept(History(tmp_path / "history", limit=10), files)


# --- a running gateway ----------------------------------------------------------------------------------------------


def changes(gateway: Gateway, code: str) -> list[tuple[str, str]]:
    """Return author and words of all changes of a kind on record."""
    found = [
        one for one in gateway.records(event=SECURITY_ALERT.csd_code) if one.EventIdentification.EventTypeCode[0].csd_code == code
    ]
    return [(one.ActiveParticipant[-1].UserID, text_of(one)) for one in found]


def wait_for(gateway: Gateway, code: str, words: str) -> tuple[str, str]:
    def matching() -> list[tuple[str, str]]:
        return [(by, text) for by, text in changes(gateway, code) if words in text]

    wait_until(lambda: bool(matching()), what=f"a record that says {words}")
    return matching()[0]


def reload_by_command(gateway: Gateway) -> str:
    done = gateway.run("reload", "--reason", "new scanner")
    assert done.returncode == 0, done.stderr
    return "new scanner"


def reload_by_signal(gateway: Gateway) -> str:
    gateway.signal(signal.SIGHUP)
    return "signal SIGHUP"


@pytest.mark.parametrize("reload", [reload_by_command, reload_by_signal])
def test_every_change_is_on_record_with_diff_and_author(tmp_path: Path, reload: Callable[[Gateway], str]) -> None:
    (tmp_path / "policies").mkdir()
    for name, text in shipped_texts().items():
        (tmp_path / "policies" / name).write_text(text)
    extra = '[policy]\nfolder = "policies"'
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}, extra=extra) as gateway:
        by, text = wait_for(gateway, SECURITY_CONFIGURATION.csd_code, "start of the gateway")
        assert by == ME
        gateway.devices = {"ct1": ("CT1", "gateway_peer"), "ct2": ("CT2", "modality")}
        gateway.write()
        (tmp_path / "policies" / "own.cedar").write_text('@id("own")\npermit (principal, action, resource);\n')
        reason = reload(gateway)
        by, text = wait_for(gateway, SECURITY_ROLES_CHANGED.csd_code, "device[ct1].roles")
        assert "~ device[ct1].roles: modality -> gateway_peer" in text
        assert by == ME
        assert reason in text
        by, text = wait_for(gateway, USER_SECURITY_ATTRIBUTES_CHANGED.csd_code, "device[ct2]")
        assert "+ device[ct2].ae_titles = CT2" in text
        assert "- device[peer1].ae_titles = PEER1" in text
        by, text = wait_for(gateway, SECURITY_CONFIGURATION.csd_code, "own.cedar")
        assert "+permit (principal, action, resource);" in text
        rows = [json.loads(line) for line in gateway.run("history", "--json").stdout.splitlines()]
        assert [row["reason"] for row in rows] == ["start of the gateway", reason]
        assert rows[1]["previous"] == rows[0]["digest"]
        assert rows[1]["digest"][:16] in text
        assert "+ device[ct2].ae_titles = CT2" in gateway.run("history", "--show", rows[1]["version"][:12]).stdout
        assert "2 versions" in gateway.run("history").stdout


def test_explain_answers_with_the_policy_of_the_day(tmp_path: Path) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}) as gateway:
        between = datetime.now(UTC).isoformat()
        gateway.devices = {"ct1": ("CT1", "gateway_peer"), "ct2": ("CT2", "modality")}
        gateway.extra = "[policy]\npersons_need_hardware = true"
        gateway.write()
        reload_by_command(gateway)
    _, new, _ = gateway.client_files("ct2")
    _, person, _ = gateway.client_files("Kim", CertificateProfile.RADIOLOGIST)
    ask = ("--action", "C-ECHO", "--json", "--cert")
    assert gateway.run("explain", *ask, str(new)).returncode == 0
    then = gateway.run("explain", *ask, str(new), "--at", between)
    assert then.returncode == 1
    assert "is not enrolled" in json.loads(then.stdout)["reason"]
    assert json.loads(then.stdout)["in_force_since"]
    assert gateway.run("explain", *ask, str(person)).returncode == 1
    assert gateway.run("explain", *ask, str(person), "--at", between).returncode == 0
    gateway.config.write_text(gateway.config.read_text().replace('"CT2"', '"CT3"'))  # edited, not yet in force
    now = gateway.run("explain", *ask, str(new), "--at", datetime.now(UTC).isoformat())
    assert json.loads(now.stdout)["request"]["calling_ae_title"] == "CT2"
    assert json.loads(gateway.run("explain", *ask, str(new)).stdout)["request"]["calling_ae_title"] == "CT3"
    early = gateway.run("explain", *ask, str(new), "--at", "2001-01-01T00:00:00Z")
    assert early.returncode == 2
    assert "the history of policies begins at" in early.stderr
    table = gateway.run("explain", "--roles", "--language", "ko", "--at", between)
    assert "시행" in table.stdout


def test_a_gateway_starts_anew_without_a_new_version_when_nothing_changed(tmp_path: Path) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}) as gateway:
        pass
    gateway.start()
    assert gateway.stop() == 0
    assert len(gateway.run("history", "--json").stdout.splitlines()) == 1


def test_a_refused_reload_tells_who_asked_and_leaves_the_history_alone(tmp_path: Path) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}) as gateway:
        gateway.workers = 3
        gateway.write()
        done = gateway.run("reload", "--reason", "more")
        assert done.returncode == 2
        assert "cannot change without a restart" in done.stderr
        assert len(gateway.run("history", "--json").stdout.splitlines()) == 1
