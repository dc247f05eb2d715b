"""One constructor per audit message of PS3.15 A.5.3; what they return conforms to the grammar of A.5.1 and to the tables of A.5.3.

Rules of this file:
1. All arguments are keywords; `source` and `at` (aware) are always there. Mixed results are two messages (A.5.2.6).
2. A constructor adds the RoleIDCode its table asks for; a participant may carry more.
3. At most one participant is the requestor; where the tables say "exactly one" or "false", that too is checked.
4. ParticipantObjectName is always written where there is no ParticipantObjectQuery: the ID, when nothing better is known.
5. A message that would break a rule is refused with UsageError. Nothing is looked up and no clock is read.

NOT checked: that codes given by the caller belong to the context groups; that UIDs are UIDs; one patient per message (IHE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from securepacs import codes
from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    EventActionCode,
    EventIdentification,
    EventOutcomeIndicator,
    ParticipantObjectIdentification,
)
from securepacs.audit.parts import (
    PatientObject,
    StudyObject,
    ae_titles,
    alert_objects,
    between,
    exactly_one_requestor,
    filled,
    log_object,
    media_participant,
    not_requestor,
    one_of,
    participant,
    query_object,
    touched,
    transfer_parties,
    with_role,
    with_roles,
)
from securepacs.codes import CodedValue
from securepacs.errors import UsageError

__all__ = [
    "SUCCESS", "PatientObject", "StudyObject", "ae_titles", "media_participant", "participant",
    "application_activity", "audit_log_used", "begin_transferring", "data_export", "data_import", "instances_accessed",
    "instances_transferred", "network_entry", "order_record", "patient_record", "procedure_record", "query", "security_alert",
    "study_deleted", "user_authentication",
]  # fmt: skip

SUCCESS = EventOutcomeIndicator.SUCCESS
EXECUTE = EventActionCode.EXECUTE
_ACCESS_ACTIONS = frozenset((EventActionCode.CREATE, EventActionCode.READ, EventActionCode.UPDATE, EventActionCode.DELETE))
_TRANSFER_ACTIONS = frozenset((EventActionCode.CREATE, EventActionCode.READ, EventActionCode.UPDATE))


def application_activity(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    started: bool,
    application: ActiveParticipant,
    launchers: Sequence[ActiveParticipant] = (),
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """An application started or stopped (A.5.3.1). `application.AlternativeUserID` names its AE titles if it speaks DICOM."""
    people = (with_role(application, codes.APPLICATION_ROLE), *with_roles(launchers, codes.APPLICATION_LAUNCHER))
    kind = codes.APPLICATION_START if started else codes.APPLICATION_STOP
    return _message(source, at, codes.APPLICATION_ACTIVITY, EXECUTE, people, (), outcome, description, kind)


def audit_log_used(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    users: Sequence[ActiveParticipant],
    log_uri: str,
    details: Mapping[str, bytes] | None = None,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Somebody read the audit trail (A.5.3.2). `users`: 1..2; `details` says what was asked for, by type."""
    between(users, 1, 2, "users")
    log = log_object(log_uri, details or {})
    return _message(source, at, codes.AUDIT_LOG_USED, EventActionCode.READ, tuple(users), (log,), outcome, description)


