"""The parts of the agent by themselves: PDU boundaries, settings, asking for PINs, the stunnel configuration."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import ConfigError, TokenError
from securepacs.pki import CertificateProfile
from securepacs.tokens.pkcs11 import Pkcs11Token
from securepacs_proxy.agent.config import load_agent
from securepacs_proxy.agent.export import stunnel
from securepacs_proxy.agent.prompt import from_descriptor, pinentry
from securepacs_proxy.agent.pump import ABORT, TRY_AGAIN, PduBoundary
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki, pem_of
from tests.support.programs import PKCS11_PROXY_FOLDERS, require
from tests.support.softhsm import softhsm_token

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


@pytest.mark.interop
def test_stunnel_calls_a_gateway_with_the_key_in_the_token(tmp_path: Path) -> None:
    """The exported file as it is, but for the PIN, which stunnel would ask at a terminal."""
    program = shutil.which("stunnel4") or require("stunnel")
    if not any(Path(folder, "engines-3", "pkcs11.so").exists() for folder in PKCS11_PROXY_FOLDERS):
        pytest.skip("libengine-pkcs11-openssl is not installed")
    pki, token = make_pki(tmp_path), softhsm_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = opened.generate(label="login", kind="rsa-2048", id=b"\1")
        public = key.public_key()
        issued = pki.ca.issue(CertificateProfile.RADIOLOGIST, common_name="Dr Kim", public_key=public, at=pki.now)
        opened.write_certificate(issued, label="login", id=b"\1")
    server_key, server_certificate = pki.write_pem(pki.credential(CertificateProfile.GATEWAY_SERVER, "localhost"), tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.write_trust(tmp_path)))
    context.load_cert_chain(server_certificate, server_key)
    (tmp_path / "issuing.pem").write_bytes(pem_of(pki.ca.issuing))
    context.load_verify_locations(tmp_path / "issuing.pem")  # stunnel sends no chain of its own
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = free_port()
        gateway = f"localhost:{listener.getsockname()[1]}"
        root, uri = tmp_path / "root.pem", token.uri.replace("?", ";id=%01?")
        text = stunnel(load_agent(settings(tmp_path, trust=f'["{root}"]', port=str(port), gateway=f'"{gateway}"', uri=f'"{uri}"')))
        path = tmp_path / "stunnel.conf"
        path.touch(mode=0o600)
        path.write_text(re.sub(r"(engineCtrl = .*\n)", rf"\1engineCtrl = PIN:{token.pin}\n", text, count=1))
        with (tmp_path / "log").open("wb") as log:
            environment = {**os.environ, **token.environment}
            process = subprocess.Popen([program, str(path)], stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            said = lambda: (tmp_path / "log").read_text(errors="replace")  # noqa: E731
            wait_until(lambda: "Configuration successful" in said() or process.poll() is not None, what="stunnel")
            assert "Configuration successful" in said(), said()
            with socket.create_connection(("127.0.0.1", port), 20) as viewer:
                viewer.sendall(b"hello")
                listener.settimeout(20)
                with context.wrap_socket(listener.accept()[0], server_side=True) as secured:
                    shown = secured.getpeercert(binary_form=True)
                    assert shown is not None
                    assert x509.load_der_x509_certificate(shown) == issued
                    assert secured.recv(5) == b"hello"
        finally:
            process.terminate()
            process.wait(10)
