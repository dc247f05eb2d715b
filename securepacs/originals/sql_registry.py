"""The registry of originals in the store (SQLAlchemy; extra `audit`).

Invariant I1 is a unique index of the database, append-only history a trigger, all-or-nothing a transaction: none of them rests
on this code alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, Row, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from securepacs.errors import IllegalTransition, IntegrityFailure, UsageError
from securepacs.originals.registry import Evidence, HistoryEntry, Holding, InstanceFacts
from securepacs.originals.states import CLAUSE, ORIGINALS, Rule, SOPInstanceStatus, check_deletable, check_transition
from securepacs.store import reading, writing
from securepacs.store.tables import moment_of, moment_text, original_history, original_holding, original_instance

_ORIGINALS = sorted(ORIGINALS)
_BATCH = 500  # UIDs per IN list; SQLite and PostgreSQL both limit bound parameters


class SqlRegistry:
    """`OriginalRegistry` on an engine of `store.open_store`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(
        self, instances: Sequence[InstanceFacts], *, holder: str, at: datetime, actor: str, equipment: str = "", comment: str = ""
    ) -> None:
        """Register new instances as OR (T1); see `OriginalRegistry.register`."""
        _check_call([facts.sop_instance_uid for facts in instances], at)
        ae_title = _ae_title(holder)
        try:
            with writing(self._engine) as connection:
                known = _known(connection, [facts.sop_instance_uid for facts in instances])
                new = [facts for facts in instances if not _registered_already(facts, known, ae_title)]
                _insert_new(connection, new, ae_title, at, actor, equipment, comment)
        except IntegrityError:
            # on a database with weaker isolation than SQLite's the unique index decides between two simultaneous holders
            raise _other_holder() from None

    def authorize(
        self,
        expected: Mapping[str, str],
        *,
        at: datetime,
        actor: str,
        evidence: Evidence,
        holder: str | None = None,
        equipment: str = "",
        comment: str = "",
    ) -> tuple[Holding, ...]:
        """Change instances from OR to AO (T2); see `OriginalRegistry.authorize`."""
        _check_call(list(expected), at)
        with writing(self._engine) as connection:
            held = {
                holding.facts.sop_instance_uid: holding
                for holding in _select(connection, _originals().with_for_update(), list(expected))
            }
            ae_title = _check_expected(expected, held, holder)
            _check_complete(connection, held, ae_title)
            for uids in _batches(list(expected)):
                changed = connection.execute(
                    update(original_holding)
                    .where(original_holding.c.sop_instance_uid.in_(uids))
                    .where(original_holding.c.ae_title == ae_title)
                    .where(original_holding.c.status == SOPInstanceStatus.OR)
                    .values(status=SOPInstanceStatus.AO, since=moment_text(at), equipment=equipment, comment=comment)
                )
                if changed.rowcount != len(uids):  # another transaction came in between; leaving the block rolls back
                    raise IllegalTransition("an instance was changed by somebody else in the meantime", standard=CLAUSE)
            _append_history(connection, list(expected), ae_title, Rule.AUTHORIZE, SOPInstanceStatus.OR, at, actor, evidence)
            return _select(connection, _originals(), list(expected))

    def original(self, sop_instance_uid: str) -> Holding | None:
        """Return the holding with status OR or AO, None when there is none."""
        with reading(self._engine) as connection:
            return next(iter(_select(connection, _originals(), [sop_instance_uid])), None)

    def holdings(self, sop_instance_uid: str) -> tuple[Holding, ...]:
        """Return what every AE keeps for the instance, by AE title."""
        with reading(self._engine) as connection:
            return _select(connection, _holdings(), [sop_instance_uid])

    def originals_of_study(self, study_instance_uid: str) -> tuple[Holding, ...]:
        """Return the holdings with status OR or AO of a study, by SOP Instance UID."""
        query = _originals().where(original_instance.c.study_instance_uid == study_instance_uid)
        with reading(self._engine) as connection:
            return tuple(_holding(row) for row in connection.execute(query.order_by(original_instance.c.sop_instance_uid)))

    def history(self, sop_instance_uid: str) -> tuple[HistoryEntry, ...]:
        """Return every change of the instance, oldest first."""
        query = select(original_history).where(original_history.c.sop_instance_uid == sop_instance_uid)
        with reading(self._engine) as connection:
            return tuple(_history_entry(row) for row in connection.execute(query.order_by(original_history.c.id)))

    def check_deletable(self, sop_instance_uid: str, *, ae_title: str) -> None:
        """Refuse the deletion of an OR or AO by its holder (I2)."""
        for holding in self.holdings(sop_instance_uid):
            if holding.ae_title == _ae_title(ae_title):
                check_deletable(holding.status)


