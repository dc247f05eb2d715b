"""The processes of a gateway, run for real: readiness, two workers, draining, replacement, reload, limits, the control socket."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ReasonFlags
from pynetdicom import AE, evt

from securepacs.audit.repository import Repository, RepositoryServer
from securepacs.audit.syslog import parse_record
from securepacs.audit.xml import from_xml
from securepacs.codes import APPLICATION_ACTIVITY, SECURITY_ALERT, VERIFICATION_SOP_CLASS
from securepacs.pki import CertificateProfile
from securepacs.tls import server_context
from tests.support.gateway import PROGRAM, Gateway, running_gateway, text_of
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki


@pytest.fixture
def archive() -> Iterator[tuple[str, int]]:
    """An archive that answers C-ECHO."""
    entity = AE("ARCHIVE")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)])
    assert server is not None
    try:
        yield "127.0.0.1", int(server.server_address[1])
    finally:
        server.shutdown()


def echo_works(gateway: Gateway, name: str = "ct1", calling: str = "CT1") -> bool:
    association = gateway.associate(name, calling=calling)
    if not association.is_established:
        return False
    status = association.send_c_echo().Status
    association.release()
    return bool(status == 0)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def said(gateway: Gateway, words: str) -> bool:
    return any(words in text for text in gateway.texts(event=SECURITY_ALERT.csd_code))


def test_every_process_records_its_start_and_its_stop(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        assert echo_works(gateway)
        assert len(gateway.children()) == 3  # two workers, one auditor
    activity = gateway.records(event=APPLICATION_ACTIVITY.csd_code)
    by_source: dict[str, list[str]] = {}
    for message in activity:
        kind = message.EventIdentification.EventTypeCode[0].originalText
        by_source.setdefault(message.AuditSourceIdentification.AuditSourceID, []).append(kind)
    expected = ["Application Start", "Application Stop"]
    assert by_source == {"gw1/supervisor": expected, "gw1/worker-0": expected, "gw1/worker-1": expected}


def test_both_workers_serve(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        context = gateway.client_context("ct1")
        open_sockets: list[ssl.SSLSocket] = []

        def one_more_until_both() -> bool:
            plain = socket.create_connection(("127.0.0.1", gateway.port))
            open_sockets.append(context.wrap_socket(plain, server_hostname="localhost"))
            return {row["worker"] for row in gateway.status()} == {"worker-0", "worker-1"}

        wait_until(one_more_until_both, seconds=60, what="a connection in each worker")
        rows = gateway.status()
        assert len(rows) == len(open_sockets)
        assert {row["user"] for row in rows} == {"ct1"}
        assert {row["state"] for row in rows} == {"authenticated"}
        for one in open_sockets:
            one.close()


def test_sigterm_lets_a_live_association_end(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, options=("--drain", "60")) as gateway:
        association = gateway.associate("ct1", calling="CT1")
        assert association.is_established
        gateway.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(gateway.port), what="the closing of the port")
        assert association.send_c_echo().Status == 0
        association.release()
        assert association.is_released
        assert gateway.stop(seconds=20) == 0  # long before the 60 s


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_aborts_who_does_not_end(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, options=("--drain", "1")) as gateway:
        association = gateway.associate("ct1", calling="CT1")
        assert association.is_established
        assert gateway.stop(seconds=30) == 0
        wait_until(lambda: association.is_aborted, what="the abort")


def test_a_second_sigterm_ends_at_once(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, options=("--drain", "300")) as gateway:
        association = gateway.associate("ct1", calling="CT1")
        assert association.is_established
        children = gateway.children()
        gateway.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(gateway.port), what="the closing of the port")
        gateway.signal(signal.SIGTERM)
        assert gateway.process is not None
        gateway.process.wait(20)
        wait_until(lambda: not any(map(alive, children)), what="the end of the children")
        association.abort()


def test_a_dead_worker_is_replaced(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        before = gateway.children()
        for pid in before:  # the auditor too
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(gateway.children()) == 3 and not set(before) & set(gateway.children()), what="new processes")
        wait_until(lambda: said(gateway, "worker-1") and said(gateway, "worker-0") and said(gateway, "auditor"), what="records")
        assert said(gateway, "ended with -9 and is replaced")
        wait_until(lambda: echo_works(gateway), what="service")


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path, archive: tuple[str, int]) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": archive})
    gateway.write()
    try:
        gateway.start()
        children = gateway.children()
        assert gateway.process is not None
        gateway.process.kill()
        gateway.process.wait(10)
        wait_until(lambda: not any(map(alive, children)), seconds=30, what="the end of the children")
        gateway.start()  # what it left behind keeps nobody from starting
        assert echo_works(gateway)
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_reload_takes_new_settings_into_use_in_every_worker(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        assert not echo_works(gateway, "ct2", "CT2")
        live = gateway.associate("ct1", calling="CT1")
        gateway.devices = {**gateway.devices, "ct2": ("CT2", "modality")}
        gateway.write()
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: said(gateway, "the configuration was replaced"), what="the reload")
        wait_until(lambda: gateway.log.count("works by version") == 2, what="both workers")
        assert all(echo_works(gateway, "ct2", "CT2") for _ in range(8))
        assert live.send_c_echo().Status == 0  # who is still enrolled goes on
        live.release()


def test_a_broken_configuration_changes_nothing_and_is_recorded(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        gateway.config.write_text(gateway.config.read_text().replace("[limits]", "[limits]\nnonsense = 1"))
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: said(gateway, "the old one stays"), what="the refusal")
        assert said(gateway, "limits.nonsense")
        assert echo_works(gateway)


def test_what_needs_a_restart_is_refused(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        gateway.workers = 3
        gateway.write()
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: said(gateway, "gateway.workers: the setting cannot change without a restart"), what="the refusal")
        assert len(gateway.children()) == 3
        assert echo_works(gateway)


@pytest.mark.parametrize("change", ["revoked", "not enrolled"])
def test_reload_ends_live_associations_that_are_no_longer_welcome(tmp_path: Path, archive: tuple[str, int], change: str) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        live, other = gateway.associate("ct1", calling="CT1"), gateway.associate("peer1", calling="PEER1")
        assert live.is_established
        assert other.is_established
        if change == "revoked":
            (row,) = [row for row in gateway.status() if row["user"] == "ct1"]
            assert row["certificate_sha256"]
            certificate = live_certificate(gateway)
            gateway.pki.ca.revoke(certificate, at=gateway.pki.now, reason=ReasonFlags.key_compromise)
        else:
            gateway.devices = {"peer1": gateway.devices["peer1"]}
        gateway.write()
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: live.is_aborted, what="the end of the live association")
        assert other.send_c_echo().Status == 0
        other.release()
        assert not echo_works(gateway)


def live_certificate(gateway: Gateway) -> x509.Certificate:
    return x509.load_pem_x509_certificate((gateway.folder / "clients" / "ct1.pem").read_bytes())


def test_the_limit_of_connections_holds_over_all_workers(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, limits={"max_connections": 3}) as gateway:
        kept = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(3)]
        wait_until(lambda: len(gateway.status()) == 3, what="three connections")
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", gateway.port)) as extra:
                extra.settimeout(10)
                assert extra.recv(1) == b""
        wait_until(lambda: said(gateway, "turned away"), what="the record")
        assert sum("turned away" in text for text in gateway.texts()) <= 2  # one for each worker, not one for each connection
        for one in kept:
            one.close()
        wait_until(lambda: echo_works(gateway), what="room")


def test_the_control_socket_is_for_the_owner_only(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        mode = (gateway.spool / "control.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE(gateway.spool.stat().st_mode) == 0o700
        second = gateway.run("run")
        assert second.returncode == 2
        assert "is running" in second.stderr
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(gateway.spool / "control.sock"))
            visitor.sendall(b'{"type": "verdicts", "version": 1}\n')  # not for visitors
            visitor.settimeout(10)
            assert visitor.recv(100) == b""
        assert echo_works(gateway)
    assert not (gateway.spool / "control.sock").exists()
    gone = gateway.run("status")
    assert gone.returncode == 5
    assert "no gateway answers" in gone.stderr


def test_one_session_is_ended_by_its_name(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        live, other = gateway.associate("ct1", calling="CT1"), gateway.associate("peer1", calling="PEER1")
        (row,) = [row for row in gateway.status() if row["user"] == "ct1"]
        assert row["state"] == "relaying"
        assert row["received"] > 0
        assert gateway.run("end", str(row["id"]), "--reason", "stolen card").returncode == 0
        wait_until(lambda: live.is_aborted, what="the end of the session")
        assert other.send_c_echo().Status == 0
        other.release()
        assert gateway.run("end", "nobody").returncode == 1
        table = gateway.run("status")
        assert "0 connected" in table.stdout
        wait_until(lambda: any("stolen card" in text_of(message) for message in gateway.records()), what="the record")


def test_readiness_is_told_on_a_descriptor(tmp_path: Path, archive: tuple[str, int]) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": archive}, workers=1)
    gateway.write()
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*PROGRAM, "gateway", "run", "-c", str(gateway.config), "--ready-fd", str(writing)],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": "proxy:."},
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            text = ready.read()  # ends: no child keeps the descriptor
        assert text.startswith("securepacs-proxy: ready on 127.0.0.1:")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()


def test_a_port_in_use_and_a_broken_file_end_with_2(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", free_port())})
    gateway.write()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace("port = 0", f"port = {taken.getsockname()[1]}"))
        done = gateway.run("run")
        assert done.returncode == 2
        assert "cannot listen" in done.stderr
    gateway.config.write_text(text.replace('name = "gw1"', ""))
    done = gateway.run("run")
    assert done.returncode == 2
    assert "gateway.name" in done.stderr or "setting is missing" in done.stderr


def test_an_unusable_spool_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", free_port())})
    gateway.write()
    gateway.spool.mkdir()
    (gateway.spool / "worker-1").write_text("in the way")
    done = gateway.run("run")
    assert done.returncode == 5
    assert "could not start" in done.stderr
    assert not accepts_any(gateway)


def accepts_any(gateway: Gateway) -> bool:
    return any(accepts(port) for port in gateway.ports)


def test_records_of_all_processes_reach_the_repository(tmp_path: Path, archive: tuple[str, int]) -> None:
    pki = make_pki(tmp_path)
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.AUDIT_REPOSITORY, "repository"))
    client_key, client_certificate = pki.write_pem(pki.credential(CertificateProfile.GATEWAY_PEER, "gw1"))
    context = server_context(certificate=certificate, key=key, trust=[pki.write_trust()])
    repository = Repository(f"sqlite:///{tmp_path / 'audit.db'}")
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=context) as server:
        destination = [
            "[[audit.destination]]",
            'host = "localhost"',
            f"port = {server.port}",
            f'trust = ["{tmp_path / "root.pem"}"]',
            f'certificate = "{client_certificate}"',
            f'key = "{client_key}"',
        ]
        with running_gateway(tmp_path / "gateway", {"ARCHIVE": archive}, extra="\n".join(destination)) as gateway:
            assert echo_works(gateway)
            assert not echo_works(gateway, calling="SOMEBODY")
            for pid in gateway.children():
                os.kill(pid, signal.SIGKILL)  # also the one that delivers: nothing may be lost by it
            wait_until(lambda: said(gateway, "auditor (pid"), what="the replacement of the auditor")
            wait_until(lambda: echo_works(gateway), what="service")
        wanted = {(one.AuditSourceIdentification.AuditSourceID, text_of(one)) for one in gateway.records()}
    found = set()
    with sqlite3.connect(tmp_path / "audit.db") as database:
        for (raw,) in database.execute("select raw from audit_content"):
            message = from_xml(parse_record(raw).msg)
            found.add((message.AuditSourceIdentification.AuditSourceID, text_of(message)))
    assert wanted <= found


@pytest.mark.parametrize("transport", ["unsafe-tcp", "unsafe-udp"])
def test_records_reach_a_receiver_that_knows_no_tls(tmp_path: Path, archive: tuple[str, int], transport: str) -> None:
    pki = make_pki(tmp_path)
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.AUDIT_REPOSITORY, "repository"))
    context = server_context(certificate=certificate, key=key, trust=[pki.write_trust()])
    here = ("127.0.0.1", 0)
    with (
        Repository(f"sqlite:///{tmp_path / 'audit.db'}") as repository,
        RepositoryServer(repository, host="127.0.0.1", port=0, context=context, unsafe_tcp=here, unsafe_udp=here) as server,
    ):
        port = server.tcp_port if transport == "unsafe-tcp" else server.udp_port
        destination = ["[[audit.destination]]", 'host = "127.0.0.1"', f"port = {port}", f'transport = "{transport}"']
        with running_gateway(tmp_path / "gateway", {"ARCHIVE": archive}, extra="\n".join(destination)) as gateway:
            assert echo_works(gateway)
        sent = {read_record.AuditSourceIdentification.AuditSourceID for read_record in gateway.records()}
        assert sent

        def received() -> set[str]:
            with sqlite3.connect(tmp_path / "audit.db") as database:
                query = "select source_id from audit_record where transport = ? and peer_sha256 = ''"
                return {source for (source,) in database.execute(query, (transport.removeprefix("unsafe-"),))}

        wait_until(lambda: sent <= received(), what="the records of every process")


def test_a_person_is_known_by_the_certificate(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        person = CertificateProfile.RADIOLOGIST
        association = gateway.associate("Dr Kim", calling="WS1", profile=person)
        assert association.is_established
        assert [row["roles"] for row in gateway.status()] == [["radiologist"]]
        association.release()
