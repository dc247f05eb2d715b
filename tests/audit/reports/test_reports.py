"""Reports over a small trail whose truth is known, in both languages, with hostile content, and over nothing."""

from __future__ import annotations

import csv
import io
import re
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest

from securepacs import codes
from securepacs.audit import events
from securepacs.audit.message import AuditMessage, EventActionCode, EventOutcomeIndicator
from securepacs.audit.parts import certificate_role
from securepacs.audit.reports import Report, Scope, Suspect, SuspectKind, access, breach, csv_lines, emergency, html, monthly
from securepacs.audit.reports.cells import neutral
from securepacs.audit.reports.monthly import month_before, month_of
from securepacs.audit.reports.words import LANGUAGES, WORDS, Words
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.syslog import to_syslog
from securepacs.errors import UsageError
from tests.support.audit import ARCHIVE, CT, LEE, PATIENT, SOURCE, STUDY

DAY = datetime(2027, 1, 10, 9, tzinfo=UTC)
NOW = datetime(2027, 2, 1, tzinfo=UTC)
KIM = events.participant(
    "kim@hospital.example",
    requestor=True,
    name="Kim",
    host="10.0.0.9",
    roles=(codes.CodedValue("radiologist", "99SECUREPACS", "radiologist"), certificate_role("00AB12")),
)
HOSTILE = "<script>alert(1)</script>\"'&=cmd|\u202eevil\x9b31m\t=1+1"


