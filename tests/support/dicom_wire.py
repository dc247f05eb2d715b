"""PDUs and messages from another hand (pynetdicom), a policy by table, and a conversation with a relay without sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pynetdicom import dimse_messages, dimse_primitives
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import (
    A_ABORT,
    A_ASSOCIATE,
    A_RELEASE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

from securepacs.audit.message import AuditMessage, AuditSourceIdentification
from securepacs.codes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from securepacs.policy.subject import AccessRequest, Decision, Effect, Subject, SubjectKind
from securepacs_proxy.commands import Audit, Command, Destination, Send
from securepacs_proxy.dicom.relay import DicomRelay, RelaySettings
from securepacs_proxy.events import (
    ConnectionAccepted,
    DataReceived,
    Event,
    Peer,
    PeerAuthenticated,
    Side,
    UpstreamConnected,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
VERIFICATION = "1.2.840.10008.1.1"
MPPS = "1.2.840.10008.3.1.2.3.3"
PEER = Peer("192.0.2.7", 40000, "TLSv1.3", "TLS_AES_256_GCM_SHA384")
PERSON = Subject(SubjectKind.PERSON, "kim@hospital.example", "Kim Radiologist", frozenset({"radiologist"}))
DEVICE = Subject(SubjectKind.DEVICE, "ct1.hospital.example", "CT 1", frozenset({"modality"}), ae_titles=frozenset({"CT1"}))
ARCHIVE = Destination("198.51.100.5", 11112)
CLASSES = (CT, MR, STUDY_FIND, STUDY_MOVE, STUDY_GET, VERIFICATION, MPPS)
CONTEXT_ID = {uid: 2 * index + 1 for index, uid in enumerate(CLASSES)}


class TablePolicy:
    """Permits what `permits` says and remembers what it was asked."""

    def __init__(self, permits: Callable[[AccessRequest], bool] = lambda request: True, *, reads_study: bool = False) -> None:
        self.permits = permits
        self.reads_study = reads_study
        self.asked: list[AccessRequest] = []

    @property
    def version(self) -> str:
        return f"table-{id(self.permits)}"

    def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        if self.permits(request):
            return Decision(Effect.PERMIT, ("table",), "in the table")
        return Decision(Effect.DENY, ("table",), "not in the table")


def settings(**changes: Any) -> RelaySettings:
    values: dict[str, Any] = {
        "gateway": "gw1",
        "ae_title": "SECUREPACS",
        "source": AuditSourceIdentification("gw1"),
        "routes": {"ARCHIVE": (ARCHIVE,)},
    }
    return RelaySettings(**values | changes)


# --- PDUs by pynetdicom ---------------------------------------------------------------------------------------------


def associate_rq(
    *,
    called: str = "ARCHIVE",
    calling: str = "CT1",
    classes: Iterable[str] = CLASSES,
    syntaxes: Iterable[str] = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN),
    items: Iterable[Any] = (),
    max_length: int = 16384,
) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    contexts = []
    for index, uid in enumerate(classes):
        context = PresentationContext()
        context.context_id = CONTEXT_ID.get(uid, 2 * index + 101)
        context.abstract_syntax = uid
        context.transfer_syntax = list(syntaxes)
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = _user_information(max_length, items)
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def associate_ac(
    request: bytes,
    *,
    syntax: str | None = None,
    reject: Iterable[str] = (),
    items: Iterable[Any] = (),
    max_length: int = 16384,
    contexts: Iterable[tuple[int, str]] | None = None,
) -> bytes:
    """Accept every context of an encoded request, with its first transfer syntax or `syntax`."""
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(request)
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "CT1", "ARCHIVE"
    results = []
    if contexts is None:
        contexts = [(each.context_id, syntax or each.transfer_syntax[0]) for each in proposal.presentation_context]
    rejected = {CONTEXT_ID[uid] for uid in reject}
    for identity, chosen in contexts:
        context = PresentationContext()
        context.context_id = identity
        context.abstract_syntax = "1.2.840.10008.1.1"
        context.transfer_syntax = [chosen]
        context.result = 3 if identity in rejected else 0
        results.append(context)
    primitive.presentation_context_definition_results_list = results
    primitive.result, primitive.result_source = 0, 1
    primitive.user_information = _user_information(max_length, items)
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def associate_rj(result: int = 1, source: int = 1, reason: int = 7) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.result, primitive.result_source, primitive.diagnostic = result, source, reason
    pdu = A_ASSOCIATE_RJ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def _user_information(max_length: int, items: Iterable[Any]) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = max_length
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.826.0.1.3680043.9.3811.3")
    return [length, implementation, *items]


def release_rq() -> bytes:
    pdu = A_RELEASE_RQ()
    pdu.from_primitive(A_RELEASE())
    return bytes(pdu.encode())


def release_rp() -> bytes:
    pdu = A_RELEASE_RP()
    pdu.from_primitive(A_RELEASE())
    return bytes(pdu.encode())


def abort() -> bytes:
    primitive = A_ABORT()
    primitive.abort_source = 0
    pdu = A_ABORT_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


# --- messages by pynetdicom -----------------------------------------------------------------------------------------


def encode(dataset: Dataset, syntax: str = IMPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian = syntax != ExplicitVRBigEndian
    stream.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(stream, dataset)
    return bytes(stream.getvalue())


def message(kind: str, context_id: int, *, max_pdu: int = 16384, data: bytes | None = None, **fields: Any) -> bytes:
    """A DIMSE message as P-DATA-TF PDUs; `kind` such as `C_STORE_RQ`, `data` an encoded data set, `fields` of the primitive."""
    service = kind.rsplit("_", 1)[0]
    primitive = getattr(dimse_primitives, service)()
    for name, value in fields.items():
        setattr(primitive, name, value)
    if data is not None:
        attribute = {
            "C_STORE": "DataSet",
            "N_CREATE": "AttributeList",
            "N_SET": "ModificationList",
            "N_EVENT_REPORT": "EventInformation",
        }.get(service, "Identifier")
        setattr(primitive, attribute, BytesIO(data))
    encoder = getattr(dimse_messages, kind)()
    encoder.primitive_to_message(primitive)
    return b"".join(_p_data(part) for part in encoder.encode_msg(context_id, max_pdu))


def _p_data(primitive: Any) -> bytes:
    pdu = P_DATA_TF()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def pdv_pdu(*pdvs: tuple[int, int, bytes]) -> bytes:
    """One P-DATA-TF of (context, control, value) triples, as no well-behaved program would send it."""
    body = b"".join((len(value) + 2).to_bytes(4, "big") + bytes((context, control)) + value for context, control, value in pdvs)
    return b"\x04\0" + len(body).to_bytes(4, "big") + body


def split_pdus(stream: bytes) -> list[bytes]:
    pdus = []
    while stream:
        length = 6 + int.from_bytes(stream[2:6], "big")
        pdus.append(stream[:length])
        stream = stream[length:]
    return pdus


def image(
    *, uid: str = "1.2.3.1", sop_class: str = CT, study: str = "1.2.3", patient: str = "PAT1", pixels: bytes = b"", **more: Any
) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.AccessionNumber, dataset.PatientID, dataset.StudyInstanceUID = "ACC1", patient, study
    dataset.PatientName = "Secret^Patient"
    for name, value in more.items():
        setattr(dataset, name, value)
    if pixels:
        dataset.add_new(0x7FE00010, "OW", pixels)
    return dataset


def store_rq(message_id: int = 1, *, context_id: int = CONTEXT_ID[CT], max_pdu: int = 16384, **of_image: Any) -> bytes:
    dataset = image(**of_image)
    return message(
        "C_STORE_RQ",
        context_id,
        max_pdu=max_pdu,
        data=encode(dataset),
        MessageID=message_id,
        AffectedSOPClassUID=dataset.SOPClassUID,
        AffectedSOPInstanceUID=dataset.SOPInstanceUID,
        Priority=2,
    )


def store_rsp(message_id: int = 1, status: int = 0, *, context_id: int = CONTEXT_ID[CT], uid: str = "1.2.3.1") -> bytes:
    return message(
        "C_STORE_RSP",
        context_id,
        MessageIDBeingRespondedTo=message_id,
        AffectedSOPClassUID=CT,
        AffectedSOPInstanceUID=uid,
        Status=status,
    )


def identifier(level: str = "STUDY", **keys: Any) -> bytes:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(dataset, name, value)
    return encode(dataset)


def find_rq(message_id: int = 1, data: bytes | None = None) -> bytes:
    return message(
        "C_FIND_RQ",
        CONTEXT_ID[STUDY_FIND],
        data=identifier(PatientID="PAT1") if data is None else data,
        MessageID=message_id,
        AffectedSOPClassUID=STUDY_FIND,
        Priority=2,
    )


def echo_rq(message_id: int = 1) -> bytes:
    return message("C_ECHO_RQ", CONTEXT_ID[VERIFICATION], MessageID=message_id, AffectedSOPClassUID=VERIFICATION)


def echo_rsp(message_id: int = 1) -> bytes:
    return message(
        "C_ECHO_RSP", CONTEXT_ID[VERIFICATION], MessageIDBeingRespondedTo=message_id, AffectedSOPClassUID=VERIFICATION, Status=0
    )


# --- a conversation -------------------------------------------------------------------------------------------------


class Conversation:
    """Plays the shell: feeds events, keeps what was sent to each side and every record."""

    def __init__(self, policy: TablePolicy | None = None, *, subject: Subject = DEVICE, **changes: Any) -> None:
        self.policy = policy or TablePolicy()
        self.relay = DicomRelay(settings(**changes), self.policy, association_id="a1")
        self.subject = subject
        self.at = NOW
        self.sent = {side: bytearray() for side in Side}
        self.records: list[AuditMessage] = []
        self.commands: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        commands = self.relay.handle(event, at=self.at)
        for command in commands:
            if isinstance(command, Send):
                self.sent[command.side] += command.data
            elif isinstance(command, Audit):
                self.records.append(command.message)
        self.commands += commands
        return commands

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    def feed(self, side: Side, data: bytes) -> list[Command]:
        return self.handle(DataReceived(side, memoryview(data)))

    def requestor(self, data: bytes) -> list[Command]:
        return self.feed(Side.REQUESTOR, data)

    def acceptor(self, data: bytes) -> list[Command]:
        return self.feed(Side.ACCEPTOR, data)

    def take(self, side: Side) -> bytes:
        data = bytes(self.sent[side])
        self.sent[side].clear()
        return data

    def authenticate(self) -> Conversation:
        self.handle(ConnectionAccepted(PEER))
        self.handle(PeerAuthenticated(PEER, self.subject))
        return self

    def associate(self, *, answer: dict[str, Any] | None = None, **request: Any) -> Conversation:
        """Bring the association up; afterwards nothing is left in `sent`, `records` and `commands`."""
        self.authenticate()
        self.requestor(associate_rq(**request))
        self.handle(UpstreamConnected())
        proposal = self.take(Side.ACCEPTOR)
        assert proposal, self.records
        self.acceptor(associate_ac(proposal, **(answer or {})))
        self.sent = {side: bytearray() for side in Side}
        self.records.clear()
        self.commands.clear()
        self.policy.asked.clear()
        return self


def names(records: Iterable[AuditMessage]) -> list[str]:
    """What records are, short: event, type, outcome when it is a failure."""
    result = []
    for record in records:
        event = record.EventIdentification
        kinds = "".join(f"/{kind.originalText}" for kind in event.EventTypeCode)
        outcome = f" ({int(event.EventOutcomeIndicator)})" if event.EventOutcomeIndicator else ""
        result.append(f"{event.EventID.originalText}{kinds}{outcome}")
    return result


def create_scripts() -> Any:
    """Hypothesis strategy: turns of both sides, most of them well-behaved, some refused by the policy of the properties."""
    from hypothesis import strategies as st

    sizes = st.sampled_from([0, 2, 500, 4000, 40000])
    widths = st.sampled_from([1000, 4096, 16384])

    def turn(number: int, kind: str, size: int, width: int) -> list[tuple[Side, bytes]]:
        pixels = b"\x04\0\0\0" * (size // 4)
        match kind:
            case "store":
                return [
                    (Side.REQUESTOR, store_rq(number, max_pdu=width, pixels=pixels, study=f"1.2.{size}")),
                    (Side.ACCEPTOR, store_rsp(number, 0xA700 if width == 1000 else 0)),
                ]
            case "find":
                return [
                    (Side.REQUESTOR, find_rq(number, identifier(PatientID="PAT1", PatientComments="c" * (size // 8)))),
                    (Side.ACCEPTOR, find_answers(number, size // 2000)),
                ]
            case "forbidden":
                return [(Side.REQUESTOR, store_rq(number, context_id=CONTEXT_ID[MR], sop_class=MR, max_pdu=width, pixels=pixels))]
            case "echo":
                return [(Side.REQUESTOR, echo_rq(number))]
            case _:
                return [(Side.REQUESTOR, release_rq()), (Side.ACCEPTOR, release_rp())]

    kinds = st.sampled_from(["store", "store", "find", "forbidden", "echo", "release"])
    turns = st.lists(st.tuples(kinds, sizes, widths), min_size=1, max_size=5)
    return turns.map(lambda drawn: [part for number, each in enumerate(drawn, 1) for part in turn(number, *each)])


def find_answers(message_id: int, count: int) -> bytes:
    fields: dict[str, Any] = {"MessageIDBeingRespondedTo": message_id, "AffectedSOPClassUID": STUDY_FIND}
    pending = message("C_FIND_RSP", CONTEXT_ID[STUDY_FIND], data=identifier(PatientID="PAT1"), Status=0xFF00, **fields)
    return pending * count + message("C_FIND_RSP", CONTEXT_ID[STUDY_FIND], Status=0, **fields)
