"""Whether the certificates of a worker's peers still count: asked at the door, and again whenever the keeper has looked anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from securepacs_proxy.connection import AuthenticatedPeer, RelayedConnection, Shell
from securepacs_proxy.control import Message
from securepacs_proxy.revocation.judge import encode_chain
from securepacs_proxy.revocation.verdicts import Answer, Verdict, VerdictTable

QUIET_SECONDS = 2.0  # an instance counts as finished when nothing has moved for so long
INSTANCE_SECONDS = 60.0  # and no instance takes longer than this to finish once its sender is revoked
End = Callable[[RelayedConnection, str], None]


class Standing:
    """The worker's end of revocation. `send`: to the supervisor; `end`: end a connection with a reason, on record."""

    def __init__(self, shell: Callable[[], Shell], *, refresh: timedelta, send: Callable[[Message], None], end: End) -> None:
        self._shell = shell
        self._send = send
        self._end = end
        self._table = VerdictTable(refresh, self._inquire)
        self._asking: dict[str, AuthenticatedPeer] = {}

    @property
    def version(self) -> int:
        """The number of the last message of the keeper that was taken in."""
        return self._table.version

    def verify(self, peer: AuthenticatedPeer, answer: Answer) -> None:
        """Answer with "" or with why the certificate is refused; a first-seen one is asked for."""
        fingerprint = peer.subject.certificate_sha256
        self._asking[fingerprint] = peer

        def answered(reason: str) -> None:
            self._asking.pop(fingerprint, None)
            answer(reason)

        self._table.ask(fingerprint, answered, at=self._shell().now())

    def learn(self, message: Message) -> None:
        """Take the keeper's verdicts, end who is refused now, and tell which certificates are in use."""
        verdicts = [Verdict(**row) for row in message["verdicts"]]
        full = bool(message["full"])
        refused = self._table.learn(verdicts, version=int(message["version"]), full=full, at=self._shell().now())
        by_fingerprint = {verdict.fingerprint: verdict for verdict in refused}
        in_use = set()
        for connection in self._shell().connections:
            subject = connection.session.subject
            if subject is None or connection.certificate is None:
                continue
            in_use.add(subject.certificate_sha256)
            verdict = by_fingerprint.get(subject.certificate_sha256)
            if verdict is not None:
                self._refuse(connection, verdict)
            elif full and not self._table.knows(subject.certificate_sha256):
                self._ask_again(connection)
        if full:
            self._send({"type": "in-use", "fingerprints": sorted(in_use)})

    def _ask_again(self, connection: RelayedConnection) -> None:
        """A live certificate that the keeper has forgotten, because it lost its list."""
        if connection.certificate is not None and connection.session.subject is not None:
            peer = AuthenticatedPeer(connection.certificate, connection.chain, connection.session.subject)
            self.verify(peer, lambda reason: self._end(connection, reason) if reason else None)

    def _refuse(self, connection: RelayedConnection, verdict: Verdict) -> None:
        if verdict.at_once:
            self._end(connection, verdict.reason)
        else:
            self._end_when_quiet(connection, verdict.reason, connection.session.moved, INSTANCE_SECONDS)

    def _end_when_quiet(self, connection: RelayedConnection, reason: str, moved: int, patience: float) -> None:
        """Let the running instance finish: end the connection when nothing moves, or when that takes too long."""
        if connection.ending:
            return
        connection.ending = True

        def look(moved: int, patience: float) -> None:
            if connection.session.moved == moved or patience <= 0:
                self._end(connection, reason)
            else:
                loop.call_later(QUIET_SECONDS, look, connection.session.moved, patience - QUIET_SECONDS)

        loop = asyncio.get_running_loop()
        loop.call_later(QUIET_SECONDS, look, moved, patience)

    def _inquire(self, fingerprint: str) -> None:
        peer = self._asking[fingerprint]
        chain = encode_chain((peer.certificate, *peer.chain))
        self._send({"type": "inquire", "fingerprint": fingerprint, "kind": peer.subject.kind.value, "chain": chain})
