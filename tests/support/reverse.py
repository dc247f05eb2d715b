"""A gateway that delivers to VIEWER1 in reverse, and the archive that sends there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.archives import Archive, orthanc
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import free_port
from tests.support.pki import make_pki

EGRESS = """
[[egress]]
name = "orthanc.inside"
port = {inner}
addresses = ["127.0.0.0/8"]
ae_titles = ["ORTHANC"]
[[egress.route]]
called_ae_title = "VIEWER1"
reverse = true
roles = ["radiologist"]
"""


@dataclass
class World:
    gateway: Gateway
    archive: Archive
    inner: int


@contextmanager
def reverse_world(folder: Path) -> Iterator[World]:
    """Run Orthanc and a gateway; `inner` is the port on which Orthanc calls out."""
    inner = free_port()
    with (
        orthanc(folder / "orthanc", modalities={"VIEWER1": ("127.0.0.1", inner)}) as archive,
        running_gateway(
            folder / "gateway", {"ORTHANC": ("127.0.0.1", archive.port)}, pki=make_pki(folder), extra=EGRESS.format(inner=inner)
        ) as gateway,
    ):
        yield World(gateway, archive, inner)
