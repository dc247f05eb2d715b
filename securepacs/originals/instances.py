"""Originals through their life at one AE: creation, copies that leave, instances that arrive (PS3.15 A.1, T1 and T5 to T7).

The registry is asked first and files are stamped after it: a crash in between leaves a file whose stamp is behind the registry, and
`stamped` brings it up to date at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from securepacs.dicom import map_file
from securepacs.dicom.elements import Buffer
from securepacs.errors import IllegalTransition, IntegrityFailure
from securepacs.originals.registry import Holding, OriginalRegistry
from securepacs.originals.stamp import check_texts, facts_of, read_stamp, stamp, stamp_holding
from securepacs.originals.states import CLAUSE, ORIGINALS, Rule, SOPInstanceStatus, check_transition

Target: TypeAlias = "Path | Buffer"


def load(target: Target) -> Buffer:
    """Return the content of a DICOM file given as path or as bytes."""
    return map_file(target) if isinstance(target, Path) else target


def create(
    targets: Sequence[Target], registry: OriginalRegistry, *, holder: str, at: datetime, equipment: str = "", actor: str = ""
) -> Iterator[bytes]:
    """Register new instances as originals of the AE `holder` (T1) and return an iterator of the files stamped OR, in order.

    All are registered when this returns, or none. Repeating an interrupted call is safe. `actor` is who did it, the AE by default.
    IllegalTransition when one is known already, IntegrityFailure when it was registered with other content. Whether the modules
    that T1 asks for are complete is not checked.
    """
    check_texts(comment="", equipment=equipment)
    facts = [facts_of(load(target)) for target in targets]
    registry.register(facts, holder=holder, at=at, actor=actor or holder, equipment=equipment)
    return (stamped(target, registry) for target in targets)


def stamped(target: Target, registry: OriginalRegistry) -> bytes:
    """Return the file of an original stamped as the registry says; the repair of a stamp that is behind.

    IllegalTransition when no AE holds it as an original here, IntegrityFailure when it differs from what was registered.
    """
    data = load(target)
    holding = _original(data, registry)
    if holding is None:
        raise IllegalTransition("the instance is not held as an original here", hint="register it first", standard=CLAUSE)
    return stamp_holding(data, holding)


def copy_of(target: Target, registry: OriginalRegistry, *, to_profile_peer: bool, status: SOPInstanceStatus | None = None) -> bytes:
    """Return the file as it may leave this AE (T5, T6); the local status stays.

    To an AE of the profile over a secure connection a copy of an AO leaves as AC, or as NS when `status` says so. Everything else
    leaves as NS: an OR, what nobody holds as original here, and anything to a peer outside the profile. IllegalTransition when
    `status` asks for more; IntegrityFailure when the file differs from what was registered.
    """
    data = load(target)
    holding = _original(data, registry)
    local = SOPInstanceStatus.NS if holding is None else holding.status
    rule = Rule.SEND_COPY if to_profile_peer and local is SOPInstanceStatus.AO else Rule.SEND_OUTSIDE
    default = SOPInstanceStatus.AC if rule is Rule.SEND_COPY else SOPInstanceStatus.NS
    leaving = default if status is None else status
    check_transition(rule, local, leaving)
    if holding is None or leaving is SOPInstanceStatus.NS:
        return stamp(data, SOPInstanceStatus.NS)
    return stamp(data, leaving, at=holding.since, equipment=holding.equipment, comment=holding.comment)


def incoming(target: Target, registry: OriginalRegistry, *, from_profile_peer: bool) -> bytes:
    """Return a received file as it may be stored (T7, T5).

    From a peer outside the profile, or over an insecure connection, it is stored as NS whatever it says. A copy from an AE of the
    profile keeps AC or NS. IllegalTransition for an instance that is held as an original here, which nothing may replace (I1, I3),
    and for an original that is offered: accepting one needs a transfer with storage commitment (T3).
    """
    data = load(target)
    facts = facts_of(data)
    offered = read_stamp(data).status
    if registry.original(facts.sop_instance_uid) is not None:
        raise IllegalTransition(
            f"instance {facts.sop_instance_uid} is held as an original here and cannot be replaced (I1)", standard=CLAUSE
        )
    if not from_profile_peer:
        check_transition(Rule.RECEIVE_OUTSIDE, offered, SOPInstanceStatus.NS)
        return stamp(data, SOPInstanceStatus.NS)
    if offered in ORIGINALS:
        raise IllegalTransition(
            f"an instance with status {offered.value} can only be accepted by a transfer (T3)",
            hint="ask the sender for a copy (AC)",
            standard=CLAUSE,
        )
    return bytes(data)


def _original(data: Buffer, registry: OriginalRegistry) -> Holding | None:
    facts = facts_of(data)
    holding = registry.original(facts.sop_instance_uid)
    if holding is not None and holding.facts != facts:
        raise IntegrityFailure(
            f"instance {facts.sop_instance_uid} differs from what was registered (I3)",
            hint="a changed image is a new SOP Instance with a new UID",
            standard=CLAUSE,
        )
    return holding
