"""Every DIMSE service through a gateway with two workers, by peers of other hands: permitted once, refused once, on record."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    BasicFilmBox,
    BasicFilmSession,
    BasicGrayscaleImageBox,
    BasicGrayscalePrintManagementMeta,
    CTImageStorage,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    MRImageStorage,
    Printer,
    PrinterInstance,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    Verification,
)

from securepacs import codes
from securepacs.audit.message import AuditMessage, EventActionCode
from securepacs.pki import CertificateProfile
from securepacs.policy.cedar import shipped_texts
from tests.support.archives import Archive, orthanc
from tests.support.gateway import Gateway, running_gateway, text_of
from tests.support.net import wait_until
from tests.support.programs import dcmtk
from tests.support.samples import new_instance
from tests.support.services import ServiceProvider, printer, service_provider, worklist

pytestmark = pytest.mark.interop

RADIOLOGIST = CertificateProfile.RADIOLOGIST
REFUSED = 0x0124
STUDY = "1.2.826.0.1.3680043.10.996.1"
SITE_RULES = """
@id("no-echo-for-peer1") @reason("this peer may not echo")
forbid (principal is Device, action == Action::"C-ECHO", resource) when { principal.user_id == "peer1" };
@id("no-mr-for-peer1") @reason("this peer sends no MR")
forbid (principal is Device, action == Action::"Associate", resource)
when { principal.user_id == "peer1" && context.sop_class_uid == "1.2.840.10008.5.1.4.1.1.4" };
@id("no-report-for-ct2") @reason("this device takes no reports")
forbid (principal is Device, action == Action::"N-EVENT-REPORT", resource) when { principal.user_id == "ct2" };
"""


@dataclass
class World:
    gateway: Gateway
    archive: Archive
    manager: ServiceProvider
    received: list[Dataset]
    prints: Path

    def dcmtk(self, tool: str, who: str, called: str, *arguments: str) -> tuple[int, str]:
        """Run a DCMTK client as the device CT1 or as a person; return its exit code and all it said."""
        person = who not in self.gateway.devices
        tls = self.gateway.dcmtk_options(who, RADIOLOGIST if person else CertificateProfile.MODALITY)
        calling = "WS1" if person else self.gateway.devices[who][0]
        done = subprocess.run(
            [dcmtk(tool), "-v", *tls, "-aet", calling, "-aec", called, "127.0.0.1", str(self.gateway.port), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def associate(self, who: str, called: str, *contexts: str, **options: Any) -> Any:
        person = who not in self.gateway.devices
        association = self.gateway.associate(
            who,
            calling="WS1" if person else self.gateway.devices[who][0],
            called=called,
            contexts=contexts,
            profile=RADIOLOGIST if person else CertificateProfile.MODALITY,
            **options,
        )
        assert association.is_established
        return association

    def wait_for(self, event: codes.CodedValue, matches: Callable[[AuditMessage], bool], what: str) -> AuditMessage:
        found: list[AuditMessage] = []

        def look() -> bool:
            found[:] = [message for message in self.gateway.records(event=event.csd_code) if matches(message)]
            return bool(found)

        wait_until(look, what=what)
        return found[-1]

    def refusal(self, service: str, who: str) -> AuditMessage:
        """Wait for the alert that names the service and the user."""

        def matches(message: AuditMessage) -> bool:
            return f"{service} refused" in text_of(message) and who in users(message)

        return self.wait_for(codes.SECURITY_ALERT, matches, f"the alert about {service} of {who}")


def users(message: AuditMessage) -> list[str]:
    return [one.UserID for one in message.ActiveParticipant]


def objects(message: AuditMessage) -> list[str]:
    return [what.ParticipantObjectID for what in message.ParticipantObjectIdentification]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("services")
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    entity = AE("RECEIVER")
    entity.add_supported_context(CTImageStorage)
    receiver = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    policies = folder / "policies"
    policies.mkdir()
    for name, text in {**shipped_texts(), "site.cedar": SITE_RULES}.items():
        (policies / name).write_text(text)
    try:
        with (
            orthanc(folder / "orthanc", modalities={"RECEIVER": ("127.0.0.1", int(receiver.server_address[1]))}) as archive,
            service_provider("MANAGER") as manager,
            worklist(folder / "worklist") as worklist_port,
            printer(folder / "prints") as printer_port,
            running_gateway(
                folder / "gateway",
                {
                    "ORTHANC": ("127.0.0.1", archive.port),
                    "MANAGER": ("127.0.0.1", manager.port),
                    "WORKLIST": ("127.0.0.1", worklist_port),
                    "PRINTER": ("127.0.0.1", printer_port),
                },
                devices={
                    "ct1": ("CT1", "modality"),
                    "ct2": ("CT2", "modality"),
                    "peer1": ("PEER1", "gateway_peer"),
                },
                workers=2,
                extra=f'[policy]\nfolder = "{policies}"',
            ) as gateway,
        ):
            yield World(gateway, archive, manager, received, folder / "prints")
    finally:
        receiver.shutdown()


@pytest.fixture(scope="module")
def study(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two CT instances, stored by the modality with DCMTK."""
    folder, files = tmp_path_factory.mktemp("study"), []
    for number in (1, 2):
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(new_instance("CT_small.dcm", number, study=STUDY))
    code, said = world.dcmtk("storescu", "ct1", "ORTHANC", *map(str, files))
    assert code == 0, said
    return files


