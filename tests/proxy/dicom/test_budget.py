"""Patients per hour: counted once each, over all workers, an alarm first, a refusal where the policy says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.policy.cedar import CedarPolicy
from securepacs_proxy.dicom.budget import MAX_ENTRIES, Ledger, Limits, Outcome, Visits, read_limits, spend
from securepacs_proxy.events import Side, UpstreamConnected
from securepacs_proxy.workers.visits import SharedVisits
from tests.support.dicom_wire import (
    CONTEXT_ID,
    NOW,
    PERSON,
    STUDY_FIND,
    Conversation,
    associate_ac,
    associate_rq,
    find_rq,
    identifier,
    message,
    names,
    split_pdus,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
MAKERS: list[Callable[[], Visits]] = [Ledger, lambda: SharedVisits(2).of(1)]


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("alarm 20", Limits(20, None)),
        ("refuse 60", Limits(None, 60)),
        ("alarm 20, refuse 60", Limits(20, 60)),
        ("alarm 20; alarm 10, refuse 60; refuse 90", Limits(10, 60)),
        ("", None),
        ("20", None),
        ("alarm 0", None),
        ("alarm -1", None),
        ("alarm 1.5", None),
        ("refuse 60, alarm 20", None),
        ("alarm 20;", None),
    ],
)
def test_what_the_obligation_says(text: str, limits: Limits | None) -> None:
    assert read_limits(text) == limits


@pytest.mark.parametrize("make", MAKERS)
def test_each_patient_counts_once_within_the_hour(make: Callable[[], Visits]) -> None:
    visits = make()
    visits.visit("kim", "PAT2", NOW)
    visits.visit("lee", "PAT3", NOW)
    for minute in range(0, 50, 10):
        visits.visit("kim", "PAT1", NOW + timedelta(minutes=minute))
    later = NOW + timedelta(minutes=41)
    assert (visits.count("kim", later), visits.count("lee", later), visits.count("park", later)) == (2, 1, 0)
    assert visits.count("kim", NOW + timedelta(minutes=61)) == 1
    assert visits.count("kim", NOW + timedelta(minutes=101)) == 0


@pytest.mark.parametrize("make", MAKERS)
def test_the_alarm_comes_once_and_the_refusal_later(make: Callable[[], Visits]) -> None:
    visits, limits = make(), Limits(2, 4)
    outcomes = [spend(visits, limits, "kim", f"PAT{number}", NOW) for number in range(6)]
    assert outcomes[:2] == [Outcome(), Outcome()]
    assert "reached 3 patients within an hour, the alarm is set at 2" in outcomes[2].alarm
    assert outcomes[3] == Outcome()
    assert "4 patients within an hour, 4 are permitted" in outcomes[4].refusal
    assert outcomes[5].refusal
    assert visits.count("kim", NOW) == 4
    assert spend(visits, limits, "lee", "PAT1", NOW) == Outcome()


def test_all_workers_count_together_and_a_new_one_knows() -> None:
    shared = SharedVisits(3)
    one, other = shared.of(0), shared.of(1)
    one.visit("kim", "PAT1", NOW)
    other.visit("kim", "PAT2", NOW)
    child = os.fork()
    if child == 0:  # another process, as a worker is
        shared.of(2).visit("kim", "PAT3", NOW)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert one.count("kim", NOW) == other.count("kim", NOW) == shared.of(0).count("kim", NOW) == 3


def test_memory_is_bounded_and_no_name_is_kept() -> None:
    ledger = Ledger()
    for number in range(MAX_ENTRIES + 100):
        ledger.visit(f"user-{number % 7}", f"PAT-{number}", NOW)
    assert len(ledger) == MAX_ENTRIES
    assert "PAT-" not in repr(vars(ledger))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 40)), max_size=60))
def test_the_count_is_that_of_a_plain_set(steps: list[tuple[int, int, int]]) -> None:
    visits, seen, minute = SharedVisits(2).of(0), {}, 0  # type: ignore[var-annotated]
    for user, patient, wait in steps:
        minute += wait
        at = NOW + timedelta(minutes=minute)
        visits.visit(str(user), str(patient), at)
        seen[user, patient] = minute
        exact = sum(1 for (who, _), when in seen.items() if who == user and minute - when < 60)
        assert visits.count(str(user), at) == exact


# --- in the relay -----------------------------------------------------------------------------------------------------

RULES = """
@id("associate") permit (principal, action == Action::"Associate", resource);
@id("find") @obligation_patients_per_hour("alarm 1, refuse 3") permit (principal, action == Action::"C-FIND", resource);
"""


def test_a_user_who_asks_for_too_many_is_alarmed_and_then_refused() -> None:
    policy: Any = CedarPolicy({"site.cedar": RULES})
    talk = Conversation(policy, subject=PERSON).authenticate()
    talk.requestor(associate_rq(calling="WS1"))
    talk.handle(UpstreamConnected())
    talk.acceptor(associate_ac(talk.take(A)))
    talk.take(R)
    talk.records.clear()
    done = message("C_FIND_RSP", CONTEXT_ID[STUDY_FIND], MessageIDBeingRespondedTo=1, AffectedSOPClassUID=STUDY_FIND, Status=0)
    for patient in ("P1", "P1", "P2", "P3"):
        talk.requestor(find_rq(1, identifier(PatientID=patient)))
        assert talk.take(A) == find_rq(1, identifier(PatientID=patient))
        talk.acceptor(done)
    assert names(talk.records) == ["Query", "Query", "Security Alert/Use of Restricted Function (8)", "Query", "Query"]
    assert "kim@hospital.example reached 2 patients" in str(talk.records[2])
    talk.take(R)
    talk.requestor(find_rq(1, identifier(PatientID="P4")))
    assert talk.take(A) == b""
    assert split_pdus(talk.take(R))
    assert "3 patients within an hour, 3 are permitted" in str(talk.records[-1])
    assert "P4" not in str(talk.records[-1])
    talk.wait(3700)
    talk.requestor(find_rq(1, identifier(PatientID="P4")))
    assert talk.take(A)
