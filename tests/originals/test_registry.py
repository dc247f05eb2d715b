"""The contract of OriginalRegistry, run by the built-in: all or nothing, one holder, history that stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from securepacs.errors import IllegalTransition, IntegrityFailure, SecurePacsError, Unavailable, UsageError
from securepacs.originals.registry import Evidence, InstanceFacts, OriginalRegistry
from securepacs.originals.sql_registry import SqlRegistry
from securepacs.originals.states import Rule, SOPInstanceStatus
from securepacs.store import open_store, reading, writing

OR, AO, AC, NS = SOPInstanceStatus.OR, SOPInstanceStatus.AO, SOPInstanceStatus.AC, SOPInstanceStatus.NS
AT = datetime(2027, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
EVIDENCE = Evidence("1.2.99", "1.2.100")


def facts(number: int, study: str = "1.2.3") -> InstanceFacts:
    return InstanceFacts(f"{study}.1.{number}", "1.2.840.10008.5.1.4.1.1.2", study, f"{study}.1", f"{number:064x}")


def expect(*instances: InstanceFacts) -> dict[str, str]:
    return {one.sop_instance_uid: one.content_sha256 for one in instances}


Open = Callable[[], OriginalRegistry]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def registry(url: str) -> OriginalRegistry:
    return SqlRegistry(open_store(url))


def dump(url: str) -> list[tuple[object, ...]]:
    with reading(open_store(url)) as connection:
        return [
            tuple(row)
            for table in ("original_instance", "original_holding", "original_history")
            for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))
        ]


# --- T1 -------------------------------------------------------------------------------------------------------------
def test_registering_makes_the_ae_the_holder(registry: OriginalRegistry) -> None:
    registry.register([facts(1), facts(2)], holder=" CT1 ", at=AT, actor="ct", equipment="CERT 7", comment="c")
    holding = registry.original("1.2.3.1.1")
    assert holding is not None
    assert (holding.facts, holding.ae_title, holding.status, holding.since) == (facts(1), "CT1", OR, AT)
    assert (holding.equipment, holding.comment) == ("CERT 7", "c")
    assert registry.holdings("1.2.3.1.1") == (holding,)
    (entry,) = registry.history("1.2.3.1.1")
    assert (entry.rule, entry.before, entry.after, entry.at, entry.actor, entry.evidence) == (Rule.CREATE, None, OR, AT, "ct", None)


def test_times_are_kept_in_utc(registry: OriginalRegistry) -> None:
    registry.register([facts(1)], holder="CT1", at=AT.astimezone(timezone(timedelta(hours=9))), actor="ct")
    holding = registry.original("1.2.3.1.1")
    assert holding is not None
    assert holding.since == AT


def test_the_same_call_again_changes_nothing(registry: OriginalRegistry, url: str) -> None:
    registry.register([facts(1), facts(2)], holder="CT1", at=AT, actor="ct")
    before = dump(url)
    registry.register([facts(2), facts(1)], holder="CT1", at=LATER, actor="ct")
    assert dump(url) == before


def test_an_interrupted_call_can_be_completed(registry: OriginalRegistry) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    registry.register([facts(1), facts(2)], holder="CT1", at=LATER, actor="ct")
    assert [holding.since for holding in registry.originals_of_study("1.2.3")] == [AT, LATER]


def test_a_second_holder_is_refused_and_nothing_is_registered(registry: OriginalRegistry, url: str) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    before = dump(url)
    with pytest.raises(IllegalTransition, match=r"CT1 already \(I1\)"):
        registry.register([facts(2), facts(1)], holder="CT2", at=AT, actor="ct")
    assert dump(url) == before


def test_other_content_under_a_known_uid_is_refused(registry: OriginalRegistry, url: str) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    before = dump(url)
    with pytest.raises(IntegrityFailure, match="I3"):
        registry.register([facts(2), replace(facts(1), content_sha256="ff" * 32)], holder="CT1", at=AT, actor="ct")
    assert dump(url) == before


def test_an_authorized_original_cannot_be_registered_again(registry: OriginalRegistry) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    registry.authorize(expect(facts(1)), at=LATER, actor="dr", evidence=EVIDENCE)
    with pytest.raises(IllegalTransition, match="T1"):
        registry.register([facts(1)], holder="CT1", at=AT, actor="ct")


def test_what_was_an_original_once_cannot_be_registered_again(url: str) -> None:
    engine = open_store(url)
    registry = SqlRegistry(engine)
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    with writing(engine) as connection:  # as after a transfer to another AE
        connection.execute(text("UPDATE original_holding SET status = 'NS'"))
    with pytest.raises(IllegalTransition, match="T1"):
        registry.register([facts(1)], holder="CT1", at=LATER, actor="ct")
    with writing(engine) as connection:
        connection.execute(text("DELETE FROM original_holding"))
    with pytest.raises(IllegalTransition, match="I1"):
        registry.register([facts(1)], holder="CT1", at=LATER, actor="ct")


@pytest.mark.parametrize("holder", ["", "   ", "SEVENTEEN_LETTERS", "A\\B", "판독", "A\nB"])
def test_a_holder_must_be_an_ae_title(registry: OriginalRegistry, holder: str) -> None:
    with pytest.raises(UsageError, match="AE title"):
        registry.register([facts(1)], holder=holder, at=AT, actor="ct")


def test_a_call_must_name_instances_once_and_a_time_with_zone(registry: OriginalRegistry) -> None:
    with pytest.raises(UsageError, match="no instance"):
        registry.register([], holder="CT1", at=AT, actor="ct")
    with pytest.raises(UsageError, match="twice"):
        registry.register([facts(1), facts(1)], holder="CT1", at=AT, actor="ct")
    with pytest.raises(UsageError, match="zone"):
        registry.register([facts(1)], holder="CT1", at=AT.replace(tzinfo=None), actor="ct")
    with pytest.raises(UsageError, match="no instance"):
        registry.authorize({}, at=AT, actor="dr", evidence=EVIDENCE)


# --- T2 -------------------------------------------------------------------------------------------------------------
def test_authorizing_changes_all_and_records_the_evidence(registry: OriginalRegistry) -> None:
    registry.register([facts(1), facts(2)], holder="CT1", at=AT, actor="ct")
    holdings = registry.authorize(
        expect(facts(1), facts(2)), at=LATER, actor="dr", evidence=EVIDENCE, holder="CT1", equipment="WS 9", comment="fine"
    )
    assert [(one.status, one.since, one.equipment, one.comment) for one in holdings] == [(AO, LATER, "WS 9", "fine")] * 2
    assert registry.originals_of_study("1.2.3") == holdings
    entry = registry.history("1.2.3.1.2")[-1]
    assert (entry.rule, entry.before, entry.after, entry.actor, entry.evidence) == (Rule.AUTHORIZE, OR, AO, "dr", EVIDENCE)


def test_more_instances_than_one_statement_takes(registry: OriginalRegistry) -> None:
    many = [facts(number) for number in range(1, 1203)]
    registry.register(many, holder="CT1", at=AT, actor="ct")
    assert len(registry.authorize(expect(*many), at=LATER, actor="dr", evidence=EVIDENCE)) == 1202
    assert {holding.status for holding in registry.originals_of_study("1.2.3")} == {AO}


@pytest.mark.parametrize(
    ("named", "holder", "error", "reason"),
    [
        ([facts(1)], None, IllegalTransition, "3 instances to authorize, 1 are named"),
        ([facts(1), facts(2), facts(3), facts(9)], None, IllegalTransition, "not held as an original"),
        ([facts(1), facts(2), replace(facts(3), content_sha256="ff" * 32)], None, IntegrityFailure, "I3"),
        ([facts(1), facts(2), facts(3)], "CT2", IllegalTransition, "only the AE that holds"),
        ([facts(1), facts(2), facts(3), facts(1, "1.2.4")], None, IllegalTransition, "only the AE that holds"),
    ],
)
def test_a_refused_authorization_changes_nothing(
    registry: OriginalRegistry, url: str, named: list[InstanceFacts], holder: str | None, error: type[Exception], reason: str
) -> None:
    registry.register([facts(1), facts(2), facts(3)], holder="CT1", at=AT, actor="ct")
    registry.register([facts(1, "1.2.4")], holder="MR1", at=AT, actor="mr")
    before = dump(url)
    with pytest.raises(error, match=reason):
        registry.authorize(expect(*named), at=LATER, actor="dr", evidence=EVIDENCE, holder=holder)
    assert dump(url) == before


def test_authorizing_twice_is_refused(registry: OriginalRegistry, url: str) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    registry.authorize(expect(facts(1)), at=LATER, actor="dr", evidence=EVIDENCE)
    before = dump(url)
    with pytest.raises(IllegalTransition, match="AO to AO"):
        registry.authorize(expect(facts(1)), at=LATER, actor="dr", evidence=EVIDENCE)
    assert dump(url) == before


def test_images_that_came_later_can_be_authorized_by_themselves(registry: OriginalRegistry) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    registry.authorize(expect(facts(1)), at=LATER, actor="dr", evidence=EVIDENCE)
    registry.register([facts(2)], holder="CT1", at=LATER, actor="ct")
    registry.authorize(expect(facts(2)), at=LATER, actor="dr", evidence=EVIDENCE)
    assert {holding.status for holding in registry.originals_of_study("1.2.3")} == {AO}


# --- I1, I2, history ------------------------------------------------------------------------------------------------
def test_the_database_itself_refuses_a_second_holder(url: str) -> None:
    engine = open_store(url)
    SqlRegistry(engine).register([facts(1)], holder="CT1", at=AT, actor="ct")
    row = "INSERT INTO original_holding (sop_instance_uid, ae_title, status, since) VALUES ('1.2.3.1.1', 'CT2', '{}', '')"
    for status in ("OR", "AO"):
        with pytest.raises(IntegrityError), writing(engine) as connection:
            connection.execute(text(row.format(status)))
    with writing(engine) as connection:
        connection.execute(text(row.format("AC")))


@pytest.mark.parametrize("statement", ["UPDATE {} SET sop_instance_uid = '1'", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["original_history", "original_instance"])
def test_history_cannot_be_changed(url: str, table: str, statement: str) -> None:
    engine = open_store(url)
    SqlRegistry(engine).register([facts(1)], holder="CT1", at=AT, actor="ct")
    with pytest.raises(IntegrityError, match="append only"), writing(engine) as connection:
        connection.execute(text(statement.format(table)))


def test_the_holder_must_not_delete(registry: OriginalRegistry) -> None:
    registry.register([facts(1)], holder="CT1", at=AT, actor="ct")
    with pytest.raises(IllegalTransition, match="I2"):
        registry.check_deletable("1.2.3.1.1", ae_title="CT1")
    registry.check_deletable("1.2.3.1.1", ae_title="CT2")
    registry.check_deletable("1.2.3.1.9", ae_title="CT1")
    registry.authorize(expect(facts(1)), at=LATER, actor="dr", evidence=EVIDENCE)
    with pytest.raises(IllegalTransition, match="I2"):
        registry.check_deletable("1.2.3.1.1", ae_title="CT1")


def test_what_nobody_registered_is_unknown(registry: OriginalRegistry) -> None:
    assert registry.original("9.9") is None
    assert registry.holdings("9.9") == ()
    assert registry.history("9.9") == ()
    assert registry.originals_of_study("9.9") == ()


def test_a_store_that_cannot_be_written_is_unavailable(url: str) -> None:
    engine = open_store(url)
    with writing(engine) as connection:
        connection.execute(text("DROP TABLE original_history"))
    with pytest.raises(Unavailable):
        SqlRegistry(engine).register([facts(1)], holder="CT1", at=AT, actor="ct")
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM original_instance")).scalar_one() == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["register", "authorize"]), st.sampled_from(["CT1", "CT2"]), st.sets(st.integers(1, 3), min_size=1)),
    max_size=12,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(steps=STEPS)
def test_any_sequence_of_calls_keeps_one_holder_and_a_true_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, set[int]]]
) -> None:
    registry = SqlRegistry(open_store(f"sqlite:///{tmp_path_factory.mktemp('s') / 'store.db'}"))
    model: dict[int, tuple[str, SOPInstanceStatus]] = {}
    for what, ae_title, numbers in steps:
        chosen = [facts(number) for number in sorted(numbers)]
        try:
            if what == "register":
                registry.register(chosen, holder=ae_title, at=AT, actor="a")
                model |= {number: (ae_title, OR) for number in numbers if number not in model}
            else:
                registry.authorize(expect(*chosen), at=AT, actor="a", evidence=EVIDENCE, holder=ae_title)
                model |= dict.fromkeys(numbers, (ae_title, AO))
        except SecurePacsError:
            continue
    for number in (1, 2, 3):
        uid = facts(number).sop_instance_uid
        originals = [holding for holding in registry.holdings(uid) if holding.status in (OR, AO)]
        assert [(holding.ae_title, holding.status) for holding in originals] == ([model[number]] if number in model else [])
        expected = {None: [], OR: [Rule.CREATE], AO: [Rule.CREATE, Rule.AUTHORIZE]}[model.get(number, ("", None))[1]]
        assert [entry.rule for entry in registry.history(uid)] == expected


# --- several processes ----------------------------------------------------------------------------------------------
def _race(url: str, what: str, name: str, start: Barrier, results: multiprocessing.Queue[str]) -> None:
    registry = SqlRegistry(open_store(url))
    start.wait()
    try:
        if what == "register":
            registry.register([facts(1), facts(2)], holder=name, at=AT, actor=name)
        else:
            registry.authorize(expect(facts(1), facts(2)), at=AT, actor=name, evidence=Evidence(f"1.2.{name[-1]}", "1.2.3"))
        results.put(name)
    except IllegalTransition:
        results.put("")


@pytest.mark.parametrize("what", ["register", "authorize"])
def test_of_two_processes_one_wins(url: str, what: str) -> None:
    registry = SqlRegistry(open_store(url))
    if what == "authorize":
        registry.register([facts(1), facts(2)], holder="CT1", at=AT, actor="ct")
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_race, args=(url, what, name, start, results)) for name in ("AE1", "AE2")]
    for process in processes:
        process.start()
    outcome = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    (winner,) = [name for name in outcome if name]
    assert {registry.history(uid)[-1].actor for uid in ("1.2.3.1.1", "1.2.3.1.2")} == {winner}
    if what == "register":
        assert {holding.ae_title for holding in registry.originals_of_study("1.2.3")} == {winner}


def _die_before_commit(url: str) -> None:
    from sqlalchemy import event

    engine = open_store(url)
    event.listen(engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    SqlRegistry(engine).authorize(expect(facts(1), facts(2)), at=AT, actor="dr", evidence=EVIDENCE)


def test_a_process_killed_before_the_commit_leaves_nothing_behind(url: str) -> None:
    registry = SqlRegistry(open_store(url))
    registry.register([facts(1), facts(2)], holder="CT1", at=AT, actor="ct")
    before = dump(url)
    process = multiprocessing.get_context("spawn").Process(target=_die_before_commit, args=(url,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert dump(url) == before
    assert len(registry.authorize(expect(facts(1), facts(2)), at=LATER, actor="dr", evidence=EVIDENCE)) == 2
