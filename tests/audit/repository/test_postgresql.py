"""The repository on PostgreSQL: the same schema, the same answers, a role that can only add."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from securepacs.audit.checkpoint import LogKey
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.syslog import to_syslog
from securepacs.audit.verifier import verify_export
from securepacs.errors import Unavailable, UsageError
from securepacs.store import open_store, reading, writing
from securepacs.store.tables import metadata
from tests.cli.test_audit import securepacs
from tests.support.audit import AT, LEE, all_messages
from tests.support.audit_log import BEGIN, ORIGIN, make_log_key, receipts
from tests.support.postgres import Cluster, postgresql

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql() as running:
        yield running


@pytest.fixture
def url(cluster: Cluster) -> str:
    """Return an empty database."""
    with open_store(cluster.url).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("DROP DATABASE IF EXISTS audit WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE audit")
    return cluster.url.replace("/postgres", "/audit")


@pytest.fixture
def repository(url: str) -> Iterator[Repository]:
    with Repository(url) as opened:
        yield opened


def test_the_schema_is_the_same(repository: Repository, url: str) -> None:
    with reading(open_store(url)) as connection:
        options = {"include_object": lambda _o, name, kind, *_: kind != "table" or name in metadata.tables}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_it_keeps_finds_and_marks(repository: Repository) -> None:
    odd = [b"", b"\0", b"\xff\xfe \\ \t \n", b"x" * 100_000]
    first = repository.store(Receipt.of(raw, received=BEGIN, transport="test") for raw in (*odd, odd[0]))
    assert [repository.raw(number) for number in first] == [*odd, odd[0]]
    assert repository.search(Criteria(text="\\ \t"), reader=LEE, at=BEGIN)[0].id == first[2]
    from securepacs.audit.xml import to_xml

    repository.store(Receipt.of(to_xml(each), received=BEGIN, transport="test") for each in all_messages().values())
    found = repository.search(Criteria(patient="4711", event="export"), reader=LEE, at=BEGIN)
    assert [(each.event_code, each.patients) for each in found] == [("110106", ("4711", "4711^^^&1.2.3&ISO", "4712"))]
    duplicates = [each for each in repository.search(Criteria(), reader=LEE, at=BEGIN) if each.duplicate_of]
    assert [(each.id, each.duplicate_of) for each in duplicates] == [(first[4], first[0])]


def test_several_writers_make_one_log_that_verifies(url: str, tmp_path: Path) -> None:
    def write(first: int) -> None:
        with Repository(url) as own:
            for step in range(10):
                own.store(receipts(30, first=first + 30 * step))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 300, 600)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    key = make_log_key(tmp_path / "log.key")
    public = LogKey.load(key.read_bytes(), origin=ORIGIN).public
    with Repository(url) as repository:
        assert repository.count() == 900
        repository.hold("C-1", Criteria(study="1.2.3.17"), actor=LEE, reason="court", at=BEGIN + timedelta(days=1))
        with pytest.raises(UsageError, match="held"):
            repository.erase(range(1, 901), actor=LEE, reason="r", law="l", at=BEGIN)
        (held,) = repository.search(Criteria(study="1.2.3.17", event="110105"), reader=LEE, at=BEGIN)
        repository.erase(set(range(1, 901)) - {held.id}, actor=LEE, reason="r", law="l", at=BEGIN + timedelta(days=1))
        checkpoint = repository.checkpoint(LogSigner.load(key, origin=ORIGIN), at=BEGIN + timedelta(days=1))
        assert checkpoint is not None
        repository.export(tmp_path / "export", reader=LEE, at=BEGIN + timedelta(days=1))
    report = verify_export(tmp_path / "export", public, previous=[checkpoint.note])
    assert (report.problems, report.size, report.anchored) == ([], checkpoint.size, True)
    assert (report.erased, report.verified) == (899, report.size - 899)


def test_the_database_refuses_what_no_erasure_speaks_of(repository: Repository, url: str) -> None:
    repository.store(receipts(3))
    engine = open_store(url)
    for statement in (
        "DELETE FROM audit_content", "UPDATE audit_content SET raw = ''", "UPDATE audit_record SET searchable = ''",
        "DELETE FROM audit_log", "UPDATE audit_log SET salt = NULL", "TRUNCATE audit_term", "TRUNCATE audit_record CASCADE",
    ):  # fmt: skip
        with pytest.raises(DBAPIError, match="append only"), writing(engine) as connection:
            connection.execute(text(statement))
    repository.erase([2], actor=LEE, reason="r", law="l", at=BEGIN)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT record_id FROM audit_content ORDER BY 1")).scalars().all() == [1, 3, 4]
        assert connection.execute(text("SELECT count(*) FROM audit_log WHERE salt IS NULL")).scalar() == 1


def test_a_role_that_can_only_add(repository: Repository, url: str) -> None:
    repository.store(receipts(3))
    engine = open_store(url)
    assert securepacs("grant", "sender_only", "--store", url).returncode == 2  # it does not exist
    with writing(engine) as connection:
        connection.execute(text("DROP ROLE IF EXISTS sender_only"))
        connection.execute(text("CREATE ROLE sender_only LOGIN"))
    assert securepacs("grant", "sender_only", "--store", url).returncode == 0
    limited = url.replace("securepacs@", "sender_only@")
    with Repository(limited) as adding:
        assert adding.store(receipts(2, first=3)) == [4, 5]
        assert len(adding.search(Criteria(event="110105"), reader=LEE, at=BEGIN)) == 5
        with pytest.raises(DBAPIError, match="permission denied"):
            adding.erase([1], actor=LEE, reason="r", law="l", at=BEGIN)
    for statement in ("DELETE FROM audit_record", "UPDATE audit_log SET entry = ''", "TRUNCATE audit_hold", "DROP TABLE audit_tile",
                      "ALTER TABLE audit_content DISABLE TRIGGER ALL"):  # fmt: skip
        with pytest.raises(DBAPIError, match=r"permission denied|must be owner"), writing(open_store(limited)) as connection:
            connection.execute(text(statement))
    with writing(engine) as connection:
        connection.execute(text("DROP OWNED BY sender_only"))
        connection.execute(text("DROP ROLE sender_only"))


@pytest.mark.parametrize("role", ["", "Robert'); DROP TABLE audit_record;--", "UPPER"])
def test_what_is_no_role(repository: Repository, role: str) -> None:
    with pytest.raises(UsageError):
        repository.grant(role)


def test_sqlite_has_no_roles(tmp_path: Path) -> None:
    with Repository(f"sqlite:///{tmp_path}/a.db") as repository, pytest.raises(UsageError, match="only PostgreSQL"):
        repository.grant("sender_only")


def test_a_server_that_went_away_is_unavailable_and_nothing_is_half_stored(url: str) -> None:
    """The connection is cut inside the server while records are written; the next call finds it again."""
    with Repository(url) as repository:
        repository.store(receipts(3))
        with writing(open_store(url)) as connection:
            connection.execute(text("LOCK TABLE audit_record IN ACCESS EXCLUSIVE MODE"))
            failed: list[BaseException] = []

            def store() -> None:
                try:
                    repository.store(receipts(3, first=3))
                except Unavailable as error:
                    failed.append(error)

            thread = threading.Thread(target=store)
            thread.start()
            waiting = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while thread.is_alive():
                connection.execute(waiting)
                thread.join(0.05)
        assert len(failed) == 1
        assert repository.store(receipts(3, first=3)) == [4, 5, 6]
        assert repository.count() == 6


def test_reports_and_pages_read_the_same(repository: Repository) -> None:
    """What streams, groups and continues at a place has to mean the same on both databases."""
    from securepacs.audit.reports import Scope, Suspect, SuspectKind, access, breach, csv_lines, emergency, html, monthly
    from securepacs.audit.repository.fhir_answer import search
    from securepacs.audit.repository.fhir_query import parse_query

    raws = [to_syslog(each, hostname="h", app_name="a", procid="1") for each in all_messages().values()]
    repository.store(Receipt.of(raw, received=AT, transport="test") for raw in (*raws, raws[0], b"nothing"))
    scope = Scope(repository, LEE, AT)
    for made in (
        access(scope, patient="4711"),
        monthly(scope),
        emergency(scope),
        breach(scope, Suspect.of(SuspectKind.AE, "CT1")),
    ):
        with made as report:
            assert b"".join(html(report)).endswith(b"</html>\n")
            rows = list(csv_lines(report.data))
            if report.kind == "access":
                assert len(rows) == 10
            if report.kind == "monthly":
                assert dict(report.figures)["Repeated deliveries left out"] == "1"
                assert dict(report.charts[0].values) == {"01-31": 17}
    for order in ("date", "-date"):
        seen, after = list[str](), ""
        while True:
            given = [("date", "2027-01-31"), ("_count", "4"), ("_sort", order), ("source.identifier", "gw1")]
            query = parse_query([*given, *([("_after", after)] if after else [])])
            bundle = search(repository, query, base="https://x", reader=LEE, at=BEGIN)
            seen += [each["resource"]["id"] for each in bundle["entry"] if each["search"]["mode"] == "match"]
            links = {each["relation"]: each["url"] for each in bundle["link"]}
            if "next" not in links:
                break
            after = links["next"].rpartition("_after=")[2].replace("%3A", ":")
        assert seen == [str(number) for number in (range(1, 16) if order == "date" else range(15, 0, -1))]
