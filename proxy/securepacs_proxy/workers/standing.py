"""Whether the certificates of a worker's peers still count: asked at the door, and again whenever the keeper has looked anew."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from securepacs.policy.subject import SubjectKind
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
        self._asking: dict[str, Message] = {}

    @property
    def version(self) -> int:
        """The number of the last message of the keeper that was taken in."""
        return self._table.version

    def verify(self, peer: AuthenticatedPeer, answer: Answer) -> None:
        """Answer with "" or with why the certificate is refused; a first-seen one is asked for."""
        chain, kind = (peer.certificate, *peer.chain), peer.subject.kind
        self._ask(peer.subject.certificate_sha256, {"kind": kind.value, "serves": False, "chain": encode_chain(chain)}, answer)

    def verify_destination(self, chain: tuple[x509.Certificate, ...], answer: Answer) -> None:
        """Answer the same about the certificate of a destination, the first one of its path."""
        question = {"kind": SubjectKind.DEVICE.value, "serves": True, "chain": encode_chain(chain)}
        self._ask(_name_of_destination(chain), question, answer)

    def _ask(self, fingerprint: str, question: Message, answer: Answer) -> None:
        self._asking[fingerprint] = question

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
            for fingerprint, ask in self._certificates_of(connection):
                in_use.add(fingerprint)
                verdict = by_fingerprint.get(fingerprint)
                if verdict is not None:
                    self._refuse(connection, verdict)
                elif full and not self._table.knows(fingerprint):  # the keeper has forgotten it, because it lost its list
                    ask(functools.partial(self._end_if_refused, connection))
        if full:
            self._send({"type": "in-use", "fingerprints": sorted(in_use)})

    def _certificates_of(self, connection: RelayedConnection) -> Iterator[tuple[str, Callable[[Answer], None]]]:
        """Yield the names of the certificates at both ends of a connection, and how each is asked about."""
        subject, certificate = connection.session.subject, connection.certificate
        if subject is not None and certificate is not None:
            peer = AuthenticatedPeer(certificate, connection.chain, subject)
            yield subject.certificate_sha256, functools.partial(self.verify, peer)
        if connection.destination:
            chain = connection.destination
            yield _name_of_destination(chain), functools.partial(self.verify_destination, chain)

    def _end_if_refused(self, connection: RelayedConnection, reason: str) -> None:
        if reason:
            self._end(connection, reason)

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
        self._send({"type": "inquire", "fingerprint": fingerprint, **self._asking[fingerprint]})


def _name_of_destination(chain: tuple[x509.Certificate, ...]) -> str:
    """Return by what a certificate is known that a destination shows: the same one may be a peer's, for another purpose."""
    return f"{chain[0].fingerprint(hashes.SHA256()).hex()} as destination"
