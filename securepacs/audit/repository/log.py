"""The Merkle log over the records of a store: one leaf for each record, written in the transaction that stores it.

Rules of this file:
1. Leaf number is record id - 1; there is no record without a leaf and no leaf without a record.
2. The tree holds commitments, never patient data: salt and octets stand beside it and can be erased without changing a hash.
3. What is kept in memory is only a copy of the right edge; another process may have appended, so its size is compared first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_bytes
from typing import Any

from sqlalchemy import Connection, func, select

from securepacs.audit.log_entry import SALT_SIZE, commitment, encode_entry, safe_token
from securepacs.audit.merkle import HASH_SIZE, NodeReader, leaf_hash
from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.tables import audit_content, audit_log, audit_record, audit_tile
from securepacs.audit.repository.terms import Index
from securepacs.audit.tiles import HEIGHT, WIDTH, GrowingTree, node_reader, partial_widths, tile_root
from securepacs.errors import IntegrityFailure
from securepacs.store import bulk_insert
from securepacs.store.tables import moment_of, moment_text

_ADOPTED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Item:
    """A record on its way into the store.

    `erases` are the leaves whose octets it makes forgotten, as `log_entry` writes them; `hold` is the row of `audit_hold` it makes.
    """

    receipt: Receipt
    index: Index
    erases: str = ""
    hold: dict[str, Any] | None = None


class LogWriter:
    """Appends the leaves of records, inside the transaction of the caller; only the writer thread may use it."""

    def __init__(self, receiver: str) -> None:
        self._receiver = safe_token(receiver)
        self._tree: GrowingTree | None = None
        self._received = ""  # of the last leaf: recorded time never runs backwards
        self._seen: datetime | None = None  # the moment `_received` includes: records of one batch share theirs

    def begin(self, connection: Connection) -> int:
        """Return how many leaves there are, after catching up with what other processes appended."""
        last = connection.execute(
            select(audit_record.c.id, audit_record.c.received).order_by(audit_record.c.id.desc()).limit(1)
        ).one_or_none()
        size = int(last.id) if last else 0
        if self._tree is None or self._tree.size != size:
            self._tree = load_tree(connection, size)
        self._received, self._seen = str(last.received) if last else "", None
        return size

    def forget(self) -> None:
        """Give up the copy of the right edge: the transaction did not commit."""
        self._tree = None

    def moment(self, receipt: Receipt) -> str:
        """Return the moment of receipt as it is recorded; call once for each record, in order."""
        if receipt.received is not self._seen:
            self._received, self._seen = max(self._received, moment_text(receipt.received)), receipt.received
        return self._received

    def append(
        self, connection: Connection, first: int, items: Sequence[Item], moments: Sequence[str], repeats: Sequence[int | None]
    ) -> None:
        """Write the leaves of records `first`, first + 1, ..., which stand in the store already; `repeats` are record ids."""
        tree, receiver = self._tree, self._receiver
        if tree is None or tree.size != first - 1:
            raise IntegrityFailure("the log does not end where the records end")
        salts = token_bytes(SALT_SIZE * len(items))
        rows: list[tuple[int, bytes, bytes]] = []
        for number, (item, moment, repeated) in enumerate(zip(items, moments, repeats, strict=True)):
            receipt, index = item.receipt, item.index
            salt = salts[number * SALT_SIZE : (number + 1) * SALT_SIZE]
            entry = encode_entry(
                index=first - 1 + number,
                received=moment,
                receiver=receiver,
                transport=receipt.transport,
                peer_address=receipt.peer_address,
                peer_sha256=receipt.peer_sha256,
                length=receipt.length,
                truncated=receipt.truncated,
                commitment=commitment(salt, receipt.raw),
                verdict=index.verdict,
                dialect=index.dialect,
                event_code=index.event_code,
                action=index.action,
                outcome=index.outcome,
                repeats=None if repeated is None else repeated - 1,
                erases=item.erases,
            )
            tree.append(leaf_hash(entry))
            rows.append((first + number, entry, salt))
        bulk_insert(connection, audit_log, rows)
        bulk_insert(connection, audit_tile, tree.filled)
        tree.filled.clear()


def adopt(connection: Connection, receiver: str) -> int:
    """Append the leaves of records that were stored before there was a log; return how many there were."""
    size = connection.execute(select(func.coalesce(func.max(audit_log.c.record_id), 0))).scalar_one()
    query = select(audit_record, audit_content.c.raw).join(audit_content).order_by(audit_record.c.id)
    adopted = 0
    while rows := connection.execute(query.where(audit_record.c.id > size + adopted).limit(_ADOPTED_AT_ONCE)).all():
        writer = LogWriter(receiver)
        writer._tree = load_tree(connection, size + adopted)
        items = [Item(_receipt_of(row), Index._make((*(getattr(row, name) for name in Index._fields[:-1]), ()))) for row in rows]
        writer.append(connection, rows[0].id, items, [row.received for row in rows], [row.duplicate_of for row in rows])
        adopted += len(rows)
    return adopted


def _receipt_of(row: Any) -> Receipt:
    return Receipt(
        row.raw, moment_of(row.received), row.transport, row.frame_length, row.frame_sha256, row.truncated, row.peer_address,
        row.peer_subject, row.peer_sha256,
    )  # fmt: skip


def load_tree(connection: Connection, size: int) -> GrowingTree:
    """Return the right edge of the first `size` leaves of the stored log."""
    partial = [
        read_tile(connection, level, (size >> HEIGHT * level) // WIDTH, width) for level, width in enumerate(partial_widths(size))
    ]
    return GrowingTree(size, partial)


def read_tile(connection: Connection, level: int, number: int, width: int) -> bytes:
    """Return the first `width` hashes of a tile, full or not. Raises IntegrityFailure when the store does not have them."""
    if not width:
        return b""
    stored = select(audit_tile.c.hashes).where(audit_tile.c.level == level, audit_tile.c.number == number)
    full = connection.execute(stored).scalar()
    if full is not None:
        hashes = bytes(full)[: width * HASH_SIZE]
    elif level == 0:
        hashes = b"".join(map(leaf_hash, read_entries(connection, number * WIDTH, width)))
    else:
        first = number * WIDTH
        below = (
            select(audit_tile.c.hashes)
            .where(audit_tile.c.level == level - 1, audit_tile.c.number >= first, audit_tile.c.number < first + width)
            .order_by(audit_tile.c.number)
        )
        hashes = b"".join(tile_root(bytes(each)) for each in connection.execute(below).scalars())
    if len(hashes) != width * HASH_SIZE:
        raise IntegrityFailure(f"tile {number} of level {level} of the audit log is not complete in the store")
    return hashes


def read_entries(connection: Connection, first: int, count: int) -> list[bytes]:
    """Return the entries of leaves first..first+count-1."""
    query = (
        select(audit_log.c.entry)
        .where(audit_log.c.record_id > first, audit_log.c.record_id <= first + count)
        .order_by(audit_log.c.record_id)
    )
    return [bytes(each) for each in connection.execute(query).scalars()]


def stored_nodes(connection: Connection, size: int) -> NodeReader:
    """Return a reader of the nodes of the first `size` leaves, for proofs."""
    return node_reader(size, lambda level, number, width: read_tile(connection, level, number, width))


def record_row(number: int, item: Item, moment: str, duplicate_of: int | None) -> tuple[Any, ...]:
    """Return the row of `audit_record`, in the order of its columns."""
    receipt, index = item.receipt, item.index
    return (
        number, moment, receipt.transport, receipt.peer_address, receipt.peer_subject, receipt.peer_sha256, receipt.sha256,
        receipt.length, receipt.truncated, duplicate_of, *index[:-1],
    )  # fmt: skip
