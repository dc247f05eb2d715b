"""The Cedar decision point: what the shipped policies say, and that nothing but a permit permits."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import ConfigError
from securepacs.policy.cedar import EVALUATION_FAILED, CedarPolicy, shipped_schema, shipped_texts
from securepacs.policy.subject import AccessRequest, Effect, Policy, Subject, SubjectKind

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHIPPED = CedarPolicy.from_folder()

MODALITY, RADIOLOGIST, REFERRING = "modality", "radiologist", "referring_physician"
AUDITOR, ADMINISTRATOR, PEER = "auditor", "administrator", "gateway_peer"
ROLES = (MODALITY, RADIOLOGIST, REFERRING, AUDITOR, ADMINISTRATOR, PEER)
DEVICES = {MODALITY, PEER}

CT, MG, PRIVATE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2", "1.3.12.2.1107.5.9.1"
SR, KO, DOSE = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.88.67"
PR, PDF, SEG = "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.66.4"
MWL, MPPS, COMMITMENT = "1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.1.20.1"
PATIENT_FIND, STUDY_FIND = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE, STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"
EVERYBODY = {*ROLES, "archive"}


def subject(*roles: str, kind: SubjectKind | None = None, ae_titles: frozenset[str] = frozenset({"STATION"})) -> Subject:
    device = kind is SubjectKind.DEVICE or (kind is None and not DEVICES.isdisjoint(roles))
    actual = SubjectKind.DEVICE if device else SubjectKind.PERSON
    return Subject(actual, "peer", "Peer", frozenset(roles), ae_titles=ae_titles if device else frozenset())


def request(who: Subject, action: str, sop_class_uid: str = "", **more: object) -> AccessRequest:
    values: dict[str, object] = {"calling_ae_title": "STATION", "sop_class_uid": sop_class_uid, **more}
    return AccessRequest(who, action, "ARCHIVE", AT, **values)  # type: ignore[arg-type]


def keys(*names: str) -> dict[str, object]:
    return {"query_keys": frozenset(names), "level": "STUDY"}


BACK = {"toward_archive": False}
MATRIX: list[tuple[str, str, dict[str, object], set[str]]] = [
    ("Associate", "", {}, EVERYBODY),
    ("C-ECHO", "1.2.840.10008.1.1", {}, EVERYBODY),
    ("C-CANCEL", STUDY_FIND, {}, {MODALITY, RADIOLOGIST, REFERRING, PEER}),
    ("C-STORE", CT, {}, {MODALITY, PEER}),
    ("C-STORE", MG, {}, {MODALITY, PEER}),
    ("C-STORE", SEG, {}, {MODALITY, PEER}),
    ("C-STORE", PRIVATE, {}, {MODALITY, PEER}),
    ("C-STORE", "", {}, {MODALITY, PEER}),
    ("C-STORE", SR, {}, {MODALITY, RADIOLOGIST, PEER}),
    ("C-STORE", DOSE, {}, {MODALITY, RADIOLOGIST, PEER}),
    ("C-STORE", KO, {}, {MODALITY, RADIOLOGIST, PEER}),
    ("C-STORE", PR, {}, {MODALITY, RADIOLOGIST, PEER}),
    ("C-STORE", PDF, {}, {MODALITY, RADIOLOGIST, PEER}),
    ("C-STORE", SR.replace(".88.", ".880."), {}, {MODALITY, PEER}),
    ("C-FIND", MWL, {}, {MODALITY, PEER}),
    ("C-FIND", STUDY_FIND, {"level": "STUDY"}, {RADIOLOGIST, PEER}),
    ("C-FIND", STUDY_FIND, keys("StudyDate", "PatientName"), {RADIOLOGIST, PEER}),
    ("C-FIND", STUDY_FIND, keys("PatientBirthDate"), {RADIOLOGIST, PEER}),
    ("C-FIND", STUDY_FIND, keys("PatientID"), {RADIOLOGIST, REFERRING, PEER}),
    ("C-FIND", PATIENT_FIND, keys("PatientID"), {RADIOLOGIST, REFERRING, PEER}),
    ("C-FIND", STUDY_FIND, keys("StudyInstanceUID"), {RADIOLOGIST, REFERRING, PEER}),
    ("C-FIND", STUDY_FIND, keys("AccessionNumber"), {RADIOLOGIST, REFERRING, PEER}),
    ("C-FIND", STUDY_FIND, keys("PatientName", "PatientBirthDate"), {RADIOLOGIST, REFERRING, PEER}),
    ("C-FIND", MWL, keys("PatientID"), {MODALITY, PEER}),
    ("C-GET", STUDY_GET, {"level": "STUDY"}, {RADIOLOGIST, REFERRING, PEER}),
    ("C-MOVE", STUDY_MOVE, {"level": "STUDY"}, {RADIOLOGIST, REFERRING, PEER}),
    ("C-GET", STUDY_GET, {"level": "PATIENT"}, {RADIOLOGIST, PEER}),
    ("C-MOVE", STUDY_MOVE, {"level": "PATIENT"}, {RADIOLOGIST, PEER}),
    ("C-MOVE", STUDY_MOVE, {"level": ""}, {RADIOLOGIST, PEER}),
    ("N-CREATE", MPPS, {}, {MODALITY}),
    ("N-SET", MPPS, {}, {MODALITY}),
    ("N-CREATE", COMMITMENT, {}, set()),
    ("N-ACTION", COMMITMENT, {}, {MODALITY}),
    ("N-ACTION", MPPS, {}, set()),
    ("N-GET", MPPS, {}, set()),
    ("N-DELETE", MPPS, {}, set()),
    ("N-EVENT-REPORT", COMMITMENT, {}, set()),
    ("C-STORE", CT, BACK, {RADIOLOGIST, REFERRING, PEER}),
    ("N-EVENT-REPORT", COMMITMENT, BACK, {MODALITY}),
    ("N-EVENT-REPORT", MPPS, BACK, set()),
    ("C-ECHO", "1.2.840.10008.1.1", BACK, set()),
    ("C-FIND", STUDY_FIND, {**keys("PatientID"), **BACK}, set()),
    ("Associate", "", BACK, set()),
    ("FLY", "", {}, set()),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("action", "sop_class", "more", "permitted"), MATRIX)
def test_the_role_and_service_matrix(role: str, action: str, sop_class: str, more: dict[str, object], permitted: set[str]) -> None:
    decision = SHIPPED.decide(request(subject(role), action, sop_class, **more))
    assert decision.permitted is (role in permitted), decision
    assert bool(decision.policies) or not decision.permitted
    assert decision.reason


@pytest.mark.parametrize(("action", "sop_class", "more", "permitted"), MATRIX)
def test_without_a_role_nothing_is_permitted(action: str, sop_class: str, more: dict[str, object], permitted: set[str]) -> None:
    for kind in SubjectKind:
        assert not SHIPPED.decide(request(subject(kind=kind), action, sop_class, **more)).permitted


@pytest.mark.parametrize("role", ROLES)
def test_a_role_counts_only_for_the_kind_it_is_written_for(role: str) -> None:
    other = SubjectKind.PERSON if role in DEVICES else SubjectKind.DEVICE
    who = Subject(other, "peer", "Peer", frozenset({role}), ae_titles=frozenset({"STATION"}))
    assert not SHIPPED.decide(request(who, "Associate")).permitted


def test_roles_add_up() -> None:
    both = subject(RADIOLOGIST, AUDITOR)
    assert SHIPPED.decide(request(both, "C-ECHO")).policies == ("auditor-verifies-connection", "radiologist-associates")


@pytest.mark.parametrize("calling", ["OTHER", "", "station", "STATION "])
def test_a_device_is_bound_to_its_ae_titles(calling: str) -> None:
    decision = SHIPPED.decide(request(subject(MODALITY), "C-STORE", CT, calling_ae_title=calling))
    assert decision.effect is Effect.DENY
    assert decision.policies == ("device-bound-to-ae-titles",)
    assert decision.reason == "a device may only call with its own AE titles"


def test_a_device_may_use_each_of_its_ae_titles() -> None:
    who = subject(MODALITY, ae_titles=frozenset({"CT1", "CT1_MPPS"}))
    assert SHIPPED.decide(request(who, "C-STORE", CT, calling_ae_title="CT1_MPPS")).permitted
    assert not SHIPPED.decide(request(who, "C-STORE", CT, calling_ae_title="CT2")).permitted


def test_a_person_may_call_with_any_ae_title() -> None:
    assert SHIPPED.decide(request(subject(RADIOLOGIST), "Associate", calling_ae_title="ANYTHING")).permitted


def test_the_reason_names_what_would_be_needed() -> None:
    decision = SHIPPED.decide(request(subject(REFERRING), "C-STORE", CT))
    assert decision.reason == "no policy permits C-STORE of CT Image Storage for role referring_physician"
    assert decision.policies == ()


def test_an_unknown_role_is_ignored_and_named() -> None:
    decision = SHIPPED.decide(request(subject(AUDITOR, "wizard\n2026 forged line"), "C-STORE", CT))
    assert decision.reason.endswith("for role auditor (ignored, in no policy: wizard?2026 forged line)")


def test_only_unknown_roles_are_no_role() -> None:
    assert (
        "for a person without a role (ignored, in no policy: wizard)" in SHIPPED.decide(request(subject("wizard"), "C-ECHO")).reason
    )


def test_a_reason_holds_no_patient_and_no_text_from_the_network() -> None:
    asked = request(
        subject(REFERRING),
        "C-MOVE",
        "Kim^Minji",
        level="Kim",
        patient_id="MRN-4711",
        study_instance_uid="1.2.3.4711",
        query_keys=frozenset({"Minji"}),
        move_destination="LEE4711",
    )
    reason = SHIPPED.decide(asked).reason
    assert reason == "no policy permits C-MOVE of an invalid SOP class for role referring_physician"


def test_an_action_that_is_none_is_not_repeated() -> None:
    assert SHIPPED.decide(request(subject(AUDITOR), "C-ECHO\x1f")).reason == "no policy permits an unknown action for role auditor"


def test_a_request_from_the_archive_is_named_as_such() -> None:
    decision = SHIPPED.decide(request(subject(MODALITY), "C-STORE", CT, toward_archive=False))
    assert decision.reason == "no policy permits C-STORE of CT Image Storage sent by the archive for role modality"


def test_roles_permitted_answers_what_role_would_help() -> None:
    assert SHIPPED.roles_permitted(request(subject(REFERRING), "C-STORE", SR)) == {MODALITY, RADIOLOGIST, PEER}


def test_it_is_a_policy() -> None:
    policy: Policy = SHIPPED
    assert len(policy.version) == 64
    assert policy.reads_study is False
    assert SHIPPED.roles == EVERYBODY


def test_the_version_changes_with_every_text() -> None:
    texts = shipped_texts()
    versions = {CedarPolicy(texts).version, CedarPolicy({**texts, "modality.cedar": texts["modality.cedar"] + "\n"}).version}
    versions.add(CedarPolicy({f"x{name}": text for name, text in texts.items()}).version)
    versions.add(CedarPolicy(texts, schema=shipped_schema() + "\n").version)
    assert len(versions) == 4
    assert CedarPolicy(dict(reversed(texts.items()))).version == CedarPolicy(SHIPPED.texts).version == SHIPPED.version


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ('context.patient_id == "4711"', True),
        ('context.study_instance_uid like "1.2.*"', True),
        ("!(context has patient_id)", True),
        ("context == context", True),
        ('if context.toward_archive then context.patient_id == "" else false', True),
        ('context.level == "PATIENT"', False),
        ('context.move_destination == "patient_id"', False),
        ('principal.user_id == "study_instance_uid"', False),
    ],
)
def test_reads_study_is_seen_in_the_policy(condition: str, reads: bool) -> None:
    text = f'@id("a") permit (principal, action == Action::"C-STORE", resource) when {{ {condition} }};'
    assert CedarPolicy({"a.cedar": text}).reads_study is reads


def test_patient_and_study_decide() -> None:
    text = """
        @id("all") @reason("everybody") permit (principal, action, resource);
        @id("shielded") @reason("the study is shielded") forbid (principal, action, resource)
        when { context.patient_id == "MRN-4711" };"""
    policy = CedarPolicy({"a.cedar": text})
    assert policy.decide(request(subject(), "C-STORE", CT, patient_id="MRN-4712")).permitted
    decision = policy.decide(request(subject(), "C-STORE", CT, patient_id="MRN-4711"))
    assert (decision.effect, decision.policies, decision.reason) == (Effect.DENY, ("shielded",), "the study is shielded")


def test_time_and_archive_decide() -> None:
    text = """@id("until-april") permit (principal, action, resource == Archive::"ARCHIVE")
        when { context.at < datetime("2026-04-01T00:00:00Z") };"""
    policy = CedarPolicy({"a.cedar": text})
    asked = request(subject(), "C-ECHO")
    assert policy.decide(asked).permitted
    assert policy.decide(asked).reason == "until-april"
    assert not policy.decide(dataclasses.replace(asked, at=datetime(2026, 4, 2, tzinfo=UTC))).permitted
    assert not policy.decide(dataclasses.replace(asked, archive="OTHER")).permitted


def test_obligations_come_from_the_deciding_policies() -> None:
    text = """
        @id("a") @obligation_watermark("yes") @owner("radiology") permit (principal, action == Action::"C-GET", resource);
        @id("b") @obligation_review("daily") forbid (principal, action == Action::"C-MOVE", resource);"""
    policy = CedarPolicy({"a.cedar": text})
    assert policy.decide(request(subject(), "C-GET")).obligations == {"watermark": "yes"}
    assert policy.decide(request(subject(), "C-MOVE")).obligations == {"review": "daily"}
    assert policy.decide(request(subject(), "C-ECHO")).obligations == {}


def test_an_evaluation_error_refuses_and_names_the_policy_and_nothing_else() -> None:
    text = """
        @id("all") permit (principal, action, resource);
        @id("overflows") permit (principal, action, resource) when { 9223372036854775807 + context.query_keys_count > 0 };"""
    schema = shipped_schema().replace("tls_version: String,", "tls_version: String, query_keys_count: Long,")
    policy = CedarPolicy({"a.cedar": text}, schema=schema)  # the request does not carry what this schema promises
    decision = policy.decide(request(subject(), "C-STORE", CT, patient_id="MRN-4711"))
    assert decision.effect is Effect.DENY
    assert decision.policies == ("overflows",)
    assert decision.reason == "policy overflows could not be evaluated"


def test_an_overflow_in_a_site_policy_refuses() -> None:
    text = """
        @id("all") permit (principal, action, resource);
        @id("bad") forbid (principal, action, resource)
        when { 9223372036854775807 + (if context.toward_archive then 1 else 0) == 0 };"""
    policy = CedarPolicy({"a.cedar": text})
    assert policy.decide(request(subject(), "C-ECHO")).policies == ("bad",)
    assert not policy.decide(request(subject(), "C-ECHO")).permitted
    assert policy.decide(request(subject(), "C-STORE", toward_archive=False)).permitted


@pytest.mark.parametrize(
    "broken",
    [
        {"patient_id": "\ud800"},
        {"subject": Subject(SubjectKind.PERSON, "\udfff", "x", frozenset({RADIOLOGIST}))},
        {"action": "\ud800"},
        {"at": datetime(2026, 3, 1, 12)},  # no offset: no moment
    ],
)
def test_what_cannot_be_put_to_the_policy_is_refused(broken: dict[str, object]) -> None:
    decision = SHIPPED.decide(dataclasses.replace(request(subject(RADIOLOGIST), "C-ECHO"), **broken))  # type: ignore[arg-type]
    assert (decision.effect, decision.policies) == (Effect.DENY, (EVALUATION_FAILED,))


texts = st.text(max_size=20) | st.sampled_from(["STATION", CT, SR, STUDY_FIND, MWL, "STUDY", 'a"b', "a\\n\n", "policy0"])
subjects = st.builds(
    Subject,
    kind=st.sampled_from(SubjectKind),
    user_id=texts,
    name=texts,
    roles=st.frozensets(st.sampled_from(ROLES) | texts, max_size=3),
    organization=texts,
    ae_titles=st.frozensets(texts, max_size=3),
)
requests = st.builds(
    AccessRequest,
    subject=subjects,
    action=st.sampled_from(sorted({row[0] for row in MATRIX})) | texts,
    archive=texts,
    at=st.datetimes(timezones=st.just(UTC)),
    calling_ae_title=texts,
    sop_class_uid=texts,
    level=texts,
    query_keys=st.frozensets(st.sampled_from(["PatientID", "StudyInstanceUID"]) | texts, max_size=3),
    move_destination=texts,
    patient_id=texts,
    study_instance_uid=texts,
    toward_archive=st.booleans(),
    tls_version=texts,
)


@given(requests)
def test_nothing_raises_and_only_a_permit_permits(asked: AccessRequest) -> None:
    decision = SHIPPED.decide(asked)
    assert decision == SHIPPED.decide(asked)
    assert decision.reason.isprintable()
    permits = set(SHIPPED.policy_ids) - {"device-bound-to-ae-titles", "archive-only-delivers-and-reports"}
    if decision.permitted:
        assert decision.policies
        assert set(decision.policies) <= permits
        assert asked.subject.roles & SHIPPED.roles
        assert asked.subject.kind is SubjectKind.PERSON or asked.calling_ae_title in asked.subject.ae_titles
    else:
        assert not set(decision.policies) & permits


@given(requests)
def test_every_request_conforms_to_the_schema(asked: AccessRequest) -> None:
    """A request that the schema refuses would make a validated policy fail at run time."""
    from securepacs.policy.cedar import _cedar_request, _entities_of

    known = dataclasses.replace(asked, action="C-STORE", at=AT)
    result = cedarpy.is_authorized(
        _cedar_request(known), "permit (principal, action, resource);", _entities_of(known.subject), schema=shipped_schema()
    )
    assert result.allowed, result.diagnostics.errors
    cedarpy.Entities.from_json_str(str(_entities_of(known.subject)), shipped_schema())


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.cedar").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_replaces_the_shipped_policies(tmp_path: Path) -> None:
    write(tmp_path, mine='@id("mine") permit (principal in Role::"archivist", action, resource);')
    (tmp_path / "README.txt").write_text("not a policy", encoding="utf-8")
    policy = CedarPolicy.from_folder(tmp_path)
    assert policy.policy_ids == ("mine",)
    assert policy.roles == {"archivist"}
    assert policy.decide(request(subject("archivist"), "C-STORE", CT)).policies == ("mine",)
    assert not policy.decide(request(subject(RADIOLOGIST), "C-ECHO")).permitted


def test_identifiers_are_those_of_the_file_whatever_the_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        b='@id("b1") permit (principal, action == Action::"C-ECHO", resource);',
        a='@id("a1") permit (principal, action == Action::"C-GET", resource); // no newline at the end',
    )
    policy = CedarPolicy.from_folder(tmp_path)
    assert policy.decide(request(subject(), "C-ECHO")).policies == ("b1",)
    assert policy.decide(request(subject(), "C-GET")).policies == ("a1",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("permit (principal, action, resource", "bad.cedar: .*unexpected end"),
        (
            '@id("x") permit (principal, action == Action::"C-STOR", resource);',
            'bad.cedar: policy x: unrecognized action `Action::"C-STOR"`',
        ),
        (
            '@id("x") permit (principal, action, resource) when { context.patient == "" };',
            "bad.cedar: policy x: attribute `patient`",
        ),
        ('@id("x") permit (principal, action, resource) when { context.level == 3 };', "bad.cedar: policy x: "),
        ('@id("x") permit (principal is User, action, resource);', "bad.cedar: policy x: unrecognized entity type `User`"),
        ("permit (principal, action, resource);", "bad.cedar: a policy has no @id"),
        ('@id("") permit (principal, action, resource);', "bad.cedar: a policy has no @id"),
        ('@id("x") permit (principal == ?principal, action, resource);', "bad.cedar holds a template"),
        ('@id("ok") permit (principal, action, resource);', "ok.cedar: the @id ok is used in bad.cedar already"),
    ],
)
def test_a_broken_folder_is_refused_and_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, ok='@id("ok") permit (principal, action, resource);', bad=text)
    with pytest.raises(ConfigError, match=message) as caught:
        CedarPolicy.from_folder(tmp_path)
    assert caught.value.key == "policy.folder"
    assert caught.value.hint


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \*\.cedar file"):
        CedarPolicy.from_folder(tmp_path)


def test_no_policy_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no policy"):
        CedarPolicy({})


def test_files_without_a_policy_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no policy"):
        CedarPolicy({"a.cedar": "// nothing yet"})


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        CedarPolicy.from_folder(tmp_path / "absent")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        CedarPolicy.from_folder(tmp_path)


def test_a_folder_that_looks_like_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        CedarPolicy.from_folder(tmp_path)


def test_every_shipped_policy_has_an_id_and_a_reason() -> None:
    assert len(SHIPPED.policy_ids) == len(set(SHIPPED.policy_ids)) == 29
    for found in SHIPPED._annotations.values():
        assert found["id"]
        assert found["reason"]
