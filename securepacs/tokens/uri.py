"""PKCS #11 URIs (RFC 7512): which token and which key are meant. A URI never carries a PIN here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from securepacs.errors import UsageError

_SECRETS = ("pin-value", "pin-source")
_STANDARD = "RFC 7512"


@dataclass(frozen=True, slots=True)
class TokenUri:
    """The parts of a PKCS #11 URI that select a token and an object; empty strings select everything."""

    module_path: Path
    token: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""
    object: str = ""
    id: bytes = b""

    @classmethod
    def parse(cls, uri: str) -> TokenUri:
        """Read `uri`; UsageError for a syntax error, an unknown attribute, a PIN inside, or no absolute `module-path`."""
        scheme, separator, rest = uri.partition(":")
        if scheme.lower() != "pkcs11" or not separator:
            raise UsageError("a token URI begins with pkcs11:", standard=_STANDARD)
        path, _, query = rest.partition("?")
        attributes = _pairs(path, ";")
        parameters = _pairs(query, "&")
        if any(secret in attributes or secret in parameters for secret in _SECRETS):
            raise UsageError("a PIN does not belong into a token URI", hint="use --pin-file or --pin-env", standard=_STANDARD)
        module = _text(parameters.pop("module-path", b""))
        if not module.startswith("/"):
            raise UsageError(
                "the token URI names no module",
                hint="add ?module-path=/absolute/path/of/the/module.so",
                standard=_STANDARD,
            )
        identifier = attributes.pop("id", b"")
        texts = {name: _text(attributes.pop(name, b"")) for name in ("token", "serial", "manufacturer", "model", "object")}
        attributes.pop("type", None)  # private key and certificate are found together, whichever type is named
        if attributes or parameters:
            unknown = sorted((*attributes, *parameters))[0]
            raise UsageError(f"the token URI has an attribute that is not understood: {unknown}", standard=_STANDARD)
        return cls(Path(module), id=identifier, **texts)

    def __str__(self) -> str:
        named = (("token", self.token), ("serial", self.serial), ("manufacturer", self.manufacturer), ("model", self.model))
        parts = [f"{name}={quote(value, safe='')}" for name, value in (*named, ("object", self.object)) if value]
        if self.id:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        return f"pkcs11:{';'.join(parts)}?module-path={quote(str(self.module_path))}"


def _pairs(text: str, separator: str) -> dict[str, bytes]:
    pairs: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if not equals or not name or name in pairs:
            raise UsageError("the token URI is not a list of name=value pairs", standard=_STANDARD)
        pairs[name] = unquote_to_bytes(value)
    return pairs


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError("the token URI holds text that is not UTF-8", standard=_STANDARD) from None
