"""Refusals of strangers: the first is told, the others are counted, a flood is bounded, none goes uncounted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.aggregate import OTHERS, FailureAggregator, Refusals

AT = datetime(2027, 2, 1, tzinfo=UTC)


def seconds(number: float) -> datetime:
    return AT + timedelta(seconds=number)


def test_the_first_is_told_at_once_and_the_others_after_the_minute() -> None:
    aggregator = FailureAggregator()
    assert aggregator.refused("10.0.0.1", "expired", at=AT) == [Refusals("10.0.0.1", 1, "expired", AT)]
    assert aggregator.refused("10.0.0.1", "unknown", at=seconds(10)) == []
    assert aggregator.refused("10.0.0.2", "expired", at=seconds(20)) == [Refusals("10.0.0.2", 1, "expired", seconds(20))]
    assert aggregator.due(at=seconds(59)) == []
    assert aggregator.due(at=seconds(60)) == [Refusals("10.0.0.1", 1, "unknown", AT)]
    assert aggregator.due(at=seconds(200)) == []


def test_a_new_minute_begins_with_the_sums_of_the_last() -> None:
    aggregator = FailureAggregator()
    for number in range(5):
        aggregator.refused("10.0.0.1", "expired", at=seconds(number))
    told = aggregator.refused("10.0.0.1", "expired", at=seconds(90))
    assert told == [Refusals("10.0.0.1", 4, "expired", AT), Refusals("10.0.0.1", 1, "expired", seconds(90))]


def test_a_flood_of_peers_is_bounded() -> None:
    aggregator = FailureAggregator(quota=10)
    told = [each for number in range(1000) for each in aggregator.refused(f"peer{number}", "expired", at=AT)]
    assert len(told) == 10
    assert aggregator.end() == [Refusals(OTHERS, 990, "expired", AT)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 70)), max_size=60), st.integers(1, 4))
def test_none_goes_uncounted(refusals: list[tuple[int, int]], quota: int) -> None:
    aggregator, moment, told = FailureAggregator(quota=quota), AT, list[Refusals]()
    for peer, step in refusals:
        moment += timedelta(seconds=step)
        told += aggregator.refused(str(peer), "expired", at=moment)
    told += aggregator.end()
    assert sum(each.count for each in told) == len(refusals)
