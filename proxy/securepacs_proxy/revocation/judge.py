"""From a certificate and what can be learned about it to a verdict; and the list of certificates to look at again and again.

Two looks, because a list at hand that says "good" ends the search before anybody is asked:
1. with what the network gives alone, which is the newest; 2. with the lists at hand, and the network where they say nothing.
Revoked in either: revoked. Else one of them must give an answer for every certificate of the path.
Old data count only for a certificate that was found good before, and only within its window; never for one seen first.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import SecurePacsError
from securepacs.policy.subject import SubjectKind
from securepacs.trust import PathResult, Purpose, SubIndication, TrustPolicy, validate
from securepacs.trust.fetch import Fetcher
from securepacs.trust.policy import WARNING_REVOCATION_STALE, WARNING_REVOCATION_UNCHECKED
from securepacs_proxy.config import RevocationSection
from securepacs_proxy.revocation.verdicts import Verdict, is_compromise

_log = logging.getLogger(__name__)
MAX_WATCHED = 20_000
_UNSEEN_DAYS = 7
UNCHECKED = "no revocation list is at hand and the certificate names neither list nor OCSP responder"


@dataclass(slots=True)
class Watched:
    """One certificate with the path that came with it; `known_good`: found good at least once; `serves`: of a destination."""

    fingerprint: str
    kind: SubjectKind
    chain: tuple[x509.Certificate, ...]
    seen: datetime
    known_good: bool = False
    verdict: Verdict | None = None
    serves: bool = False


@dataclass(frozen=True)
class _Policy(TrustPolicy):
    """A trust policy that fetches through the keeper of answers."""

    source: Fetcher | None = None

    @property
    def fetcher(self) -> Fetcher:
        """The keeper's."""
        return self.source or Fetcher()


class Judge:
    """Gives verdicts. Thread-safe: everything but the arguments is constant."""

    def __init__(
        self,
        section: RevocationSection,
        *,
        anchors: Sequence[x509.Certificate],
        server_anchors: Sequence[x509.Certificate] = (),
        crls: Sequence[x509.CertificateRevocationList],
        fetcher: Fetcher,
    ) -> None:
        self._section = section
        # who may vouch for a destination need not be believed about a peer
        self._anchors = {False: tuple(dict.fromkeys(anchors)), True: tuple(dict.fromkeys(server_anchors))}
        self._crls = tuple(crls)
        self._fetcher = fetcher
        self._grace = {
            SubjectKind.PERSON: timedelta(hours=section.person_grace_hours),
            SubjectKind.DEVICE: timedelta(hours=section.device_grace_hours),
        }

    def judge(self, watched: Watched, *, at: datetime) -> Verdict:
        """Return the verdict as of `at`; may take as long as the network does. Never raises for a bad certificate."""
        if watched.verdict is not None and watched.verdict.final:
            return watched.verdict
        grace = self._grace[watched.kind] if watched.known_good else timedelta(0)
        results = []
        if self._section.online and self._crls:
            results.append(self._look(watched, (), grace, at))
        results.append(self._look(watched, self._crls, grace, at))
        return self._sum(watched.fingerprint, results)

    def _look(
        self, watched: Watched, crls: tuple[x509.CertificateRevocationList, ...], grace: timedelta, at: datetime
    ) -> PathResult:
        anchors, purpose = self._anchors[watched.serves], Purpose.TLS_SERVER if watched.serves else Purpose.TLS_CLIENT
        policy = _Policy(anchors=anchors, crls=crls, online=self._section.online, revocation_grace=grace, source=self._fetcher)
        return validate(watched.chain[0], policy=policy, at=at, purpose=purpose, extra=watched.chain[1:])

    def _sum(self, fingerprint: str, results: Sequence[PathResult]) -> Verdict:
        for result in results:
            if result.sub_indication == SubIndication.REVOKED:
                code = result.detail.rpartition("(")[2].rstrip(")")
                at_once = is_compromise(code) or not result.detail.startswith("the certificate ")
                held = code.replace("_", "").casefold() == "certificatehold"
                return Verdict(fingerprint, False, result.detail, final=not held, at_once=at_once)
        passed = [result for result in results if result.passed]
        checked = [result for result in passed if WARNING_REVOCATION_UNCHECKED not in result.warnings or _is_anchor(result)]
        fresh = [result for result in checked if WARNING_REVOCATION_STALE not in result.warnings]
        if fresh:
            return Verdict(fingerprint, True)
        if checked:
            return Verdict(fingerprint, True, warning="accepted on revocation data that have run out")
        if len(passed) == len(results):
            if self._section.unsafe_accept_unchecked:
                return Verdict(fingerprint, True, warning=UNCHECKED)
            return Verdict(fingerprint, False, UNCHECKED)
        failed = next(result for result in reversed(results) if not result.passed)
        unknown = "its revocation status is not known: " if failed.sub_indication == SubIndication.TRY_LATER else ""
        return Verdict(fingerprint, False, f"{unknown}{failed.detail}")


