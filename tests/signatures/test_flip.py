"""Every byte of a signed file changed, one at a time: the change is noticed, or the report had said that the byte is open.

What may come of a changed byte: MalformedError; another verdict than TOTAL-PASSED; the warning `trimmed-values`; or TOTAL-PASSED
where every signature of the changed file lists the byte in its uncovered_ranges. Nothing else, and never another exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache

import pytest
from cryptography.hazmat.primitives.serialization import Encoding as CertificateEncoding

from securepacs.dicom.part10 import deflate, open_dataset, read_part10
from securepacs.errors import MalformedError
from securepacs.pki import CertificateProfile
from securepacs.pki.tsa import TimestampAuthority
from securepacs.signatures import Verifier
from securepacs.signatures.report import SignatureResult
from securepacs.trust.timestamp import build_request, read_response
from tests.support.encoded import (
    EXPLICIT_BE,
    IMPLICIT_LE,
    RLE,
    element,
    encapsulated,
    implicit,
    item,
    part10,
    sequence,
)
from tests.support.signing import forge, pki, policy, signed_bytes, signer

NOW = datetime.now(UTC).replace(microsecond=0)
DEFLATED = "1.2.840.10008.1.2.1.99"
NESTED = (
    element(0x00080005, b"CS", b"ISO_IR 100")
    + element(0x00080018, b"UI", b"1.2.3\0")
    + sequence(
        0x00081032,
        item(element(0x00080000, b"UL", b"\x0a\0\0\0") + element(0x00080104, b"LO", b"Meaning ")),
        item(sequence(0x00400275, item(element(0x00400007, b"LO", b"Deep")), undefined=True), undefined=True),
        undefined=True,
    )
    + sequence(0x00081140, item(element(0x00081155, b"UI", b"1.2\0"), undefined=True), item(b""))
    + sequence(0x00081199)
    + element(0x00090010, b"LO", b"ACME")
    + element(0x00091001, b"DS", b"1.5 ")
    + element(0x00091002, b"OB", b"\0\1\2\0")
    + element(0x00091003, b"UN", b"??")
    + element(0x00100010, b"PN", b"Test^P  ")
    + element(0x00100020, b"LO", b"42")
    + element(0x00280010, b"US", b"\2\0")
)
NATIVE_PIXELS = element(0x7FE00010, b"OW", bytes(range(16))) + element(0xFFFCFFFC, b"OB", b"\0\0")
TAGS = [
    "SOPInstanceUID", "ProcedureCodeSequence", "ReferencedImageSequence", "00081199",
    "00090010", "00091001", "00091002", "PatientName", "Rows", "PixelData",
]  # fmt: skip
BIG = bytes.fromhex(
    "0008 0018 5549 0006 312e322e3300"  # SOP Instance UID
    "0008 1032 5351 0000 00000012 fffee000 0000000a 0008 0104 4c4f 0002 4142"
    "0028 0010 5553 0002 0002"
    "7fe0 0010 4f57 0000 00000004 01020304"
)
IMPLICIT = (
    implicit(0x00080018, b"1.2.3\0")
    + implicit(0x00081032, implicit(0xFFFEE000, implicit(0x00080104, b"Meaning ")))
    + implicit(0x00280010, b"\2\0")
    + implicit(0x00280103, b"\1\0")
    + implicit(0x00280106, b"\1\0")
    + implicit(0x7FE00010, b"\1\2\3\4")
)


@cache
def stamper() -> Callable[[bytes], bytes]:
    authority = TimestampAuthority(pki().credential(CertificateProfile.TIMESTAMP_AUTHORITY, "Flip TSA", key_kind="p256"))

    def stamp(value: bytes) -> bytes:
        request = build_request(value)
        return read_response(authority.respond(request, at=NOW), request)

    return stamp


def deflated(raw: bytes) -> bytes:
    head = read_part10(raw)
    return part10(deflate(raw[head.dataset_offset :]), DEFLATED)


VARIANTS: dict[str, Callable[[], bytes]] = {
    "nested, private, padded": lambda: signed_bytes(part10(NESTED + NATIVE_PIXELS), profile="base", tags=TAGS, purpose=5),
    "encapsulated": lambda: signed_bytes(part10(NESTED + encapsulated(b"", b"\1\2\3\4", b"\5\6"), RLE), profile="base", tags=TAGS),
    "big endian": lambda: signed_bytes(part10(BIG, EXPLICIT_BE), profile="base", purpose=1),
    "implicit": lambda: signed_bytes(part10(IMPLICIT, IMPLICIT_LE), profile="base", purpose=1),
    "deflated": lambda: deflated(signed_bytes(part10(NESTED + NATIVE_PIXELS), profile="base")),
    "time-stamped": lambda: signed_bytes(part10(NESTED), profile="base", tags=TAGS[:4], timestamp=stamper()),
    "two signatures": lambda: signed_bytes(signed_bytes(part10(NESTED), profile="base", tags=TAGS[:2]), profile="base"),
    "in an item": lambda: signed_bytes(part10(NESTED), item="00081032[0]"),
    "elliptic": lambda: signed_bytes(part10(NESTED), signer("Dr. Curve", "p256"), profile="none", tags=TAGS[:4]),
    "odd tags": lambda: forge(part10(NESTED), tags=(0x00080018, 0x00080018, 0x00100010, 0x00100030), algorithm="MD5"),
}  # fmt: skip
FULL_PATTERNS = [*(1 << bit for bit in range(8)), 0xFF, 0x7F, 0x15, 0x17, 0x30, 0x2A]
ROTATING = (0x01, 0x80, 0xFF)
# a changed byte of a time stamp costs the validation of a new chain: the quick run leaves bytes out, the full one takes few values
DEAR = "time-stamped"
STEP = 17
SLICES = 5  # so that the values of one file can be shared by several workers


@cache
def verifier() -> Verifier:
    return Verifier(policy(), allow_weak_hash=True)


@cache
def variant(name: str) -> bytes:
    return VARIANTS[name]()


def silent(raw: bytes, patterns: tuple[int, ...], step: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (position, pattern) of every change that came through unannounced; the patterns take turns."""
    before, first = open_dataset(raw), verifier().evaluate(raw)
    is_deflated = before.start == 0
    for number, position in enumerate(range(0, len(raw), step)):
        pattern = patterns[number % len(patterns)]
        changed = bytearray(raw)
        changed[position] ^= pattern
        data = bytes(changed)
        try:
            report = verifier().evaluate(data)
        except MalformedError:
            continue
        if report.verdict != "TOTAL-PASSED" or any("trimmed-values" in result.warnings for result in report.signatures):
            continue
        if not is_deflated:
            noticed = all(is_open(result, position, position + 1) for result in report.signatures)
        else:  # a change of the packed form; what matters is where the data sets differ
            start, stop, after_stop = differing(before.view, open_dataset(data).view)
            noticed = all(is_open(result, start, stop) for result in first.signatures)
            noticed &= all(is_open(result, start, after_stop) for result in report.signatures)
        if not noticed:
            yield position, pattern


