"""Every constructor conforms; every rule of A.5.2 and A.5.3 that it enforces has one test."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from securepacs import codes
from securepacs.audit import events
from securepacs.audit.grading import Verdict, grade
from securepacs.audit.message import EventActionCode, NetworkAccessPointTypeCode
from securepacs.audit.xml import from_xml, to_xml
from securepacs.errors import UsageError
from tests.support.audit import ARCHIVE, AT, CT, LEE, PATIENT, SOURCE, STUDY, all_messages

BASE: dict[str, Any] = {"source": SOURCE, "at": AT}
DISC = events.media_participant("VOL1", media_type=codes.CD)


@pytest.mark.parametrize("name", all_messages())
def test_every_constructor_conforms_and_round_trips(name: str) -> None:
    message = all_messages()[name]
    raw = to_xml(message)
    assert grade(raw).verdict is Verdict.CONFORMANT
    assert grade(raw).findings == ()
    assert from_xml(raw) == message


def test_there_is_a_message_for_every_event_of_cid_400() -> None:
    assert {message.EventIdentification.EventID.csd_code for message in all_messages().values()} == {
        str(code) for code in range(110100, 110115)
    }
    assert set(events.__all__) >= set(all_messages())


@pytest.mark.parametrize("name", all_messages())
def test_an_object_without_query_has_a_name(name: str) -> None:
    for what in all_messages()[name].ParticipantObjectIdentification:
        assert (what.ParticipantObjectQuery is None) == bool(what.ParticipantObjectName)


def test_roles_of_the_tables_are_added_once() -> None:
    own = replace(CT, RoleIDCode=(codes.CodedValue("110153", "DCM", "Source"),))
    message = events.begin_transferring(**BASE, sender=own, receiver=ARCHIVE, studies=[STUDY], patient=PATIENT)
    assert message.ActiveParticipant[0].RoleIDCode == own.RoleIDCode
    assert message.ActiveParticipant[1].RoleIDCode == (codes.DESTINATION_ROLE_ID,)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("10.0.0.1", NetworkAccessPointTypeCode.IP_ADDRESS),
        ("2001:db8::1", NetworkAccessPointTypeCode.IP_ADDRESS),
        ("ct1.hospital.example", NetworkAccessPointTypeCode.MACHINE_NAME),
        ("", None),
    ],
)
def test_the_kind_of_access_point_follows_the_host(host: str, kind: NetworkAccessPointTypeCode | None) -> None:
    assert events.participant("x", host=host).NetworkAccessPointTypeCode is kind


def test_an_empty_patient_id_is_written_as_unknown() -> None:
    message = events.patient_record(**BASE, action=EventActionCode.READ, users=[LEE], patient=events.PatientObject(""))
    (patient,) = message.ParticipantObjectIdentification
    assert (patient.ParticipantObjectID, patient.ParticipantObjectName) == ("unknown", "unknown")


def test_an_alert_about_no_object_keeps_its_description() -> None:
    message = events.security_alert(
        **BASE, alert_type=codes.SECURITY_CONFIGURATION, reporter=LEE, alert_description="reload", description="policy"
    )
    assert message.ParticipantObjectIdentification == ()
    assert message.EventIdentification.EventOutcomeDescription == "policy: reload"


def test_instance_uids_stand_below_their_class() -> None:
    study = events.StudyObject("1.2", {"1.3": 2}, Instance={"1.3": ("1.2.1", "1.2.2")}, Encrypted=True, Anonymized=False)
    message = events.study_deleted(**BASE, users=[LEE], studies=[study], patient=PATIENT)
    assert b'<SOPClass UID="1.3" NumberOfInstances="2"><Instance UID="1.2.1"/><Instance UID="1.2.2"/></SOPClass>' in to_xml(message)
    assert from_xml(to_xml(message)) == message


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "naive moment": ("network_entry", {"at": datetime(2027, 1, 1), "attached": True, "node": CT}),
    "two requestors": (
        "instances_accessed",
        {"action": EventActionCode.READ, "users": [LEE, LEE], "studies": [STUDY], "patient": PATIENT},
    ),
    "no user id": ("network_entry", {"attached": True, "node": replace(CT, UserID=" ")}),
    "no source id": ("network_entry", {"attached": True, "node": CT, "source": replace(SOURCE, AuditSourceID="")}),
    "node requests": ("network_entry", {"attached": True, "node": LEE}),
    "three users": ("order_record", {"action": EventActionCode.READ, "users": [CT, CT, CT], "patient": PATIENT}),
    "no users": ("order_record", {"action": EventActionCode.READ, "users": [], "patient": PATIENT}),
    "record executed": ("order_record", {"action": EventActionCode.EXECUTE, "users": [CT], "patient": PATIENT}),
    "transfer deleted": (
        "instances_transferred",
        {"action": EventActionCode.DELETE, "sender": CT, "receiver": ARCHIVE, "studies": [STUDY], "patient": PATIENT},
    ),
    "no study": ("begin_transferring", {"sender": CT, "receiver": ARCHIVE, "studies": [], "patient": PATIENT}),
    "no patient": ("data_export", {"users": [LEE], "media": DISC, "patients": []}),
    "empty study uid": ("study_deleted", {"users": [LEE], "studies": [events.StudyObject("")], "patient": PATIENT}),
    "accession without class": (
        "study_deleted",
        {"users": [LEE], "studies": [events.StudyObject("1.2", Accession=("A",))], "patient": PATIENT},
    ),
    "instances of no class": (
        "study_deleted",
        {"users": [LEE], "studies": [events.StudyObject("1.2", {"1.3": 1}, Instance={"1.4": ("1",)})], "patient": PATIENT},
    ),
    "export by nobody": ("data_export", {"users": [CT], "media": DISC, "patients": [PATIENT]}),
    "media requests": ("data_export", {"users": [LEE], "media": replace(DISC, UserIsRequestor=True), "patients": [PATIENT]}),
    "media of no kind": ("data_export", {"users": [LEE], "media": replace(DISC, MediaType=None), "patients": [PATIENT]}),
    "import without media type": (
        "data_import",
        {"users": [LEE], "media": events.media_participant("x", host="h"), "patients": [PATIENT]},
    ),
    "import by nobody": ("data_import", {"users": [CT], "media": DISC, "patients": [PATIENT]}),
    "user without address": ("user_authentication", {"login": True, "user": events.participant("lee")}),
    "performer requests": (
        "security_alert",
        {"alert_type": codes.LOGIN, "reporter": CT, "performers": [LEE], "alert_description": "x"},
    ),
    "alert without text": ("security_alert", {"alert_type": codes.LOGIN, "reporter": CT, "alert_description": ""}),
    "query of no class": (
        "query",
        {"issuer": CT, "responder": ARCHIVE, "sop_class_uid": "", "identifier": b"", "transfer_syntax": "1.2.840.10008.1.2"},
    ),
    "query in no syntax": (
        "query",
        {"issuer": CT, "responder": ARCHIVE, "sop_class_uid": "1.2", "identifier": b"", "transfer_syntax": ""},
    ),
    "log without uri": ("audit_log_used", {"users": [LEE], "log_uri": ""}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_conform_is_refused(case: str) -> None:
    name, arguments = REFUSED[case]
    with pytest.raises(UsageError):
        getattr(events, name)(**{**BASE, **arguments})


def test_export_to_an_address_needs_no_media_type() -> None:
    mail = events.media_participant("mailto:lee@hospital.example", host="mail.hospital.example")
    message = events.data_export(**BASE, users=[LEE], media=mail, remote=[CT], patients=[PATIENT])
    assert [each.RoleIDCode[0].csd_code for each in message.ActiveParticipant] == ["110152", "110153", "110154"]
