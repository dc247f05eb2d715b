"""`securepacs audit` as its users run it."""

from __future__ import annotations

import csv
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.audit.parts import certificate_role
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.syslog import parse_record, to_syslog
from securepacs.audit.xml import to_xml
from securepacs.cli.main import app
from securepacs.pki import CertificateProfile
from securepacs.tls import client_context
from tests.support.audit import LEE, TlsFiles, all_messages, numbered
from tests.support.net import free_port
from tests.support.pki import make_pki

NOW = datetime(2027, 2, 1, tzinfo=UTC)


@dataclass
class Outcome:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def securepacs(*arguments: object) -> Outcome:
    """Run `securepacs audit ...` in this process, as wide as the table needs."""
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@contextmanager
def serving(store: str, files: TlsFiles, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `audit serve` on a free port; give its address."""
    process = subprocess.Popen(
        [
            sys.executable, "-c", "from securepacs.cli.main import main; main()", "audit", "serve", "--listen", "127.0.0.1:0",
            "--store", store, "--cert", str(files.server_cert), "--key", str(files.server_key), "--trust", str(files.trust),
            *options,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        ready = process.stderr.readline()
        assert ready.startswith(("listening on 127.0.0.1:", "FHIR at https://127.0.0.1:")), ready
        yield ready.split()[-1], process
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stderr.close()


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(make_pki(tmp_path / "pki"), tmp_path / "pki")


def client(files: TlsFiles) -> list[str]:
    return ["--cert", str(files.client_cert), "--key", str(files.client_key), "--trust", str(files.trust)]


@pytest.fixture
def conformant(tmp_path: Path) -> Path:
    path = tmp_path / "message.xml"
    path.write_bytes(to_xml(all_messages()["security_alert"]))
    return path


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return a repository with one message of each kind."""
    url = f"sqlite:///{tmp_path}/audit.db"
    with Repository(url) as repository:
        for message in all_messages().values():
            raw = to_syslog(message, hostname="h", app_name="a", procid="1")
            repository.store([Receipt.of(raw, received=NOW, transport="test")])
    return url


def test_serve_send_and_search(tmp_path: Path, files: TlsFiles, conformant: Path) -> None:
    store = f"sqlite:///{tmp_path}/audit.db"
    record = tmp_path / "record.syslog"
    record.write_bytes(to_syslog(numbered(5), hostname="h", app_name="a", procid="1"))
    with serving(store, files) as (address, process):
        sent = securepacs("send", "--to", address.replace("127.0.0.1", "localhost"), *client(files), conformant, record)
        assert (sent.returncode, sent.stderr) == (0, "")
        found = securepacs("search", "--store", store, "--event", "110126", "--json")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    (alert,) = map(json.loads, found.stdout.splitlines())
    assert alert["outcome"] == 8
    assert parse_record(b64decode(alert["raw"])).msg == conformant.read_bytes()
    with Repository(store) as repository:
        found_records = repository.search(Criteria(study="1.2.3.5"), reader=LEE, at=NOW)
        assert [repository.raw(each.id) for each in found_records] == [record.read_bytes()]
        activity = repository.search(Criteria(event="110100", newest_first=False), reader=LEE, at=NOW)
        assert [each.description for each in activity] == ["Application Start", "Application Stop"]


def test_serve_takes_unprotected_syslog_only_when_asked(tmp_path: Path, files: TlsFiles) -> None:
    store, records = f"sqlite:///{tmp_path}/audit.db", [b"<85>1 - - - - - - over TCP", b"<85>1 - - - - - - over UDP"]
    with serving(store, files, "--unsafe-tcp", "127.0.0.1:0", "--unsafe-udp", "127.0.0.1:0") as (_, process):
        assert process.stderr is not None
        tcp, udp = (process.stderr.readline() for _ in range(2))
        assert "without TLS: anybody may write" in tcp
        assert "(UDP): anybody may write" in udp
        ports = [int(line.split()[2].rpartition(":")[2]) for line in (tcp, udp)]
        with socket.create_connection(("127.0.0.1", ports[0])) as stream:
            stream.sendall(records[0] + b"\n")
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(1) == b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.sendto(records[1], ("127.0.0.1", ports[1]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    with Repository(store) as repository:
        found = repository.search(Criteria(text="over ", newest_first=False), reader=LEE, at=NOW)
        assert [(each.transport, each.authenticated, repository.raw(each.id)) for each in found] == [
            ("tcp", False, records[0]),
            ("udp", False, records[1]),
        ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--forward", "arr:6514"], "--forward needs --positions"),
        (["--unsafe-forward", "arr:514", "--positions", "."], "neither tcp://HOST:PORT nor udp://HOST:PORT"),
        (["--unsafe-forward", "tls://arr:514", "--positions", "."], "neither tcp://HOST:PORT nor udp://HOST:PORT"),
        (["--forward", "arr", "--positions", "."], "is not HOST:PORT"),
        (["--unsafe-udp", "514"], "is not HOST:PORT"),
    ],
)
def test_serve_with_options_that_cannot_be_meant_is_2(tmp_path: Path, files: TlsFiles, options: list[str], told: str) -> None:
    result = securepacs(
        "serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:///{tmp_path}/a.db", "--cert", files.server_cert,
        "--key", files.server_key, "--trust", files.trust, *options,
    )  # fmt: skip
    assert result.returncode == 2
    assert told in result.stderr
    assert not (tmp_path / "a.db").exists()


def test_serve_answers_auditors_in_fhir(tmp_path: Path, files: TlsFiles) -> None:
    """One process, two ports; the auditors' anchors are not the senders'."""
    auditors = make_pki(tmp_path / "auditors", name="Auditors")
    key, cert = auditors.write_pem(auditors.credential(CertificateProfile.AUDITOR, "Park", key_kind="p256"), tmp_path / "auditors")
    store = f"sqlite:///{tmp_path}/audit.db"
    fhir = ["--fhir-listen", "127.0.0.1:0", "--fhir-trust", str(auditors.write_trust(tmp_path / "auditors"))]
    with serving(store, files, *fhir) as (address, process):
        port = int(address.rpartition(":")[2])
        for name, (own_key, own_cert), status in (
            ("auditor", (key, cert), 200),
            ("sender", (files.client_key, files.client_cert), None),
        ):
            context = client_context(certificate=own_cert, key=own_key, trust=[files.trust])
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
            try:
                connection.request("GET", "/AuditEvent?date=2000")
                found = connection.getresponse().status
            except OSError:
                found = None
            connection.close()
            assert found == status, name
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    with Repository(store) as repository:
        (used,) = repository.search(Criteria(event="110101"), reader=LEE, at=NOW)
        assert used.user == "Park"


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--fhir-listen", "127.0.0.1:0"], "--fhir-trust"), (["--auditor", "ab" * 32], "--fhir-listen")],
)
def test_serve_refuses_half_a_fhir_service(tmp_path: Path, files: TlsFiles, options: list[str], said: str) -> None:
    result = securepacs(
        "serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:///{tmp_path}/a.db", "--cert", files.server_cert,
        "--key", files.server_key, "--trust", files.trust, *options,
    )  # fmt: skip
    assert (result.returncode, said in result.stderr) == (2, True)


def test_send_to_nobody_is_5_and_says_so(files: TlsFiles, conformant: Path) -> None:
    result = securepacs("send", "--to", f"127.0.0.1:{free_port()}", *client(files), conformant)
    assert result.returncode == 5
    assert result.stderr.startswith("error: the syslog receiver does not answer")


def test_send_what_is_no_message_is_3(files: TlsFiles, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("<html/>")
    result = securepacs("send", "--to", f"127.0.0.1:{free_port()}", *client(files), tmp_path / "x.xml")
    assert result.returncode == 3
    assert "hint: see: securepacs audit validate" in result.stderr


@pytest.mark.parametrize("address", ["localhost", ":1", "localhost:x", "localhost:70000"])
def test_an_address_that_is_none_is_2(files: TlsFiles, conformant: Path, address: str) -> None:
    assert securepacs("send", "--to", address, *client(files), conformant).returncode == 2


def test_serve_with_a_missing_key_is_2(files: TlsFiles, tmp_path: Path) -> None:
    result = securepacs(
        "serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:///{tmp_path}/a.db", "--cert", files.server_cert,
        "--key", tmp_path / "none", "--trust", files.trust,
    )  # fmt: skip
    assert result.returncode == 2
    assert not (tmp_path / "a.db").exists()


def test_validate_grades_each_file(conformant: Path, tmp_path: Path) -> None:
    assert securepacs("validate", conformant).stdout == (
        f"{conformant}: conformant (PS3.15 2020b with IHE ITI-20 PurposeOfUse, dialect D5)\n"
    )
    usable = tmp_path / "usable.xml"
    usable.write_bytes(conformant.read_bytes().replace(b"csd-code", b"code"))
    unparsed = tmp_path / "unparsed.xml"
    unparsed.write_bytes(b"<!DOCTYPE a><a/>")
    record = tmp_path / "record"
    record.write_bytes(to_syslog(numbered(1), hostname="h", app_name="a", procid="1"))
    assert securepacs("validate", conformant, record).returncode == 0
    result = securepacs("validate", "--json", conformant, usable, record)
    assert result.returncode == 1
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["verdict"] for each in verdicts] == ["conformant", "usable with findings", "conformant"]
    assert [each["file"] for each in verdicts] == [str(conformant), str(usable), str(record)]
    assert "legacy-code" in {each["code"] for each in verdicts[1]["findings"]}
    result = securepacs("validate", usable, unparsed)
    assert result.returncode == 3
    assert "doctype" in result.stdout


def test_validate_names_a_file_that_is_not_there(conformant: Path, tmp_path: Path) -> None:
    result = securepacs("validate", tmp_path / "none.xml", conformant)
    assert result.returncode == 3
    assert "none.xml" in result.stderr
    assert "conformant" in result.stdout


def test_search_shows_a_table(store: str) -> None:
    result = securepacs("search", "--store", store, "--patient", "4711", "--user", "lee@hospital.example", "--event", "export")
    assert result.returncode == 0
    for text in ("2027-01-31T12:30:15Z", "Export", "success", "lee@hospital.example", "4711"):
        assert text in result.stdout


def test_a_search_is_recorded_with_the_person_who_asked(store: str) -> None:
    securepacs("search", "--store", store, "--patient", "4711")
    with Repository(store) as repository:
        asked = repository.search(Criteria(event="110101", limit=1), reader=LEE, at=NOW)[0]
    assert "@" in asked.user
    assert asked.at.year >= 2024


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--from", "2027-01-31", "--to", "2027-02-01"], 15),
        (["--from", "2027-01-31T12:30:16Z"], 0),
        (["--outcome", "serious"], 1),
        (["--outcome", "8"], 1),
        (["--source", "gw1", "--study", "1.2.3.4"], 5),
        (["--text", "CERTIFICATE"], 1),
        (["--limit", "3", "--oldest-first"], 3),
    ],
)
def test_search_options(store: str, options: list[str], count: int) -> None:
    result = securepacs("search", "--store", store, "--json", *options)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == count


