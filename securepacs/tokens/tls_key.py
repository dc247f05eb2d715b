"""TLS 1.2 and 1.3 with a credential's key, wherever it lives (RFC 5246 7.4.8, RFC 8446 4.4.3), in the standard library's `ssl`.

A software key is handed to OpenSSL through anonymous memory. A key inside a token is never handed over: OpenSSL asks our signer for
each handshake signature through the package `sslcontext`. No PIN ever reaches OpenSSL. When the token fails, OpenSSL only says
"EVP lib"; the sockets of these contexts raise `TokenHandshakeError` instead, with the token's own error as its cause.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securepacs.errors import ConfigError, SecurePacsError, TokenError, UsageError
from securepacs.tokens.credential import Credential

_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}

# sslcontext logs the signer's exception with its stack; it is raised to the caller instead
logging.getLogger("sslcontext").addHandler(logging.NullHandler())


class TokenHandshakeError(TokenError, ssl.SSLError):
    """The token did not sign the handshake. `__cause__` is its own error (PinLocked, TokenNotPresent, ...).

    Also an `ssl.SSLError`, so that network libraries treat it as the failed connection it is.
    """

    code = "token-handshake"

    def __str__(self) -> str:
        return self.message


class _Failures(threading.local):
    """The signer's last error in this thread; OpenSSL calls the signer in the thread that does the handshake."""

    error: SecurePacsError | None = None

    def raise_instead_of(self, error: ssl.SSLError) -> None:
        failure, self.error = self.error, None
        if failure is not None:
            message = f"the token did not sign the TLS handshake: {failure.message}"
            raise TokenHandshakeError(message, hint=failure.hint) from failure
        raise error


class _Socket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            _failures_of(self.context).raise_instead_of(error)


class _Object(ssl.SSLObject):
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            _failures_of(self.context).raise_instead_of(error)


class KeyContext(ssl.SSLContext):
    """An SSLContext whose sockets tell why a token did not sign."""

    sslsocket_class = _Socket
    sslobject_class = _Object

    def __init__(self, protocol: int) -> None:
        self.failures = _Failures()


def _failures_of(context: ssl.SSLContext) -> _Failures:
    return context.failures if isinstance(context, KeyContext) else _Failures()


class _HandshakeSigner:
    """Signs handshake digests with any pyca private key, as `sslcontext.Signer` asks."""

    def __init__(self, private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, failures: _Failures) -> None:
        self._key = private_key
        self._failures = failures

    def sign(self, digest: bytes, *, hash: str, padding: Any = None, salt_length: int | None = None) -> bytes:
        algorithm = _HASHES[hash]()
        self._failures.error = None
        try:
            if isinstance(self._key, rsa.RSAPrivateKey):
                return self._key.sign(digest, _rsa_padding(algorithm, salt_length), Prehashed(algorithm))
            return self._key.sign(digest, ec.ECDSA(Prehashed(algorithm)))
        except SecurePacsError as error:
            self._failures.error = error
            raise


def _rsa_padding(algorithm: hashes.HashAlgorithm, salt_length: int | None) -> padding.AsymmetricPadding:
    return padding.PKCS1v15() if salt_length is None else padding.PSS(padding.MGF1(algorithm), salt_length)


def client_context(
    credential: Credential,
    *,
    trust: Sequence[x509.Certificate],
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    """Return a context for connections to servers that `trust` vouches for, by name, showing `credential` when asked.

    The token behind `credential` must stay open as long as the context is used. NOT checked: revocation.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, credential, trust, minimum_version, maximum_version)


def server_context(
    credential: Credential,
    *,
    trust: Sequence[x509.Certificate],
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    """Return a context for a server that demands a client certificate that `trust` vouches for; as `client_context` otherwise."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credential, trust, minimum_version, maximum_version)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(
    protocol: int,
    credential: Credential,
    trust: Sequence[x509.Certificate],
    minimum_version: ssl.TLSVersion,
    maximum_version: ssl.TLSVersion | None,
) -> KeyContext:
    if not trust:
        raise UsageError("a TLS context needs at least one trusted certificate")
    context = KeyContext(protocol)
    context.minimum_version = minimum_version
    if maximum_version is not None:
        context.maximum_version = maximum_version
    context.load_verify_locations(cadata=b"".join(certificate.public_bytes(Encoding.DER) for certificate in trust))
    use_credential(context, credential)
    return context


def use_credential(context: ssl.SSLContext, credential: Credential) -> None:
    """Make `credential` the identity of any `context`; only a `KeyContext` tells a token's own errors."""
    if not credential.in_token:
        _load_software_key(context, credential)
        return
    try:
        import sslcontext
    except ModuleNotFoundError:
        raise ConfigError("TLS with a token needs sslcontext", key="tokens", hint="pip install 'securepacs[tokens]'") from None
    signer = _HandshakeSigner(credential.private_key, _failures_of(context))
    identity = sslcontext.Identity(
        certificate=credential.certificate.public_bytes(Encoding.DER),
        signer=signer,
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in credential.chain),
        label=credential.label,
    )
    try:
        sslcontext.load_identity(context, identity)
    except sslcontext.SSLContextError as error:
        raise ConfigError(f"this Python's OpenSSL cannot use the token's key: {error}", key="tokens") from None


def _load_software_key(context: ssl.SSLContext, credential: Credential) -> None:
    """Load key and chain through a file that exists in memory only: `ssl` reads nothing but files."""
    certificates = b"".join(item.public_bytes(Encoding.PEM) for item in (credential.certificate, *credential.chain))
    key = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.memfd_create("securepacs-key", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key + certificates)
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        except ssl.SSLError as error:
            raise ConfigError(f"OpenSSL does not take the key or certificate: {error.reason}", key="cert") from None
