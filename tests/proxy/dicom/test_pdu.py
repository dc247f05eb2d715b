"""PDUs: what pynetdicom encodes we read, what we encode pynetdicom reads, and damage is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from securepacs.codes import DICOM_APPLICATION_CONTEXT, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from securepacs_proxy.dicom import pdu
from securepacs_proxy.dicom.pdu import (
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ContextResult,
    PduType,
    PresentationContext,
    PresentationContextResult,
)
from securepacs_proxy.dicom.user_information import UserInformation
from securepacs_proxy.dicom.wire import AbortReason, Violation
from tests.support.dicom_wire import CT, MR, abort, associate_ac, associate_rj, associate_rq, pdv_pdu, release_rp, release_rq

REQUEST = AssociateRQ(
    "ARCHIVE",
    "CT1",
    DICOM_APPLICATION_CONTEXT,
    (
        PresentationContext(1, CT, (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)),
        PresentationContext(3, MR, ("1.2.840.10008.1.2.4.50",)),
    ),
    UserInformation(16384, "1.2.3"),
)


def test_a_request_of_pynetdicom_is_read() -> None:
    read = pdu.decode_associate_rq(associate_rq(classes=[CT, MR])[6:])
    assert (read.called_ae_title, read.calling_ae_title, read.application_context) == ("ARCHIVE", "CT1", DICOM_APPLICATION_CONTEXT)
    assert [each.abstract_syntax for each in read.presentation_contexts] == [CT, MR]
    assert read.presentation_contexts[0].transfer_syntaxes == (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
    assert read.user_information.maximum_length == 16384


def test_pynetdicom_reads_our_request() -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(pdu.encode(REQUEST))
    assert theirs.calling_ae_title.strip() == "CT1"
    assert [(each.context_id, each.abstract_syntax) for each in theirs.presentation_context] == [(1, CT), (3, MR)]


def test_requests_survive_a_round_trip() -> None:
    assert pdu.decode_associate_rq(pdu.encode(REQUEST)[6:]) == REQUEST


def test_acceptances_go_both_ways() -> None:
    read = pdu.decode_associate_ac(associate_ac(associate_rq(classes=[CT, MR]), reject=[MR])[6:])
    assert [each.result for each in read.presentation_contexts] == [
        ContextResult.ACCEPTANCE,
        ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ]
    ours = AssociateAC(
        "ARCHIVE",
        "CT1",
        DICOM_APPLICATION_CONTEXT,
        (
            PresentationContextResult(1, ContextResult.ACCEPTANCE, IMPLICIT_VR_LITTLE_ENDIAN),
            PresentationContextResult(3, ContextResult.USER_REJECTION, IMPLICIT_VR_LITTLE_ENDIAN),
        ),
        UserInformation(16384, "1.2.3"),
    )
    theirs = A_ASSOCIATE_AC()
    theirs.decode(pdu.encode(ours))
    assert [(each.context_id, each.result) for each in theirs.presentation_context] == [(1, 0), (3, 1)]


def test_rejection_abort_and_release_are_those_of_pynetdicom() -> None:
    assert pdu.encode(AssociateRJ(1, 1, 7)) == associate_rj(1, 1, 7)
    assert pdu.decode_associate_rj(associate_rj(2, 3, 1)[6:]) == AssociateRJ(2, 3, 1)
    assert pdu.encode(Abort(0, 0)) == abort()
    assert pdu.decode_abort(abort()[6:]) == Abort(0, 0)
    assert (release_rq(), release_rp()) == (pdu.RELEASE_RQ, pdu.RELEASE_RP)
    theirs = A_ABORT_RQ()
    theirs.decode(pdu.encode(Abort(2, AbortReason.UNEXPECTED_PDU)))
    assert (theirs.source, theirs.reason_diagnostic) == (2, 2)
    rejected = A_ASSOCIATE_RJ()
    rejected.decode(pdu.encode(AssociateRJ(1, 2, 2)))
    assert (rejected.result, rejected.source, rejected.reason_diagnostic) == (1, 2, 2)


def test_pynetdicom_reads_our_command_pdu() -> None:
    theirs = P_DATA_TF()
    theirs.decode(pdu.encode_command_pdu(5, b"command!"))
    (value,) = theirs.presentation_data_value_items
    assert (value.presentation_context_id, value.presentation_data_value) == (5, b"\x03command!")


def test_pdvs_are_cut_in_place() -> None:
    raw = memoryview(pdv_pdu((1, 3, b"abc"), (1, 2, b"")))
    first, second = pdu.pdvs(raw[6:])
    assert (first.context_id, first.control, bytes(first.fragment)) == (1, 3, b"abc")
    assert first.fragment.obj is raw.obj
    assert bytes(second.item) == b"\0\0\0\x02\x01\x02"


def test_names_are_the_standards() -> None:
    assert [kind.standard_name for kind in (PduType.ASSOCIATE_RQ, PduType.P_DATA_TF, PduType.RELEASE_RP)] == [
        "A-ASSOCIATE-RQ",
        "P-DATA-TF",
        "A-RELEASE-RP",
    ]


def edited(change: Callable[[bytes], bytes]) -> bytes:
    return change(associate_rq(classes=[CT, MR])[6:])


def with_item(kind: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda body: body + bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def without(kind: int) -> bytes:
    """The request without its items of one kind."""
    body = associate_rq(classes=[CT])[6:]
    kept, pos = body[:68], 68
    while pos < len(body):
        stop = pos + 4 + int.from_bytes(body[pos + 2 : pos + 4], "big")
        kept += b"" if body[pos] == kind else body[pos:stop]
        pos = stop
    return kept


@pytest.mark.parametrize(
    ("body", "word"),
    [
        pytest.param(edited(lambda body: body[:50]), "ends too early", id="short"),
        pytest.param(edited(lambda body: body[:-1]), "ends too early", id="cut"),
        pytest.param(edited(lambda body: body + b"\0"), "ends too early", id="one byte more"),
        pytest.param(edited(with_item(0x77, b"")), "unexpected item 77H", id="unknown item"),
        pytest.param(edited(with_item(0x21, b"")), "unexpected item 21H", id="an item of the answer"),
        pytest.param(edited(with_item(0x10, b"1.2")), "unexpected item 10H", id="two application contexts"),
        pytest.param(edited(with_item(0x50, b"")), "unexpected item 50H", id="two user informations"),
        pytest.param(edited(with_item(0x20, b"\x01\0\0\0\x30\0\0\x031.2\x40\0\0\x031.3")), "odd and unique", id="an ID twice"),
        pytest.param(edited(with_item(0x20, b"\x02\0\0\0\x30\0\0\x031.2\x40\0\0\x031.3")), "odd and unique", id="an even ID"),
        pytest.param(edited(with_item(0x20, b"\x09\0\0\0\x30\0\0\x031.2")), "one abstract syntax", id="no transfer syntax"),
        pytest.param(edited(with_item(0x20, b"\x09\0\0\0\x40\0\0\x031.2")), "one abstract syntax", id="no abstract syntax"),
        pytest.param(edited(with_item(0x20, b"\x09\0\0\0\x41\0\0\x031.2")), "unexpected sub-item", id="unknown sub-item"),
        pytest.param(edited(with_item(0x20, b"\x09\0\0\0\x30\0\0\x031.x")), "not a UID", id="letters in a UID"),
        pytest.param(edited(with_item(0x20, b"\x09\0\0\0\x30\0\0\x41" + b"1" * 65)), "not a UID", id="a long UID"),
        pytest.param(edited(lambda body: body[:4] + b" " * 16 + body[20:]), "not an AE title", id="blank AE title"),
        pytest.param(edited(lambda body: body[:4] + b"A\\B".ljust(16) + body[20:]), "not an AE title", id="backslash in AE title"),
        pytest.param(edited(lambda body: body[:20] + b"A\nB".ljust(16) + body[36:]), "not an AE title", id="control in AE title"),
        pytest.param(edited(lambda body: body + b"\x20\0\0\0" * 300), "presentation context ends", id="empty contexts"),
        pytest.param(without(0x10), "lacks", id="no application context"),
        pytest.param(without(0x20), "lacks", id="no presentation context"),
        pytest.param(without(0x50), "lacks", id="no user information"),
    ],
)
def test_damaged_requests_are_refused(body: bytes, word: str) -> None:
    with pytest.raises(Violation, match=word):
        pdu.decode_associate_rq(body)


def test_too_many_items_are_refused() -> None:
    context = b"\x20\0\0\x12\x01\0\0\0\x30\0\0\x031.2\x40\0\0\x031.3"
    with pytest.raises(Violation, match="too many items"):
        pdu.decode_associate_rq(associate_rq(classes=[CT])[6:] + context * 300)


def answer_with(kind: int, value: bytes) -> bytes:
    return with_item(kind, value)(associate_ac(associate_rq(classes=[CT]))[6:])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        pytest.param(answer_with(0x20, b""), "unexpected item 20H", id="an item of the request"),
        pytest.param(answer_with(0x21, b"\x05\0\x09\0"), "unknown result", id="unknown result"),
        pytest.param(answer_with(0x21, b"\x05\0\0\0"), "exactly one", id="accepted without transfer syntax"),
        pytest.param(answer_with(0x21, b"\x05\0\0\0\x30\0\0\x031.2"), "unexpected sub-item", id="abstract syntax"),
        pytest.param(associate_ac(associate_rq(classes=[CT]))[6:80], "ends too early", id="cut"),
        pytest.param(associate_ac(associate_rq(classes=[CT]))[6:74], "lacks user information", id="no items"),
    ],
)
def test_damaged_acceptances_are_refused(body: bytes, word: str) -> None:
    with pytest.raises(Violation, match=word):
        pdu.decode_associate_ac(body)


def test_a_rejected_context_may_lack_a_transfer_syntax() -> None:
    read = pdu.decode_associate_ac(answer_with(0x21, b"\x05\0\x03\0"))
    assert read.presentation_contexts[-1] == PresentationContextResult(5, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, "")


@pytest.mark.parametrize("body", [b"\0\1\1", b"\0\3\1\1", b"\0\1\4\1", b"\0\0\1\1\1"])
def test_damaged_rejections_are_refused(body: bytes) -> None:
    with pytest.raises(Violation, match="damaged"):
        pdu.decode_associate_rj(body)


def test_a_damaged_abort_is_refused() -> None:
    with pytest.raises(Violation, match="damaged"):
        pdu.decode_abort(b"\0\0\0")


def test_an_unknown_item_is_told_apart_in_the_abort() -> None:
    with pytest.raises(Violation) as caught:
        pdu.decode_associate_rq(edited(with_item(0x77, b"")))
    assert caught.value.abort_reason is AbortReason.UNRECOGNIZED_PDU_PARAMETER


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    raw = bytearray(associate_rq(items=[role])[6:])
    raw[position % len(raw)] = value
    with suppress(Violation):
        pdu.decode_associate_rq(bytes(raw))
