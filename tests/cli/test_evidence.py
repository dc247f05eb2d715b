from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.pki import CertificateProfile, serve
from securepacs.signatures.evidence import sidecar_of
from tests.support.net import free_port
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.samples import sample
from tests.support.signing import signed_bytes


def run(command: str, *arguments: object, expect: int) -> str:
    done = CliRunner().invoke(app, ["evidence", command, *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return make_pki(tmp_path_factory.mktemp("pki"), base_url=f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def signed(own: TestPki) -> bytes:
    return signed_bytes(sample("MR_small.dcm").read_bytes(), own.credential(CertificateProfile.RADIOLOGIST, "Dr. Long"))


@pytest.fixture
def file(signed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "a.dcm"
    path.write_bytes(signed)
    return path


@pytest.fixture(scope="module")
def trust(own: TestPki) -> list[object]:
    return ["--trust", own.write_trust()]


@pytest.fixture(scope="module")
def asking(own: TestPki, trust: list[object]) -> list[object]:
    """The options of a command that asks the network."""
    issuing = own.folder / "issuing.pem"
    issuing.write_bytes(pem_of(own.ca.issuing))
    return [*trust, "--intermediates", issuing, "--allow-host", "127.0.0.1", "--tsa", f"{own.ca.base_url}/tsa"]


@pytest.fixture
def server(own: TestPki) -> Iterator[None]:
    with serve(own.ca, port=int(own.ca.base_url.rpartition(":")[2])):
        yield


def collected(own: TestPki, file: Path, asking: list[object]) -> Path:
    with serve(own.ca, port=int(own.ca.base_url.rpartition(":")[2])):
        run("collect", file, *asking, expect=0)
    return sidecar_of(file)


def test_collect_then_verify_with_nothing_but_the_root(own: TestPki, file: Path, asking: list[object], trust: list[object]) -> None:
    sidecar = collected(own, file, asking)
    kept = json.loads(sidecar.read_bytes())["records"][0]
    assert (len(kept["certificates"]), len(kept["crls"]) + len(kept["ocsp_responses"])) == (3, 2)
    told = run("verify", file, *trust, expect=0)  # the server is gone
    assert "TOTAL-PASSED" in told
    assert "over sha256 by CN=" in told
    assert run("verify", file.parent, *trust, "--at", "2020-01-01T00:00:00Z", expect=1).count("future") == 1


def test_renew_with_a_stronger_hash_and_only_when_due(
    own: TestPki, file: Path, asking: list[object], trust: list[object], server: None
) -> None:
    run("collect", file, *asking, expect=0)
    assert "left alone" in run("renew", file, *asking, "--due-within", 90, expect=0)
    assert "renewed" in run("renew", file, *asking, "--due-within", 36_500, "--digest", "sha512", expect=0)
    (line,) = run("verify", file, *trust, "--json", expect=0).splitlines()
    told = json.loads(line)
    assert [stamp["digest"] for stamp in told["timestamps"]] == ["sha256", "sha512"]
    assert (told["file"], told["verdict"]) == (str(file), "TOTAL-PASSED")


def test_changed_image_and_damaged_evidence(own: TestPki, file: Path, asking: list[object], trust: list[object]) -> None:
    sidecar = collected(own, file, asking)
    good, raw = sidecar.read_bytes(), file.read_bytes()
    file.write_bytes(b"\1" + raw[1:])  # the preamble: no signature covers it
    assert "HASH_FAILURE" in run("verify", file, *trust, expect=1)
    file.write_bytes(raw)
    sidecar.write_bytes(good.replace(b"A", b"B", 1))
    assert "damaged" in run("verify", file, *trust, expect=3)
    assert json.loads(run("verify", file, *trust, "--json", expect=3))["error"]["code"] == "malformed"
    sidecar.write_bytes(good)
    run("verify", file, *trust, expect=0)


def test_what_is_refused(own: TestPki, file: Path, asking: list[object], trust: list[object]) -> None:
    assert "no evidence" in run("verify", file, *trust, expect=2)
    assert "no evidence" in run("renew", file, *asking, expect=2)
    sidecar = collected(own, file, asking)
    before = sidecar.read_bytes()
    assert "already" in run("collect", file, *asking, expect=2)
    assert "--digest takes" in run("collect", file, *asking, "--digest", "sha1", expect=2)
    run("renew", file, *asking, "--offline", expect=5)  # nobody answers any more
    assert sidecar.read_bytes() == before


def test_replace_and_unsigned_files(own: TestPki, file: Path, asking: list[object], server: None) -> None:
    run("collect", file, *asking, expect=0)
    before = sidecar_of(file).read_bytes()
    run("collect", file, *asking, "--replace", expect=0)
    assert sidecar_of(file).read_bytes() != before
    plain = file.with_name("plain.dcm")
    plain.write_bytes(sample("MR_small.dcm").read_bytes())
    told = run("collect", plain, file, *asking, "--replace", expect=1)
    assert "NO-SIGNATURE" in told
    assert not sidecar_of(plain).exists()


def test_authority_that_is_not_trusted_for_time_stamps(own: TestPki, file: Path, asking: list[object], server: None) -> None:
    other = file.parent / "other.crt"
    other.write_bytes(pem_of(make_pki(file.parent, name="Elsewhere").ca.root))
    assert "NO_CERTIFICATE_CHAIN_FOUND" in run("collect", file, *asking, "--timestamp-trust", other, expect=1)
    assert not sidecar_of(file).exists()
