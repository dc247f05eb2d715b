"""A real agent for tests: `securepacs-proxy agent run` as a process of its own; PINs go in through a pipe, a line each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from securepacs.audit.message import AuditMessage
from securepacs.audit.segments import read_spool
from securepacs.audit.syslog import parse_record
from securepacs.audit.xml import from_xml
from securepacs.codes import USER_AUTHENTICATION
from tests.support.gateway import PROGRAM, ROOT, Gateway
from tests.support.net import wait_until
from tests.support.pki import pem_of
from tests.support.programs import dcmtk

_READY = re.compile(r"agent ready on 127\.0\.0\.1:(\d+)$", re.MULTILINE)


@dataclass
class Agent:
    """An agent in front of `gateway`, with the token that `uri` names as `environment` lets it be seen."""

    folder: Path
    gateway: Gateway
    uri: str
    environment: Mapping[str, str]
    settings: Mapping[str, float] = field(default_factory=dict)
    token_settings: Mapping[str, float] = field(default_factory=dict)
    viewers: Mapping[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    _pins: int = -1

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    def write(self) -> None:
        (self.folder / "issuing.pem").write_bytes(pem_of(self.gateway.pki.ca.issuing))
        root = self.gateway.folder / "root.pem"
        lines = ["[agent]", 'name = "ws1"', "port = 0", f'gateway = "localhost:{self.gateway.port}"', f'trust = ["{root}"]']
        lines += ['state = "state"', *(f"{name} = {value}" for name, value in self.settings.items())]
        lines += ["[token]", f'uri = "{self.uri}"', 'chain = ["issuing.pem"]']
        lines += [f"{name} = {value}" for name, value in self.token_settings.items()]
        for title, port in self.viewers.items():
            lines += ["[[viewer]]", f'ae_title = "{title}"', f"port = {port}"]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        environment = {**os.environ, **self.environment, "PYTHONPATH": os.pathsep.join([str(ROOT / "proxy"), str(ROOT)])}
        taken, self._pins = os.pipe()
        with (self.folder / "agent.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "agent", "run", "-v", "-c", str(self.config), "--pin-fd", str(taken)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                pass_fds=[taken],
            )
        os.close(taken)
        wait_until(lambda: bool(_READY.search(self.log)) or self.ended, what="the agent")
        found = _READY.search(self.log)
        assert found, f"the agent did not start:\n{self.log}"
        self.port = int(found[1])

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def log(self) -> str:
        return (self.folder / "agent.log").read_text(errors="replace")

    def give_pin(self, pin: str) -> None:
        """Type a PIN."""
        os.write(self._pins, pin.encode() + b"\n")

    @property
    def status(self) -> dict[str, Any]:
        path = self.folder / "state" / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def wait_for(self, state: str, *, seconds: float = 20) -> None:
        wait_until(lambda: self.ended or self.status.get("state") == state, seconds=seconds, what=f"{state}: {self.status}")
        assert self.status.get("state") == state, self.log

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run another `agent` command on the same configuration."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proxy"), str(ROOT)]), "NO_COLOR": "1"}
        arguments = [*PROGRAM, "agent", command, "-c", str(self.config), *options]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environment, check=False)

    def records(self) -> list[AuditMessage]:
        return [from_xml(parse_record(raw).msg) for raw in read_spool(self.folder / "state" / "spool")]

    def logins(self) -> list[tuple[str, str, int, str]]:
        """Return what the records of User Authentication say: Login or Logout, who, the outcome, why."""
        return [
            (
                message.EventIdentification.EventTypeCode[0].originalText,
                message.ActiveParticipant[0].UserName,
                int(message.EventIdentification.EventOutcomeIndicator),
                message.EventIdentification.EventOutcomeDescription,
            )
            for message in self.records()
            if message.EventIdentification.EventID.csd_code == USER_AUTHENTICATION.csd_code
        ]

    def call(self, tool: str, *arguments: str, called: str, calling: str = "VIEWER1") -> tuple[int, str]:
        """Run a stock DCMTK client, plain, against the agent."""
        done = subprocess.run(
            [dcmtk(tool), "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(self.port), *arguments],
            capture_output=True,
            timeout=120,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


@contextmanager
def running_agent(folder: Path, gateway: Gateway, uri: str, environment: Mapping[str, str], **settings: Any) -> Iterator[Agent]:
    """Run an agent; it must have stopped by itself with exit code 0 at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    agent = Agent(folder, gateway, uri, environment, **settings)
    agent.write()
    try:
        agent.start()
        yield agent
        assert agent.stop() == 0, agent.log
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait(10)
