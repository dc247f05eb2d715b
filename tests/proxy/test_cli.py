"""`securepacs-proxy gateway check` and `explain`, as a person and as a program uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from rich.console import Console
from typer.testing import CliRunner, Result

from securepacs import __version__
from securepacs.cli import output
from securepacs.pki import CertificateProfile
from securepacs.policy.cedar import CedarPolicy
from securepacs_proxy.cli import app
from securepacs_proxy.cli.explain import ASSUMED_SOP_CLASS
from securepacs_proxy.cli.role_table import SERVICES, role_table
from securepacs_proxy.config import GatewayConfig, settings_markdown
from tests.support.gateway_files import CONFIG, GatewayFiles, gateway_files
from tests.support.net import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def files(tmp_path: Path) -> GatewayFiles:
    return gateway_files(tmp_path)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a narrow terminal break lines inside their cells."""
    monkeypatch.setattr(output, "console", Console(width=200))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def check(files: GatewayFiles, *arguments: str) -> Result:
    return run("gateway", "check", "-c", files.path, *arguments)


def explain(files: GatewayFiles, *arguments: str | Path) -> Result:
    return run("gateway", "explain", "-c", files.path, *arguments)


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_version_is_that_of_the_distribution() -> None:
    assert run("--version").stdout.strip() == __version__


def test_help_comes_without_the_heavy_libraries() -> None:
    program = (
        "import sys; from securepacs_proxy.cli import app;"
        "print(sorted({'pydantic', 'cedarpy', 'cryptography', 'pydicom', 'OpenSSL'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_environment())
    assert result.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'proxy'}", "PATH": "/usr/bin:/bin"}


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_prints_a_table_and_ends_with_0(files: GatewayFiles) -> None:
    result = check(files)
    assert result.exit_code == 0
    assert "listener[0].certificate" in result.stdout
    assert "failed" not in result.stdout


def test_check_ends_with_2_and_names_the_key(files: GatewayFiles) -> None:
    files.write("certificate = ", "certifcate = ")
    result = check(files)
    assert result.exit_code == 2
    assert "listener[0].certifcate" in result.stdout
    assert 'did you mean "certificate"?' in result.stdout


def test_check_answers_programs_in_json_lines(files: GatewayFiles) -> None:
    (files.folder / "gateway.key").chmod(0o644)
    result = check(files, "--json")
    assert result.exit_code == 2
    (first, second) = lines(result)
    assert (first["key"], first["state"]) == ("listener[0].key", "failed")
    assert second["key"] == "audit.destination[0].key"
    assert str(first["hint"]).startswith("chmod 600")


def test_check_reaches_out_only_with_connect(files: GatewayFiles) -> None:
    files.write(text=CONFIG.replace("127.0.0.1:11112", f"127.0.0.1:{free_port()}"))
    assert check(files).exit_code == 0
    result = check(files, "--connect", "--json")
    assert result.exit_code == 2
    assert "route[0].destinations[0]" in [row["key"] for row in lines(result) if row["state"] == "failed"]


def test_check_prints_the_reference_of_the_settings() -> None:
    result = run("gateway", "check", "--print-settings")
    assert result.exit_code == 0
    assert result.stdout == settings_markdown(GatewayConfig)


# --- explain --------------------------------------------------------------------------------------------------------


def test_explain_permits_and_names_policy_and_subject(files: GatewayFiles) -> None:
    peer = files.certificate(CertificateProfile.MODALITY, "ct1.hospital.example")
    result = explain(files, "--cert", peer, "--action", "C-STORE")
    assert result.exit_code == 0
    for text in (
        "PERMIT",
        "modality-stores",
        "a modality stores what it acquired",
        "C-STORE from CT1 to ARCHIVE",
        "CT Image Storage",
    ):
        assert text in result.stdout


def test_explain_denies_with_1_and_says_who_may(files: GatewayFiles) -> None:
    peer = files.certificate(CertificateProfile.REFERRING_PHYSICIAN, "Dr Kim")
    result = explain(files, "--cert", peer, "--action", "C-STORE", "--sop-class", CT)
    assert result.exit_code == 1
    assert "no policy permits C-STORE of CT Image Storage for role referring_physician" in result.stdout
    assert "gateway_peer, modality" in result.stdout


