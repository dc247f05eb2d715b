"""A CA in a folder: root.pem, issuing.pem, their keys (mode 0600) and register.json. Every file is replaced atomically."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from securepacs.errors import ConfigError
from securepacs.pki.authority import CertificateAuthority, Issued, Register, Revocation
from securepacs.tokens.credential import Credential, SigningKey
from securepacs.trust.files import load_certificate, read_file

REGISTER = "register.json"
KEYS_ELSEWHERE = "token.uri"
_FORMAT = 1
_LOCK = ".lock"


def save(authority: CertificateAuthority, folder: Path, *, passphrase: bytes | None = None, token_uri: str = "") -> None:
    """Write the whole CA; the register comes last, so that a crash never leaves a register without its keys.

    With `token_uri` the keys are in that token, and the folder holds where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if token_uri:
        write_private(folder / KEYS_ELSEWHERE, token_uri.encode() + b"\n")
    else:
        if authority.has_root_key:
            write_private(folder / "root.key", private_pem(authority.root_key, passphrase))
        write_private(folder / "issuing.key", private_pem(authority.issuing_key, passphrase))
    for name, certificate in (("root", authority.root), ("issuing", authority.issuing)):
        write_atomically(folder / f"{name}.pem", certificate.public_bytes(Encoding.PEM))
    save_register(authority, folder)


def save_register(authority: CertificateAuthority, folder: Path) -> None:
    """Write only what changes: the register of issued and revoked certificates."""
    register = authority.register
    document = {
        "format": _FORMAT,
        "external_root": not authority.has_root_key,
        "name": authority.name,
        "base_url": authority.base_url,
        "crl_number": register.crl_number,
        "root_crl_number": register.root_crl_number,
        "issued": [
            {
                "serial_number": f"{entry.serial_number:x}",
                "profile": entry.profile,
                "subject": entry.subject,
                "not_before": entry.not_before.isoformat(),
                "not_after": entry.not_after.isoformat(),
            }
            for entry in register.issued.values()
        ],
        "revoked": [
            {"serial_number": f"{entry.serial_number:x}", "at": entry.at.isoformat(), "reason": entry.reason.value}
            for entry in register.revoked.values()
        ],
    }
    write_atomically(folder / REGISTER, json.dumps(document, indent=1, ensure_ascii=False).encode())


def load(folder: Path, *, passphrase: bytes | None = None) -> CertificateAuthority:
    """Read a CA that `save` wrote. Raises ConfigError when a file is missing, damaged, readable by others or of another CA.

    A CA whose keys are in a token is opened by `token_keys.opened`.
    """
    if token_uri(folder):  # opened by token_keys
        raise ConfigError(
            f"{folder}: the keys of this CA are in a token", key="folder", hint="certify a request: securepacs pki issue --csr"
        )
    return load_with(folder, lambda name, certificate: _key(folder / f"{name}.key", certificate, passphrase))


def load_with(folder: Path, key_of: Callable[[str, x509.Certificate], SigningKey]) -> CertificateAuthority:
    """Read a CA; `key_of` gives the private key of `root` or `issuing`, whose certificate is given."""
    document = _document(folder)
    root = load_certificate(folder / "root.pem", key="folder")
    issuing = load_certificate(folder / "issuing.pem", key="folder")
    _check_issued(issuing, root, f"{folder}: issuing.pem was not issued by root.pem")
    external = document.get("external_root") is True
    return CertificateAuthority(
        name=str(document["name"]),
        base_url=str(document["base_url"]),
        root=root if external else Credential(root, key_of("root", root)),
        issuing=Credential(issuing, key_of("issuing", issuing), (root,)),
        register=_register(document, folder),
    )


def token_uri(folder: Path) -> str:
    """Return the PKCS #11 URI of the token with the keys of a CA; "" when they are in files."""
    path = folder / KEYS_ELSEWHERE
    return read_file(path, key="folder").decode("utf-8", "replace").strip() if path.exists() else ""


