"""What `tls probe` finds: our own gateway, OpenSSL with old settings, plain ports, and servers that answer anything."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AE
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.codes import VERIFICATION_SOP_CLASS
from securepacs.errors import MalformedError, Unavailable
from securepacs.tls_hello import GROUPS, SUITES, TLS12, TLS13, FlightReader, client_hello
from securepacs.tls_probe import Findings, ProfileVerdict, judge, probe
from tests.support.gateway import Gateway
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki


def verdicts(found: Findings) -> dict[str, ProfileVerdict]:
    return {verdict.profile: verdict for verdict in judge(found)}


@contextlib.contextmanager
def openssl_server(folder: Path, *options: str, key: str = "rsa:2048", digest: str = "-sha256") -> Iterator[int]:
    """Run `openssl s_server` on a free port."""
    own, certificate, port = folder / "server.key", folder / "server.pem", free_port()
    arguments = ["openssl", "req", "-x509", "-newkey", key, "-nodes", "-keyout", str(own), "-out", str(certificate), "-days", "2"]
    subprocess.run([*arguments, "-subj", "/CN=old.example", digest], check=True, capture_output=True)
    command = [
        "openssl",
        "s_server",
        "-accept",
        f"127.0.0.1:{port}",
        "-key",
        str(own),
        "-cert",
        str(certificate),
        "-quiet",
        *options,
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, what="openssl s_server")
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("name", ["B.12", "B.13"])
def test_our_gateway(tmp_path: Path, name: str) -> None:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", free_port())}, workers=1)
    gateway.write()
    gateway.config.write_text(gateway.config.read_text().replace("port = 0", f'port = 0\ntls_profile = "{name}"'))
    try:
        gateway.start("--drain", "2")
        found = probe("127.0.0.1", gateway.port)
        assert found.versions == [TLS13, TLS12]
        assert found.asks_client is True
        assert found.chain[1:] == [gateway.pki.ca.issuing]
        assert found.chain[0].issuer == gateway.pki.ca.issuing.subject
        assert ("X25519MLKEM768" in found.groups) is (name == "B.12")
        seen = verdicts(found)
        assert seen["B.12"].met
        assert seen["B.12"].changes == seen["B.12"].advice == ()
        if name == "B.13":
            assert set(found.suites) < set(SUITES.values())
            assert seen["B.13"].met
            assert seen["B.13"].changes == ()
        else:
            assert not seen["B.13"].met
            assert any("X25519MLKEM768" in change for change in seen["B.13"].changes)
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_openssl_with_old_settings(tmp_path: Path) -> None:
    options = ("-cipher", "ALL:eNULL:@SECLEVEL=0", "-min_protocol", "TLSv1")
    with openssl_server(tmp_path, *options, key="rsa:1024", digest="-sha1") as port:
        found = probe("127.0.0.1", port)
    assert len(found.versions) == 4
    assert {"TLS_RSA_WITH_NULL_SHA", "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", "TLS_DH_anon_WITH_AES_128_CBC_SHA"} <= set(found.suites)
    assert found.asks_client is False
    assert 0 < found.dh_bits < 2048
    b12 = verdicts(found)["B.12"]
    for words in ("switch TLS 1.0 off", "switch TLS 1.1 off", "TLS_RSA_WITH_NULL_SHA", "RSA key of 1024 bits", "DH parameters"):
        assert any(words in change for change in b12.changes), words
    for words in ("RSA key exchange", "CBC", "client certificate"):
        assert any(words in advice for advice in b12.advice), words


def test_openssl_with_tls13_alone_shows_its_certificate_too(tmp_path: Path) -> None:
    with openssl_server(tmp_path, "-tls1_3") as port:
        found = probe("127.0.0.1", port)
    assert found.versions == [TLS13]
    assert [certificate.subject.rfc4514_string() for certificate in found.chain] == ["CN=old.example"]
    assert found.asks_client is None
    assert verdicts(found)["B.12"].changes == ("offer TLS 1.2",)


def test_aes_tls_of_the_old_days(tmp_path: Path) -> None:
    with openssl_server(tmp_path, "-cipher", "AES128-SHA:@SECLEVEL=0", "-tls1") as port:
        found = probe("127.0.0.1", port)
    assert found.suites == ["TLS_RSA_WITH_AES_128_CBC_SHA"]
    assert found.groups == []
    seen = verdicts(found)
    assert seen["B.3"].changes == ("offer TLS_RSA_WITH_3DES_EDE_CBC_SHA; better: meet B.12",)
    assert "offer TLS 1.2" in seen["B.12"].changes


def test_a_plain_dicom_port_is_told_from_another() -> None:
    entity = AE("ARCHIVE")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    try:
        found = probe("127.0.0.1", server.server_address[1], seconds=2)
    finally:
        server.shutdown()
    assert found.plain.startswith("plain DICOM")
    assert not any(verdict.met for verdict in judge(found))


@pytest.mark.parametrize(
    "answer", [b"", b"220 mail.example ESMTP\r\n", b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", b"\x16\x03\x03\xff\xff" + bytes(99)]
)
def test_who_answers_anything_else_is_no_tls_server(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with contextlib.suppress(OSError), sock:
                        sock.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        found = probe("127.0.0.1", listener.getsockname()[1], seconds=2)
        listener.shutdown(socket.SHUT_RDWR)
    assert found.plain.startswith("something")
    assert found.versions == []


def test_nobody_answers() -> None:
    with pytest.raises(Unavailable):
        probe("127.0.0.1", free_port(), seconds=2)


def test_the_command_says_it_for_people_and_for_programs(tmp_path: Path) -> None:
    with openssl_server(tmp_path, "-cipher", "DEFAULT") as port:
        table = CliRunner().invoke(app, ["tls", "probe", f"127.0.0.1:{port}"])
        row = json.loads(CliRunner().invoke(app, ["tls", "probe", f"127.0.0.1:{port}", "--json"]).stdout)
    assert table.exit_code == 0
    assert "ask for a client certificate" in table.stdout
    assert row["versions"] == ["TLS 1.3", "TLS 1.2"]
    assert row["chain"][0]["key"] == "RSA 2048"
    assert {verdict["profile"]: verdict["met"] for verdict in row["profiles"]}["B.12"] is True
    assert CliRunner().invoke(app, ["tls", "probe", f"127.0.0.1:{free_port()}"]).exit_code == 5
    assert CliRunner().invoke(app, ["tls", "probe", "host:port"]).exit_code == 2


def flight_of(port: int, version: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(client_hello(version, SUITES, GROUPS, random=bytes(64)))
        raw, reader = b"", FlightReader()
        while not reader.feed(data := sock.recv(4096)):
            raw += data
        return raw + data


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    with openssl_server(tmp_path_factory.mktemp("flights")) as port:
        return [flight_of(port, TLS12), flight_of(port, TLS13)]


@given(index=st.integers(0, 1), cuts=st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_any_split_gives_the_same_flight(flights: list[bytes], index: int, cuts: list[int]) -> None:
    raw, whole, pieces = flights[index], FlightReader(), FlightReader()
    assert whole.feed(raw)
    position = turn = 0
    while position < len(raw):
        step = cuts[turn % len(cuts)]
        done = pieces.feed(raw[position : position + step])
        position, turn = position + step, turn + 1
    assert done
    assert pieces.flight == whole.flight


@given(raw=st.binary(max_size=600), position=st.integers(0, 400), index=st.integers(0, 1))
def test_garbage_is_an_error_or_waits_for_more(flights: list[bytes], raw: bytes, position: int, index: int) -> None:
    for data in (raw, flights[index][:position] + raw):
        with contextlib.suppress(MalformedError):
            FlightReader().feed(data)
