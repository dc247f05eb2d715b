"""The audit trail: durable append, ingest over TLS beside rsyslogd, search, verification. Prints one table; run it as a program.

.venv/bin/python tests/bench/audit.py [--only append,ingest,search,verify] [--records 100000] [--large 1000000] [--folder DIR]

Messages are 2 KB, all different, conformant (PS3.15 2020b). Ingest sends over one TLS 1.3 connection from a process of its own on
the same machine, and counts until the repository has confirmed the end of the stream: by then everything is stored, indexed and in
the Merkle log. A burst before it has started what only bursts need. rsyslogd writes plain files (omfile, not synced) from the same
sender over the same TLS. Search is by patient over the large store; each patient has 20 records. Verification includes octets,
commitments, tiles and tree.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from securepacs.audit import events  # noqa: E402
from securepacs.audit.message import EventActionCode  # noqa: E402
from securepacs.audit.repository import Criteria, Receipt, Repository, RepositoryServer  # noqa: E402
from securepacs.audit.repository.server import spare_collector  # noqa: E402
from securepacs.audit.repository.signer import LogSigner  # noqa: E402
from securepacs.audit.spool import Spool  # noqa: E402
from securepacs.audit.syslog import frame, to_syslog  # noqa: E402
from tests.support.audit import ARCHIVE, AT, CT, LEE, SOURCE, TlsFiles  # noqa: E402
from tests.support.audit_log import ORIGIN, make_log_key  # noqa: E402
from tests.support.net import free_port, wait_for_port, wait_until  # noqa: E402
from tests.support.pki import make_pki  # noqa: E402

SIZE = 2048
PER_PATIENT = 20
WARM = 1000  # records before the measurement: they start the processes that index bursts
FLOORS = {"append": 5000, "ingest": 10_000, "search": 0.1}
_ROWS: list[tuple[str, str, str]] = []


def message(number: int = 0) -> bytes:
    """Return one record of SIZE octets; `number` tells study and patient."""
    study = events.StudyObject(
        f"1.2.826.0.1.{number:09d}", {"1.2.840.10008.5.1.4.1.1.2": 200}, Accession=(f"A{number:09d}",), MPPS=("1.2.3.5",)
    )
    made = events.instances_transferred(
        source=SOURCE,
        at=AT,
        action=EventActionCode.CREATE,
        sender=CT,
        receiver=ARCHIVE,
        others=(LEE,),
        studies=(study,),
        patient=events.PatientObject(f"{number // PER_PATIENT:09d}^^^&1.2.3&ISO", "Doe^Jane"),
    )
    raw = to_syslog(made, hostname="gw1", app_name="securepacs", procid="7")
    return raw.replace(b"Doe^Jane", b"Doe^Jane" + b"x" * (SIZE - len(raw)))


def messages(count: int, *, first: int = 0) -> Iterator[bytes]:
    """Return records that differ in study, accession number and patient."""
    study, patient = b"%09d" % 123456789, b"%09d" % (123456789 // PER_PATIENT)
    template = message(123456789)
    for number in range(first, first + count):
        yield template.replace(study, b"%09d" % number).replace(patient, b"%09d" % (number // PER_PATIENT))


def row(what: str, value: str, beside: str = "") -> None:
    _ROWS.append((what, value, beside))
    print(f"{what:<62} {value:>16}  {beside}", flush=True)


# --- durable append ---------------------------------------------------------------------------------------------------
def append(folder: Path, seconds: float, callers: int = 8) -> None:
    """Eight threads append to a spool; each waits until its record is on the disk."""
    record, done, ends = message(), [0] * callers, threading.Event()

    def run(caller: int) -> None:
        while not ends.is_set():
            spool.append(record)
            done[caller] += 1

    with Spool.open(folder / "spool", quota_bytes=4 << 30) as spool:
        threads = [threading.Thread(target=run, args=(caller,)) for caller in range(callers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        ends.set()
        for thread in threads:
            thread.join()
        rate = sum(done) / (time.perf_counter() - began)
    row(
        f"durable append, {callers} callers",
        f"{rate:,.0f}/s",
        f"floor {FLOORS['append']:,}/s; fdatasync alone {syncs(folder):,.0f}/s",
    )


def syncs(folder: Path) -> float:
    """Return how many small synced writes a second the disk does for one caller."""
    descriptor = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)
    began = time.perf_counter()
    for number in range(200):
        os.pwrite(descriptor, b"x" * SIZE, number * SIZE)
        os.fdatasync(descriptor)
    os.close(descriptor)
    return 200 / (time.perf_counter() - began)


# --- ingest -----------------------------------------------------------------------------------------------------------
SENDER = """
import socket, ssl, sys, time
context = ssl.create_default_context(cafile=sys.argv[3])
context.load_cert_chain(sys.argv[4], sys.argv[5])
data = open(sys.argv[2], "rb").read()
plain = socket.create_connection(("localhost", int(sys.argv[1])))
tls = context.wrap_socket(plain, server_hostname="localhost")
print("ready", flush=True)
sys.stdin.readline()
view = memoryview(data)
for start in range(0, len(data), 1 << 18):
    tls.sendall(view[start:start + (1 << 18)])
try:
    tls.unwrap()
except (OSError, ssl.SSLError):
    pass
