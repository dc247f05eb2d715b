"""The audit records of a relayed association (PS3.15 A.5.3, ITI-20 3.20.4.1.1): who, with whom, which studies, how it ended.

Rules:
1. Texts of a peer are made printable and bounded; reasons never hold patient data.
2. One transfer record per study and patient (IHE: one patient per message); mixed results are two records (A.5.2.6).
3. The gateway is the reporter of alerts and the authenticating node of logins; it is never the requestor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from securepacs import codes
from securepacs.audit import events
from securepacs.audit.events import PatientObject, StudyObject, ae_titles, media_participant, participant
from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    EventActionCode,
    EventOutcomeIndicator,
)
from securepacs.audit.parts import certificate_role
from securepacs.codes import CodedValue
from securepacs.policy.subject import Decision, Subject, SubjectKind
from securepacs_proxy.dicom.dimse import Command
from securepacs_proxy.dicom.moves import Mover
from securepacs_proxy.dicom.services import MODALITY_PERFORMED_PROCEDURE_STEP, Procedure
from securepacs_proxy.events import Peer, Side

UNKNOWN = "unknown"
MAX_TEXT = 512
_FAILED = EventOutcomeIndicator.SERIOUS_FAILURE


@dataclass(frozen=True, slots=True)
class Instance:
    """What the head of a stored data set says; empty text for what it does not."""

    study_instance_uid: str
    patient_id: str
    accession_number: str
    sop_class_uid: str


@dataclass(slots=True)
class Tally:
    """What became of the instances of one study of one patient, sent by one side."""

    sender: Side
    study_instance_uid: str
    patient_id: str
    mover: Mover | None = None
    accession_numbers: set[str] = field(default_factory=set)
    transferred: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def studies(self, instances: Counter[str]) -> tuple[StudyObject, ...]:
        """Return the study object with `instances` by SOP Class."""
        accessions = tuple(sorted(self.accession_numbers)) if instances else ()
        return (StudyObject(self.study_instance_uid or UNKNOWN, dict(sorted(instances.items())), accessions),)


def clean(text: str) -> str:
    """Make text of others fit for a record: printable, one line, at most 512 characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_TEXT]).strip()


