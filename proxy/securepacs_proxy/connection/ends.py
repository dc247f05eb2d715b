"""The two ends of a relayed connection as asyncio protocols: TLS outside, plain TCP toward the archive.

Rules of this file:
1. What arrives is consumed before control returns to the loop, so all connections of a process share one set of buffers.
2. A view into a shared buffer is written to the socket at once and only the rest is copied: from Python 3.12 on asyncio keeps a
   reference to a memoryview, and the buffer would have changed by the time it is sent.
3. TCP_NODELAY is set by hand (asyncio does it only for sockets made with IPPROTO_TCP) and TCP_QUICKACK after every read that
   empties the socket (the kernel forgets it): without both, stock senders stall 40 ms per message.
4. Closing is graceful: flush, close_notify, FIN, then read and throw away until the peer closes too, because closing a socket with
   unread input sends RST and destroys the refusal that was just written.
"""

from __future__ import annotations

import asyncio
import os
import socket
from enum import Flag, auto
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL

from securepacs_proxy.events import Side
from securepacs_proxy.tls_bio import Buffers, HandshakeRefused, TlsServer

WRITE_LIMIT = 8 * 1024 * 1024
LINGER_SECONDS = 5.0
_KEEP_ALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only


class Hold(Flag):
    """Why an end is not read at the moment."""

    OTHER_SIDE_IS_SLOW = auto()
    COMMANDS_WAIT = auto()
    NOT_READY = auto()


class Owner(Protocol):
    """What an end reports to."""

    def on_opened(self, host: str, port: int) -> None: ...

    def on_established(self, tls: TlsServer) -> None: ...

    def on_handshake_failed(self, reason: str, claimed: str) -> None: ...

    def on_data(self, side: Side, data: memoryview) -> None: ...

    def on_ended(self, side: Side, reason: str) -> None: ...

    def on_writable(self, side: Side, writable: bool) -> None: ...

    def on_lost(self, side: Side) -> None: ...