def test_user_identity_by_dcmtk(world: World, study: list[Path]) -> None:
    """The user name of the certificate passes, another one is rejected; neither it nor the passcode is kept or passed on."""
    options = ["-usr", "CT1", "-pwd", "passcode-marker", "-rsp"]
    code, said = world.dcmtk("storescu", "ct1", "ORTHANC", *options, str(study[0]))
    assert code == 0, said
    code, said = world.dcmtk("storescu", "ct1", "ORTHANC", "-usr", "somebody-else", "-pwd", "passcode-marker", str(study[0]))
    assert code != 0
    assert "User identity" in said or "No Reason" in said or "Rejected" in said
    record = world.refusal("Associate", "ct1")
    assert "user-identity" in text_of(record)
    everything = "".join(map(str, world.gateway.records())) + world.gateway.log
    assert "passcode-marker" not in everything
    assert "somebody-else" not in everything


# --- C-services ---------------------------------------------------------------------------------------------------------


def test_echo(world: World) -> None:
    code, said = world.dcmtk("echoscu", "ct1", "ORTHANC")
    assert code == 0, said
    association = world.associate("peer1", "ORTHANC", Verification)
    assert association.send_c_echo().Status == REFUSED
    assert association.send_c_echo().Status == REFUSED  # the association lives
    association.release()
    assert "no-echo-for-peer1" in text_of(world.refusal("C-ECHO", "peer1"))


def test_a_forbidden_presentation_context_is_rejected_in_the_acceptance(world: World) -> None:
    association = world.associate("peer1", "ORTHANC", MRImageStorage, CTImageStorage)
    results = {context.abstract_syntax: context.result for context in association.rejected_contexts}
    assert results == {MRImageStorage: 1}  # user rejection
    assert [context.abstract_syntax for context in association.accepted_contexts] == [CTImageStorage]
    association.release()


def test_store(world: World, study: list[Path]) -> None:
    for event in (codes.BEGIN_TRANSFERRING_DICOM_INSTANCES, codes.DICOM_INSTANCES_TRANSFERRED):
        record = world.wait_for(event, lambda message: STUDY in objects(message) and "ct1" in users(message), "the transfer")
        assert users(record) == ["ct1", "ORTHANC"]
    association = world.associate("Dr Store", "ORTHANC", CTImageStorage)
    refused = dcmread(study[0])
    refused.SOPInstanceUID = refused.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.10.996.1.99"
    assert association.send_c_store(refused).Status == REFUSED
    association.release()
    assert "no policy permits C-STORE of CT Image Storage" in text_of(world.refusal("C-STORE", "Dr Store"))


