"""Forwarding what a repository received (IHE Audit Record Forwarder): octets unchanged, each destination with its own position.

The store is the queue: a destination's position is the id of the last record it has. Records that repeat an earlier one are passed
over (the earlier one was sent), so that repositories that forward to each other do not do so for ever; so is what was erased.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, select

from securepacs.audit.forwarder import Supply
from securepacs.audit.repository.tables import audit_content, audit_record
from securepacs.audit.segments import Cursor, SpoolRecord
from securepacs.store import reading

_LOOKED_AT = 1000  # records of one read


class StoreReader:
    """Reads the octets of stored records after an id, in order; records that come later are found by the next read."""

    def __init__(self, engine: Engine, *, after: int = 0) -> None:
        self._engine = engine
        self._after = after

    def read(self, *, at_most: int = 1024 * 1024) -> list[SpoolRecord]:
        """Return the next records, about `at_most` octets of them; an empty list when there is none yet. Raises Unavailable."""
        found: list[SpoolRecord] = []
        columns = audit_record.c
        while not found:
            heads = select(columns.id, columns.frame_length).where(columns.id > self._after).order_by(columns.id).limit(_LOOKED_AT)
            with reading(self._engine) as connection:
                last, size = self._after, 0
                for number, length in connection.execute(heads):
                    last, size = number, size + length
                    if size >= at_most:
                        break
                if last == self._after:
                    return []
                wanted = (
                    select(audit_content.c.record_id, audit_content.c.raw)
                    .join(audit_record, columns.id == audit_content.c.record_id)
                    .where(columns.id > self._after, columns.id <= last, columns.duplicate_of.is_(None))
                    .order_by(audit_content.c.record_id)
                )
                found = [SpoolRecord(number, bytes(raw), 0, 0) for number, raw in connection.execute(wanted)]
            self._after = last
        return found

    def close(self) -> None:
        """Nothing is open between two reads."""


def store_supply(engine: Engine, positions: Path, name: str) -> Supply:
    """Return what a forwarder delivers of a store to destination `name`, whose position stands in the folder `positions`."""
    return Supply(Cursor(positions, name), lambda after: StoreReader(engine, after=after))
