from __future__ import annotations

from dataclasses import replace

import pytest

from securepacs.codes import DICOM_APPLICATION_CONTEXT, IMPLICIT_VR_LITTLE_ENDIAN
from securepacs_proxy.dicom import negotiation
from securepacs_proxy.dicom.negotiation import Context, downstream_answer, protocol_rejection, smaller_length, upstream_request
from securepacs_proxy.dicom.pdu import AssociateAC, AssociateRQ, ContextResult, PresentationContext, PresentationContextResult
from securepacs_proxy.dicom.user_information import (
    RoleSelection,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentity,
    UserInformation,
)
from securepacs_proxy.dicom.wire import Violation
from tests.support.dicom_wire import CT, MR

CONTEXTS = tuple(PresentationContext(identity, uid, (IMPLICIT_VR_LITTLE_ENDIAN,)) for identity, uid in ((1, CT), (3, MR)))
REQUEST = AssociateRQ(
    "ARCHIVE",
    "CT1",
    DICOM_APPLICATION_CONTEXT,
    CONTEXTS,
    UserInformation(
        maximum_length=16384,
        roles=(RoleSelection(CT, True, True), RoleSelection(MR, True, False)),
        extended=(SOPClassExtendedNegotiation(MR, b"x"),),
        common_extended=(SOPClassCommonExtendedNegotiation(CT, "1.2.840.10008.4.2"),),
        user_identity=UserIdentity(1, True, b"kim", b""),
    ),
)
ACCEPTED = tuple(PresentationContextResult(each.id, ContextResult.ACCEPTANCE, IMPLICIT_VR_LITTLE_ENDIAN) for each in CONTEXTS)


def answer(**items: object) -> AssociateAC:
    return AssociateAC("", "", "", ACCEPTED, replace(UserInformation(maximum_length=16384), **items))


def test_the_identity_never_goes_up_and_only_what_belongs_to_permitted_contexts_does() -> None:
    sent = upstream_request(REQUEST, CONTEXTS[:1], 32768)
    assert sent.presentation_contexts == CONTEXTS[:1]
    information = sent.user_information
    assert information.user_identity is None
    assert information.roles == REQUEST.user_information.roles[:1]
    assert (information.extended, len(information.common_extended)) == ((), 1)
    assert information.implementation_class_uid == negotiation.IMPLEMENTATION_CLASS_UID


def test_roles_of_a_context_come_from_the_answer() -> None:
    _, contexts = downstream_answer(REQUEST, REQUEST, answer(roles=(RoleSelection(CT, True, True),)), 32768)
    assert contexts == {
        1: Context(1, CT, IMPLICIT_VR_LITTLE_ENDIAN, scu=True, scp=True),
        3: Context(3, MR, IMPLICIT_VR_LITTLE_ENDIAN, scu=True, scp=False),
    }


@pytest.mark.parametrize(
    ("items", "word"),
    [
        ({"roles": (RoleSelection(MR, True, True),)}, "role"),
        ({"extended": (SOPClassExtendedNegotiation(CT, b"x"),)}, "extended negotiation"),
        ({"user_identity_response": b""}, "identity"),
    ],
)
def test_what_was_not_proposed_is_a_violation(items: dict[str, object], word: str) -> None:
    with pytest.raises(Violation, match=word):
        downstream_answer(REQUEST, REQUEST, answer(**items), 32768)


def test_an_extended_negotiation_that_was_proposed_is_passed_on() -> None:
    passed_on, _ = downstream_answer(REQUEST, REQUEST, answer(extended=REQUEST.user_information.extended), 32768)
    assert passed_on.user_information.extended == REQUEST.user_information.extended


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"), [(0, 5000, 5000), (4096, 5000, 4096), (9000, 5000, 5000), (1024, 5000, 1024)]
)
def test_the_smaller_length_counts_and_zero_is_no_limit(theirs: int, ours: int, expected: int) -> None:
    assert smaller_length(theirs, ours) == expected


def test_a_length_that_holds_no_response_is_a_violation() -> None:
    with pytest.raises(Violation, match="too small"):
        smaller_length(1023, 5000)


def test_what_the_standard_itself_rejects() -> None:
    assert protocol_rejection(REQUEST) is None
    assert protocol_rejection(replace(REQUEST, protocol_version=3)) is None  # bit 0 is what counts
    assert protocol_rejection(replace(REQUEST, protocol_version=2)) == negotiation.REJECT_PROTOCOL_VERSION
    assert protocol_rejection(replace(REQUEST, application_context="1.2")) == negotiation.REJECT_APPLICATION_CONTEXT
