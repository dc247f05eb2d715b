"""The log beside the records: every record is a leaf, whoever writes; signing, keeping, erasing and holding."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, select

from securepacs.audit.log_entry import commitment, decode_entry
from securepacs.audit.merkle import Frontier, leaf_hash, root_of, verify_inclusion
from securepacs.audit.message import AuditMessage
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.repository.keeper import LogKeeper
from securepacs.audit.repository.log import load_tree, read_entries, stored_nodes
from securepacs.audit.repository.retention import MIN_RETENTION
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.repository.tables import audit_content, audit_log, audit_record
from securepacs.errors import ConfigError, IntegrityFailure, Unavailable, UsageError
from securepacs.store import database as store_database
from securepacs.store import open_store, reading
from tests.support.audit import LEE, numbered
from tests.support.audit_log import BEGIN, ORIGIN, SignedLog, codes, make_log_key, receipts


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SignedLog]:
    made = SignedLog(tmp_path / "log", 20, every=20)
    yield made
    made.repository.close()


def entries(path: Path) -> list[bytes]:
    with reading(open_store(f"sqlite:///{path}/audit.db")) as connection:
        size = len(connection.execute(select(audit_log.c.record_id)).all())
        found = read_entries(connection, 0, size)
        assert load_tree(connection, size).root() == root_of(map(leaf_hash, found))
        return found


def test_every_record_is_a_leaf_that_commits_to_its_octets(repository: Repository, tmp_path: Path) -> None:
    repository.store(receipts(300))
    repository.store([receipts(1)[0]])
    found = [decode_entry(each) for each in entries(tmp_path)]
    assert [each.index for each in found] == list(range(301))
    assert found[300].repeats == 0
    with reading(open_store(f"sqlite:///{tmp_path}/audit.db")) as connection:
        query = select(audit_log.c.salt, audit_content.c.raw).join(
            audit_content, audit_content.c.record_id == audit_log.c.record_id
        )
        rows = connection.execute(query.order_by(audit_log.c.record_id)).all()
        assert [commitment(row.salt, row.raw) for row in rows] == [each.commitment for each in found]
        node, root = stored_nodes(connection, 301), load_tree(connection, 301).root()
        from securepacs.audit.merkle import inclusion_proof

        for index in (0, 255, 256, 300):
            verify_inclusion(leaf_hash(entries(tmp_path)[index]), index, 301, inclusion_proof(index, 301, node), root)
        assert Frontier.at(301, node).root() == root
    assert len({row.salt for row in rows}) == 301
    assert b"Doe" not in b"".join(entries(tmp_path))


def test_several_writers_make_one_log(repository: Repository, tmp_path: Path) -> None:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as other:
        for first in range(0, 600, 60):
            repository.store(receipts(30, first=first))
            other.store(receipts(30, first=first + 30))
    assert len(entries(tmp_path)) == 600


def test_recorded_time_never_runs_backwards(repository: Repository, tmp_path: Path) -> None:
    repository.store(reversed(receipts(3)))
    repository.store(receipts(1))
    moments = [decode_entry(each).received for each in entries(tmp_path)]
    assert moments == sorted(moments)


def test_a_store_from_before_there_was_a_log_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.db"
    with monkeypatch.context() as patch:
        upgrade = command.upgrade
        patch.setattr(store_database.command, "upgrade", lambda config, _head: upgrade(config, "0002"))
        open_store(f"sqlite:///{path}").dispose()
    with sqlite3.connect(path) as connection:
        for number in (1, 2):
            connection.execute(
                "INSERT INTO audit_record VALUES (?, '2026-01-01T00:00:00.000000Z', 'tls', '10.0.0.1', 'CN=a', ?, ?, 3, 0, NULL, "
                "'unparsed', '', '2026-01-01T00:00:00.000000Z', '', '', '', NULL, '', '', '', '', 'raw')",
                (number, "ab" * 32, f"{number}" * 64),
            )
            connection.execute("INSERT INTO audit_content VALUES (?, ?)", (number, b"raw"))
            connection.execute("INSERT INTO audit_term VALUES (?, 'patient', '4711')", (number,))
            connection.execute("INSERT INTO audit_term VALUES (?, 'user', 'lee')", (number,))
    connection.close()
    with Repository(f"sqlite:///{path}") as repository:
        found = repository.search(Criteria(patient="4711"), reader=LEE, at=BEGIN)
        assert [(each.id, each.patients) for each in found] == [(2, ("4711",)), (1, ("4711",))]
    assert [decode_entry(each).transport for each in entries(tmp_path)] == ["tls", "tls", "internal"]


def test_a_commit_that_fails_leaves_no_leaf(repository: Repository, tmp_path: Path) -> None:
    repository.store(receipts(2))
    engine = create_engine(f"sqlite:///{tmp_path}/audit.db")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TRIGGER fault BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'fault'); END")
        connection.commit()
        with pytest.raises(Exception, match="fault"):
            repository.store(receipts(3))
        connection.exec_driver_sql("DROP TRIGGER fault")
        connection.commit()
    engine.dispose()
    assert repository.store(receipts(1, first=9)) == [3]
    assert len(entries(tmp_path)) == 3


# --- signing ----------------------------------------------------------------------------------------------------------
def test_a_checkpoint_is_made_when_something_came(log: SignedLog) -> None:
    assert log.sign(BEGIN) is None
    log.repository.store(receipts(1, first=30))
    made = log.sign(BEGIN)
    assert made is not None
    assert made.size == 21
    assert log.signer.last == made


def test_an_empty_log_has_no_checkpoint(tmp_path: Path) -> None:
    log = SignedLog(tmp_path / "none", 0, every=1)
    assert log.sign(BEGIN) is None
    log.repository.close()


def test_a_signer_whose_memory_is_damaged_signs_nothing(log: SignedLog) -> None:
    state = log.folder / "last"
    log.repository.store(receipts(1, first=30))
    for damaged in (b"", b"\xff", state.read_bytes().replace(b"20", b"21")):
        state.write_bytes(damaged)
        with pytest.raises(IntegrityFailure):
            log.sign(BEGIN)


def test_a_signer_that_cannot_remember_signs_nothing(log: SignedLog) -> None:
    signer = LogSigner.load(log.key_file, origin=ORIGIN, state=log.folder / "none" / "last")
    log.repository.store(receipts(1, first=30))
    with pytest.raises(Unavailable):
        log.repository.checkpoint(signer, at=BEGIN)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        LogSigner.load(tmp_path / "none.key", origin=ORIGIN)
    assert LogSigner.load(make_log_key(tmp_path / "log.key"), origin=ORIGIN).last is None


# --- the keeper -------------------------------------------------------------------------------------------------------
class Witness:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.messages: list[AuditMessage] = []

    def emit(self, message: AuditMessage) -> None:
        self.messages.append(message)


def test_the_keeper_signs_and_tells_the_witness(log: SignedLog) -> None:
    witness = Witness()
    log.repository.store(receipts(5, first=20))
    with LogKeeper(log.repository, log.signer, seconds=60, witness=witness, clock=lambda: BEGIN):
        pass
    (message,) = witness.messages
    (detail,) = message.ParticipantObjectIdentification[0].ParticipantObjectDetail
    assert log.signer.last is not None
    assert detail.value.decode() == log.signer.last.note
    assert log.signer.last.size == 25


def test_the_keeper_alarms_once_about_a_log_that_was_changed(log: SignedLog, tmp_path: Path) -> None:
    other = SignedLog(tmp_path / "other", 0, every=1, key=log.key_file)
    other.repository.store(receipts(30, first=7))
    witness = Witness()
    keeper = LogKeeper(other.repository, log.signer, witness=witness, clock=lambda: BEGIN)
    keeper.turn()
    keeper.turn()
    found = other.repository.search(Criteria(event="110135"), reader=LEE, at=BEGIN)
    assert [(each.outcome, "not those that were signed" in each.description) for each in found] == [(12, True)]
    assert len(witness.messages) == 1
    other.repository.close()


def test_the_keeper_ends_retention_once_a_day(log: SignedLog) -> None:
    moment = [BEGIN + timedelta(days=1000)]
    keeper = LogKeeper(log.repository, log.signer, retention=timedelta(days=900), law="PIPA", clock=lambda: moment[0])
    keeper.turn()
    assert log.repository.count() == 21
    keeper.turn()
    assert log.repository.count() == 21
    moment[0] += timedelta(days=1)
    keeper.turn()  # nothing is due: no record of an erasure of nothing
    assert log.repository.count() == 21
    assert codes(log.verify(log.export())) == set()


# --- erasing and holding ----------------------------------------------------------------------------------------------
def test_an_erasure_takes_everything_but_the_leaf(log: SignedLog) -> None:
    before = entries(log.folder)
    record = log.repository.erase([3, 5, 6], actor=LEE, reason="request", law="GDPR 17", at=BEGIN)
    assert entries(log.folder)[:20] == before
    (erasure,) = [decode_entry(each) for each in entries(log.folder)[record - 1 : record]]
    assert erasure.erases == (range(2, 3), range(4, 6))
    for number in (3, 5, 6):
        with pytest.raises(UsageError):
            log.repository.raw(number)
    with sqlite3.connect(log.folder / "audit.db") as connection:
        everything = "\n".join(connection.iterdump())
    connection.close()
    log.repository.close()
    for gone in ("1.2.3.2", "1.2.3.4", "1.2.3.5"):
        assert f"{gone}<" not in everything
        assert f"{gone}<".encode() not in (log.folder / "audit.db").read_bytes()
    log.repository = Repository(f"sqlite:///{log.folder}/audit.db")
    assert log.repository.search(Criteria(study="1.2.3.4", event="110105"), reader=LEE, at=BEGIN) == []
    assert log.repository.raw(4)
    (told,) = log.repository.search(Criteria(text="gdpr 17"), reader=LEE, at=BEGIN)
    assert told.id == record


def test_what_cannot_be_erased(log: SignedLog) -> None:
    log.repository.erase([3], actor=LEE, reason="request", law="GDPR 17", at=BEGIN)
    held = log.repository.hold("C-1", Criteria(study="1.2.3.7"), actor=LEE, reason="court", at=BEGIN)
    for ids in ([3], [21], [held], [8], [0], [999]):
        with pytest.raises(UsageError):
            log.repository.erase(ids, actor=LEE, reason="request", law="GDPR 17", at=BEGIN)
    for arguments in ({"reason": " "}, {"law": ""}):
        with pytest.raises(UsageError):
            log.repository.erase([9], actor=LEE, **{"reason": "r", "law": "l", "at": BEGIN} | arguments)
    with pytest.raises(UsageError):
        log.repository.erase([], actor=LEE, reason="r", law="l", at=BEGIN)
    log.repository.release("C-1", actor=LEE, reason="closed", at=BEGIN)
    log.repository.erase([8], actor=LEE, reason="request", law="GDPR 17", at=BEGIN)


def test_the_database_itself_refuses_what_no_erasure_speaks_of(log: SignedLog) -> None:
    with sqlite3.connect(log.folder / "audit.db") as connection:
        for statement in (
            "DELETE FROM audit_content", "DELETE FROM audit_term", "UPDATE audit_log SET salt = NULL", "DELETE FROM audit_log",
            "UPDATE audit_record SET searchable = ''", "DELETE FROM audit_checkpoint", "UPDATE audit_checkpoint SET note = ''",
        ):  # fmt: skip
            with pytest.raises(sqlite3.IntegrityError, match="append only"):
                connection.execute(statement)
    connection.close()


def test_retention_passes_over_what_is_held(log: SignedLog) -> None:
    held = Criteria(since=BEGIN, study="1.2.3.7", outcome=0)
    log.repository.store([Receipt.of(numbered_raw(50), received=BEGIN + timedelta(days=900), transport="test")])
    log.repository.hold("C-1", Criteria(study="1.2.3.7", outcome=0), actor=LEE, reason="court", at=BEGIN + timedelta(days=900))
    log.repository.hold("C-2", held, actor=LEE, reason="court", at=BEGIN + timedelta(days=900))
    at = BEGIN + MIN_RETENTION + timedelta(days=1)
    with pytest.raises(UsageError, match="at least"):
        log.repository.retain(MIN_RETENTION - timedelta(days=1), actor=LEE, law="PIPA", at=at)
    assert log.repository.retain(MIN_RETENTION, actor=LEE, law="PIPA", at=at) == 19
    assert log.repository.retain(MIN_RETENTION, actor=LEE, law="PIPA", at=at) == 0
    assert log.repository.raw(8)
    assert log.repository.raw(21)
    with reading(open_store(f"sqlite:///{log.folder}/audit.db")) as connection:
        kept = connection.execute(select(audit_content.c.record_id).order_by(audit_content.c.record_id)).scalars().all()
        assert kept == [8, 21, 22, 23, 24]
        assert sorted(connection.execute(select(audit_record.c.id)).scalars()) == list(range(1, 25))


def numbered_raw(number: int) -> bytes:
    from securepacs.audit.xml import to_xml

    return to_xml(numbered(number))


def test_holds_are_cases_with_names_and_criteria(log: SignedLog) -> None:
    wanted = Criteria(patient="4711", since=BEGIN, outcome=8)
    log.repository.hold("C-1", wanted, actor=LEE, reason="court", at=BEGIN)
    assert log.repository.holds() == {"C-1": [wanted]}
    for case, criteria in ((" ", wanted), ("x" * 256, wanted), ("C-2", Criteria())):
        with pytest.raises(UsageError):
            log.repository.hold(case, criteria, actor=LEE, reason="court", at=BEGIN)
    with pytest.raises(UsageError):
        log.repository.release("C-2", actor=LEE, reason="closed", at=BEGIN)
    log.repository.release("C-1", actor=LEE, reason="closed", at=BEGIN)
    assert log.repository.holds() == {}
