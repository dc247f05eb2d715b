"""The files for operators: units, the image, the pair of gateways. What can be checked without installing them."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pynetdicom import AE, evt

from securepacs.cli.main import app as library_app
from securepacs.codes import VERIFICATION_SOP_CLASS
from securepacs_proxy.cli import app as proxy_app
from tests.support import gateway as gateway_support
from tests.support.gateway import running_gateway

PROXY = Path(__file__).resolve().parents[2] / "proxy"
UNITS = sorted((PROXY / "systemd").glob("*.service"))
EXPOSURE_ALLOWED = 20  # tenths; 0 is a program that can do nothing
SYSTEM_UNITS = [
    unit for unit in UNITS if "WantedBy=multi-user.target" in unit.read_text()
]  # a person's own has the person's rights
PROGRAMS = {"securepacs": library_app, "securepacs-proxy": proxy_app}


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


def commands_of(path: Path) -> list[list[str]]:
    """Return the commands of ours in a unit or Containerfile, as words."""
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:ExecStart|ExecStartPre)=(?:/usr/bin/env )?(securepacs.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("unit", SYSTEM_UNITS, ids=lambda path: path.name)
def test_a_unit_is_hardened(unit: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    arguments = [tool, "security", "--offline=true", f"--threshold={EXPOSURE_ALLOWED}", "--no-pager", str(unit)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-600:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_commands_that_exist(unit: Path) -> None:
    commands = commands_of(unit)
    assert commands
    for program, *words in commands:
        command = typer.main.get_command(PROGRAMS[program])
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {spelling for parameter in command.params for spelling in parameter.opts}
        assert not hasattr(command, "commands"), words
        assert {word for word in words if word.startswith("-")} <= known


def test_the_unit_gives_associations_longer_than_the_drain() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((PROXY / "systemd" / "securepacs-gateway.service").read_text())
    service = parser["Service"]
    drain = int(re.search(r"--drain (\d+)", service["ExecStart"])[1])  # type: ignore[index]
    assert int(service["TimeoutStopSec"]) >= drain + 25
    assert service["KillMode"] == "mixed"


def test_the_gateway_works_without_new_privileges(
    tmp_path: Path, archive: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NoNewPrivileges= of the unit, set by the process itself with prctl(2): 38 is PR_SET_NO_NEW_PRIVS."""
    program = "import ctypes; assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0; "
    program += "from securepacs_proxy.cli import main; main()"
    monkeypatch.setattr(gateway_support, "PROGRAM", [gateway_support.PROGRAM[0], "-c", program])
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        association = gateway.associate("ct1", calling="CT1")
        assert association.send_c_echo().Status == 0
        association.release()


def test_the_unit_leaves_the_callbacks_of_tls_their_memory() -> None:
    """pyOpenSSL makes its callbacks with libffi closures: under MemoryDenyWriteExecute= (PR_SET_MDWE) no context can be made."""
    program = "import ctypes; print(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)); from OpenSSL import SSL; "
    program += "SSL.Context(SSL.TLS_SERVER_METHOD).set_alpn_select_callback(lambda *_: b'')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("0"):
        pytest.skip("the kernel is older than 6.3")
    assert "MemoryError" in done.stderr, "MemoryDenyWriteExecute= can be switched on in the unit now"
    unit = (PROXY / "systemd" / "securepacs-gateway.service").read_text()
    assert not re.search(r"^MemoryDenyWriteExecute=", unit, flags=re.MULTILINE)


def test_haproxy_accepts_the_example() -> None:
    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not Path(haproxy).exists():
        pytest.skip("haproxy is not installed")
    done = subprocess.run(
        [haproxy, "-c", "-f", str(PROXY / "high-availability" / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-600:]


def test_the_pair_asks_what_the_gateway_serves() -> None:
    for name in ("haproxy.cfg", "keepalived.conf"):
        text = (PROXY / "high-availability" / name).read_text()
        assert "127.0.0.1:9464" in text
        assert "/ready" in text
        assert "2762" in text or name == "keepalived.conf"
    assert 'listen = "127.0.0.1:9464"' in (PROXY / "gateway.example.toml").read_text()


def test_the_image_runs_without_root_and_from_the_lock() -> None:
    text = (PROXY / "Containerfile").read_text()
    assert "USER securepacs" in text
    assert "--require-hashes -r requirements.lock" in text
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, flags=re.MULTILINE) for name in line.split()}
    assert all((PROXY.parent / name).exists() for name in copied)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, flags=re.MULTILINE)
