"""Fetching revocation data, issuers and time stamps over HTTP, within narrow limits.

The addresses come from certificates, which anybody may write. So: http and https only; only hosts that are listed or all of whose
addresses are public (a certificate must not make us knock at the hospital's own machines); the checked address is the one connected
to; every redirect is checked again; size and time are capped, per answer and per verdict (the time of the name service by its own
configuration); no cookies, no credentials, no proxies. A host that does not answer is left in peace for half a minute.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from securepacs.errors import Unavailable
from securepacs.trust.cache import DiskCache, Entry

MAX_BYTES = 64 * 1024 * 1024
MAX_REDIRECTS = 3
SECONDS = 15.0
BUDGET_SECONDS = 45.0  # for everything that one verdict needs
MAX_URL_LENGTH = 2048

_REMEMBER_SECONDS = 300.0
_REMEMBER_FAILURE_SECONDS = 30.0
_REMEMBER_ENTRIES = 64
_CHUNK = 64 * 1024
_WHOLE_HOST = b"\0host"


class NoAnswer(Unavailable):
    """Nobody answered at the host at all, so that its other addresses need not be tried for a while."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    until: float
    body: bytes = b""
    problem: Unavailable | None = None


class Fetcher:
    """A small HTTP client that remembers answers for five minutes and failures for half a minute. Safe to share between threads.

    `allowed_hosts` are host names or address literals, in lower case, that may be private, loopback or anything else. `cache` keeps
    what a caller found good (`store`), and failures, between processes.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Iterable[str] = (),
        max_bytes: int = MAX_BYTES,
        seconds: float = SECONDS,
        remember: bool = True,
        cache: DiskCache | None = None,
    ) -> None:
        self.allowed_hosts = frozenset(host.lower().strip("[]") for host in allowed_hosts)
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.cache = cache
        self._remember = remember
        self._memory: OrderedDict[tuple[str, bytes], _Remembered] = OrderedDict()
        self._lock = threading.Lock()
        self._budget = threading.local()

    def is_listed(self, url: str) -> bool:
        """Whether the host of `url` was named by the operator."""
        try:
            return (_split(url).hostname or "") in self.allowed_hosts
        except Unavailable:
            return False

    @contextlib.contextmanager
    def budget(self, seconds: float = BUDGET_SECONDS) -> Iterator[None]:
        """Let everything that this thread fetches inside the block take no longer than `seconds` in all; the outermost counts."""
        if getattr(self._budget, "deadline", None) is not None:
            yield
            return
        self._budget.deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._budget.deadline = None

    def deadline(self) -> float:
        """Return when the next answer must be here: `seconds` from now, or when the budget ends."""
        own = time.monotonic() + self.seconds
        budget: float | None = getattr(self._budget, "deadline", None)
        return own if budget is None else min(own, budget)

    def stored(self, url: str, body: bytes = b"") -> bytes | None:
        """Return what an earlier run found good and stored, and what is not out of date; never asks the network."""
        entry = self.cache.get(url, body) if self.cache else None
        return None if entry is None or entry.problem else entry.body

    def store(self, url: str, body: bytes, answer: bytes, *, until: float) -> None:
        """Keep an answer that was found good, on disk if there is a cache, until a moment (seconds since 1970)."""
        if self.cache:
            self.cache.put(url, body, Entry(answer), until=until)

    def get(self, url: str) -> bytes:
        """Return the body behind `url`; raises Unavailable for everything else than a 200 within the limits."""
        return self._fetch(url, b"", "")

    def post(self, url: str, body: bytes, *, content_type: str) -> bytes:
        """Send `body` and return the answer's body; raises Unavailable like `get`. Redirects of a POST are not followed."""
        return self._fetch(url, body, content_type)

    def _fetch(self, url: str, body: bytes, content_type: str) -> bytes:
        _left(self.deadline())
        found = self._recall((url, body)) or self._recalled_failure(url)
        if found is None:
            try:
                found = _Remembered(time.monotonic() + _REMEMBER_SECONDS, fetch_url(url, body, content_type, fetcher=self))
            except NoAnswer as error:
                found = self._keep_failure(url, error)
            except Unavailable as error:
                found = _Remembered(time.monotonic() + _REMEMBER_FAILURE_SECONDS, problem=error)
            self._keep((url, body), found)
        if found.problem is not None:
            raise Unavailable(found.problem.message, retryable=found.problem.retryable, hint=found.problem.hint)
        return found.body

    def _recalled_failure(self, url: str) -> _Remembered | None:
        """Return the failure of the whole host, from this process or another."""
        origin = _origin(url)
        found = self._recall((origin, _WHOLE_HOST))
        if found is None and self._remember and self.cache:
            entry = self.cache.get(origin, _WHOLE_HOST)
            if entry is not None and entry.problem:
                found = _Remembered(0, problem=Unavailable(entry.problem))
        return found

    def _keep_failure(self, url: str, error: Unavailable) -> _Remembered:
        origin = _origin(url)
        found = _Remembered(time.monotonic() + _REMEMBER_FAILURE_SECONDS, problem=error)
        self._keep((origin, _WHOLE_HOST), found)
        if self._remember and self.cache:
            entry = Entry(problem=error.message)
            self.cache.put(origin, _WHOLE_HOST, entry, until=time.time() + _REMEMBER_FAILURE_SECONDS)
        return found

    def _recall(self, key: tuple[str, bytes]) -> _Remembered | None:
        with self._lock:
            found = self._memory.get(key)
        return found if found is not None and found.until > time.monotonic() else None

    def _keep(self, key: tuple[str, bytes], found: _Remembered) -> None:
        if self._remember:
            with self._lock:
                self._memory[key] = found
                self._memory.move_to_end(key)
                while len(self._memory) > _REMEMBER_ENTRIES:
                    self._memory.popitem(last=False)


