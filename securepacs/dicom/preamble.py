"""The 128 bytes before "DICM" (PS3.10 7.1): nothing in the standard reads them, so malware can live there (CVE-2019-11687).

A file may carry zeros, or the header of a TIFF file (dual-personality images). Everything else is refused when a file is protected,
because encryption would carry it past every scanner, and reported when one is opened.
"""

from __future__ import annotations

from securepacs.dicom.part10 import PREAMBLE_SIZE
from securepacs.errors import MalformedError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0 and BigTIFF, both byte orders
_EXECUTABLES = (b"MZ", b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")


def suspicion(part10: bytes) -> str:
    """Return "" for a harmless preamble, else `executable-preamble` or `unknown-preamble`."""
    preamble = part10[:PREAMBLE_SIZE]
    if not any(preamble) or preamble.startswith(_TIFF):
        return ""
    return "executable-preamble" if preamble.startswith(_EXECUTABLES) else "unknown-preamble"


def require_harmless(part10: bytes) -> None:
    """Raise MalformedError unless the preamble is zero or a TIFF header."""
    if suspicion(part10):
        raise MalformedError(
            "the preamble holds something that is neither zeros nor a TIFF header",
            offset=0,
            hint="check where the file comes from; a writer's data set is complete without the preamble",
            standard="PS3.10 7.1, CVE-2019-11687",
        )
