"""Embedded archives for the demonstration and the tests: pynetdicom's qrscp, Orthanc, DCMTK's storescp, each as a subprocess.

Every function is a context manager: it starts the program on a free port of loopback with all its files in one folder, waits until
it accepts connections, and stops it at the end. None of them is meant to keep patient data. Orthanc offers no way to bind its
DICOM port to one address: it listens on all of them, and answers known AE titles only.

storescp (+B) keeps data sets byte for byte. qrscp decodes and encodes again what it stores; Orthanc keeps every value, and writes
sequences of undefined length with explicit ones.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from securepacs.errors import Unavailable

ORTHANC = Path("/usr/sbin/Orthanc")
STORESCP = Path("/usr/bin/storescp")  # DCMTK's; pynetdicom puts a tool of the same name into the virtual environment
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Archive:
    """A running archive. `port` speaks DICOM on loopback, `http_url` is Orthanc's REST interface, `folder` holds what is stored."""

    name: str
    ae_title: str
    port: int
    folder: Path
    http_url: str = ""


@contextmanager
def qrscp(
    folder: Path, *, ae_title: str = "ARCHIVE", destinations: Mapping[str, tuple[str, int]] | None = None
) -> Iterator[Archive]:
    """Run pynetdicom's query/retrieve archive; `destinations` are the AE titles it may C-MOVE to."""
    folder.mkdir(parents=True, exist_ok=True)
    instances = folder / "instances"
    port = _free_port()
    lines = [
        "[DEFAULT]",
        f"ae_title: {ae_title}",
        f"port: {port}",
        "max_pdu: 131072",
        "acse_timeout: 30",
        "dimse_timeout: 30",
        "network_timeout: 600",
        f"bind_address: {_LOCAL}",
        f"instance_location: {instances.absolute()}",
        f"database_location: {(folder / 'instances.sqlite').absolute()}",
        "log_identifier: False",
    ]
    for title, (address, remote_port) in (destinations or {}).items():
        lines += [f"[{title}]", f"address: {address}", f"port: {remote_port}"]
    configuration = folder / "qrscp.ini"
    configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pynetdicom", "qrscp", "-c", str(configuration.absolute())]
    with _running("qrscp", command, folder, (port,)):
        yield Archive("qrscp", ae_title, port, instances)


@contextmanager
def orthanc(
    folder: Path, *, ae_title: str = "ORTHANC", modalities: Mapping[str, tuple[str, int]] | None = None
) -> Iterator[Archive]:
    """Run Orthanc; `modalities` are the AE titles it knows and may C-MOVE to. Unavailable when it is not installed."""
    if not ORTHANC.exists():
        raise Unavailable("Orthanc is not installed", retryable=False, hint="apt-get install orthanc, or use qrscp")
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder / "storage"
    port, http_port = _free_port(), _free_port()
    settings = {
        "Name": "securepacs embedded archive",
        "StorageDirectory": str(storage.absolute()),
        "IndexDirectory": str(storage.absolute()),
        "Plugins": [],
        "DicomServerEnabled": True,
        "DicomAet": ae_title,
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {title: [title, host, remote] for title, (host, remote) in (modalities or {}).items()},
        "UnknownSopClassAccepted": True,
        "HttpServerEnabled": True,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,  # reachable from this machine only
        "StorageCompression": False,
        "OverwriteInstances": True,
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    with _running("orthanc", [str(ORTHANC), str(configuration.absolute())], folder, (port, http_port)):
        yield Archive("orthanc", ae_title, port, storage, http_url=f"http://{_LOCAL}:{http_port}")


@contextmanager
def storescp(folder: Path, *, ae_title: str = "STORESCP") -> Iterator[Archive]:
    """Run DCMTK's storage server, which writes data sets exactly as received. Unavailable when it is not installed."""
    if not STORESCP.exists():
        raise Unavailable("DCMTK's storescp is not installed", retryable=False, hint="apt-get install dcmtk")
    received = folder / "received"
    received.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    command = [str(STORESCP), "+B", "+xa", "-aet", ae_title, "-od", str(received.absolute()), str(port)]
    with _running("storescp", command, folder, (port,)):
        yield Archive("storescp", ae_title, port, received)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(name: str, command: list[str], folder: Path, ports: tuple[int, ...]) -> Iterator[None]:
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not all(_accepts(port) for port in ports):
            if process.poll() is not None:
                raise Unavailable(f"{name} ended with status {process.returncode} instead of starting", hint=f"see {log}")
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} did not start within {_START_SECONDS:.0f} s", hint=f"see {log}")
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((_LOCAL, port)) == 0