class Page(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(report: Report) -> str:
    return b"".join(html(report)).decode("utf-8")


def rows_of(report: Report) -> list[list[str]]:
    return list(csv.reader(io.StringIO(b"".join(csv_lines(report.data)).decode("utf-8-sig"), newline="")))[1:]


def store(repository: Repository, *messages: AuditMessage) -> None:
    raws = [to_syslog(each, hostname="gw", app_name="a", procid="1") for each in messages]
    repository.store(Receipt.of(raw, received=DAY, transport="test") for raw in raws)


def scope(repository: Repository, **changes: object) -> Scope:
    return Scope(**{"repository": repository, "reader": LEE, "at": NOW, **changes})  # type: ignore[arg-type]


@pytest.fixture
def repository(tmp_path) -> Iterator[Repository]:  # type: ignore[no-untyped-def]
    with Repository(f"sqlite:///{tmp_path}/audit.db", hostname="repo") as opened:
        yield opened


@pytest.fixture
def filled(repository: Repository) -> Repository:
    """Return a repository in which Kim saw, exported and lost control, and others did other things."""
    disc = events.media_participant("file:///media/cd", media_type=codes.CD)
    other = events.PatientObject("5000", "Roe")
    store(
        repository,
        events.instances_accessed(
            source=SOURCE, at=DAY, action=EventActionCode.READ, users=(KIM,), studies=(STUDY,), patient=PATIENT
        ),
        events.instances_transferred(
            source=SOURCE, at=DAY + timedelta(hours=20), action=EventActionCode.CREATE, sender=CT, receiver=ARCHIVE,
            studies=(events.StudyObject("9.9"),), patient=other,
        ),
        events.data_export(
            source=SOURCE, at=DAY + timedelta(days=1), users=(KIM,), media=disc, studies=(STUDY,), patients=(PATIENT,)
        ),
        events.user_authentication(
            source=SOURCE, at=DAY, login=True, user=KIM, node=ARCHIVE, outcome=EventOutcomeIndicator.MINOR_FAILURE
        ),
        alert(DAY + timedelta(days=2), codes.EMERGENCY_OVERRIDE_STARTED, "unconscious patient in ER"),
        events.instances_accessed(
            source=SOURCE, at=DAY + timedelta(days=2, minutes=10), action=EventActionCode.READ, users=(KIM,),
            studies=(events.StudyObject("9.9"),), patient=other,
        ),
        alert(DAY + timedelta(days=2, minutes=45), codes.EMERGENCY_OVERRIDE_STOPPED, "over"),
        alert(DAY + timedelta(days=5), codes.EMERGENCY_OVERRIDE_STARTED, "second"),
    )  # fmt: skip
    repository.store([Receipt.of(b"no audit message at all", received=DAY, transport="test")])
    return repository


def alert(at: datetime, kind: codes.CodedValue, text: str) -> AuditMessage:
    from dataclasses import replace

    return events.security_alert(
        source=SOURCE, at=at, alert_type=kind, reporter=ARCHIVE, performers=(replace(KIM, UserIsRequestor=False),), node_id="gw",
        alert_description=text,
    )  # fmt: skip


def test_access_names_everybody_who_saw_the_patient(filled: Repository) -> None:
    with access(scope(filled), patient="4711") as report:
        rows, page = rows_of(report), page_of(report)
    assert [row[:6] for row in rows] == [
        ["2027-01-10 09:00:00 +0000", "Kim", "kim@hospital.example", "radiologist", "10.0.0.9", "images viewed"],
        ["2027-01-11 09:00:00 +0000", "Kim", "kim@hospital.example", "radiologist", "10.0.0.9", "export"],
    ]
    assert rows[1][6:9] == ["1.2.3.4", "file:///media/cd", "success"]
    assert "Roe" not in page
    assert page.count("<svg") == 3


def test_period_and_issuer_narrow_access(filled: Repository) -> None:
    with access(scope(filled, since=DAY + timedelta(hours=1)), patient="4711^^^&1.2.3&ISO") as report:
        assert [row[5] for row in rows_of(report)] == ["export"]


def test_emergency_pairs_begin_and_end_and_says_what_was_done(filled: Repository) -> None:
    with emergency(scope(filled)) as report:
        rows = rows_of(report)
    assert [row[1:] for row in rows] == [
        [
            "kim@hospital.example", "10.0.0.9", "2027-01-12 09:00:00 +0000", "2027-01-12 09:45:00 +0000", "45",
            "unconscious patient in ER", "success", "2", "1", "5000",
        ],
        [
            "kim@hospital.example", "10.0.0.9", "2027-01-15 09:00:00 +0000", "not ended in the period", "",
            "second", "success", "1", "0", "",
        ],
    ]  # fmt: skip
    assert dict(report.figures)["Without an end"] == "1"


@pytest.mark.parametrize(
    ("kind", "value", "patients", "studies"),
    [
        (SuspectKind.SUBJECT, "KIM@hospital.example", ["4711^^^&1.2.3&ISO", "5000"], ["1.2.3.4", "9.9"]),
        (SuspectKind.SERIAL, "00:ab:12", ["4711^^^&1.2.3&ISO", "5000"], ["1.2.3.4", "9.9"]),
        (SuspectKind.PEER, "10.0.0.1", ["5000"], ["9.9"]),
        (SuspectKind.PEER, "10.0.0.0/24", ["4711^^^&1.2.3&ISO", "5000"], ["1.2.3.4", "9.9"]),
        (SuspectKind.PEER, "archive.hospital.example", ["5000"], ["9.9"]),
        (SuspectKind.AE, "CT1", ["5000"], ["9.9"]),
        (SuspectKind.AE, "CT", [], []),
        (SuspectKind.SERIAL, "ab1", [], []),
    ],
)
def test_breach_finds_what_a_suspect_had_to_do_with(
    filled: Repository, kind: SuspectKind, value: str, patients: list[str], studies: list[str]
) -> None:
    with breach(scope(filled), Suspect.of(kind, value)) as report:
        rows = rows_of(report)
    assert [row[1] for row in rows if row[0] == "Patient"] == patients
    assert [row[1] for row in rows if row[0] == "Study"] == studies


@pytest.mark.parametrize(("kind", "value"), [(SuspectKind.SERIAL, "no number"), (SuspectKind.AE, "  "), (SuspectKind.SERIAL, "00")])
def test_suspects_that_could_match_nothing_are_refused(kind: SuspectKind, value: str) -> None:
    with pytest.raises(UsageError):
        Suspect.of(kind, value)


def test_monthly_checks_and_lists_what_to_look_at(filled: Repository) -> None:
    begin, end = month_of("2027-01", UTC)
    with monthly(scope(filled, since=begin, until=end)) as report:
        checks = [(check.clear, check.finding) for check in report.checks]
        listed = [row[0] for row in report.tables[0].rows()]
        rows, page = rows_of(report), page_of(report)
    assert dict(report.figures)["Records"] == "9"
    assert checks[0] == (
        False,
        "without user 0, without place 0, about a patient without naming one 0, unreadable 1",
    )
    assert checks[2] == (False, "1 exports, 1 of them without a purpose of use")
    assert checks[3] == (False, "1 failed logins, 0 refused requests")
    assert checks[4] == (False, "2 overrides began; see the emergency report")
    assert checks[5][0] is False
    assert sorted(listed) == ["Emergency overrides"] * 2 + ["Exports (downloads)", "Failed logins"]
    assert ["What was done", "images viewed", "2"] in [row[:3] for row in rows]
    assert "This report is not signed by an auditor." in page


def test_days_are_those_of_the_zone(filled: Repository) -> None:
    seoul = ZoneInfo("Asia/Seoul")
    begin, end = month_of("2027-01", seoul)
    assert begin.astimezone(UTC) == datetime(2026, 12, 31, 15, tzinfo=UTC)
    with monthly(scope(filled, since=begin, until=end, zone=seoul, language="ko")) as report:
        days = dict(report.charts[0].values)
        page = page_of(report)
    assert days == {"01-10": 3, "01-11": 2, "01-12": 3, "01-13": 0, "01-14": 0, "01-15": 1}
    assert "접속기록 월간 점검" in page
    assert '<html lang="ko">' in page


@pytest.mark.parametrize(("now", "month"), [("2027-02-01", "2027-01"), ("2027-01-31", "2026-12")])
def test_month_before(now: str, month: str) -> None:
    assert month_before(datetime.fromisoformat(now).replace(tzinfo=UTC), UTC) == month


@pytest.mark.parametrize("text", ["2027", "2027-13", "2027-00", "x", "9999-12", "2027-1"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        month_of(text, UTC)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["access", "monthly", "emergency", "breach"])
def test_reports_over_nothing(repository: Repository, kind: str, language: str) -> None:
    empty = scope(repository, since=DAY, until=DAY + timedelta(days=1), language=language)
    made = {
        "access": lambda: access(empty, patient="4711"),
        "monthly": lambda: monthly(empty),
        "emergency": lambda: emergency(empty),
        "breach": lambda: breach(empty, Suspect.of(SuspectKind.SUBJECT, "kim")),
    }
    with made[kind]() as report:
        page = page_of(report)
        assert rows_of(report) == []
    assert Words(language)("nothing") in page
    assert "<svg" not in page
    (used,) = repository.search(Criteria(event="110101", text=f"report\n{kind}"), reader=LEE, at=NOW)
    assert used.user == LEE.UserID


def test_hostile_content_stays_content(repository: Repository) -> None:
    villain = events.participant(HOSTILE, requestor=True, name=HOSTILE, host="10.0.0.66")
    store(
        repository,
        events.instances_accessed(
            source=SOURCE, at=DAY, action=EventActionCode.READ, users=(villain,), studies=(events.StudyObject("=1+1"),),
            patient=events.PatientObject("@SUM(A1)", HOSTILE), description=HOSTILE,
        ),
        events.security_alert(
            source=SOURCE, at=DAY, alert_type=codes.EMERGENCY_OVERRIDE_STARTED, reporter=villain, uri=HOSTILE,
            alert_description=HOSTILE,
        ),
    )  # fmt: skip
    setting = scope(repository)
    for made in (
        access(setting, patient="@SUM(A1)"),
        monthly(setting, closing=(("x", HOSTILE),)),
        emergency(setting),
        breach(setting, Suspect.of(SuspectKind.SUBJECT, HOSTILE)),
    ):
        with made as report:
            page, text = page_of(report), b"".join(csv_lines(report.data)).decode("utf-8-sig")
            rows = rows_of(report)
        parsed = Page(page)
        assert not {"script", "img", "link", "iframe", "object", "a", "form"} & set(parsed.tags)
        assert not {"src", "href", "xlink:href", "style"} & set(parsed.names)
        assert not [name for name in parsed.names if name.startswith("on")]
        assert all(cell.isprintable() for row in rows for cell in row)
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
        assert not re.search("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202e]", page + text)
        if report.kind in ("access", "emergency"):
            assert "alert(1)" in "".join(parsed.text)


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "|x", "%x"])
def test_formulas_are_neutralised(cell: str) -> None:
    assert neutral(cell).startswith("'")
    assert neutral("a" + cell)[0] == "a"


