"""What the demonstration needs, started on loopback and free ports and stopped again: PKI, audit repository, archive, gateway."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from securepacs import tls
from securepacs.audit.repository import AuditRecord, Criteria, Repository, RepositoryServer
from securepacs.errors import Unavailable, UsageError
from securepacs.originals import SqlRegistry
from securepacs.pki import CertificateAuthority, serve
from securepacs.store import open_store
from securepacs.trust import TrustPolicy
from securepacs_proxy import archives
from securepacs_proxy.archives import Archive
from securepacs_proxy.demo.cast import MODALITY_HOST, Cast, gather

if TYPE_CHECKING:
    from securepacs.audit.message import ActiveParticipant

ARCHIVE_AE = "ARCHIVE"
MODALITY_AE = "CT1"
_STOP_SECONDS = 40.0
_ARRIVAL_SECONDS = 20.0

_GATEWAY_TOML = """\
[gateway]
name = "demo-gateway"
ae_title = "SECUREPACS"
workers = 2

[[listener]]
host = "127.0.0.1"
port = 0
certificate = "keys/gateway.pem"
key = "keys/gateway.key"
trust = ["keys/root.pem"]
crls = ["keys/issuing.crl", "keys/root.crl"]

[[route]]
called_ae_title = "{archive_ae}"
destinations = ["127.0.0.1:{archive_port}"]

[[device]]
certificate_common_name = "{modality_host}"
ae_titles = ["{modality_ae}"]
roles = ["modality"]

[audit]
spool = "spool"
enterprise_site = "Demo Hospital"

[[audit.destination]]
host = "localhost"
port = {repository_port}
trust = ["keys/root.pem"]
certificate = "keys/gateway_client.pem"
key = "keys/gateway_client.key"
"""


@dataclass(frozen=True)
class World:
    """The running parts. `port` is the gateway's TLS port on loopback."""

    folder: Path
    cast: Cast
    archive: Archive
    repository: Repository
    repository_port: int
    registry: SqlRegistry
    pki_url: str
    configuration: Path
    port: int

    def trust(self) -> TrustPolicy:
        """What a careful reader trusts: the root, with the CRLs of today."""
        authority, now = self.cast.authority, datetime.now(UTC)
        return TrustPolicy(
            anchors=(authority.root,), intermediates=authority.chain, crls=(authority.crl(at=now), authority.root_crl(at=now))
        )

    def records(self, criteria: Criteria, reader: ActiveParticipant, *, at_least: int = 1) -> list[AuditRecord]:
        """Search the repository as `reader`, waiting until the records have arrived from the gateway's spool."""
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        while True:
            found = self.repository.search(criteria, reader=reader, at=datetime.now(UTC))
            if len(found) >= at_least or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def check_archive(pacs: str) -> None:
    """Raise UsageError unless the demonstration can run with the archive `pacs`."""
    if pacs not in ("qrscp", "orthanc"):
        raise UsageError(f"there is no archive called {pacs!r} here", hint="--pacs qrscp or --pacs orthanc")


@contextmanager
def build(folder: Path, *, pacs: str) -> Iterator[World]:
    """Start everything in `folder`; everything is stopped when the block ends."""
    with ExitStack() as stack:
        authority = CertificateAuthority.create("Demo Hospital", at=datetime.now(UTC), key_kind="p256")
        pki = stack.enter_context(serve(authority))
        authority.base_url = pki.url
        cast = gather(folder / "keys", authority, at=datetime.now(UTC))
        repository = stack.enter_context(Repository(f"sqlite:///{folder / 'audit.sqlite'}"))
        server = stack.enter_context(RepositoryServer(repository, host="127.0.0.1", port=0, context=_repository_context(cast)))
        archive = stack.enter_context(_archive(pacs, folder / "archive"))
        configuration = folder / "gateway.toml"
        configuration.write_text(
            _GATEWAY_TOML.format(
                archive_ae=ARCHIVE_AE,
                archive_port=archive.port,
                modality_host=MODALITY_HOST,
                modality_ae=MODALITY_AE,
                repository_port=server.port,
            ),
            encoding="utf-8",
        )
        port = stack.enter_context(_gateway(configuration, folder / "gateway.log"))
        registry = SqlRegistry(open_store(f"sqlite:///{folder / 'originals.sqlite'}"))
        yield World(folder, cast, archive, repository, server.port, registry, pki.url, configuration, port)


def _repository_context(cast: Cast) -> ssl.SSLContext:
    key, certificate = cast.files("repository")
    return tls.server_context(certificate=certificate, key=key, trust=[cast.trust_file])


def _archive(pacs: str, folder: Path) -> AbstractContextManager[Archive]:
    if pacs == "orthanc":
        return archives.orthanc(folder, ae_title=ARCHIVE_AE)
    return archives.qrscp(folder, ae_title=ARCHIVE_AE)


@contextmanager
def _gateway(configuration: Path, log: Path) -> Iterator[int]:
    """Run the gateway as its own process, as a hospital would; yield its port when it is ready."""
    ready, tell = os.pipe()
    command = [sys.executable, "-m", "securepacs_proxy", "gateway", "run", "-c", str(configuration), "--ready-fd", str(tell)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(tell,))
    os.close(tell)
    try:
        with os.fdopen(ready, encoding="utf-8") as lines:
            line = lines.readline()  # ends with the process at the latest
        if not line:
            raise Unavailable("the gateway did not start", hint=f"see {log}")
        yield int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
