"""OPEN.HTM, the readable page of a disc that has a password: one file, offline, that opens the others in the reader's browser.

It holds nothing of the disc it lies on. Who changes the disc can change the page as well: the page tells whether files fit each
other and who says to have signed them, and says itself that it cannot prove more.
"""

from __future__ import annotations

from importlib.resources import files


def page() -> bytes:
    """Return the page."""
    return files("securepacs.media").joinpath("open.htm").read_bytes()
