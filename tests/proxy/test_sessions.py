"""The table of live sessions."""

from __future__ import annotations

from datetime import UTC, datetime

from securepacs.policy.subject import Subject, SubjectKind
from securepacs_proxy.events import Peer
from securepacs_proxy.sessions import Session, SessionState, SessionTable

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def test_a_session_before_its_handshake_has_no_user() -> None:
    assert Session("s1", Peer("192.0.2.1", 4711), AT).to_dict() == {
        "id": "s1",
        "peer": "192.0.2.1:4711",
        "tls_version": "",
        "user": "",
        "name": "",
        "roles": [],
        "assurance": "",
        "certificate_sha256": "",
        "since": "2026-01-02T03:04:05+00:00",
        "state": "handshake",
        "archive": "",
        "received": 0,
        "sent": 0,
    }


def test_a_session_tells_who_it_is() -> None:
    subject = Subject(
        SubjectKind.PERSON, "kim@hospital.example", "Kim", frozenset({"radiologist", "auditor"}), certificate_sha256="ab"
    )
    row = Session("s1", Peer("192.0.2.1", 4711), AT, SessionState.RELAYING, subject, "10.0.0.1:104", 7, 9).to_dict()
    assert (row["user"], row["roles"], row["archive"]) == ("kim@hospital.example", ["auditor", "radiologist"], "10.0.0.1:104")


def test_the_table_keeps_what_ended_sessions_moved() -> None:
    table = SessionTable()
    one, other = (Session(name, Peer("192.0.2.1", 1), AT) for name in ("a", "b"))
    table.add(one)
    table.add(other)
    one.received, one.sent = 10, 20
    assert len(table) == 2
    table.remove(one)
    table.remove(one)  # a second time counts nothing
    assert [session.id for session in table] == ["b"]
    assert (table.totals.accepted, table.totals.received, table.totals.sent) == (2, 10, 20)
