"""Values that are legal for their VR and tell nothing (PS3.15 E.1, action D)."""

from __future__ import annotations

from securepacs.dicom.vr import WORD_SIZE

_TEXT = {
    b"AE": b"ANONYMOUS", b"AS": b"000Y", b"CS": b"ANON", b"DA": b"19000101", b"DS": b"0", b"DT": b"19000101000000.000000",
    b"IS": b"0", b"LO": b"ANONYMIZED", b"LT": b"ANONYMIZED", b"PN": b"ANONYMIZED", b"SH": b"ANONYMIZED", b"ST": b"ANONYMIZED",
    b"TM": b"000000.000000", b"UC": b"ANONYMIZED", b"UR": b"urn:anonymized", b"UT": b"ANONYMIZED",
}  # fmt: skip


def dummy(vr: bytes) -> bytes:
    """Return one value of VR `vr`, little endian and without padding: fixed text, else one word of zeros."""
    return _TEXT.get(vr) or bytes(WORD_SIZE.get(vr, 2))
