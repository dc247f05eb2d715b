"""Audit: the records of an audit record repository, their bytes, and the terms they are found by (PS3.15 A.5, IHE ITI-20)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit_record",
        sa.Column("id", _ID, autoincrement=False, nullable=False),
        sa.Column("received", sa.String(27), nullable=False),
        sa.Column("transport", sa.String(16), nullable=False),
        sa.Column("peer_address", sa.String(64), nullable=False),
        sa.Column("peer_subject", sa.Text, nullable=False),
        sa.Column("peer_sha256", sa.String(64), nullable=False),
        sa.Column("frame_sha256", sa.String(64), nullable=False),
        sa.Column("frame_length", sa.BigInteger, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("duplicate_of", _ID, nullable=True),
        sa.Column("verdict", sa.String(24), nullable=False),
        sa.Column("dialect", sa.String(8), nullable=False),
        sa.Column("moment", sa.String(27), nullable=False),
        sa.Column("event_code", sa.Text, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("action", sa.String(1), nullable=False),
        sa.Column("outcome", sa.Integer, nullable=True),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("site_id", sa.Text, nullable=False),
        sa.Column("requestor", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("searchable", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_record"),
        sa.ForeignKeyConstraint(["duplicate_of"], ["audit_record.id"], name="fk_audit_record_duplicate_of_audit_record"),
        comment="One row per record received: receipt and index; append only",
    )
    op.create_index("ix_audit_record_moment", "audit_record", ["moment"])
    op.create_index("ix_audit_record_frame_sha256", "audit_record", ["frame_sha256"])
    op.create_table(
        "audit_content",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("record_id", name="pk_audit_content"),
        sa.ForeignKeyConstraint(["record_id"], ["audit_record.id"], name="fk_audit_content_record_id_audit_record"),
        comment="The octets of a record exactly as received",
    )
    op.create_table(
        "audit_term",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("record_id", "kind", "value", name="pk_audit_term"),
        sa.ForeignKeyConstraint(["record_id"], ["audit_record.id"], name="fk_audit_term_record_id_audit_record"),
        comment="What a record is found by: event types, users, patients, studies",
    )
    op.create_index("ix_audit_term_kind", "audit_term", ["kind", "value"])
    if op.get_bind().dialect.name == "sqlite":
        for table in ("audit_record", "audit_content", "audit_term"):
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
                )


def downgrade() -> None:
    op.drop_table("audit_term")
    op.drop_table("audit_content")
    op.drop_table("audit_record")
