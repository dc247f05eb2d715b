from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pynetdicom import dimse_messages
from pynetdicom.pdu_primitives import P_DATA

from securepacs_proxy.dicom.dimse import (
    C_CANCEL_RQ,
    SERVICES,
    Command,
    Service,
    Status,
    decode_command,
    encode_elements,
    encode_response,
)
from securepacs_proxy.dicom.wire import Violation
from tests.support.dicom_wire import (
    CONTEXT_ID,
    CT,
    STUDY_MOVE,
    echo_rq,
    find_answers,
    find_rq,
    identifier,
    message,
    split_pdus,
    store_rq,
    store_rsp,
)


def command_of(raw: bytes) -> bytes:
    return b"".join(pdu[12:] for pdu in split_pdus(raw) if pdu[11] & 1)


def us(value: int) -> bytes:
    return struct.pack("<H", value)


STORE = [(0x2, b"1.2.3\0"), (0x100, us(1)), (0x110, us(7)), (0x700, us(0)), (0x800, us(0)), (0x1000, b"1.2.3.4\0")]


def without(element: int) -> bytes:
    return encode_elements([pair for pair in STORE if pair[0] != element])


def changed(element: int, value: bytes) -> bytes:
    return encode_elements(sorted([pair for pair in STORE if pair[0] != element] + [(element, value)]))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (store_rq(9), Command(0x0001, 9, True, CT, "1.2.3.1")),
        (store_rsp(9, 0xA700), Command(0x8001, 9, False, CT, "1.2.3.1", status=0xA700)),
        (find_rq(3), Command(0x0020, 3, True, "1.2.840.10008.5.1.4.1.2.2.1")),
        (find_answers(3, 0), Command(0x8020, 3, False, "1.2.840.10008.5.1.4.1.2.2.1", status=0)),
        (echo_rq(4), Command(0x0030, 4, False, "1.2.840.10008.1.1")),
        (
            message(
                "C_MOVE_RQ",
                CONTEXT_ID[STUDY_MOVE],
                data=identifier(),
                MessageID=5,
                AffectedSOPClassUID=STUDY_MOVE,
                MoveDestination="VIEWER9",
                Priority=2,
            ),
            Command(0x0021, 5, True, STUDY_MOVE, move_destination="VIEWER9"),
        ),
        (
            message("N_ACTION_RQ", 1, MessageID=6, RequestedSOPClassUID="1.2.7", RequestedSOPInstanceUID="1.2.7.1", ActionTypeID=1),
            Command(0x0130, 6, False, "1.2.7", "1.2.7.1"),
        ),
    ],
)
def test_commands_of_pynetdicom_are_read(raw: bytes, expected: Command) -> None:
    assert decode_command(command_of(raw)) == expected


def test_a_cancel_is_read() -> None:
    command = decode_command(encode_elements([(0x100, us(0xFFF)), (0x120, us(3)), (0x800, us(0x101))]))
    assert (command.command_field, command.message_id, command.is_cancel, command.is_response) == (C_CANCEL_RQ, 3, True, False)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        pytest.param(b"", "group length", id="nothing"),
        pytest.param(without(0x100), "Command Field", id="no command field"),
        pytest.param(changed(0x100, us(0x0999)), "unknown", id="unknown service"),
        pytest.param(changed(0x100, b"\1"), "not 16 bits", id="short command field"),
        pytest.param(without(0x110), "Message ID", id="no message ID"),
        pytest.param(changed(0x120, us(1)), "do not fit", id="both message IDs"),
        pytest.param(without(0x800), "Data Set Type", id="no data set type"),
        pytest.param(changed(0x800, us(0x101)), "lacks a data set", id="a C-STORE without data set"),
        pytest.param(without(0x2), "names no SOP Class", id="no class"),
        pytest.param(without(0x1000), "names no SOP Instance", id="no instance"),
        pytest.param(changed(0x2, b"1.2.x\0"), "not a UID", id="letters in a UID"),
        pytest.param(encode_elements([*STORE, STORE[-1]]), "duplicate", id="an element twice"),
        pytest.param(encode_elements(STORE[::-1]), "unordered", id="backwards"),
        pytest.param(encode_elements(STORE)[:-1], "longer than", id="cut value"),
        pytest.param(encode_elements(STORE)[:-9], "longer than|too early", id="cut"),
        pytest.param(encode_elements(STORE) + bytes(3), "too early", id="rest"),
        pytest.param(encode_elements(STORE)[12:], "group length", id="no group length"),
        pytest.param(b"\0\0\0\0\4\0\0\0\1\0\0\0" + encode_elements(STORE)[12:], "group length", id="wrong group length"),
        pytest.param(encode_elements(STORE) + b"\x08\0\x05\0\0\0\0\0", "outside group", id="another group"),
        pytest.param(
            encode_elements([(0x100, us(0xFFF)), (0x120, us(3)), (0x800, us(0))]), "C-CANCEL-RQ has", id="a cancel with data"
        ),
        pytest.param(
            encode_elements([(0x100, us(0x8001)), (0x120, us(3)), (0x800, us(0)), (0x900, us(0))]),
            "has a data set",
            id="C-STORE-RSP",
        ),
        pytest.param(encode_elements([(0x100, us(0x8030)), (0x120, us(3)), (0x800, us(0x101))]), "Status", id="no status"),
        pytest.param(
            encode_elements([(0x2, b"1.2\0"), (0x100, us(0x21)), (0x110, us(3)), (0x800, us(0))]), "AE title", id="no destination"
        ),
    ],
)
def test_what_could_be_read_differently_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(Violation, match=word):
        decode_command(data)


def test_elements_of_group_0000_that_mean_nothing_here_are_ignored() -> None:
    assert decode_command(changed(0x1031, us(4))) == decode_command(encode_elements(STORE))


@pytest.mark.parametrize("service", list(SERVICES.values()), ids=lambda service: service.name)
def test_pynetdicom_reads_our_refusal_of_every_service(service: Service) -> None:
    field, name = service.command_field, service.name.replace("-", "_")
    request = Command(field, 77, False, "1.2.840.10008.1.1", "1.2.3.4" if service.instance else "")
    raw = encode_response(request, Status.NOT_AUTHORIZED)
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, b"\x03" + raw]]
    theirs = dimse_messages.DIMSEMessage()
    theirs.encoded_command_set = BytesIO()
    assert theirs.decode_msg(primitive)
    assert type(theirs).__name__ == f"{name}_RSP"
    response = theirs.message_to_primitive()
    assert (response.MessageIDBeingRespondedTo, response.Status, response.AffectedSOPClassUID) == (77, 0x0124, "1.2.840.10008.1.1")
    ours = decode_command(raw)
    assert (ours.is_response, ours.has_data_set, ours.status) == (True, False, 0x0124)
