"""The way out: what an archive sends by itself leaves through an inner port of the gateway, by its own rules and on record."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from securepacs import codes
from securepacs.audit.message import AuditMessage
from securepacs.pki import CertificateProfile
from tests.support.archives import Archive, orthanc
from tests.support.gateway import Gateway, text_of
from tests.support.net import free_port, wait_until
from tests.support.pki import TestPki, make_pki
from tests.support.samples import new_instance

pytestmark = pytest.mark.interop

RADIOLOGIST = CertificateProfile.RADIOLOGIST
CONTEXTS = (Verification, CTImageStorage, StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind)


@dataclass
class Outside:
    """A destination outside: what reached it, and who showed which certificate."""

    port: int = 0
    stored: list[Dataset] = field(default_factory=list)
    reports: list[Dataset] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)


@contextmanager
def outside(ae_title: str, context: ssl.SSLContext | None = None) -> Iterator[Outside]:
    place = Outside()

    def on_store(event: evt.Event) -> int:
        place.stored.append(event.dataset)
        return 0x0000

    def on_report(event: evt.Event) -> tuple[int, None]:
        place.reports.append(event.event_information)
        return 0x0000, None

    def on_accepted(event: evt.Event) -> None:
        if context is not None:
            subject = event.assoc.dul.socket.socket.getpeercert()["subject"]
            place.shown += [value for row in subject for key, value in row if key == "commonName"]

    entity = AE(ae_title)
    entity.maximum_pdu_size = 0
    for uid in CONTEXTS:
        entity.add_supported_context(uid, scu_role=True, scp_role=True)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, on_store),
        (evt.EVT_N_EVENT_REPORT, on_report),
        (evt.EVT_ACCEPTED, on_accepted),
        (evt.EVT_C_FIND, lambda event: iter([(0x0000, None)])),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=handlers)
    place.port = int(server.server_address[1])
    try:
        yield place
    finally:
        server.shutdown()


def server_context(pki: TestPki, folder: Path, name: str = "localhost") -> ssl.SSLContext:
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.GATEWAY_SERVER, name), folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.write_trust(folder)))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@dataclass
class World:
    gateway: Gateway
    archive: Archive
    inner: int
    closed: int
    secured: Outside
    plain: Outside

    def call_out(self, called: str, *contexts: str, calling: str = "ORTHANC", port: int = 0, **options: Any) -> Any:
        """Call as the archive does, on the inner port."""
        entity = AE(calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        for context in contexts or (Verification,):
            entity.add_requested_context(context)
        return entity.associate("127.0.0.1", port or self.inner, ae_title=called, **options)

    def wait_for(self, event: codes.CodedValue, matches: Callable[[AuditMessage], bool], what: str) -> AuditMessage:
        found: list[AuditMessage] = []

        def look() -> bool:
            found[:] = [message for message in self.gateway.records(event=event.csd_code) if matches(message)]
            return bool(found)

        wait_until(look, what=what)
        return found[-1]

    def alert(self, words: str) -> AuditMessage:
        return self.wait_for(codes.SECURITY_ALERT, lambda message: words in text_of(message), f"the alert: {words}")


def users(message: AuditMessage) -> list[str]:
    return [one.UserID for one in message.ActiveParticipant]


def requestors(message: AuditMessage) -> list[str]:
    return [one.UserID for one in message.ActiveParticipant if one.UserIsRequestor]


def objects(message: AuditMessage) -> list[str]:
    return [what.ParticipantObjectID for what in message.ParticipantObjectIdentification]


EGRESS = """
[[route]]
called_ae_title = "SECUREPACS"
destinations = ["127.0.0.1:{secured}"]
[route.tls]
trust = ["root.pem"]
certificate = "{certificate}"
key = "{key}"
server_name = "localhost"
[[egress]]
name = "orthanc.inside"
port = {inner}
addresses = ["127.0.0.0/8"]
ae_titles = ["ORTHANC"]
[[egress.route]]
called_ae_title = "OUTSIDE"
destinations = ["127.0.0.1:{nobody}", "127.0.0.1:{secured}"]
[egress.route.tls]
trust = ["root.pem"]
certificate = "{certificate}"
key = "{key}"
server_name = "localhost"
[[egress.route]]
called_ae_title = "PLAIN"
destinations = ["127.0.0.1:{plain}"]
unsafe_plain = true
[[egress.route]]
called_ae_title = "IMPOSTOR"
destinations = ["127.0.0.1:{impostor}"]
[egress.route.tls]
trust = ["root.pem"]
server_name = "localhost"
[[egress.route]]
called_ae_title = "OTHERPIN"
destinations = ["127.0.0.1:{secured}"]
[egress.route.tls]
trust = ["root.pem"]
certificate = "{certificate}"
key = "{key}"
certificate_sha256 = "{pin}"
[[egress]]
name = "elsewhere"
port = {closed}
addresses = ["192.0.2.7"]
ae_titles = ["ORTHANC"]
[[egress.route]]
called_ae_title = "PLAIN"
destinations = ["127.0.0.1:{plain}"]
unsafe_plain = true
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("egress")
    (folder / "gateway").mkdir()
    pki = make_pki(folder / "gateway")
    stranger = make_pki(folder, name="Stranger")
    inner, closed, nobody = free_port(), free_port(), free_port()
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.GATEWAY_PEER, "gw-out"), folder / "gateway")
    with (
        orthanc(folder / "orthanc", modalities={"OUTSIDE": ("127.0.0.1", inner), "PLAIN": ("127.0.0.1", inner)}) as archive,
        outside("OUTSIDE", server_context(pki, folder / "secured")) as secured,
        outside("IMPOSTOR", server_context(stranger, folder / "impostor")) as impostor,
        outside("PLAIN") as plain,
    ):
        egress = EGRESS.format(
            inner=inner,
            closed=closed,
            nobody=nobody,
            secured=secured.port,
            plain=plain.port,
            impostor=impostor.port,
            certificate=certificate,
            key=key,
            pin="ab" * 32,
        )
        gateway = Gateway(folder / "gateway", pki, {"ORTHANC": ("127.0.0.1", archive.port)}, workers=2, extra=egress)
        gateway.write()
        try:
            gateway.start("--drain", "2")
            yield World(gateway, archive, inner, closed, secured, plain)
            assert gateway.stop() == 0, gateway.log
        finally:
            gateway.kill()


