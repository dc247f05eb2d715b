"""rsyslog, from other hands, takes our records over mutual TLS, and its own reach our repository."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from securepacs.audit.forwarder import Forwarder
from securepacs.audit.repository import Criteria, Repository, RepositoryServer
from securepacs.audit.spool import Spool
from securepacs.audit.syslog import to_syslog
from securepacs.audit.syslog_tls import SyslogTlsSender
from tests.support.audit import AT, LEE, TlsFiles, all_messages
from tests.support.net import free_port, wait_for_port, wait_until
from tests.support.pki import make_pki
from tests.support.programs import require

pytestmark = pytest.mark.interop
RSYSLOGD = "/usr/sbin/rsyslogd"


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    require(RSYSLOGD)
    if not list(Path("/usr/lib").glob("**/rsyslog/lmnsd_gtls.so")):
        pytest.skip("rsyslog has no gtls driver")
    return TlsFiles(make_pki(tmp_path / "pki"), tmp_path / "pki")


@contextmanager
def rsyslogd(folder: Path, files: TlsFiles, *, port: int, rules: str, tls_in: bool) -> Iterator[None]:
    """Run rsyslogd on loopback with its own configuration and work folder."""
    folder.mkdir()
    key, certificate = (files.server_key, files.server_cert) if tls_in else (files.client_key, files.client_cert)
    driver = 'streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid"' if tls_in else ""
    configuration = folder / "rsyslog.conf"
    configuration.write_text(
        f"""
global(workDirectory="{folder}" maxMessageSize="1m" defaultNetstreamDriver="gtls"
       defaultNetstreamDriverCAFile="{files.trust}" defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" {driver} maxSessions="20")
input(type="imtcp" port="{port}" address="127.0.0.1")
{rules}
"""
    )
    process = subprocess.Popen(
        [RSYSLOGD, "-n", "-f", str(configuration), "-i", str(folder / "pid")], stderr=(folder / "stderr").open("wb")
    )
    try:
        wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_rsyslog_writes_what_our_forwarder_sends(tmp_path: Path, files: TlsFiles) -> None:
    port, output = free_port(), tmp_path / "received"
    rules = f"""
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{output}" template="raw" flushOnTXEnd="on" asyncWriting="off")
"""
    large = all_messages()["query"]
    records = [to_syslog(each, hostname="gw1", app_name="securepacs", procid="7") for each in (*all_messages().values(), large)]
    with rsyslogd(tmp_path / "rsyslog", files, port=port, rules=rules, tls_in=True), Spool.open(tmp_path / "spool") as spool:
        for record in records:
            spool.append(record)
        forwarder = Forwarder([spool.folder], SyslogTlsSender("localhost", port, files.client_context()), name="rsyslog")
        forwarder.start()
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= len(records), what="rsyslog's file")
        forwarder.stop(drain_seconds=5)
    assert output.read_bytes().splitlines() == records


@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
def test_our_repository_takes_what_rsyslog_forwards(tmp_path: Path, files: TlsFiles, framing: str) -> None:
    logger = shutil.which("logger") or pytest.skip("logger is not installed")
    port = free_port()
    with (
        Repository(f"sqlite:///{tmp_path}/audit.db") as repository,
        RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()) as server,
    ):
        rules = f"""
action(type="omfwd" target="localhost" port="{server.port}" protocol="tcp" TCP_Framing="{framing}"
       template="RSYSLOG_SyslogProtocol23Format" streamDriver="gtls" streamDriverMode="1" streamDriverAuthMode="x509/certvalid")
"""
        with rsyslogd(tmp_path / "rsyslog", files, port=port, rules=rules, tls_in=False):
            for line in ("first line", "second line with é"):
                subprocess.run(
                    [
                        logger,
                        "--server",
                        "127.0.0.1",
                        "--tcp",
                        "--port",
                        str(port),
                        "--rfc5424",
                        "--octet-count",
                        "-t",
                        "tool",
                        line,
                    ],
                    check=True,
                    timeout=20,
                )

            def arrived() -> list[bytes]:
                found = repository.search(Criteria(text="line", newest_first=False), reader=LEE, at=AT)
                return [repository.raw(each.id) for each in found if each.transport == "tls"]

            wait_until(lambda: len(arrived()) == 2, what="the lines in the repository")
        assert [
            raw.rstrip(b"\n").endswith(text) for raw, text in zip(arrived(), (b"first line", "with é".encode()), strict=True)
        ] == [
            True,
            True,
        ]
