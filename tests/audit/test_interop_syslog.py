"""rsyslog and syslog-ng take our records over mutual TLS and send us theirs, with the very configuration the how-to shows.

logger(1) reaches us over TCP and UDP.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from securepacs.audit.forwarder import Forwarder
from securepacs.audit.repository import AuditRecord, Criteria, Receipt, Repository, RepositoryServer
from securepacs.audit.spool import Spool
from securepacs.audit.syslog import parse_record, to_syslog
from securepacs.audit.syslog_tcp import SyslogTcpSender
from securepacs.audit.syslog_tls import SyslogTlsSender
from tests.support.audit import AT, LEE, TlsFiles, all_messages
from tests.support.net import free_port, wait_for_port, wait_until
from tests.support.pki import make_pki
from tests.support.programs import require, syslog_ng

pytestmark = pytest.mark.interop
SNIPPETS = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "syslog"
RSYSLOGD = "/usr/sbin/rsyslogd"
RECORDS = [to_syslog(each, hostname="gw1", app_name="securepacs", procid="7") for each in all_messages().values()]
Running = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("pki")
    return TlsFiles(make_pki(folder), folder)


def snippet(name: str, changes: dict[str, object]) -> str:
    """Return a configuration the how-to shows, for this machine; every change must find its place."""
    text = (SNIPPETS / name).read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, str(new))
    return text


def tls(files: TlsFiles, *, server: bool) -> dict[str, object]:
    key, certificate = (files.server_key, files.server_cert) if server else (files.client_key, files.client_cert)
    return {"/etc/ssl/audit/ca.pem": files.trust, "/etc/ssl/audit/own.pem": certificate, "/etc/ssl/audit/own.key": key}


@contextmanager
def running(command: list[str], folder: Path, port: int, environment: dict[str, str] | None = None) -> Iterator[None]:
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors, env=environment)
    try:
        wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def rsyslogd(folder: Path, port: int, configuration: str, more: str = "") -> Iterator[None]:
    """Run rsyslogd on loopback with its own configuration and work folder."""
    require(RSYSLOGD)
    if not list(Path("/usr/lib").glob("**/rsyslog/lmnsd_gtls.so")):
        pytest.skip("rsyslog has no gtls driver")
    folder.mkdir()
    path = folder / "rsyslog.conf"
    path.write_text(f'global(workDirectory="{folder}")\n{configuration}\n{more}\n')
    with running([RSYSLOGD, "-n", "-f", str(path), "-i", str(folder / "pid")], folder, port):
        yield


@contextmanager
def syslog_ngd(folder: Path, port: int, configuration: str, more: str = "") -> Iterator[None]:
    """Run syslog-ng on loopback with its own configuration and state."""
    command, environment = syslog_ng()
    folder.mkdir()
    path = folder / "syslog-ng.conf"
    path.write_text(f"@version: current\n{configuration}\n{more}\n")
    state = {"-f": path, "-p": folder / "pid", "-c": folder / "control", "-R": folder / "persist"}
    arguments = [str(word) for pair in state.items() for word in pair]
    with running([*command, "--foreground", "--no-caps", "--stderr", *arguments], folder, port, environment):
        yield


def receiving(name: str, files: TlsFiles, port: int, output: Path) -> str:
    """Return the configuration of a receiver. Its certificate is for localhost, ours for a gateway peer."""
    changes: dict[str, object] = {**tls(files, server=True), "/var/log/audit-records": output}
    if name == "rsyslog":
        changes |= {
            "gateway.hospital.example": "gateway-peer.hospital.example",
            'port="6514"': f'address="127.0.0.1" port="{port}"',
        }
    else:
        changes |= {"0.0.0.0": "127.0.0.1", "port(6514)": f"port({port})"}
    return snippet(f"{name}-receive.conf", changes)


def sending(name: str, files: TlsFiles, port: int, *, source: int, folder: Path) -> tuple[str, str]:
    """Return the configuration of a sender to our port that itself listens on `source`, and what a site has beside it."""
    changes: dict[str, object] = {**tls(files, server=False), "audit.hospital.example": "localhost"}
    if name == "rsyslog":
        changes['port="6514"'] = f'port="{port}"'
        return snippet(f"{name}-forward.conf", changes), (
            f'module(load="imtcp")\ninput(type="imtcp" port="{source}" address="127.0.0.1")'
        )
    changes |= {"port(6514)": f"port({port})", "port(601)": f"port({source})", "/var/lib/syslog-ng": folder}
    return snippet(f"{name}-forward.conf", changes), ""


DAEMONS: dict[str, Running] = {"rsyslog": rsyslogd, "syslog-ng": syslog_ngd}


@pytest.mark.parametrize("name", DAEMONS)
def test_it_writes_what_our_spool_sends(tmp_path: Path, files: TlsFiles, name: str) -> None:
    port, output = free_port(), tmp_path / "received"
    configuration = receiving(name, files, port, output)
    with DAEMONS[name](tmp_path / name, port, configuration), Spool.open(tmp_path / "spool") as spool:
        for record in RECORDS:
            spool.append(record)
        forwarder = Forwarder([spool.folder], SyslogTlsSender("localhost", port, files.client_context()), name="peer")
        forwarder.start()
        wait_until(lambda: len(_lines(output)) >= len(RECORDS), what=f"the file of {name}")
        forwarder.stop(drain_seconds=5)
    assert _lines(output) == RECORDS


@pytest.mark.parametrize("name", DAEMONS)
def test_it_writes_what_our_repository_forwards(tmp_path: Path, files: TlsFiles, name: str) -> None:
    port, output = free_port(), tmp_path / "received"
    configuration = receiving(name, files, port, output)
    with (
        DAEMONS[name](tmp_path / name, port, configuration),
        Repository(f"sqlite:///{tmp_path}/audit.db") as repository,
    ):
        repository.store(Receipt.of(each, received=AT, transport="test") for each in RECORDS)
        sender = SyslogTlsSender("localhost", port, files.client_context())
        forwarder = Forwarder([repository.supply(tmp_path / "positions", name)], sender, name=name)
        forwarder.start()
        wait_until(lambda: len(_lines(output)) >= len(RECORDS), what=f"the file of {name}")
        forwarder.stop(drain_seconds=5)
    assert _lines(output) == RECORDS


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def server(repository: Repository, files: TlsFiles) -> Iterator[RepositoryServer]:
    loopback = ("127.0.0.1", 0)
    with RepositoryServer(
        repository, host="127.0.0.1", port=0, context=files.server_context(), unsafe_tcp=loopback, unsafe_udp=loopback
    ) as running_server:
        yield running_server


def kept(repository: Repository) -> list[AuditRecord]:
    found = repository.search(Criteria(limit=10_000), reader=LEE, at=AT)
    return sorted((each for each in found if each.transport != "internal"), key=lambda each: each.id)


@pytest.mark.parametrize("name", DAEMONS)
def test_it_sends_us_the_records_it_took(
    tmp_path: Path, files: TlsFiles, repository: Repository, server: RepositoryServer, name: str
) -> None:
    source = free_port()
    configuration, more = sending(name, files, server.port, source=source, folder=tmp_path)
    with DAEMONS[name](tmp_path / name, source, configuration, more):
        origin = SyslogTcpSender("127.0.0.1", source)
        origin.connect()
        origin.send([*RECORDS, b"<13>1 2027-01-01T00:00:00Z host other - - - not an audit record"])
        wait_until(lambda: len(kept(repository)) >= len(RECORDS), what=f"the records of {name}")
        origin.close()
    found = kept(repository)
    raws = [repository.raw(each.id) for each in found]
    if name == "rsyslog":
        assert raws == RECORDS
    assert [parse_record(raw).msg.removesuffix(b"\n") for raw in raws] == [parse_record(each).msg for each in RECORDS]
    assert [parse_record(raw).msgid for raw in raws] == ["IHE+RFC-3881"] * len(RECORDS)
    assert {(each.transport, each.authenticated, each.verdict) for each in found} == {("tls", True, "conformant")}


@pytest.mark.parametrize("name", DAEMONS)
def test_it_keeps_what_it_cannot_send_until_we_are_there(
    tmp_path: Path, files: TlsFiles, repository: Repository, name: str
) -> None:
    port, source = free_port(), free_port()
    configuration, more = sending(name, files, port, source=source, folder=tmp_path)
    with DAEMONS[name](tmp_path / name, source, configuration.replace('resumeInterval="5"', 'resumeInterval="1"'), more):
        origin = SyslogTcpSender("127.0.0.1", source)
        origin.connect()
        origin.send(RECORDS)
        with RepositoryServer(repository, host="127.0.0.1", port=port, context=files.server_context()):
            wait_until(
                lambda: len({each.frame_sha256 for each in kept(repository)}) >= len(RECORDS), seconds=90, what="all records"
            )
        origin.close()


@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
def test_both_framings_of_rsyslog_without_tls(
    tmp_path: Path, repository: Repository, server: RepositoryServer, framing: str
) -> None:
    source = free_port()
    configuration = f"""