def test_explain_answers_programs_in_json(files: GatewayFiles) -> None:
    peer = files.certificate(CertificateProfile.RADIOLOGIST, "Dr Lee", email="lee@h.example")
    options = ("--action", "C-MOVE", "--level", "STUDY", "--at", "2026-03-01T21:00:00+09:00", "--move-destination", "WS1", "--json")
    result = explain(files, "--cert", peer, *options)
    assert result.exit_code == 0
    (answer,) = lines(result)
    assert (answer["effect"], answer["policies"]) == ("PERMIT", ["radiologist-reads"])
    assert answer["subject"] == {"kind": "person", "user_id": "lee@h.example", "name": "Dr Lee", "roles": ["radiologist"]} | {
        "ignored_roles": [],
        "assurance": "software",
    }
    assert answer["request"] == {
        "action": "C-MOVE",
        "calling_ae_title": "VIEWER",
        "called_ae_title": "ARCHIVE",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.2.2.2",
        "level": "STUDY",
        "query_keys": [],
        "move_destination": "WS1",
        "toward_archive": True,
        "at": "2026-03-01T12:00:00+00:00",
    }
    assert answer["permitted_to_roles"] == ["gateway_peer", "radiologist", "referring_physician"]
    assert answer["policy_version"] == CedarPolicy.from_folder().version


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--action", "C-FIND"), 1),
        (("--action", "C-FIND", "--query-key", "PatientID"), 0),
        (("--action", "C-FIND", "--query-key", "PatientName"), 1),
        (("--action", "C-FIND", "--query-key", "PatientName", "--query-key", "PatientBirthDate"), 0),
        (("--action", "C-GET", "--level", "STUDY"), 0),
        (("--action", "C-GET", "--level", "PATIENT"), 1),
        (("--action", "C-STORE", "--from-archive"), 0),
        (("--action", "Associate", "--calling", "WS1", "--called", "ARCHIVE"), 0),
    ],
)
def test_explain_puts_every_option_to_the_policy(files: GatewayFiles, options: tuple[str, ...], code: int) -> None:
    peer = files.certificate(CertificateProfile.REFERRING_PHYSICIAN, "Dr Kim")
    assert explain(files, "--cert", peer, *options).exit_code == code


def test_explain_shows_the_binding_of_a_device(files: GatewayFiles) -> None:
    peer = files.certificate(CertificateProfile.MODALITY, "ct1.hospital.example")
    result = explain(files, "--cert", peer, "--action", "C-STORE", "--calling", "CT2")
    assert result.exit_code == 1
    assert "device-bound-to-ae-titles" in result.stdout


def test_explain_denies_a_called_ae_title_without_route(files: GatewayFiles) -> None:
    peer = files.certificate(CertificateProfile.RADIOLOGIST, "Dr Lee")
    result = explain(files, "--cert", peer, "--action", "C-ECHO", "--called", "NOWHERE", "--json")
    assert result.exit_code == 1
    assert lines(result)[0]["reason"] == "no route leads to the called AE title NOWHERE"


def test_explain_denies_a_device_that_is_not_enrolled(files: GatewayFiles) -> None:
    peer = files.certificate(CertificateProfile.MODALITY, "ct2.hospital.example")
    result = explain(files, "--cert", peer, "--action", "C-ECHO")
    assert result.exit_code == 1
    assert "the device ct2.hospital.example is not enrolled: add [[device]]" in result.stdout
    assert "ct2.hospital.example" in explain(files, "--cert", peer, "--action", "C-ECHO", "--json").stdout


