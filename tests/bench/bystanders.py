"""What others notice of a stalled, a slow, a flooding and a pouring client: time of a C-ECHO and of a whole association.

    tests/bench/bystanders.py [--seconds 10]

The gateway runs with two workers. Prints medians and 99th percentiles in milliseconds, and the delay at the 99th percentile that
each kind of client causes. A flooding client sends noise and connects anew as often as it can; a pouring one is let in, and sends
images as fast as they are taken.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.support import dicom_wire as wire  # noqa: E402
from tests.support import pdata  # noqa: E402
from tests.support.gateway import Gateway, running_gateway  # noqa: E402
from tests.support.pdata import receiver  # noqa: E402

STALLED, SLOW = 100, 20
KINDS = ("nobody", "stalled", "slow", "flooding", "pouring")
FLOODS = ("nobody", "flooding", "pouring")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--disturb", choices=KINDS[1:], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--identity", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.disturb:
        disturb(options.disturb, options.port, options.identity)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            receiver() as target,
            running_gateway(folder / "gateway", {"ARCHIVE": ("127.0.0.1", target)}) as gateway,
        ):
            report(gateway, KINDS, options.seconds)


def report(gateway: Gateway, kinds: Sequence[str], seconds: float) -> None:
    """Measure beside each kind of client, the first of which is nobody, and print the table."""
    show({kind: measure(gateway, kind, seconds) for kind in kinds})


def measure(gateway: Gateway, kind: str, seconds: float) -> tuple[list[float], list[float]]:
    """Return the times of C-ECHO on a standing association, and of whole associations, in milliseconds."""
    standing = Bystander(gateway)
    echoes, associations = [], []
    with disturbed_by(kind, gateway):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(20):
                echoes.append(_timed(standing.echo))
            associations.append(_timed(lambda: Bystander(gateway).release()))
    standing.release()
    return echoes, associations


class Bystander:
    """A well-behaved client: C-ECHO over mutual TLS."""

    def __init__(self, gateway: Gateway) -> None:
        context = pdata.client_context(*map(str, gateway.client_files("ct1")))
        raw = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw, server_hostname="localhost")
        self._ask(wire.associate_rq(classes=[wire.VERIFICATION]))
        self.echo()

    def echo(self) -> None:
        self._ask(wire.echo_rq(1))

    def release(self) -> None:
        self._ask(wire.release_rq())
        self._socket.close()

    def _ask(self, request: bytes) -> None:
        self._socket.sendall(request)
        if not self._socket.recv(65536):
            raise SystemExit("the connection was closed")


def _timed(action: object) -> float:
    begun = time.perf_counter()
    action()  # type: ignore[operator]
    return (time.perf_counter() - begun) * 1000


@contextmanager
def disturbed_by(kind: str, gateway: Gateway) -> Iterator[None]:
    """Run the disturbing client as a process of its own."""
    if kind == "nobody":
        yield
        return
    command = [sys.executable, __file__, "--disturb", kind, "--port", str(gateway.port), "--identity"]
    process = subprocess.Popen([*command, *map(str, gateway.client_files("ct1"))], stdin=subprocess.PIPE)
    try:
        time.sleep(1)  # until it is under way
        yield
        if process.poll() is not None:
            raise SystemExit(f"the {kind} client did not go on")
    finally:
        process.kill()
        process.wait()


def disturb(kind: str, port: int, identity: Sequence[str]) -> None:
    """Be a nuisance until killed; `identity` names key, certificate and trust of one who may come in."""
    while kind == "pouring":
        pdata.send("127.0.0.1", port, pdata.client_context(*identity), 1, 4000)
    if kind == "stalled":
        kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(STALLED)]
        while kept:
            time.sleep(1)
    if kind == "slow":
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW)]
        hello = bytes.fromhex("1603010200010001fc0303") + bytes(512)
        for position in range(len(hello)):
            for connection in slow:
                connection.send(hello[position : position + 1])
            time.sleep(0.02)
    noise = os.urandom(65536)
    while True:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            try:
                while True:
                    connection.sendall(noise)
            except OSError:
                continue


def show(figures: dict[str, tuple[list[float], list[float]]]) -> None:
    """Print the table."""
    table = Table(title="two workers, milliseconds", title_justify="left")
    for column in ("beside", "echo median", "echo 99 %", "delay", "association median", "association 99 %", "delay"):
        table.add_column(column, justify="left" if column == "beside" else "right")
    for kind, both in figures.items():
        cells = []
        for times, alone in zip(both, figures["nobody"], strict=True):
            high = _percentile(times)
            cells += [f"{statistics.median(times):.2f}", f"{high:.2f}", f"{high - _percentile(alone):+.2f}"]
        table.add_row(kind, *cells)
    Console(width=120).print(table)


def _percentile(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


if __name__ == "__main__":
    main()
