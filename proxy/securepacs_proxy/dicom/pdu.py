"""The PDUs of the Upper Layer as typed values: bytes in, dataclasses out, and back (PS3.8 9.3).

A PDU is a 6-byte header (type, reserved, 32-bit length) and a body. Decoders get the body; encoders return the whole PDU.
Decoders raise Violation and never read outside what they were given. P-DATA bodies are only cut into PDVs, never copied.
NOT checked here: whether a PDU may come now (`state`), what it asks for (`negotiation`, `exchange`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from securepacs_proxy.dicom import user_information
from securepacs_proxy.dicom.user_information import UserInformation
from securepacs_proxy.dicom.wire import AbortReason, Cursor, Violation, ae_title, item, uid

HEADER_LENGTH = 6
PDV_HEADER_LENGTH = 6
MAX_ASSOCIATE_LENGTH = 1_048_576  # 128 contexts with every known transfer syntax each fit several times
MAX_ITEMS = 256  # application context, user information, at most 128 presentation contexts
MAX_TRANSFER_SYNTAXES = 256
COMMAND, LAST = 0x01, 0x02  # message control header bits (PS3.8 E.2)


class PduType(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7

    @property
    def standard_name(self) -> str:
        """The name as PS3.8 writes it."""
        return "P-DATA-TF" if self is PduType.P_DATA_TF else "A-" + self.name.replace("_", "-")


class ContextResult(IntEnum):
    """Result/Reason of a presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """One proposed context (PS3.8 9.3.2.2)."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PresentationContextResult:
    """One answered context (PS3.8 9.3.3.2); the transfer syntax is only significant for acceptance."""

    id: int
    result: ContextResult
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    called_ae_title: str
    calling_ae_title: str
    application_context: str
    presentation_contexts: tuple[PresentationContext, ...]
    user_information: UserInformation
    protocol_version: int = 1


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC (PS3.8 9.3.3); the AE titles are echoes that are not tested."""

    called_ae_title: str
    calling_ae_title: str
    application_context: str
    presentation_contexts: tuple[PresentationContextResult, ...]
    user_information: UserInformation
    protocol_version: int = 1


@dataclass(frozen=True, slots=True)
class AssociateRJ:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4): result 1 permanent, 2 transient; source 1 user, 2 ACSE, 3 presentation."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 9.3.8): source 0 service user, 2 service provider."""

    source: int = 2
    reason: int = AbortReason.NOT_SPECIFIED


@dataclass(frozen=True, slots=True)
class PresentationDataValue:
    """One PDV (PS3.8 9.3.5.1): `item` with its header as received, `fragment` the value inside it."""

    context_id: int
    control: int
    fragment: memoryview
    item: memoryview


def decode_associate_rq(body: bytes | memoryview) -> AssociateRQ:
    """Read an A-ASSOCIATE-RQ body (PS3.8 9.3.2)."""
    version, called, calling, items = _associate_items(body)
    application, contexts, information = "", [], None
    for kind, value in items:
        match kind:
            case 0x10 if not application:
                application = uid(value, "application context")
            case 0x20:
                contexts.append(_proposed(value))
            case 0x50 if information is None:
                information = user_information.decode(value, request=True)
            case _:
                raise Violation(f"A-ASSOCIATE-RQ has an unexpected item {kind:02X}H", AbortReason.UNRECOGNIZED_PDU_PARAMETER)
    if information is None or not application or not contexts:
        raise Violation("A-ASSOCIATE-RQ lacks application context, presentation context or user information")
    _unique_ids([each.id for each in contexts])
    called_title, calling_title = ae_title(called, "called AE title"), ae_title(calling, "calling AE title")
    return AssociateRQ(called_title, calling_title, application, tuple(contexts), information, version)


def decode_associate_ac(body: bytes | memoryview) -> AssociateAC:
    """Read an A-ASSOCIATE-AC body (PS3.8 9.3.3)."""
    version, called, calling, items = _associate_items(body)
    application, contexts, information = "", [], None
    for kind, value in items:
        match kind:
            case 0x10 if not application:
                application = uid(value, "application context")
            case 0x21:
                contexts.append(_answered(value))
            case 0x50 if information is None:
                information = user_information.decode(value, request=False)
            case _:
                raise Violation(f"A-ASSOCIATE-AC has an unexpected item {kind:02X}H", AbortReason.UNRECOGNIZED_PDU_PARAMETER)
    if information is None:
        raise Violation("A-ASSOCIATE-AC lacks user information")
    _unique_ids([each.id for each in contexts])
    titles = (bytes(each).decode("latin-1").strip() for each in (called, calling))
    return AssociateAC(next(titles), next(titles), application, tuple(contexts), information, version)


def decode_associate_rj(body: bytes | memoryview) -> AssociateRJ:
    """Read an A-ASSOCIATE-RJ body (PS3.8 9.3.4)."""
    if len(body) != 4 or body[1] not in (1, 2) or body[2] not in (1, 2, 3):
        raise Violation("A-ASSOCIATE-RJ is damaged")
    return AssociateRJ(body[1], body[2], body[3])


def decode_abort(body: bytes | memoryview) -> Abort:
    """Read an A-ABORT body (PS3.8 9.3.8)."""
    if len(body) != 4:
        raise Violation("A-ABORT is damaged")
    return Abort(body[2], body[3])