class Recorder:
    """Builds the records of one connection; knows more of its parties as the connection goes on."""

    def __init__(self, source: AuditSourceIdentification, gateway: str, ae_title: str) -> None:
        self._source = source
        self._gateway = participant(gateway, alternative=ae_titles(ae_title))
        self._caller = participant(UNKNOWN)
        self._archive = participant(UNKNOWN)
        self._is_person = False
        self.mover = Mover(UNKNOWN)
        """The caller, as one who may ask for a C-MOVE."""

    def peer_is(self, subject: Subject, peer: Peer) -> None:
        """The caller was authenticated.

        Assurance, the certificate, and the role that authorised a person (ITI-20 3.20.7), stand with the caller.
        """
        self._is_person = subject.kind is SubjectKind.PERSON
        roles = tuple(CodedValue(clean(role), "99SECUREPACS", clean(role)) for role in sorted(subject.roles) if clean(role))
        assurance = CodedValue(f"assurance-{subject.assurance}", "99SECUREPACS", f"{subject.assurance} assurance")
        certificate = (certificate_role(subject.certificate_serial),) if subject.certificate_serial.strip("0") else ()
        name = clean(subject.name)
        self._caller = participant(
            clean(subject.user_id) or UNKNOWN,
            requestor=True,
            roles=(*(roles if self._is_person else ()), assurance, *certificate),
            name=name,
            host=peer.host,
        )
        named = tuple(role.csd_code for role in roles) if self._is_person else ()
        self.mover = Mover(self._caller.UserID, name, named, peer.host, subject.certificate_serial)

    def association_is(self, calling: str, called: str, host: str) -> None:
        """The request named the AE titles; `host` is where the archive is thought to be."""
        self._caller = replace(self._caller, AlternativeUserID=ae_titles(calling))
        self._archive = participant(called, alternative=ae_titles(called), host=host)

    # --- authentication ---

    def login(
        self, at: datetime, *, login: bool = True, refused: str = "", description: str = "", requestor: bool = True
    ) -> Iterator[AuditMessage]:
        """User Authentication of a person; nothing for a device, which is recorded by what it does.

        `requestor` is False when not the person but a timer, an administrator or a fault ended the session (A.5.3.15).
        """
        if self._is_person:
            outcome = EventOutcomeIndicator.MINOR_FAILURE if refused else events.SUCCESS
            yield events.user_authentication(
                source=self._source,
                at=at,
                login=login,
                user=replace(self._caller, UserIsRequestor=requestor),
                node=self._gateway,
                outcome=outcome,
                description=clean(refused or description),
            )

    def alert(
        self, at: datetime, alert_type: CodedValue, text: str, *, peer: Peer | None, claimed: str = "", who: Side | None = None
    ) -> AuditMessage:
        """Security Alert about the peer at hand; `who` is the side that caused it, None when there is no identity yet."""
        host = peer.host if peer else ""
        if who is None:
            performers = (participant(clean(claimed), host=host),) if clean(claimed) else ()
        else:
            performers = (replace(self._caller if who is Side.REQUESTOR else self._archive, UserIsRequestor=False),)
        return events.security_alert(
            source=self._source,
            at=at,
            alert_type=alert_type,
            reporter=self._gateway,
            performers=performers,
            node_id=host,
            alert_description=clean(text) or UNKNOWN,
            outcome=_FAILED,
        )

    def refusal(self, at: datetime, action: str, decision: Decision, *, peer: Peer | None, who: Side) -> AuditMessage:
        """Security Alert of a request that policy refused."""
        policies = f" (policies: {', '.join(decision.policies)})" if decision.policies else ""
        text = f"{action} refused: {decision.reason or 'nothing permits it'}{policies}"
        return self.alert(at, codes.USE_OF_RESTRICTED_FUNCTION, text, peer=peer, who=who)

    # --- what is done ---

    def query(self, at: datetime, issuer: Side, sop_class_uid: str, identifier: bytes, transfer_syntax: str) -> AuditMessage:
        """Query, with the identifier as it was encoded."""
        sender, receiver = self._ends(issuer)
        return events.query(
            source=self._source,
            at=at,
            issuer=sender,
            responder=receiver,
            sop_class_uid=sop_class_uid,
            identifier=identifier,
            transfer_syntax=transfer_syntax,
        )

    def procedure(
        self, at: datetime, sender: Side, action: EventActionCode, procedure: Procedure, command: Command
    ) -> AuditMessage:
        """Procedure Record: a procedure step or work item is created, changed, read or deleted."""
        acting, holding = self._ends(sender)
        is_mpps = command.sop_class_uid == MODALITY_PERFORMED_PROCEDURE_STEP and bool(command.sop_instance_uid)
        steps = (command.sop_instance_uid,) if is_mpps else ()
        classes = {command.sop_class_uid: 1} if is_mpps else {}  # the schema wants one beside the MPPS
        return events.procedure_record(
            source=self._source,
            at=at,
            action=action,
            users=(acting, replace(holding, UserIsRequestor=False)),
            studies=tuple(StudyObject(study, classes, MPPS=steps) for study in procedure.study_instance_uids or (UNKNOWN,)),
            patient=PatientObject(clean(procedure.patient_id)),
        )

    def printed(self, at: datetime, sender: Side) -> AuditMessage:
        """Export: films are printed. Print requests name neither patient nor study: what is on the film is in the pixels."""
        acting, printer = self._ends(sender)
        return events.data_export(
            source=self._source,
            at=at,
            users=(replace(acting, UserIsRequestor=True),),
            media=media_participant(printer.UserID, media_type=codes.FILM, alternative=printer.AlternativeUserID),
            patients=(PatientObject(""),),
        )

    def begin(self, at: datetime, tally: Tally) -> AuditMessage:
        """Begin Transferring DICOM Instances: the first instance of a study is about to go."""
        sender, receiver, others = self._parties(tally)
        return events.begin_transferring(
            source=self._source,
            at=at,
            sender=sender,
            receiver=receiver,
            others=others,
            studies=tally.studies(Counter()),
            patient=PatientObject(tally.patient_id),
        )

    def move(self, at: datetime, destination: str, studies: Sequence[str], patient_id: str) -> Iterator[AuditMessage]:
        """Begin Transferring of a C-MOVE: the archive sends to the destination because the caller asks; one record per study."""
        for study in studies or (UNKNOWN,):
            yield events.begin_transferring(
                source=self._source,
                at=at,
                sender=self._archive,
                receiver=participant(destination, alternative=ae_titles(destination)),
                others=(self._caller,),
                studies=(StudyObject(study),),
                patient=PatientObject(patient_id),
            )

    def transferred(self, at: datetime, tally: Tally) -> Iterator[AuditMessage]:
        """DICOM Instances Transferred: what arrived, and apart from it what did not."""
        if tally.transferred:
            yield self._transferred(at, tally, tally.transferred, events.SUCCESS, "")
        if tally.failed:
            text = f"{sum(tally.failed.values())} instances were refused or not answered"
            yield self._transferred(at, tally, tally.failed, _FAILED, text)

    def _transferred(
        self, at: datetime, tally: Tally, instances: Counter[str], outcome: EventOutcomeIndicator, description: str
    ) -> AuditMessage:
        sender, receiver, others = self._parties(tally)
        return events.instances_transferred(
            source=self._source,
            at=at,
            # A.5.3.7: R also stands for "it is not known whether the receiver had them"
            action=EventActionCode.READ,
            sender=sender,
            receiver=receiver,
            others=others,
            studies=tally.studies(instances),
            patient=PatientObject(tally.patient_id),
            outcome=outcome,
            description=description,
        )

    def _parties(self, tally: Tally) -> tuple[ActiveParticipant, ActiveParticipant, tuple[ActiveParticipant, ...]]:
        """Return sender, receiver and, of the sub-operations of a C-MOVE, the one who moved: that is then the requestor."""
        sender, receiver = self._ends(tally.sender)
        if tally.mover is None:
            return sender, receiver, ()
        who = tally.mover
        roles = tuple(CodedValue(role, "99SECUREPACS", role) for role in who.roles)
        if who.certificate_serial.strip("0"):
            roles += (certificate_role(who.certificate_serial),)
        mover = participant(who.user_id, requestor=True, roles=roles, name=who.name, host=who.host)
        return replace(sender, UserIsRequestor=False), replace(receiver, UserIsRequestor=False), (mover,)

    def _ends(self, sender: Side) -> tuple[ActiveParticipant, ActiveParticipant]:
        ends = (self._caller, self._archive)
        return ends if sender is Side.REQUESTOR else (ends[1], ends[0])
