"""What holds on an inner port as on every other one: blocks and metrics; and what does not: limits of one address."""

from __future__ import annotations

import getpass
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association

from securepacs.codes import VERIFICATION_SOP_CLASS
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import free_port, wait_until

INNER = """
[[egress]]
name = "archive.inside"
port = 0
addresses = ["127.0.0.0/8"]
ae_titles = ["ARCHIVE"]
roles = ["archive", "modality"]
[[egress.route]]
called_ae_title = "OUTSIDE"
destinations = ["{host}:{port}"]
unsafe_plain = true
"""


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    """A destination that answers C-ECHO; archive and outside in one."""
    entity = AE("OUTSIDE")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)])
    assert server is not None
    try:
        yield "127.0.0.1", int(server.server_address[1])
    finally:
        server.shutdown()


def inner(place: tuple[str, int]) -> str:
    return INNER.format(host=place[0], port=place[1])


def call_out(gateway: Gateway) -> Association:
    """Call as the archive does."""
    entity = AE("ARCHIVE")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(VERIFICATION_SOP_CLASS)
    return entity.associate("127.0.0.1", gateway.ports[1], ae_title="OUTSIDE")


def said(gateway: Gateway, words: str) -> bool:
    return any(words in text for text in gateway.texts())


def is_closed_unheard(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as probe:
        probe.settimeout(10)
        try:
            return probe.recv(1) == b""
        except ConnectionResetError:
            return True


def test_limits_of_one_address_and_one_subject_do_not_hold_for_an_archive(tmp_path: Path, place: tuple[str, int]) -> None:
    limits = {"max_connections_per_peer": 2, "connections_per_minute_per_peer": 4, "max_associations_per_subject": 1}
    with running_gateway(tmp_path, {"ARCHIVE": place}, limits=limits, extra=inner(place)) as gateway:
        live = [call_out(gateway) for _ in range(6)]
        assert all(one.is_established for one in live)
        first = gateway.associate("ct1", calling="CT1")
        assert first.is_established  # what the archive holds counts for nobody else at its address
        with socket.create_connection(("127.0.0.1", gateway.port)):
            wait_until(lambda: len(gateway.status()) == 8, what="all connections")
            for one in live:
                one.release()
            wait_until(lambda: len(gateway.status()) == 2, what="the end of those of the archive")
            assert is_closed_unheard(gateway.port)  # their end took nothing back that others had counted
        first.release()
        wait_until(lambda: said(gateway, "127.0.0.1, too many at the same time"), what="the record")


@pytest.mark.parametrize("option", [("--ae", "ARCHIVE"), ("--subject", "archive.inside"), ("--peer", "127.0.0.0/8")])
def test_a_block_acts_on_the_way_out(tmp_path: Path, place: tuple[str, int], option: tuple[str, str]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": place}, extra=inner(place)) as gateway:
        live = call_out(gateway)
        assert live.send_c_echo().Status == 0
        done = gateway.run("block", *option, "--reason", "ransomware in the archive")
        assert done.returncode == 0, done.stderr
        assert "1 live association" in done.stdout
        wait_until(lambda: live.is_aborted, what="the end of the live association")
        assert not call_out(gateway).is_established
        refused = f"blocked by {getpass.getuser()} ({option[0][2:]} {option[1]}): ransomware in the archive"
        wait_until(
            lambda: any(refused in text and "was ended" not in text for text in gateway.texts()),
            what="the record of the refused one",
        )
        assert gateway.run("unblock", *option, "--reason", "restored").returncode == 0
        again = call_out(gateway)
        assert again.send_c_echo().Status == 0
        again.release()


def test_a_gateway_with_inner_ports_has_metrics(tmp_path: Path, place: tuple[str, int]) -> None:
    port = free_port()
    extra = f'{inner(place)}[metrics]\nlisten = "127.0.0.1:{port}"'
    with running_gateway(tmp_path, {"ARCHIVE": place}, workers=1, extra=extra) as gateway:
        live = call_out(gateway)
        assert live.send_c_echo().Status == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        assert text.count("\nsecurepacs_certificate_expiry_timestamp_seconds{") == 1
        assert '{state="relaying",worker="worker-0"} 1.0' in text
        live.release()
