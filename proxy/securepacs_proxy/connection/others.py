"""The other kinds of ends: an inner caller without TLS, and a destination that is called with TLS.

They carry what leaves through inner ports, a small part of the traffic, so asyncio's own TLS is good enough for the second.
"""

from __future__ import annotations

import _ssl
import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from securepacs.policy.subject import Subject
from securepacs_proxy.commands import Destination
from securepacs_proxy.connection.ends import LINGER_SECONDS, WRITE_LIMIT, End, Hold, Owner
from securepacs_proxy.events import Side
from securepacs_proxy.relay import Relay
from securepacs_proxy.sessions import Session
from securepacs_proxy.tls_bio import Buffers
from securepacs_proxy.ways import ClientTls

VERIFY_SECONDS = 10.0
VerifyDestination: TypeAlias = Callable[[tuple[x509.Certificate, ...], Callable[[str], None]], None]


@dataclass(frozen=True, slots=True)
class InnerPort:
    """A port without TLS: who calls is known by the address, AccessDenied when it is not; and what relays its connections."""

    identify: Callable[[str], Subject]
    make_relay: Callable[[str], Relay]


class InnerEnd(End):
    """An archive that calls out: plain TCP, known by its address."""

    def __init__(self, owner: Owner, buffers: Buffers) -> None:
        super().__init__(Side.REQUESTOR, owner, buffers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket and report who called."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername") or ("", 0)  # a caller that is gone again has no name
        self._owner.on_opened(str(name[0]), int(name[1]))


class SecuredEnd(End):
    """A destination that is called with TLS. Everything passes through the transport: the bare socket is never written to."""

    high_water = 1024 * 1024  # everything is copied here anyway; and with none asyncio's TLS would pause when nothing waits

    def verified_chain(self) -> tuple[x509.Certificate, ...]:
        """Return the path that OpenSSL verified, the certificate of the destination first; empty when the connection is gone."""
        found = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        return _verified_chain(found) if isinstance(found, ssl.SSLObject) else ()

    def eof_received(self) -> bool:
        """Note the end of input; TLS has no half-closed connection, so it is also the end of output."""
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, with the words of TLS when it broke: a destination may refuse our certificate after the handshake."""
        if isinstance(exc, ssl.SSLError) and not self._fault:
            self._fault = f"TLS: {exc.reason or 'broken'}"
        super().connection_lost(exc)

    def close(self) -> None:
        """Close with close_notify after everything written has left."""
        transport = self._transport
        if self.closing or transport is None:
            return
        self.closing = True
        transport.close()
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def _write(self, data: bytes | memoryview) -> None:
        transport = self._transport
        if transport is None or self.closing or transport.is_closing():
            return
        transport.write(bytes(data))  # a copy: the view is reused when this returns
        if transport.get_write_buffer_size() > WRITE_LIMIT:
            self._fault = "does not read what it asked for"
            transport.abort()


class Deliveries(Protocol):
    """Connections of agents that wait for a delivery, in all workers of the gateway."""

    def offer(self, session: Session, ae_title: str) -> None:
        """Keep the connection of `session` for what is called by `ae_title`."""
        ...

    def withdraw(self, session: Session) -> None:
        """The connection is over."""
        ...

    async def open(self, ae_title: str) -> tuple[socket.socket, Destination] | str:
        """Take one that was offered; return a socket that leads to it and where its agent is, or why there is none."""
        ...


class NoDeliveries:
    """A gateway on which no agent waits."""

    def offer(self, session: Session, ae_title: str) -> None:
        """Nobody asks for it."""

    def withdraw(self, session: Session) -> None:
        """It was not kept."""

    async def open(self, ae_title: str) -> str:
        """Say that there is none."""
        return f"nobody waits for {ae_title}"


class Environment(Protocol):
    """What is needed to call a destination."""

    buffers: Buffers
    client_tls: Mapping[str, ClientTls]
    deliveries: Deliveries
    verify_destination: VerifyDestination | None

    @property
    def connect_seconds(self) -> float: ...


def _verified_chain(found: ssl.SSLObject) -> tuple[x509.Certificate, ...]:
    """Return the verified path of a handshake. Python has a public name for it from 3.13 on."""
    if hasattr(found, "get_verified_chain"):
        raw = found.get_verified_chain()
    else:
        raw = [one.public_bytes(_ssl.ENCODING_DER) for one in found._sslobj.get_verified_chain()]  # type: ignore[attr-defined]
    return tuple(x509.load_der_x509_certificate(one) for one in raw)


async def connect_first(
    destinations: Sequence[Destination], owner: Owner, environment: Environment
) -> tuple[End, Destination] | str:
    """Connect to the first destination that answers, in order; return its end, which is not read yet, or why none did.

    `environment.verify_destination` says of a destination that is called with TLS whether its certificate still counts; nothing is
    sent before.
    """
    reasons = []
    for destination in destinations:
        if destination.reverse:
            found = await environment.deliveries.open(destination.reverse)
            if not isinstance(found, str):
                inside, agent = found
                return await connect_within(inside, owner, environment.buffers), agent
            reasons.append(found)
            continue
        where = f"{destination.host}:{destination.port}"
        end = (SecuredEnd if destination.tls else End)(Side.ACCEPTOR, owner, environment.buffers)
        end.hold(Hold.NOT_READY)
        tls = environment.client_tls.get(destination.tls)
        if destination.tls and tls is None:  # never in clear instead
            reasons.append(f"{where}: its TLS settings were replaced meanwhile")
            continue
        reason = await connect(end, destination, tls, seconds=environment.connect_seconds)
        if not reason and environment.verify_destination is not None and end.chain:
            reason = await _verified(end, environment.verify_destination, seconds=VERIFY_SECONDS)
        if not reason:
            return end, destination
        reasons.append(f"{where}: {reason}")
    return "; ".join(reasons) or "the route has no destination"


async def connect_within(inside: socket.socket, owner: Owner, buffers: Buffers) -> End:
    """Return the end of a socket that leads to another connection of the gateway; it is not read yet."""
    end = End(Side.ACCEPTOR, owner, buffers)
    end.hold(Hold.NOT_READY)
    await asyncio.get_running_loop().create_connection(lambda: end, sock=inside)
    return end


async def _verified(end: End, verify: VerifyDestination, *, seconds: float) -> str:
    """Return why the certificate of a destination does not count, "" when it does."""
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    verify(end.chain, lambda reason: None if answered.done() else answered.set_result(reason))
    try:
        async with asyncio.timeout(seconds):
            reason = await answered
    except TimeoutError:
        reason = f"its revocation status is not known after {seconds:g} s"
    if not reason:
        return ""
    end.abort()
    return f"its certificate is not accepted: {reason}"


async def connect(end: End, destination: Destination, tls: ClientTls | None, *, seconds: float) -> str:
    """Connect one end; return why it did not work, "" when it did."""
    secure: dict[str, Any] = {"ssl": tls.context, "server_hostname": tls.server_name or destination.host} if tls else {}
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_connection(lambda: end, destination.host, destination.port, **secure)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"no TLS: {error.reason or 'the handshake failed'}"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    wanted = tls.certificate_sha256 if tls is not None else ""
    if isinstance(end, SecuredEnd):
        end.chain = end.verified_chain()
        if wanted and (not end.chain or end.chain[0].fingerprint(hashes.SHA256()).hex() != wanted):
            end.abort()
            return "its certificate is not the one in certificate_sha256"
    return "closed the connection at once" if end.lost else ""
