"""The only place that touches what pyOpenSSL keeps private: the C library it wraps. The version is pinned, both ways are tested."""

from __future__ import annotations

from typing import Any, Final, cast

from OpenSSL import SSL

from securepacs.errors import ConfigError
from securepacs.tls import TlsProfile
from securepacs_proxy.tls_bio.buffers import Buffers

try:
    from OpenSSL import _util

    _ffi: Any = _util.ffi
    _lib: Any = _util.lib
    _NEEDED = (
        "SSL_read SSL_get_error BIO_write BIO_read ERR_get_error ERR_clear_error ERR_reason_error_string "
        "SSL_CTX_set1_curves_list SSL_CTX_set1_sigalgs_list"
    )
    PRIVATE_API_AVAILABLE = all(hasattr(_lib, name) for name in _NEEDED.split())
except ImportError:  # pragma: no cover - depends on the pyOpenSSL release
    _ffi = _lib = None
    PRIVATE_API_AVAILABLE = False

_WANT_READ: Final = 2  # SSL_ERROR_WANT_READ
_CLOSED: Final = 6  # SSL_ERROR_ZERO_RETURN


class PrivateReader:
    """The same through the C library, without an intermediate object per read."""

    def __init__(self, connection: SSL.Connection, buffers: Buffers) -> None:
        private: Any = connection
        self._ssl = private._ssl
        self._into = private._into_ssl
        self._from = private._from_ssl
        self._buffers = buffers

    def feed(self, data: memoryview | bytes) -> None:
        if len(data):
            _lib.BIO_write(self._into, _ffi.from_buffer(data), len(data))  # a memory BIO takes all

    def read(self) -> tuple[int, str | None]:
        buffers = self._buffers
        target = _ffi.from_buffer(buffers.plain)
        size = len(buffers.plain)
        filled = 0
        _lib.ERR_clear_error()  # SSL_get_error misreads a leftover of another connection
        while filled < size:
            count = _lib.SSL_read(self._ssl, target + filled, size - filled)
            if count <= 0:
                error = _lib.SSL_get_error(self._ssl, count)
                if error == _WANT_READ:
                    return filled, None
                if error == _CLOSED:
                    return filled, ""
                return filled, _first_queued_error() or "TLS stream broken"
            filled += count
        return filled, None

    def pull(self) -> memoryview | bytes:
        buffers = self._buffers
        count = _lib.BIO_read(self._from, _ffi.from_buffer(buffers.cipher), len(buffers.cipher))
        return buffers.cipher_view[:count] if count > 0 else b""


def limit_groups(context: SSL.Context, profile: TlsProfile) -> None:
    """Set groups and signature algorithms, for which pyOpenSSL has no public call; without it OpenSSL's own defaults stand."""
    if not PRIVATE_API_AVAILABLE:
        return
    native = cast(Any, context)._context
    lists = (
        (_lib.SSL_CTX_set1_curves_list, profile.groups, "groups"),
        (_lib.SSL_CTX_set1_sigalgs_list, profile.signature_algorithms, "signature algorithms"),
    )
    for setter, names, what in lists:
        if setter(native, ":".join(names).encode()) != 1:
            raise ConfigError(
                f"OpenSSL refuses the {what} of {profile.clause}: {_first_queued_error()}", key="listener.tls_profile"
            )


def _first_queued_error() -> str:
    """Empty OpenSSL's error queue and return the reason of its first entry."""
    code = _lib.ERR_get_error()
    _lib.ERR_clear_error()
    if not code:
        return ""
    text = _lib.ERR_reason_error_string(code)
    return "" if text == _ffi.NULL else bytes(_ffi.string(text)).decode("utf-8", "replace")
