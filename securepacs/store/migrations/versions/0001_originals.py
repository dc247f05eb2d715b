"""Originals: instances, who holds them with which status, and the history of every change (PS3.15 A.1)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "original_instance",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name="pk_original_instance"),
        comment="One row per SOP Instance that ever was an original here; immutable",
    )
    op.create_index("ix_original_instance_study_instance_uid", "original_instance", ["study_instance_uid"])
    op.create_table(
        "original_holding",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("status", sa.String(2), nullable=False),
        sa.Column("since", sa.String(27), nullable=False),
        sa.Column("equipment", sa.String(64), nullable=False, server_default=""),
        sa.Column("comment", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("sop_instance_uid", "ae_title", name="pk_original_holding"),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["original_instance.sop_instance_uid"],
            name="fk_original_holding_sop_instance_uid_original_instance",
        ),
        sa.CheckConstraint("status IN ('NS', 'OR', 'AO', 'AC')", name="status"),
        comment="The status an AE keeps for an instance now",
    )
    op.create_index(
        "uq_original_holding_one_holder",
        "original_holding",
        ["sop_instance_uid"],
        unique=True,
        sqlite_where=sa.text("status IN ('OR', 'AO')"),
        postgresql_where=sa.text("status IN ('OR', 'AO')"),
    )
    op.create_table(
        "original_history",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("transition", sa.String(2), nullable=False),
        sa.Column("from_status", sa.String(2), nullable=False, server_default=""),
        sa.Column("to_status", sa.String(2), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("evidence_sop_instance_uid", sa.String(64), nullable=False, server_default=""),
        sa.Column("evidence_signature_uid", sa.String(64), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_original_history"),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["original_instance.sop_instance_uid"],
            name="fk_original_history_sop_instance_uid_original_instance",
        ),
        sqlite_autoincrement=True,
        comment="Every change of status; append only",
    )
    op.create_index("ix_original_history_sop_instance_uid", "original_history", ["sop_instance_uid"])
    if op.get_bind().dialect.name == "sqlite":
        for table in ("original_instance", "original_history"):
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
                )


def downgrade() -> None:
    op.drop_table("original_history")
    op.drop_table("original_holding")
    op.drop_table("original_instance")
