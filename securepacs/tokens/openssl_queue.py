"""Keeps what token modules leave in OpenSSL's error queue away from Python's `ssl`.

Many PKCS #11 modules use the same libcrypto as `ssl` and leave errors of theirs in the thread's queue, even on success (SoftHSM:
"no such engine"). `ssl` takes them for its own: loading trusted certificates or a handshake then fails for no visible reason.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def _libcrypto() -> Any:
    """Return the libcrypto that `ssl` uses, found through `_ssl`; None when it has one of its own inside that no module shares."""
    try:
        import _ssl

        library = ctypes.PyDLL(_ssl.__file__)
        return library if library.ERR_set_mark and library.ERR_pop_to_mark else None
    except (ImportError, AttributeError, OSError):
        return None


_library = _libcrypto()


@contextmanager
def shielded() -> Iterator[None]:
    """Drop from this thread's error queue what was added inside the block (ERR_set_mark, ERR_pop_to_mark)."""
    if _library is None:
        yield
        return
    _library.ERR_set_mark()
    try:
        yield
    finally:
        _library.ERR_pop_to_mark()
