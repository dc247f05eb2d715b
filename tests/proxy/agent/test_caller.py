"""Whose program is at the other end of a loopback connection."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

from securepacs_proxy.agent.caller import uid_in, uid_of_peer
from tests.support.programs import require

LINE4 = "   1: 0100007F:2B67 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1"
LINE6 = (
    "   1: 0000000000000000FFFF00000100007F:2B67 0000000000000000FFFF00000100007F:D431 "
    "01 00000000:00000000 00:00000000 00000000  1001        0 4711 1"
)
OURS, THEIRS = ("127.0.0.1", 0xD431), ("127.0.0.1", 0x2B67)


@pytest.mark.parametrize(
    ("line", "uid"),
    [
        (LINE4, 1000),
        (LINE6, 1001),
        (LINE4.replace(" 01 ", " 06 "), None),  # TIME_WAIT belongs to nobody and says 0
        (LINE4.replace(":D431", ":D432"), None),
        (LINE4.replace("0100007F:2B67", "0200007F:2B67"), None),
        ("", None),
    ],
)
def test_lines_of_the_socket_table(line: str, uid: int | None) -> None:
    assert uid_in([line], THEIRS, OURS) == uid


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_our_own_connection(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as client:
            client.connect((host, server.getsockname()[1]))
            accepted, _ = server.accept()
            with accepted:
                assert uid_of_peer(accepted) == os.getuid()
            client.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="another user id needs root and setpriv")
def test_the_connection_of_another_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        command = ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", script]
        require("/usr/bin/python3")
        with subprocess.Popen(command) as stranger:
            server.settimeout(20)
            accepted, _ = server.accept()
            with accepted:
                assert uid_of_peer(accepted) == 65534
            stranger.wait(20)
