"""The keeper of revocation data: a process of its own, because fetching waits and needs threads. Started when [revocation] is set.

It looks at every certificate in use at each refresh, and at one that a worker sees first when asked. All workers are told the same.
"""

from __future__ import annotations

import base64
import logging
import select
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from cryptography import x509

from securepacs.errors import ConfigError
from securepacs.policy.subject import SubjectKind
from securepacs.trust.files import load_crls
from securepacs_proxy.config import RevocationSection
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.faults import fault
from securepacs_proxy.reload import Snapshot, read_snapshot
from securepacs_proxy.revocation.judge import Judge, Watched, WatchList, decode_chain
from securepacs_proxy.revocation.sources import KeepingFetcher, own_status
from securepacs_proxy.revocation.verdicts import Verdict

_log = logging.getLogger(__name__)
KEEPER = "keeper"
FOLDER = "revocation"
_WATCHED_FILE = "certificates.json"
_THREADS = 4  # for a refresh, and as many for those who wait


def keeper_main(pipe: socket.socket, *, snapshot: Snapshot) -> int:
    """Watch certificates until told to stop or the supervisor is gone; the exit code of the process."""
    Keeper(pipe, snapshot).run()
    return 0


class Keeper:
    """The state of the process. The main thread reads orders and starts refreshes; verdicts come from the threads of two pools."""

    def __init__(self, pipe: socket.socket, snapshot: Snapshot) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._snapshot = snapshot
        self._version = 0
        self._known_lists: tuple[x509.CertificateRevocationList, ...] = ()
        self._folder_problem = ""
        folder = snapshot.config.audit.spool / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._watched = WatchList(folder / _WATCHED_FILE)
        self._fetcher = self._new_fetcher(folder)
        self._inquiries = ThreadPoolExecutor(_THREADS, "inquiry")
        self._looks = ThreadPoolExecutor(_THREADS, "look")
        self._refreshes = ThreadPoolExecutor(1, "refresh")
        self._asked: set[str] = set()
        self._judge = self._new_judge()

    def run(self) -> None:
        """Serve until `drain` or the end of the supervisor."""
        self._send({"type": "ready"})
        lines = LineReader()
        refresh = self._begin_refresh()
        due = monotonic() + self._section.refresh_seconds
        while True:
            # not a time-out of the socket: that would hold for what the threads send, too
            if not select.select([self._pipe], [], [], max(due - monotonic(), 0))[0]:
                if refresh.done():  # else the network is slower than the interval: the next one waits
                    refresh = self._begin_refresh()
                due = monotonic() + self._section.refresh_seconds
                continue
            data = self._pipe.recv(262_144)
            orders = lines.feed(data)
            if not data or any(order["type"] == "drain" for order in orders):
                break
            for order in orders:
                self._order(order)
            if any(order["type"] == "reload" for order in orders):
                due = monotonic()
        for pool in (self._refreshes, self._inquiries, self._looks):
            pool.shutdown(wait=False, cancel_futures=True)
        self._watched.save()

    @property
    def _section(self) -> RevocationSection:
        return self._snapshot.config.revocation or RevocationSection()

    def _order(self, order: Message) -> None:
        match order["type"]:
            case "inquire":
                if order["fingerprint"] not in self._asked:
                    self._asked.add(order["fingerprint"])
                    self._inquiries.submit(self._inquire, order).add_done_callback(_log_failure)
            case "in-use":
                self._watched.seen_again(order["fingerprints"], at=_now())
            case "reload":
                self._reload()

    def _reload(self) -> None:
        try:
            self._snapshot = read_snapshot(self._snapshot.path)
        except ConfigError as error:
            _log.error("the keeper stays with the old configuration: %s", error.message)
            return
        self._fetcher = self._new_fetcher(self._folder)
        self._judge = self._new_judge()

    def _inquire(self, order: Message) -> None:
        fingerprint = str(order["fingerprint"])
        try:
            kind, chain, serves = SubjectKind(order["kind"]), decode_chain(order["chain"]), bool(order["serves"])
            row = self._watched.see(kind, chain, fingerprint, at=_now(), serves=serves)
            self._look(row)
            self._watched.save()
        finally:
            self._asked.discard(fingerprint)
        if row.verdict is not None:
            self._tell([row.verdict], full=False)

    def _begin_refresh(self) -> Future[None]:
        future = self._refreshes.submit(self._refresh)
        future.add_done_callback(_log_failure)
        return future

    def _refresh(self) -> None:
        self._fetcher.next_generation()
        self._judge = self._new_judge()
        for look in [self._looks.submit(self._look, row) for row in self._watched.rows(at=_now())]:
            look.result()
        self._staple()
        self._watched.save()
        rows = self._watched.rows(at=_now())  # those that came meanwhile included
        self._tell([row.verdict for row in rows if row.verdict is not None], full=True)

    def _staple(self) -> None:
        """Fetch what the CA says about the gateway's own certificates, for workers to show to peers; only good news is shown."""
        for number, listener in enumerate(self._snapshot.listeners):
            own, chain = listener.credential.certificate, (*listener.credential.chain, *listener.trust)
            issuer = next((candidate for candidate in chain if candidate.subject == own.issuer), None)
            answer = own_status(own, issuer, self._fetcher, at=_now()) if issuer is not None else b""
            self._send({"type": "staple", "listener": number, "response": base64.b64encode(answer).decode("ascii")})

    def _look(self, row: Watched) -> None:
        before = row.verdict
        verdict = self._judge.judge(row, at=_now())
        if verdict.warning and (before is None or before.warning != verdict.warning):
            name = row.chain[0].subject.rfc4514_string()
            self._alarm(f"the certificate {row.fingerprint[:16]} ({name[:200]}): {verdict.warning}", True)
        row.verdict = verdict
        row.known_good = row.known_good or verdict.good

    def _new_judge(self) -> Judge:
        listeners = self._snapshot.listeners
        anchors = [certificate for listener in listeners for certificate in listener.trust]
        crls = [crl for listener in listeners for crl in listener.crls]
        called = self._snapshot.called
        lists = [*crls, *called.crls, *self._lists()]
        return Judge(self._section, anchors=anchors, server_anchors=called.trust, crls=lists, fetcher=self._fetcher)

    def _lists(self) -> Sequence[x509.CertificateRevocationList]:
        """Read the folder of lists; when it cannot be read what was read last goes on to count."""
        folder = self._section.crl_folder
        if folder is None:
            return ()
        problem = ""
        try:
            self._known_lists = load_crls([folder], key="revocation.crl_folder")
        except ConfigError as error:
            problem = error.message
        if problem != self._folder_problem:
            self._folder_problem = problem
            what = f"cannot be read, the last ones count: {problem}" if problem else "are read again"
            self._alarm(f"the revocation lists in {folder} {what}", bool(problem))
        return self._known_lists

    def _new_fetcher(self, folder: Path) -> KeepingFetcher:
        return KeepingFetcher(folder, allowed_hosts=self._section.allowed_hosts, ocsp=self._section.ocsp, alarm=self._alarm)

    def _tell(self, verdicts: Sequence[Verdict], *, full: bool) -> None:
        self._version += 1
        self._send({"type": "verdicts", "version": self._version, "full": full, "verdicts": [one.to_dict() for one in verdicts]})

    def _alarm(self, text: str, bad: bool) -> None:
        self._send({"type": "alarm", "text": text, "bad": bad})

    def _send(self, message: Message) -> None:
        try:
            with self._sending:
                self._pipe.sendall(encode(message))
        except OSError as error:
            _log.error("the supervisor does not listen: %s", error.strerror or error)


def _log_failure(future: Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _log.error("looking at certificates failed: %s", fault(error))


def _now() -> datetime:
    return datetime.now(UTC)