# --- rules ----------------------------------------------------------------------------------------------------------
def _check_call(uids: list[str], at: datetime) -> None:
    if not uids:
        raise UsageError("no instance is named")
    if len(set(uids)) != len(uids):
        raise UsageError("an instance is named twice", standard=CLAUSE)
    if at.tzinfo is None:
        raise UsageError("the time needs a zone")


def _ae_title(text: str) -> str:
    """Return an AE title without its insignificant spaces (PS3.5 6.2); UsageError when it is not one."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not (title.isascii() and title.isprintable()):
        raise UsageError("an AE title has 1 to 16 printable ASCII characters and no backslash", standard="PS3.5 6.2")
    return title


def _registered_already(facts: InstanceFacts, known: Mapping[str, tuple[Holding, ...]], ae_title: str) -> bool:
    """Tell whether the very same call was made before; refuse every other instance that is known (T1 is for new ones)."""
    holdings = known.get(facts.sop_instance_uid, ())
    if any(holding.facts != facts for holding in holdings):
        raise IntegrityFailure(
            f"instance {facts.sop_instance_uid} was registered with other content (I3)",
            hint="a changed image is a new SOP Instance with a new UID",
            standard=CLAUSE,
        )
    for holding in holdings:
        if holding.status in ORIGINALS and holding.ae_title != ae_title:
            raise _other_holder(facts.sop_instance_uid, holding.ae_title)
        if holding.ae_title == ae_title and holding.status is SOPInstanceStatus.OR:
            return True
    check_transition(Rule.CREATE, holdings[0].status if holdings else None, SOPInstanceStatus.OR)
    return False


def _other_holder(uid: str = "", ae_title: str = "") -> IllegalTransition:
    what, who = (f"instance {uid}", ae_title) if uid else ("an instance", "another AE")
    return IllegalTransition(f"{what} is held by {who} already (I1)", hint="only one AE holds an original", standard=CLAUSE)


def _check_expected(expected: Mapping[str, str], held: Mapping[str, Holding], holder: str | None) -> str:
    """Check each instance against the registry and return the one AE that holds them all."""
    for uid, digest in expected.items():
        holding = held.get(uid)
        if holding is None:
            raise IllegalTransition(f"instance {uid} is not held as an original here", standard=CLAUSE)
        check_transition(Rule.AUTHORIZE, holding.status, SOPInstanceStatus.AO)
        if holding.facts.content_sha256 != digest:
            raise IntegrityFailure(f"instance {uid} differs from what was registered (I3)", standard=CLAUSE)
    holders = {holding.ae_title for holding in held.values()}
    if len(holders) > 1 or (holder is not None and holders != {_ae_title(holder)}):
        raise IllegalTransition(
            "only the AE that holds all instances can authorize them", hint="name its AE title", standard=CLAUSE
        )
    return holders.pop()


def _check_complete(connection: Connection, held: Mapping[str, Holding], ae_title: str) -> None:
    """Refuse to authorize part of a study: the physician signs for the study as it is."""
    studies = {holding.facts.study_instance_uid for holding in held.values()}
    for study in sorted(studies):
        waiting = connection.execute(
            select(func.count())
            .select_from(original_holding.join(original_instance))
            .where(original_instance.c.study_instance_uid == study)
            .where(original_holding.c.ae_title == ae_title)
            .where(original_holding.c.status == SOPInstanceStatus.OR)
        ).scalar_one()
        named = sum(1 for holding in held.values() if holding.facts.study_instance_uid == study)
        if waiting != named:
            raise IllegalTransition(
                f"study {study} has {waiting} instances to authorize, {named} are named",
                hint="authorize all instances of the study together",
                standard=CLAUSE,
            )


# --- rows -----------------------------------------------------------------------------------------------------------
def _holdings() -> Select[tuple[str, ...]]:
    return select(original_instance, original_holding).join_from(original_instance, original_holding)


def _originals() -> Select[tuple[str, ...]]:
    return _holdings().where(original_holding.c.status.in_(_ORIGINALS))


def _batches(uids: list[str]) -> Iterable[list[str]]:
    return (uids[start : start + _BATCH] for start in range(0, len(uids), _BATCH))


def _select(connection: Connection, query: Select[tuple[str, ...]], uids: list[str]) -> tuple[Holding, ...]:
    ordered = query.order_by(original_instance.c.sop_instance_uid, original_holding.c.ae_title)
    return tuple(
        _holding(row)
        for batch in _batches(sorted(uids))
        for row in connection.execute(ordered.where(original_instance.c.sop_instance_uid.in_(batch)))
    )


def _known(connection: Connection, uids: list[str]) -> dict[str, tuple[Holding, ...]]:
    known: dict[str, tuple[Holding, ...]] = {}
    for holding in _select(connection, _holdings(), uids):
        known[holding.facts.sop_instance_uid] = (*known.get(holding.facts.sop_instance_uid, ()), holding)
    return known


def _insert_new(
    connection: Connection, new: list[InstanceFacts], ae_title: str, at: datetime, actor: str, equipment: str, comment: str
) -> None:
    if not new:
        return
    names = ("sop_instance_uid", "sop_class_uid", "study_instance_uid", "series_instance_uid", "content_sha256")
    connection.execute(insert(original_instance), [{name: getattr(facts, name) for name in names} for facts in new])
    row = {
        "ae_title": ae_title,
        "status": SOPInstanceStatus.OR,
        "since": moment_text(at),
        "equipment": equipment,
        "comment": comment,
    }
    connection.execute(insert(original_holding), [{"sop_instance_uid": facts.sop_instance_uid, **row} for facts in new])
    _append_history(connection, [facts.sop_instance_uid for facts in new], ae_title, Rule.CREATE, None, at, actor, None)


def _append_history(
    connection: Connection,
    uids: list[str],
    ae_title: str,
    rule: Rule,
    before: SOPInstanceStatus | None,
    at: datetime,
    actor: str,
    evidence: Evidence | None,
) -> None:
    row = {
        "ae_title": ae_title,
        "transition": rule,
        "from_status": before or "",
        "to_status": SOPInstanceStatus.OR if rule is Rule.CREATE else SOPInstanceStatus.AO,
        "at": moment_text(at),
        "actor": actor,
        "evidence_sop_instance_uid": evidence.sop_instance_uid if evidence else "",
        "evidence_signature_uid": evidence.signature_uid if evidence else "",
    }
    connection.execute(insert(original_history), [{"sop_instance_uid": uid, **row} for uid in uids])


def _holding(row: Row[tuple[str, ...]]) -> Holding:
    columns = row._mapping
    facts = InstanceFacts(
        sop_instance_uid=columns[original_instance.c.sop_instance_uid],
        sop_class_uid=columns[original_instance.c.sop_class_uid],
        study_instance_uid=columns[original_instance.c.study_instance_uid],
        series_instance_uid=columns[original_instance.c.series_instance_uid],
        content_sha256=columns[original_instance.c.content_sha256],
    )
    return Holding(
        facts=facts,
        ae_title=columns[original_holding.c.ae_title],
        status=SOPInstanceStatus(columns[original_holding.c.status]),
        since=moment_of(columns[original_holding.c.since]),
        equipment=columns[original_holding.c.equipment],
        comment=columns[original_holding.c.comment],
    )


def _history_entry(row: Row[tuple[int | str, ...]]) -> HistoryEntry:
    columns = row._mapping
    evidence = Evidence(columns["evidence_sop_instance_uid"], columns["evidence_signature_uid"])
    return HistoryEntry(
        sop_instance_uid=columns["sop_instance_uid"],
        ae_title=columns["ae_title"],
        rule=Rule(columns["transition"]),
        before=SOPInstanceStatus(columns["from_status"]) if columns["from_status"] else None,
        after=SOPInstanceStatus(columns["to_status"]),
        at=moment_of(columns["at"]),
        actor=columns["actor"],
        evidence=evidence if evidence.sop_instance_uid else None,
    )
