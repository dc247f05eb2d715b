"""Hostile input: whatever is changed in a signed file, it is noticed, and nothing ever crashes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.dicom.part10 import deflate, open_dataset
from securepacs.errors import MalformedError
from securepacs.signatures import Verifier
from securepacs.signatures.inspection import describe
from tests.support.encoded import RLE, element, encapsulated, item, nested, part10, sequence
from tests.support.pki import pem_of
from tests.support.signing import pki, policy, signed_bytes, signed_sample, signer

SMALL = part10(
    element(0x00080005, b"CS", b"ISO_IR 100")
    + element(0x00080018, b"UI", b"1.2.3\0")
    + sequence(
        0x00081032,
        item(element(0x00080000, b"UL", b"\x0a\0\0\0") + element(0x00080104, b"LO", b"Meaning")),
        undefined=True,
    )
    + sequence(0x00081140, item(element(0x00081155, b"UI", b"1.2\0"), undefined=True), item(b""))
    + element(0x00100010, b"PN", b"Test^P")
    + element(0x00280010, b"US", b"\2\0")
    + encapsulated(b"", b"\1\2\3\4"),
    RLE,
)
COVERED = ["SOPInstanceUID", "ProcedureCodeSequence", "ReferencedImageSequence", "PatientName", "Rows", "PixelData"]


@cache
def verifier() -> Verifier:
    return Verifier(policy())


@cache
def signed() -> bytes:
    return signed_bytes(SMALL, profile="base", tags=COVERED)


@cache
def signed_plan() -> bytes:
    return signed_sample("rtplan.dcm")


def evaluate_or_malformed(raw: bytes) -> str:
    try:
        return verifier().evaluate(raw).verdict
    except MalformedError:
        return "MALFORMED"


def test_changes_in_open_ranges_do_not_matter() -> None:
    raw = bytearray(signed())
    (before,) = verifier().evaluate(bytes(raw)).signatures
    raw[10] ^= 0xFF  # preamble
    place = raw.index(b"ISO_IR 100")
    assert any(start <= place < end for start, end in before.uncovered_ranges)
    raw[place + 9] = ord("1")
    assert verifier().evaluate(bytes(raw)).verdict == "TOTAL-PASSED"


def test_every_truncation_is_malformed_or_loses_the_signature() -> None:
    raw = signed()
    found = {evaluate_or_malformed(raw[:end]) for end in range(len(raw))}
    assert found <= {"MALFORMED", "NO-SIGNATURE"}


@given(st.data())
def test_a_mutated_file_gets_a_verdict_or_is_malformed(data: st.DataObject) -> None:
    raw = bytearray(signed_plan() if data.draw(st.booleans()) else signed())
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            raw[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del raw[position : position + data.draw(st.integers(1, 40))]
        else:
            raw[position:position] = data.draw(st.binary(min_size=1, max_size=40))
        if not raw:
            break
    assert evaluate_or_malformed(bytes(raw)) in {"TOTAL-PASSED", "TOTAL-FAILED", "INDETERMINATE", "NO-SIGNATURE", "MALFORMED"}


@given(st.integers(250, 1671), st.binary(min_size=1, max_size=30))
def test_mutated_signature_items_are_inspected_or_malformed(position: int, junk: bytes) -> None:
    raw = signed()
    try:
        found = describe(raw[:position] + junk + raw[position + len(junk) :])
    except MalformedError:
        return
    assert isinstance(found["signatures"], list)


@given(st.binary(max_size=300))
def test_garbage_is_malformed_or_unsigned(data: bytes) -> None:
    assert evaluate_or_malformed(part10(data)) in {"MALFORMED", "NO-SIGNATURE"}


@pytest.mark.parametrize("undefined", [False, True])
def test_ten_thousand_nested_items_are_malformed(undefined: bool) -> None:
    with pytest.raises(MalformedError, match="nested"):
        verifier().evaluate(part10(nested(10_000, undefined=undefined)))


def test_a_length_of_4_gib_in_a_small_file_is_malformed() -> None:
    with pytest.raises(MalformedError):
        verifier().evaluate(part10(element(0x7FE00010, b"OW", bytes(1000), length=0xFFFFFFF0)))


@pytest.mark.parametrize("length", [0, 2, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("tag", [0x00080018, 0x00100010, 0x04000005, 0x04000015, 0x04000020, 0x04000100, 0x04000105])
def test_wrong_lengths_never_pass(tag: int, length: int) -> None:
    raw = signed()
    changed = bytearray(raw)
    place = raw.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
    changed[place + 6 : place + 8] = struct.pack("<H", length)
    assert bytes(changed) == raw or evaluate_or_malformed(bytes(changed)) in {"TOTAL-FAILED", "INDETERMINATE", "MALFORMED"}


def test_malformed_input_is_told_with_its_offset() -> None:
    raw = part10(element(0x00080018, b"UI", b"1.2.3\0") + element(0x7FE00010, b"OW", bytes(4), length=0xFFFFFFF0))
    with pytest.raises(MalformedError) as caught:
        verifier().evaluate(raw)
    assert caught.value.offset == raw.index(b"\xe0\x7f\x10\0")


def hostile_files() -> dict[str, bytes]:
    """Files of a few MB that want far more memory than they have bytes."""
    size = 4 << 20
    empty = element(0x00100010, b"PN")
    pair = sequence(0x4FFE0001, item(b"")), sequence(0xFFFAFFFA, item(b""))
    rising = b"".join(element(0x00110000 + number, b"LO") for number in range(0x1000, 0x1000 + (size >> 3)))
    wanted = struct.pack("<HH", 0x10, 0x10)
    parameters = (
        element(0x04000005, b"US", b"\0\0")
        + element(0x04000010, b"UI", b"1.2.840.10008.1.2.1\0")
        + element(0x04000015, b"CS", b"SHA256")
    )
    mine = signed_bytes(part10(element(0x00080018, b"UI", b"1.2.3\0") + empty), profile="base")
    dataset = open_dataset(mine)
    start = dataset.start
    return {
        "repeated": mine[:start] + element(0x00080018, b"UI", b"1.2.3\0") + empty * (size >> 3) + mine[mine.index(b"\xfe\x4f") :],
        "alternating": mine[:start] + (empty + element(0x00100020, b"LO")) * (size >> 4) + mine[mine.index(b"\xfe\x4f") :],
        "rising": mine[:start] + rising + mine[mine.index(b"\xfe\x4f") :],
        "many signatures": part10(empty + pair[0] + sequence(0xFFFAFFFA, *([item(b"")] * (size >> 3)))),
        "many parameters": part10(empty + sequence(0x4FFE0001, *([item(b"")] * (size >> 3))) + pair[1]),
        "items that sign": part10(sequence(0x00081032, *([item(pair[0] + pair[1])] * (size // 48)))),
        "long list": part10(
            empty
            + sequence(0x4FFE0001, item(parameters + element(0x04000020, b"UN", wanted * (size >> 2))))
            + sequence(0xFFFAFFFA, item(element(0x04000005, b"US", b"\0\0")))
        ),
        "fragments": mine[:start] + encapsulated(*([b""] * (size >> 3)), tag=0x00100010) + mine[mine.index(b"\xfe\x4f") :],
        "certificate": part10(empty + pair[0] + sequence(0xFFFAFFFA, item(element(0x04000115, b"OB", b"\x30\x84" + bytes(size))))),
        "nested": part10(nested(size // 40, undefined=True)),
        "4 GiB": part10(element(0x7FE00010, b"OW", bytes(1000), length=0xFFFFFFF0)),
    }


def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    """In a process of its own: at no time more than the file's size and 64 MB above what a good file took."""
    (tmp_path / "0 good").write_bytes(signed())
    for name, raw in hostile_files().items():
        (tmp_path / name).write_bytes(raw)
    root, issuing = tmp_path / "root.pem", tmp_path / "issuing.pem"
    root.write_bytes(pem_of(pki().ca.root))
    issuing.write_bytes(pem_of(pki().ca.issuing))
    program = """
import resource, sys
from pathlib import Path
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import MalformedError
from securepacs.signatures import Verifier
from securepacs.trust import TrustPolicy
folder = Path(sys.argv[1])
verifier = Verifier(TrustPolicy.from_files([folder / "root.pem"], intermediates=[folder / "issuing.pem"]))
for file in sorted(folder.iterdir()):
    if file.suffix == ".pem":
        continue
    try:
        verdict = verifier.evaluate(file).verdict
    except MalformedError:
        verdict = "MALFORMED"
    print(file.name, verdict, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (_, first, base), *others = (line.split("|") for line in done.stdout.splitlines())
    assert first == "TOTAL-PASSED"
    assert len(others) == len(hostile_files())
    for name, verdict, most in others:
        assert verdict in {"MALFORMED", "TOTAL-FAILED", "INDETERMINATE"}, (name, verdict)
        assert int(most) - int(base) < ((tmp_path / name).stat().st_size >> 10) + 64 * 1024, name


DEFLATED = "1.2.840.10008.1.2.1.99"
BOMB = 128 << 20  # bytes inflated, of some 128 KiB


def bombs() -> dict[str, bytes]:
    """Deflated files that would take twice the memory they may take, were they inflated there."""
    image = element(0x00080018, b"UI", b"1.2.3\0") + element(0x7FE00010, b"OW", bytes(BOMB))
    unsigned = part10(deflate(image), DEFLATED)
    return {
        "zeros": part10(deflate(bytes(BOMB)), DEFLATED),
        "image": unsigned,
        "signed image": signed_bytes(unsigned, profile="base"),
        "many elements": part10(deflate(element(0x00100020, b"LO", bytes(120)) * (BOMB >> 7)), DEFLATED),
        "cut off": part10(deflate(image)[:-1000], DEFLATED),
    }


def test_deflate_bombs_take_little_memory(tmp_path: Path) -> None:
    """Verified and signed in a process of its own; what stands in a file without a name is the system's to take back."""
    files = {}
    for name, raw in bombs().items():
        files[name] = tmp_path / name
        files[name].write_bytes(raw)
    program = """
import sys, threading
from pathlib import Path
from securepacs.errors import MalformedError
from securepacs.signatures import Verifier
from securepacs.signatures.batch import sign_files
from securepacs.signatures.sign import make_options
from securepacs.tokens.software import load_pem
from securepacs.trust import TrustPolicy
peak, stop = 0, threading.Event()
def taken():
    status = Path("/proc/self/status").read_text()
    return sum(int(status.split(name)[1].split()[0]) for name in ("RssAnon:", "RssShmem:"))
def watch():
    global peak
    while not stop.wait(0.002):
        peak = max(peak, taken())
threading.Thread(target=watch, daemon=True).start()
root, issuing, key, certificate, *files = map(Path, sys.argv[1:])
verifier = Verifier(TrustPolicy.from_files([root], intermediates=[issuing]))
credential = load_pem(key, certificate)
for file in files:
    peak = base = taken()
    try:
        verdict = verifier.evaluate(file).verdict
    except MalformedError:
        verdict = "MALFORMED"
    target = file.with_suffix(".signed")
    (done,) = sign_files([(file, target)], credential, lambda: make_options(profile="base"))
    print(file.name, verdict, done.error is None, peak - base, sep="|")
"""
    key, certificate = pki().write_pem(signer())
    root, issuing = tmp_path / "root.pem", tmp_path / "issuing.pem"
    root.write_bytes(pem_of(pki().ca.root))
    issuing.write_bytes(pem_of(pki().ca.issuing))
    arguments = [str(path) for path in (root, issuing, key, certificate, *files.values())]
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=170, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = {
        name: (verdict, made, int(most)) for name, verdict, made, most in (line.split("|") for line in done.stdout.splitlines())
    }
    assert {name: outcome[:2] for name, outcome in outcomes.items()} == {
        "zeros": ("MALFORMED", "False"),
        "image": ("NO-SIGNATURE", "True"),
        "signed image": ("TOTAL-PASSED", "True"),
        "many elements": ("NO-SIGNATURE", "False"),
        "cut off": ("MALFORMED", "False"),
    }
    for name, (_, _, most) in outcomes.items():
        assert most < (files[name].stat().st_size >> 10) + 64 * 1024, name
