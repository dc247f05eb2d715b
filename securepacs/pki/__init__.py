"""The pilot PKI: certificate profiles, a CA, CRLs, an OCSP responder and a time stamp authority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securepacs.pki.authority import CertificateAuthority
from securepacs.pki.profiles import CertificateProfile

if TYPE_CHECKING:
    from securepacs.pki.server import PkiServer, serve

__all__ = ["CertificateAuthority", "CertificateProfile", "PkiServer", "serve"]


def __getattr__(name: str) -> object:
    if name in ("PkiServer", "serve"):  # http.server is loaded only by those who serve
        from securepacs.pki import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
