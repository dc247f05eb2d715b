"""AuditEvent and back: every constructor, the messages of others, anything at all; and resources of strangers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.fhir import from_fhir, to_fhir
from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    EventActionCode,
    EventIdentification,
    EventOutcomeIndicator,
    NetworkAccessPointTypeCode,
    ParticipantObjectDescription,
    ParticipantObjectDetail,
    ParticipantObjectIdentification,
    SOPClass,
)
from securepacs.audit.reader import read
from securepacs.audit.syslog import parse_record
from securepacs.codes import CodedValue
from securepacs.errors import MalformedError
from tests.support.audit import all_messages, real_messages

DCM = "http://dicom.nema.org/resources/ontology/DCM"
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=12)
FILLED = TEXT.filter(bool)
CODED = st.builds(
    CodedValue,
    FILLED,
    st.sampled_from(
        ["DCM", "RFC-3881", "IHE Transactions", "SCT", "SNOMED-CT", "1.2.840.10008.2.16.4", "urn:oid:1.2", "99 LOCAL", ""]
    )
    | TEXT,
    FILLED,
    TEXT,
)
STRUCTURAL = st.sampled_from([CodedValue(f"11015{n}", "DCM", f"Role {n}") for n in range(6)])
PEOPLE = st.builds(
    ActiveParticipant, TEXT, st.booleans(), st.lists(CODED | STRUCTURAL, max_size=4).map(tuple), TEXT, TEXT, TEXT,
    st.none() | st.sampled_from(NetworkAccessPointTypeCode), st.none() | CODED,
)  # fmt: skip
DESCRIPTIONS = st.builds(
    ParticipantObjectDescription,
    st.lists(TEXT, max_size=2).map(tuple),
    st.lists(TEXT, max_size=2).map(tuple),
    st.lists(st.builds(SOPClass, TEXT, st.integers(0, 9999), st.lists(TEXT, max_size=2).map(tuple)), max_size=3).map(tuple),
    st.lists(TEXT, max_size=2).map(tuple),
    st.none() | st.booleans(),
    st.none() | st.booleans(),
)
OBJECTS = st.builds(
    ParticipantObjectIdentification, TEXT, CODED, st.none() | st.integers(1, 4), st.none() | st.integers(1, 26),
    st.none() | st.integers(1, 15), TEXT, TEXT, st.none() | st.binary(max_size=9),
    st.lists(st.builds(ParticipantObjectDetail, TEXT, st.binary(max_size=9)), max_size=2).map(tuple), st.none() | DESCRIPTIONS,
)  # fmt: skip
MESSAGES = st.builds(
    AuditMessage,
    st.builds(
        EventIdentification, CODED, st.datetimes(datetime(1900, 1, 2), datetime(8999, 1, 1), timezones=st.just(UTC)),
        st.none() | st.sampled_from(EventActionCode), st.sampled_from(EventOutcomeIndicator),
        st.lists(CODED, max_size=2).map(tuple), TEXT, st.lists(CODED, max_size=2).map(tuple),
    ),
    st.lists(PEOPLE, max_size=3).map(tuple),
    st.builds(AuditSourceIdentification, TEXT, TEXT, st.lists(st.sampled_from("123456789") | FILLED, max_size=2).map(tuple)),
    st.lists(OBJECTS, max_size=3).map(tuple),
)  # fmt: skip


def there_and_back(message: AuditMessage) -> AuditMessage:
    return from_fhir(json.loads(json.dumps(to_fhir(message), allow_nan=False)))


def plain(message: AuditMessage) -> AuditMessage:
    """Return the message without what FHIR cannot keep: an empty description, a name beside a query."""
    return replace(
        message,
        ParticipantObjectIdentification=tuple(
            replace(
                each,
                ParticipantObjectName="" if each.ParticipantObjectQuery is not None else each.ParticipantObjectName,
                ParticipantObjectDescription=None
                if each.ParticipantObjectDescription == ParticipantObjectDescription()
                else each.ParticipantObjectDescription,
            )
            for each in message.ParticipantObjectIdentification
        ),
    )


@pytest.mark.parametrize("name", all_messages())
def test_every_constructor_survives(name: str) -> None:
    message = all_messages()[name]
    assert there_and_back(message) == message


@pytest.mark.skipif(not real_messages(), reason="no messages of other implementations at hand (SECUREPACS_CORPUS)")
def test_messages_of_others_survive() -> None:
    readings = ((path.name, read(parse_record(path.read_bytes()).msg).message) for path in real_messages())
    changed = [name for name, message in readings if message is not None and there_and_back(message) != plain(message)]
    assert changed == []


@given(MESSAGES)
def test_anything_survives(message: AuditMessage) -> None:
    assert there_and_back(message) == plain(message)


@given(MESSAGES)
def test_no_string_is_empty_and_no_list_and_codes_are_codes(message: AuditMessage) -> None:
    def walk(value: Any) -> None:
        assert value not in ("", [], {})
        if isinstance(value, dict):
            assert re.fullmatch(r"\S+(\s\S+)*", value.get("code", "x"))
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)

    walk(to_fhir(message))


def test_a_transfer_reads_as_fhir_says() -> None:
    resource = to_fhir(all_messages()["instances_transferred"], resource_id="7")
    assert resource["id"] == "7"
    assert resource["type"] == {"system": DCM, "code": "110104", "display": "DICOM Instances Transferred"}
    assert (resource["action"], resource["outcome"], resource["recorded"]) == ("C", "0", "2027-01-31T12:30:15.123456Z")
    sender = resource["agent"][0]
    assert sender["type"]["coding"] == [{"system": DCM, "code": "110153", "display": "Source Role ID"}]
    assert sender["who"] == {"identifier": {"value": "ct1"}}
    assert (sender["altId"], sender["requestor"], sender["network"]) == (
        "AETITLES=CT1",
        False,
        {"address": "10.0.0.1", "type": "2"},
    )
    assert resource["source"]["type"] == [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "7"}]
    study, patient = resource["entity"]
    assert [(each["url"].rpartition("-")[2], *list(each.values())[1:]) for each in study["extension"]] == [
        ("MPPS", {"value": "1.2.3.5"}),
        ("Accession", {"value": "A1"}),
        ("SOPClass", {"identifier": {"value": "1.2.840.10008.5.1.4.1.1.2"}}),
        ("NumberOfInstances", 200),
    ]
    assert patient["what"]["identifier"]["value"] == "4711^^^&1.2.3&ISO"
    assert patient["role"] == {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "1"}


def test_name_and_query_never_stand_together() -> None:
    (question,) = to_fhir(all_messages()["query"])["entity"]
    assert "query" in question
    assert "name" not in question


def test_control_characters_become_visible() -> None:
    message = all_messages()["network_entry"]
    spoiled = replace(message, ActiveParticipant=(replace(message.ActiveParticipant[0], UserID="a\x00\x1b\ud800b"),))
    assert there_and_back(spoiled).ActiveParticipant[0].UserID == "a\ufffd\ufffd\ufffdb"


def test_the_zone_becomes_utc() -> None:
    message = all_messages()["network_entry"]
    seoul = datetime(2027, 2, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    moved = replace(message, EventIdentification=replace(message.EventIdentification, EventDateTime=seoul))
    assert to_fhir(moved)["recorded"] == "2027-02-01T00:00:00.000000Z"
    assert there_and_back(moved) == moved


def test_resources_of_strangers_are_read() -> None:
    message = from_fhir({
        "resourceType": "AuditEvent",
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest", "display": "RESTful"},
        "recorded": "2027-01-31T12:30:15+09:00",
        "agent": [{"who": {"reference": "Device/1"}, "requestor": True, "type": {"text": "someone"}}],
        "source": {"observer": {"display": "server"}},
        "entity": [{
            "what": {"reference": "Patient/4711"}, "role": {"code": "X"}, "name": "n", "detail": [{"type": "t", "valueString": "v"}]
        }],
    })  # fmt: skip
    assert message.EventIdentification.EventID.codeSystemName == "http://terminology.hl7.org/CodeSystem/audit-event-type"
    assert message.ActiveParticipant[0].UserID == "Device/1"
    assert message.ActiveParticipant[0].RoleIDCode[0].originalText == "someone"
    (patient,) = message.ParticipantObjectIdentification
    assert patient.ParticipantObjectID == "Patient/4711"
    assert patient.ParticipantObjectDetail == (ParticipantObjectDetail("t", b"v"),)


BROKEN: list[tuple[str, Any]] = [
    ("resourceType", "Patient"), ("type", None), ("recorded", "yesterday"), ("recorded", "2027-01-31T12:30:15"), ("recorded", 5),
    ("outcome", "5"), ("outcome", 0), ("action", "X"), ("agent", {}), ("agent", ["x"]), ("agent", [{"requestor": "yes"}]),
    ("agent", [{"requestor": True, "network": {"type": "9"}}]), ("entity", [{"query": "?"}]), ("subtype", "x"),
    ("entity", [{"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/auditevent-NumberOfInstances"}]}]),
]  # fmt: skip


@pytest.mark.parametrize(("element", "value"), BROKEN, ids=lambda value: str(value)[:20])
def test_what_is_no_audit_event_is_malformed(element: str, value: Any) -> None:
    resource = {**to_fhir(all_messages()["query"]), element: value}
    if value is None:
        del resource[element]
    with pytest.raises(MalformedError):
        from_fhir(resource)


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_garbage_is_malformed(garbage: Any) -> None:
    with pytest.raises(MalformedError):
        from_fhir(garbage)
    resource = to_fhir(all_messages()["query"])
    for element in ("type", "agent", "source", "entity"):
        try:
            from_fhir({**resource, element: garbage})
        except MalformedError:
            continue
