"""What a worker needs to know about the certificates of peers: one verdict each, by SHA-256 fingerprint. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

Answer = Callable[[str], None]

_COMPROMISED = frozenset({"keycompromise", "cacompromise", "aacompromise"})
REFRESHES_MISSED = 3  # after so many a verdict is old: the keeper is asked before the certificate is let in again


def is_compromise(reason: str) -> bool:
    """Whether a CRLReason (RFC 5280 5.3.1), in any spelling, says that somebody else may hold the key."""
    return reason.replace("_", "").casefold() in _COMPROMISED


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a certificate may be used, and if not why; `warning` says what was accepted only for a while.

    `final` verdicts are never revised. `at_once`: live associations end inside an instance; else the running one finishes.
    """

    fingerprint: str
    good: bool
    reason: str = ""
    warning: str = ""
    final: bool = False
    at_once: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it for a message between processes."""
        return asdict(self)


class VerdictTable:
    """The verdicts that one worker has, and who waits for one. Replaced as a whole by every refresh."""

    def __init__(self, refresh: timedelta, inquire: Callable[[str], None]) -> None:
        """`inquire(fingerprint)` asks for a verdict that is missing; the answer comes with `learn`."""
        self.version = 0
        self._lifetime = refresh * REFRESHES_MISSED
        self._inquire = inquire
        self._verdicts: dict[str, Verdict] = {}
        self._refreshed = datetime.min
        self._waiting: dict[str, list[Answer]] = {}

    def ask(self, fingerprint: str, answer: Answer, *, at: datetime) -> None:
        """Call `answer` with "" or the reason of a refusal: at once when it is known, else when it becomes known."""
        verdict = self._verdicts.get(fingerprint)
        if verdict is not None and (verdict.final or self._is_fresh(at)):
            answer(verdict.reason if not verdict.good else "")
            return
        waiting = self._waiting.setdefault(fingerprint, [])
        waiting.append(answer)
        if len(waiting) == 1:
            self._inquire(fingerprint)

    def learn(self, verdicts: Iterable[Verdict], *, version: int, full: bool, at: datetime) -> list[Verdict]:
        """Take new verdicts; `full` ones replace the table. Returns those that refuse, after those who waited were answered."""
        new = {verdict.fingerprint: verdict for verdict in verdicts}
        self.version = version
        if full or not self._is_fresh(at):
            self._verdicts = new
            self._refreshed = at
        else:
            self._verdicts.update(new)
        for fingerprint, verdict in new.items():
            for answer in self._waiting.pop(fingerprint, ()):
                answer(verdict.reason if not verdict.good else "")
        if full:
            for fingerprint in tuple(self._waiting):  # the keeper may have been restarted before it could answer
                self._inquire(fingerprint)
        return [verdict for verdict in new.values() if not verdict.good]

    def knows(self, fingerprint: str) -> bool:
        """Whether there is a verdict, of any age."""
        return fingerprint in self._verdicts

    def _is_fresh(self, at: datetime) -> bool:
        return self._refreshed != datetime.min and timedelta(0) <= at - self._refreshed <= self._lifetime
