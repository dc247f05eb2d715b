"""Moments as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from securepacs.store.tables import MOMENT_LENGTH, moment_of, moment_text

ZONES = st.timezones() | st.just(timezone(timedelta(hours=9)))
MOMENTS = st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30), timezones=ZONES)


@given(MOMENTS)
def test_a_moment_survives(at: datetime) -> None:
    stored = moment_text(at)
    assert len(stored) == MOMENT_LENGTH
    assert moment_of(stored) == at.astimezone(UTC)  # a moment that comes twice never equals one of another zone
    assert moment_of(stored).tzinfo is UTC


@given(MOMENTS, MOMENTS)
def test_texts_sort_as_moments_do(one: datetime, other: datetime) -> None:
    assert (moment_text(one) < moment_text(other)) is (one < other)
