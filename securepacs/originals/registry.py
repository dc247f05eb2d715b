"""Who holds which original, and how it came to that: the seam `OriginalRegistry` and its data (PS3.15 A.1, I1-I3).

The registry is the truth; the four attributes inside a file are a copy of it that can be written anew at any time. The built-in
implementation is `originals.sql_registry.SqlRegistry`; every implementation runs the contract in tests/originals/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from securepacs.originals.states import Rule, SOPInstanceStatus


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What never changes of an instance (I3, I5).

    `content_sha256` is the hex digest of the data set without the four status attributes (`originals.stamp.content_digest`).
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    content_sha256: str


@dataclass(frozen=True, slots=True)
class Holding:
    """The status that an AE keeps for an instance, since when, and what belongs into the status attributes."""

    facts: InstanceFacts
    ae_title: str
    status: SOPInstanceStatus
    since: datetime
    equipment: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The signed Key Object behind a change: its SOP Instance UID and the Digital Signature UID."""

    sop_instance_uid: str
    signature_uid: str


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of status; never altered, never removed. `before` is None for a new instance."""

    sop_instance_uid: str
    ae_title: str
    rule: Rule
    before: SOPInstanceStatus | None
    after: SOPInstanceStatus
    at: datetime
    actor: str
    evidence: Evidence | None = None


class OriginalRegistry(Protocol):
    """Durable record of originals. Every writing method is all or nothing, and durable when it returns.

    All methods raise Unavailable when the record cannot be read or written.
    """

    def register(
        self, instances: Sequence[InstanceFacts], *, holder: str, at: datetime, actor: str, equipment: str = "", comment: str = ""
    ) -> None:
        """Make `holder` the holder of new instances with status OR (T1).

        An instance that this holder registered before, unchanged and still OR, is passed over, so an interrupted call can be
        repeated. IllegalTransition when an instance is known otherwise (I1); IntegrityFailure when its content differs (I3).
        """
        ...

    def authorize(
        self,
        expected: Mapping[str, str],
        *,
        at: datetime,
        actor: str,
        evidence: Evidence,
        holder: str | None = None,
        equipment: str = "",
        comment: str = "",
    ) -> tuple[Holding, ...]:
        """Change instances from OR to AO (T2) and return their new holdings.

        `expected` maps SOP Instance UID to content digest. The instances must all be held by one AE (`holder`, when given) and
        must be all instances with status OR that it holds of each study concerned. IllegalTransition or IntegrityFailure
        otherwise, with nothing changed.
        """
        ...

    def original(self, sop_instance_uid: str) -> Holding | None:
        """Return the one holding with status OR or AO, None when there is none."""
        ...

    def holdings(self, sop_instance_uid: str) -> tuple[Holding, ...]:
        """Return what every AE keeps for the instance, by AE title."""
        ...

    def originals_of_study(self, study_instance_uid: str) -> tuple[Holding, ...]:
        """Return the holdings with status OR or AO of a study, by SOP Instance UID."""
        ...

    def history(self, sop_instance_uid: str) -> tuple[HistoryEntry, ...]:
        """Return every change of the instance, oldest first."""
        ...

    def check_deletable(self, sop_instance_uid: str, *, ae_title: str) -> None:
        """Refuse, with IllegalTransition, that `ae_title` deletes an instance it holds as OR or AO (I2)."""
        ...
