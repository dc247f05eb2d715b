"""The store: opened durably, migrated once, safe for two openers at the same moment."""

from __future__ import annotations

import multiprocessing
import stat
import subprocess
import sys
from importlib.util import find_spec
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from securepacs.errors import ConfigError, Unavailable
from securepacs.store import database, head_revision, open_store, reading, writing
from securepacs.store.tables import metadata, moment_of, moment_text, original_holding, original_instance

FACTS = {
    "sop_class_uid": "1.2.3",
    "study_instance_uid": "1.2.4",
    "series_instance_uid": "1.2.5",
    "content_sha256": "00" * 32,
}


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def test_an_sqlite_store_is_durable_private_and_current(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    engine = open_store(url_of(path))
    with reading(engine) as connection:

        def pragma(name: str) -> object:
            return connection.execute(text(f"PRAGMA {name}")).scalar_one()

        assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys"), pragma("busy_timeout")) == (
            "wal",
            2,
            1,
            30_000,
        )
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == head_revision()
    assert {name.name: stat.S_IMODE(name.stat().st_mode) for name in tmp_path.iterdir()} == dict.fromkeys(
        ("store.db", "store.db-wal", "store.db-shm"), 0o600
    )


def test_a_store_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch(mode=0o644)
    open_store(url_of(path)).dispose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pages_are_those_a_store_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every release opens the stores of the ones before, whatever pages it makes itself."""

    def pages(name: str) -> int:
        engine = open_store(url_of(tmp_path / name))
        with reading(engine) as connection:
            return int(connection.execute(text("PRAGMA page_size")).scalar_one())

    assert pages("new.db") == 8192
    monkeypatch.setattr(database, "_SQLITE_PAGE", 4096)
    assert pages("old.db") == 4096
    monkeypatch.undo()
    assert pages("old.db") == 4096


def test_opening_again_finds_what_was_written(tmp_path: Path) -> None:
    engine = open_store(url_of(tmp_path / "store.db"))
    with writing(engine) as connection:
        connection.execute(insert(original_instance), [{"sop_instance_uid": "1.2.6", **FACTS}])
    engine.dispose()
    with reading(open_store(url_of(tmp_path / "store.db"))) as connection:
        assert connection.execute(original_instance.select()).one().sop_instance_uid == "1.2.6"


def test_the_migrations_make_exactly_the_declared_tables(tmp_path: Path) -> None:
    with reading(open_store(url_of(tmp_path / "store.db"))) as connection:
        owned = {
            "target_metadata": metadata,
            "include_object": lambda _o, name, kind, *_: kind != "table" or name in metadata.tables,
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=owned), metadata) == []


def _open_at_once(url: str, start: Barrier, results: multiprocessing.Queue[str]) -> None:
    start.wait()
    try:
        open_store(url).dispose()
        results.put("opened")
    except Exception as error:  # the parent must hear of it
        results.put(repr(error))


def test_processes_that_open_a_new_store_at_the_same_moment_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_open_at_once, args=(url_of(tmp_path / "store.db"), start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == ["opened"] * 4
    for process in processes:
        process.join(60)


def test_a_migration_cut_short_leaves_no_half_made_schema(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = (
        "import os, sys\n"
        "from alembic import command, op\n"
        "from securepacs import store\n"
        "made = op.create_index\n"
        "def die(*a, **k): made(*a, **k); os._exit(9)\n"
        "op.create_index = die\n"
        "store.open_store(sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", program, url_of(path)], check=False, timeout=60).returncode == 9
    with reading(open_store(url_of(path))) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == head_revision()


@pytest.mark.parametrize(
    "url", ["", "store.db", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory"]
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert caught.value.key == "store"


def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file") as caught:
        open_store(url_of(tmp_path / "none" / "store.db"))
    assert not caught.value.retryable


def test_a_file_that_is_no_database_is_unavailable_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"these are my lecture notes, keep them " * 100)
    before = path.read_bytes()
    with pytest.raises(Unavailable, match="not a database"):
        open_store(url_of(path))
    assert path.read_bytes() == before


def test_a_store_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    engine = open_store(url_of(tmp_path / "store.db"))
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="newer release"):
        open_store(url_of(tmp_path / "store.db"))


@pytest.mark.skipif(find_spec("psycopg") is not None, reason="the driver is installed")
def test_postgresql_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="psycopg 3"):
        open_store("postgresql://localhost/securepacs")


@pytest.mark.skipif(find_spec("psycopg") is None, reason="the driver psycopg 3 is not installed")
def test_a_postgresql_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        open_store("postgresql://127.0.0.1:1/securepacs")


def test_a_write_is_undone_by_any_error(tmp_path: Path) -> None:
    engine = open_store(url_of(tmp_path / "store.db"))

    def write_and_fail() -> None:
        with writing(engine) as connection:
            connection.execute(insert(original_instance), [{"sop_instance_uid": "1.2.6", **FACTS}])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with reading(engine) as connection:
        assert connection.execute(original_instance.select()).all() == []


def test_foreign_keys_are_enforced(tmp_path: Path) -> None:
    engine = open_store(url_of(tmp_path / "store.db"))
    row = {
        "sop_instance_uid": "1.2.6",
        "ae_title": "CT1",
        "status": "OR",
        "since": moment_text(moment_of("2027-01-01T00:00:00.000000Z")),
    }
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(insert(original_holding), [row])


def test_a_writer_that_waits_too_long_gets_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    holder = open_store(url_of(path))
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    waiting = open_store(url_of(path))
    with writing(holder) as _, pytest.raises(Unavailable, match="locked") as caught, writing(waiting):
        pass
    assert caught.value.retryable


def test_opening_waits_for_another_opener_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    with database._folder_lock(tmp_path), pytest.raises(Unavailable, match="too long"):
        open_store(url_of(tmp_path / "store.db"))


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    engine = open_store(url_of(tmp_path / "store.db"))
    with writing(engine) as writer:
        writer.execute(insert(original_instance), [{"sop_instance_uid": "1.2.6", **FACTS}])
        with reading(engine) as reader:
            assert reader.execute(original_instance.select()).all() == []
