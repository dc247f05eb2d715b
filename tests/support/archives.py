"""Archives for tests: the product's embedded ones, skipped with the reason where a program is not installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from securepacs_proxy import archives
from securepacs_proxy.archives import Archive
from tests.support.programs import dcmtk, require

__all__ = ["Archive", "orthanc", "qrscp", "storescp_bit_preserving"]

qrscp = archives.qrscp


@contextmanager
def orthanc(
    folder: Path, *, ae_title: str = "ORTHANC", modalities: Mapping[str, tuple[str, int]] | None = None
) -> Iterator[Archive]:
    """Run Orthanc, or skip."""
    require(str(archives.ORTHANC))
    with archives.orthanc(folder, ae_title=ae_title, modalities=modalities) as archive:
        yield archive


@contextmanager
def storescp_bit_preserving(folder: Path, *, ae_title: str = "STORESCP") -> Iterator[Archive]:
    """Run DCMTK's storescp +B, or skip."""
    dcmtk("storescp")
    with archives.storescp(folder, ae_title=ae_title) as archive:
        yield archive