def encode(pdu: AssociateRQ | AssociateAC | AssociateRJ | Abort) -> bytes:
    """Return the whole PDU."""
    match pdu:
        case AssociateRQ():
            return _pdu(PduType.ASSOCIATE_RQ, _associate_body(pdu, b"".join(map(_encode_proposed, pdu.presentation_contexts))))
        case AssociateAC():
            return _pdu(PduType.ASSOCIATE_AC, _associate_body(pdu, b"".join(map(_encode_answered, pdu.presentation_contexts))))
        case AssociateRJ(result, source, reason):
            return _pdu(PduType.ASSOCIATE_RJ, bytes((0, result, source, reason)))
        case Abort(source, reason):
            return _pdu(PduType.ABORT, bytes((0, 0, source, reason)))


RELEASE_RQ = bytes((PduType.RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_RP = bytes((PduType.RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0))


def encode_command_pdu(context_id: int, command: bytes) -> bytes:
    """Return a P-DATA-TF with one PDV that holds a whole command set."""
    pdv = (len(command) + 2).to_bytes(4, "big") + bytes((context_id, COMMAND | LAST)) + command
    return _pdu(PduType.P_DATA_TF, pdv)


def p_data_header(reserved: int, length: int) -> bytes:
    """Return the header of a P-DATA-TF with a body of `length` bytes."""
    return bytes((PduType.P_DATA_TF, reserved)) + length.to_bytes(4, "big")


def pdvs(body: memoryview) -> Iterator[PresentationDataValue]:
    """Cut a P-DATA-TF body into its PDVs, in place. Raises Violation where one does not fit, before yielding it."""
    pos, end = 0, len(body)
    if not end:
        raise Violation("P-DATA-TF is empty")
    while pos < end:
        if end - pos < PDV_HEADER_LENGTH:
            raise Violation("PDV ends too early")
        length = int.from_bytes(body[pos : pos + 4], "big")
        stop = pos + 4 + length
        if length < 2 or stop > end:
            raise Violation("PDV length does not fit its PDU")
        control = body[pos + 5]
        if control > COMMAND | LAST:
            raise Violation("message control header has reserved bits")
        yield PresentationDataValue(body[pos + 4], control, body[pos + 6 : stop], body[pos:stop])
        pos = stop


def _pdu(kind: PduType, body: bytes) -> bytes:
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body


def _associate_items(body: bytes | memoryview) -> tuple[int, memoryview, memoryview, Iterator[tuple[int, memoryview]]]:
    cursor = Cursor(body, "A-ASSOCIATE PDU")
    version = cursor.unsigned(2)
    cursor.take(2)
    called, calling = cursor.take(16), cursor.take(16)
    cursor.take(32)
    return version, called, calling, _items(cursor)


def _items(cursor: Cursor) -> Iterator[tuple[int, memoryview]]:
    count = 0
    while cursor:
        count += 1
        if count > MAX_ITEMS:
            raise Violation("A-ASSOCIATE PDU has too many items")
        yield cursor.item()


def _unique_ids(ids: list[int]) -> None:
    if len(set(ids)) != len(ids) or any(each % 2 == 0 for each in ids):
        raise Violation("presentation context IDs are not odd and unique")


def _proposed(value: memoryview) -> PresentationContext:
    cursor = Cursor(value, "presentation context")
    identity = cursor.unsigned(1)
    cursor.take(3)
    abstract: list[str] = []
    transfer: list[str] = []
    while cursor:
        kind, content = cursor.item()
        if kind == 0x30:
            abstract.append(uid(content, "abstract syntax"))
        elif kind == 0x40:
            transfer.append(uid(content, "transfer syntax"))
        else:
            raise Violation(f"presentation context has an unexpected sub-item {kind:02X}H", AbortReason.UNRECOGNIZED_PDU_PARAMETER)
    if len(abstract) != 1 or not 1 <= len(transfer) <= MAX_TRANSFER_SYNTAXES:
        raise Violation("presentation context needs one abstract syntax and at least one transfer syntax")
    return PresentationContext(identity, abstract[0], tuple(transfer))


def _answered(value: memoryview) -> PresentationContextResult:
    cursor = Cursor(value, "presentation context")
    identity, _, result, _ = (cursor.unsigned(1) for _ in range(4))
    if result > ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED:
        raise Violation("presentation context has an unknown result")
    transfer = []
    while cursor:
        kind, content = cursor.item()
        if kind != 0x40:
            raise Violation(f"presentation context has an unexpected sub-item {kind:02X}H", AbortReason.UNRECOGNIZED_PDU_PARAMETER)
        # only significant for acceptance; rejecting ones are sent empty by some
        transfer.append(uid(content, "transfer syntax") if result == ContextResult.ACCEPTANCE else "")
    if result == ContextResult.ACCEPTANCE and len(transfer) != 1:
        raise Violation("an accepted presentation context needs exactly one transfer syntax")
    return PresentationContextResult(identity, ContextResult(result), transfer[0] if transfer else "")


def _associate_body(pdu: AssociateRQ | AssociateAC, contexts: bytes) -> bytes:
    head = pdu.protocol_version.to_bytes(2, "big") + bytes(2)
    titles = b"".join(title.encode("ascii").ljust(16) for title in (pdu.called_ae_title, pdu.calling_ae_title))
    application = item(0x10, pdu.application_context.encode("ascii"))
    return head + titles + bytes(32) + application + contexts + user_information.encode(pdu.user_information)


def _encode_proposed(context: PresentationContext) -> bytes:
    syntaxes = b"".join(item(0x40, each.encode("ascii")) for each in context.transfer_syntaxes)
    return item(0x20, bytes((context.id, 0, 0, 0)) + item(0x30, context.abstract_syntax.encode("ascii")) + syntaxes)


def _encode_answered(context: PresentationContextResult) -> bytes:
    syntax = item(0x40, context.transfer_syntax.encode("ascii"))
    return item(0x21, bytes((context.id, 0, context.result, 0)) + syntax)
