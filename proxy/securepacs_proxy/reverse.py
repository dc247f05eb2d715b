"""Connections that an agent keeps open so that something can be delivered to a viewer behind it: no port opens on a workstation.

The agent calls the gateway with the ALPN name `securepacs-reverse` (RFC 7301) and the person's card, and says which AE title its
viewer has:

    agent:    SECUREPACS-REVERSE/1 VIEWER1 LF
    gateway:  + LF  (kept),  or  - LF  (refused; the audit trail has the reason), and closes

Then it waits. When an archive calls that AE title on an inner port, the association runs over this connection, as octets; deciding
and recording it is the work of the relay on the inner port. Each connection carries one association.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from securepacs import codes
from securepacs.audit.message import AuditSourceIdentification
from securepacs.policy.subject import Subject
from securepacs_proxy.commands import Audit, Close, Command, Offer, Send, SetTimer
from securepacs_proxy.dicom import defects
from securepacs_proxy.dicom.records import Recorder
from securepacs_proxy.events import (
    AuditFailed,
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
)

ALPN = "securepacs-reverse"
GREETING = b"SECUREPACS-REVERSE/1 "
KEPT, REFUSED = b"+\n", b"-\n"
_LINE_LIMIT = len(GREETING) + 17  # an AE title and the line feed
_GREETING_TIMER = "reverse.greeting"


@dataclass(frozen=True, slots=True)
class ReverseSettings:
    """What the relay of such a connection must know; `seconds` is the time for the greeting."""

    gateway: str
    ae_title: str
    source: AuditSourceIdentification
    seconds: float = 30.0


class _State(Enum):
    HANDSHAKE = auto()
    GREETING = auto()
    WAITING = auto()
    DELIVERING = auto()
    CLOSED = auto()


class ReverseRelay:
    """One connection of an agent that waits for a delivery. Implements `securepacs_proxy.relay.Relay`.

    `judge(subject, ae_title)` says why the subject may not receive what is sent to the AE title, "" when it may.
    """

    def __init__(self, settings: ReverseSettings, judge: Callable[[Subject, str], str], *, association_id: str) -> None:
        self._settings = settings
        self._judge = judge
        self._id = association_id
        self._recorder = Recorder(settings.source, settings.gateway, settings.ae_title)
        self._state = _State.HANDSHAKE
        self._peer: Peer | None = None
        self._subject: Subject | None = None
        self._line = b""
        self._logged_in = False
        self._commands: list[Command] = []
        self._at = datetime.min
        self.ae_title = ""

    @property
    def finished(self) -> bool:
        """True when both sides are closed or being closed and no further event matters."""
        return self._state is _State.CLOSED

    @property
    def waits(self) -> bool:
        """Whether nothing is being delivered, so that nobody loses anything when it ends."""
        return self._state is not _State.DELIVERING

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        """Return what must be done because of `event`, in order. Never raises."""
        self._commands, self._at = [], at
        try:
            if not self.finished:
                self._handle(event)
        except Exception as error:  # rule 1 of relays: a defect ends this connection, visibly, and nothing else
            defects.report(self._id, error)
            self._state = _State.CLOSED
            self._commands += [Close(Side.REQUESTOR), Close(Side.ACCEPTOR)]
        return self._commands

    def _handle(self, event: Event) -> None:
        match event:
            case DataReceived(side, data):
                self._on_data(side, data)
            case HandshakeFailed(reason, claimed):
                self._record_alert(reason, claimed=claimed)
                self._end("")
            case PeerAuthenticated(peer, subject):
                self._peer, self._subject, self._state = peer, subject, _State.GREETING
                self._recorder.peer_is(subject, peer)
                self._commands.append(SetTimer(_GREETING_TIMER, self._settings.seconds))
            case UpstreamConnected() if self._state is _State.WAITING:
                self._state = _State.DELIVERING
            case StreamEnded(side, reason):
                whose = "the agent" if side is Side.REQUESTOR else "the archive's side"
                self._end(f"{whose} closed the connection{f': {reason}' if reason else ''}", requestor=side is Side.REQUESTOR)
            case TimerExpired() if self._state is _State.GREETING:
                self._violated("no greeting in time")
            case PolicyReplaced() if self.ae_title and self._subject is not None:
                refusal = self._judge(self._subject, self.ae_title)
                if refusal:
                    self._end(refusal)
            case SessionEnded(reason):
                self._end(f"session ended: {reason}")
            case AuditFailed():
                self._end("the audit trail could not be written")
            case _:
                return

    def _on_data(self, side: Side, data: memoryview) -> None:
        if self._state is _State.DELIVERING:
            self._commands.append(Send(side.other, data))
        elif self._state is _State.GREETING and side is Side.REQUESTOR:
            self._line += bytes(data[: _LINE_LIMIT + 1 - len(self._line)])
            line, found, rest = self._line.partition(b"\n")
            if found:
                self._greeted(line, rest)
            elif len(self._line) > _LINE_LIMIT:
                self._violated("the greeting is too long")
        else:
            self._violated("the agent spoke while nothing was delivered")

    def _greeted(self, line: bytes, rest: bytes) -> None:
        ae_title = line.removeprefix(GREETING).decode("latin-1").strip()
        if (
            not line.startswith(GREETING)
            or rest
            or not ae_title
            or len(ae_title) > 16
            or not (ae_title.isascii() and ae_title.isprintable())
        ):
            self._violated("the greeting is not one")
            return
        if self._subject is None:
            raise RuntimeError("greeted before it was authenticated")
        refusal = self._judge(self._subject, ae_title)
        self._recorder.association_is(ae_title, self._settings.ae_title, "")
        if refusal:
            self._record_alert(f"may not receive for {ae_title}: {refusal}", who=Side.REQUESTOR)
            self._commands.append(Send(Side.REQUESTOR, REFUSED))
            self._end("")
            return
        self.ae_title, self._state = ae_title, _State.WAITING
        self._commands.append(SetTimer(_GREETING_TIMER, None))
        for record in self._recorder.login(self._at, description=f"waits for what is sent to {ae_title}"):
            self._commands.append(Audit(record))
            self._logged_in = True
        self._commands += [Send(Side.REQUESTOR, KEPT), Offer(ae_title)]

    def _violated(self, text: str) -> None:
        self._record_alert(text, who=Side.REQUESTOR)
        self._end(text)

    def _record_alert(self, text: str, *, claimed: str = "", who: Side | None = None) -> None:
        alert = self._recorder.alert(self._at, codes.NODE_AUTHENTICATION, text, peer=self._peer, claimed=claimed, who=who)
        self._commands.append(Audit(alert))

    def _end(self, text: str, *, requestor: bool = False) -> None:
        self._state = _State.CLOSED
        if self._logged_in:
            self._logged_in = False
            records = self._recorder.login(self._at, login=False, description=text, requestor=requestor)
            self._commands += [Audit(record) for record in records]
        self._commands += [Close(Side.REQUESTOR), Close(Side.ACCEPTOR)]