class End(asyncio.BufferedProtocol):
    """One socket with graceful close, counted holds on reading and bounded writing; sends and receives plain bytes."""

    # Nothing more is read while anything waits to be written: what waits was copied, and all that followed would be copied, too.
    high_water = 0

    def __init__(self, side: Side, owner: Owner, buffers: Buffers) -> None:
        self.side = side
        self.closing = False
        self.lost = False
        self.chain: tuple[x509.Certificate, ...] = ()  # what was verified, of a destination that is called with TLS
        self._owner = owner
        self._buffers = buffers
        self._holds = Hold(0)
        self._ended = False
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None  # asyncio's view of it, good for options and the descriptor only
        self._quickack: int | None = None
        self._fault = ""
        self._linger: asyncio.TimerHandle | None = None

    # --- what asyncio calls ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket and set its options."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a relayed connection needs a stream socket")
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        if self._socket.family != socket.AF_UNIX:  # within the gateway
            self._quickack = _QUICKACK
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        transport.set_write_buffer_limits(high=self.high_water)
        if self._holds:
            transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer for one read."""
        return self._buffers.arrived_view

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read, or drop it when this end is being closed."""
        # a full buffer has more behind it, and that read will ask
        if self._quickack is not None and self._socket is not None and nbytes < len(self._buffers.arrived):
            self._socket.setsockopt(socket.IPPROTO_TCP, self._quickack, 1)
        if not self.closing:
            self._received(self._buffers.arrived_view[:nbytes])

    def eof_received(self) -> bool:
        """Note the end of input; returning True keeps the socket open for the answer."""
        self._report_end(self._eof_reason())
        if self.closing and self._transport is not None:
            self._transport.close()
        return True

    def pause_writing(self) -> None:
        """Tell the owner that this end takes no more at the moment."""
        self._owner.on_writable(self.side, False)

    def resume_writing(self) -> None:
        """Tell the owner that this end takes data again."""
        self._owner.on_writable(self.side, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the socket, once."""
        if self._linger is not None:
            self._linger.cancel()
        self.lost = True
        broken = f"connection broken: {os.strerror(exc.errno)}" if isinstance(exc, OSError) and exc.errno else "connection closed"
        self._report_end(self._fault or broken)
        self._owner.on_lost(self.side)

    # --- what the owner calls -------------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        """Write to the peer; a view may be reused when this returns."""
        self._write(data)

    def keep_alive(self) -> None:
        """Notice soon when the peer of a silent connection is gone."""
        if self._socket is not None:
            keep_alive(self._socket)

    def hold(self, why: Hold) -> None:
        """Stop reading until every hold is released."""
        self._holds |= why
        if self._transport is not None and not self.closing:
            self._transport.pause_reading()

    def release(self, why: Hold) -> None:
        """Take one hold away."""
        if not self._holds & why:
            return
        self._holds &= ~why
        if not self._holds and self._transport is not None:
            self._transport.resume_reading()
            self._resumed()

    def close(self) -> None:
        """Close after everything written has left; input is thrown away from now on."""
        transport = self._transport
        if self.closing or transport is None:
            return
        self._farewell()
        self.closing = True
        if self._ended or transport.is_closing():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # the peer reset the connection, which the event loop has not noticed yet
            transport.abort()
            return
        transport.resume_reading()
        self._linger_on(transport, transport.get_write_buffer_size())

    def abort(self) -> None:
        """Close at once; nothing more is flushed."""
        self.closing = True
        if self._transport is not None:
            self._transport.abort()

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _received(self, data: memoryview) -> None:
        self._owner.on_data(self.side, data)

    def _resumed(self) -> None:
        """Go on after a hold; plain TCP has nothing waiting in memory."""

    def _farewell(self) -> None:
        """Say goodbye in the protocol of this end; plain TCP has no word for it."""

    def _eof_reason(self) -> str:
        return ""

    def _report_end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            if not self.closing:
                self._owner.on_ended(self.side, reason)

    def _write(self, data: bytes | memoryview) -> None:
        transport, sock = self._transport, self._socket
        # is_closing comes first: a closed descriptor number may already belong to the socket of somebody else
        if transport is None or sock is None or self.closing or transport.is_closing():
            return
        if isinstance(data, memoryview):
            if not transport.get_write_buffer_size():
                data = data[_send_now(sock.fileno(), data) :]
            data = bytes(data)
        if data:
            transport.write(data)
            if transport.get_write_buffer_size() > WRITE_LIMIT:
                self._fault = "does not read what it asked for"
                transport.abort()

    def _linger_on(self, transport: asyncio.Transport, waiting: int) -> None:
        """Give up when nothing has left for LINGER_SECONDS."""

        def check() -> None:
            left = transport.get_write_buffer_size()
            if left and left < waiting:
                self._linger_on(transport, left)
            else:
                transport.abort()

        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, check)


class TlsEnd(End):
    """The outside end: TLS over memory BIOs on a raw TCP socket."""

    def __init__(self, owner: Owner, buffers: Buffers, context: SSL.Context, *, private_api: bool | None = None) -> None:
        super().__init__(Side.REQUESTOR, owner, buffers)
        self._full = len(buffers.plain)
        self.tls = TlsServer(context, buffers) if private_api is None else TlsServer(context, buffers, private_api=private_api)
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket and report who called."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername") or ("", 0)  # a caller that is gone again has no name
        self._owner.on_opened(str(name[0]), int(name[1]))

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt and write; nothing is sent in clear when the handshake is not complete."""
        if self.tls.established and not self.closing:
            self.tls.write(data)
            self._flush()

    def _received(self, data: memoryview) -> None:
        if self._refused:
            return
        self.tls.feed(data)
        if self.tls.established or self._handshake():
            self._pump()
            self.tls.settle()

    def _handshake(self) -> bool:
        try:
            complete = self.tls.handshake()
        except HandshakeRefused as refusal:
            self._refused = True
            self._flush()
            self._owner.on_handshake_failed(refusal.message, refusal.claimed)
            return False
        self._flush()
        if complete:
            self._owner.on_established(self.tls)
        return complete

    def _pump(self) -> None:
        """Decrypt and pass on until nothing is left or somebody asks for a pause."""
        while not self._holds and not self.closing and not self._ended:
            data = self.tls.read()
            if data:
                self._owner.on_data(self.side, data)
            if self.tls.ended is not None:
                self._flush()
                self._report_end(f"TLS: {self.tls.ended}" if self.tls.ended else "")
            elif len(data) < self._full:
                break
        self._flush()  # answers of TLS itself, such as a key update

    def _resumed(self) -> None:
        # not at once: the owner may be in the middle of executing commands that look into the shared buffers
        asyncio.get_running_loop().call_soon(self._pump_if_established)

    def _pump_if_established(self) -> None:
        if self.tls.established and not self._refused:
            self._pump()

    def _flush(self) -> None:
        while data := self.tls.pull():
            self._write(data)

    def _farewell(self) -> None:
        if self.tls.established:
            self.tls.close_notify()
            self._flush()

    def _eof_reason(self) -> str:
        return "" if self.tls.ended == "" else "closed without the TLS close_notify"


def keep_alive(sock: socket.socket) -> None:
    """Notice within two minutes when a silent peer is gone, and keep the connection known to routers on the way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # Linux and some others
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send_now(descriptor: int, data: memoryview) -> int:
    """Return how much the kernel took; an error is left for the transport to meet and report."""
    try:
        return os.write(descriptor, data)
    except OSError:
        return 0
