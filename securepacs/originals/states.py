"""The transitions of SOP Instance Status as a table (PS3.15 A.1, Online Electronic Storage Secure Use Profile).

Everything that decides whether a change of status is allowed lives here. A row that is not in `TRANSITIONS` is refused. The
invariants behind the table, by the names used in messages:

- I1  At most one Application Entity holds a SOP Instance as OR or AO.
- I2  The holder of OR or AO does not delete it.
- I3  Only (0100,0410), (0100,0420), (0100,0424) and (0100,0426) ever change; anything else makes a new SOP Instance.
- I4  What is received is kept in full and coerced in nothing but those four attributes.
- I5  A change of status keeps the SOP Instance UID.

Pure: no clock, no storage. `None` stands for "no such instance here": before its creation, or after its deletion.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from securepacs.errors import IllegalTransition

CLAUSE = "PS3.15 A.1"


class SOPInstanceStatus(StrEnum):
    """SOP Instance Status (0100,0410), PS3.3 C.12.1."""

    NS = "NS"  # not specified: no special status; what an absent attribute means
    OR = "OR"  # original: the primary instance, not yet authorized for diagnosis
    AO = "AO"  # authorized original: the primary instance, authorized for diagnosis
    AC = "AC"  # authorized copy: a copy of an AO


ORIGINALS = frozenset({SOPInstanceStatus.OR, SOPInstanceStatus.AO})


class Rule(StrEnum):
    """The seven ways a status may come about; the value is the number used in messages, history and documentation."""

    CREATE = "T1"
    AUTHORIZE = "T2"
    ACCEPT_TRANSFER = "T3"
    RELEASE = "T4"
    SEND_COPY = "T5"
    SEND_OUTSIDE = "T6"
    RECEIVE_OUTSIDE = "T7"


@dataclass(frozen=True, slots=True)
class Transition:
    """One permitted change: by `rule`, what had status `before` leads to something with status `after`."""

    rule: Rule
    before: SOPInstanceStatus | None
    after: SOPInstanceStatus | None


CONDITIONS: dict[Rule, tuple[str, str]] = {
    Rule.CREATE: ("the AE that creates an instance meant for diagnosis", "the instance is new; the AE becomes its holder"),
    Rule.AUTHORIZE: ("the holder", "an authorized entity certified the instance for diagnosis"),
    Rule.ACCEPT_TRANSFER: (
        "the receiver of a transferred original",
        "secure connection, mutual authentication with an AE of this profile, integrity checked, storage commitment completed",
    ),
    Rule.RELEASE: ("the sender of a transferred original", "storage commitment completed; concerns the sender's own copy"),
    Rule.SEND_COPY: ("the holder of an AO or AC", "what is sent to an AE of this profile; the local status stays"),
    Rule.SEND_OUTSIDE: ("any sender", "what is sent to a peer outside this profile, or as copy of an OR; the local status stays"),
    Rule.RECEIVE_OUTSIDE: ("any receiver", "what is stored when it came from a peer outside this profile"),
}

_NS, _OR, _AO, _AC = SOPInstanceStatus.NS, SOPInstanceStatus.OR, SOPInstanceStatus.AO, SOPInstanceStatus.AC

TRANSITIONS: tuple[Transition, ...] = (
    Transition(Rule.CREATE, None, _OR),
    Transition(Rule.AUTHORIZE, _OR, _AO),
    Transition(Rule.ACCEPT_TRANSFER, _OR, _OR),
    Transition(Rule.ACCEPT_TRANSFER, _AO, _AO),
    Transition(Rule.RELEASE, _OR, None),
    Transition(Rule.RELEASE, _OR, _NS),
    Transition(Rule.RELEASE, _AO, None),
    Transition(Rule.RELEASE, _AO, _NS),
    Transition(Rule.RELEASE, _AO, _AC),
    Transition(Rule.SEND_COPY, _AO, _AC),
    Transition(Rule.SEND_COPY, _AO, _NS),
    Transition(Rule.SEND_COPY, _AC, _AC),
    Transition(Rule.SEND_COPY, _AC, _NS),
    Transition(Rule.SEND_OUTSIDE, _NS, _NS),
    Transition(Rule.SEND_OUTSIDE, _OR, _NS),
    Transition(Rule.SEND_OUTSIDE, _AO, _NS),
    Transition(Rule.SEND_OUTSIDE, _AC, _NS),
    Transition(Rule.RECEIVE_OUTSIDE, None, _NS),
    Transition(Rule.RECEIVE_OUTSIDE, _NS, _NS),
    Transition(Rule.RECEIVE_OUTSIDE, _OR, _NS),
    Transition(Rule.RECEIVE_OUTSIDE, _AO, _NS),
    Transition(Rule.RECEIVE_OUTSIDE, _AC, _NS),
)

_PERMITTED = frozenset(TRANSITIONS)


def check_transition(rule: Rule, before: SOPInstanceStatus | None, after: SOPInstanceStatus | None) -> Transition:
    """Return the row of the table that permits the change (PS3.15 A.1); IllegalTransition when there is none."""
    wanted = Transition(rule, before, after)
    if wanted in _PERMITTED:
        return wanted
    allowed = ", ".join(f"{_name(row.before)} to {_name(row.after)}" for row in TRANSITIONS if row.rule is rule)
    raise IllegalTransition(
        f"{_name(before)} to {_name(after)} is not a transition of {rule.value} ({rule.name.lower().replace('_', ' ')})",
        hint=f"{rule.value} allows: {allowed}",
        standard=CLAUSE,
    )


def check_deletable(status: SOPInstanceStatus) -> None:
    """Refuse the deletion of an OR or AO by its holder (invariant I2); IllegalTransition."""
    if status in ORIGINALS:
        raise IllegalTransition(
            f"the holder of an instance with status {status.value} must not delete it (I2)",
            hint="transfer it to another AE first",
            standard=CLAUSE,
        )


def as_markdown() -> str:
    """Return the table for people: one line per permitted change."""
    lines = ["| rule | from | to | who | condition |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.rule.value} {row.rule.name.lower().replace('_', ' ')} | {_name(row.before)} | {_name(row.after)} "
        f"| {CONDITIONS[row.rule][0]} | {CONDITIONS[row.rule][1]} |"
        for row in TRANSITIONS
    ]
    return "\n".join(lines) + "\n"


def _name(status: SOPInstanceStatus | None) -> str:
    return "(none)" if status is None else status.value
