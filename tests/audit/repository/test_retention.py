"""Retention by class: records about patients, about security and about the system are kept for times of their own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from securepacs.audit import events
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.repository.keeper import LogKeeper
from securepacs.audit.repository.retention import EVENTS, RecordClass
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.syslog import to_syslog
from securepacs.cli.audit_log import retention_by_class
from securepacs.errors import UsageError
from tests.support.audit import AT, LEE, all_messages
from tests.support.audit_log import make_log_key

YEARS = timedelta(days=366)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        raws = [to_syslog(each, hostname="h", app_name="a", procid="1") for each in all_messages().values()]
        opened.store(Receipt.of(raw, received=AT, transport="test") for raw in (*raws, b"no audit message"))
        yield opened


def left(repository: Repository) -> dict[str, int]:
    """Return how many of the first records still have their octets, by class; the others by themselves."""
    counts: dict[str, int] = {}
    for record in repository.search(Criteria(limit=1000, newest_first=False), reader=LEE, at=AT):
        if record.id > len(all_messages()) + 1:
            continue
        name = next((kind.value for kind, codes in EVENTS.items() if record.event_code in codes), "none")
        try:
            repository.raw(record.id)
        except UsageError:
            continue
        counts[name] = counts.get(name, 0) + 1
    return counts


def test_every_event_has_one_class() -> None:
    codes = [code for each in EVENTS.values() for code in each]
    made = {message.EventIdentification.EventID.csd_code for message in all_messages().values()}
    assert len(codes) == len(set(codes))
    assert set(codes) == made


def test_each_class_ends_at_its_time(tmp_path: Path, repository: Repository) -> None:
    now = [AT + 3 * YEARS]
    keeper = LogKeeper(
        repository,
        LogSigner.load(make_log_key(tmp_path / "log.key"), origin="o"),
        retention=8 * YEARS,
        retention_by_class={RecordClass.SECURITY: 2.5 * YEARS, RecordClass.PATIENT: 5 * YEARS},
        law="Medical Service Act",
        clock=lambda: now[0],
    )
    assert left(repository) == {"patient": 10, "security": 3, "system": 2, "none": 1}
    for years, expected in (
        (3, {"patient": 10, "system": 2, "none": 1}),
        (6, {"system": 2, "none": 1}),
        (9, {}),
    ):
        now[0] = AT + years * YEARS
        keeper.turn()
        assert left(repository) == expected
    told = repository.search(Criteria(text="retention of", newest_first=False), reader=LEE, at=AT)
    assert [each.user.startswith("securepacs-audit@") for each in told if each.user != LEE.UserID] == [True] * 3
    assert len(repository.search(Criteria(text="days of security records"), reader=events.participant("x"), at=AT)) == 1


def test_a_class_without_time_is_kept(repository: Repository) -> None:
    repository.retain(3 * YEARS, actor=LEE, law="l", at=AT + 50 * YEARS, of=RecordClass.SECURITY)
    assert left(repository) == {"patient": 10, "system": 2, "none": 1}


@pytest.mark.parametrize(
    "text", ["patient", "patient=", "patient=x", "images=900", "=900", "patient=730", "patient=-5", "patient=9999999"]
)
def test_what_is_no_time_of_a_class_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        retention_by_class([text])


def test_options_become_times() -> None:
    found = retention_by_class(["patient=3653", "security=731"])
    assert found == {RecordClass.PATIENT: timedelta(days=3653), RecordClass.SECURITY: timedelta(days=731)}
    with pytest.raises(UsageError):
        retention_by_class(["patient=3653", "patient=800"])
