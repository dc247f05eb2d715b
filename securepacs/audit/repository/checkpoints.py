"""Checkpoints of a stored log: made, kept and time-stamped (RFC 3161)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy import Engine, insert, select

from securepacs.audit.checkpoint import Checkpoint, parse_checkpoint
from securepacs.audit.merkle import consistency_proof
from securepacs.audit.repository.export import log_size
from securepacs.audit.repository.log import load_tree, stored_nodes
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.repository.tables import audit_checkpoint, audit_stamp
from securepacs.store import reading, writing
from securepacs.store.tables import moment_text


def make_checkpoint(engine: Engine, signer: LogSigner, *, at: datetime) -> Checkpoint | None:
    """Sign the log as it is now and keep the checkpoint; None when nothing came since the last one.

    Raises IntegrityFailure when the stored log does not continue what was signed before.
    """
    with reading(engine) as connection:
        size = log_size(connection)
        if connection.execute(select(audit_checkpoint.c.size).where(audit_checkpoint.c.size == size)).scalar() or not size:
            return None
        root = load_tree(connection, size).root()
        checkpoint = signer.sign(size, root, lambda old: consistency_proof(old, size, stored_nodes(connection, size)))
    with writing(engine) as connection:
        connection.execute(insert(audit_checkpoint), [{"size": size, "at": moment_text(at), "note": checkpoint.note}])
    return checkpoint


def newest_checkpoint(engine: Engine) -> Checkpoint | None:
    """Return the newest checkpoint that is kept."""
    with reading(engine) as connection:
        note = connection.execute(
            select(audit_checkpoint.c.note).order_by(audit_checkpoint.c.size.desc()).limit(1)
        ).scalar_one_or_none()
    return None if note is None else parse_checkpoint(note)


def stamp(engine: Engine, checkpoint: Checkpoint, urls: Iterable[str], *, at: datetime) -> None:
    """Have a kept checkpoint stamped by time stamp authorities and keep the tokens, once each (RFC 3161).

    Raises Unavailable for the first authority that does not answer; those before it are kept.
    """
    from securepacs.trust.timestamp import request_timestamp

    for url in urls:
        authority = urlsplit(url).netloc.rpartition("@")[2][:255]
        known = select(audit_stamp.c.size).where(audit_stamp.c.size == checkpoint.size, audit_stamp.c.authority == authority)
        with reading(engine) as connection:
            if connection.execute(known).scalar() is not None:
                continue
        token = request_timestamp(checkpoint.note.encode(), url=url)
        row = {"size": checkpoint.size, "authority": authority, "at": moment_text(at), "token": token}
        with writing(engine) as connection:
            connection.execute(insert(audit_stamp), [row])
