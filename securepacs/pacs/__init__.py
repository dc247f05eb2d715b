"""Clients of an archive: what securepacs asks of a PACS, and the DIMSE client that asks it (extra `gateway`).

`PacsConnector` is the seam, `DimseConnector` the built-in; the latter is imported on first use because it needs pynetdicom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from securepacs.pacs.connector import PacsConnector, QueryLevel

if TYPE_CHECKING:
    from securepacs.pacs.dimse import DimseConnector

__all__ = ["DimseConnector", "PacsConnector", "QueryLevel"]


def __getattr__(name: str) -> Any:
    if name == "DimseConnector":
        from securepacs.pacs.dimse import DimseConnector

        return DimseConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
