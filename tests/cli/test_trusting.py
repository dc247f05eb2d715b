"""Whom to trust and whom to ask: every command that goes online keeps what it fetched, and asks listed hosts only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.cli.trusting import read_policy
from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile, serve
from tests.support.net import free_port
from tests.support.pki import TestPki, make_pki
from tests.support.samples import new_instance
from tests.support.signing import pki

Command = Callable[..., int]


def test_offline_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trust = [pki().write_trust()]
    assert read_policy(trust, None, None, online=False, allow_host=None).cache_folder is None
    assert not (tmp_path / "cache").exists()
    online = read_policy(trust, None, None, online=True, allow_host=["PKI.example"])
    assert online.cache_folder == tmp_path / "cache/securepacs/revocation"
    assert online.fetcher.is_listed("http://pki.example/crl")


def test_nobody_to_trust(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_policy([tmp_path], None, None, online=False, allow_host=None)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestPki:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_pki(tmp_path, base_url=f"http://127.0.0.1:{free_port()}")


def run(*arguments: object) -> int:
    return CliRunner().invoke(app, list(map(str, arguments))).exit_code


def authorizing(own: TestPki, folder: Path) -> Command:
    """Authorize a new study each time."""
    key, certificate = own.write_pem(own.credential(CertificateProfile.RADIOLOGIST, "Dr. Online"), folder / "doctor")
    counted = iter(range(9))

    def command(*more: object) -> int:
        number = next(counted)
        file, store = folder / f"{number}.dcm", f"sqlite:///{folder / f'{number}.db'}"
        file.write_bytes(new_instance("CT_small.dcm", number, study=f"1.2.{number}"))
        assert run("original", "create", file, "--store", store, "--holder", "CT1", "--in-place") == 0
        common = ("--store", store, "--key", key, "--cert", certificate, "--trust", own.write_trust())
        return run("original", "authorize", file, *common, "-o", folder / f"ko{number}.dcm", *more)

    return command


def comparing(own: TestPki, folder: Path) -> Command:
    """Compare a study with its signed manifest."""
    key, certificate = own.write_pem(own.credential(CertificateProfile.RADIOLOGIST, "Dr. Online"), folder / "doctor")
    file, document = folder / "a.dcm", folder / "ko.dcm"
    file.write_bytes(new_instance("CT_small.dcm", 1, study="1.2.1"))
    assert run("signature", "manifest", file, "--key", key, "--cert", certificate, "-o", document) == 0
    return lambda *more: run(
        "signature", "study", document, file, "--trust", own.write_trust(), "--intermediates", certificate, *more
    )


@pytest.mark.parametrize("making", [authorizing, comparing])
def test_what_was_fetched_serves_the_next_run(making: Callable[[TestPki, Path], Command], own: TestPki, tmp_path: Path) -> None:
    command = making(own, tmp_path)
    with serve(own.ca, port=int(own.ca.base_url.rpartition(":")[2])):
        assert command() == 1  # a certificate must not make us knock at a private address
        assert command("--allow-host", "127.0.0.1") == 0
    assert command("--allow-host", "127.0.0.1") == 0  # the services are gone, their answers are not
    assert (tmp_path / "cache/securepacs/revocation").stat().st_mode & 0o777 == 0o700
