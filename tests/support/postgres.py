"""A private PostgreSQL cluster: Debian's programs, a folder of its own, loopback only, gone with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.net import free_port, wait_until

OWNER = "securepacs"


class Cluster:
    """A cluster; `url` is that of its one database, as its owner. It may be stopped and started again."""

    def __init__(self, port: int, command: Sequence[str | Path], log: Path, programs: Path) -> None:
        self.port = port
        self.url = f"postgresql://{OWNER}@127.0.0.1:{port}/postgres"
        self._command = command
        self._command_folder = programs
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log, cwd="/")
        wait_until(self._answers, seconds=60, what="PostgreSQL")

    def _answers(self) -> bool:
        """Say whether it accepts connections: for a moment it listens, and is still starting up."""
        asked = [self._command_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False, timeout=20).returncode == 0

    def stop(self) -> None:
        """Stop the server fast: pooled connections of the test do not hold it up."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None


@contextmanager
def postgresql() -> Iterator[Cluster]:
    """Make and run a cluster; skip the test where there are no programs or there is no driver for it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    if find_spec("psycopg") is None:
        pytest.skip("the driver psycopg 3 is not installed")
    programs = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="securepacs-pg-"))
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    try:
        make = [*as_user, programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", OWNER, "-E", "UTF8", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, timeout=120, cwd="/")
        port = free_port()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        serve = [*as_user, programs / "postgres", "-D", folder / "data", "-k", folder, "-p", str(port), *options]
        cluster = Cluster(port, serve, folder / "log", programs)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
