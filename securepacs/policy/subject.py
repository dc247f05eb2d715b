"""Who asks, what is asked, and what was decided: the vocabulary of access control (XACML words).

Pure data. `Policy` is the seam that every decision point implements; `policy.cedar` is the built-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class SubjectKind(StrEnum):
    """What stands behind a certificate."""

    PERSON = "person"
    DEVICE = "device"


class Effect(StrEnum):
    """Outcome of a decision; everything that is not PERMIT is a refusal."""

    PERMIT = "PERMIT"
    DENY = "DENY"


@dataclass(frozen=True, slots=True)
class Subject:
    """An authenticated peer, read from its certificate and the enrolment in the configuration.

    `user_id` is the stable name used in audit records, `ae_titles` the set a device is bound to (empty for persons),
    `assurance` one of hardware, software, network; `user_names` are further names by which other systems know it. `anchor_sha256`
    names the trust anchor whose scope holds for the subject, empty when none does; `ignored_roles` are those that the certificate
    or an enrolment by name brought and the scope does not allow.
    """

    kind: SubjectKind
    user_id: str
    name: str
    roles: frozenset[str] = frozenset()
    organization: str = ""
    ae_titles: frozenset[str] = frozenset()
    assurance: str = "software"
    certificate_sha256: str = ""
    certificate_serial: str = ""
    issuer: str = ""
    user_names: frozenset[str] = frozenset()
    anchor_sha256: str = ""
    ignored_roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One question to the policy.

    `action` is `Associate` or the DIMSE service (`C-STORE`, `C-FIND`, `C-MOVE`, `C-GET`, `C-ECHO`, `N-CREATE`, ...); `archive` the
    called AE title. Empty strings stand for what is not known. `toward_archive` is False for sub-operations and reports that the
    archive sends back.

    `direction` is `ingress` for what peers ask of the archive, `egress` for what the archive sends out by itself through an inner
    port; there `archive` is the called AE title outside. `move_originator` is the AE title that a C-STORE names as having moved,
    `on_behalf_of` the user whose C-MOVE it belongs to.
    """

    subject: Subject
    action: str
    archive: str
    at: datetime
    calling_ae_title: str = ""
    sop_class_uid: str = ""
    level: str = ""
    query_keys: frozenset[str] = frozenset()
    move_destination: str = ""
    patient_id: str = ""
    study_instance_uid: str = ""
    toward_archive: bool = True
    tls_version: str = ""
    direction: str = "ingress"
    move_originator: str = ""
    on_behalf_of: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy said. `policies` are the identifiers that decided, `reason` one sentence without patient data."""

    effect: Effect
    policies: tuple[str, ...] = ()
    reason: str = ""
    obligations: Mapping[str, str] = field(default_factory=dict)

    @property
    def permitted(self) -> bool:
        """True only for PERMIT."""
        return self.effect is Effect.PERMIT


class Policy(Protocol):
    """Decides without waiting: pure, no I/O, no clock (the time is in the request)."""

    @property
    def version(self) -> str:
        """Identifier of the policy text, changes whenever a decision could change."""
        ...

    @property
    def reads_study(self) -> bool:
        """Whether any policy reads patient or study, so that the head of a stored data set must be known first."""
        ...

    def decide(self, request: AccessRequest) -> Decision:
        """Return the decision; never raises for a well-formed request, and refuses when nothing permits."""
        ...
