"""Publishing a CA over HTTP: CRLs and certificates to GET, the OCSP responder (RFC 6960 A.1) and the TSA (RFC 3161 3.4) to POST.

    GET  /crl/issuing.crl  /crl/root.crl  /ca/issuing.cer  /ca/root.cer  /ocsp/{base64 request}
    POST /ocsp  /tsa

Plain HTTP, because what is published is signed. Loopback by default. Sizes, times and the number of connections are bounded.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import ConfigError, UsageError
from securepacs.pki import ocsp, tsa
from securepacs.pki.authority import CertificateAuthority, Register
from securepacs.pki.profiles import CertificateProfile
from securepacs.pki.storage import REGISTER, load_register
from securepacs.tokens.credential import Credential

MAX_CONNECTIONS = 64
SECONDS_PER_REQUEST = 10
CRL_REFRESH = timedelta(hours=1)
RESPONDER_RENEWAL = timedelta(days=3)

Clock = Callable[[], datetime]


class Service(StrEnum):
    """What a server can offer; the issuing CA's certificate and CRLs go with OCSP."""

    REVOCATION = "revocation"
    TIMESTAMPS = "timestamps"


ALL_SERVICES = frozenset(Service)


def _now() -> datetime:
    return datetime.now(UTC)


class Publisher:
    """What the server answers with, apart from HTTP. Safe for several threads.

    With `folder` the register is read again whenever its file changed, so that a revocation made by another process counts at once.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        *,
        clock: Clock = _now,
        folder: Path | None = None,
        timestamp_credential: Credential | None = None,
        services: frozenset[Service] = ALL_SERVICES,
    ) -> None:
        self.services = services
        self._authority = authority
        self._clock = clock
        self._folder = folder
        self._lock = threading.Lock()
        self._register_version: tuple[int, int] | None = None
        self._crls: dict[str, tuple[x509.CertificateRevocationList, frozenset[int]]] = {}
        self._responder: Credential | None = None
        self._tsa: tsa.TimestampAuthority | None = None
        if Service.TIMESTAMPS in services:
            self._tsa = tsa.TimestampAuthority(timestamp_credential or issue_timestamp_credential(authority, at=clock()))

    def ocsp(self, request: bytes) -> bytes:
        """Answer an OCSP request, with a responder certificate that is renewed in time."""
        now = self._clock()
        with self._lock:
            register = self._current_register()
            responder = self._responder
            if responder is None or responder.certificate.not_valid_after_utc - now < RESPONDER_RENEWAL:
                responder = self._authority.issue_credential(
                    CertificateProfile.OCSP_RESPONDER, common_name=f"{self._authority.name[:40]} OCSP", at=now, key_kind="p256"
                )
                self._responder = responder
        return ocsp.OcspResponder(self._authority.issuing, responder, lambda: register).respond(request, at=now)

    def tsa(self, request: bytes) -> bytes:
        """Answer a time stamp request with the time of the clock; UsageError when this publisher does not stamp."""
        if self._tsa is None:
            raise UsageError("this publisher has no time stamp authority")
        return self._tsa.respond(request, at=self._clock())

    def crl(self, name: str) -> bytes:
        """Return the DER of the `issuing` or the `root` CRL; signed anew when a certificate was revoked, and every hour."""
        now = self._clock()
        with self._lock:
            revoked = frozenset(self._current_register().revoked)
            known = self._crls.get(name)
            if known is None or known[1] != revoked or not timedelta(0) <= now - known[0].last_update_utc < CRL_REFRESH:
                signed = self._authority.crl(at=now) if name == "issuing" else self._authority.root_crl(at=now)
                known = self._crls[name] = (signed, revoked)
        return known[0].public_bytes(Encoding.DER)

    def certificate(self, name: str) -> bytes:
        """Return the DER of the `issuing` or the `root` certificate."""
        return (self._authority.issuing if name == "issuing" else self._authority.root).public_bytes(Encoding.DER)

    def _current_register(self) -> Register:
        if self._folder is not None:
            status = (self._folder / REGISTER).stat()
            version = (status.st_mtime_ns, status.st_ino)
            if version != self._register_version:
                self._authority.register = load_register(self._folder)
                self._register_version = version
        return self._authority.register


class PkiServer:
    """A running server; a context manager that stops it."""

    def __init__(self, publisher: Publisher, *, host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._server = _Server((host, port), publisher)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}", key="port") from error
        self._host = host
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="securepacs-pki", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The address without a trailing slash: the `base_url` of a CA that is published here."""
        return f"http://{self._host}:{self.port}"

    def stop(self) -> None:
        """Stop listening and wait for the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def issue_timestamp_credential(authority: CertificateAuthority, *, at: datetime) -> Credential:
    """Issue the credential of a time stamp authority named after the CA."""
    name = f"{authority.name[:40]} TSA"
    return authority.issue_credential(CertificateProfile.TIMESTAMP_AUTHORITY, common_name=name, at=at, key_kind="p256")


def serve(
    authority: CertificateAuthority,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Clock = _now,
    folder: Path | None = None,
    timestamp_credential: Credential | None = None,
    services: frozenset[Service] = ALL_SERVICES,
) -> PkiServer:
    """Publish `authority` on `host` and `port` (0: any free one) until the returned context manager ends.

    Keys for OCSP and time stamps are made for this run and never written. Raises ConfigError when the port is taken.
    """
    publisher = Publisher(authority, clock=clock, folder=folder, timestamp_credential=timestamp_credential, services=services)
    return PkiServer(publisher, host=host, port=port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], publisher: Publisher) -> None:
        self.publisher = publisher
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # The time-out of the handler starts anew with every byte; this one ends a client that trickles.
        watchdog = threading.Timer(SECONDS_PER_REQUEST, _abort, (request,))
        watchdog.daemon = True
        watchdog.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            watchdog.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback on stderr; everything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _abort(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already closed
        connection.shutdown(socket.SHUT_RDWR)


_GET: dict[str, tuple[str, Callable[[Publisher], bytes]]] = {
    "/crl/issuing.crl": ("application/pkix-crl", lambda publisher: publisher.crl("issuing")),
    "/crl/root.crl": ("application/pkix-crl", lambda publisher: publisher.crl("root")),
    "/ca/issuing.cer": ("application/pkix-cert", lambda publisher: publisher.certificate("issuing")),
    "/ca/root.cer": ("application/pkix-cert", lambda publisher: publisher.certificate("root")),
}
_POST: dict[str, tuple[Service, str, str, int, Callable[[Publisher, bytes], bytes]]] = {
    "/ocsp": (Service.REVOCATION, "application/ocsp-request", "application/ocsp-response", ocsp.MAX_REQUEST_BYTES, Publisher.ocsp),
    "/tsa": (
        Service.TIMESTAMPS,
        "application/timestamp-query",
        "application/timestamp-reply",
        tsa.MAX_REQUEST_BYTES,
        Publisher.tsa,
    ),
}


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "securepacs"
    sys_version = ""
    timeout = SECONDS_PER_REQUEST

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if Service.REVOCATION not in self.server.publisher.services:
            self.send_error(404)
        elif path in _GET:
            content_type, answer = _GET[path]
            try:
                body = answer(self.server.publisher)
            except UsageError:  # the CRL of an external root is published by whoever runs that
                self.send_error(404)
                return
            self._send(content_type, body)
        elif path.startswith("/ocsp/") and len(path) <= 2 * ocsp.MAX_REQUEST_BYTES:
            try:
                request = base64.b64decode(unquote(path.removeprefix("/ocsp/")), validate=True)
            except (binascii.Error, ValueError):
                self.send_error(400)
                return
            self._send("application/ocsp-response", self.server.publisher.ocsp(request))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        known = _POST.get(urlsplit(self.path).path)
        if known is None or known[0] not in self.server.publisher.services:
            self.send_error(404)
            return
        _, wanted, answered, limit, respond = known
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.send_error(411)
        elif int(length) > limit:
            self.send_error(413)
        elif self.headers.get_content_type() != wanted:
            self.send_error(415)
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                self._send(answered, respond(self.server.publisher, body))

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: stderr belongs to the program that serves."""

    def _send(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
