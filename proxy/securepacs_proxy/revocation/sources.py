"""Where revocation data come from: the network once a refresh, and the disk when the network gives nothing.

What arrives is kept only if it can be read as what was asked for: the login page of some other box must not replace a CRL.
Trust comes from signatures alone, which `securepacs.trust` checks at every use.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from securepacs.errors import ConfigError, Unavailable
from securepacs.trust.fetch import Fetcher
from securepacs.trust.files import parse_certificates, parse_crls
from securepacs.trust.ocsp import build_request, ocsp_status
from securepacs.trust.status import Outcome

ANSWER_SECONDS = 5.0  # the peer of a first-seen certificate waits for it
_KEEP_SECONDS = 60 * 86_400.0
_SUFFIX = ".answer"


@dataclass(frozen=True, slots=True)
class _Held:
    generation: int
    body: bytes | None
    problem: str = ""


class KeepingFetcher(Fetcher):
    """Asks every address once in each generation; between them, and when nobody answers, gives what it has. Thread-safe.

    `alarm(text, bad)` is called when an address begins to fail, and with `bad` False when it answers again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allowed_hosts: Iterable[str],
        ocsp: bool,
        alarm: Callable[[str, bool], None],
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        super().__init__(allowed_hosts=allowed_hosts, seconds=seconds, remember=False)
        self._folder = folder
        self._ocsp = ocsp
        self._alarm = alarm
        self._generation = 0
        self._held: dict[tuple[str, bytes], _Held] = {}
        self._locks: dict[tuple[str, bytes], threading.Lock] = {}
        self._failing: set[str] = set()
        self._guard = threading.Lock()
        self._forget_old()

    def next_generation(self) -> None:
        """From now on every address is asked again."""
        with self._guard:
            self._held = {key: held for key, held in self._held.items() if held.generation == self._generation}
            self._locks = {key: lock for key, lock in self._locks.items() if key in self._held or lock.locked()}
            self._generation += 1

    def get(self, url: str) -> bytes:
        """Return the CRL or certificate behind `url`. Raises Unavailable when there is none, old or new."""
        return self._current(url, b"", lambda: super(KeepingFetcher, self).get(url))

    def post(self, url: str, body: bytes, *, content_type: str) -> bytes:
        """Return the OCSP answer to `body`. Raises Unavailable like `get`, and always when OCSP is switched off."""
        if not self._ocsp:
            raise Unavailable("OCSP is switched off", retryable=False)
        return self._current(url, body, lambda: super(KeepingFetcher, self).post(url, body, content_type=content_type))

    def _current(self, url: str, body: bytes, fetch: Callable[[], bytes]) -> bytes:
        key = (url, body)
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            held = self._held.get(key)
            if held is None or held.generation != self._generation:
                held = self._held[key] = self._ask(url, body, fetch, self._generation)
        if held.body is None:
            raise Unavailable(held.problem)
        return held.body

    def _ask(self, url: str, body: bytes, fetch: Callable[[], bytes], generation: int) -> _Held:
        path = self._folder / (hashlib.sha256(url.encode("utf-8", "replace") + b"\0" + body).hexdigest() + _SUFFIX)
        try:
            answer = fetch()
            _check_readable(url, answer, is_ocsp=bool(body))
        except Unavailable as error:
            self._note(url, error.message)
            try:
                return _Held(generation, path.read_bytes(), error.message)
            except OSError:
                return _Held(generation, None, error.message)
        self._note(url, "")
        with contextlib.suppress(OSError):  # a full disk costs the safety net, not the answer
            _write(path, answer)
        return _Held(generation, answer)

    def _note(self, url: str, problem: str) -> None:
        with self._guard:
            failed_before = url in self._failing
            (self._failing.add if problem else self._failing.discard)(url)
        if bool(problem) != failed_before:
            where = urlsplit(url)
            place = f"{where.scheme}://{where.netloc}{where.path}"[:200]
            self._alarm(
                f"no revocation data from {place}: {problem}; what is known counts within its window"
                if problem
                else f"{place} gives revocation data again",
                bool(problem),
            )

    def _forget_old(self) -> None:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _KEEP_SECONDS:
                    path.unlink()


def own_status(certificate: x509.Certificate, issuer: x509.Certificate, fetcher: Fetcher, *, at: datetime) -> bytes:
    """Return an OCSP answer that says "good" about a certificate (RFC 6960), b"" when its responder gives none."""
    request = build_request(certificate, issuer)
    for url in _responders(certificate):
        with contextlib.suppress(Unavailable):
            answer = fetcher.post(url, request, content_type="application/ocsp-request")
            if ocsp_status(answer, certificate, issuer, at=at).outcome is Outcome.GOOD:
                return answer
    return b""


def _responders(certificate: x509.Certificate) -> list[str]:
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return []
    locations = [entry.access_location for entry in access if entry.access_method == AuthorityInformationAccessOID.OCSP]
    return [name.value for name in locations if isinstance(name, x509.UniformResourceIdentifier)]


def _check_readable(url: str, answer: bytes, *, is_ocsp: bool) -> None:
    """Raise Unavailable unless the bytes are an OCSP answer, or a CRL, or a certificate."""
    host = urlsplit(url).hostname or ""
    if is_ocsp:
        try:
            status = ocsp.load_der_ocsp_response(answer).response_status
        except ValueError:
            raise Unavailable(f"{host} answers with something else than OCSP") from None
        if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Unavailable(f"{host}: the OCSP responder said {status.name.lower()}")
        return
    for parse in (parse_crls, parse_certificates):
        with contextlib.suppress(ConfigError):
            parse(answer, host)
            return
    raise Unavailable(f"{host} answers with something else than a CRL")


def _write(path: Path, content: bytes) -> None:
    """Put a whole file in its place, for its owner only."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