@pytest.mark.parametrize(
    "options", [["--outcome", "bad"], ["--outcome", "5"], ["--from", "yesterday"], ["--json", "--csv"], ["--limit", "0"]]
)
def test_search_options_that_cannot_be_meant_are_2(store: str, options: list[str]) -> None:
    result = securepacs("search", "--store", store, *options)
    assert result.returncode == 2
    assert result.stderr.startswith("error:")


def test_search_of_no_store_is_2_and_makes_none(tmp_path: Path) -> None:
    assert securepacs("search", "--store", f"sqlite:///{tmp_path}/none.db").returncode == 2
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("attack", ['=HYPERLINK("x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_holds_no_formula(tmp_path: Path, attack: str) -> None:
    store = f"sqlite:///{tmp_path}/audit.db"
    with Repository(store) as repository:
        message = replace(numbered(1), ActiveParticipant=(replace(LEE, UserID=attack),))
        repository.store([Receipt.of(to_xml(message), received=NOW, transport="test")])
    result = securepacs("search", "--store", store, "--event", "110105", "--csv")
    assert result.returncode == 0
    header, row = csv.reader(io.StringIO(result.stdout, newline=""))
    assert header == ["time", "event", "outcome", "user", "patient", "description"]
    assert row[3].startswith("'")
    assert row[3].removeprefix("'") == attack.replace("\t", " ").replace("\r", " ")


def test_a_repeated_record_says_so(store: str) -> None:
    with Repository(store) as repository:
        raw = to_syslog(all_messages()["security_alert"], hostname="h", app_name="a", procid="1")
        repository.store([Receipt.of(raw, received=NOW, transport="test")])
    assert "repeats 14" in securepacs("search", "--store", store, "--event", "110126", "--csv").stdout


def test_search_by_the_serial_number_of_a_certificate(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/audit.db"
    with Repository(store) as repository:
        for number, serial in enumerate(("0A:1B", "a1b2")):
            message = replace(numbered(number), ActiveParticipant=(replace(LEE, RoleIDCode=(certificate_role(serial),)),))
            repository.store([Receipt.of(to_xml(message), received=NOW, transport="test")])
    found = securepacs("search", "--store", store, "--serial", "00:0a:1b", "--json")
    assert [json.loads(line)["studies"] for line in found.stdout.splitlines()] == [["1.2.3.0"]]
    refused = securepacs("search", "--store", store, "--serial", "mine")
    assert (refused.returncode, "hexadecimal" in refused.stderr) == (2, True)