def store_inside(world: World, folder: Path, study: str) -> None:
    entity = AE("CT1")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", world.archive.port, ae_title="ORTHANC")
    for number in (1, 2):
        file = folder / f"{number}.dcm"
        file.write_bytes(new_instance("CT_small.dcm", number, study=study))
        assert association.send_c_store(file).Status == 0
    association.release()


def move(world: World, who: str, study: str, destination: str) -> list[int]:
    association = world.gateway.associate(
        who,
        calling="VIEWER",
        called="ORTHANC",
        profile=RADIOLOGIST,
        contexts=(StudyRootQueryRetrieveInformationModelMove,),
    )
    assert association.is_established
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
    answers = association.send_c_move(wanted, destination, StudyRootQueryRetrieveInformationModelMove)
    statuses = [status.Status for status, _ in answers]
    association.release()
    return statuses


@pytest.mark.parametrize("destination", ["OUTSIDE", "PLAIN"])
def test_what_is_moved_out_is_recorded_under_the_person_who_moved(world: World, tmp_path: Path, destination: str) -> None:
    """Several times, from one AE title and with one Message ID, so that the two halves meet across the workers."""
    place = world.secured if destination == "OUTSIDE" else world.plain
    for number in range(4):
        study, who = f"1.2.826.0.1.3680043.10.995.{number + 1}{len(destination)}", f"Dr {destination} {number}"
        store_inside(world, tmp_path, study)
        assert move(world, who, study, destination)[-1] == 0
        assert [str(one.StudyInstanceUID) for one in place.stored if one.StudyInstanceUID == study] == [study, study]
        for event in (codes.BEGIN_TRANSFERRING_DICOM_INSTANCES, codes.DICOM_INSTANCES_TRANSFERRED):
            record = world.wait_for(
                event,
                lambda message, study=study: study in objects(message) and users(message)[0] == "orthanc.inside",
                "the transfer",
            )
            assert users(record) == ["orthanc.inside", destination, who]
            assert requestors(record) == [who]
    if destination == "OUTSIDE":
        assert set(world.secured.shown) == {"gw-out"}


