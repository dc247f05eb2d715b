"""Opening the store: SQLite by default, PostgreSQL by URL, brought to the newest schema before anyone sees it.

SQLite is used durably: WAL with synchronous=FULL, so a committed transaction survives a power cut; foreign keys enforced; the
file readable by its owner alone. Two processes may open the same store at the same moment.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from securepacs.errors import ConfigError, Unavailable

LOCK_SECONDS = 30.0  # how long a second opener waits for a migration, and a writer for another writer
_POLL_SECONDS = 0.05
_SQLITE_PARAMETERS = 32_766  # of one statement, SQLite's own limit
_SQLITE_PAGE = 8192  # of new files: three audit records of 2 KB on a page, where 4096 octets hold one and waste the rest
_SQLITE_CACHE_KIB = 65_536
_SQLITE_CHECKPOINT_PAGES = 8192  # 64 MiB of log before it is copied into the file
_WRITE_OPTION = "securepacs_write"
_PG_LOCK_KEY = 0x5EC0_9AC5  # advisory lock shared by every securepacs process of one PostgreSQL database


def open_store(url: str) -> Engine:
    """Open the store at an SQLAlchemy URL and bring its schema to the newest revision.

    `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://...` (needs psycopg 3). Raises ConfigError for a URL that
    cannot be meant, a missing driver or a store made by a newer release; Unavailable when the database cannot be reached, written
    or locked. The folder of an SQLite file must exist.
    """
    parsed = _parse(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            return _open_sqlite(parsed)
        return _open_postgresql(parsed)
    except DBAPIError as error:
        raise Unavailable(
            f"the store cannot be opened: {_reason(error)}", hint="check the path or server, and its permissions"
        ) from None


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection inside one consistent read transaction; database failures become Unavailable."""
    with _typed(), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection inside one write transaction, committed durably on leaving and rolled back on any error.

    On SQLite the write lock is taken at once (BEGIN IMMEDIATE), so what is read inside cannot be outdated when it is written.
    IntegrityError of SQLAlchemy passes through: it is the caller's broken rule, not a failing database.
    """
    with _typed(), engine.connect().execution_options(**{_WRITE_OPTION: True}) as connection, connection.begin():
        yield connection


def bulk_insert(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows, their values in the order of the table's columns, in the fastest way the database has.

    NOT checked: types; values go to the driver as they are.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _insert_many(connection, table, rows)
        return
    cursor = connection.connection.cursor()
    try:
        with cursor.copy(f"COPY {table.name} ({', '.join(table.columns.keys())}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.dbapi.OperationalError as error:  # type: ignore[union-attr]  # not through SQLAlchemy, so not typed by it
        raise Unavailable(f"the store did not answer: {str(error).splitlines()[0]}") from None
    finally:
        cursor.close()


def _insert_many(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert with few long statements: sqlite3 gives up the interpreter lock once for each, not once for each row."""
    one = f"({', '.join('?' * len(table.columns))})"
    start, at_once = 0, _SQLITE_PARAMETERS // len(table.columns)
    while start < len(rows):
        # powers of two only: a handful of statements, which the driver keeps prepared
        count = 1 << (min(len(rows) - start, at_once)).bit_length() - 1
        values = tuple(chain.from_iterable(rows[start : start + count]))
        connection.exec_driver_sql(_insert_statement(table.name, one, count), values)
        start += count


@lru_cache(maxsize=256)
def _insert_statement(table: str, one: str, count: int) -> str:
    return f"INSERT INTO {table} VALUES {', '.join([one] * count)}"  # noqa: S608


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable(f"the store did not answer: {_reason(error)}") from None


def _reason(error: DBAPIError) -> str:
    # the driver's own words, without the statement and its parameters, which may name patients' objects
    return str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:
        raise ConfigError(
            "the store needs an SQLAlchemy URL", key="store", hint="for example sqlite:////var/lib/securepacs/store.db"
        ) from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise ConfigError("the store must be a file: what it records has to outlive the process", key="store")
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"the store cannot be kept in {backend!r}", key="store", hint="use sqlite:///FILE or postgresql://HOST/DATABASE"
    )


# --- SQLite ---------------------------------------------------------------------------------------------------------
def _open_sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        # created here so that it is never readable by others, not even for a moment; -wal and -shm inherit the mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise Unavailable(
            f"the store cannot be opened: {error.strerror}", retryable=False, hint="the folder must exist and be writable"
        ) from None
    engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS, "isolation_level": None})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    try:
        with _folder_lock(path.parent):
            _switch_to_wal(engine)
            with writing(engine) as connection:
                _migrate(connection)
    except sqlite3.DatabaseError as error:  # raised outside SQLAlchemy's own calls: the file is no database, or is damaged
        engine.dispose()
        raise Unavailable(f"the store cannot be opened: {error}", retryable=False) from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    # secure_delete: what is lawfully erased must not stay in free pages
    for pragma in (
        f"page_size = {_SQLITE_PAGE}", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON",
        f"busy_timeout = {int(LOCK_SECONDS * 1000)}",
        f"cache_size = -{_SQLITE_CACHE_KIB}", f"wal_autocheckpoint = {_SQLITE_CHECKPOINT_PAGES}",
    ):  # fmt: skip
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # sqlite3's own transaction handling begins late and lets schema changes escape; isolation_level None leaves it to us
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE_OPTION) else "BEGIN")


def _switch_to_wal(engine: Engine) -> None:
    # journal_mode is a property of the file, cannot change inside a transaction, and the change ignores busy_timeout
    raw = engine.raw_connection()
    try:
        mode = raw.cursor().execute("PRAGMA journal_mode = WAL").fetchone()
    finally:
        raw.close()
    if mode is None or mode[0] != "wal":
        raise Unavailable("the store's file system does not support SQLite's WAL mode", retryable=False, hint="use a local disk")


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the advisory lock of the folder. A lock on the database file itself would, when closed, drop SQLite's own locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable("another process has been opening the store for too long") from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------
def _open_postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError:
        raise ConfigError("PostgreSQL needs the driver psycopg 3", key="store", hint="pip install 'securepacs[postgres]'") from None
    try:
        with writing(engine) as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_PG_LOCK_KEY})")
            _migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


# --- migrations -----------------------------------------------------------------------------------------------------
def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def head_revision() -> str:
    """Return the newest schema revision this release knows."""
    return str(ScriptDirectory.from_config(_alembic_config()).get_current_head())


def _migrate(connection: Connection) -> None:
    config = _alembic_config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise ConfigError(
            "the store was made by a newer release of securepacs", key="store", hint="upgrade securepacs, or use another store"
        ) from None
