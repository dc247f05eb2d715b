"""The seam `PacsConnector`: what securepacs asks of an archive, whatever protocol carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class QueryLevel(StrEnum):
    """Query/Retrieve Level (0008,0052), PS3.4 C.3."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class PacsConnector(Protocol):
    """A client of one archive. Synchronous; every method opens and closes its own connection and may be called from any thread.

    All methods raise Unavailable when the archive does not answer, AccessDenied when it refuses, ProtocolError otherwise.
    """

    def echo(self) -> None:
        """Return when the archive answered (C-ECHO)."""
        ...

    def find(self, level: QueryLevel, keys: Mapping[str, str]) -> list[Dataset]:
        """Return the matches of a query; `keys` are keywords with a value to match, or empty for what should be returned."""
        ...

    def retrieve(self, study_instance_uid: str, folder: Path, *, sop_classes: Iterable[str] = ()) -> list[Path]:
        """Fetch all instances of a study into `folder`, one file per instance, data sets byte for byte as received.

        `sop_classes` names the SOP Classes of the study when they are known: each transfer syntax is then asked for separately,
        so that an archive that keeps what it received need not convert anything.
        """
        ...

    def store(self, files: Iterable[Path]) -> tuple[int, ...]:
        """Send files, data sets byte for byte as they stand; return the status of each (0x0000, or a warning 0xBxxx).

        The first failure ends the call; the files before it are stored.
        """
        ...
