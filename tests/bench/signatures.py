"""Signing and verifying against DCMTK's dcmsign, in one run on the same files. Prints one table of ratios; run it as a program.

.venv/bin/python tests/bench/signatures.py [--files 200] [--frames 1000] [--repeat 5] [--folder DIR]

RSA-2048 over SHA-256, all elements, the chain of the signer validated to a root. dcmsign takes one file per process; ours is one
process for all files, timed from the first to the last after one other small file (modules loaded, chain validated and remembered),
and once more as the command line from start to end. To sign it uses two more threads, to hash ahead and to write; to verify, none.
The images are alike in all but values, as those of a series often are, and their structure is remembered; the rows "no two alike"
take that away. Signed files are on the disk when ours ends (fsync), dcmsign leaves that to the system. Every figure is the median
of `--repeat` turns, the programs taking turns. Files are in the page cache for both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

DCMSIGN, OPENSSL = "/usr/bin/dcmsign", "/usr/bin/openssl"
FRAME = 512 * 512 * 2  # bytes; also the size of one CT
MEMORY_LIMIT = 100  # MB of anonymous memory


# --- the worker: one process that signs or verifies a list of files ------------------------------------------------------
class AnonymousMemory:
    """The most anonymous memory this process had (RssAnon of /proc/self/status), looked up every two milliseconds."""

    def __init__(self) -> None:
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text("ascii")
            self.most = max(self.most, int(status.split("RssAnon:")[1].split()[0]) // 1024)
            if self._stop.wait(0.002):
                return

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.most


def work(action: str, material: Path, files: Sequence[Path], output: Path, *, memory: bool) -> dict[str, float]:
    """Sign or verify `files` in this process; return the seconds it took, and the memory in MB when asked for."""
    from securepacs.signatures import Verifier
    from securepacs.signatures.batch import sign_files
    from securepacs.signatures.sign import make_options
    from securepacs.tokens.software import load_pem
    from securepacs.trust import TrustPolicy

    watch = AnonymousMemory() if memory else None
    if action == "sign":
        credential = load_pem(material / "key.pem", material / "cert.pem")
        list(sign_files([(material / "warm.dcm", material / "warm-signed.dcm")], credential, lambda: make_options(coverage="all")))
        started = time.perf_counter()
        for done in sign_files([(file, output / file.name) for file in files], credential, lambda: make_options(coverage="all")):
            if done.error is not None:
                raise done.error
    else:
        policy = TrustPolicy.from_files([material / "root.pem"], intermediates=[material / "issuing.pem"])
        verifier = Verifier(policy)
        verifier.evaluate(material / "warm-signed.dcm")
        started = time.perf_counter()
        for file in files:
            report = verifier.evaluate(file)
            if report.verdict != "TOTAL-PASSED":
                raise SystemExit(f"{file}: {report}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": watch.stop() if watch else 0}


def in_worker(action: str, material: Path, files: Sequence[Path], output: Path, *, memory: bool = False) -> dict[str, float]:
    task = json.dumps([action, str(material), [str(file) for file in files], str(output), memory])
    done = subprocess.run([sys.executable, __file__, "--worker"], input=task, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout)


# --- the input -----------------------------------------------------------------------------------------------------------
def write_material(folder: Path) -> Path:
    """A CA with an intermediate and a signer with an RSA-2048 key, as PEM files of one certificate each, for dcmsign."""
    from securepacs.pki import CertificateProfile
    from tests.support.pki import make_pki, pem_of

    pki = make_pki(folder)
    signer = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Bench")
    key, _ = pki.write_pem(signer)
    key.rename(folder / "key.pem")
    (folder / "cert.pem").write_bytes(pem_of(signer.certificate))
    (folder / "root.pem").write_bytes(pem_of(pki.ca.root))
    (folder / "issuing.pem").write_bytes(pem_of(pki.ca.issuing))
    return folder


def write_images(folder: Path, count: int, frames: int = 1, *, alike: bool = True) -> list[Path]:
    """CT images of 512 x 512 made of CT_small, each with its own UID and noise for pixels, and if not `alike` its own length."""
    from pydicom import dcmread

    from tests.support.samples import sample

    folder.mkdir()
    dataset = dcmread(sample("CT_small.dcm"))
    dataset.Rows = dataset.Columns = 512
    if frames > 1:
        dataset.NumberOfFrames = frames
    del dataset.DataSetTrailingPadding
    made = []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.10.999.7.{frames}.{number}"
        dataset.PixelData = b"".join(os.urandom(FRAME) for _ in range(frames))
        if not alike:
            dataset.ImageComments = "comment " * (1 + number)
        path = folder / f"{number:04}.dcm"
        dataset.save_as(path)
        made.append(path)
    return made


# --- the measurements ----------------------------------------------------------------------------------------------------
def timed(*command: str | Path) -> float:
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return seconds


class Peer:
    """dcmsign, one process per file."""

    def __init__(self, material: Path) -> None:
        self.sign_command = (DCMSIGN, "+m2", "+s", material / "key.pem", material / "cert.pem")
        trusted = ("+cf", material / "root.pem", "+uf", material / "issuing.pem")
        self.verify_command = (DCMSIGN, "--verify", "+rg", *trusted)

    def sign(self, files: Sequence[Path], output: Path) -> float:
        return sum(timed(*self.sign_command, file, output / file.name) for file in files)

    def verify(self, files: Sequence[Path]) -> float:
        return sum(timed(*self.verify_command, file) for file in files)


def medians(repeat: int, measurements: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Take every measurement `repeat` times, in turns after one round to warm up; return the medians in seconds."""
    found: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(repeat + 1):
        for name, measure in measurements.items():
            seconds = measure()
            if turn:
                found[name].append(seconds)
    return {name: statistics.median(values) for name, values in found.items()}


