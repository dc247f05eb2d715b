"""The query language of ITI-81: dates, tokens, strings, escapes; garbage is refused and never repeated."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.repository.fhir_query import MAX_COUNT, PARAMETERS, AuditEventQuery, parse_query, place_text
from securepacs.errors import UsageError
from tests.support.audit import all_messages

DAY = ("date", "2027-01-31")
TRANSFER = all_messages()["instances_transferred"]


def query(*parameters: tuple[str, str]) -> AuditEventQuery:
    return parse_query([DAY, *parameters])


def moment(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("dates", "since", "until"),
    [
        (["2027"], moment(2027, 1, 1), moment(2028, 1, 1)),
        (["2027-12"], moment(2027, 12, 1), moment(2028, 1, 1)),
        (["2028-02-29"], moment(2028, 2, 29), moment(2028, 3, 1)),
        (["2027-01-31T23:59"], moment(2027, 1, 31, 23, 59), moment(2027, 2, 1)),
        (["2027-01-31T23:59:59Z"], moment(2027, 1, 31, 23, 59, 59), moment(2027, 2, 1)),
        (["2027-01-31T00:00:00.5Z"], moment(2027, 1, 31, 0, 0, 0, 500_000), moment(2027, 1, 31, 0, 0, 0, 600_000)),
        (["ge2027-01-01T09:00:00+09:00", "lt2027-02-01T00:00:00 09:00"], moment(2027, 1, 1), moment(2027, 1, 31, 15)),
        (["gt2027-01-01", "le2027-01-31"], moment(2027, 1, 2), moment(2027, 2, 1)),
        (["ge2027-01-01", "ge2027-01-10", "le2027-02-01", "eb2027-01-20"], moment(2027, 1, 10), moment(2027, 1, 20)),
    ],
)
def test_dates(dates: list[str], since: datetime, until: datetime) -> None:
    criteria = parse_query([("date", each) for each in dates]).criteria
    assert (criteria.since, criteria.until) == (since, until)


@pytest.mark.parametrize(
    "date", ["", "2027-1-1", "2027-13", "9999", "2027-01-31T24:00:00Z", "2027-01-31T10:00:00+99:00", "ne2027", "２０２７"]
)
def test_dates_nobody_can_mean(date: str) -> None:
    with pytest.raises(UsageError):
        parse_query([("date", date)])


@pytest.mark.parametrize(
    ("parameter", "holds"),
    [
        (("type", "110104"), True),
        (("type", "x,110104"), True),
        (("type", "|110104"), False),  # a bar with nothing before it: no system at all
        (("type", "http://dicom.nema.org/resources/ontology/DCM|"), True),
        (("altid", "AETITLES=CT1"), True),
        (("altid", r"AETITLES\=CT1"), True),
        (("altid", "aetitles=ct1"), False),
        (("address", "10.0.0."), True),
        (("address", "0.0.0"), False),
        (("entity-name", "DOE"), True),
        (("patient.identifier", "4711"), True),
        (("patient.identifier", "4711^^^&1.2.3&ISO"), True),
        (("patient.identifier", "|4711^^^&1.2.3&ISO"), True),
        (("patient.identifier", "471"), False),
        (("entity:identifier", "1.2.3.4"), True),
        (("entity", "1.2.3.4"), True),
        (("agent", "ct1"), True),
        (("source", "gw1"), True),
        (("source", "ct1"), False),
    ],
)
def test_values(parameter: tuple[str, str], *, holds: bool) -> None:
    assert query(parameter).holds(TRANSFER) is holds


def test_commas_and_bars_can_be_escaped() -> None:
    (who, *others) = TRANSFER.ActiveParticipant
    odd = replace(TRANSFER, ActiveParticipant=(replace(who, AlternativeUserID=r"a,b|c\d"), *others))
    assert query(("altid", r"a\,b\|c\\d")).holds(odd)
    assert not query(("altid", r"a,b|c\d")).holds(odd)


def test_repeated_parameters_must_all_hold_and_links_keep_them() -> None:
    people = (("agent.identifier", "ct1"), ("agent.identifier", "archive"))
    both = query(*people, ("_count", "7"), ("_after", place_text("2027-01-31T00:00:00.000000Z", 9)))
    assert both.holds(TRANSFER)
    assert both.after == (moment(2027, 1, 31), 9)
    assert both.given == (DAY, *people, ("_count", "7"))
    assert not query(("agent.identifier", "ct1"), ("agent.identifier", "nobody")).holds(TRANSFER)


@pytest.mark.parametrize("place", ["9", "01-31T00:00:00.000000Z", "01-32T00:00:00.000000Z.1", "01-31T00:00:00.000000Z.-1"])
def test_places_that_are_from_no_link(place: str) -> None:
    with pytest.raises(UsageError):
        query(("_after", f"2027-{place}"))


def test_pages_are_bounded() -> None:
    assert query(("_count", "999999")).count == MAX_COUNT


WORDS = st.text(max_size=30) | st.sampled_from(["110104", "a|b", "\\", ",", "|", "ge2027", "10.0.0.1"])


NAMES = st.sampled_from([*PARAMETERS, "_count", "_sort", "_after", "_format", "x"]) | st.text(max_size=9)


@given(st.lists(st.tuples(NAMES, WORDS), max_size=5))
def test_garbage_is_refused_with_one_kind_of_error_that_repeats_no_value(parameters: list[tuple[str, str]]) -> None:
    marked = [(name, f"{value}SECRET") for name, value in parameters]
    for given_ in (parameters, marked):
        told = ""
        try:
            assert parse_query([DAY, *given_]).holds(TRANSFER) in (True, False)
        except UsageError as error:
            told = f"{error} {error.hint}"
        assert "SECRET" not in told
