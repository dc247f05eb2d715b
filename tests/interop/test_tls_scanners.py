"""What scanners from other hands find at a listener: no weakness; docs/explanation/tls-scans.md says what they show besides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.net import free_port
from tests.support.pki import make_pki
from tests.support.programs import require

pytestmark = pytest.mark.interop
# Findings of testssl.sh that say nothing about the profile, each for a reason.
NO_WEAKNESS = {
    "service": "it looks for HTTP, and finds none",
    "engine_problem": "the OpenSSL of the scanner has no engine for old ciphers",
    "secure_client_renego": "it has no client certificate to try it with; sslyze has",
    "BREACH": "is about compressed answers of HTTP, and there is none",
}
GCM_AND_CHACHA = {
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}
CCM = {"TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"}
TLS13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


@pytest.fixture(params=["B.12", "B.13"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Gateway]]:
    """A gateway whose listener follows the profile, and the name of that."""
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", free_port())})
    gateway.write()
    gateway.config.write_text(gateway.config.read_text().replace("port = 0", f'port = 0\ntls_profile = "{request.param}"', 1))
    try:
        gateway.start("--drain", "1")
        yield request.param, gateway
        assert gateway.stop() == 0
    finally:
        gateway.kill()


@pytest.fixture(scope="session")
def sslyze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sslyze, which brings old versions of libraries along: installed, or put into a virtual environment of its own."""
    installed = os.environ.get("SSLYZE") or shutil.which("sslyze")
    if installed:
        return Path(installed)
    folder = tmp_path_factory.mktemp("sslyze")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    command = [folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "sslyze>=6.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode != 0:
        pytest.skip("sslyze is not installed and cannot be installed into an environment of its own")
    return folder / "bin" / "sslyze"


def scanned_by_sslyze(program: Path, gateway: Gateway) -> dict[str, Any]:
    """Return the results by scan; only scans that were completed are in it."""
    key, certificate, _ = gateway.client_files("ct1")
    report = gateway.folder / "sslyze.json"
    command = [program, "--cert", certificate, "--key", key, f"--json_out={report}"]
    command += ["--resum", "--early_data", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--compression"]
    command += ["--openssl_ccs", "--fallback", "--heartbleed", "--robot", "--reneg", "--elliptic_curves", "--ems"]
    subprocess.run([*command, f"127.0.0.1:{gateway.port}"], capture_output=True, timeout=150, check=False)
    (server,) = json.loads(report.read_text())["server_scan_results"]
    scans = {name: scan for name, scan in server["scan_result"].items() if isinstance(scan, dict)}
    return {name: scan["result"] for name, scan in scans.items() if scan["status"] == "COMPLETED"}


def suites(results: dict[str, Any], version: str) -> set[str]:
    return {suite["cipher_suite"]["name"] for suite in results[f"{version}_cipher_suites"]["accepted_cipher_suites"]}


def test_sslyze_finds_no_weakness(listener: tuple[str, Gateway], sslyze: Path) -> None:
    profile, gateway = listener
    results = scanned_by_sslyze(sslyze, gateway)
    assert [version for version in ("ssl_3_0", "tls_1_0", "tls_1_1") if suites(results, version)] == []
    assert suites(results, "tls_1_2") == GCM_AND_CHACHA
    assert suites(results, "tls_1_3") == (TLS13 if profile == "B.12" else TLS13 | CCM)
    assert results["tls_compression"] == {"supports_compression": False}
    assert results["tls_1_3_early_data"] == {"supports_early_data": False}
    assert results["openssl_ccs_injection"] == {"is_vulnerable_to_ccs_injection": False}
    assert results["heartbleed"] == {"is_vulnerable_to_heartbleed": False}
    assert results["tls_fallback_scsv"] == {"supports_fallback_scsv": True}
    assert results["robot"]["robot_result"] == "NOT_VULNERABLE_RSA_NOT_SUPPORTED"
    assert results["session_renegotiation"]["supports_secure_renegotiation"]
    assert not results["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert results["tls_extended_master_secret"] == {"supports_ems_extension": True}
    curves = {curve["name"] for curve in results["elliptic_curves"]["supported_curves"]}
    assert curves == {"X25519", "secp256r1", "secp384r1", "secp521r1"}
    resumption = results["session_resumption"]
    assert resumption["session_id_successful_resumptions_count"] == resumption["tls_ticket_successful_resumptions_count"] == 0


@pytest.mark.timeout(300)
def test_testssl_finds_no_weakness(listener: tuple[str, Gateway], tmp_path: Path) -> None:
    _, gateway = listener
    program, report = require("testssl"), tmp_path / "testssl.json"
    if not any(shutil.which(tool) for tool in ("dig", "host", "drill", "nslookup")):
        pytest.skip("testssl.sh does not start without one of dig, host, drill, nslookup (apt install bind9-host)")
    command = [program, "--quiet", "--warnings", "off", "--color", "0", "--openssl-timeout", "10", "--ip", "one"]
    command += ["-p", "-s", "-f", "-U", "--jsonfile", str(report), f"127.0.0.1:{gateway.port}"]
    environment = {**os.environ, "TERM": "dumb"}
    subprocess.run(command, capture_output=True, timeout=280, check=False, stdin=subprocess.DEVNULL, env=environment)
    findings = json.loads(report.read_text())
    said = {finding["id"]: finding["finding"] for finding in findings}
    assert "scanTime" in said, "the scan was not made to its end"
    assert said["TLS1"] == said["TLS1_1"] == said["SSLv2"] == said["SSLv3"] == "not offered"
    assert {"heartbleed", "CCS", "ROBOT", "FREAK", "DROWN", "LOGJAM", "LUCKY13", "RC4", "SWEET32"} <= said.keys()
    weak = {one["id"]: one["finding"] for one in findings if one["severity"] not in ("OK", "INFO") and one["id"] not in NO_WEAKNESS}
    assert weak == {}
