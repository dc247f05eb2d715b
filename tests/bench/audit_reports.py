"""Reports over a large audit repository: seconds, and the most memory the process ever had. Run it as a program.

.venv/bin/python tests/bench/audit_reports.py [--records 1000000] [--folder DIR]

Records are 2 KB, conformant, spread over one month; each patient has 20. Every report runs in a process of its own; its peak
resident memory stands beside that of the same report over a thousandth of the records.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from securepacs.audit.repository import Receipt, Repository  # noqa: E402
from tests.bench.audit import messages  # noqa: E402
from tests.support.audit import AT  # noqa: E402

PERIOD = ["--from", "2027-01-01", "--to", "2027-02-01"]
REPORTS = {
    "access": ["--patient", "000000001"],
    "monthly": ["--month", "2027-01"],
    "emergency": PERIOD,
    "breach": ["--ae", "CT1", *PERIOD],
}
RUN = r"""
import re, sys
from securepacs.cli.main import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
sys.stderr.write(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])  # of this program alone, not of its parent
"""


def fill(store: str, count: int) -> None:
    """Store `count` records, 2000 in one call."""
    moment, step = AT.replace(day=1, hour=0), timedelta(days=30) / count
    old = AT.isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
    with Repository(store) as repository:
        batch = []
        for number, raw in enumerate(messages(count)):
            new = (moment + step * number).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
            batch.append(Receipt.of(raw.replace(old, new), received=AT, transport="bench"))
            if len(batch) == 2000:
                repository.store(batch)
                batch = []
        repository.store(batch)


def run(store: str, name: str, folder: Path) -> tuple[float, int]:
    """Return (seconds, peak MiB) of a report."""
    outputs = ["--html", str(folder / "r.html"), "--csv", str(folder / "r.csv")]
    command = [sys.executable, "-c", RUN, "audit", "report", name, "--store", store, *REPORTS[name], *outputs]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, int(done.stderr.split()[-1]) // 1024


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        stores = {count: f"sqlite:///{folder}/{count}.db" for count in (arguments.records // 1000, arguments.records)}
        for count, store in stores.items():
            fill(store, count)
        for report in REPORTS:
            small, large = (run(store, report, folder) for store in stores.values())
            print(
                f"{report:<10} {arguments.records:>9,} records {large[0]:7.1f} s  peak {large[1]:4} MiB"
                f"  (of {arguments.records // 1000:,}: {small[0]:.1f} s, {small[1]} MiB)",
                flush=True,
            )


if __name__ == "__main__":
    main()