def test_explain_prints_obligations_and_site_policies(files: GatewayFiles) -> None:
    (files.folder / "policies").mkdir()
    text = '@id("mine") @reason("because") @obligation_watermark("yes") permit (principal, action, resource);'
    (files.folder / "policies" / "a.cedar").write_text(text, encoding="utf-8")
    files.write("[audit]", '[policy]\nfolder = "policies"\n[audit]')
    result = explain(files, "--cert", files.certificate(CertificateProfile.AUDITOR, "A"), "--action", "C-STORE")
    assert result.exit_code == 0
    for found in ("mine", "because", "obligation watermark"):
        assert found in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--cert and --action say whom and what to ask about"),
        (("--action", "C-ECHO"), "--cert and --action say whom and what to ask about"),
        (("--cert", "CERT", "--action", "C-STOR"), "did you mean C-STORE?"),
        (("--cert", "CERT", "--action", "c-store"), "did you mean C-STORE?"),
        (("--cert", "CERT", "--action", "C-GET", "--level", "study"), "did you mean STUDY?"),
        (("--cert", "CERT", "--action", "zzz"), "one of Associate, C-ECHO"),
        (("--cert", "CERT", "--action", "C-ECHO", "--at", "tomorrow"), "not RFC 3339"),
        (("--cert", "CERT", "--action", "C-ECHO", "--at", "2026-03-01T12:00:00"), "not RFC 3339"),
        (("--cert", "absent.pem", "--action", "C-ECHO"), "No such file"),
        (("--roles", "--lang", "xx"), "'xx' is not one of"),
    ],
)
def test_explain_ends_with_2_when_the_question_is_wrong(files: GatewayFiles, arguments: tuple[str, ...], message: str) -> None:
    peer = files.certificate(CertificateProfile.AUDITOR, "A")
    result = explain(files, *(str(peer) if argument == "CERT" else argument for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr


def test_explain_names_every_mistake_of_the_configuration(files: GatewayFiles) -> None:
    files.write(text=CONFIG.replace('"gw1"', "5").replace("port = 2762", "port = 99999"))
    result = explain(files, "--roles")
    assert result.exit_code == 2
    assert f"error: {files.path}: gateway.name: the value must be text in quotes" in result.stderr
    assert f"error: {files.path}: listener[0].port:" in result.stderr
    assert result.stdout == ""


def test_explain_names_a_missing_configuration(tmp_path: Path) -> None:
    result = run("gateway", "explain", "-c", tmp_path / "absent.toml", "--roles")
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_explain_names_a_broken_policy(files: GatewayFiles) -> None:
    (files.folder / "policies").mkdir()
    files.write("[audit]", '[policy]\nfolder = "policies"\n[audit]')
    result = explain(files, "--roles")
    assert result.exit_code == 2
    assert "holds no *.cedar file" in result.stderr


# --- the table of roles ---------------------------------------------------------------------------------------------


def test_the_role_table_in_english(files: GatewayFiles) -> None:
    result = explain(files, "--roles")
    assert result.exit_code == 0
    assert "referring_physician" in result.stdout
    assert "C-FIND known patient" in result.stdout


def test_the_role_table_in_korean(files: GatewayFiles) -> None:
    result = explain(files, "--roles", "--lang", "ko")
    assert result.exit_code == 0
    for text in ("영상의학과 의사", "의뢰 의사", "지정 환자 검색", "서비스"):
        assert text in result.stdout


def test_the_role_table_in_json(files: GatewayFiles) -> None:
    rows = {row["service"]: row["roles"] for row in lines(explain(files, "--roles", "--json"))}
    assert rows["C-STORE image"] == ["gateway_peer", "modality"]
    assert rows["Associate"] == ["administrator", "auditor", "gateway_peer", "modality", "radiologist", "referring_physician"]
    assert rows["archive: N-EVENT-REPORT"] == ["modality"]


def test_the_table_in_the_readme_is_what_the_policy_says(files: GatewayFiles) -> None:
    readme = (REPOSITORY / "proxy" / "README.md").read_text(encoding="utf-8")
    names = ["modality", "radiologist", "referring_physician", "auditor", "administrator", "gateway_peer", "archive"]
    for row in role_table(CedarPolicy.from_folder(), at=files.pki.now):
        cells = ["yes" if name in row.roles else "-" for name in names]
        assert f"| {row.service.english} | {' | '.join(cells)} |" in readme


def test_every_service_of_the_table_has_a_name_in_both_languages_and_an_action_of_the_schema() -> None:
    assert len({service.english for service in SERVICES}) == len({service.korean for service in SERVICES}) == len(SERVICES)
    assert {service.action for service in SERVICES} <= set(ASSUMED_SOP_CLASS)
    schema = (REPOSITORY / "securepacs" / "policy" / "shipped" / "schema.cedarschema").read_text(encoding="utf-8")
    assert [action for action in ASSUMED_SOP_CLASS if f'"{action}"' not in schema] == []


def test_explain_reads_a_der_certificate(files: GatewayFiles) -> None:
    pem = files.certificate(CertificateProfile.AUDITOR, "A")
    from cryptography.hazmat.primitives.serialization import Encoding

    der = files.folder / "auditor.der"
    der.write_bytes(x509.load_pem_x509_certificate(pem.read_bytes()).public_bytes(Encoding.DER))
    assert explain(files, "--cert", der, "--action", "C-ECHO").exit_code == 0
