"""From the repository to the ways out: nothing is lost, nothing is told of the past, and each way has its own position."""

from __future__ import annotations

import contextlib
import email.policy
import hashlib
import hmac
import json
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from securepacs import codes
from securepacs.audit import events
from securepacs.audit.alerts import RULES, Watcher, load_settings
from securepacs.audit.message import AuditMessage, EventOutcomeIndicator
from securepacs.audit.repository import Repository
from securepacs.errors import ConfigError
from tests.support.audit import ARCHIVE, LEE, SOURCE, TlsFiles
from tests.support.net import wait_until
from tests.support.pki import make_pki

NOW = datetime(2027, 1, 31, 12, 0, tzinfo=UTC)
BASE = '[watch]\nstate = "state"\npoll_seconds = 0.05\n'


def emergency(number: int) -> AuditMessage:
    return events.security_alert(
        source=SOURCE, at=NOW + timedelta(seconds=number), alert_type=codes.EMERGENCY_OVERRIDE_STARTED, reporter=ARCHIVE,
        performers=(replace(LEE, UserIsRequestor=False),), alert_description=f"emergency {number}",
        outcome=EventOutcomeIndicator.SUCCESS,
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


def write(folder: Path, text: str = "") -> Path:
    path = folder / "alerts.toml"
    path.write_text(BASE + text)
    return path


def watcher(folder: Path, repository: Repository, text: str = "") -> Watcher:
    return Watcher(repository, load_settings(write(folder, text)), clock=lambda: NOW)


class Hook(BaseHTTPRequestHandler):
    """A receiver of webhooks; `server.refuse` answers 503."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        refused = self.server.refuse > 0  # type: ignore[attr-defined]
        if refused:
            self.server.refuse -= 1  # type: ignore[attr-defined]
        else:
            self.server.taken.append((dict(self.headers), body))  # type: ignore[attr-defined]
        self.send_response(503 if refused else 204)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Stay quiet."""


@contextlib.contextmanager
def hook(context: ssl.SSLContext | None = None, *, refuse: int = 0) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.taken, server.refuse = [], refuse  # type: ignore[attr-defined]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Smtp(socketserver.StreamRequestHandler):
    """As much of a mail server (RFC 5321) as one message needs."""

    def handle(self) -> None:
        def say(text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

        say("220 test")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                say("354 go on")
                lines = []
                while (text := self.rfile.readline()) != b".\r\n":
                    lines.append(text)
                self.server.mails.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            if word == b"QUIT":
                say("221 bye")
                return
            say("250 ok")


@contextlib.contextmanager
def mail_server() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        server.daemon_threads = True
        server.mails = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def test_a_first_start_tells_nothing_of_the_past_and_a_second_nothing_twice(tmp_path: Path, repository: Repository) -> None:
    repository.record(emergency(1), at=NOW)
    with watcher(tmp_path, repository) as watching:
        assert watching.turn() == []
        repository.record(emergency(2), at=NOW)
        (alert,) = watching.turn()
        assert (alert.kind, alert.records) == ("emergency-started", (2,))
        assert watching.turn() == []
    repository.record(emergency(3), at=NOW)  # while nobody watched
    with watcher(tmp_path, repository) as watching:
        assert [each.records for each in watching.turn()] == [(3,)]


def test_rules_know_after_a_restart_what_they_knew(tmp_path: Path, repository: Repository) -> None:
    def refused(number: int) -> AuditMessage:
        return events.user_authentication(
            source=SOURCE, at=NOW + timedelta(seconds=number), login=True, user=LEE, outcome=EventOutcomeIndicator.MINOR_FAILURE
        )

    settings = "[rule.many-refusals]\ncount = 4\n"
    with watcher(tmp_path, repository, settings) as watching:
        for number in range(3):
            repository.record(refused(number), at=NOW)
        assert watching.turn() == []
    with watcher(tmp_path, repository, settings) as watching:
        repository.record(refused(3), at=NOW)
        assert [each.kind for each in watching.turn()] == ["many-refusals"]
        for number in range(4, 8):
            repository.record(refused(number), at=NOW)
        assert watching.turn() == []  # the same again within the hour
    with watcher(tmp_path, repository, settings) as watching:
        for number in range(8, 12):
            repository.record(refused(number), at=NOW)
        assert watching.turn() == []  # and that is remembered too


def test_webhooks_are_signed_tried_again_and_not_repeated(tmp_path: Path, repository: Repository) -> None:
    files = TlsFiles(make_pki(tmp_path / "pki"), tmp_path / "pki")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_cert, files.server_key)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("shared\n")
    with hook(context, refuse=1) as server:
        settings = f'[[webhook]]\nurl = "https://localhost:{server.server_port}/alerts?x=1"\ntrust = ["{files.trust}"]\n'
        settings += 'secret_file = "secret"\n'
        with watcher(tmp_path, repository, settings) as watching:
            for number in range(3):
                repository.record(emergency(number), at=NOW)
            made = watching.turn()
            wait_until(lambda: len(server.taken) >= 3, what="three deliveries")
        headers, body = server.taken[0]
        assert headers["X-Securepacs-Signature"] == "sha256=" + hmac.new(b"shared", body, hashlib.sha256).hexdigest()
        assert [json.loads(text)["id"] for _, text in server.taken] == [alert.id for alert in made]
        assert headers["Idempotency-Key"] == made[0].id
        with watcher(tmp_path, repository, settings):  # delivered is delivered
            pass
        assert len(server.taken) == 3


def test_an_alert_waits_for_a_receiver_that_is_away(tmp_path: Path, repository: Repository) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = f'[[webhook]]\nurl = "http://127.0.0.1:{port}/"\nunsafe_plain = true\n'
    with watcher(tmp_path, repository, settings) as watching:
        repository.record(emergency(1), at=NOW)
        (alert,) = watching.turn()
    server = ThreadingHTTPServer(("127.0.0.1", port), Hook)
    server.taken, server.refuse = [], 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with watcher(tmp_path, repository, settings):
            wait_until(lambda: bool(server.taken), what="the delivery after the restart")  # type: ignore[attr-defined]
        assert json.loads(server.taken[0][1])["id"] == alert.id  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def test_mail_names_the_alert_and_where_to_read(tmp_path: Path, repository: Repository) -> None:
    with mail_server() as server:
        port = server.server_address[1]
        settings = f'[[mail]]\nserver = "127.0.0.1"\nport = {port}\nsecurity = "unsafe-plain"\nsender = "pacs@h.example"\n'
        settings += 'to = ["duty@h.example", "chief@h.example"]\n'
        with watcher(tmp_path, repository, settings) as watching:
            repository.record(emergency(1), at=NOW)
            (alert,) = watching.turn()
            wait_until(lambda: bool(server.mails), what="the mail")
        (mail,) = server.mails
        parsed = email.message_from_string(mail, policy=email.policy.default)
        assert parsed["Subject"].startswith("[securepacs] emergency-started: lee@hospital.example")
        assert parsed["Message-ID"] == f"<{alert.id}@securepacs-alerts>"
        assert "docs/reference/alerts.md#emergency-started" in parsed.get_content()


def test_a_siem_gets_one_line_of_json(tmp_path: Path, repository: Repository) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as siem:
        siem.bind(("127.0.0.1", 0))
        siem.settimeout(20)
        settings = f'[[syslog]]\nhost = "127.0.0.1"\nport = {siem.getsockname()[1]}\ntransport = "unsafe-udp"\n'
        with watcher(tmp_path, repository, settings) as watching:
            repository.record(emergency(1), at=NOW)
            (alert,) = watching.turn()
            record = siem.recv(65_536)
        head, _, body = record.partition(b" - {")
        assert head.startswith(b"<81>1 2027-01-31T12:00:01")
        assert b" securepacs-alerts - alert" in head
        assert json.loads(b"{" + body)["id"] == alert.id
        assert b"\n" not in record


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[rule.many-refusal]\n", "rule.many-refusal"),
        ("[rule.many-refusals]\ncounts = 3\n", "rule.many-refusals.counts"),
        ("[rule.many-refusals]\ncount = 0\n", "rule.many-refusals.count"),
        ('[rule.many-refusals]\ncount = "3"\n', "rule.many-refusals.count"),
        ("[rule.many-refusals]\nenabled = 1\n", "rule.many-refusals.enabled"),
        ('[rule.bulk-export-at-night]\ntimezone = "Nowhere/Land"\n', "rule.bulk-export-at-night"),
        ('[rule.bulk-export-at-night]\nbegin = "25:00"\n', "rule.bulk-export-at-night"),
        ('[[webhook]]\nurl = "http://a.example"\n', "webhook[0].url"),
        ('[[mail]]\nserver = "a"\nsender = "b"\nto = []\n', "mail[0]"),
        ('[[mail]]\nserver = "a"\nto = ["c"]\n', "mail[0].sender"),
        ('[[mail]]\nserver = "a"\nsender = "b"\nto = ["c"]\nsecurity = "none"\n', "mail[0].security"),
        ('[mail]\nserver = "a"\n', "mail"),
        ('[[syslog]]\nhost = "a"\n', "syslog[0].trust"),
        ('[[syslog]]\nhost = "a"\ntransport = "smoke"\n', "syslog[0].transport"),
        ("[page]\n", "page"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.key == key


def test_rules_can_be_switched_off(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "[rule.source-silent]\nenabled = false\n"))
    assert {rule.kind for rule in settings.rules} == RULES.keys() - {"source-silent"}
    (tmp_path / "none.toml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "none.toml")
    assert caught.value.key == "watch.state"


def test_the_command_watches_until_it_is_told_to_stop(tmp_path: Path, repository: Repository) -> None:
    program = [sys.executable, "-c", "from securepacs.cli.main import main; main()", "audit", "watch"]
    arguments = ["--store", f"sqlite:///{tmp_path}/audit.db", "-c", str(write(tmp_path))]
    subprocess.run([*program, *arguments, "--once"], check=True, timeout=60)  # the first start
    with subprocess.Popen([*program, *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert process.stderr.readline().startswith("watching sqlite")
            repository.record(emergency(1), at=NOW)
            assert json.loads(process.stdout.readline())["kind"] == "emergency-started"
        finally:
            process.terminate()
    assert process.returncode == 0
