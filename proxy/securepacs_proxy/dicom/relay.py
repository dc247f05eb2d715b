"""The DICOM relay: events in, commands out, no I/O (PS3.8 9.2 seen from the middle). The rules stand in `securepacs_proxy.relay`.

    stream    bytes -> PDUs            state        which PDU may come when
    messages  PDUs  -> messages        negotiation  what association PDUs become on the other hop
    exchange  messages -> decisions    records      what the audit trail is told

Records come before what they describe, aborts and rejections after the records, closes last. An A-ABORT is never written into
the middle of a PDU that is being passed on: its bytes would be taken for the end of that PDU, so that side is only closed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from securepacs import codes
from securepacs.policy.subject import AccessRequest, Policy, Subject
from securepacs_proxy.commands import Close, Command, OpenUpstream, Send, SetTimer
from securepacs_proxy.dicom import admission, defects, negotiation, pdu
from securepacs_proxy.dicom.exchange import Effects, Exchange
from securepacs_proxy.dicom.messages import Bounds, MessageStream
from securepacs_proxy.dicom.outbox import Outbox
from securepacs_proxy.dicom.pdu import Abort, AssociateRJ, AssociateRQ, PduType
from securepacs_proxy.dicom.records import Recorder
from securepacs_proxy.dicom.settings import INGRESS, RelaySettings
from securepacs_proxy.dicom.state import TRANSITIONS, Action, State
from securepacs_proxy.dicom.stream import PduStream
from securepacs_proxy.dicom.wire import AbortReason, Violation
from securepacs_proxy.events import (
    AuditFailed,
    ConnectionAccepted,
    DataReceived,
    Event,
    HandshakeFailed,
    Peer,
    PeerAuthenticated,
    PolicyReplaced,
    SessionEnded,
    Side,
    StreamEnded,
    TimerExpired,
    UpstreamConnected,
    UpstreamUnreachable,
)

__all__ = ["DicomRelay", "RelaySettings"]

HANDSHAKE, ARTIM, IDLE = "handshake", "artim", "idle"


class DicomRelay:
    """One association between an authenticated peer and an archive. Implements `securepacs_proxy.relay.Relay`."""

    def __init__(self, settings: RelaySettings, policy: Policy, *, association_id: str) -> None:
        self._settings = settings
        self._policy = policy
        self._id = association_id
        self._state = State.HANDSHAKE
        self._peer: Peer | None = None
        self._subject: Subject | None = None
        self._recorder = Recorder(settings.source, settings.gateway, settings.ae_title)
        bounds = Bounds(settings.command_bytes, settings.head_bytes, settings.identifier_bytes)
        self._messages = {
            side: MessageStream(side, bounds=bounds, admit=self._admit, control=self._control, send=self._pass_on) for side in Side
        }
        self._streams = {side: PduStream(self._messages[side], settings.max_pdu_length) for side in Side}
        self._exchange: Exchange | None = None
        self._request: AssociateRQ | None = None
        self._sent: AssociateRQ | None = None
        self._called = False
        self._logged_in = False
        self._reading = Side.REQUESTOR
        self._outbox = Outbox()
        self._was_cut: set[Side] = set()  # sides to which a PDU has gone in pieces
        self._at = datetime.min
        self._active_at = datetime.min

    @property
    def finished(self) -> bool:
        """True when both sides are closed or being closed and no further event matters."""
        return self._state is State.CLOSED

    @property
    def state(self) -> State:
        """Where the association stands."""
        return self._state

    @property
    def buffered(self) -> int:
        """Bytes kept for later; bounded by the settings."""
        return self._outbox.buffered + sum(self._streams[side].buffered + self._messages[side].buffered for side in Side)

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        """Return what must be done because of `event`, in order. Never raises."""
        commands, self._at = self._outbox.begin(), at
        if self._exchange is not None:
            self._exchange.at = at
        try:
            self._handle(event)
        except Violation as violation:
            self._guarded(partial(self._violated, violation))
        except Exception as error:  # rule 1: a defect ends this association, visibly, and nothing else
            defects.report(self._id, error)
            self._guarded(self._ended_by_defect)
        return commands

    # --- events -------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            if self._state is not State.CLOSED:
                self._reading, self._active_at = event.side, self._at
                self._messages[event.side].new_event()
                self._streams[event.side].feed(event.data)
            return
        if isinstance(event, AuditFailed):
            self._on_audit_failed()
            return
        if self._state is State.CLOSED:
            return
        match event:
            case ConnectionAccepted(peer):
                self._peer = peer
                if self._settings.handshake_seconds is not None:
                    self._outbox.emit(SetTimer(HANDSHAKE, self._settings.handshake_seconds))
            case HandshakeFailed(reason, claimed):
                self._on_handshake_failed(reason, claimed)
            case PeerAuthenticated(peer, subject):
                self._on_authenticated(peer, subject)
            case UpstreamConnected(host):
                self._on_upstream(host)
            case UpstreamUnreachable(reason):
                self._on_unreachable(reason)
            case StreamEnded(side, reason):
                self._on_stream_ended(side, reason)
            case TimerExpired(name):
                self._on_timer(name)
            case PolicyReplaced(policy):
                self._policy = policy
                if self._exchange is not None:
                    self._exchange.forget(policy)
            case SessionEnded(reason):
                self._end(f"session ended: {reason}", tell=tuple(Side))

    def _on_handshake_failed(self, reason: str, claimed: str) -> None:
        self._state = State.CLOSED
        self._outbox.record(self._recorder.alert(self._at, codes.NODE_AUTHENTICATION, reason, peer=self._peer, claimed=claimed))
        self._outbox.emit(Close(Side.REQUESTOR))

    def _on_authenticated(self, peer: Peer, subject: Subject) -> None:
        if self._state is not State.HANDSHAKE:
            raise Violation("authenticated twice", AbortReason.UNEXPECTED_PDU)
        self._peer, self._subject, self._state = peer, subject, State.AWAIT_REQUEST
        self._recorder.peer_is(subject, peer)
        if self._settings.handshake_seconds is not None:
            self._outbox.emit(SetTimer(HANDSHAKE, None))
        self._outbox.emit(SetTimer(ARTIM, self._settings.association_seconds))

    def _on_upstream(self, host: str) -> None:
        if self._state is not State.CONNECTING or self._sent is None:
            raise Violation("connected without need", AbortReason.UNEXPECTED_PDU)
        if host:
            self._recorder.association_is(self._sent.calling_ae_title, self._sent.called_ae_title, host)
        self._state, self._called = State.AWAIT_ANSWER, True
        self._outbox.emit(Send(Side.ACCEPTOR, pdu.encode(self._sent)))

    def _on_unreachable(self, reason: str) -> None:
        text = f"the archive cannot be reached: {reason}"
        self._alert(codes.NODE_AUTHENTICATION, text, Side.ACCEPTOR)
        self._reject(negotiation.REJECT_UNREACHABLE, text, tell_archive=True)

    def _on_stream_ended(self, side: Side, reason: str) -> None:
        text = f"the {side.value} closed the connection{f': {reason}' if reason else ''}"
        if side is Side.ACCEPTOR and self._state is State.AWAIT_ANSWER:
            self._on_unreachable(text)
        else:
            self._end(text, tell=(side.other,), requestor=side is Side.REQUESTOR)

    def _on_timer(self, name: str) -> None:
        if name == HANDSHAKE and self._state is State.HANDSHAKE:
            self._on_handshake_failed("the TLS handshake took too long", "")
        elif name == ARTIM and self._state in (State.CONNECTING, State.AWAIT_ANSWER):
            self._on_unreachable("no answer in time")
        elif name == ARTIM and self._state is not State.ESTABLISHED:
            raise Violation(f"time ran out while {self._state.value}", AbortReason.NOT_SPECIFIED)
        elif name == IDLE and self._state is State.ESTABLISHED:
            left = self._settings.idle_seconds - (self._at - self._active_at).total_seconds()
            if left > 0:
                self._outbox.emit(SetTimer(IDLE, min(left, self._settings.idle_seconds)))
            else:
                self._end("the association was idle for too long", tell=tuple(Side))

    def _on_audit_failed(self) -> None:
        """What waited for its record does not happen; also when CLOSED, for then the farewell was dropped with it.

        Which sends were dropped is not known here: a side that has had PDUs in pieces may sit inside one and is only closed.
        """
        whole = tuple(side for side in Side if side not in self._was_cut)
        self._end("the audit trail could not be written", tell=whole, records_last=True)

    # --- control PDUs -------------------------------------------------------------------------------------------------

    def _admit(self, side: Side, kind: PduType) -> None:
        if (self._state, side, kind) not in TRANSITIONS:
            text = f"{kind.standard_name} from the {side.value} while {self._state.value}"
            raise Violation(text, AbortReason.UNEXPECTED_PDU)

    def _control(self, side: Side, kind: PduType, body: memoryview) -> None:
        self._admit(side, kind)
        action, after = TRANSITIONS[self._state, side, kind]
        _ACTIONS[action](self, side, kind, body, after)

    def _decide_request(self, side: Side, kind: PduType, body: memoryview, after: State) -> None:
        """Steps: read, check by PS3.8, route, ask the policy, record, call the archive."""
        request = pdu.decode_associate_rq(body)
        rejection = negotiation.protocol_rejection(request)
        if rejection is not None:
            text = "A-ASSOCIATE-RQ asks for another protocol version or application context"
            self._alert(codes.NODE_AUTHENTICATION, text, side)
            self._reject(rejection, text)
            return
        destinations = self._settings.routes.get(request.called_ae_title, ())
        host = destinations[0].host if len(destinations) == 1 else ""
        self._recorder.association_is(request.calling_ae_title, request.called_ae_title, host)
        verdict = admission.judge(request, self._template(request), self._policy, self._settings)
        if isinstance(verdict, admission.Denied):
            self._deny(verdict)
            return
        self._request = request
        self._sent = negotiation.upstream_request(request, verdict.contexts, self._settings.max_pdu_length)
        self._state = after
        self._login(request)
        self._outbox.emit(OpenUpstream(verdict.destinations))

    def _template(self, request: AssociateRQ) -> AccessRequest:
        if self._subject is None:
            raise Violation("association without an authenticated peer", AbortReason.UNEXPECTED_PDU)
        return AccessRequest(
            subject=self._subject,
            action="Associate",
            archive=request.called_ae_title,
            at=self._at,
            calling_ae_title=request.calling_ae_title,
            tls_version=self._peer.tls_version if self._peer else "",
            direction=self._settings.direction,
            toward_archive=self._settings.direction == INGRESS,
        )

    def _login(self, request: AssociateRQ) -> None:
        """A person's login is on record before anything of the person goes on (A.5.3.15)."""
        identity = request.user_information.user_identity
        description = f"with a user identity item of type {identity.type}, which was taken off" if identity is not None else ""
        for record in self._recorder.login(self._at, description=description):
            self._outbox.record(record)
            self._logged_in = True

    def _relay_answer(self, side: Side, kind: PduType, body: memoryview, after: State) -> None:
        answer = pdu.decode_associate_ac(body)
        if self._request is None or self._sent is None or self._peer is None:
            raise Violation("answer without a request", AbortReason.UNEXPECTED_PDU)
        limit = self._settings.max_pdu_length
        passed_on, contexts = negotiation.downstream_answer(self._request, self._sent, answer, limit)
        self._exchange = Exchange(
            self._template(self._request),
            self._policy,
            contexts,
            self._recorder,
            self._peer,
            Effects(self._outbox.record, self._answer, self._boundary),
            self._settings,
        )
        for messages in self._messages.values():
            messages.establish(self._exchange)
        self._streams[Side.REQUESTOR].limit = passed_on.user_information.maximum_length
        self._streams[Side.ACCEPTOR].limit = self._sent.user_information.maximum_length
        self._state, self._active_at = after, self._at
        self._outbox.emit(SetTimer(ARTIM, None))
        self._outbox.emit(SetTimer(IDLE, self._settings.idle_seconds))
        self._outbox.emit(Send(Side.REQUESTOR, pdu.encode(passed_on)))

    def _relay_rejection(self, side: Side, kind: PduType, body: memoryview, after: State) -> None:
        rejection = pdu.decode_associate_rj(body)
        text = f"the archive rejected the association ({rejection.result}/{rejection.source}/{rejection.reason})"
        self._reject(rejection, text)

    def _relay_release(self, side: Side, kind: PduType, body: memoryview, after: State) -> None:
        self._state = after
        self._outbox.emit(SetTimer(ARTIM, self._settings.association_seconds))
        self._outbox.emit(Send(side.other, pdu.RELEASE_RQ if kind is PduType.RELEASE_RQ else pdu.RELEASE_RP))

    def _finish_release(self, side: Side, kind: PduType, body: memoryview, after: State) -> None:
        self._end_records("released", requestor=True)
        self._outbox.emit(Send(side.other, pdu.RELEASE_RP))
        self._outbox.close_both()

    def _relay_abort(self, side: Side, kind: PduType, body: memoryview, after: State) -> None:
        abort = pdu.decode_abort(body)
        self._end(f"aborted by the {side.value}", tell=(side.other,), abort=abort, requestor=side is Side.REQUESTOR)

    # --- effects ------------------------------------------------------------------------------------------------------

    def _pass_on(self, side: Side, data: memoryview, start: int, stop: int) -> None:
        """Send a range to the other side."""
        self._outbox.pass_on(side.other, data, start, stop)
        if self._streams[side].within_data:
            self._was_cut.add(side.other)

    def _answer(self, side: Side, response: bytes) -> None:
        """Send the gateway's own response: between messages that pass to that side, never inside one."""
        self._outbox.answer(side, response, wait=self._messages[side.other].forwarding)

    def _boundary(self, side: Side) -> None:
        self._outbox.gap(side.other)

    def _alert(self, alert_type: codes.CodedValue, text: str, side: Side) -> None:
        who = side if self._subject is not None else None
        self._outbox.record(self._recorder.alert(self._at, alert_type, text, peer=self._peer, who=who))

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _deny(self, denied: admission.Denied) -> None:
        """Refuse an association that policy does not permit; of a person that is a failed login too."""
        self._outbox.record(self._recorder.refusal(self._at, "Associate", denied.decision, peer=self._peer, who=Side.REQUESTOR))
        for record in self._recorder.login(self._at, refused=denied.decision.reason or "refused"):
            self._outbox.record(record)
        self._reject(denied.rejection, "")

    def _reject(self, rejection: AssociateRJ, text: str, *, tell_archive: bool = False) -> None:
        self._end_records(text, requestor=False)
        if tell_archive:
            self._tell((Side.ACCEPTOR,), Abort())
        self._outbox.emit(Send(Side.REQUESTOR, pdu.encode(rejection)))
        self._outbox.close_both()

    def _end(
        self, text: str, *, tell: tuple[Side, ...], abort: Abort | None = None, requestor: bool = False, records_last: bool = False
    ) -> None:
        """End the association: records, A-ABORT to those in `tell`, close both."""
        if not records_last:
            self._end_records(text, requestor=requestor)
        self._tell(tell, abort or Abort())
        if records_last:
            self._end_records(text, requestor=requestor)
        self._outbox.close_both()

    def _end_records(self, text: str, *, requestor: bool) -> None:
        """Record what was transferred and the end of a person's session; once."""
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        for messages in self._messages.values():
            messages.open = False
        if self._exchange is not None:
            self._exchange.finish()
        if self._logged_in:
            for record in self._recorder.login(self._at, login=False, description=text, requestor=requestor):
                self._outbox.record(record)

    def _tell(self, sides: tuple[Side, ...], abort: Abort) -> None:
        """Write A-ABORT where the association has begun and where it cannot become the end of a half-sent PDU."""
        for side in sides:
            begun = self._subject is not None if side is Side.REQUESTOR else self._called
            if begun and not self._half_sent(side):
                self._outbox.emit(Send(side, pdu.encode(abort)))

    def _half_sent(self, to: Side) -> bool:
        return self._streams[to.other].within_data and self._messages[to.other].forwarding

    def _violated(self, violation: Violation) -> None:
        """A peer broke its protocol: the alert names the side, the offender gets the reason, the other a plain A-ABORT."""
        self._alert(codes.NODE_AUTHENTICATION, f"{self._reading.value}: {violation.message}", self._reading)
        self._end_records("protocol violation", requestor=False)
        self._tell((self._reading,), Abort(reason=violation.abort_reason))
        self._tell((self._reading.other,), Abort())
        self._outbox.close_both()

    def _ended_by_defect(self) -> None:
        self._alert(codes.NODE_AUTHENTICATION, "the gateway ended the association because of an error of its own", self._reading)
        self._end("error of the gateway", tell=tuple(Side))

    def _guarded(self, end: Callable[[], None]) -> None:
        """Run an ending; should even that fail, close both sides."""
        try:
            end()
        except Exception as error:  # rule 1, as in handle
            defects.report(self._id, error)
            self._state = State.CLOSED
            self._outbox.close_both()


_ACTIONS: dict[Action, Callable[[DicomRelay, Side, PduType, memoryview, State], None]] = {
    Action.DECIDE_REQUEST: DicomRelay._decide_request,
    Action.RELAY_ANSWER: DicomRelay._relay_answer,
    Action.RELAY_REJECTION: DicomRelay._relay_rejection,
    Action.RELAY_RELEASE: DicomRelay._relay_release,
    Action.FINISH_RELEASE: DicomRelay._finish_release,
    Action.RELAY_ABORT: DicomRelay._relay_abort,
}
