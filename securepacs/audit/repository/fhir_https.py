"""The HTTPS listener of the FHIR service: mutual TLS, HTTP/1.1 by the standard library, strict and bounded.

No handshake runs where it could block another; connections, their idle time, request lines, headers and bodies are bounded.
Requests that are not plain are refused and end their connection. Nothing of a request is ever repeated in an error, or logged.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from securepacs.audit.message import ActiveParticipant
from securepacs.audit.repository.fhir_answer import outcome
from securepacs.audit.repository.fhir_query import MAX_PARAMETERS, NotAcceptable
from securepacs.errors import Unavailable, UsageError

CONTENT_TYPE = "application/fhir+json"
_MAX_BODY = 64 * 1024
_MAX_TARGET = 16 * 1024  # octets of a request target
_STOP_SECONDS = 10.0
_FAREWELL_SECONDS = 1.0  # for the client's own close_notify
_HOST = re.compile(r"[A-Za-z0-9.-]{1,255}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?", flags=re.ASCII)
_ISSUES = {400: "invalid", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported", 503: "transient"}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as records name them; `refusal` says why they may not."""

    address: str
    participant: ActiveParticipant
    refusal: str = ""


class Service(Protocol):
    """What stands behind the listener."""

    def caller(self, der: bytes, address: str) -> Caller:
        """Return who a verified certificate stands for."""
        ...

    def denied(self, caller: Caller) -> None:
        """Record a request of somebody who may not ask."""
        ...

    def refused(self, address: str, error: OSError) -> None:
        """Record a failed handshake."""
        ...

    def tell_due(self) -> None:
        """Record what was only counted so far, when it is time."""
        ...

    def answer(self, path: str, parameters: list[tuple[str, str]], caller: Caller, base: str) -> tuple[int, dict[str, Any]]:
        """Return (HTTP status, resource). Raises UsageError and Unavailable."""
        ...


class HttpsServer(ThreadingHTTPServer):
    """Accepts, and gives each connection a thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        service: Service,
        context: ssl.SSLContext,
        max_connections: int,
        handshake_seconds: float,
        idle_seconds: float,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.service = service
        self.idle_seconds = idle_seconds
        self._context = context
        self._handshake_seconds = handshake_seconds
        self._max_connections = max_connections
        self._free = threading.Semaphore(max_connections)
        self._guard = threading.Lock()
        self._standing: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of the own name that HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def service_actions(self) -> None:
        self.service.tell_due()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread; one too many is closed."""
        if not self._free.acquire(blocking=False):
            _logger.warning("audit fhir: too many connections, one more was refused")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system has no more threads
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands and serve, in the thread of the connection."""
        try:
            tls = self._shaken_hands(request, str(client_address[0]))
            if tls is not None:
                super().process_request_thread(tls, client_address)
        finally:
            with self._guard:
                self._standing.discard(request)
            self._free.release()

    def _shaken_hands(self, plain: socket.socket, address: str) -> ssl.SSLSocket | None:
        with self._guard:
            self._standing.add(plain)
        tls = plain
        try:
            plain.settimeout(self._handshake_seconds)
            tls = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            with self._guard:
                self._standing = (self._standing - {plain}) | {tls}
            tls.do_handshake()
        except (OSError, ValueError) as error:
            self.forget(tls)
            if isinstance(error, OSError):
                try:
                    self.service.refused(address, error)
                except Unavailable as failure:
                    _logger.error("audit fhir: a refusal cannot be recorded: %s", failure)
            return None
        return tls

    def shutdown_request(self, request: Any) -> None:
        """End a connection as TLS wants it, so that its client can tell the end from a cut (RFC 8446 6.1)."""
        if isinstance(request, ssl.SSLSocket):
            with suppress(OSError, ValueError):
                request.settimeout(_FAREWELL_SECONDS)
                request.unwrap()
        with self._guard:
            self._standing.discard(request)
        super().shutdown_request(request)

    def forget(self, connection: socket.socket) -> None:
        """Close a connection that never came to be."""
        with self._guard:
            self._standing.discard(connection)
        connection.close()

    def end_connections(self) -> None:
        """Wake all threads that read, and wait for them; they close their connections."""
        with self._guard:
            standing = list(self._standing)
        for connection in standing:
            try:
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:  # it ended meanwhile
                continue
        for _ in range(self._max_connections):
            if not self._free.acquire(timeout=_STOP_SECONDS):
                _logger.warning("audit fhir: a connection did not end in time")
                return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong, without the request: it may name patients."""
        kind = sys.exc_info()[0]
        _logger.warning("audit fhir: a connection of %s ended: %s", client_address[0], kind.__name__ if kind else "unknown")


