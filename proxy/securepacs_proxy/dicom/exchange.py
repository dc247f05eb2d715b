"""The rules of DIMSE exchanges on an established association, the same in both directions (PS3.7 9, 10; PS3.4 for statuses).

1. A request passes only when its context, role and SOP Class fit and the policy permits it; else it is answered here.
2. A response passes only for an outstanding request of the other side; C-CANCEL-RQ only for an outstanding one of its own.
3. What is asked or sent is recorded before it leaves: Query, Begin Transferring. Results are counted and recorded at the end.
4. Decisions are remembered by their full input, the time by the minute; `forget` voids them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from securepacs import codes
from securepacs.audit.message import AuditMessage
from securepacs.errors import MalformedError
from securepacs.policy.subject import AccessRequest, Decision, Effect, Policy
from securepacs_proxy.dicom import head, obligations, query, services
from securepacs_proxy.dicom.budget import PATIENTS_PER_HOUR, Outcome, read_limits, spend
from securepacs_proxy.dicom.dimse import Command, Origin, Status, encode_response
from securepacs_proxy.dicom.messages import Message, Phase
from securepacs_proxy.dicom.moves import Move, Mover
from securepacs_proxy.dicom.negotiation import Context
from securepacs_proxy.dicom.pdu import encode_command_pdu
from securepacs_proxy.dicom.records import Instance, Recorder, Tally, clean
from securepacs_proxy.dicom.settings import EGRESS, RelaySettings
from securepacs_proxy.dicom.wire import AbortReason, Violation
from securepacs_proxy.events import Peer, Side

MAX_OUTSTANDING = 1024
MAX_TALLIES = 256
MAX_DECISIONS = 1024
MAX_REFUSALS = 4096  # each leaves a record: no association may fill the audit trail with them
_PENDING = frozenset((0xFF00, 0xFF01))
_WARNINGS = frozenset((0x0001, 0x0107, 0x0116))
MAX_PROCEDURES = 256
_IDENTIFIER = frozenset(("C-FIND", "C-GET", "C-MOVE"))


def transferred(status: int) -> bool:
    """Return whether a C-STORE status says the instance is stored: success or warning (PS3.7 Annex C, PS3.4 B.2.3)."""
    return status == 0 or status in _WARNINGS or status >> 12 == 0xB


@dataclass(slots=True)
class Operation:
    """A request that has gone on and waits for its final response."""

    message: Message
    tally: Tally | None = None
    move: int | None = None
    filters: tuple[obligations.Filter, ...] = ()


@dataclass(slots=True)
class Effects:
    """What the rules may do to the world: the relay collects it as commands."""

    record: Callable[[AuditMessage], None]
    answer: Callable[[Side, bytes], None]
    boundary: Callable[[Side], None]


class Exchange:
    """Implements messages.Rules for one association. `template` carries what all its access requests have in common."""

    def __init__(
        self,
        template: AccessRequest,
        policy: Policy,
        contexts: dict[int, Context],
        recorder: Recorder,
        peer: Peer,
        effects: Effects,
        settings: RelaySettings,
    ) -> None:
        self.at: datetime = template.at
        self._template = template
        self._policy = policy
        self._contexts = contexts
        self._recorder = recorder
        self._peer = peer
        self._effects = effects
        self._identifier_bytes = settings.identifier_bytes
        self._moves, self._visits = settings.moves, settings.visits
        # who stands where the archive stands, seen from the one who calls
        self._archive_side = Side.REQUESTOR if template.direction == EGRESS else Side.ACCEPTOR
        self._decisions: dict[AccessRequest, Decision] = {}
        self._outstanding: dict[Side, dict[int, Operation]] = {Side.REQUESTOR: {}, Side.ACCEPTOR: {}}
        self._tallies: dict[tuple[Side, str, str, Mover | None], Tally] = {}
        self._procedures: dict[str, services.Procedure] = {}  # by SOP Instance UID: N-SET does not say whom it is about
        self._refusals = 0

    @property
    def kept(self) -> int:
        """Number of entries kept; bounded."""
        return sum(map(len, self._outstanding.values())) + len(self._tallies) + len(self._decisions) + len(self._procedures)

    def forget(self, policy: Policy) -> None:
        """A new policy is in force."""
        self._policy = policy
        self._decisions.clear()

    def finish(self) -> None:
        """The association has ended: what is not answered has failed; record every study (A.5.3.7)."""
        for operations in self._outstanding.values():
            for operation in operations.values():
                if operation.tally is not None:
                    operation.tally.failed[operation.message.command.sop_class_uid] += 1
                if operation.move is not None:
                    self._moves.abandon(operation.move, self.at)
            operations.clear()
        for tally in self._tallies.values():
            self._record_tally(tally)
        self._tallies.clear()

    # --- messages.Rules ---

    def command(self, side: Side, context_id: int, command: Command) -> Message:
        """Judge a command set: request, response or cancel."""
        context = self._contexts.get(context_id)
        if context is None:
            raise Violation("message in a presentation context that was not accepted")
        message = Message(side, context_id, context.transfer_syntax, command)
        if command.is_cancel:
            # a cancel may cross the final response: then there is nothing left to cancel
            operation = self._outstanding[side].get(command.message_id)
            cancels = operation is not None and operation.message.command.service.pending
            message.phase = Phase.PASS if cancels else Phase.SWALLOW
        elif command.is_response:
            self._response(message)
        else:
            self._request(message, context)
        return message

    def head(self, message: Message, values: dict[int, bytes]) -> None:
        """Judge a C-STORE: command and data set must name the same instance (rule 10), then the policy decides."""
        command = message.command
        try:
            instance = Instance(
                study_instance_uid=_single_uid(values, head.STUDY_INSTANCE_UID),
                patient_id=head.text_value(values, head.PATIENT_ID),
                accession_number=head.text_value(values, head.ACCESSION_NUMBER),
                sop_class_uid=_single_uid(values, head.SOP_CLASS_UID),
            )
            sop_instance_uid = _single_uid(values, head.SOP_INSTANCE_UID)
        except MalformedError as error:
            self.refuse(message, Status.CANNOT_UNDERSTAND, error.message)
            return
        if (instance.sop_class_uid, sop_instance_uid) != (command.sop_class_uid, command.sop_instance_uid):
            reason = "command and data set name different SOP Classes or Instances"
            self.refuse(message, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, reason)
            return
        mover = self._mover(message, instance.study_instance_uid)
        request = replace(
            self._access(message), move_originator=command.move_originator, on_behalf_of=mover.user_id if mover else ""
        )
        if self._policy.reads_study:
            request = replace(request, patient_id=instance.patient_id, study_instance_uid=instance.study_instance_uid)
        delivered = instance.patient_id or instance.study_instance_uid
        if self._permitted(message, request, delivered if message.side is self._archive_side else ""):
            self._outstanding[message.side][command.message_id].tally = self._begin(message.side, instance, mover)

    def identifier(self, message: Message, data: bytes) -> None:
        """Judge a C-FIND, C-GET or C-MOVE by its whole identifier, an N-CREATE by its attribute list, and record it."""
        command, name = message.command, message.command.service.name
        if command.is_response:
            self._filter(message, data)
            return
        if name == "N-CREATE":
            self._create(message, data)
            return
        try:
            asked = query.read(data, message.transfer_syntax, limit=self._identifier_bytes)
        except MalformedError as error:
            self.refuse(message, Status.CANNOT_UNDERSTAND, error.message)
            return
        studies = asked.study_instance_uids
        request = replace(
            self._access(message),
            level=asked.level,
            query_keys=asked.keys,
            move_destination=command.move_destination,
            patient_id=asked.patient_id,
            study_instance_uid=studies[0] if len(studies) == 1 else "",
        )
        named = asked.patient_id or ("\\".join(studies) if name == "C-MOVE" else "")
        if not self._permitted(message, request, named):
            return
        if name == "C-FIND":
            record = self._recorder.query(self.at, message.side, command.sop_class_uid, data, message.transfer_syntax)
            self._effects.record(record)
        elif name == "C-MOVE":
            for record in self._recorder.move(self.at, command.move_destination, studies, asked.patient_id):
                self._effects.record(record)
            move = Move(
                self._template.calling_ae_title, command.message_id, command.move_destination, self._recorder.mover, studies
            )
            self._outstanding[message.side][command.message_id].move = self._moves.begin(move)

    def refuse(self, message: Message, status: Status, reason: str) -> None:
        """Answer with `status` once the data set is swallowed, and raise the alarm. `reason` holds no patient data."""
        if message.command.is_response:  # nobody is answered: an answer that cannot be read does not pass
            message.phase = Phase.SWALLOW
            return
        message.phase, message.refusal = Phase.SWALLOW, status
        text = f"{message.command.service.name} refused: {reason}"
        alert = self._recorder.alert(self.at, codes.USE_OF_RESTRICTED_FUNCTION, text, peer=self._peer, who=message.side)
        self._record_refusal(alert)

    def ended(self, message: Message) -> None:
        """The message is over; send the refusal that waits for that, and tell that there is a gap behind it."""
        if message.refusal is not None:
            response = encode_response(message.command, message.refusal)
            self._effects.answer(message.side, encode_command_pdu(message.context_id, response))
        self._effects.boundary(message.side)

    # --- requests ---

    def _request(self, message: Message, context: Context) -> None:
        command, service = message.command, message.command.service
        if command.message_id in self._outstanding[message.side]:
            raise Violation("Message ID is in use")
        if len(self._outstanding[message.side]) >= MAX_OUTSTANDING:
            raise Violation("too many requests are outstanding")
        is_scu = context.scu if message.side is Side.REQUESTOR else context.scp
        is_scp = context.scp if message.side is Side.REQUESTOR else context.scu
        if not (is_scu if service.origin is Origin.SCU else is_scp):
            self.refuse(message, Status.NOT_AUTHORIZED, "the sender has not negotiated the role for it")
        elif not services.belongs(command.sop_class_uid, context.abstract_syntax):
            self.refuse(message, Status.SOP_CLASS_NOT_SUPPORTED, "SOP Class is not that of the presentation context")
        elif service.name == "C-STORE":
            message.phase = Phase.HEAD
        elif service.name in _IDENTIFIER or (service.name == "N-CREATE" and command.has_data_set and _is_procedure(command)):
            message.phase = Phase.IDENTIFIER
        elif self._permitted(message, self._access(message)):
            self._record_done(message, self._procedures.get(command.sop_instance_uid, services.Procedure()))

    def _create(self, message: Message, data: bytes) -> None:
        """Judge the creation of a procedure step or work item, and remember whom it is about."""
        try:
            procedure = services.read_procedure(data, message.transfer_syntax, limit=self._identifier_bytes)
        except MalformedError as error:
            self.refuse(message, Status.PROCESSING_FAILURE, error.message)
            return
        studies = procedure.study_instance_uids
        study = studies[0] if len(studies) == 1 else ""
        request = replace(self._access(message), patient_id=procedure.patient_id, study_instance_uid=study)
        if self._permitted(message, request):
            if len(self._procedures) >= MAX_PROCEDURES:
                self._procedures.clear()
            self._procedures[message.command.sop_instance_uid] = procedure
            self._record_done(message, procedure)

    def _record_done(self, message: Message, procedure: services.Procedure) -> None:
        """Record what a permitted N-service does to a procedure, or that it prints."""
        command, name = message.command, message.command.service.name
        action = services.procedure_action(name, command.sop_class_uid)
        if action is not None:
            self._effects.record(self._recorder.procedure(self.at, message.side, action, procedure, command))
        elif services.prints(name, command.sop_class_uid):
            self._effects.record(self._recorder.printed(self.at, message.side))

    def _access(self, message: Message) -> AccessRequest:
        return replace(
            self._template,
            action=message.command.service.name,
            at=self.at.replace(second=0, microsecond=0),
            sop_class_uid=message.command.sop_class_uid,
            toward_archive=message.side is not self._archive_side,
        )

    def _permitted(self, message: Message, request: AccessRequest, patient: str = "") -> bool:
        """Ask the policy; a permitted request becomes outstanding, a refused one is recorded and will be answered.

        `patient` is who is reached by it, for a budget that an obligation may set.
        """
        decision = self._decisions.get(request)
        if decision is None:
            decision = self._policy.decide(request)
            if len(self._decisions) >= MAX_DECISIONS:
                self._decisions.clear()
            self._decisions[request] = decision
        unmet = obligations.unmet(decision.obligations, request) if decision.obligations and decision.permitted else ""
        if PATIENTS_PER_HOUR in decision.obligations and decision.permitted and not unmet:
            unmet = self._spend(message, request, decision, patient)
        if decision.effect is Effect.PERMIT and not unmet:
            message.phase = Phase.PASS
            operation = self._outstanding[message.side][message.command.message_id] = Operation(message)
            if decision.obligations:
                operation.filters = obligations.filters(decision.obligations, request.subject) or ()
            return True
        if unmet:
            decision = Decision(Effect.DENY, decision.policies, unmet)
        message.phase, message.refusal = Phase.SWALLOW, Status.NOT_AUTHORIZED
        self._record_refusal(self._recorder.refusal(self.at, request.action, decision, peer=self._peer, who=message.side))
        return False

    def _spend(self, message: Message, request: AccessRequest, decision: Decision, patient: str) -> str:
        limits = read_limits(decision.obligations[PATIENTS_PER_HOUR])
        who = request.on_behalf_of or request.subject.user_id
        outcome = spend(self._visits, limits, who, patient, self.at) if limits is not None else Outcome()
        if outcome.alarm:
            alert = codes.USE_OF_RESTRICTED_FUNCTION
            self._effects.record(self._recorder.alert(self.at, alert, outcome.alarm, peer=self._peer, who=self._archive_side.other))
        return outcome.refusal

    def _record_refusal(self, alert: AuditMessage) -> None:
        self._refusals += 1
        if self._refusals > MAX_REFUSALS:
            raise Violation("too many refused requests")
        self._effects.record(alert)

    # --- responses and results ---

    def _response(self, message: Message) -> None:
        command = message.command
        operations = self._outstanding[message.side.other]
        operation = operations.get(command.message_id)
        request = operation.message if operation is not None else None
        if operation is None or request is None or request.command.service is not command.service:
            raise Violation("response to a request that is not outstanding", AbortReason.UNEXPECTED_PDU_PARAMETER)
        if request.context_id != message.context_id:
            raise Violation("response in another presentation context than its request")
        message.phase = Phase.PASS
        if command.status in _PENDING and command.service.pending:
            if operation.filters and command.has_data_set:
                message.phase = Phase.IDENTIFIER
            return
        del operations[command.message_id]
        if operation.move is not None:
            self._moves.end(operation.move)
        if operation.tally is not None and command.status is not None:
            counter = operation.tally.transferred if transferred(command.status) else operation.tally.failed
            counter[request.command.sop_class_uid] += 1

    def _mover(self, message: Message, study: str) -> Mover | None:
        """Return who asked for a C-STORE that the archive sends out; None when nobody can be named for certain."""
        command = message.command
        if not command.move_originator or message.side is not self._archive_side or self._archive_side is Side.ACCEPTOR:
            return None
        found = self._moves.movers(
            command.move_originator, command.move_originator_message_id, self._template.archive, study, self.at
        )
        return found[0] if len(found) == 1 else None

    def _filter(self, message: Message, data: bytes) -> None:
        """Let an answer to a C-FIND pass, or drop it, as an obligation says."""
        operation = self._outstanding[message.side.other].get(message.command.message_id)
        wanted = operation.filters if operation is not None else ()
        matches = obligations.passes(data, message.transfer_syntax, wanted, limit=self._identifier_bytes)
        message.phase = Phase.PASS if matches else Phase.SWALLOW

    def _begin(self, sender: Side, instance: Instance, mover: Mover | None) -> Tally:
        """Count the instance to its study; record the study's first one before it goes."""
        key = (sender, instance.study_instance_uid, instance.patient_id, mover)
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MAX_TALLIES:
                self._record_oldest()
            tally = self._tallies[key] = Tally(sender, instance.study_instance_uid, clean(instance.patient_id), mover)
            self._effects.record(self._recorder.begin(self.at, tally))
        if instance.accession_number and len(tally.accession_numbers) < MAX_TALLIES:
            tally.accession_numbers.add(clean(instance.accession_number))
        return tally

    def _record_oldest(self) -> None:
        """An association that never ends must not keep its studies for ever."""
        waiting = {id(operation.tally) for operations in self._outstanding.values() for operation in operations.values()}
        for key, tally in self._tallies.items():
            if id(tally) not in waiting:
                self._record_tally(tally)
                del self._tallies[key]
                return
        raise Violation("too many studies are under way at once")

    def _record_tally(self, tally: Tally) -> None:
        for record in self._recorder.transferred(self.at, tally):
            self._effects.record(record)


def _single_uid(values: dict[int, bytes], tag: int) -> str:
    text = head.uid_value(values, tag)
    if "\\" in text:
        raise MalformedError("an identifying UID has several values")
    return text


def _is_procedure(command: Command) -> bool:
    return services.procedure_action(command.service.name, command.sop_class_uid) is not None
