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
        "SSL_read SSL_get_error SSL_set_bio BIO_new BIO_s_mem BIO_new_mem_buf BIO_set_mem_eof_return BIO_get_mem_data "
        "BIO_write BIO_read ERR_get_error ERR_clear_error ERR_reason_error_string "
        "SSL_CTX_set1_curves_list SSL_CTX_set1_sigalgs_list"
    )
    PRIVATE_API_AVAILABLE = all(hasattr(_lib, name) for name in _NEEDED.split())
except ImportError:  # pragma: no cover - depends on the pyOpenSSL release
    _ffi = _lib = None
    PRIVATE_API_AVAILABLE = False

_WANT_READ: Final = 2  # SSL_ERROR_WANT_READ
_CLOSED: Final = 6  # SSL_ERROR_ZERO_RETURN


class PrivateReader:
    """The same through the C library: ciphertext is decrypted where the socket put it, without an intermediate object per read.

    OpenSSL's input is a memory BIO that either owns a copy or borrows what was fed. A borrowing BIO must not outlive the moment in
    which the shared buffer is overwritten: `settle` replaces it by an owning one if anything in it has not been read.
    """

    def __init__(self, connection: SSL.Connection, buffers: Buffers) -> None:
        self._connection: Any = connection
        self._ssl = self._connection._ssl
        self._into = self._connection._into_ssl
        self._from = self._connection._from_ssl
        self._buffers = buffers
        self._lent: memoryview | bytes = b""  # what a borrowing BIO points to, kept alive
        self._rest = _ffi.new("char **")

    def feed(self, data: memoryview | bytes, *, lend: bool) -> None:
        size = len(data)
        if not size:
            return
        if lend and _lib.BIO_get_mem_data(self._into, self._rest) <= 0:
            self._lent = data
            self._read_from(_lib.BIO_new_mem_buf(_ffi.from_buffer(data), size))
        else:
            self.settle()
            _lib.BIO_write(self._into, _ffi.from_buffer(data), size)  # a memory BIO takes all

    def settle(self) -> None:
        waiting = _lib.BIO_get_mem_data(self._into, self._rest) if self._lent else 0
        if waiting > 0:
            owning = _lib.BIO_new(_lib.BIO_s_mem())
            _lib.BIO_write(owning, self._rest[0], waiting)
            self._read_from(owning)
            self._lent = b""

    def _read_from(self, bio: Any) -> None:
        """Make `bio` OpenSSL's input; it owns it from now on and frees the one before."""
        if bio == _ffi.NULL:
            raise MemoryError("OpenSSL has no memory for its input")
        _lib.BIO_set_mem_eof_return(bio, -1)  # empty means: more will come
        _lib.SSL_set_bio(self._ssl, bio, self._from)
        self._into = self._connection._into_ssl = bio

    def read(self) -> tuple[int, str | None]:
        buffers = self._buffers
        target = _ffi.from_buffer(buffers.plain)
        size = len(buffers.plain)
        filled = 0
        ssl, read = self._ssl, _lib.SSL_read  # once for each record of 16 KiB
        _lib.ERR_clear_error()  # SSL_get_error misreads a leftover of another connection
        while filled < size:
            count = read(ssl, target + filled, size - filled)
            if count <= 0:
                error = _lib.SSL_get_error(ssl, count)
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
