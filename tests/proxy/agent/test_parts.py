"""The parts of the agent by themselves: PDU boundaries, settings, asking for PINs, the stunnel configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import ConfigError, TokenError
from securepacs_proxy.agent.association import ABORT, TRY_AGAIN, PduBoundary
from securepacs_proxy.agent.config import load_agent
from securepacs_proxy.agent.export import stunnel
from securepacs_proxy.agent.prompt import from_descriptor, pinentry
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki
from tests.support.programs import require

EXAMPLE = Path(__file__).resolve().parents[3] / "proxy" / "agent.example.toml"
URI = "pkcs11:id=%01?module-path=/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"


def test_refusal_and_abort_are_what_the_standard_says() -> None:
    assert bytes.fromhex("03000000000400020301") == TRY_AGAIN  # PS3.8 9.3.4
    assert bytes.fromhex("07000000000400000200") == ABORT  # PS3.8 9.3.8


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("", "audit.destination[0].trust"),
        ('trust = ["root.pem"]\ncertificate = "own.pem"', "audit.destination[0].key"),
        ('trust = ["root.pem"]\ntransport = "unsafe-udp"', "audit.destination[0].trust"),
        ('transport = "udp"', "audit.destination.0.transport"),
    ],
)
def test_destinations_of_records_meet_the_rules_of_the_gateway(tmp_path: Path, lines: str, key: str) -> None:
    path = settings(tmp_path)
    path.write_text(path.read_text() + f'[[audit.destination]]\nhost = "arr"\n{lines}\n')
    with pytest.raises(ConfigError) as caught:
        load_agent(path)
    assert (caught.value.key or "").replace("[0]", ".0") == key.replace("[0]", ".0")


@given(bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=5), cuts=st.lists(st.integers(0, 250), max_size=6))
def test_any_split_finds_the_same_boundaries(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(b"\x04\x00" + len(body).to_bytes(4, "big") + body for body in bodies)
    ends, at = {0}, 0
    for body in bodies:
        at += 6 + len(body)
        ends.add(at)
    boundary, fed = PduBoundary(), 0
    for cut in sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)}):
        boundary.feed(memoryview(stream[fed:cut]))
        fed = cut
        assert boundary.reached == (fed in ends)


def settings(folder: Path, **changes: str) -> Path:
    path = folder / "agent.toml"
    lines = {"gateway": '"gw.example:2762"', "trust": '["root.pem"]', "state": '"state"', **changes}
    text = "[agent]\n" + "\n".join(f"{name} = {value}" for name, value in lines.items() if name != "uri")
    path.write_text(f"{text}\n[token]\nuri = {lines.get('uri', chr(34) + URI + chr(34))}\n")
    return path


def test_settings(tmp_path: Path) -> None:
    config = load_agent(settings(tmp_path))
    assert (config.agent.host, config.agent.port, str(config.agent.gateway)) == ("127.0.0.1", 11112, "gw.example:2762")
    assert config.agent.state == tmp_path / "state"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"host": '"0.0.0.0"'}, "agent.host"),
        ({"port": '"11112"'}, "agent.port"),
        ({"trust": "[]"}, "agent.trust"),
        ({"gateway": '"gw"'}, "agent.gateway"),
        ({"nonsense": "1"}, "agent.nonsense"),
        ({"uri": '"pkcs11:token=x"'}, "token.uri"),
        ({"uri": '"pkcs11:token=x;pin-value=1?module-path=/x.so"'}, "token.uri"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_agent(settings(tmp_path, **change))
    assert caught.value.key == key
    assert caught.value.hint


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_agent(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= =")
    with pytest.raises(ConfigError, match="not TOML"):
        load_agent(tmp_path / "bad.toml")


def test_the_example_is_valid() -> None:
    assert load_agent(EXAMPLE).token.prompt == "pinentry"


def test_pins_from_a_descriptor() -> None:
    taken, given_pins = os.pipe()
    ask = from_descriptor(taken)
    os.write(given_pins, b"1234\n5678\n")
    os.close(given_pins)
    assert (ask(""), ask("again")) == ("1234", "5678")
    with pytest.raises(TokenError):
        ask("")


PINENTRY = """#!/bin/sh
echo "OK ready"
while read -r line; do
    echo "$line" >> "$0.log"
    case "$line" in
        GETPIN) [ -e "$0.cancel" ] && echo "ERR 83886179 cancelled" || { echo "D 12%2534"; echo OK; } ;;
        *) echo OK ;;
    esac
done
"""


def test_pinentry(tmp_path: Path) -> None:
    """A program that speaks pinentry's protocol: the real ones need a desktop or a terminal of their own."""
    program = tmp_path / "pinentry"
    program.write_text(PINENTRY)
    program.chmod(0o755)
    ask = pinentry(str(program))
    assert ask("the PIN is incorrect, 2 tries left") == "12%34"
    assert "SETERROR the PIN is incorrect, 2 tries left" in (tmp_path / "pinentry.log").read_text()
    (tmp_path / "pinentry.cancel").touch()
    with pytest.raises(TokenError):
        ask("")
    with pytest.raises(ConfigError, match="not installed"):
        pinentry(str(tmp_path / "none"))


def test_stunnel_text(tmp_path: Path) -> None:
    config = load_agent(settings(tmp_path))
    text = stunnel(config)
    for line in (
        "engine = pkcs11",
        "key = pkcs11:id=%01;type=private",
        "connect = gw.example:2762",
        "accept = 127.0.0.1:11112",
        "checkHost = gw.example",
        "verifyChain = yes",
    ):
        assert line in text.splitlines()
    windows = stunnel(config, capi=True)
    assert "engineId = capi" in windows
    assert "not tested" in windows
    assert "pkcs11:" not in windows.replace("pkcs11:id", "")


@pytest.mark.interop
def test_stunnel_takes_the_service(tmp_path: Path) -> None:
    """Everything but the key line: the engine for PKCS #11 is a package of its own."""
    program = shutil.which("stunnel4") or require("stunnel")
    pki = make_pki(tmp_path)
    root = pki.write_trust(tmp_path)
    port = free_port()
    text = stunnel(load_agent(settings(tmp_path, trust=f'["{root}"]', port=str(port))))
    kept = [line for line in text.splitlines() if not line.startswith(("engine", "cert =", "key ="))]
    (tmp_path / "stunnel.conf").write_text("\n".join(kept) + "\n")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "stunnel.conf")], stderr=log, stdin=subprocess.DEVNULL)
    try:
        said = lambda: (tmp_path / "log").read_text(errors="replace")  # noqa: E731
        wait_until(lambda: "Configuration successful" in said() or process.poll() is not None, what="stunnel")
        assert "Configuration successful" in said(), said()
    finally:
        process.terminate()
        process.wait(10)
