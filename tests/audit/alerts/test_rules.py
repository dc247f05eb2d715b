"""The alert rules by themselves: what makes them speak, what does not, and that they forget."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from securepacs import codes
from securepacs.audit import events
from securepacs.audit.alerts import rules
from securepacs.audit.alerts.facts import Fact, fact_of
from securepacs.audit.alerts.rules import RULES, Finding, Rule
from securepacs.audit.message import AuditMessage, EventOutcomeIndicator
from securepacs.audit.syslog import to_syslog
from securepacs.codes import CodedValue
from securepacs.dicom import encode_element
from securepacs.dicom.elements import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.support.audit import ARCHIVE, AT, CT, LEE, PATIENT, SOURCE, STUDY, all_messages

NOW = datetime(2027, 1, 31, 12, 0, tzinfo=UTC)
NIGHT = datetime(2027, 1, 31, 23, 0, tzinfo=UTC)
DOCTOR = replace(LEE, RoleIDCode=(CodedValue("radiologist", "99SECUREPACS", "radiologist"),))
TRANSFERRED, BEGIN = codes.DICOM_INSTANCES_TRANSFERRED.csd_code, codes.BEGIN_TRANSFERRING_DICOM_INSTANCES.csd_code
LOGIN = frozenset({codes.LOGIN.csd_code})


def fact(number: int, *, at: datetime = NOW, **changes: Any) -> Fact:
    return Fact(number, at + timedelta(seconds=number), "gw1/worker-0", **{"event": "110103", "user": "lee", **changes})


def shown(rule: Rule, *facts: Fact) -> list[Finding]:
    return [finding for each in facts for finding in rule.see(each)]


def raw(message: AuditMessage) -> bytes:
    return to_syslog(message, hostname="gw1", app_name="securepacs", procid="1")


def question(*keys: tuple[int, bytes, bytes], implicit: bool = False) -> Fact:
    encoding = IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE
    identifier = b"".join(encode_element(tag, vr, value, encoding) for tag, vr, value in keys)
    message = events.query(
        source=SOURCE, at=AT, issuer=DOCTOR, responder=ARCHIVE, sop_class_uid="1.2.840.10008.5.1.4.1.2.2.1", identifier=identifier,
        transfer_syntax=codes.IMPLICIT_VR_LITTLE_ENDIAN if implicit else codes.EXPLICIT_VR_LITTLE_ENDIAN,
    )  # fmt: skip
    found = fact_of(1, raw(message))
    assert found is not None
    return found


def test_facts_of_real_messages() -> None:
    message = events.instances_accessed(
        source=SOURCE, at=AT, action=events.EventActionCode.READ, users=(DOCTOR,), studies=(STUDY,), patient=PATIENT
    )
    found = fact_of(7, raw(message))
    assert found is not None
    assert (found.number, found.user, found.is_person, found.address) == (7, "lee@hospital.example", True, "10.0.0.7")
    assert (found.patients, found.studies) == ({"4711"}, {"1.2.3.4": 200})
    assert not fact_of(1, raw(all_messages()["instances_transferred"])).is_person  # type: ignore[union-attr]
    assert fact_of(1, b"<85>1 - - - - - - nothing") is None
    assert fact_of(1, b"") is None
    for each in all_messages().values():
        assert fact_of(1, raw(each)) is not None


def test_an_alert_is_about_its_performers_not_its_reporter() -> None:
    alert = {"source": SOURCE, "at": AT, "alert_type": codes.NODE_AUTHENTICATION, "reporter": ARCHIVE, "alert_description": "no"}
    named = fact_of(1, raw(events.security_alert(**alert, performers=(replace(LEE, UserIsRequestor=False),))))
    unknown = fact_of(1, raw(events.security_alert(**alert, node_id="192.0.2.9")))
    assert named is not None
    assert unknown is not None
    assert (named.user, unknown.user, unknown.address) == (LEE.UserID, "", "192.0.2.9")


@pytest.mark.parametrize(
    ("keys", "enumerates"),
    [
        ([(0x00100010, b"PN", b"*")], True),
        ([(0x00100010, b"PN", b""), (0x00100020, b"LO", b"")], True),
        ([(0x00100010, b"PN", b"A*")], True),
        ([(0x00100010, b"PN", b"?????")], True),
        ([(0x00080020, b"DA", b"-")], True),
        ([(0x00100010, b"PN", b"KIM*")], False),
        ([(0x00100010, b"PN", b"*MIN"), (0x00100020, b"LO", b"")], False),
        ([(0x00100020, b"LO", b"4711")], False),
        ([(0x00080020, b"DA", b"20270131"), (0x00100010, b"PN", b"*")], False),
        ([(0x0020000D, b"UI", b"1.2.3")], False),
    ],
)
def test_which_queries_enumerate(keys: list[tuple[int, bytes, bytes]], enumerates: bool) -> None:
    assert question(*keys).enumerates is enumerates
    assert question(*keys, implicit=True).enumerates is enumerates


def test_source_silent() -> None:
    rule = rules.SourceSilent(seconds=100, sources={"gw2": 1000})
    shown(rule, fact(1), replace(fact(2), source="gw2"))
    assert list(rule.tick(NOW + timedelta(seconds=90))) == []
    (found,) = rule.tick(NOW + timedelta(seconds=200))
    assert (found.key, found.records) == ("gw1", (1,))
    assert list(rule.tick(NOW + timedelta(seconds=300))) == []  # told once
    shown(rule, fact(400))
    assert [each.key for each in rule.tick(NOW + timedelta(seconds=600))] == ["gw1"]
    assert {each.key for each in rule.tick(NOW + timedelta(seconds=5000))} == {"gw2"}


def test_sequence_gap() -> None:
    rule, source = rules.SequenceGap(seconds=60), ("", "gw1", "securepacs", "1")

    def counted(number: int, sequence: int) -> Fact:
        return fact(number, sequence=(source, sequence))

    shown(rule, counted(1, 10), counted(2, 13), counted(3, 12))  # begins anywhere; 12 was late, 11 is lost
    assert list(rule.tick(NOW + timedelta(seconds=30))) == []
    (found,) = rule.tick(NOW + timedelta(seconds=100))
    assert found.text == "1 records of gw1 securepacs 1 never arrived: 11 to 11"
    assert list(rule.tick(NOW + timedelta(seconds=200))) == []


def test_begin_without_transferred() -> None:
    rule = rules.BeginWithoutTransferred(seconds=100)
    shown(rule, fact(1, event=BEGIN, studies={"1.2.3": 0}), fact(2, event=BEGIN, studies={"1.2.4": 0}))
    shown(rule, fact(3, event=TRANSFERRED, studies={"1.2.3": 1}))
    (found,) = rule.tick(NOW + timedelta(seconds=200))
    assert found.records == (2,)
    assert "1.2.4" not in found.text
    assert list(rule.tick(NOW + timedelta(seconds=300))) == []


def test_many_refusals() -> None:
    rule = rules.ManyRefusals(count=3, seconds=10)
    assert shown(rule, *(fact(number * 10, outcome=4) for number in range(5))) == []  # too slow
    (found,) = shown(rule, *(fact(100 + number, outcome=8) for number in range(4)))
    assert (found.key, len(found.records)) == ("lee", 3)
    assert shown(rule, *(fact(200 + number) for number in range(9))) == []
    (found,) = shown(rule, *(fact(300 + number, outcome=4, user="", address="192.0.2.9") for number in range(3)))
    assert found.key == "192.0.2.9"


def test_emergency_started() -> None:
    types = frozenset({codes.EMERGENCY_OVERRIDE_STARTED.csd_code})
    assert len(shown(rules.EmergencyStarted(), fact(1, types=types), fact(2), fact(3, types=types))) == 2


def test_unknown_issuer_storm() -> None:
    rule = rules.UnknownIssuerStorm(count=3, seconds=60)
    types, words = frozenset({codes.NODE_AUTHENTICATION.csd_code}), "unable to get local issuer certificate"
    assert shown(rule, *(fact(number, types=types, text="certificate has expired") for number in range(9))) == []
    (found,) = shown(rule, *(fact(number, types=types, text=words, address=f"192.0.2.{number}") for number in range(3)))
    assert "from 3 addresses" in found.text


def test_patients_per_hour() -> None:
    rule = rules.PatientsPerHour(count=3, except_users=["night-batch"])

    def reached(number: int, patient: str, **changes: Any) -> Fact:
        return fact(number, **{"is_person": True, "patients": frozenset({patient}), **changes})

    assert shown(rule, *(reached(number, "same") for number in range(9))) == []
    assert shown(rule, *(reached(number, f"{number}", is_person=False) for number in range(9))) == []
    assert shown(rule, *(reached(number, f"{number}", outcome=4) for number in range(9))) == []
    assert shown(rule, *(reached(number, f"{number}", user="night-batch") for number in range(9))) == []
    (found,) = shown(rule, reached(10, "a"), reached(11, "b"))
    assert "3 patients" in found.text
    assert not any(patient in found.text for patient in ("same", "'a'"))


def test_wildcard_enumeration() -> None:
    rule = rules.WildcardEnumeration(count=3, seconds=60)
    assert shown(rule, *(fact(number) for number in range(9))) == []
    (found,) = shown(rule, *(fact(number, enumerates=True) for number in range(5)))
    assert found.key == "lee"


def test_one_card_two_addresses() -> None:
    rule = rules.OneCardTwoAddresses(seconds=60)
    assert shown(rule, *(fact(number, types=LOGIN, address="10.0.0.7") for number in range(5))) == []
    elsewhere = replace(fact(6, types=LOGIN, address="127.0.0.1"), source="ws1")  # the agent sees it from inside
    assert shown(rule, elsewhere) == []
    assert shown(rule, fact(7, types=LOGIN, address="10.0.0.8", outcome=4)) == []
    (found,) = shown(rule, fact(8, types=LOGIN, address="10.0.0.8"))
    assert "10.0.0.7 and 10.0.0.8" in found.text
    assert shown(rule, fact(1000, types=LOGIN, address="10.0.0.9")) == []


def test_bulk_export_at_night() -> None:
    def left(number: int, at: datetime, **changes: Any) -> Fact:
        facts = {"event": codes.EXPORT.csd_code, "studies": {f"1.2.{number}": 1}, **changes}
        return fact(number, at=at, **facts)

    rule = rules.BulkExportAtNight(count=3)
    assert shown(rule, *(left(number, NOW) for number in range(9))) == []  # by day
    assert shown(rule, *(left(number, NIGHT, event=TRANSFERRED) for number in range(9))) == []  # to a machine
    assert len(shown(rule, *(left(number, NIGHT, event=TRANSFERRED, is_person=True) for number in range(5)))) == 1
    seoul = rules.BulkExportAtNight(count=3, timezone="Asia/Seoul")
    assert shown(seoul, *(left(number, NIGHT) for number in range(9))) == []  # eight in the morning there
    noon = rules.BulkExportAtNight(count=3, begin="11:00", end="13:00")
    assert len(shown(noon, *(left(number, NOW) for number in range(3)))) == 1


def test_clock_off() -> None:
    types = frozenset({codes.NETWORK_CONFIGURATION.csd_code})
    right, off = "clock synchronized by chrony, offset +0.000100 s", "clock not synchronized, says the kernel"
    (found,) = shown(rules.ClockOff(), fact(1, types=types, text=right), fact(2, types=types, text=off, outcome=4))
    assert (found.key, found.text) == ("gw1", f"gw1: {off}")


def test_state_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_KEYS", 50)
    made = [kind() for kind in RULES.values()]
    for number in range(500):
        source = ("", f"host{number}", "", "")
        each = fact(
            number, user=f"u{number}", outcome=4, event=BEGIN, studies={f"1.{number}": 1}, types=LOGIN, address=f"{number}",
            enumerates=True, sequence=(source, number + 1),
        )  # fmt: skip
        for rule in made:
            list(rule.see(replace(each, source=f"s{number}")))
    for rule in made:
        for state in vars(rule).values():
            for value in (state, getattr(state, "_by_key", ())):
                assert not hasattr(value, "__len__") or len(value) <= 51, rule.kind


def test_outcomes_are_numbers_of_the_standard() -> None:
    assert rules._FAILED == EventOutcomeIndicator.MINOR_FAILURE
    assert CT.UserID  # a machine of the samples
