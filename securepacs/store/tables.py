"""The tables of the store, one block per owning room; every schema change is an Alembic revision beside this file.

Portable between SQLite and PostgreSQL. Moments are UTC text in RFC 3339 with microseconds (`2027-01-01T00:00:00.000000Z`): the
text sorts as time does, and SQLite has no type that keeps a zone.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

MOMENT_LENGTH = 27


def moment_text(at: datetime) -> str:
    """Return an aware datetime as the text the tables keep."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment_of(stored: str) -> datetime:
    """Return the aware datetime (UTC) of a stored moment."""
    return datetime.strptime(stored, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


# --- originals (PS3.15 A.1) -----------------------------------------------------------------------------------------
original_instance = Table(
    "original_instance",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("series_instance_uid", String(64), nullable=False),
    # lower-case hex of SHA-256 over the data set without the four status attributes (originals.stamp.content_digest)
    Column("content_sha256", String(64), nullable=False),
    comment="One row per SOP Instance that ever was an original here; immutable",
)

original_holding = Table(
    "original_holding",
    metadata,
    Column("sop_instance_uid", String(64), ForeignKey("original_instance.sop_instance_uid"), primary_key=True),
    Column("ae_title", String(16), primary_key=True),
    Column("status", String(2), CheckConstraint("status IN ('NS', 'OR', 'AO', 'AC')", name="status"), nullable=False),
    Column("since", String(MOMENT_LENGTH), nullable=False),
    Column("equipment", String(64), nullable=False, server_default=""),
    Column("comment", Text, nullable=False, server_default=""),
    comment="The status an AE keeps for an instance now",
)

# Invariant I1 of PS3.15 A.1: at most one AE holds an instance as OR or AO. The database itself enforces it.
Index(
    "uq_original_holding_one_holder",
    original_holding.c.sop_instance_uid,
    unique=True,
    sqlite_where=text("status IN ('OR', 'AO')"),
    postgresql_where=text("status IN ('OR', 'AO')"),
)

original_history = Table(
    "original_history",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("sop_instance_uid", String(64), ForeignKey("original_instance.sop_instance_uid"), nullable=False, index=True),
    Column("ae_title", String(16), nullable=False),
    Column("transition", String(2), nullable=False),
    Column("from_status", String(2), nullable=False, server_default=""),  # empty: the instance was new
    Column("to_status", String(2), nullable=False),
    Column("at", String(MOMENT_LENGTH), nullable=False),
    Column("actor", Text, nullable=False),
    # the evidence: the signed key object and the signature in it; empty for transitions no person signs
    Column("evidence_sop_instance_uid", String(64), nullable=False, server_default=""),
    Column("evidence_signature_uid", String(64), nullable=False, server_default=""),
    sqlite_autoincrement=True,
    comment="Every change of status; append only",
)
