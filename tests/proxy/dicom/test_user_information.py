from __future__ import annotations

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    ImplementationVersionNameNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from securepacs_proxy.dicom import pdu, user_information
from securepacs_proxy.dicom.user_information import (
    AsynchronousOperationsWindow,
    RoleSelection,
    UserIdentity,
    UserInformation,
    decode,
    encode,
)
from securepacs_proxy.dicom.wire import AbortReason, Violation
from tests.support.dicom_wire import CT, MR, associate_rq

EVERYTHING = UserInformation(
    maximum_length=65536,
    implementation_class_uid="1.2.3.4",
    implementation_version_name="SCU_1",
    asynchronous_operations_window=AsynchronousOperationsWindow(4, 0),
    roles=(RoleSelection(CT, True, True), RoleSelection(MR, True, False)),
    extended=(user_information.SOPClassExtendedNegotiation(CT, b"\x02\0\x03\0\0\0"),),
    common_extended=(user_information.SOPClassCommonExtendedNegotiation(CT, "1.2.840.10008.4.2", (MR, "1.2.5")),),
    user_identity=UserIdentity(2, True, b"kim", b"passcode"),
)


def item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def test_every_sub_item_survives_a_round_trip() -> None:
    assert decode(encode(EVERYTHING)[4:], request=True) == EVERYTHING
    answer = UserInformation(maximum_length=1, user_identity_response=b"ticket")
    assert decode(encode(answer)[4:], request=False) == answer


def test_every_sub_item_of_pynetdicom_is_read() -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 4, 0
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "SCU_1"
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, False, True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\x02\0\x03\0\0\0"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = CT, "1.2.840.10008.4.2"
    common.related_general_sop_class_identification = [MR]
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"kim", b"passcode"
    read = pdu.decode_associate_rq(associate_rq(items=[window, version, role, extended, common, identity])[6:]).user_information
    assert read.asynchronous_operations_window == AsynchronousOperationsWindow(4, 0)
    assert read.implementation_version_name == "SCU_1"
    assert read.roles == (RoleSelection(CT, False, True),)
    assert read.extended[0].application_information == b"\x02\0\x03\0\0\0"
    assert read.common_extended[0].related_general_sop_classes == (MR,)
    assert read.user_identity is not None
    assert (read.user_identity.primary, read.user_identity.secondary) == (b"kim", b"passcode")


def test_pynetdicom_reads_every_sub_item_of_ours() -> None:
    request = pdu.AssociateRQ(
        "A", "B", "1.2.840.10008.3.1.1.1", (pdu.PresentationContext(1, CT, ("1.2.840.10008.1.2",)),), EVERYTHING
    )
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(pdu.encode(request))
    information = theirs.user_information
    assert information.maximum_length == 65536
    assert information.async_ops_window.maximum_number_operations_invoked == 4
    assert sorted(information.role_selection) == [CT, MR]
    assert information.ext_neg[0].service_class_application_information == b"\x02\0\x03\0\0\0"
    assert information.common_ext_neg[0].related_general_sop_class_identification == [MR, "1.2.5"]
    assert information.user_identity.primary_field == b"kim"


def test_an_identity_has_no_text_that_could_be_logged() -> None:
    assert "passcode" not in repr(EVERYTHING)
    assert "kim" not in repr(EVERYTHING)


@pytest.mark.parametrize(
    ("value", "request_", "word", "reason"),
    [
        pytest.param(item(0x5A, b""), True, "unexpected sub-item 5AH", 4, id="unknown"),
        pytest.param(item(0x59, b"\0\0"), True, "unexpected sub-item 59H", 4, id="server response in a request"),
        pytest.param(item(0x58, b"\1\0\0\1k\0\0"), False, "unexpected sub-item 58H", 4, id="identity in an answer"),
        pytest.param(
            item(0x57, b"\0\1" + b"1" + b"\0\1" + b"1" + b"\0\0"), False, "unexpected sub-item 57H", 4, id="57H in an answer"
        ),
        pytest.param(item(0x51, bytes(4)) * 2, True, "repeated", 5, id="maximum length twice"),
        pytest.param(item(0x51, bytes(3)), True, "ends too early", 6, id="short maximum length"),
        pytest.param(item(0x51, bytes(5)), True, "after its last field", 6, id="long maximum length"),
        pytest.param(item(0x52, b"x"), True, "not a UID", 6, id="implementation class"),
        pytest.param(item(0x55, b"a" * 17), True, "longer than 16", 6, id="long version name"),
        pytest.param(item(0x55, b"a\x07"), True, "printable", 6, id="version name with a bell"),
        pytest.param(item(0x54, b"\0\x031.2\2\0"), True, "neither 0 nor 1", 6, id="role flag"),
        pytest.param(item(0x54, b"\0\x031.2\1\0") * 2, True, "names a SOP Class twice", 5, id="a role twice"),
        pytest.param(item(0x56, b"\0\x091.2"), True, "ends too early", 6, id="extended negotiation"),
        pytest.param(item(0x58, b"\6\0\0\0\0\0"), True, "unknown type", 6, id="identity type"),
        pytest.param(item(0x58, b"\1\0\0\1k\0\1p"), True, "passcode where", 6, id="passcode of a user name"),
        pytest.param(item(0x58, b"\1\0\0\1k"), True, "ends too early", 6, id="no secondary length"),
        pytest.param(item(0x54, b"\0\x011\1\0") * 1025, True, "too many sub-items", 6, id="many"),
    ],
)
def test_what_the_table_does_not_know_is_refused(value: bytes, request_: bool, word: str, reason: int) -> None:
    with pytest.raises(Violation, match=word) as caught:
        decode(value, request=request_)
    assert caught.value.abort_reason is AbortReason(reason)


def test_padded_uids_are_read() -> None:
    assert decode(item(0x52, b"1.2.3\0"), request=True).implementation_class_uid == "1.2.3"
