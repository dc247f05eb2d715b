"""A private PostgreSQL cluster: Debian's programs, a folder of its own, loopback only, gone with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.net import free_port, wait_for_port

OWNER = "securepacs"


class Cluster:
    """A running cluster; `url` is that of its one database, as its owner."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process
        self.url = f"postgresql://{OWNER}@127.0.0.1:{port}/postgres"


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
        process = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"), cwd="/")
        try:
            wait_for_port(port, seconds=60)
            yield Cluster(port, process)
        finally:
            process.send_signal(signal.SIGINT)  # a fast stop: pooled connections of the test do not hold it up
            process.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
