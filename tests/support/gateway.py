"""A real gateway for tests: `securepacs-proxy gateway run` as a process of its own, with a PKI, on a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from pynetdicom import AE
from pynetdicom.association import Association

from securepacs.audit.message import AuditMessage
from securepacs.audit.segments import read_spool
from securepacs.audit.syslog import parse_record
from securepacs.audit.xml import from_xml
from securepacs.codes import VERIFICATION_SOP_CLASS
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Credential
from tests.support.net import wait_until
from tests.support.pki import TestPki, make_pki

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-c", "from securepacs_proxy.cli import main; main()"]
_READY = re.compile(r"^securepacs-proxy: ready on (?:\[[^]]*\]|[^:\s]+):(\d+)$", re.MULTILINE)
DEVICES: Mapping[str, tuple[str, str]] = {"ct1": ("CT1", "modality"), "peer1": ("PEER1", "gateway_peer")}


@dataclass
class Gateway:
    """A gateway that listens. `archives` maps called AE titles to (host, port); `devices` common names to (AE title, role)."""

    folder: Path
    pki: TestPki
    archives: Mapping[str, tuple[str, int]]
    devices: Mapping[str, tuple[str, str]] = field(default_factory=lambda: dict(DEVICES))
    workers: int = 2
    limits: Mapping[str, float] = field(default_factory=dict)
    extra: str = ""
    crls: bool = True
    program: Sequence[str] = tuple(PROGRAM)
    process: subprocess.Popen[bytes] | None = None
    ports: list[int] = field(default_factory=list)
    _credentials: dict[tuple[CertificateProfile, str], Credential] = field(default_factory=dict)
    _files: dict[tuple[CertificateProfile, str], tuple[Path, Path]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def log(self) -> str:
        return (self.folder / "stderr.log").read_text(errors="replace")

    def write(self) -> None:
        """Write gateway.toml and everything it names."""
        key, certificate = self.pki.write_pem(self.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway"), self.folder)
        root = self.pki.write_trust(self.folder)
        issuing_crl, root_crl = self.pki.write_crls(self.folder)
        lines = ["[gateway]", 'name = "gw1"', 'ae_title = "SECUREPACS"', f"workers = {self.workers}"]
        lines += ["[[listener]]", 'host = "127.0.0.1"', "port = 0", f'certificate = "{certificate.name}"', f'key = "{key.name}"']
        lines += [f'trust = ["{root.name}"]', f'crls = ["{issuing_crl.name}", "{root_crl.name}"]' if self.crls else ""]
        for title, (host, port) in self.archives.items():
            lines += ["[[route]]", f'called_ae_title = "{title}"', f'destinations = ["{host}:{port}"]']
        for name, (title, role) in self.devices.items():
            lines += ["[[device]]", f'certificate_common_name = "{name}"', f'ae_titles = ["{title}"]', f'roles = ["{role}"]']
        lines += ["[audit]", 'spool = "spool"', "quota_mb = 64", self.extra]
        lines += ["[limits]", *(f"{name} = {value}" for name, value in self.limits.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *options: str, seconds: float = 40.0) -> None:
        """Start the process and wait until it listens; what it says on stderr is shown when it does not."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proxy"), str(ROOT)]), "NO_COLOR": "1"}
        with (self.folder / "stderr.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*self.program, "gateway", "run", "-v", "-c", str(self.config), *options],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        try:
            wait_until(self._has_started_or_ended, seconds=seconds, what="the gateway")
        finally:
            self.ports = [int(port) for port in _READY.findall(self.log)]
            if not self.ports:
                self.kill()
        assert self.ports, f"the gateway did not start:\n{self.log}"

    def _has_started_or_ended(self) -> bool:
        return bool(_READY.search(self.log)) or self.process is None or self.process.poll() is not None

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self, *, seconds: float = 40.0) -> int:
        """Send SIGTERM and wait for the end; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End the whole process group; for the end of a test that failed."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def records(self, *, event: str = "") -> list[AuditMessage]:
        """Return all audit records of all processes that are durable now, by process and in order; `event` is a DCM code."""
        raw = (record for folder in sorted(self.spool.iterdir()) if folder.is_dir() for record in read_spool(folder))
        messages = [from_xml(parse_record(record).msg) for record in raw]
        return [message for message in messages if event in ("", message.EventIdentification.EventID.csd_code)]

    def texts(self, *, event: str = "") -> list[str]:
        """Return everything that records say in words: outcome descriptions and details of objects."""
        return [text_of(message) for message in self.records(event=event)]

    def status(self) -> list[dict[str, Any]]:
        """Return what `gateway status --json` prints."""
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run another `gateway` command on the same configuration."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proxy"), str(ROOT)]), "NO_COLOR": "1"}
        arguments = [*PROGRAM, "gateway", command, "-c", str(self.config), *options]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environment, check=False)

    def children(self) -> list[int]:
        """Return the process IDs of workers and auditor."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    # --- clients --------------------------------------------------------------------------------------------------------

    def client_files(self, name: str, profile: CertificateProfile = CertificateProfile.MODALITY) -> tuple[Path, Path, Path]:
        """Return key, certificate with chain, and trust file of a client; a person's profile makes a person."""
        if (profile, name) not in self._files:  # issued once: a test may revoke it; written once: another client may be reading it
            if (profile, name) not in self._credentials:
                self._credentials[profile, name] = self.pki.credential(profile, name)
            credential = self._credentials[profile, name]
            self._files[profile, name] = self.pki.write_pem(credential, self.folder / "clients")
        return *self._files[profile, name], self.folder / "root.pem"

    def client_context(self, name: str, profile: CertificateProfile = CertificateProfile.MODALITY) -> ssl.SSLContext:
        """Return the TLS context of a Python client."""
        key, certificate, trust = self.client_files(name, profile)
        context = ssl.create_default_context(cafile=str(trust))
        context.load_cert_chain(certificate, key)
        return context

    def associate(
        self,
        name: str,
        *,
        calling: str,
        called: str = "ARCHIVE",
        contexts: Sequence[str] = (VERIFICATION_SOP_CLASS,),
        profile: CertificateProfile = CertificateProfile.MODALITY,
        **options: Any,
    ) -> Association:
        """Open an association as a pynetdicom client; the caller looks whether it is established."""
        entity = AE(calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        for context in contexts:
            entity.add_requested_context(context)
        return entity.associate(
            "127.0.0.1", self.port, ae_title=called, tls_args=(self.client_context(name, profile), "localhost"), **options
        )

    def dcmtk_options(self, name: str, profile: CertificateProfile = CertificateProfile.MODALITY) -> list[str]:
        """Return the TLS options of a DCMTK client; 3.6.7 sends one certificate only, the gateway trusts the CAs above it."""
        key, certificate, trust = self.client_files(name, profile)
        issuing = self.folder / "clients" / "issuing.pem"
        if not issuing.exists():
            issuing.write_bytes(self.pki.ca.issuing.public_bytes(Encoding.PEM))
        return ["+tls", str(key), str(certificate), "+cf", str(trust), "+cf", str(issuing)]


def text_of(message: AuditMessage) -> str:
    """Return the words of a record."""
    details = (detail for what in message.ParticipantObjectIdentification for detail in what.ParticipantObjectDetail)
    return " ".join([message.EventIdentification.EventOutcomeDescription, *(detail.value.decode() for detail in details)])


@contextmanager
def running_gateway(
    folder: Path,
    archives: Mapping[str, tuple[str, int]],
    *,
    options: Sequence[str] = ("--drain", "2"),
    pki: TestPki | None = None,
    **settings: Any,
) -> Iterator[Gateway]:
    """Run a gateway in front of the given archives; at the end it must have stopped by itself with exit code 0."""
    folder.mkdir(parents=True, exist_ok=True)
    gateway = Gateway(folder, pki or make_pki(folder), archives, **settings)
    gateway.write()
    try:
        gateway.start(*options)
        yield gateway
        assert gateway.stop() == 0, gateway.log
    finally:
        gateway.kill()
