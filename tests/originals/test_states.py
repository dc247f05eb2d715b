"""The table of PS3.15 A.1: what it lists passes, everything else is refused."""

from __future__ import annotations

import itertools

import pytest

from securepacs.errors import IllegalTransition
from securepacs.originals.states import (
    CONDITIONS,
    TRANSITIONS,
    Rule,
    SOPInstanceStatus,
    Transition,
    as_markdown,
    check_deletable,
    check_transition,
)

NS, OR, AO, AC = SOPInstanceStatus.NS, SOPInstanceStatus.OR, SOPInstanceStatus.AO, SOPInstanceStatus.AC
STATES = (None, NS, OR, AO, AC)

# written down from the standard, independently of the table: rule -> permitted (before, after)
PERMITTED: dict[str, set[tuple[SOPInstanceStatus | None, SOPInstanceStatus | None]]] = {
    "T1": {(None, OR)},
    "T2": {(OR, AO)},
    "T3": {(OR, OR), (AO, AO)},
    "T4": {(OR, None), (OR, NS), (AO, None), (AO, NS), (AO, AC)},
    "T5": {(AO, AC), (AO, NS), (AC, AC), (AC, NS)},
    "T6": {(NS, NS), (OR, NS), (AO, NS), (AC, NS)},
    "T7": {(None, NS), (NS, NS), (OR, NS), (AO, NS), (AC, NS)},
}


@pytest.mark.parametrize(("rule", "before", "after"), list(itertools.product(Rule, STATES, STATES)))
def test_only_the_listed_transitions_pass(rule: Rule, before: SOPInstanceStatus | None, after: SOPInstanceStatus | None) -> None:
    if (before, after) in PERMITTED[rule.value]:
        assert check_transition(rule, before, after) == Transition(rule, before, after)
    else:
        with pytest.raises(IllegalTransition) as caught:
            check_transition(rule, before, after)
        assert rule.value in str(caught.value)
        assert rule.value in caught.value.hint
        assert caught.value.standard == "PS3.15 A.1"


def test_nothing_leads_from_a_copy_back_to_an_original() -> None:
    assert not [row for row in TRANSITIONS if row.before in (NS, AC) and row.after in (OR, AO)]


def test_a_row_stands_once_and_each_rule_has_its_condition() -> None:
    assert len(set(TRANSITIONS)) == len(TRANSITIONS)
    assert set(CONDITIONS) == set(Rule) == {row.rule for row in TRANSITIONS}


@pytest.mark.parametrize("status", [OR, AO])
def test_the_holder_must_not_delete_an_original(status: SOPInstanceStatus) -> None:
    with pytest.raises(IllegalTransition, match="I2"):
        check_deletable(status)


@pytest.mark.parametrize("status", [NS, AC])
def test_copies_may_be_deleted(status: SOPInstanceStatus) -> None:
    check_deletable(status)


def test_the_table_can_be_printed() -> None:
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(TRANSITIONS)
    assert "| T2 authorize | OR | AO | the holder | an authorized entity certified the instance for diagnosis |" in lines
    assert "| T4 release | AO | (none) |" in as_markdown()