print("done", flush=True)
"""


@contextmanager
def sender(port: int, stream: Path, files: TlsFiles) -> Iterator[subprocess.Popen[str]]:
    arguments = [
        sys.executable,
        "-c",
        SENDER,
        str(port),
        str(stream),
        str(files.trust),
        str(files.client_cert),
        str(files.client_key),
    ]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def write_stream(path: Path, records: Iterator[bytes]) -> Path:
    with path.open("wb") as out:
        for each in records:
            out.write(frame(each))
    return path


def ingest(folder: Path, count: int, files: TlsFiles) -> None:
    stream = write_stream(folder / "stream", messages(count))
    first = write_stream(folder / "first", messages(WARM, first=count))
    with Repository(f"sqlite:///{folder}/ingest.db") as repository:
        signer = LogSigner.load(make_log_key(folder / "ingest.key"), origin=ORIGIN)
        began = busy = 0.0
        spare_collector()  # as `audit serve` does
        with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()) as server:
            with sender(server.port, first, files) as process:
                go(process)
            busy = cpu()
            with sender(server.port, stream, files) as process:
                began = time.perf_counter()
                go(process)
                taken = time.perf_counter() - began
        used = cpu() - busy  # the sender and the indexers have ended: theirs is counted, with all that the indexers ever did
        checkpoint = repository.checkpoint(signer, at=datetime.now(UTC))
        assert checkpoint is not None
        assert checkpoint.size == count + WARM + 2
        found = repository.search(Criteria(patient=f"{(count - 1) // PER_PATIENT:09d}"), reader=LEE, at=AT)
        assert len(found) == PER_PATIENT
    row("ingest over one TLS connection: stored, indexed, in the log", f"{count / taken:,.0f}/s",
        f"floor {FLOORS['ingest']:,}/s; {1e6 * used / count:.0f} us of CPU a record, the sender's included")  # fmt: skip
    rsyslogd(folder, count, stream, files, count / taken)


def cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def rsyslogd(folder: Path, count: int, stream: Path, files: TlsFiles, ours: float) -> None:
    """The same stream into rsyslogd, which writes lines of plain text."""
    port, work, output = free_port(), folder / "rsyslog", folder / "rsyslog.out"
    work.mkdir()
    (work / "conf").write_text(
        f"""
global(workDirectory="{work}" maxMessageSize="1m" defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{files.trust}"
       defaultNetstreamDriverCertFile="{files.server_cert}" defaultNetstreamDriverKeyFile="{files.server_key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{output}" template="raw")
"""
    )
    process = subprocess.Popen(
        ["/usr/sbin/rsyslogd", "-n", "-f", str(work / "conf"), "-i", str(work / "pid")], stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port)
        with sender(port, stream, files) as sending:
            began = time.perf_counter()
            go(sending)
            # the last buffer is written when rsyslogd ends
            wait_until(lambda: output.exists() and output.stat().st_size >= count * (SIZE + 1) * 0.99, seconds=120)
            rate = count / (time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)
    row("rsyslogd, the same stream into a plain file", f"{rate:,.0f}/s", f"ours is {ours / rate:.2f} of it")


# --- search and verification ------------------------------------------------------------------------------------------
def fill(folder: Path, count: int) -> Repository:
    repository = Repository(f"sqlite:///{folder}/large.db")
    began = datetime(2027, 1, 1, tzinfo=UTC)
    for first in range(0, count, 5000):
        repository.store(
            Receipt.of(each, received=began + timedelta(milliseconds=first), transport="bench")
            for each in messages(min(5000, count - first), first=first)
        )
    return repository


def search(repository: Repository, count: int) -> None:
    times: list[float] = []
    for step in range(101):
        patient = f"{(step * 7919) % (count // PER_PATIENT):09d}"
        began = time.perf_counter()
        found = repository.search(Criteria(patient=patient), reader=LEE, at=AT)
        times.append(time.perf_counter() - began)
        assert len(found) == PER_PATIENT
    row(f"search by patient over {count:,} records, median of {len(times)}", f"{1000 * statistics.median(times):.1f} ms",
        f"floor {1000 * FLOORS['search']:.0f} ms; worst {1000 * max(times):.1f} ms; each records itself first")  # fmt: skip


# VmHWM is of the program alone; ru_maxrss would begin with what the process was before exec
VERIFY = """
import re, sys, time
from pathlib import Path
from securepacs.audit.checkpoint import LogPublicKey
from securepacs.audit.verifier import verify_export
began = time.perf_counter()
report = verify_export(Path(sys.argv[1]), LogPublicKey.parse(sys.argv[2]))
assert report.sound and report.verified == report.size, report.problems[:3]
memory = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(report.size / (time.perf_counter() - began), int(memory[1]) // 1024)
"""


def verify(repository: Repository, folder: Path, count: int) -> None:
    signer = LogSigner.load(make_log_key(folder / "large.key"), origin=ORIGIN)
    repository.checkpoint(signer, at=AT)
    began = time.perf_counter()
    repository.export(folder / "export", reader=LEE, at=AT)
    row(f"export of {count:,} entries with their octets", f"{count / (time.perf_counter() - began):,.0f}/s")
    arguments = [sys.executable, "-c", VERIFY, str(folder / "export"), str(signer.public)]
    rate, memory = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    row(f"verification of {count:,} entries with their octets", f"{float(rate):,.0f}/s", f"largest memory {memory} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="append,ingest,search,verify")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    wanted = set(options.only.split(","))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        files = TlsFiles(make_pki(folder / "pki"), folder / "pki")
        if "append" in wanted:
            append(folder, 5)
        if "ingest" in wanted:
            ingest(folder, options.records, files)
        if wanted & {"search", "verify"}:
            with fill(folder, options.large) as repository:
                if "search" in wanted:
                    search(repository, options.large)
                if "verify" in wanted:
                    verify(repository, folder, options.large)


if __name__ == "__main__":
    main()
