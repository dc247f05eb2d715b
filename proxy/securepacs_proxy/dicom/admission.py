"""Whether an association may be, and with which presentation contexts (PS3.8 9.3.2, 9.3.4). Pure; asks the policy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from securepacs.policy.subject import AccessRequest, Decision, Effect, Policy, SubjectKind
from securepacs_proxy.commands import Destination
from securepacs_proxy.dicom import negotiation, obligations
from securepacs_proxy.dicom.pdu import AssociateRJ, AssociateRQ, PresentationContext
from securepacs_proxy.dicom.settings import RelaySettings


@dataclass(frozen=True, slots=True)
class Admitted:
    """The association may be, with these contexts, at these archives."""

    contexts: tuple[PresentationContext, ...]
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class Denied:
    """The association may not be."""

    rejection: AssociateRJ
    decision: Decision


def judge(request: AssociateRQ, asked: AccessRequest, policy: Policy, settings: RelaySettings) -> Admitted | Denied:
    """Judge `request`; `asked` is the access request `Associate` with everything but a SOP Class.

    Steps: the called AE title has a route; a device calls with an AE title it is bound to, whatever the policy says; a user
    identity agrees with the certificate; the policy permits the association, and at least one of its abstract syntaxes. Contexts
    it does not are left out.
    """
    destinations = settings.routes.get(request.called_ae_title, ())
    if not destinations:
        return _denied(negotiation.REJECT_CALLED_AE_TITLE, "the called AE title is not recognized")
    if asked.subject.kind is SubjectKind.DEVICE and request.calling_ae_title not in asked.subject.ae_titles:
        reason = "the device is not bound to the calling AE title"
        return _denied(negotiation.REJECT_CALLING_AE_TITLE, reason, "ae-title-binding")
    identity = request.user_information.user_identity
    refusal = settings.identity_rules.refusal(identity, asked.subject, asked.at) if identity is not None else ""
    if identity is not None and refusal:
        return _denied(negotiation.REJECT_USER_IDENTITY, f"user identity of type {identity.type}: {refusal}", "user-identity")
    decision = policy.decide(asked)
    if decision.permitted and (reason := obligations.unmet(decision.obligations, asked)):
        return _denied(negotiation.REJECT_DENIED, reason, *decision.policies)
    if not decision.permitted:
        return Denied(negotiation.REJECT_DENIED, decision)
    classes = sorted({context.abstract_syntax for context in request.presentation_contexts})
    decisions = {uid: policy.decide(replace(asked, sop_class_uid=uid)) for uid in classes}
    permitted = tuple(each for each in request.presentation_contexts if decisions[each.abstract_syntax].permitted)
    if not permitted:
        return Denied(negotiation.REJECT_DENIED, decisions[classes[0]])
    return Admitted(permitted, destinations)


def _denied(rejection: AssociateRJ, reason: str, *policies: str) -> Denied:
    return Denied(rejection, Decision(Effect.DENY, policies, reason))