def test_find(world: World, study: list[Path]) -> None:
    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", "-k", "PatientName"]
    code, said = world.dcmtk("findscu", "Dr Find", "ORTHANC", *keys)
    assert code == 0
    assert STUDY in said
    record = world.wait_for(codes.QUERY, lambda message: "Dr Find" in users(message), "the query")
    assert users(record) == ["Dr Find", "ORTHANC"]
    assert objects(record) == [StudyRootQueryRetrieveInformationModelFind]
    code, said = world.dcmtk("findscu", "ct1", "ORTHANC", *keys)
    assert "Final Find Response" in said
    assert "Success" not in said.split("Final Find Response")[1]
    world.refusal("C-FIND", "ct1")


def test_get(world: World, study: list[Path]) -> None:
    """By pynetdicom: DCMTK's getscu and movescu speak no TLS before 3.6.8."""
    got: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        got.append(event.dataset)
        return 0x0000

    roles = [build_role(CTImageStorage, scp_role=True)]
    contexts = (StudyRootQueryRetrieveInformationModelGet, CTImageStorage)
    association = world.associate("Dr Get", "ORTHANC", *contexts, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, keep)])
    statuses = [status.Status for status, _ in association.send_c_get(wanted(), StudyRootQueryRetrieveInformationModelGet)]
    association.release()
    assert statuses[-1] == 0
    assert {one.PixelData for one in got} == {dcmread(file).PixelData for file in study}
    record = world.wait_for(
        codes.DICOM_INSTANCES_TRANSFERRED, lambda message: STUDY in objects(message) and "Dr Get" in users(message), "the transfer"
    )
    assert users(record) == ["ORTHANC", "Dr Get"]
    association = world.associate("ct1", "ORTHANC", *contexts, ext_neg=roles)
    statuses = [status.Status for status, _ in association.send_c_get(wanted(), StudyRootQueryRetrieveInformationModelGet)]
    association.release()
    assert statuses == [REFUSED]
    world.refusal("C-GET", "ct1")


def wanted() -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", STUDY
    return keys


def test_move(world: World, study: list[Path]) -> None:
    association = world.associate("Dr Move", "ORTHANC", StudyRootQueryRetrieveInformationModelMove)
    answers = association.send_c_move(wanted(), "RECEIVER", StudyRootQueryRetrieveInformationModelMove)
    assert [status.Status for status, _ in answers][-1] == 0
    association.release()
    assert {str(one.StudyInstanceUID) for one in world.received} == {STUDY}
    record = world.wait_for(
        codes.BEGIN_TRANSFERRING_DICOM_INSTANCES,
        lambda message: STUDY in objects(message) and "Dr Move" in users(message),
        "the start of the transfer",
    )
    assert users(record) == ["ORTHANC", "RECEIVER", "Dr Move"]
    association = world.associate("ct1", "ORTHANC", StudyRootQueryRetrieveInformationModelMove)
    answers = association.send_c_move(wanted(), "RECEIVER", StudyRootQueryRetrieveInformationModelMove)
    assert [status.Status for status, _ in answers] == [REFUSED]
    association.release()
    world.refusal("C-MOVE", "ct1")


def test_modality_worklist(world: World) -> None:
    code, said = world.dcmtk("findscu", "ct1", "WORKLIST", "-W", "-k", "PatientName=", "-k", "PatientID=PAT-WL")
    assert code == 0, said
    assert "Worklist^Patient" in said
    record = world.wait_for(
        codes.QUERY, lambda message: ModalityWorklistInformationFind in objects(message) and "ct1" in users(message), "the query"
    )
    assert users(record) == ["ct1", "WORKLIST"]
    code, said = world.dcmtk("findscu", "Dr Work", "WORKLIST", "-W", "-k", "PatientName=", "-k", "PatientID=PAT-WL")
    assert "Worklist^Patient" not in said
    world.refusal("C-FIND", "Dr Work")


# --- N-services ---------------------------------------------------------------------------------------------------------


def procedure_step() -> Dataset:
    scheduled = Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber = "1.2.826.0.1.3680043.10.996.7", "ACC7"
    step = Dataset()
    step.ScheduledStepAttributesSequence = Sequence([scheduled])
    step.PatientID, step.PatientName = "PAT-MPPS", "Step^Patient"
    step.PerformedProcedureStepStatus, step.Modality = "IN PROGRESS", "CT"
    return step


