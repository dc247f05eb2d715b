"""DICOM security: signatures, media encryption, authorized originals, audit, smart cards and trust.

Rooms are named after the chapters of the standard and are imported on first use, so that `import securepacs` stays cheap:

    from securepacs import signatures, media, audit, tokens, trust

Rules that hold everywhere: refuse is the default, an empty policy refuses, a verification never returns a bare bool,
time is an argument of every pure function, and no secret or patient name appears in an error text.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from securepacs.errors import SecurePacsError

if TYPE_CHECKING:
    from securepacs import (  # noqa: F401  (for type checkers; at run time __getattr__ imports a room on first use)
        audit,
        cms,
        dicom,
        media,
        originals,
        pacs,
        pki,
        policy,
        signatures,
        tokens,
        trust,
    )

__version__ = "0.1.0"
_ROOMS = ("audit", "cms", "dicom", "media", "originals", "pacs", "pki", "policy", "signatures", "tokens", "trust")
__all__ = ["SecurePacsError", "__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"securepacs.{name}")
    raise AttributeError(f"module 'securepacs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