def _is_anchor(result: PathResult) -> bool:
    """Directly trusted (ITI-19): its issuer has no say; to take it out of `trust` is its revocation."""
    return len(result.chain) == 1


class WatchList:
    """The certificates seen lately, on disk between runs. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._rows: dict[str, Watched] = {}
        with contextlib.suppress(FileNotFoundError):
            self._load(path.read_text(encoding="utf-8"))

    def see(
        self, kind: SubjectKind, chain: tuple[x509.Certificate, ...], fingerprint: str, *, at: datetime, serves: bool = False
    ) -> Watched:
        """Return the row of a certificate, new when it was never seen."""
        with self._lock:
            row = self._rows.get(fingerprint)
            if row is None:
                row = self._rows[fingerprint] = Watched(fingerprint, kind, chain, at, serves=serves)
            row.kind, row.seen = kind, at
            return row

    def seen_again(self, fingerprints: Sequence[str], *, at: datetime) -> None:
        """Note which certificates are in use."""
        with self._lock:
            for fingerprint in fingerprints:
                if fingerprint in self._rows:
                    self._rows[fingerprint].seen = at

    def rows(self, *, at: datetime) -> list[Watched]:
        """Return those to look at now; who was not seen for a week is forgotten, and the longest unseen when there are too many."""
        with self._lock:
            kept = [row for row in self._rows.values() if at - row.seen < timedelta(days=_UNSEEN_DAYS)]
            kept = sorted(kept, key=lambda row: row.seen, reverse=True)[:MAX_WATCHED]
            self._rows = {row.fingerprint: row for row in kept}
            return kept

    def save(self) -> None:
        """Write the list, for its owner only; a failure is logged, and costs the windows of old data after the next start."""
        with self._lock:
            rows = [_to_json(row) for row in self._rows.values()]
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".writing-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(rows, file)
            Path(temporary).replace(self._path)
        except OSError as error:
            _log.error("the list of known certificates cannot be written: %s", error.strerror)

    def _load(self, text: str) -> None:
        try:
            rows = [_from_json(row) for row in json.loads(text)]
        except (ValueError, KeyError, TypeError, SecurePacsError) as error:
            _log.error("the list of known certificates cannot be read (%s): all are first-seen again", type(error).__name__)
            return
        self._rows = {row.fingerprint: row for row in rows}


def _to_json(row: Watched) -> dict[str, object]:
    verdict = row.verdict.to_dict() if row.verdict is not None and row.verdict.final else None
    return {
        "fingerprint": row.fingerprint,
        "kind": row.kind.value,
        "chain": encode_chain(row.chain),
        "seen": row.seen.isoformat(),
        "known_good": row.known_good,
        "serves": row.serves,
        "verdict": verdict,
    }


def _from_json(row: dict[str, object]) -> Watched:
    verdict, chain = row["verdict"], row["chain"]
    if not isinstance(chain, list):
        raise TypeError("chain")
    return Watched(
        str(row["fingerprint"]),
        SubjectKind(str(row["kind"])),
        decode_chain(chain),
        datetime.fromisoformat(str(row["seen"])),
        bool(row["known_good"]),
        Verdict(**verdict) if isinstance(verdict, dict) else None,
        bool(row.get("serves")),
    )


def encode_chain(chain: Sequence[x509.Certificate]) -> list[str]:
    """Return certificates as text for a message between processes."""
    return [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii") for certificate in chain]


def decode_chain(texts: Sequence[str]) -> tuple[x509.Certificate, ...]:
    """Return the certificates of `encode_chain`."""
    return tuple(x509.load_der_x509_certificate(base64.b64decode(text)) for text in texts)
