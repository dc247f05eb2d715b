"""Metrics, health, readiness, stapling and log lines of a running gateway."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.x509 import ocsp
from OpenSSL import SSL
from prometheus_client.parser import text_string_to_metric_families
from pynetdicom import AE, evt

from securepacs.codes import VERIFICATION_SOP_CLASS
from securepacs.errors import ConfigError
from securepacs.pki.server import serve
from securepacs_proxy.cli.logs import JsonFormatter
from securepacs_proxy.config import load
from securepacs_proxy.metrics import GatewayState, exposition
from tests.support.gateway import Gateway, running_gateway
from tests.support.gateway_files import gateway_files
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


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[str, float]:
    """Sum over all labels but those that are named."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for key in (sample.name, *(f"{sample.name}/{value}" for value in sample.labels.values())):
                found[key] = found.get(key, 0.0) + sample.value
    return found


def test_metrics_count_over_all_workers(tmp_path: Path, archive: tuple[str, int]) -> None:
    port = free_port()
    extra = f'[metrics]\nlisten = "127.0.0.1:{port}"'
    with running_gateway(tmp_path, {"ARCHIVE": archive}, extra=extra) as gateway:
        live = [gateway.associate("ct1", calling="CT1") for _ in range(6)]
        assert all(one.send_c_echo().Status == 0 for one in live)
        assert gateway.run("block", "--ae", "CT9", "--reason", "test").returncode == 0
        status, text = get(port, "/metrics")
        assert status == 200
        assert "CT1" not in text
        assert "ct1" not in text
        seen = samples(text)
        assert seen["securepacs_connections/relaying"] == 6
        assert seen["securepacs_authenticated_total"] == 6
        assert seen["securepacs_received_bytes_total"] > 0
        assert seen["securepacs_blocks"] == 1
        assert seen["securepacs_process_up"] == 3
        assert seen["securepacs_certificate_expiry_timestamp_seconds"] > datetime.now(UTC).timestamp()
        before = seen["securepacs_received_bytes_total"]
        for one in live:
            one.release()
        wait_until(
            lambda: "securepacs_connections/relaying" not in samples(get(port, "/metrics")[1]), what="the end of associations"
        )
        assert samples(get(port, "/metrics")[1])["securepacs_received_bytes_total"] > before
        assert get(port, "/nothing")[0] == 404
        assert get(port, "/metrics", "POST")[0] == 405
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"x" * 5000)
            assert rude.recv(100).startswith(b"HTTP/1.1 400")
        gateway.config.write_text(gateway.config.read_text() + "nonsense = 1\n")
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: samples(get(port, "/metrics")[1]).get("securepacs_reloads_total/refused") == 1, what="the count")


def test_ready_is_not_health(tmp_path: Path, archive: tuple[str, int]) -> None:
    port = free_port()
    extra = f'[metrics]\nlisten = "127.0.0.1:{port}"'
    with running_gateway(tmp_path, {"ARCHIVE": archive}, extra=extra, options=("--drain", "60")) as gateway:
        assert get(port, "/health") == (200, "ok\n")
        assert get(port, "/ready")[0] == 200
        worker = gateway.children()[1]
        os.kill(worker, signal.SIGSTOP)  # alive and silent: metrics come without it
        try:
            assert samples(get(port, "/metrics")[1])["securepacs_process_up"] == 3
        finally:
            os.kill(worker, signal.SIGCONT)
        live = gateway.associate("ct1", calling="CT1")
        gateway.signal(signal.SIGTERM)
        wait_until(lambda: get(port, "/ready")[0] == 503, what="the refusal")
        assert json.loads(get(port, "/ready")[1])["missing"][0] == "stopping"
        assert get(port, "/health")[0] == 200
        assert get(port, "/metrics")[0] == 200
        live.release()


def test_metrics_on_a_unix_socket(tmp_path: Path, archive: tuple[str, int]) -> None:
    path = tmp_path / "metrics.sock"
    with (
        running_gateway(tmp_path, {"ARCHIVE": archive}, workers=1, extra='[metrics]\nsocket = "metrics.sock"'),
        socket.socket(socket.AF_UNIX) as visitor,
    ):
        assert path.stat().st_mode & 0o777 == 0o660
        visitor.connect(str(path))
        visitor.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert visitor.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert not path.exists()


@pytest.mark.parametrize("setting", ['listen = "0.0.0.0:9464"', "", 'listen = "127.0.0.1:9464"\nsocket = "x"'])
def test_metrics_stay_in_the_house(tmp_path: Path, setting: str) -> None:
    files = gateway_files(tmp_path)
    with pytest.raises(ConfigError) as error:
        load(files.write("[audit]", f"[metrics]\n{setting}\n[audit]"))
    assert error.value.key == "metrics.listen"


def test_a_gateway_that_knows_nothing_yet_has_metrics() -> None:
    assert samples(exposition(GatewayState("abc", {})).decode())["securepacs_blocks"] == 0


def stapled(gateway: Gateway) -> bytes:
    """Return what a client that asks for it gets stapled."""
    got: list[bytes] = []
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    key, certificate, trust = gateway.client_files("ct1")
    context.use_certificate_chain_file(str(certificate))
    context.use_privatekey_file(str(key))
    context.load_verify_locations(str(trust))
    context.set_ocsp_client_callback(lambda _connection, answer, _data: got.append(answer) or True)
    connection = SSL.Connection(context, socket.create_connection(("127.0.0.1", gateway.port)))
    connection.request_ocsp()
    connection.set_connect_state()
    connection.do_handshake()
    connection.close()
    return got[0]


def test_the_gateway_staples_what_its_ca_says(tmp_path: Path, archive: tuple[str, int]) -> None:
    port = free_port()
    pki = make_pki(tmp_path, base_url=f"http://127.0.0.1:{port}")
    extra = '[revocation]\nallowed_hosts = ["127.0.0.1"]\nrefresh_seconds = 1'
    with (
        serve(pki.ca, port=port),
        running_gateway(tmp_path, {"ARCHIVE": archive}, pki=pki, crls=False, extra=extra) as gateway,
    ):
        wait_until(lambda: stapled(gateway) != b"", what="the stapled answer")
        answer = ocsp.load_der_ocsp_response(stapled(gateway))
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD


def test_nothing_is_stapled_without_revocation(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, workers=1) as gateway:
        assert stapled(gateway) == b""


def test_log_lines_for_programs_hold_no_text_of_errors() -> None:
    try:
        raise ValueError("DOE^JOHN")
    except ValueError:
        record = logging.LogRecord("x.y", logging.ERROR, __file__, 1, "it failed: %s", ("here",), sys.exc_info())
    line = JsonFormatter().format(record)
    row = json.loads(line)
    assert (row["level"], row["logger"], row["message"], row["error"]) == ("error", "x.y", "it failed: here", "ValueError")
    assert "test_metrics.py:" in row["place"]
    assert datetime.fromisoformat(row["time"]).tzinfo is not None
    assert "DOE" not in line


def test_the_whole_log_is_json_when_asked_for(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, workers=1, options=("--log-format", "json", "--drain", "2")) as gateway:
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: "works by version" in gateway.log, what="a line")
        lines = [line for line in gateway.log.splitlines() if not line.startswith("securepacs-proxy: ready")]
        assert lines
        assert all({"time", "level", "pid", "logger", "message"} <= json.loads(line).keys() for line in lines)