def test_modality_performed_procedure_step(world: World) -> None:
    instance = "1.2.826.0.1.3680043.10.996.8"
    association = world.associate("ct1", "MANAGER", ModalityPerformedProcedureStep)
    status, _ = association.send_n_create(procedure_step(), ModalityPerformedProcedureStep, instance)
    assert status.Status == 0
    done = Dataset()
    done.PerformedProcedureStepStatus = "COMPLETED"
    status, _ = association.send_n_set(done, ModalityPerformedProcedureStep, instance)
    assert status.Status == 0
    association.release()
    for action in (EventActionCode.CREATE, EventActionCode.UPDATE):
        record = world.wait_for(
            codes.PROCEDURE_RECORD,
            lambda message, action=action: message.EventIdentification.EventActionCode is action and "ct1" in users(message),
            f"the procedure record {action.name}",
        )
        assert objects(record) == ["1.2.826.0.1.3680043.10.996.7", "PAT-MPPS"]
        assert users(record) == ["ct1", "MANAGER"]
    before = len(world.manager.seen)
    association = world.associate("Dr Step", "MANAGER", ModalityPerformedProcedureStep)
    assert association.send_n_create(procedure_step(), ModalityPerformedProcedureStep, instance)[0].Status == REFUSED
    assert association.send_n_set(done, ModalityPerformedProcedureStep, instance)[0].Status == REFUSED
    association.release()
    world.refusal("N-CREATE", "Dr Step")
    world.refusal("N-SET", "Dr Step")
    assert len(world.manager.seen) == before


def commitment() -> Dataset:
    item, asked = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4"
    asked.TransactionUID, asked.ReferencedSOPSequence = "1.2.826.0.1.3680043.10.996.5", Sequence([item])
    return asked


