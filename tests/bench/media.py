"""Secure DICOM Files beside `openssl cms`: wall time, ratio and peak memory of whole processes. Prints one table of medians.

    tests/bench/media.py [--megabytes 1000] [--repetitions 5] [--folder /dev/shm] [--large 4000]

openssl works as two processes in a pipe, `cms -sign | cms -encrypt -stream` and the inverse; ours is one command, which also writes
beside the output and renames. Every repetition measures all, one after another. The folder is in memory by default, so that
no disk is measured. Peak memory is the largest of the processes' resident sets. `--large` measures memory once more at that size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from securepacs.pki import CertificateProfile  # noqa: E402
from tests.support.pki import make_pki  # noqa: E402

console = Console(width=140)
OURS = [sys.executable, "-c", "from securepacs.cli.main import main; main()"]
HEAD = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00" + b"\xe0\x7f\x10\x00OB\0\0"
Figures = dict[str, list[tuple[float, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()))
    parser.add_argument("--large", type=int, default=0)
    options = parser.parse_args()
    version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout.strip()
    console.print(f"{options.megabytes} MB in {options.folder}, {options.repetitions} repetitions, peer {version}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bench = Bench(Path(name))
        bench.make_source(options.megabytes)
        figures: Figures = {}
        for _ in range(options.repetitions):
            bench.round(figures)
        show(figures)
        if options.large:
            bench.make_source(options.large)
            for path in bench.folder.glob("*.cms"):
                path.unlink()
            console.print(f"at {options.large} MB")
            large: Figures = {}
            bench.ours(large)
            show(large)


def show(figures: Figures) -> None:
    seconds = {name: statistics.median(wall for wall, _ in runs) for name, runs in figures.items()}
    table = Table("what", "seconds", "ratio to openssl", "peak MB")
    for name, runs in figures.items():
        peer = next((value for each, value in seconds.items() if each.startswith(f"{name.split(':')[0]}: openssl,")), 0.0)
        ratio = f"{peer / seconds[name]:.2f}" if peer else ""
        table.add_row(name, f"{seconds[name]:.2f}", ratio, f"{max(peak for _, peak in runs):.0f}")
    console.print(table)


class Bench:
    """The files and commands of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source.dcm"
        pki = make_pki(folder, now=datetime.now(UTC))
        signer = pki.credential(CertificateProfile.RADIOLOGIST, "signer")
        recipient = pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "recipient")
        self.sign_key, self.sign_cert = map(str, pki.write_pem(signer))
        self.key, self.cert = map(str, pki.write_pem(recipient))

    def make_source(self, megabytes: int) -> None:
        block = os.urandom(1_000_000)
        with self.source.open("wb") as file:
            file.write(HEAD + (megabytes * 1_000_000).to_bytes(4, "little"))
            for number in range(megabytes):
                file.write(number.to_bytes(8, "big") + block[8:])

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def round(self, figures: Figures) -> None:
        theirs, plain = self.path("theirs.cms"), self.path("plain")
        cms = ["openssl", "cms", "-binary"]
        streaming = ["-stream", "-indef", "-outform", "DER"]
        sign = [*cms, "-sign", "-nodetach", *streaming, "-md", "sha256", "-signer", self.sign_cert, "-inkey", self.sign_key]
        encrypt = [*cms, "-encrypt", *streaming, "-aes256", "-out", theirs, self.cert]
        decrypt = [*cms, "-decrypt", "-inform", "DER", "-inkey", self.key, "-recip", self.cert, "-in", theirs]
        verify = [*cms, "-verify", "-inform", "DER", "-noverify", "-out", plain]
        record(figures, "protect: openssl, AES-256-CBC", [*sign, "-in", str(self.source)], encrypt)
        record(figures, "open: openssl, its streamed output", decrypt, verify)
        self.compare(plain)
        record(figures, "open: ours, openssl's streamed output", self.opening(theirs))
        self.compare(plain)
        self.ours(figures)

    def ours(self, figures: Figures) -> None:
        for cipher in ("aes256-cbc", "aes256-gcm"):
            made = self.path(f"{cipher}.cms")
            options = ["--sign-key", self.sign_key, "--sign-cert", self.sign_cert, "--to", self.cert, "--cipher", cipher]
            record(figures, f"protect: ours, {cipher}", [*OURS, "media", "protect", str(self.source), "-o", made, *options])
        for cipher in ("aes256-cbc", "aes256-gcm"):
            record(figures, f"open: ours, our {cipher}", self.opening(self.path(f"{cipher}.cms")))
            self.compare(self.path("plain"))

    def opening(self, file: str) -> list[str]:
        return [*OURS, "media", "open", file, "-o", self.path("plain"), "--key", self.key, "--cert", self.cert]

    def compare(self, plain: str) -> None:
        subprocess.run(["cmp", str(self.source), plain], check=True)
        Path(plain).unlink()


def record(figures: Figures, name: str, *commands: list[str]) -> None:
    """Run commands as one pipeline; remember the wall time and the largest resident set among them."""
    began = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(commands):
        last = number == len(commands) - 1
        processes.append(
            subprocess.Popen(
                command,
                stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                stderr=subprocess.PIPE if last else subprocess.DEVNULL,
                cwd=ROOT,
            )
        )
    for process in processes[:-1]:
        if process.stdout is not None:
            process.stdout.close()
    said = processes[-1].stderr.read() if processes[-1].stderr is not None else b""
    peaks = []
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} failed: {said.decode(errors='replace')}")
        peaks.append(usage.ru_maxrss / 1024)
    figures.setdefault(name, []).append((time.perf_counter() - began, max(peaks)))


if __name__ == "__main__":
    main()
