"""TLS of the outside end, by memory BIO: bytes in, bytes out, no socket (PS3.15 B.12, RFC 9325).

pyOpenSSL brings the same OpenSSL on every distribution. Its public `recv_into` allocates and copies twice, so the fast path calls
the C library that pyOpenSSL wraps. That library is private: it is touched in `native.py` alone, and `PublicReader` does the same
through the public interface when it is absent or has changed.

Certificates are judged by OpenSSL itself, CRLs included, so that the peer gets the right alert; the exact reason is kept for the
audit trail. A context is frozen after its first connection: a reload makes a new one. Sessions are never resumed, because
resumption would skip that judgement.
"""

from securepacs_proxy.tls_bio.buffers import BUFFER_SIZE, Buffers
from securepacs_proxy.tls_bio.context import server_context
from securepacs_proxy.tls_bio.native import PRIVATE_API_AVAILABLE
from securepacs_proxy.tls_bio.reasons import HandshakeRefused
from securepacs_proxy.tls_bio.server import TlsServer

__all__ = ["TlsServer", "Buffers", "HandshakeRefused", "server_context", "PRIVATE_API_AVAILABLE", "BUFFER_SIZE"]
