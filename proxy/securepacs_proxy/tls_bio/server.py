"""The server's end of one TLS connection, without a socket."""

from __future__ import annotations

from cryptography import x509
from OpenSSL import SSL

from securepacs_proxy.tls_bio.buffers import Buffers, PublicReader, Reader
from securepacs_proxy.tls_bio.native import PRIVATE_API_AVAILABLE, PrivateReader
from securepacs_proxy.tls_bio.reasons import OPENING_LENGTH, HandshakeRefused, Verdict, reason_of, refusal


class TlsServer:
    """The server's end of one TLS connection over memory BIOs.

    Order of use: `feed` what arrived, `handshake` until it returns True, then `read` until it returns less than a full buffer, and
    `settle` before the memory that was fed is used again; send `pull` until it is empty after each step. `ended` is None
    while the peer may still send, "" after its close_notify, else the reason why the stream broke. `peer_certificate` is what the
    peer proved to own, known when the handshake is complete.
    """

    def __init__(self, context: SSL.Context, buffers: Buffers, *, private_api: bool = PRIVATE_API_AVAILABLE) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_accept_state()
        self._verdicts: list[Verdict] = []
        self._connection.set_app_data(self._verdicts)
        self._reader: Reader = (PrivateReader if private_api else PublicReader)(self._connection, buffers)
        self._plain_view = buffers.plain_view
        self._opening = b""
        self.peer_certificate: x509.Certificate | None = None
        self.established = False
        self.ended: str | None = None

    def feed(self, data: memoryview | bytes) -> None:
        """Take bytes from the network. After the handshake they must stay as they are until `settle`."""
        if not self.established and len(self._opening) < OPENING_LENGTH:
            self._opening += bytes(data[: OPENING_LENGTH - len(self._opening)])
        self._reader.feed(data, lend=self.established)

    def settle(self) -> None:
        """Copy what was fed and has not been read: its memory is about to be used again."""
        self._reader.settle()

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is complete. Raises HandshakeRefused; an alert may then wait in `pull`."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise refusal(self._verdicts, self._opening, error) from None
        self.peer_certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if self.peer_certificate is None:
            raise HandshakeRefused("no certificate was shown")
        self.established = True
        return True

    def read(self) -> memoryview:
        """Decrypt into the shared buffer; empty when nothing is complete. Sets `ended`."""
        if self.ended is not None:
            return self._plain_view[:0]
        count, self.ended = self._reader.read()
        return self._plain_view[:count]

    def write(self, data: memoryview | bytes) -> None:
        """Encrypt; the records wait in `pull`. The data is consumed before this returns."""
        if len(data) and not self.ended:
            try:
                self._connection.sendall(data)
            except SSL.Error as error:  # the stream broke before; the peer cannot be told anything
                self.ended = reason_of(error) or "TLS stream broken"

    def pull(self) -> memoryview | bytes:
        """Return bytes for the network, at most one shared buffer at a time; empty when there are none."""
        return self._reader.pull()

    def close_notify(self) -> None:
        """Say that nothing more will be sent; harmless when the stream is already broken."""
        try:
            self._connection.shutdown()
        except SSL.Error:  # the handshake never ended or the stream is broken: there is no one to tell
            return

    @property
    def peer_chain(self) -> tuple[x509.Certificate, ...]:
        """The path OpenSSL built and verified, above the peer's certificate, nearest first."""
        return tuple(self._connection.get_verified_chain(as_cryptography=True) or ())[1:]

    @property
    def version(self) -> str:
        """The negotiated protocol, such as `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """The negotiated cipher suite by OpenSSL's name."""
        return self._connection.get_cipher_name() or ""

    @property
    def application_protocol(self) -> str:
        """The ALPN protocol: `dicom`, `securepacs-reverse`, or empty."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii", "replace")
