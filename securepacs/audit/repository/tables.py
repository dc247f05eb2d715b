"""The tables of the audit repository (revision 0002 of the store). Moments are written as `store.tables` says."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, String, Table, Text

from securepacs.store.tables import MOMENT_LENGTH, metadata

_ID = BigInteger().with_variant(Integer, "sqlite")

audit_record = Table(
    "audit_record",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("received", String(MOMENT_LENGTH), nullable=False),
    Column("transport", String(16), nullable=False),
    Column("peer_address", String(64), nullable=False),
    Column("peer_subject", Text, nullable=False),
    Column("peer_sha256", String(64), nullable=False),
    # of the whole frame, also where only its head is kept
    Column("frame_sha256", String(64), nullable=False, index=True),
    Column("frame_length", BigInteger, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("duplicate_of", _ID, ForeignKey("audit_record.id"), nullable=True),
    Column("verdict", String(24), nullable=False),
    Column("dialect", String(8), nullable=False),
    # EventDateTime; the moment of receipt where there is none
    Column("moment", String(MOMENT_LENGTH), nullable=False, index=True),
    Column("event_code", Text, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("action", String(1), nullable=False),
    Column("outcome", Integer, nullable=True),
    Column("source_id", Text, nullable=False),
    Column("site_id", Text, nullable=False),
    Column("requestor", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("searchable", Text, nullable=False),
    comment="One row per record received: receipt and index; append only",
)

audit_content = Table(
    "audit_content",
    metadata,
    Column("record_id", _ID, ForeignKey("audit_record.id"), primary_key=True, autoincrement=False),
    Column("raw", LargeBinary, nullable=False),
    comment="The octets of a record exactly as received",
)

audit_term = Table(
    "audit_term",
    metadata,
    Column("record_id", _ID, ForeignKey("audit_record.id"), primary_key=True, autoincrement=False),
    Column("kind", String(8), primary_key=True),
    Column("value", Text, primary_key=True),
    comment="What a record is found by: event types, users, patients, studies",
)
Index("ix_audit_term_kind", audit_term.c.kind, audit_term.c.value)
