"""Studies fetched by C-MOVE: from Orthanc, and from archives that misbehave."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelMove,
)

from securepacs.errors import ProtocolError, SecurePacsError, Unavailable, UsageError
from securepacs.pacs import DimseConnector, MoveConnector
from tests.support.archives import orthanc
from tests.support.net import free_port
from tests.support.samples import new_instance

STUDY = "1.2.826.0.1.3680043.10.999.1"


@contextmanager
def moving_archive(port: int, *instances: Dataset, as_title: str = "ARCHIVE") -> Iterator[int]:
    """Run an archive that answers every C-MOVE by sending `instances` to `port`, as the AE `as_title`."""

    def move(event: evt.Event) -> Iterator[Any]:
        yield "127.0.0.1", port, {"ae_title": "SECUREPACS"}
        yield len(instances)
        for instance in instances:
            yield 0xFF00, instance

    ae = AE(as_title)
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
    ae.add_requested_context(CTImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_MOVE, move)])
    assert server is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        ae.shutdown()


def instance(tmp_path: Path, number: int = 1, study: str = STUDY) -> Dataset:
    path = tmp_path / f"source{number}.dcm"
    path.write_bytes(new_instance("CT_small.dcm", number, study=study))
    return dcmread(path)


def connect(port: int, listen_port: int) -> MoveConnector:
    return MoveConnector("127.0.0.1", port, called_ae_title="ARCHIVE", listen_host="127.0.0.1", listen_port=listen_port, timeout=10)


@pytest.mark.interop
def test_orthanc_moves_a_study_to_us(tmp_path: Path) -> None:
    port = free_port()
    files = [tmp_path / f"{number}.dcm" for number in (1, 2)]
    for number, path in enumerate(files, 1):
        path.write_bytes(new_instance("CT_small.dcm", number, study=STUDY))
    with orthanc(tmp_path / "archive", modalities={"SECUREPACS": ("127.0.0.1", port)}) as archive:
        DimseConnector("127.0.0.1", archive.port, called_ae_title=archive.ae_title).store(files)
        pacs = MoveConnector(
            "127.0.0.1", archive.port, called_ae_title=archive.ae_title, listen_host="127.0.0.1", listen_port=port
        )  # fmt: skip
        got = pacs.retrieve(STUDY, tmp_path / "out")
        assert {dcmread(path).SOPInstanceUID for path in got} == {dcmread(path).SOPInstanceUID for path in files}
        assert pacs.retrieve(STUDY, tmp_path / "out", sop_classes=[CTImageStorage]) == got  # the port is free again


def test_an_archive_moves_what_was_asked_for(tmp_path: Path) -> None:
    port = free_port()
    with moving_archive(port, instance(tmp_path)) as archive:
        (got,) = connect(archive, port).retrieve(STUDY, tmp_path / "out")
    assert got.name == f"{STUDY}.1.1.dcm"


def test_an_instance_of_another_study_is_refused(tmp_path: Path) -> None:
    port = free_port()
    other = instance(tmp_path, study="1.2.826.0.1.3680043.10.999.2")
    refusal = pytest.raises(ProtocolError, match="not what it says or what was asked for")
    with moving_archive(port, other) as archive, refusal:
        connect(archive, port).retrieve(STUDY, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_others_than_the_archive_cannot_store(tmp_path: Path) -> None:
    port = free_port()
    with moving_archive(port, instance(tmp_path), as_title="STRANGER") as archive, pytest.raises(SecurePacsError):
        connect(archive, port).retrieve(STUDY, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on port {port}"):
            connect(free_port(), port).retrieve(STUDY, tmp_path / "out")


def test_an_archive_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        connect(free_port(), free_port()).retrieve(STUDY, tmp_path / "out")
