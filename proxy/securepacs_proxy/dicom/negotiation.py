"""What the gateway changes in association PDUs, hop by hop: it is itself the implementation on both hops (PS3.8 7.1, PS3.7 D.3).

Pure functions from PDU to PDU. Only permitted contexts go on, the identity item never does, and the maximum length is the smaller
one, so that every P-DATA-TF can be passed on as received. What an answer holds beyond what was proposed is a Violation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from securepacs import codes
from securepacs_proxy.dicom.pdu import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ContextResult,
    PresentationContext,
    PresentationContextResult,
)
from securepacs_proxy.dicom.user_information import RoleSelection, UserInformation
from securepacs_proxy.dicom.wire import Violation

IMPLEMENTATION_CLASS_UID = "2.25.214749264698832229385466135180909949532"
IMPLEMENTATION_VERSION_NAME = "SECUREPACS_GW"
MIN_PDU_LENGTH = 1024  # a smaller maximum could not take the gateway's own responses in one PDU

# A-ASSOCIATE-RJ (PS3.8 Table 9-21): result, source, reason
REJECT_DENIED = AssociateRJ(1, 1, 1)
REJECT_CALLING_AE_TITLE = AssociateRJ(1, 1, 3)
REJECT_CALLED_AE_TITLE = AssociateRJ(1, 1, 7)
REJECT_APPLICATION_CONTEXT = AssociateRJ(1, 1, 2)
REJECT_PROTOCOL_VERSION = AssociateRJ(1, 2, 2)
REJECT_USER_IDENTITY = AssociateRJ(1, 2, 1)  # PS3.7 D.3.3.7.3: by the ACSE; no reason is defined for it
REJECT_UNREACHABLE = AssociateRJ(2, 3, 1)


@dataclass(frozen=True, slots=True)
class Context:
    """A presentation context both hops have accepted; the roles are those of the association requestor (PS3.7 D.3.3.4)."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    scu: bool = True
    scp: bool = False


def protocol_rejection(request: AssociateRQ) -> AssociateRJ | None:
    """Return the rejection that PS3.8 asks for before anyone is asked, None when the request can be judged."""
    if not request.protocol_version & 1:
        return REJECT_PROTOCOL_VERSION
    if request.application_context != codes.DICOM_APPLICATION_CONTEXT:
        return REJECT_APPLICATION_CONTEXT
    return None


def smaller_length(theirs: int, ours: int) -> int:
    """Return the maximum P-DATA-TF length for the other hop; 0 from a peer is no limit."""
    if theirs and theirs < MIN_PDU_LENGTH:
        raise Violation("maximum length is too small")
    return min(theirs or ours, ours)


def upstream_request(request: AssociateRQ, permitted: tuple[PresentationContext, ...], max_length: int) -> AssociateRQ:
    """Write the request for the archive: `permitted` contexts, what belongs to them, and no identity."""
    classes = {context.abstract_syntax for context in permitted}
    theirs = request.user_information
    information = UserInformation(
        maximum_length=smaller_length(theirs.maximum_length, max_length),
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        asynchronous_operations_window=theirs.asynchronous_operations_window,
        roles=tuple(role for role in theirs.roles if role.SOPClassUID in classes),
        extended=tuple(each for each in theirs.extended if each.SOPClassUID in classes),
        common_extended=tuple(each for each in theirs.common_extended if each.SOPClassUID in classes),
    )
    return replace(request, protocol_version=1, presentation_contexts=permitted, user_information=information)


def downstream_answer(
    request: AssociateRQ, sent: AssociateRQ, answer: AssociateAC, max_length: int
) -> tuple[AssociateAC, dict[int, Context]]:
    """Write the acceptance for the requestor of `request` after `answer` to `sent`; also return the contexts that now stand."""
    theirs = answer.user_information
    roles = _accepted_roles(sent.user_information.roles, theirs.roles)
    proposed = {context.id: context for context in sent.presentation_contexts}
    contexts = {}
    results = {}
    for result in answer.presentation_contexts:
        context = proposed.get(result.id)
        if context is None:
            raise Violation("A-ASSOCIATE-AC answers a presentation context that was not proposed")
        results[result.id] = result.result
        if result.result is ContextResult.ACCEPTANCE:
            if result.transfer_syntax not in context.transfer_syntaxes:
                raise Violation("A-ASSOCIATE-AC accepts a transfer syntax that was not proposed")
            role = roles.get(context.abstract_syntax)
            scu, scp = (role.scu, role.scp) if role else (True, False)
            contexts[result.id] = Context(result.id, context.abstract_syntax, result.transfer_syntax, scu, scp)
    _only_proposed(sent.user_information, theirs)
    identity = request.user_information.user_identity  # it was accepted, or the request would not have gone on
    information = UserInformation(
        maximum_length=smaller_length(theirs.maximum_length, max_length),
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        asynchronous_operations_window=theirs.asynchronous_operations_window,
        roles=theirs.roles,
        extended=theirs.extended,
        user_identity_response=b"" if identity is not None and identity.positive_response_requested else None,
    )
    answers = tuple(_answer(each, each.id in proposed, results, contexts) for each in request.presentation_contexts)
    titles = request.called_ae_title, request.calling_ae_title
    return AssociateAC(*titles, codes.DICOM_APPLICATION_CONTEXT, answers, information), contexts


def _answer(
    context: PresentationContext, sent: bool, results: dict[int, ContextResult], contexts: dict[int, Context]
) -> PresentationContextResult:
    if not sent:
        return PresentationContextResult(context.id, ContextResult.USER_REJECTION, context.transfer_syntaxes[0])
    result = results.get(context.id, ContextResult.NO_REASON)  # an archive that leaves one out has not accepted it
    accepted = contexts.get(context.id)
    return PresentationContextResult(context.id, result, accepted.transfer_syntax if accepted else context.transfer_syntaxes[0])


def _accepted_roles(proposed: tuple[RoleSelection, ...], answered: tuple[RoleSelection, ...]) -> dict[str, RoleSelection]:
    offers = {role.SOPClassUID: role for role in proposed}
    for role in answered:
        offer = offers.get(role.SOPClassUID)
        if offer is None or (role.scu and not offer.scu) or (role.scp and not offer.scp):
            raise Violation("A-ASSOCIATE-AC accepts a role that was not proposed")
    return {role.SOPClassUID: role for role in answered}


def _only_proposed(sent: UserInformation, answered: UserInformation) -> None:
    if answered.asynchronous_operations_window is not None and sent.asynchronous_operations_window is None:
        raise Violation("A-ASSOCIATE-AC answers an asynchronous operations window that was not proposed")
    if {each.SOPClassUID for each in answered.extended} - {each.SOPClassUID for each in sent.extended}:
        raise Violation("A-ASSOCIATE-AC answers an extended negotiation that was not proposed")
    if answered.user_identity_response is not None:
        raise Violation("A-ASSOCIATE-AC answers an identity that was not sent")
