"""Audit: the tamper-evident log over the records, lawful erasure and holds, and a smaller index of terms."""

from __future__ import annotations

import json
from hashlib import sha256

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# what may happen to a row: never, or only once its record is lawfully erased (the column that names the record)
_GUARDS = (
    ("audit_record", "UPDATE", "id"),
    ("audit_record", "DELETE", ""),
    ("audit_content", "UPDATE", ""),
    ("audit_content", "DELETE", "record_id"),
    ("audit_term", "UPDATE", ""),
    ("audit_term", "DELETE", "record_id"),
    ("audit_log", "UPDATE", "record_id"),
    ("audit_log", "DELETE", ""),
    *((table, event, "") for table in ("audit_tile", "audit_checkpoint", "audit_stamp", "audit_erasure", "audit_hold")
      for event in ("UPDATE", "DELETE")),
)  # fmt: skip


def upgrade() -> None:
    bind = op.get_bind()
    sqlite = bind.dialect.name == "sqlite"
    if sqlite:
        for table in ("audit_record", "audit_content"):
            for event in ("update", "delete"):
                op.execute(f"DROP TRIGGER {table}_no_{event}")
    for name in ("patients", "studies"):
        op.add_column("audit_record", sa.Column(name, sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "audit_log",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("record_id", name="pk_audit_log"),
        sa.ForeignKeyConstraint(["record_id"], ["audit_record.id"], name="fk_audit_log_record_id_audit_record"),
        comment="The leaves of the Merkle log: leaf record_id - 1 is the entry of the record; append only",
    )
    op.create_table(
        "audit_tile",
        sa.Column("level", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", _ID, autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_audit_tile"),
        comment="Full hash tiles of the log (C2SP tlog-tiles)",
    )
    op.create_table(
        "audit_checkpoint",
        sa.Column("size", _ID, autoincrement=False, nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_audit_checkpoint"),
        comment="Signed checkpoints of the log",
    )
    op.create_table(
        "audit_stamp",
        sa.Column("size", _ID, autoincrement=False, nullable=False),
        sa.Column("authority", sa.String(255), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("size", "authority", name="pk_audit_stamp"),
        sa.ForeignKeyConstraint(["size"], ["audit_checkpoint.size"], name="fk_audit_stamp_size_audit_checkpoint"),
        comment="Time stamps of checkpoints (RFC 3161)",
    )
    op.create_table(
        "audit_erasure",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("erased_by", _ID, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("record_id", name="pk_audit_erasure"),
        sa.ForeignKeyConstraint(["record_id"], ["audit_record.id"], name="fk_audit_erasure_record_id_audit_record"),
        sa.ForeignKeyConstraint(["erased_by"], ["audit_record.id"], name="fk_audit_erasure_erased_by_audit_record"),
        comment="Lawful erasures: erased_by is the record that says who, why and by which law",
    )
    op.create_table(
        "audit_hold",
        sa.Column("id", _ID, autoincrement=False, nullable=False),
        sa.Column("case_id", sa.String(255), nullable=False),
        sa.Column("criteria", sa.Text, nullable=False),
        sa.Column("released", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_hold"),
        sa.ForeignKeyConstraint(["id"], ["audit_record.id"], name="fk_audit_hold_id_audit_record"),
        comment="Holds of cases and their releases; id is the record that says who and why",
    )
    _rewrite_terms(bind)
    if sqlite:
        _guard_sqlite()
    else:
        _guard_postgresql()


def _rewrite_terms(bind: sa.Connection) -> None:
    """Move the terms of the records that are there into the smaller index."""
    old = sa.table("audit_term", sa.column("record_id"), sa.column("kind"), sa.column("value"))
    rows = bind.execute(sa.select(old).order_by(old.c.record_id, old.c.kind, old.c.value)).all()
    op.drop_table("audit_term")
    op.create_table(
        "audit_term",
        sa.Column("term", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("term", "record_id", name="pk_audit_term"),
        sa.ForeignKeyConstraint(["record_id"], ["audit_record.id"], name="fk_audit_term_record_id_audit_record"),
        comment="What a record is found by: the first 64 bits of SHA-256 over kind and value",
        sqlite_with_rowid=False,
    )
    new = sa.table("audit_term", sa.column("term"), sa.column("record_id"))
    record = sa.table("audit_record", sa.column("id"), sa.column("patients"), sa.column("studies"))
    shown: dict[int, dict[str, list[str]]] = {}
    for row in rows:
        if row.kind in ("patient", "study"):
            shown.setdefault(row.record_id, {}).setdefault(row.kind, []).append(row.value)
    hashed = {
        (int.from_bytes(sha256(f"{row.kind}\0{row.value}".encode()).digest()[:8], "big", signed=True), row.record_id)
        for row in rows
    }
    if hashed:
        op.bulk_insert(new, [{"term": term, "record_id": record_id} for term, record_id in sorted(hashed)])
    for record_id, found in shown.items():
        values = {
            "patients": json.dumps(found.get("patient", []), ensure_ascii=False),
            "studies": json.dumps(found.get("study", []), ensure_ascii=False),
        }
        bind.execute(sa.update(record).where(record.c.id == record_id).values(values))


def _guard_sqlite() -> None:
    for table, event, column in _GUARDS:
        unless = f"WHEN NOT EXISTS (SELECT 1 FROM audit_erasure WHERE record_id = OLD.{column}) " if column else ""  # noqa: S608
        op.execute(
            f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} {unless}"
            f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
        )


def _guard_postgresql() -> None:
    op.execute(
        """
        CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_LEVEL = 'ROW' AND TG_NARGS = 1 THEN
                IF EXISTS (SELECT 1 FROM audit_erasure WHERE record_id = (to_jsonb(OLD) ->> TG_ARGV[0])::bigint) THEN
                    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
                END IF;
            END IF;
            RAISE EXCEPTION '% is append only', TG_TABLE_NAME;
        END $$
        """
    )
    for table, event, column in _GUARDS:
        argument = f"'{column}'" if column else ""
        op.execute(
            f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION audit_append_only({argument})"
        )
    for table in dict.fromkeys(table for table, _, _ in _GUARDS):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
        )


def downgrade() -> None:
    raise RuntimeError("evidence is never thrown away by a downgrade; export it and begin a new store")
