"""The repository: keeps everything as it came, marks what came twice, finds it, and records who looked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from securepacs.audit import events
from securepacs.audit.message import EventActionCode
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.repository import tables as _tables
from securepacs.audit.syslog import parse_record, to_syslog
from securepacs.audit.xml import from_xml, to_xml
from securepacs.codes import AUDIT_LOG_USED
from securepacs.errors import ConfigError, UsageError
from securepacs.store import open_store, reading
from securepacs.store.tables import metadata
from tests.support.audit import AT, LEE, SOURCE, all_messages, numbered, real_messages

NOW = datetime(2027, 2, 1, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


def receipt(raw: bytes) -> Receipt:
    return Receipt.of(raw, received=NOW, transport="test")


def ids(repository: Repository, **criteria: Any) -> list[int]:
    """Return the ids that meet the criteria, the records of searches left out."""
    found = repository.search(Criteria(newest_first=False, **criteria), reader=LEE, at=NOW)
    return sorted(each.id for each in found if each.event_code != AUDIT_LOG_USED.csd_code or each.transport == "test")


def test_the_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    assert _tables.audit_record.metadata is metadata
    with reading(open_store(f"sqlite:///{tmp_path}/a.db")) as connection:
        options = {"include_object": lambda _o, name, kind, *_: kind != "table" or name in metadata.tables}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf<85>1 - - - - - - \xef\xbb\xbfx\r\n", b"x" * 1_048_576, to_xml(numbered(1))],
    ids=["empty", "nul", "not text", "marks", "1 MiB", "message"],
)
def test_octets_come_back_as_they_came(repository: Repository, raw: bytes) -> None:
    (number,) = repository.store([receipt(raw)])
    assert repository.raw(number) == raw


@pytest.mark.skipif(not real_messages(), reason="no messages of other implementations at hand (SECUREPACS_CORPUS)")
def test_real_messages_come_back_as_they_came(repository: Repository) -> None:
    contents = [path.read_bytes() for path in real_messages()]
    numbers = repository.store(receipt(raw) for raw in contents)
    assert [repository.raw(number) for number in numbers] == contents
    assert {each.verdict for each in repository.search(Criteria(), reader=LEE, at=NOW)} <= {"conformant", "usable with findings"}


def test_all_that_was_known_at_receipt_is_kept(repository: Repository) -> None:
    given = Receipt(b"head", NOW, "tls", 5000, "ab" * 32, True, "10.0.0.1", "CN=gw1", "cd" * 32)
    repository.store([given])
    (found,) = repository.search(Criteria(text="head"), reader=LEE, at=NOW)
    assert (found.received, found.transport, found.peer_address, found.peer_subject, found.peer_sha256) == (
        NOW, "tls", "10.0.0.1", "CN=gw1", "cd" * 32,
    )  # fmt: skip
    assert (found.frame_length, found.frame_sha256, found.truncated, found.at) == (5000, "ab" * 32, True, NOW)
    assert found.to_dict()["received"] == "2027-02-01T00:00:00.000000Z"


def test_what_comes_again_is_kept_and_marked(repository: Repository) -> None:
    first, other, again = repository.store([receipt(b"a"), receipt(b"b"), receipt(b"a")])
    (later,) = repository.store([receipt(b"a")])
    found = {each.id: each.duplicate_of for each in repository.search(Criteria(event=""), reader=LEE, at=NOW)}
    assert {number: found[number] for number in (first, other, again, later)} == {
        first: None, other: None, again: first, later: first,
    }  # fmt: skip


def test_storing_nothing_is_nothing(repository: Repository) -> None:
    assert repository.store([]) == []
    assert repository.count() == 0


def test_many_callers_share_commits(repository: Repository) -> None:
    numbers: list[int] = []

    def run(caller: int) -> None:
        for step in range(20):
            numbers.extend(repository.store([receipt(b"%d/%d" % (caller, step))]))

    threads = [threading.Thread(target=run, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 161))
    assert repository.count() == 160


@pytest.fixture
def filled(repository: Repository) -> dict[str, int]:
    """Store one message of each kind; return their ids by name."""
    messages = all_messages()
    records = [to_syslog(each, hostname="h", app_name="a", procid="1") for each in messages.values()]
    return dict(zip(messages, repository.store(map(receipt, records)), strict=True))


WITH_STUDY = {
    "begin_transferring", "instances_transferred", "data_export", "instances_accessed", "procedure_record",
}  # fmt: skip
WITH_PATIENT = WITH_STUDY | {"data_import", "study_deleted", "order_record", "patient_record"}
FOUND: list[tuple[dict[str, Any], set[str]]] = [
    ({"patient": "4711"}, WITH_PATIENT),
    ({"patient": "4711^^^&1.2.3&ISO"}, WITH_PATIENT),
    ({"patient": "4712"}, {"data_export"}),
    ({"patient": "471"}, set()),
    ({"study": "1.2.3.4"}, WITH_STUDY),
    ({"study": "1.2.3.1"}, {"study_deleted"}),
    ({"event": "110126"}, {"security_alert"}),
    ({"event": "110112"}, {"query"}),
    ({"event": "export"}, {"data_export"}),
    ({"outcome": 8}, {"security_alert"}),
    ({"outcome": 4}, {"user_authentication"}),
    ({"user": "LEE@hospital.example", "outcome": 4}, {"user_authentication"}),
    ({"user": "AETITLES=CT1", "event": "110113"}, {"security_alert"}),
    ({"source": "gw1", "study": "1.2.3.1"}, {"study_deleted"}),
    ({"source": "Hospital", "study": "1.2.3.1"}, {"study_deleted"}),
    ({"source": "elsewhere", "study": "1.2.3.1"}, set()),
    ({"text": "CERTIFICATE expired"}, {"security_alert"}),
    ({"text": "100%"}, set()),
    ({"text": "_"}, set()),
    ({"since": AT, "until": AT + timedelta(microseconds=1), "event": "110112"}, {"query"}),
    ({"since": AT + timedelta(microseconds=1), "event": "110112"}, set()),
    ({"until": AT, "event": "110112"}, set()),
    ({"text": "' OR 1=1 --"}, set()),
]


@pytest.mark.parametrize(("criteria", "names"), FOUND, ids=[str(number) for number in range(len(FOUND))])
def test_a_search_finds_what_meets_all_criteria(
    repository: Repository, filled: dict[str, int], criteria: dict[str, Any], names: set[str]
) -> None:
    assert ids(repository, **criteria) == sorted(filled[name] for name in names)


def test_order_and_limit(repository: Repository) -> None:
    for minute in (3, 1, 2):
        message = events.patient_record(
            source=SOURCE, at=AT + timedelta(minutes=minute), action=EventActionCode.READ, users=[LEE],
            patient=events.PatientObject("77"),
        )  # fmt: skip
        repository.store([receipt(to_xml(message))])
    newest = repository.search(Criteria(patient="77", limit=2), reader=LEE, at=NOW)
    assert [each.at.minute for each in newest] == [33, 32]
    oldest = repository.search(Criteria(patient="77", limit=2, newest_first=False), reader=LEE, at=NOW)
    assert [each.at.minute for each in oldest] == [31, 32]


def test_more_results_than_one_statement_takes(repository: Repository) -> None:
    repository.store(receipt(to_xml(numbered(number))) for number in range(1200))
    found = repository.search(Criteria(event="110105", limit=1200), reader=LEE, at=NOW)
    assert len(found) == 1200
    assert all(each.patients and each.studies for each in found)
    assert len(repository.store(receipt(to_xml(numbered(number))) for number in range(1200))) == 1200


def test_a_search_does_not_find_itself_but_finds_those_before_it(repository: Repository) -> None:
    assert repository.search(Criteria(text="needle"), reader=LEE, at=NOW) == []
    assert [each.id for each in repository.search(Criteria(text="needle"), reader=LEE, at=NOW)] == [1]


def test_every_search_is_recorded_before_it_answers(repository: Repository, filled: dict[str, int]) -> None:
    before = repository.count()
    repository.search(Criteria(patient="4711", since=AT), reader=LEE, at=NOW)
    assert repository.count() == before + 1
    message = from_xml(parse_record(repository.raw(before + 1)).msg)
    assert message.EventIdentification.EventID == AUDIT_LOG_USED
    assert message.EventIdentification.EventDateTime == NOW
    assert message.ActiveParticipant == (LEE,)
    (log,) = message.ParticipantObjectIdentification
    assert log.ParticipantObjectID.startswith("sqlite")
    asked = {detail.type: detail.value for detail in log.ParticipantObjectDetail}
    assert asked["patient"] == b"4711"
    assert asked["since"].startswith(b"2027-01-31")


@pytest.mark.parametrize("criteria", [{"limit": 0}, {"limit": 100_001}, {"since": datetime(2027, 1, 1)}])
def test_a_search_that_cannot_be_meant_is_refused_and_not_recorded(repository: Repository, criteria: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        repository.search(Criteria(**criteria), reader=LEE, at=NOW)
    assert repository.count() == 0


def test_octets_of_no_record(repository: Repository) -> None:
    with pytest.raises(UsageError):
        repository.raw(1)


def test_records_cannot_be_changed_or_removed(tmp_path: Path, repository: Repository) -> None:
    repository.store([receipt(to_xml(numbered(1)))])
    with sqlite3.connect(tmp_path / "audit.db") as connection:
        for table, column in (
            ("audit_record", "outcome"), ("audit_content", "raw"), ("audit_term", "term"), ("audit_log", "entry"),
        ):  # fmt: skip
            for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = ''"):
                with pytest.raises(sqlite3.IntegrityError, match="append only"):
                    connection.execute(statement)
    connection.close()


def test_a_store_to_be_read_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Repository(f"sqlite:///{tmp_path}/none.db", must_exist=True)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(ConfigError):
        Repository("nonsense", must_exist=True)


KILLED = """
import sys
from datetime import UTC, datetime
from securepacs.audit.repository import Receipt, Repository
repository = Repository(sys.argv[1])
for number in range(100000):
    raw = b"%s %d" % (sys.argv[2].encode(), number)
    print(repository.store([Receipt.of(raw, received=datetime.now(UTC), transport="test")])[0], raw.decode(), flush=True)
"""


def test_kill_9_loses_no_stored_record(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/audit.db"
    stored: dict[int, str] = {}
    for life in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(life)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(40)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait(timeout=30)
        process.stdout.close()
        stored |= {int(line.split(" ", 1)[0]): line.split(" ", 1)[1].strip() for line in lines if line.endswith("\n")}
    with Repository(url) as repository:
        assert {number: repository.raw(number).decode() for number in stored} == stored
