"""The gateway beside HAProxy and stunnel: mutual TLS 1.3 on loopback, policy and audit barrier on. Prints medians and ratios.

    tests/bench/gateway.py [--repetitions 5] [--megabytes 2000] [--only streams,store,stock,handshakes,latency,idle,bystanders]

Every repetition measures all peers one after another, so that a slow moment of the machine hits all of them. All TLS ends use the
same key, certificates and revocation lists, and forward to the same receiver.
"""

from __future__ import annotations

import argparse
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

import OpenSSL  # noqa: E402
from pydicom import dcmread  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from securepacs_proxy.archives import storescp  # noqa: E402
from tests.bench import bystanders  # noqa: E402
from tests.support import pdata  # noqa: E402
from tests.support.gateway import Gateway, running_gateway  # noqa: E402
from tests.support.peers import Material, Peer, haproxy, stunnel  # noqa: E402
from tests.support.samples import new_instance  # noqa: E402

console = Console(width=150)
OURS = "securepacs"
WIDE, SHIPPED = "tune.bufsize 65536", "as shipped"
BYSTANDER_SECONDS = 10.0
Figures = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--only", default="streams,store,stock,handshakes,latency,idle,bystanders")
    options = parser.parse_args()
    wanted = options.only.split(",")
    console.print(
        f"Python {platform.python_version()}, {OpenSSL.SSL.OpenSSL_version(OpenSSL.SSL.OPENSSL_VERSION).decode()} in the gateway, "
        f"{options.repetitions} repetitions"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"streams", "handshakes", "latency", "idle", "bystanders"} & set(wanted):
            with pdata.receiver() as target, _all_peers(folder, target) as (gateway, peers):
                if "streams" in wanted:
                    for associations in (1, 8, 64):
                        streams(gateway, peers, associations, options.megabytes, options.repetitions)
                if "handshakes" in wanted:
                    handshakes(gateway, peers, options.repetitions)
                if "latency" in wanted:
                    latency(gateway, target, options.repetitions)
                if "idle" in wanted:
                    idle(gateway, peers)
                if "bystanders" in wanted:
                    console.print("while one client floods; the delay at the 99th percentile is to stay below 50 ms")
                    bystanders.report(gateway, bystanders.FLOODS, BYSTANDER_SECONDS)
        if "store" in wanted:
            stores(folder / "store", options.repetitions)
        if "stock" in wanted:
            stock(folder / "stock", options.repetitions)


@contextmanager
def _all_peers(folder: Path, target: int) -> Iterator[tuple[Gateway, list[Peer]]]:
    """The gateway first, then those it is compared with, in front of the receiver on port `target`."""
    with ExitStack() as stack:
        gateway = stack.enter_context(
            running_gateway(folder / "gateway", {"ARCHIVE": ("127.0.0.1", target)}, limits={"max_pdu_length": pdata.PDU})
        )
        assert gateway.process is not None
        material = _material(gateway)
        yield (
            gateway,
            [
                Peer(OURS, gateway.port, gateway.process.pid),
                stack.enter_context(haproxy(folder / "haproxy", material, target)),
                stack.enter_context(haproxy(folder / "haproxy64", material, target, bufsize=65536)),
                stack.enter_context(stunnel(folder / "stunnel", material, target)),
            ],
        )


def _material(gateway: Gateway) -> Material:
    folder = gateway.folder
    return Material(
        folder / "gateway.key", folder / "gateway.pem", folder / "root.pem", (folder / "issuing.crl", folder / "root.crl")
    )


# --- byte streams as P-DATA -----------------------------------------------------------------------------------------------


def streams(gateway: Gateway, peers: list[Peer], associations: int, megabytes: int, repetitions: int) -> None:
    """Throughput and CPU per GB."""
    key, certificate, trust = gateway.client_files("ct1")
    rates: Figures = {peer.name: [] for peer in peers}
    costs: Figures = {peer.name: [] for peer in peers}
    for _ in range(repetitions):
        for peer in peers:
            before = peer.cpu_seconds()
            where = ("127.0.0.1", peer.port, key, certificate, trust, associations, megabytes)
            command = [*pdata.PROGRAM, "send", *map(str, where)]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=600)
            rates[peer.name].append(megabytes / float(done.stdout))
            costs[peer.name].append((peer.cpu_seconds() - before) / (megabytes / 1000))
    _show(f"P-DATA, {associations} associations, {megabytes} MB", {"MB/s": rates, "CPU s/GB": costs})


# --- C-STORE by DCMTK -----------------------------------------------------------------------------------------------------


def stores(folder: Path, repetitions: int) -> None:
    """20 images of 50 MB by storescu into storescp."""
    with _stored_by_dcmtk(folder, count=20, size=50_000_000) as (gateway, archive, files):
        material = _material(gateway)
        with haproxy(folder / "h", material, archive) as shipped, haproxy(folder / "h64", material, archive, bufsize=65536) as wide:
            assert gateway.process is not None
            peers = [Peer(OURS, gateway.port, gateway.process.pid), shipped, wide]
            tls = gateway.dcmtk_options("ct1")
            times = _alternate({peer.name: _timed(_storescu(peer.port, files, *tls)) for peer in peers}, repetitions)
            rates = {name: [1000 / seconds for seconds in each] for name, each in times.items()}
            _show("C-STORE, DCMTK, 20 x 50 MB", {"MB/s": rates})


