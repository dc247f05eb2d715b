"""OPEN.HTM, the readable page of a disc that has a password: one file, offline, that opens the others in the reader's browser.

It holds nothing of the disc it lies on. Who changes the disc can change the page as well: the page tells whether files fit each
other and who says to have signed them, and says itself that it cannot prove more.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

CIPHERS = frozenset(("aes128-cbc", "aes256-cbc", "aes128-gcm", "aes256-gcm"))  # what browsers have: Chromium lacks AES-192

_SCRIPT, _END = b"<script>", b"</script>"


def page() -> bytes:
    """Return the page; its policy lets the browser run this one script, and load or send nothing."""
    text = files("securepacs.media").joinpath("open.htm").read_bytes()
    script = text.partition(_SCRIPT)[2].partition(_END)[0]
    return text.replace(b"SCRIPT-HASH", b"sha256-" + base64.b64encode(hashlib.sha256(script).digest()), 1)
