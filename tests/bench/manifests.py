"""The signed manifest of a study against sha256sum over the same files: making it, and comparing the study with it.

    python tests/bench/manifests.py

200 CT of 512 KiB, files in the page cache, one process, medians of five runs; the ratio is the time of sha256sum divided into ours.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydicom import dcmread

from securepacs import signatures
from securepacs.signatures import SigningSession, Verifier
from securepacs.signatures.sign import make_options
from tests.support.samples import new_instance
from tests.support.signing import policy, signer

COUNT, SIDE, RUNS = 200, 512, 5


def make_study(folder: Path) -> list[Path]:
    dataset = dcmread(BytesIO(new_instance("CT_small.dcm", 0)))
    dataset.Rows = dataset.Columns = SIDE
    dataset.PixelData = bytes(range(256)) * (SIDE * SIDE * 2 // 256)
    paths = []
    for number in range(COUNT):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.10.999.1.1.{number}"
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = make_study(Path(name))
        credential = signer()
        document = signatures.manifest(paths, credential)

        def prepare() -> None:
            session = SigningSession(make_options())
            for path in paths:
                session.add(path)

        peer = median(lambda: subprocess.run(["sha256sum", *paths], stdout=subprocess.DEVNULL, check=True))
        rows = [
            ("sha256sum", peer),
            ("signatures.manifest", median(lambda: signatures.manifest(paths, credential))),
            ("signatures.check_study", median(lambda: signatures.check_study(document, paths, Verifier(policy())))),
            ("SigningSession.add (before the PIN)", median(prepare)),
        ]
    print(f"{'':40}{'seconds':>10}{'files/s':>10}{'x sha256sum':>14}")
    for what, seconds in rows:
        print(f"{what:40}{seconds:10.3f}{COUNT / seconds:10.0f}{seconds / peer:14.2f}")


if __name__ == "__main__":
    main()