def stock(folder: Path, repetitions: int) -> None:
    """200 images of 512 KiB from a stock sender, straight to the archive and through the gateway."""
    with _stored_by_dcmtk(folder, count=200, size=524_288) as (gateway, archive, files):
        tls = gateway.dcmtk_options("ct1")
        times = _alternate(
            {
                OURS: _timed(_storescu(gateway.port, files, *tls)),
                "straight to the archive, no TLS": _timed(_storescu(archive, files)),
            },
            repetitions,
        )
        _show("200 x 512 KiB from a stock storescu, seconds (below 1 is faster)", {"s": times})


@contextmanager
def _stored_by_dcmtk(folder: Path, *, count: int, size: int) -> Iterator[tuple[Gateway, int, list[Path]]]:
    folder.mkdir(parents=True)
    files = []
    for number in range(count):
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(_of_size(number, size))
    with (
        storescp(folder / "archive", ae_title="ARCHIVE") as archive,
        running_gateway(folder / "gateway", {"ARCHIVE": ("127.0.0.1", archive.port)}) as gateway,
    ):
        yield gateway, archive.port, files


def _of_size(number: int, size: int) -> bytes:
    """A CT with `size` bytes of pixels."""
    dataset = dcmread(BytesIO(new_instance("CT_small.dcm", number)))
    dataset.Rows, dataset.Columns = 512, size // 1024
    dataset.PixelData = bytes(512 * dataset.Columns * 2)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _storescu(port: int, files: list[Path], *tls: str) -> list[str]:
    return ["/usr/bin/storescu", *tls, "-pdu", "131072", "-aet", "CT1", "-aec", "ARCHIVE", "localhost", str(port), *map(str, files)]


def _timed(command: list[str]) -> Callable[[], float]:
    def run() -> float:
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        return time.perf_counter() - begun

    return run


# --- connections ----------------------------------------------------------------------------------------------------------


def handshakes(gateway: Gateway, peers: list[Peer], repetitions: int, count: int = 300) -> None:
    """Full handshakes a second; the client closes as soon as it is through."""
    context = pdata.client_context(*map(str, gateway.client_files("ct1")))

    def run(port: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                context.wrap_socket(raw, server_hostname="localhost").close()
        return count / (time.perf_counter() - begun)

    rates = _alternate({peer.name: lambda port=peer.port: run(port) for peer in peers}, repetitions)
    _show("full mutual TLS 1.3 handshakes, one at a time", {"1/s": rates})


def latency(gateway: Gateway, target: int, repetitions: int, count: int = 60) -> None:
    """From the established TLS connection to A-ASSOCIATE-AC, beside the same straight to the receiver."""
    context = pdata.client_context(*map(str, gateway.client_files("ct1")))
    request = pdata.wire.associate_rq(classes=[pdata.wire.CT])

    def run(port: int, tls: bool) -> float:
        times = []
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                connection = context.wrap_socket(raw, server_hostname="localhost") if tls else raw
                begun = time.perf_counter()
                connection.sendall(request)
                connection.recv(65536)
                times.append((time.perf_counter() - begun) * 1000)
                connection.sendall(pdata.wire.release_rq())
                connection.recv(64)
        return statistics.median(times)

    figures = _alternate({OURS: lambda: run(gateway.port, True), "straight": lambda: run(target, False)}, repetitions)
    _show("A-ASSOCIATE answered, audit records of a device's connection included", {"ms": figures})


def idle(gateway: Gateway, peers: list[Peer], count: int = 400) -> None:
    """Memory of an idle association."""
    context = pdata.client_context(*map(str, gateway.client_files("ct1")))
    figures: Figures = {}
    for peer in peers:
        before = peer.memory_kib()
        senders = [pdata.Sender("127.0.0.1", peer.port, context) for _ in range(count)]
        figures[peer.name] = [(peer.memory_kib() - before) / count]
        for sender in senders:
            sender.release()
    _show(f"{count} idle associations", {"KiB each": figures})


# --- figures --------------------------------------------------------------------------------------------------------------


def _alternate(measures: dict[str, Callable[[], float]], repetitions: int) -> Figures:
    figures: Figures = {name: [] for name in measures}
    for _ in range(repetitions):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def _show(title: str, columns: dict[str, Figures]) -> None:
    """Print medians; a ratio is ours to theirs, the median over the repetitions."""
    table = Table(title=title, title_justify="left")
    table.add_column("peer")
    for unit in columns:
        table.add_column(unit, justify="right")
        table.add_column("ours / theirs", justify="right")
    for name in next(iter(columns.values())):
        cells = []
        for figures in columns.values():
            ratios = [ours / theirs for ours, theirs in zip(figures[OURS], figures[name], strict=True) if theirs]
            ratio = f"{statistics.median(ratios):.2f}" if name != OURS and ratios else ""
            cells += [f"{statistics.median(figures[name]):.3g}", ratio]
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