def is_open(result: SignatureResult, start: int, stop: int) -> bool:
    return start >= stop or any(low <= start and stop <= high for low, high in result.uncovered_ranges)


def differing(before: memoryview, after: memoryview) -> tuple[int, int, int]:
    """The smallest stretch outside of which both are the same: its start, its end before, its end after."""
    least = min(len(before), len(after))
    start = next((place for place in range(least) if before[place] != after[place]), least)
    tail = next((place for place in range(least - start) if before[-1 - place] != after[-1 - place]), least - start)
    return start, len(before) - tail, len(after) - tail


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("patterns", [ROTATING, *(pytest.param((one,), marks=pytest.mark.full) for one in FULL_PATTERNS)])
def test_every_changed_byte_is_noticed_or_open(name: str, patterns: tuple[int, ...]) -> None:
    raw = variant(name)
    for result in verifier().evaluate(raw).signatures:
        assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    step = STEP if name == DEAR and patterns is ROTATING else 1
    assert list(silent(raw, patterns, step)) == []


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(1, SLICES + 1))
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != DEAR])
def test_every_value_of_every_byte_is_noticed_or_open(name: str, first: int) -> None:
    assert [found for pattern in range(first, 256, SLICES) for found in silent(variant(name), (pattern,))] == []


def test_what_is_open_is_named() -> None:
    raw = variant("nested, private, padded")
    (result,) = verifier().evaluate(raw).signatures
    certificate = signer().certificate.public_bytes(CertificateEncoding.DER)

    def found_open(value: bytes) -> bool:
        return is_open(result, raw.index(value), raw.index(value) + 1)

    assert found_open(bytes(128))  # preamble
    assert found_open(b"1.2.840.10008.1.2.1\0")
    assert found_open(b"ISO_IR 100")
    assert found_open(b"??")
    assert found_open(b"\xfe\x4f\x01\0SQ")  # framing of the MAC Parameters Sequence
    assert found_open(b"\xfa\xff\xfa\xffSQ")
    for value in (b"Deep", b"ACME", b"SHA256", certificate, b"X509_1993_SIG "):
        assert not found_open(value)


def test_the_time_stamp_is_open() -> None:
    raw = variant("time-stamped")
    (result,) = verifier().evaluate(raw).signatures
    assert result.timestamp == NOW
    place = raw.index(b"CMS_TSP ")
    assert any(start <= place and place + 500 < end for start, end in result.uncovered_ranges)
