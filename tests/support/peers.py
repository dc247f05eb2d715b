"""What the gateway is measured beside: HAProxy and stunnel as TLS ends in front of the same receiver, and the CPU each takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.net import free_port, wait_for_port

HAPROXY = Path("/usr/sbin/haproxy")
STUNNEL = Path("/usr/bin/stunnel4")
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Material:
    """PEM files: the server's key and certificate with chain, the CA of clients, its revocation lists."""

    key: Path
    certificate: Path
    trust: Path
    crls: tuple[Path, ...]


@dataclass
class Peer:
    """A running TLS end. `pid` is its root process."""

    name: str
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Seconds of user and system time of the process and all its descendants so far."""
        total = 0.0
        for pid in tree(self.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICK
        return total

    def memory_kib(self) -> float:
        """Anonymous memory of the process and its descendants."""
        total = 0
        for pid in tree(self.pid):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1])
        return float(total)


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


@contextmanager
def haproxy(folder: Path, material: Material, target: int, *, bufsize: int | None = None) -> Iterator[Peer]:
    """HAProxy in TCP mode, mutual TLS with revocation lists; `bufsize` is tune.bufsize, Debian's default when None."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    pem, crl = folder / "server.pem", folder / "crl.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(material.certificate.read_bytes() + material.key.read_bytes())
    crl.write_bytes(b"".join(path.read_bytes() for path in material.crls))
    ca = folder / "ca.pem"
    ca.write_bytes(material.trust.read_bytes())
    tune = f"    tune.bufsize {bufsize}\n" if bufsize else ""
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        f"global\n{tune}    maxconn 4000\n"
        "defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 300s\n    timeout server 300s\n"
        f"frontend tls\n    bind 127.0.0.1:{port} ssl crt {pem} ca-file {ca} verify required crl-file {crl} "
        "ssl-min-ver TLSv1.2 no-tls-tickets\n    default_backend archive\n"
        f"backend archive\n    server archive 127.0.0.1:{target}\n",
        encoding="utf-8",
    )
    with _process([str(HAPROXY), "-db", "-f", str(configuration)], folder, port) as process:
        size = f"tune.bufsize {bufsize}" if bufsize else "as shipped"
        yield Peer(f"HAProxy {_haproxy_version()}, {size}", port, process.pid)


@contextmanager
def stunnel(folder: Path, material: Material, target: int) -> Iterator[Peer]:
    """stunnel in the foreground, mutual TLS with revocation lists."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    ca, crl = folder / "ca.pem", folder / "crl.pem"
    ca.write_bytes(material.trust.read_bytes())
    crl.write_bytes(b"".join(path.read_bytes() for path in material.crls))
    configuration = folder / "stunnel.conf"
    configuration.write_text(
        f"foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n[dicom]\naccept = 127.0.0.1:{port}\n"
        f"connect = 127.0.0.1:{target}\ncert = {material.certificate}\nkey = {material.key}\nCAfile = {ca}\nCRLfile = {crl}\n"
        "verifyChain = yes\nsslVersionMin = TLSv1.2\n",
        encoding="utf-8",
    )
    with _process([str(STUNNEL), str(configuration)], folder, port) as process:
        yield Peer(f"stunnel {_stunnel_version()}", port, process.pid)


@contextmanager
def _process(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for_port(port)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _haproxy_version() -> str:
    text = subprocess.run([str(HAPROXY), "-v"], capture_output=True, text=True, check=True).stdout
    return text.split()[2].partition("-")[0]


def _stunnel_version() -> str:
    text = subprocess.run([str(STUNNEL), "-version"], capture_output=True, text=True, check=False).stderr
    return next((word for line in text.splitlines() if "stunnel" in line for word in line.split() if word[:1].isdigit()), "?")
