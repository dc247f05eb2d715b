"""Servers of other hands for the services that archives beside DCMTK and Orthanc rarely have, each on a free port of loopback."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    BasicFilmSession,
    BasicGrayscalePrintManagementMeta,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
    Verification,
)

from tests.support.net import free_port, wait_until
from tests.support.programs import dcmtk

CLASSES = (
    Verification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    BasicGrayscalePrintManagementMeta,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepWatch,
    UnifiedProcedureStepEvent,
)


@dataclass
class ServiceProvider:
    """A pynetdicom server; `seen` holds (service, SOP Class UID, data set) of every request that reached it."""

    port: int
    seen: list[tuple[str, str, Dataset | None]] = field(default_factory=list)

    def services(self) -> list[str]:
        return [name for name, _, _ in self.seen]


@contextmanager
def service_provider(ae_title: str = "MANAGER") -> Iterator[ServiceProvider]:
    """Run a server of MPPS, Storage Commitment, print and UPS that accepts everything and reports what it committed to."""
    provider = ServiceProvider(0)

    def note(name: str, uid: str) -> Any:
        def handle(event: evt.Event) -> Any:
            data = {"N-CREATE": "attribute_list", "N-SET": "modification_list", "N-ACTION": "action_information"}.get(name)
            request = event.request
            sop_class = getattr(request, "AffectedSOPClassUID", None) or getattr(request, "RequestedSOPClassUID", "")
            dataset = getattr(event, data) if data and _has_data(event) else None
            provider.seen.append((name, str(sop_class), dataset))
            if name == "N-ACTION" and sop_class == StorageCommitmentPushModel and dataset is not None:
                threading.Thread(target=_commit, args=(event.assoc, dataset), daemon=True).start()
            if name == "N-CREATE" and sop_class == BasicFilmSession and dataset is not None:
                dataset.AffectedSOPInstanceUID = None
                del dataset.AffectedSOPInstanceUID
            return 0x0000 if name in ("N-DELETE", "C-ECHO") else (0x0000, dataset)

        return handle

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        provider.seen.append(("C-FIND", str(event.request.AffectedSOPClassUID), event.identifier))
        answer = Dataset()
        answer.SOPInstanceUID, answer.ProcedureStepState = "1.2.3.4.5", "SCHEDULED"
        yield 0xFF00, answer

    entity = AE(ae_title)
    for uid in CLASSES:
        entity.add_supported_context(uid)
    handlers: list[Any] = [
        (evt.EVT_C_ECHO, note("C-ECHO", "")),
        (evt.EVT_C_FIND, find),
        (evt.EVT_N_CREATE, note("N-CREATE", "")),
        (evt.EVT_N_SET, note("N-SET", "")),
        (evt.EVT_N_GET, note("N-GET", "")),
        (evt.EVT_N_ACTION, note("N-ACTION", "")),
        (evt.EVT_N_DELETE, note("N-DELETE", "")),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    provider.port = int(server.server_address[1])
    try:
        yield provider
    finally:
        server.shutdown()


def _has_data(event: evt.Event) -> bool:
    request = event.request
    names = ("AttributeList", "ModificationList", "ActionInformation")
    return any(getattr(request, name, None) is not None for name in names)


def _commit(association: Any, asked: Dataset) -> None:
    report = Dataset()
    report.TransactionUID, report.ReferencedSOPSequence = asked.TransactionUID, asked.ReferencedSOPSequence
    association.send_n_event_report(report, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")


@contextmanager
def worklist(folder: Path, ae_title: str = "WORKLIST") -> Iterator[int]:
    """Run DCMTK's wlmscpfs with one scheduled procedure step of the patient PAT-WL; yield its port."""
    program = dcmtk("wlmscpfs")
    place = folder / ae_title
    place.mkdir(parents=True)
    (place / "lockfile").touch()
    step = Dataset()
    step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = (
        "CT1",
        "20260301",
        "0800",
    )
    step.Modality, step.ScheduledPerformingPhysicianName = "CT", "KIM^A"
    step.ScheduledProcedureStepDescription, step.ScheduledProcedureStepID = "Head", "S1"
    entry = Dataset()
    entry.PatientName, entry.PatientID, entry.AccessionNumber = "Worklist^Patient", "PAT-WL", "ACC1"
    entry.PatientBirthDate, entry.PatientSex = "19700101", "O"
    entry.StudyInstanceUID, entry.RequestedProcedureID = "1.2.826.0.1.3680043.10.997.9", "R1"
    entry.RequestedProcedureDescription = "CT Head"
    entry.ScheduledProcedureStepSequence = Sequence([step])
    entry.ensure_file_meta()
    entry.file_meta.MediaStorageSOPClassUID, entry.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.276.0.7230010.3.1.0.1",
        generate_uid(),
    )
    entry.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    entry.save_as(place / "one.wl", enforce_file_format=True)
    port = free_port()
    with _running([program, "-s", "-dfr", "-dfp", str(folder), str(port)], folder / "wlmscpfs.log", folder, port):
        yield port


_PRINTER = """[[GENERAL]]
[PRINT]
Directory = {folder}
DetailedLog = false
[DATABASE]
Directory = {folder}
[[COMMUNICATION]]
[{title}]
Aetitle = {title}
Description = a printer
Hostname = localhost
Port = {port}
Type = LOCALPRINTER
DisplayFormat=1,1\\2,2
FilmDestination = MAGAZINE
FilmSizeID = 8INX10IN\\14INX17IN
ImplicitOnly = false
MagnificationType = REPLICATE\\BILINEAR\\CUBIC\\NONE
MaxPDU = 32768
MediumType = PAPER\\CLEAR FILM\\BLUE FILM
Supports12Bit = true
SupportsPresentationLUT = true
"""


@contextmanager
def printer(folder: Path, ae_title: str = "PRINTER") -> Iterator[int]:
    """Run DCMTK's dcmprscp; it writes what it prints as stored print and hardcopy objects into `folder`. Yield its port."""
    program = dcmtk("dcmprscp")
    folder.mkdir(parents=True)
    port = free_port()
    configuration = folder / "printer.cfg"
    configuration.write_text(_PRINTER.format(folder=folder, title=ae_title, port=port))
    with _running([program, "-v", "-c", str(configuration), "-p", ae_title], folder / "dcmprscp.log", folder, port):
        yield port


@contextmanager
def _running(command: list[str], log: Path, folder: Path, port: int) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), what=command[0])
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    return any(int(line.split()[1].rpartition(":")[2], 16) == port for line in _sockets() if line.split()[3] == "0A")


def _sockets() -> list[str]:
    """Look instead of connecting: a server that takes one association at a time would take the probe for it."""
    lines = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines += Path(name).read_text().splitlines()[1:]
    return lines
