"""The gateway in front of Orthanc and of pynetdicom's archive: byte equality, query, retrieve, for devices and persons."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from securepacs.codes import BEGIN_TRANSFERRING_DICOM_INSTANCES, DICOM_INSTANCES_TRANSFERRED, QUERY
from securepacs.dicom import read_part10
from securepacs.pki import CertificateProfile
from tests.support.archives import Archive, orthanc, qrscp
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import wait_until
from tests.support.programs import dcmtk
from tests.support.samples import new_instance

pytestmark = pytest.mark.interop

PERSON = CertificateProfile.RADIOLOGIST


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[int, list[Dataset]]]:
    """A destination for C-MOVE, inside, where the archive can reach it."""
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    entity = AE("RECEIVER")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    yield int(server.server_address[1]), received
    server.shutdown()


@pytest.fixture(scope="module", params=["orthanc", "qrscp"])
def archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, receiver: tuple[int, list[Dataset]]
) -> Iterator[Archive]:
    folder, known = tmp_path_factory.mktemp(request.param), {"RECEIVER": ("127.0.0.1", receiver[0])}
    running = orthanc(folder, modalities=known) if request.param == "orthanc" else qrscp(folder, destinations=known)
    with running as found:
        yield found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, archive: Archive) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, {archive.ae_title: ("127.0.0.1", archive.port)}) as running:
        yield running


def store(gateway: Gateway, archive: Archive, folder: Path, study: str, count: int = 3) -> list[Path]:
    """Store CT instances as the modality, with DCMTK."""
    files = []
    for number in range(1, count + 1):
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(new_instance("CT_small.dcm", number, study=study))
    tls = gateway.dcmtk_options("ct1")
    done = subprocess.run(
        [dcmtk("storescu"), *tls, "-aet", "CT1", "-aec", archive.ae_title, "127.0.0.1", str(gateway.port), *map(str, files)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return files


def test_what_orthanc_keeps_is_what_was_sent(gateway: Gateway, archive: Archive, tmp_path: Path) -> None:
    if archive.name != "orthanc":
        pytest.skip("qrscp encodes anew what it stores")
    study = "1.2.826.0.1.3680043.10.998.1"
    files = store(gateway, archive, tmp_path, study)
    received: dict[str, bytes] = {}
    entity = AE("DIRECT")
    entity.add_supported_context(CTImageStorage)

    def keep(event: evt.Event) -> int:
        received[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        return 0x0000

    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:  # the yardstick: the bytes that the same sender sends without a gateway
        port = str(server.server_address[1])
        command = [dcmtk("storescu"), "-aet", "CT1", "-aec", "DIRECT", "127.0.0.1", port, *map(str, files)]
        subprocess.run(command, check=True, timeout=60, capture_output=True)
    finally:
        server.shutdown()
    instances = json.loads(get(f"{archive.http_url}/instances?expand"))
    compared = 0
    for instance in instances:
        uid = instance["MainDicomTags"]["SOPInstanceUID"]
        if uid in received:
            raw = get(f"{archive.http_url}/instances/{instance['ID']}/file")
            assert raw[read_part10(raw).dataset_offset :] == received[uid]
            compared += 1
    assert compared == len(files)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_a_person_finds_and_gets_a_study(gateway: Gateway, archive: Archive, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.998.2"
    files = store(gateway, archive, tmp_path, study)
    got: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        got.append(event.dataset)
        return 0x0000

    association = gateway.associate(
        "Dr Kim",
        calling="WS1",
        called=archive.ae_title,
        profile=PERSON,
        contexts=(
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelGet,
            CTImageStorage,
        ),
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    assert association.is_established
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientID = "STUDY", study, ""
    answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    statuses = [status.Status for status, _ in answers]
    assert statuses[-1] == 0x0000
    assert set(statuses[:-1]) == {0xFF00}  # qrscp answers once for each instance of the study
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
    statuses = [status.Status for status, _ in association.send_c_get(wanted, StudyRootQueryRetrieveInformationModelGet)]
    association.release()
    assert statuses[-1] == 0x0000
    originals = {str(dcmread(file).SOPInstanceUID): dcmread(file).PixelData for file in files}
    assert {str(one.SOPInstanceUID): one.PixelData for one in got} == originals
    wait_until(lambda: bool(gateway.records(event=QUERY.csd_code)), what="the record of the query")
    assert transferred(gateway, study)


def transferred(gateway: Gateway, study: str) -> bool:
    codes = (BEGIN_TRANSFERRING_DICOM_INSTANCES.csd_code, DICOM_INSTANCES_TRANSFERRED.csd_code)
    return all(
        any(
            what.ParticipantObjectID == study
            for message in gateway.records(event=code)
            for what in message.ParticipantObjectIdentification
        )
        for code in codes
    )


def test_a_person_moves_a_study_to_a_known_destination(
    gateway: Gateway, archive: Archive, receiver: tuple[int, list[Dataset]], tmp_path: Path
) -> None:
    study = "1.2.826.0.1.3680043.10.998.3"
    store(gateway, archive, tmp_path, study)
    association = gateway.associate(
        "Dr Kim", calling="WS1", called=archive.ae_title, profile=PERSON, contexts=(StudyRootQueryRetrieveInformationModelMove,)
    )
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
    answers = association.send_c_move(wanted, "RECEIVER", StudyRootQueryRetrieveInformationModelMove)
    statuses = [status.Status for status, _ in answers]
    association.release()
    assert statuses[-1] == 0x0000
    assert {UID(one.StudyInstanceUID) for one in receiver[1]} >= {UID(study)}


def test_a_person_finds_with_dcmtk(gateway: Gateway, archive: Archive, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.998.4"
    store(gateway, archive, tmp_path, study, count=1)
    tls = gateway.dcmtk_options("Dr Kim", PERSON)
    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}", "-k", "PatientName"]
    done = subprocess.run(
        [dcmtk("findscu"), "-v", *tls, "-aet", "WS1", "-aec", archive.ae_title, *keys, "127.0.0.1", str(gateway.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert study in done.stdout + done.stderr


def test_a_modality_gets_no_answer_to_a_query(gateway: Gateway, archive: Archive) -> None:
    association = gateway.associate(
        "ct1", calling="CT1", called=archive.ae_title, contexts=(PatientRootQueryRetrieveInformationModelFind, CTImageStorage)
    )
    if association.is_established:
        query = Dataset()
        query.QueryRetrieveLevel, query.PatientID = "PATIENT", "*"
        try:
            answers = list(association.send_c_find(query, PatientRootQueryRetrieveInformationModelFind))
        except ValueError:  # the context was not accepted
            answers = []
        assert not [identifier for _, identifier in answers if identifier is not None]
        association.release()