def fetch_url(url: str, body: bytes = b"", content_type: str = "", *, fetcher: Fetcher) -> bytes:
    """GET `url`, or POST `body` to it, following redirects of a GET; within the limits of `fetcher`. Raises Unavailable."""
    deadline = fetcher.deadline()
    for _ in range(MAX_REDIRECTS + 1):
        answer = _exchange(url, body, content_type, fetcher, deadline)
        if isinstance(answer, bytes):
            return answer
        if body:
            raise Unavailable(f"{_host(url)} redirects a POST")
        url = urljoin(url, answer.location)
    raise Unavailable(f"{_host(url)}: too many redirects")


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _exchange(url: str, body: bytes, content_type: str, fetcher: Fetcher, deadline: float) -> bytes | _Redirect:
    parts = _split(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    address = _checked_address(host, port, fetcher.allowed_hosts)
    connection = _Connection(host, port, address, tls=parts.scheme == "https", seconds=_left(deadline))
    watchdog = threading.Timer(_left(deadline), connection.abort)  # a server that trickles never runs into the socket's time-out
    watchdog.daemon = True
    watchdog.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "securepacs", "Accept": "*/*", "Connection": "close"} | (
            {"Content-Type": content_type} if body else {}
        )
        connection.request("POST" if body else "GET", target, body=body or None, headers=headers)
        answer = _read(connection.getresponse(), host, fetcher.max_bytes, deadline)
        _left(deadline)  # the end of a connection that the watchdog broke off must not pass for the end of the answer
        return answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        _left(deadline)
        raise Unavailable(f"{host}: no answer: {type(error).__name__}") from error
    finally:
        watchdog.cancel()
        connection.close()


def _read(response: http.client.HTTPResponse, host: str, max_bytes: int, deadline: float) -> bytes | _Redirect:
    if response.status in (301, 302, 303, 307, 308):
        return _Redirect(response.getheader("Location", ""))
    if response.status != 200:
        raise Unavailable(f"{host}: HTTP status {response.status}")
    if response.length is not None and response.length > max_bytes:
        raise Unavailable(f"{host}: the answer has {response.length} bytes, {max_bytes} are allowed")
    collected = bytearray()
    while chunk := response.read(_CHUNK):
        collected += chunk
        if len(collected) > max_bytes:
            raise Unavailable(f"{host}: the answer has more than {max_bytes} bytes")
        _left(deadline)
    if response.length:  # http.client forgives a body that ends early when it is read in pieces
        raise Unavailable(f"{host}: the answer was cut off")
    return bytes(collected)


class _Connection(http.client.HTTPConnection):
    """Connects to the address that was checked, whatever the name resolves to a moment later."""

    def __init__(self, host: str, port: int, address: str, *, tls: bool, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self._address = address
        self._tls = tls
        if tls:
            self.default_port = 443

    def connect(self) -> None:
        """Open the connection, over TLS for https: with the system's roots and the name of the URL."""
        try:
            self.sock = socket.create_connection((self._address, self.port), self.timeout)
        except OSError as error:
            raise NoAnswer(f"{self.host}: no answer: {type(error).__name__}") from error
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def abort(self) -> None:
        """Break off from another thread."""
        sock = self.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # already closed
                return


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_LENGTH or not url.isascii() or any(character <= " " for character in url):
        raise Unavailable("not an address that is fetched", retryable=False)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Unavailable("not an http or https address", retryable=False)
    return parts


def _checked_address(host: str, port: int, allowed_hosts: frozenset[str]) -> str:
    """Return the first address of `host`; Unavailable when it is not listed and any of its addresses is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{host}: the name does not resolve") from error
    addresses = [str(entry[4][0]) for entry in found]
    if host.lower() not in allowed_hosts:
        for address in addresses:
            if not _public(address):
                raise Unavailable(f"{host}: not a public host", retryable=False, hint="list the host to allow it")
    return addresses[0]


def _public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed  # what stands behind an embedded IPv4 address counts
    return parsed.is_global and not parsed.is_multicast


def _left(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise Unavailable("no answer in time")
    return remaining


def _origin(url: str) -> str:
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the server"