global(maxMessageSize="1m")
module(load="imtcp")
input(type="imtcp" port="{source}" address="127.0.0.1")
template(name="raw" type="string" string="%rawmsg%{"" if framing == "octet-counted" else chr(92) + "n"}")
action(type="omfwd" target="127.0.0.1" port="{server.tcp_port}" protocol="tcp" TCP_Framing="{framing}" template="raw")
"""
    with rsyslogd(tmp_path / "rsyslog", source, configuration):
        origin = SyslogTcpSender("127.0.0.1", source)
        origin.connect()
        origin.send(RECORDS)
        wait_until(lambda: len(kept(repository)) >= len(RECORDS), what="the records")
        origin.close()
    assert [repository.raw(each.id) for each in kept(repository)] == RECORDS


LOGGER = {
    "tcp": ["--tcp"],
    "tcp, octets counted": ["--tcp", "--octet-count"],
    "udp": ["--udp"],
}


@pytest.mark.parametrize("how", LOGGER)
def test_logger_reaches_us_without_tls(repository: Repository, server: RepositoryServer, how: str) -> None:
    logger = require("logger")
    port = server.udp_port if how == "udp" else server.tcp_port
    texts = ["first line", "second line with é", "third " + "x" * 900]
    where = ["--server", "127.0.0.1", "--port", str(port), *LOGGER[how]]
    for text in texts:
        what = ["--rfc5424", "-p", "authpriv.notice", "-t", "tool", "--msgid", "TEST", text]
        subprocess.run([logger, *where, *what], check=True, timeout=20)
    wait_until(lambda: len(kept(repository)) == len(texts), what="the lines")
    records = [parse_record(repository.raw(each.id)) for each in kept(repository)]
    assert {each.msg.decode() for each in records} == set(texts)  # of three connections, in no order among them
    assert {(each.pri, each.version, each.app_name, each.msgid) for each in records} == {(85, 1, "tool", "TEST")}
    assert {(each.transport, each.authenticated) for each in kept(repository)} == {(how[:3], False)}


@pytest.mark.parametrize("how", LOGGER)
def test_logger_carries_a_whole_audit_message(repository: Repository, server: RepositoryServer, how: str) -> None:
    logger = require("logger")
    port = server.udp_port if how == "udp" else server.tcp_port
    message = parse_record(RECORDS[0]).msg
    where = ["--server", "127.0.0.1", "--port", str(port), *LOGGER[how]]
    what = ["--rfc5424", "--size", "32KiB", "-p", "authpriv.notice", "--msgid", "IHE+RFC-3881"]
    subprocess.run([logger, *where, *what], input=message, check=True, timeout=20)
    wait_until(lambda: len(kept(repository)) == 1, what="the message")
    (found,) = kept(repository)
    assert (found.verdict, found.truncated, found.duplicate_of) == ("conformant", False, None)
    assert parse_record(repository.raw(found.id)).msg == message


def test_the_how_to_shows_what_is_tested() -> None:
    page = (SNIPPETS.parent / "connect-rsyslog-and-syslog-ng.md").read_text()
    shown = re.findall(r"^```conf\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    assert sorted(shown) == sorted(each.read_text() for each in SNIPPETS.glob("*.conf"))
