"""What stands before the site's policy at every decision, whatever that policy says. Pure."""

from __future__ import annotations

from securepacs.policy.subject import AccessRequest, Decision, Effect, Policy, Subject
from securepacs_proxy.blocks import BlockList
from securepacs_proxy.identity import Scopes


class AssociationPolicy:
    """The policy as one association asks it: first blocks of AE titles and the scope of the trust anchor, then the site's policy.

    Implements `policy.subject.Policy`.

    `ae_titles` are the calling and the called one, once they were asked about. The parts may be replaced while the association
    lives; its relay must then forget what it remembers.
    """

    def __init__(self, policy: Policy, blocks: BlockList, scopes: Scopes | None = None) -> None:
        self.policy = policy
        self.blocks = blocks
        self.scopes: Scopes = scopes or {}
        self.ae_titles = ("", "")

    @property
    def version(self) -> str:
        """The version of the policy behind."""
        return self.policy.version

    @property
    def reads_study(self) -> bool:
        """Whether the policy behind reads patient or study."""
        return self.policy.reads_study

    def decide(self, request: AccessRequest) -> Decision:
        """Return the refusal of a blocked calling AE title or an anchor out of its scope, else what the policy behind says."""
        if request.action == "Associate":
            self.ae_titles = (request.calling_ae_title, request.archive)
        block = self.blocks.of_ae(request.calling_ae_title)
        if block is not None:
            return Decision(Effect.DENY, ("blocked",), block.text)
        scope = self.scopes.get(request.subject.anchor_sha256)
        outside = scope.refusal(request.calling_ae_title, request.archive) if scope is not None else ""
        return Decision(Effect.DENY, ("anchor-scope",), outside) if outside else self.policy.decide(request)

    def reception_refusal(self, subject: Subject, ae_title: str) -> str:
        """Return why a subject may not receive what is sent to an AE title, "" when nothing here stands against it."""
        block = self.blocks.of_ae(ae_title)
        if block is not None:
            return block.text
        scope = self.scopes.get(subject.anchor_sha256)
        if scope is not None and not scope.allowed_ae_titles([ae_title]):
            return f"its CA may not be used with the AE title {ae_title}"
        return ""