def test_an_archive_can_be_called_with_tls_too(world: World, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.995.98"
    file = tmp_path / "inward.dcm"
    file.write_bytes(new_instance("CT_small.dcm", 1, study=study))
    association = world.gateway.associate("ct1", calling="CT1", called="SECUREPACS", contexts=(CTImageStorage,))
    assert association.is_established
    assert association.send_c_store(file).Status == 0
    association.release()
    assert [one.StudyInstanceUID for one in world.secured.stored].count(study) == 1


def test_what_the_archive_routes_by_itself_is_recorded_under_the_archive(world: World, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.995.99"
    file = tmp_path / "routed.dcm"
    file.write_bytes(new_instance("CT_small.dcm", 1, study=study))
    association = world.call_out("OUTSIDE", CTImageStorage)
    assert association.is_established, [text_of(m) for m in world.gateway.records()]
    assert association.send_c_store(file).Status == 0
    association.release()
    record = world.wait_for(codes.DICOM_INSTANCES_TRANSFERRED, lambda message: study in objects(message), "the transfer")
    assert users(record) == ["orthanc.inside", "OUTSIDE"]
    assert requestors(record) == ["orthanc.inside"]


def test_storage_commitment_is_reported_on_a_reverse_association(world: World) -> None:
    item, report = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4"
    report.TransactionUID, report.ReferencedSOPSequence = "1.2.826.0.1.3680043.10.995.5", Sequence([item])
    roles = [build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)]
    association = world.call_out("OUTSIDE", StorageCommitmentPushModel, ext_neg=roles)
    assert association.is_established
    status, _ = association.send_n_event_report(report, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    assert status.Status == 0
    association.release()
    assert [one.TransactionUID for one in world.secured.reports] == [report.TransactionUID]


def test_an_archive_asks_nothing_of_those_outside(world: World) -> None:
    association = world.call_out("OUTSIDE", StudyRootQueryRetrieveInformationModelFind)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.PatientID = "STUDY", "X"
    statuses = [status.Status for status, _ in association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind)]
    association.release()
    assert statuses == [0x0124]
    assert "C-FIND" in text_of(world.alert("on its way out"))


@pytest.mark.parametrize(
    ("called", "calling", "reason"),
    [("NOWHERE", "ORTHANC", 7), ("OUTSIDE", "OTHER", 3)],
)
def test_titles_that_no_section_names_are_rejected(world: World, called: str, calling: str, reason: int) -> None:
    association = world.call_out(called, calling=calling)
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == reason


@pytest.mark.parametrize(
    ("called", "words"),
    [("IMPOSTOR", "its certificate is not accepted"), ("OTHERPIN", "not the one in certificate_sha256")],
)
def test_a_destination_that_is_not_the_one_gets_nothing(world: World, called: str, words: str) -> None:
    before = len(world.secured.stored)
    association = world.call_out(called, CTImageStorage)
    assert association.is_rejected
    assert association.acceptor.primitive.result == 2  # transient
    assert "127.0.0.1" in text_of(world.alert(words))
    assert len(world.secured.stored) == before


def test_a_caller_from_another_address_is_not_heard(world: World) -> None:
    association = world.call_out("PLAIN", port=world.closed)
    assert not association.is_established
    world.alert("127.0.0.1 is not an address of elsewhere")