class _Handler(BaseHTTPRequestHandler):
    """One connection. Requests that are not plain are refused and end it: what follows them could be read in two ways."""

    protocol_version = "HTTP/1.1"
    server: HttpsServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.idle_seconds)
        connection = cast(ssl.SSLSocket, self.connection)
        self._caller = self.server.service.caller(connection.getpeercert(binary_form=True) or b"", str(self.client_address[0]))

    def parse_request(self) -> bool:
        """Read the head; HTTP/0.9, which has none, is refused."""
        if not super().parse_request():
            return False
        if self.request_version == "HTTP/0.9":
            self.send_error(400)
            return False
        return True

    def do_GET(self) -> None:
        """Answer a search, a read, or the CapabilityStatement."""
        if self._length() != 0:
            self._refuse(400, "a GET request has no body", end=True)
            return
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a search whose parameters are a form: then they stand in no log of any proxy (FHIR 3.1.0.2)."""
        length = self._length()
        kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if length is None or length > _MAX_BODY:
            self._refuse(400, f"a form needs a Content-Length of at most {_MAX_BODY}", end=True)
        elif urlsplit(self.path).path != "/AuditEvent/_search":
            self._refuse(405, "nothing can be created here", end=True)
        elif kind != "application/x-www-form-urlencoded":
            self._refuse(400, "_search takes a form", end=True)
        else:
            self._serve(self.rfile.read(length))

    def _method_not_allowed(self) -> None:
        self._refuse(405, "only GET, and POST to _search", end=True)

    do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _method_not_allowed

    def _length(self) -> int | None:
        """Return the length of the body, None when it cannot be told for sure."""
        lengths = self.headers.get_all("Content-Length") or []
        if self.headers.get_all("Transfer-Encoding") or len(lengths) > 1:
            return None
        return int(lengths[0]) if lengths and re.fullmatch(r"[0-9]{1,9}", lengths[0]) else (None if lengths else 0)

    def _serve(self, form: bytes) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or len(self.path) > _MAX_TARGET or not self.path.startswith("/"):
            self._refuse(400, "the request needs one Host and a target of reasonable length", end=True)
            return
        service, target = self.server.service, urlsplit(self.path)
        try:
            if self._caller.refusal:
                service.denied(self._caller)
                self._refuse(403, "only auditors may search the audit trail")
                return
            parameters = [pair for text in (target.query, form.decode("utf-8")) for pair in _parameters(text)]
            if not _accepts_json(self.headers.get("Accept")):
                raise NotAcceptable("only application/fhir+json can be had")
            status, resource = service.answer(target.path, parameters, self._caller, f"https://{hosts[0]}")
        except NotAcceptable as error:
            self._refuse(406, str(error))
        except UsageError as error:
            self._refuse(400, f"{error} ({error.hint})" if error.hint else str(error))
        except UnicodeDecodeError:
            self._refuse(400, "the form is not UTF-8")
        except Unavailable:
            self._refuse(503, "the repository cannot answer now", end=True)
        else:
            self._send(status, resource)

    def _refuse(self, status: int, text: str, *, end: bool = False) -> None:
        self.close_connection = self.close_connection or end
        self._send(status, outcome("error", _ISSUES.get(status, "processing"), text))

    def _send(self, status: int, resource: dict[str, Any]) -> None:
        content = json.dumps(resource, ensure_ascii=False, allow_nan=False).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", f"{CONTENT_TYPE}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what BaseHTTPRequestHandler refuses by itself; its own texts would repeat the request."""
        self.command, self.request_version = self.command or "", self.protocol_version  # an answer without a head is none
        self._refuse(int(code), "the request cannot be read", end=True)

    def version_string(self) -> str:
        """Say nothing of versions."""
        return "securepacs"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: request lines name patients, and every search is in the trail."""


def _parameters(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError:
        raise UsageError("the query is not UTF-8") from None
    except ValueError:
        raise UsageError("the query has too many parameters") from None


def _accepts_json(accept: str | None) -> bool:
    kinds = [each.partition(";")[0].strip().lower() for each in (accept or "*/*").split(",")]
    return any(kind in ("*/*", "application/*", "application/json", CONTENT_TYPE) for kind in kinds)
