"""DIMSE command sets (PS3.7 6.3, 9.3, 10.3, Annex E): decode strictly, encode refusals, and the table of services.

A command set is Implicit VR Little Endian, group 0000 only, ascending, its group length first and exact.
NOT checked here: whether the message may come now and whether it is permitted (`exchange`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum

from securepacs_proxy.dicom.wire import Violation, ae_title, uid

NO_DATA_SET = 0x0101
RESPONSE = 0x8000
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")


class Status(IntEnum):
    """Statuses the gateway itself answers with (PS3.7 Annex C, PS3.4)."""

    PROCESSING_FAILURE = 0x0110
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class DataSet(Enum):
    """Whether a data set goes with a command."""

    ALWAYS = "always"
    NEVER = "never"
    OPTIONAL = "optional"


class Origin(Enum):
    """Which role of a SOP Class originates the request."""

    SCU = "SCU"
    SCP = "SCP"


@dataclass(frozen=True, slots=True)
class Service:
    """One DIMSE service: its request's Command Field, its data sets, who starts it, which elements name SOP Class and Instance."""

    name: str
    command_field: int
    request_data: DataSet
    response_data: DataSet
    origin: Origin = Origin.SCU
    requested: bool = False
    pending: bool = False
    instance: bool = False


_A, _N, _O = DataSet.ALWAYS, DataSet.NEVER, DataSet.OPTIONAL

SERVICES: dict[int, Service] = {
    service.command_field: service
    for service in (
        Service("C-STORE", 0x0001, _A, _N, instance=True),
        Service("C-GET", 0x0010, _A, _O, pending=True),
        Service("C-FIND", 0x0020, _A, _O, pending=True),
        Service("C-MOVE", 0x0021, _A, _O, pending=True),
        Service("C-ECHO", 0x0030, _N, _N),
        Service("N-EVENT-REPORT", 0x0100, _O, _O, origin=Origin.SCP, instance=True),
        Service("N-GET", 0x0110, _N, _O, requested=True, instance=True),
        Service("N-SET", 0x0120, _A, _O, requested=True, instance=True),
        Service("N-ACTION", 0x0130, _O, _O, requested=True, instance=True),
        Service("N-CREATE", 0x0140, _O, _O, instance=True),
        Service("N-DELETE", 0x0150, _N, _N, requested=True, instance=True),
    )
}
C_CANCEL_RQ = 0x0FFF


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command set. `message_id` is the Message ID of a request, of a response and a C-CANCEL the one responded to.

    UIDs and AE titles are empty when absent, `status` is None in requests. A C-STORE of a C-MOVE names `move_originator`.
    """

    command_field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    move_destination: str = ""
    status: int | None = None
    move_originator: str = ""
    move_originator_message_id: int = 0

    @property
    def is_response(self) -> bool:
        """True for a response."""
        return bool(self.command_field & RESPONSE)

    @property
    def is_cancel(self) -> bool:
        """True for C-CANCEL-RQ."""
        return self.command_field == C_CANCEL_RQ

    @property
    def service(self) -> Service:
        """The service of a request or response; not defined for C-CANCEL-RQ."""
        return SERVICES[self.command_field & ~RESPONSE]


def decode_command(data: bytes | memoryview) -> Command:
    """Read a whole command set (PS3.7 6.3.1). Raises Violation for anything two readers could read differently."""
    elements = _elements(bytes(data))
    field = _us(elements, 0x0100, "Command Field")
    service = SERVICES.get(field & ~RESPONSE)
    has_data_set = _us(elements, 0x0800, "Command Data Set Type") != NO_DATA_SET
    if field == C_CANCEL_RQ:
        if has_data_set:
            raise Violation("C-CANCEL-RQ has a data set")
        return Command(field, _us(elements, 0x0120, "Message ID Being Responded To"), has_data_set)
    if service is None:
        raise Violation("Command Field is unknown")
    response = bool(field & RESPONSE)
    expected = service.response_data if response else service.request_data
    if expected is (DataSet.NEVER if has_data_set else DataSet.ALWAYS):
        raise Violation(f"{service.name} {'has' if has_data_set else 'lacks'} a data set")
    id_element = 0x0120 if response else 0x0110
    if (0x0110 in elements) is response or (0x0120 in elements) is not response:
        raise Violation("Message ID and Message ID Being Responded To do not fit the Command Field")
    # Requests of N-GET, N-SET, N-ACTION, N-DELETE name Requested UIDs; all responses and the other requests Affected ones.
    class_element, instance_element = (0x0003, 0x1001) if service.requested and not response else (0x0002, 0x1000)
    sop_class = _uid(elements, class_element)
    if not response and not sop_class:
        raise Violation(f"{service.name} names no SOP Class")
    sop_instance = _uid(elements, instance_element) if service.instance else ""
    if not response and not sop_instance and service.instance and service.name != "N-CREATE":
        raise Violation(f"{service.name} names no SOP Instance")
    destination = ""
    if service.name == "C-MOVE" and not response:
        destination = ae_title(elements.get(0x0600, b""), "move destination")
    originator, moved_by = "", 0
    if service.name == "C-STORE" and not response and 0x1031 in elements and elements.get(0x1030, b"").strip(b" \0"):
        originator = ae_title(elements[0x1030], "move originator")
        moved_by = _us(elements, 0x1031, "Move Originator Message ID")
    status = _us(elements, 0x0900, "Status") if response else None
    message_id = _us(elements, id_element, "Message ID")
    return Command(field, message_id, has_data_set, sop_class, sop_instance, destination, status, originator, moved_by)


def encode_response(request: Command, status: int) -> bytes:
    """Return the command set of the response to `request` with `status` and no data set."""
    service = request.service
    values: list[tuple[int, bytes]] = []
    if request.sop_class_uid:
        values.append((0x0002, _even(request.sop_class_uid)))
    values.append((0x0100, _US.pack(request.command_field | RESPONSE)))
    values.append((0x0120, _US.pack(request.message_id)))
    values.append((0x0800, _US.pack(NO_DATA_SET)))
    values.append((0x0900, _US.pack(status)))
    if service.instance and request.sop_instance_uid:
        values.append((0x1000, _even(request.sop_instance_uid)))
    return encode_elements(values)


def encode_elements(values: list[tuple[int, bytes]]) -> bytes:
    """Encode (element number, value) pairs of group 0000, ascending, with their group length in front."""
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in values)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def _elements(data: bytes) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    pos, end, last = 0, len(data), -1
    while pos < end:
        if end - pos < 8:
            raise Violation("command set ends too early")
        group, element, length = _ELEMENT.unpack_from(data, pos)
        pos += 8
        if group != 0:
            raise Violation("command set has an element outside group 0000")
        if element <= last:
            raise Violation("command set has duplicate or unordered elements")
        if length > end - pos:
            raise Violation("command set element is longer than the command set")
        elements[element] = data[pos : pos + length]
        pos, last = pos + length, element
    group_length = elements.get(0)
    if group_length is None or len(group_length) != 4 or int.from_bytes(group_length, "little") != end - 12:
        raise Violation("command group length is missing or wrong")
    return elements


def _us(elements: dict[int, bytes], element: int, name: str) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise Violation(f"{name} is missing or not 16 bits")
    return int.from_bytes(value, "little")


def _uid(elements: dict[int, bytes], element: int) -> str:
    value = elements.get(element, b"").rstrip(b"\0 ")
    return uid(value, "command set") if value else ""


def _even(text: str) -> bytes:
    raw = text.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)