def import_external(
    name: str, *, root: Path, issuing: Path, key: Path, base_url: str, passphrase: bytes | None, at: datetime
) -> CertificateAuthority:
    """Return a CA that issues with the certificate that an external root signed for it; the root's key is not needed.

    Raises ConfigError when the three files do not fit together, or the certificate is not that of a CA valid at `at`.
    """
    above, own = load_certificate(root, key="root"), load_certificate(issuing, key="issuing")
    _check_issued(own, above, f"{issuing} was not issued by {root}")
    _check_issued(above, above, f"{root} is not a root: it did not sign itself")
    try:
        basic = own.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
        own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        raise ConfigError(f"{issuing} lacks an extension that a CA needs", key="issuing", standard="RFC 5280 4.2.1") from None
    if not (basic.ca and usage.key_cert_sign and usage.crl_sign):
        raise ConfigError(f"{issuing} may not sign certificates and CRLs", key="issuing", standard="RFC 5280 4.2.1.3")
    if not own.not_valid_before_utc <= at < own.not_valid_after_utc:
        raise ConfigError(f"{issuing} is not valid now", key="issuing")
    secret = passphrase if b"ENCRYPTED" in read_file(key, key="key") else None
    return CertificateAuthority(name=name, base_url=base_url, root=above, issuing=Credential(own, _key(key, own, secret), (above,)))


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate, problem: str) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise ConfigError(problem, key="folder") from None


def load_register(folder: Path) -> Register:
    """Read only the register, for a server that follows what others revoke."""
    return _register(_document(folder), folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the CA between loading and saving it."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no CA", key="folder", hint="make one with: securepacs pki init")
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def private_pem(key: SigningKey, passphrase: bytes | None = None) -> bytes:
    """Return the key as PKCS#8 in PEM, encrypted when a passphrase is given."""
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read; at no moment is it readable by others."""
    _replace(path, content, 0o600)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a public file; readers see the old or the new content, also after a crash."""
    _replace(path, content, 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 until renamed
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _key(path: Path, certificate: x509.Certificate, passphrase: bytes | None) -> SigningKey:
    raw = read_file(path, key="folder")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others may read the key", key="folder", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(raw, passphrase)
    except TypeError:
        problem = "the key is encrypted: a passphrase is needed" if passphrase is None else "the key is not encrypted"
        raise ConfigError(f"{path}: {problem}", key="passphrase") from None
    except ValueError:
        problem = "not a private key in PEM" if passphrase is None else "not a private key, or the passphrase is wrong"
        raise ConfigError(f"{path}: {problem}", key="folder") from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{path}: not the key of {path.with_suffix('.pem').name}", key="folder")
    return key


def _document(folder: Path) -> dict[str, Any]:
    if not (folder / REGISTER).is_file():
        raise ConfigError(f"{folder}: there is no CA", key="folder", hint="make one with: securepacs pki init")
    try:
        document = json.loads(read_file(folder / REGISTER, key="folder"))
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ConfigError(f"{folder / REGISTER}: not a register of this version", key="folder")
    return document


def _register(document: dict[str, Any], folder: Path) -> Register:
    try:
        issued = [
            Issued(
                int(entry["serial_number"], 16),
                str(entry["profile"]),
                str(entry["subject"]),
                _time(entry["not_before"]),
                _time(entry["not_after"]),
            )
            for entry in document["issued"]
        ]
        revoked = [
            Revocation(int(entry["serial_number"], 16), _time(entry["at"]), x509.ReasonFlags(entry["reason"]))
            for entry in document["revoked"]
        ]
        numbers = int(document["crl_number"]), int(document["root_crl_number"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / REGISTER}: the register is damaged", key="folder") from error
    return Register({entry.serial_number: entry for entry in issued}, {entry.serial_number: entry for entry in revoked}, *numbers)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
