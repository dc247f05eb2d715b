"""Private keys wherever they live: PEM and PKCS #12 files, smart cards and USB keys (PKCS #11).

    from securepacs import tokens

    signer = tokens.load_pem(Path("ct1.key"), Path("ct1.pem"))
    with tokens.open_credential("pkcs11:token=Dr%20Kim?module-path=...", pin=tokens.pin_source(prompt="PIN: ")) as signer: ...

Names are imported on first use: a program that signs with a file needs no PKCS #11 library (extra `tokens`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securepacs.tokens.credential import Assurance, Credential, SigningKey
    from securepacs.tokens.login import TokenInfo
    from securepacs.tokens.pin import PinSource, pin_source
    from securepacs.tokens.pkcs11 import Pkcs11Token, list_tokens, open_credential
    from securepacs.tokens.software import load_certificates, load_pem, load_pkcs12
    from securepacs.tokens.tls_key import client_context, server_context

_HOMES = {
    "Assurance": "credential", "Credential": "credential", "SigningKey": "credential",
    "load_certificates": "software", "load_pem": "software", "load_pkcs12": "software",
    "PinSource": "pin", "pin_source": "pin",
    "Pkcs11Token": "pkcs11", "list_tokens": "pkcs11", "open_credential": "pkcs11", "TokenInfo": "login",
    "client_context": "tls_key", "server_context": "tls_key",
}  # fmt: skip
__all__ = [
    "Assurance", "Credential", "PinSource", "Pkcs11Token", "SigningKey", "TokenInfo", "client_context", "list_tokens",
    "load_certificates", "load_pem", "load_pkcs12", "open_credential", "pin_source", "server_context",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
