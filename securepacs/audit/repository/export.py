"""Writing the log, its checkpoints and the octets of its records into a folder that can be verified anywhere (`audit.evidence`)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select

from securepacs.audit.checkpoint import Checkpoint, parse_checkpoint
from securepacs.audit.evidence import Content, Scope, content_path, encode_content
from securepacs.audit.merkle import HASH_SIZE
from securepacs.audit.repository.log import read_entries, read_tile
from securepacs.audit.repository.tables import audit_checkpoint, audit_content, audit_log, audit_stamp
from securepacs.audit.tiles import WIDTH, bundle_path, bundles_of, encode_bundle, tile_path, tiles_of
from securepacs.errors import UsageError
from securepacs.store import reading


def export(engine: Engine, folder: Path, *, records: Collection[int] | None = None) -> Checkpoint:
    """Export the log up to its newest checkpoint, and the octets of `records` (ids; None for all) into a new folder.

    Returns that checkpoint. Records received after it are left out, whoever asks for them. Raises UsageError when the folder
    has anything in it, or when the log was never signed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="export into a new folder")
    with reading(engine) as connection:
        newest = connection.execute(
            select(audit_checkpoint.c.note).order_by(audit_checkpoint.c.size.desc()).limit(1)
        ).scalar_one_or_none()
        if newest is None:
            raise UsageError("the log has no signed checkpoint yet", hint="give --log-key, here or to `audit serve`")
        checkpoint = parse_checkpoint(newest)
        chosen = None if records is None else {each - 1 for each in records if 0 < each <= checkpoint.size}
        _write_checkpoints(connection, folder, checkpoint)
        _write_tiles(connection, folder, checkpoint.size)
        for number, width in bundles_of(checkpoint.size):
            _write(folder / bundle_path(number, width), encode_bundle(read_entries(connection, number * WIDTH, width)))
            wanted = None if chosen is None else chosen.intersection(range(number * WIDTH, number * WIDTH + width))
            contents = _contents(connection, number * WIDTH, width, wanted)
            if contents:
                _write(folder / content_path(number), encode_content(contents))
        scope = Scope.of(checkpoint.size, None if chosen is None else chosen - _erased(connection, checkpoint.size))
        _write(folder / "scope", scope.text().encode())
    return checkpoint


def _write_checkpoints(connection: Connection, folder: Path, newest: Checkpoint) -> None:
    query = select(audit_checkpoint.c.size, audit_checkpoint.c.note).order_by(audit_checkpoint.c.size)
    for row in connection.execute(query):
        _write(folder / "checkpoints" / str(row.size), row.note.encode())
    _write(folder / "checkpoint", newest.note.encode())
    stamps = select(audit_stamp.c.size, audit_stamp.c.token).order_by(audit_stamp.c.size, audit_stamp.c.authority)
    counted: dict[int, int] = {}
    for row in connection.execute(stamps):
        counted[row.size] = counted.get(row.size, 0) + 1
        _write(folder / "stamps" / f"{row.size}.{counted[row.size]}.tst", bytes(row.token))


def _write_tiles(connection: Connection, folder: Path, size: int) -> None:
    for level, number, width in tiles_of(size):
        hashes = read_tile(connection, level, number, width)
        _write(folder / tile_path(level, number, len(hashes) // HASH_SIZE), hashes)


def _contents(connection: Connection, first: int, width: int, wanted: set[int] | None) -> list[Content]:
    if wanted is not None and not wanted:
        return []
    query = (
        select(audit_log.c.record_id, audit_log.c.salt, audit_content.c.raw)
        .join(audit_content, audit_content.c.record_id == audit_log.c.record_id)
        .where(audit_log.c.record_id > first, audit_log.c.record_id <= first + width)
        .order_by(audit_log.c.record_id)
    )
    return [
        Content(row.record_id - 1 - first, bytes(row.salt), bytes(row.raw))
        for row in connection.execute(query)
        if wanted is None or row.record_id - 1 in wanted
    ]


def _erased(connection: Connection, size: int) -> set[int]:
    gone = select(audit_log.c.record_id).where(audit_log.c.salt.is_(None), audit_log.c.record_id <= size)
    return {number - 1 for number in connection.execute(gone).scalars()}


def log_size(connection: Connection) -> int:
    """Return how many entries the log has."""
    return int(connection.execute(select(func.coalesce(func.max(audit_log.c.record_id), 0))).scalar_one())


def _write(path: Path, octets: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)