def begin_transferring(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    sender: ActiveParticipant,
    receiver: ActiveParticipant,
    others: Sequence[ActiveParticipant] = (),
    studies: Sequence[StudyObject],
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A transfer of instances begins (A.5.3.3); pairs with `instances_transferred`. `studies`: 1..n."""
    parties = transfer_parties(sender, receiver, others)
    objects = touched(studies, (patient,), studies_needed=True)
    return _message(source, at, codes.BEGIN_TRANSFERRING_DICOM_INSTANCES, EXECUTE, parties, objects, outcome, description)


def instances_transferred(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    action: EventActionCode,
    sender: ActiveParticipant,
    receiver: ActiveParticipant,
    others: Sequence[ActiveParticipant] = (),
    studies: Sequence[StudyObject],
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A transfer is complete (A.5.3.7).

    `action`: C the receiver had none, R it had identical copies or that is not known, U it altered its copies.
    """
    parties = transfer_parties(sender, receiver, others)
    objects = touched(studies, (patient,), studies_needed=True)
    checked = one_of(action, _TRANSFER_ACTIONS)
    return _message(source, at, codes.DICOM_INSTANCES_TRANSFERRED, checked, parties, objects, outcome, description)


def data_export(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    users: Sequence[ActiveParticipant],
    media: ActiveParticipant,
    remote: Sequence[ActiveParticipant] = (),
    studies: Sequence[StudyObject] = (),
    patients: Sequence[PatientObject],
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Data left on media, by e-mail or in print (A.5.3.4).

    `users`: local, 1..2; exactly one of users and `remote` is the requestor.
    `media` needs a MediaType if digital, a network access point if not physical: at least one of the two.
    """
    between(users, 1, 2, "users")
    people = (*with_roles(remote, codes.DESTINATION_ROLE_ID), *with_roles(users, codes.SOURCE_ROLE_ID))
    exactly_one_requestor(people, "Export")
    not_requestor((media,), "media")
    if media.MediaType is None and not media.NetworkAccessPointID:
        raise UsageError("export media needs a MediaType or a network access point", standard="PS3.15 A.5.3.4")
    parties = (*people, with_role(media, codes.DESTINATION_MEDIA))
    return _message(source, at, codes.EXPORT, EventActionCode.READ, parties, touched(studies, patients), outcome, description)


def data_import(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    users: Sequence[ActiveParticipant],
    media: ActiveParticipant,
    sources: Sequence[ActiveParticipant] = (),
    studies: Sequence[StudyObject] = (),
    patients: Sequence[PatientObject],
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Data arrived from media (A.5.3.5).

    `users`: local, 1..n; exactly one of users and `sources` is the requestor.
    `media` needs a MediaType.
    """
    between(users, 1, None, "users")
    people = (*with_roles(users, codes.DESTINATION_ROLE_ID), *with_roles(sources, codes.SOURCE_ROLE_ID))
    exactly_one_requestor(people, "Import")
    not_requestor((media,), "media")
    if media.MediaType is None:
        raise UsageError("import media needs a MediaType", standard="PS3.15 A.5.3.5")
    parties = (*people, with_role(media, codes.SOURCE_MEDIA))
    return _message(source, at, codes.IMPORT, EventActionCode.CREATE, parties, touched(studies, patients), outcome, description)


def instances_accessed(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    action: EventActionCode,
    users: Sequence[ActiveParticipant],
    studies: Sequence[StudyObject],
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Instances were created, read, changed or deleted (A.5.3.6). `users`: 1..2. A whole study deleted is `study_deleted`."""
    between(users, 1, 2, "users")
    objects = touched(studies, (patient,), studies_needed=True)
    checked = one_of(action, _ACCESS_ACTIONS)
    return _message(source, at, codes.DICOM_INSTANCES_ACCESSED, checked, tuple(users), objects, outcome, description)


def study_deleted(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    users: Sequence[ActiveParticipant],
    studies: Sequence[StudyObject],
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Whole studies were deleted (A.5.3.8). `users`: 1..2."""
    between(users, 1, 2, "users")
    objects = touched(studies, (patient,), studies_needed=True)
    return _message(source, at, codes.DICOM_STUDY_DELETED, EventActionCode.DELETE, tuple(users), objects, outcome, description)


def network_entry(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    attached: bool,
    node: ActiveParticipant,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A node joined or left the network (A.5.3.9). The node is not the requestor."""
    not_requestor((node,), "node")
    kind = codes.ATTACH if attached else codes.DETACH
    return _message(source, at, codes.NETWORK_ENTRY, EXECUTE, (node,), (), outcome, description, kind)


def order_record(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    action: EventActionCode,
    users: Sequence[ActiveParticipant],
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """An order was created, read, changed or deleted (A.5.3.10). `users`: 1..2."""
    return _record(codes.ORDER_RECORD, source, at, action, users, (), patient, outcome, description)


def patient_record(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    action: EventActionCode,
    users: Sequence[ActiveParticipant],
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A patient record was created, read, changed or deleted (A.5.3.11). `users`: 1..2."""
    return _record(codes.PATIENT_RECORD, source, at, action, users, (), patient, outcome, description)


def procedure_record(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    action: EventActionCode,
    users: Sequence[ActiveParticipant],
    studies: Sequence[StudyObject] = (),
    patient: PatientObject,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A procedure was created, read, changed or deleted (A.5.3.12). `users`: 1..2."""
    return _record(codes.PROCEDURE_RECORD, source, at, action, users, studies, patient, outcome, description)


def query(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    issuer: ActiveParticipant,
    responder: ActiveParticipant,
    others: Sequence[ActiveParticipant] = (),
    sop_class_uid: str,
    identifier: bytes,
    transfer_syntax: str,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A DICOM query was asked (A.5.3.13); its answer is not recorded.

    `identifier` is the data set as it was encoded in `transfer_syntax`.
    """
    question = query_object(sop_class_uid, identifier, transfer_syntax)
    parties = transfer_parties(issuer, responder, others)
    return _message(source, at, codes.QUERY, EXECUTE, parties, (question,), outcome, description)


def security_alert(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    alert_type: CodedValue,
    reporter: ActiveParticipant,
    performers: Sequence[ActiveParticipant] = (),
    node_id: str = "",
    uri: str = "",
    alert_description: str,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """Something bears on security (A.5.3.14): 0 informative, 4/8 the protection held, 12 security may be compromised.

    `alert_type` is of CID 403. `alert_description` is the detail of the node and/or URI concerned; where neither is named it
    joins EventOutcomeDescription, so that it is never lost.
    """
    not_requestor(performers, "performers")
    filled(alert_description, "alert_description")
    objects = alert_objects(node_id, uri, alert_description)
    if not objects:
        description = f"{description}: {alert_description}" if description else alert_description
    people = (reporter, *performers)
    return _message(source, at, codes.SECURITY_ALERT, EXECUTE, people, objects, outcome, description, alert_type)


def user_authentication(
    *,
    source: AuditSourceIdentification,
    at: datetime,
    login: bool,
    user: ActiveParticipant,
    node: ActiveParticipant | None = None,
    outcome: EventOutcomeIndicator = SUCCESS,
    description: str = "",
) -> AuditMessage:
    """A person logged in or out, or tried to (A.5.3.15). `user` needs a network access point; a time-out has no requestor."""
    if not user.NetworkAccessPointID or user.NetworkAccessPointTypeCode is None:
        raise UsageError("the user of a User Authentication needs a network access point", standard="PS3.15 A.5.3.15")
    people = (user,) if node is None else (user, node)
    kind = codes.LOGIN if login else codes.LOGOUT
    return _message(source, at, codes.USER_AUTHENTICATION, EXECUTE, people, (), outcome, description, kind)


def _record(
    event: CodedValue,
    source: AuditSourceIdentification,
    at: datetime,
    action: EventActionCode,
    users: Sequence[ActiveParticipant],
    studies: Sequence[StudyObject],
    patient: PatientObject,
    outcome: EventOutcomeIndicator,
    description: str,
) -> AuditMessage:
    between(users, 1, 2, "users")
    checked = one_of(action, _ACCESS_ACTIONS)
    return _message(source, at, event, checked, tuple(users), touched(studies, (patient,)), outcome, description)


def _message(
    source: AuditSourceIdentification,
    at: datetime,
    event: CodedValue,
    action: EventActionCode,
    participants: tuple[ActiveParticipant, ...],
    objects: tuple[ParticipantObjectIdentification, ...],
    outcome: EventOutcomeIndicator,
    description: str,
    *event_types: CodedValue,
) -> AuditMessage:
    if at.utcoffset() is None:
        raise UsageError("EventDateTime must carry a time zone", standard="PS3.15 A.5.2.1")
    if sum(each.UserIsRequestor for each in participants) > 1:
        raise UsageError("at most one participant is the requestor", standard="PS3.15 A.5.2.4")
    for each in participants:
        filled(each.UserID, "UserID")
    filled(source.AuditSourceID, "AuditSourceID")
    identification = EventIdentification(
        EventID=event,
        EventDateTime=at,
        EventActionCode=action,
        EventOutcomeIndicator=outcome,
        EventTypeCode=event_types,
        EventOutcomeDescription=description,
    )
    return AuditMessage(identification, participants, source, objects)