def test_storage_commitment_with_the_report_on_the_same_association(world: World) -> None:
    reports: list[Dataset] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    association = world.associate("ct1", "MANAGER", StorageCommitmentPushModel, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    status, _ = association.send_n_action(commitment(), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    assert status.Status == 0
    wait_until(lambda: bool(reports), what="the report")
    association.release()
    assert reports[0].TransactionUID == commitment().TransactionUID
    association = world.associate("Dr Commit", "MANAGER", StorageCommitmentPushModel)
    status, _ = association.send_n_action(commitment(), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    assert status.Status == REFUSED
    association.release()
    world.refusal("N-ACTION", "Dr Commit")


def test_a_report_that_the_policy_forbids_does_not_reach_the_device(world: World) -> None:
    reports: list[Dataset] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    association = world.associate("ct2", "MANAGER", StorageCommitmentPushModel, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    status, _ = association.send_n_action(commitment(), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    assert status.Status == 0
    assert "no-report-for-ct2" in text_of(world.refusal("N-EVENT-REPORT", "MANAGER"))
    association.release()
    assert reports == []


def test_print(world: World) -> None:
    """DCMTK's dcmprscp prints for a modality; to a person it is not even asked."""
    association = world.associate("ct1", "PRINTER", BasicGrayscalePrintManagementMeta)
    assert association.send_n_get([0x21100010, 0x21100020], Printer, PrinterInstance, meta_uid=META)[0].Status == 0
    session = Dataset()
    session.NumberOfCopies = 1
    status, _ = association.send_n_create(session, BasicFilmSession, "1.2.826.0.1.3680043.10.996.20", meta_uid=META)
    assert status.Status == 0
    film = Dataset()
    film.ImageDisplayFormat, film.FilmOrientation, film.FilmSizeID = "STANDARD\\1,1", "PORTRAIT", "8INX10IN"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = BasicFilmSession, "1.2.826.0.1.3680043.10.996.20"
    film.ReferencedFilmSessionSequence = Sequence([reference])
    status, created = association.send_n_create(film, BasicFilmBox, "1.2.826.0.1.3680043.10.996.21", meta_uid=META)
    assert status.Status == 0, hex(status.Status)
    box = created.ReferencedImageBoxSequence[0].ReferencedSOPInstanceUID
    assert association.send_n_set(grayscale(), BasicGrayscaleImageBox, box, meta_uid=META)[0].Status == 0
    status, _ = association.send_n_action(None, 1, BasicFilmBox, "1.2.826.0.1.3680043.10.996.21", meta_uid=META)
    assert status.Status == 0, hex(status.Status)
    assert association.send_n_delete(BasicFilmSession, "1.2.826.0.1.3680043.10.996.20", meta_uid=META).Status == 0
    association.release()
    record = world.wait_for(codes.EXPORT, lambda message: "ct1" in users(message), "the export")
    assert users(record) == ["ct1", "PRINTER"]
    assert [kept for kept in world.prints.iterdir() if kept.suffix == ".dcm"]
    association = world.associate("Dr Print", "PRINTER", BasicGrayscalePrintManagementMeta)
    status, _ = association.send_n_create(session, BasicFilmSession, "1.2.826.0.1.3680043.10.996.22", meta_uid=META)
    assert status.Status == REFUSED
    assert association.send_n_delete(BasicFilmSession, "1.2.826.0.1.3680043.10.996.22", meta_uid=META).Status == REFUSED
    association.release()
    world.refusal("N-CREATE", "Dr Print")
    world.refusal("N-DELETE", "Dr Print")


META = BasicGrayscalePrintManagementMeta


def grayscale() -> Dataset:
    image = Dataset()
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = 64
    image.PixelAspectRatio = [1, 1]
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes(range(64)) * 64
    image["PixelData"].VR = "OW"
    content = Dataset()
    content.ImageBoxPosition, content.BasicGrayscaleImageSequence = 1, Sequence([image])
    return content


def test_unified_procedure_step(world: World) -> None:
    instance = "1.2.826.0.1.3680043.10.996.30"
    association = world.associate("ct1", "MANAGER", UnifiedProcedureStepPush, UnifiedProcedureStepPull)
    item, request = Dataset(), Dataset()
    request.StudyInstanceUID = "1.2.826.0.1.3680043.10.996.31"
    item.PatientID, item.ReferencedRequestSequence, item.ProcedureStepState = "PAT-UPS", Sequence([request]), "SCHEDULED"
    assert association.send_n_create(item, UnifiedProcedureStepPush, instance)[0].Status == 0
    keys = Dataset()
    keys.ProcedureStepState = "SCHEDULED"
    answers = list(association.send_c_find(keys, UnifiedProcedureStepPull))
    assert [status.Status for status, _ in answers] == [0xFF00, 0x0000]
    claim = Dataset()
    claim.ProcedureStepState, claim.TransactionUID = "IN PROGRESS", "1.2.3"
    pull = {"meta_uid": UnifiedProcedureStepPull}  # the command names Push in a context of Pull (PS3.4 CC.3.1)
    assert association.send_n_action(claim, 1, UnifiedProcedureStepPush, instance, **pull)[0].Status == 0
    assert association.send_n_get([0x00741000], UnifiedProcedureStepPush, instance, **pull)[0].Status == 0
    association.release()
    for action in (EventActionCode.CREATE, EventActionCode.UPDATE, EventActionCode.READ):
        record = world.wait_for(
            codes.PROCEDURE_RECORD,
            lambda message, action=action: message.EventIdentification.EventActionCode is action and "PAT-UPS" in objects(message),
            f"the procedure record {action.name}",
        )
        assert objects(record) == ["1.2.826.0.1.3680043.10.996.31", "PAT-UPS"]
    association = world.associate("Dr Item", "MANAGER", UnifiedProcedureStepPush, UnifiedProcedureStepPull)
    assert association.send_n_action(claim, 1, UnifiedProcedureStepPush, instance, **pull)[0].Status == REFUSED
    assert association.send_n_get([0x00741000], UnifiedProcedureStepPush, instance, **pull)[0].Status == REFUSED
    association.release()
    world.refusal("N-ACTION", "Dr Item")
    world.refusal("N-GET", "Dr Item")


def test_a_command_that_names_another_sop_class_than_its_context_is_refused(world: World) -> None:
    """MPPS is permitted to a modality, but not in the context of print."""
    before = len(world.manager.seen)
    association = world.associate("ct1", "MANAGER", BasicGrayscalePrintManagementMeta)
    status, _ = association.send_n_create(procedure_step(), ModalityPerformedProcedureStep, "1.2.3.4.7", meta_uid=META)
    assert status.Status == 0x0122
    association.release()
    assert len(world.manager.seen) == before
