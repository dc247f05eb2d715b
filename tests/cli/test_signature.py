"""`securepacs signature`: remove, stamp later, manifest and study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.pki.server import serve
from securepacs.signatures import evaluate
from tests.support.net import free_port
from tests.support.pki import pem_of
from tests.support.samples import flip_pixel, new_instance, sample
from tests.support.signing import pki, policy, signed_sample, signer


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "signed.dcm"
    path.write_bytes(signed_sample("CT_small.dcm", profile="base"))
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    key, certificate = pki().write_pem(signer(), tmp_path_factory.mktemp("key"))
    return ["--key", str(key), "--cert", str(certificate)]


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("trust")
    (folder / "issuing.crt").write_bytes(pem_of(pki().ca.issuing))
    return ["--trust", str(pki().write_trust(folder)), "--intermediates", str(folder / "issuing.crt")]


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["signature", *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.output


def uid_of(path: Path) -> str:
    return evaluate(path, policy()).signatures[0].uid


def test_removing(signed: Path, tmp_path: Path) -> None:
    uid = uid_of(signed)
    assert uid in run("remove", signed, "--uid", uid, "-o", tmp_path / "out.dcm")
    assert (tmp_path / "out.dcm").read_bytes() == sample("CT_small.dcm").read_bytes()
    run("remove", signed, "--uid", uid, "--in-place")
    assert signed.read_bytes() == sample("CT_small.dcm").read_bytes()


def test_stamping_later(signed: Path) -> None:
    uid = uid_of(signed)
    with serve(pki().ca) as server:
        run("timestamp", signed, "--uid", uid, "--tsa", f"{server.url}/tsa", "--in-place")
        run("timestamp", signed, "--uid", uid, "--tsa", f"{server.url}/tsa", "--in-place", expect=2)
        run("timestamp", signed, "--uid", uid, "--tsa", f"{server.url}/tsa", "--in-place", "--replace")
    (result,) = evaluate(signed, policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert result.timestamp is not None


def test_a_silent_authority_leaves_the_file_alone(signed: Path) -> None:
    before = signed.read_bytes()
    run("timestamp", signed, "--uid", uid_of(signed), "--tsa", f"http://127.0.0.1:{free_port()}/tsa", "--in-place", expect=5)
    assert signed.read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["--uid", "1.2.3", "--in-place"], ["--uid", "1.2.3"], ["--uid", "1.2.3", "-o", "X", "--in-place"]]
)
def test_usage_errors(signed: Path, arguments: list[str]) -> None:
    before = signed.read_bytes()
    run("remove", signed, *arguments, expect=2)
    run("remove", signed.parent, *arguments, expect=2)
    assert signed.read_bytes() == before


def test_manifest_and_study(key: list[str], trust: list[str], tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for number in (1, 2, 3):
        (study / f"{number}.dcm").write_bytes(new_instance("CT_small.dcm", number))
    document = tmp_path / "manifest.dcm"
    run("manifest", study, *key, "-o", document, "--observer", "Dr. Signer")
    run("manifest", study, *key, "-o", document, expect=2)
    assert "3 instances unchanged" in run("study", document, study, *trust)
    (study / "1.dcm").write_bytes(flip_pixel((study / "1.dcm").read_bytes()))
    (study / "2.dcm").unlink()
    (study / "4.dcm").write_bytes(new_instance("CT_small.dcm", 4))
    found = json.loads(run("study", document, study, *trust, "--json", expect=1))
    lists = {name: [uid[-1] for uid in found[name]] for name in ("unchanged", "changed", "missing", "extra")}
    assert lists == {"unchanged": ["3"], "changed": ["1"], "missing": ["2"], "extra": ["4"]}
    said = run("study", document, study, *trust, expect=1)
    assert all(word in said for word in ("TOTAL-FAILED", "changed: ", "missing: ", "extra: ", "CN=Dr. Signer"))


def test_complete_content_is_signed_as_source(key: list[str], tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(new_instance("CT_small.dcm", 1))
    run("manifest", tmp_path / "1.dcm", *key, "-o", tmp_path / "ko.dcm", "--complete")
    assert evaluate(tmp_path / "ko.dcm", policy()).signatures[0].purpose == "14 ASTM-sigpurpose"
