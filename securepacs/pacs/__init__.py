"""Clients of an archive: what securepacs asks of a PACS, and the DIMSE client that asks it (extra `gateway`).

`PacsConnector` is the seam, `DimseConnector` and `MoveConnector` (C-MOVE) the built-ins, imported on first use because they need
pynetdicom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from securepacs.pacs.connector import PacsConnector, QueryLevel

if TYPE_CHECKING:
    from securepacs.pacs.dimse import DimseConnector
    from securepacs.pacs.move import MoveConnector

__all__ = ["DimseConnector", "MoveConnector", "PacsConnector", "QueryLevel"]


def __getattr__(name: str) -> Any:
    if name == "DimseConnector":
        from securepacs.pacs.dimse import DimseConnector

        return DimseConnector
    if name == "MoveConnector":
        from securepacs.pacs.move import MoveConnector

        return MoveConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