def test_every_word_has_two_languages_with_the_same_places() -> None:
    for key, (english, korean) in WORDS.items():
        assert english.strip(), key
        assert korean.strip(), key
        assert sorted(re.findall(r"\{\d\}", english)) == sorted(re.findall(r"\{\d\}", korean)), key
        assert re.search("[\uac00-\ud7a3]", korean), key


def test_an_unknown_language_is_refused_before_anything_is_recorded(repository: Repository) -> None:
    with pytest.raises(UsageError), access(scope(repository, language="xx"), patient="4711"):
        pytest.fail("must not open")
    assert repository.count() == 0


def test_repeats_are_left_out_and_counted(filled: Repository) -> None:
    message = events.instances_accessed(
        source=SOURCE, at=DAY, action=EventActionCode.READ, users=(KIM,), studies=(STUDY,), patient=PATIENT
    )
    store(filled, message)
    with access(scope(filled), patient="4711") as report:
        assert len(rows_of(report)) == 2
    assert dict(report.figures)["Repeated deliveries left out"] == "1"


def test_memory_does_not_grow_with_the_trail(repository: Repository) -> None:
    def peak() -> int:
        tracemalloc.start()
        try:
            with access(scope(repository), patient="4711") as report:
                for _ in csv_lines(report.data):
                    pass
                for _ in html(report):
                    pass
            with breach(scope(repository), Suspect.of(SuspectKind.SUBJECT, KIM.UserID)) as report:
                for _ in csv_lines(report.data):
                    pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def more(first: int, count: int) -> None:
        store(
            repository,
            *(
                events.instances_accessed(
                    source=SOURCE, at=DAY + timedelta(seconds=number), action=EventActionCode.READ, users=(KIM,),
                    studies=(events.StudyObject(f"1.2.{number}"),), patient=PATIENT,
                )
                for number in range(first, first + count)
            ),
        )  # fmt: skip

    more(0, 600)
    peak()  # whatever is loaded once
    small = peak()
    more(600, 1200)
    assert peak() < small * 1.3