class Bench:
    def __init__(self, folder: Path, repeat: int) -> None:
        self.folder = folder
        self.repeat = repeat
        self.material = write_material(folder / "pki")
        self.peer = Peer(self.material)
        write_images(folder / "warm", 1)[0].rename(self.material / "warm.dcm")
        self.rows: list[tuple[str, str, str, str, bool | None]] = []

    def output(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def row(self, what: str, ours: str, theirs: str, ratio: str, *, holds: bool | None = None) -> None:
        self.rows.append((what, ours, theirs, ratio, holds))

    def command_line(self, action: str, files: Sequence[Path], output: Path) -> float:
        program = Path(sys.executable).with_name("securepacs")
        if action == "sign":
            keys = ("--key", self.material / "key.pem", "--cert", self.material / "cert.pem")
            return timed(program, "sign", *files, *keys, "--coverage", "all", "-o", f"{output}{os.sep}")
        trust = ("--trust", self.material / "root.pem", "--intermediates", self.material / "issuing.pem", "--offline")
        return timed(program, "verify", *files, *trust)

    def many(self, count: int) -> None:
        files = write_images(self.folder / "ct", count)
        theirs, ours = self.output("ct-dcmsign"), self.output("ct-ours")
        in_worker("sign", self.material, files, ours)
        signed = [ours / file.name for file in files]
        others, others_signed = write_images(self.folder / "others", count, alike=False), self.output("others-ours")
        in_worker("sign", self.material, others, others_signed)
        few = files[: max(1, count // 10)]
        found = medians(
            self.repeat,
            {
                "sign": lambda: in_worker("sign", self.material, files, ours)["seconds"],
                "verify": lambda: in_worker("verify", self.material, signed, ours)["seconds"],
                "dcmsign sign": lambda: self.peer.sign(files, theirs),
                "dcmsign verify": lambda: self.peer.verify(signed),
                "sign others": lambda: in_worker("sign", self.material, others, others_signed)["seconds"],
                "verify others": lambda: in_worker("verify", self.material, sorted(others_signed.iterdir()), ours)["seconds"],
                "sign command": lambda: self.command_line("sign", files, ours),
                "verify command": lambda: self.command_line("verify", signed, ours),
                "start": lambda: sum(timed(DCMSIGN, "--version") for _ in few) / len(few),
            },
        )
        per = {name: seconds if name == "start" else seconds / count for name, seconds in found.items()}
        for action, floor in (("sign", 15), ("verify", 25)):
            ratio = per[f"dcmsign {action}"] / per[action]
            rate, peer_rate = f"{1 / per[action]:.0f} files/s", f"{1 / per[f'dcmsign {action}']:.1f} files/s"
            self.row(f"{action} {count} CT, one process (floor {floor} x)", rate, peer_rate, f"{ratio:.1f} x", holds=ratio >= floor)
            ratio = per[f"dcmsign {action}"] / per[f"{action} others"]
            self.row(
                f"{action} {count} CT, no two alike", f"{1 / per[f'{action} others']:.0f} files/s", peer_rate, f"{ratio:.1f} x"
            )
            ratio = per[f"dcmsign {action}"] / per[f"{action} command"]
            command_rate = f"{1 / per[f'{action} command']:.0f} files/s"
            self.row(f"{action} {count} CT, the whole command", command_rate, peer_rate, f"{ratio:.1f} x")
            net = per[f"dcmsign {action}"] - per["start"]
            self.row(
                f"{action}, fair: per file, process start taken off ({per['start'] * 1e3:.1f} ms)",
                f"{per[action] * 1e3:.2f} ms",
                f"{net * 1e3:.2f} ms",
                f"{net / per[action]:.1f} x",
            )
        for action, inputs in (("sign", files), ("verify", signed)):
            self.memory(f"{action} {count} CT", action, inputs, ours)

    def large(self, frames: int) -> None:
        files = write_images(self.folder / "large", 1, frames)
        size = f"{files[0].stat().st_size / 1e6:.0f} MB"
        theirs, ours = self.output("large-dcmsign"), self.output("large-ours")
        in_worker("sign", self.material, files, ours)
        signed = [ours / files[0].name]
        found = medians(
            self.repeat,
            {
                "sign": lambda: in_worker("sign", self.material, files, ours)["seconds"],
                "verify": lambda: in_worker("verify", self.material, signed, ours)["seconds"],
                "dcmsign sign": lambda: self.peer.sign(files, theirs),
                "dcmsign verify": lambda: self.peer.verify(signed),
                "openssl": lambda: timed(OPENSSL, "dgst", "-sha256", signed[0]),
                "sign command": lambda: self.command_line("sign", files, ours),
                "verify command": lambda: self.command_line("verify", signed, ours),
            },
        )
        for kind, floors in (("", (1.0, 0.65, 1.2)), (" command", (None, None, None))):
            for action, peer, floor in zip(
                ("sign", "verify", "verify"), ("dcmsign sign", "dcmsign verify", "openssl"), floors, strict=True
            ):
                ratio = found[action + kind] / found[peer]
                limit = f" (at most {floor})" if floor else ", the whole command"
                self.row(
                    f"{action} {size} against {peer.split()[0]}{limit}",
                    f"{found[action + kind]:.2f} s",
                    f"{found[peer]:.2f} s",
                    f"{ratio:.2f}",
                    holds=ratio <= floor if floor else None,
                )
        for action, inputs in (("sign", files), ("verify", signed)):
            self.memory(f"{action} {size}", action, inputs, ours)

    def memory(self, what: str, action: str, files: Sequence[Path], output: Path) -> None:
        most = in_worker(action, self.material, files, output, memory=True)["memory"]
        self.row(f"{what}: anonymous memory (under {MEMORY_LIMIT} MB)", f"{most:.0f} MB", "", "", holds=most < MEMORY_LIMIT)

    def print_table(self) -> None:
        width = max(len(row[0]) for row in self.rows)
        print(f"{'':{width}}  {'ours':>13}  {'peer':>13}  {'ratio':>7}")
        for what, ours, theirs, ratio, holds in self.rows:
            verdict = "" if holds is None else "  holds" if holds else "  MISSED"
            print(f"{what:{width}}  {ours:>13}  {theirs:>13}  {ratio:>7}{verdict}")


def print_versions(repeat: int) -> None:
    import cryptography
    from cryptography.hazmat.backends.openssl import backend

    def first_line(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip("$ ")

    print(f"{first_line(DCMSIGN, '--version')}; {first_line(OPENSSL, 'version')}")
    ours = f"Python {platform.python_version()}, cryptography {cryptography.__version__} ({backend.openssl_version_text()})"
    print(f"{ours}; {platform.machine()}, {os.cpu_count()} cores; medians of {repeat}")


def main() -> None:
    if sys.argv[1:] == ["--worker"]:
        action, material, files, output, memory = json.load(sys.stdin)
        print(json.dumps(work(action, Path(material), [Path(file) for file in files], Path(output), memory=memory)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files go while it runs; the system's temporary folder by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="securepacs-bench-", dir=arguments.folder))
    try:
        bench = Bench(folder, arguments.repeat)
        print_versions(arguments.repeat)
        bench.many(arguments.files)
        bench.large(arguments.frames)
        bench.print_table()
    finally:
        shutil.rmtree(folder)
    if any(row[4] is False for row in bench.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
