"""The tables of the audit repository (revisions 0002 and 0003 of the store). Moments are written as `store.tables` says."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, LargeBinary, String, Table, Text

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
    # JSON arrays
    Column("patients", Text, nullable=False, server_default="[]"),
    Column("studies", Text, nullable=False, server_default="[]"),
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
    Column("term", BigInteger, primary_key=True, autoincrement=False),
    Column("record_id", _ID, ForeignKey("audit_record.id"), primary_key=True, autoincrement=False),
    comment="What a record is found by: the first 64 bits of SHA-256 over kind and value",
    sqlite_with_rowid=False,
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("record_id", _ID, ForeignKey("audit_record.id"), primary_key=True, autoincrement=False),
    Column("entry", LargeBinary, nullable=False),
    # null once the record is lawfully erased
    Column("salt", LargeBinary, nullable=True),
    comment="The leaves of the Merkle log: leaf record_id - 1 is the entry of the record; append only",
)

audit_tile = Table(
    "audit_tile",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", _ID, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
    comment="Full hash tiles of the log (C2SP tlog-tiles)",
)

audit_checkpoint = Table(
    "audit_checkpoint",
    metadata,
    Column("size", _ID, primary_key=True, autoincrement=False),
    Column("at", String(MOMENT_LENGTH), nullable=False),
    Column("note", Text, nullable=False),
    comment="Signed checkpoints of the log",
)

audit_stamp = Table(
    "audit_stamp",
    metadata,
    Column("size", _ID, ForeignKey("audit_checkpoint.size"), primary_key=True, autoincrement=False),
    Column("authority", String(255), primary_key=True),
    Column("at", String(MOMENT_LENGTH), nullable=False),
    Column("token", LargeBinary, nullable=False),
    comment="Time stamps of checkpoints (RFC 3161)",
)

audit_erasure = Table(
    "audit_erasure",
    metadata,
    Column("record_id", _ID, ForeignKey("audit_record.id"), primary_key=True, autoincrement=False),
    Column("erased_by", _ID, ForeignKey("audit_record.id"), nullable=False),
    comment="Lawful erasures: erased_by is the record that says who, why and by which law",
)

audit_hold = Table(
    "audit_hold",
    metadata,
    Column("id", _ID, ForeignKey("audit_record.id"), primary_key=True, autoincrement=False),
    Column("case_id", String(255), nullable=False),
    Column("criteria", Text, nullable=False),
    Column("released", Boolean, nullable=False),
    comment="Holds of cases and their releases; id is the record that says who and why",
)
