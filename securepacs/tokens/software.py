"""Private keys in files: PEM or DER (RFC 7468, RFC 5958) and PKCS #12 (RFC 7292) become a `Credential`.

A password is asked only when the file turns out to be encrypted, and only once. A key that does not belong to its certificate is
refused here, so that no later step can sign with the wrong one. NOT checked: validity and trust of the certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from securepacs.errors import ConfigError, PinIncorrect, TokenError
from securepacs.tokens.credential import Assurance, Credential, SigningKey

Password = Callable[[], bytes]

_FILE_LIMIT = 1 << 20


def load_pem(key: Path, certificate: Path, *, chain: Path | None = None, password: Password | None = None) -> Credential:
    """Load a private key and its certificate from PEM or DER files (RFC 7468).

    `certificate` may hold more certificates than the leaf: the one that fits the key is used, the others join `chain`. Raises
    ConfigError for files that are missing, unreadable or do not belong together, PinIncorrect for a wrong password, TokenError when
    a password is needed and no source for it was given.
    """
    private_key = _private_key(key, password)
    candidates = load_certificates(certificate)
    extra = load_certificates(chain) if chain else []
    return _credential(private_key, candidates, extra, label=str(key))


def load_pkcs12(path: Path, *, password: Password | None) -> Credential:
    """Load key, certificate and chain from a PKCS #12 file (RFC 7292); errors as `load_pem`."""
    raw = _read(path)
    try:
        bundle = pkcs12.load_pkcs12(raw, None)
    except (ValueError, TypeError):
        bundle = _open_pkcs12(raw, path, password)
    if bundle.key is None or bundle.cert is None:
        raise ConfigError(f"{path} holds no private key with its certificate", key="p12", standard="RFC 7292")
    others = [entry.certificate for entry in bundle.additional_certs]
    return _credential(_supported(bundle.key, path), [bundle.cert.certificate], others, label=str(path))


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read all certificates of a PEM file, or the one of a DER file; ConfigError when there is none."""
    raw = _read(path)
    try:
        found = x509.load_pem_x509_certificates(raw) if b"-----BEGIN" in raw else [x509.load_der_x509_certificate(raw)]
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"{path} holds no certificate that can be read", key="cert", standard="RFC 7468") from None
    return found


def _open_pkcs12(raw: bytes, path: Path, password: Password | None) -> pkcs12.PKCS12KeyAndCertificates:
    if not raw.startswith(b"\x30"):
        raise ConfigError(f"{path} is not a PKCS #12 file", key="p12", standard="RFC 7292")
    try:
        return pkcs12.load_pkcs12(raw, _ask(password, path))
    except ValueError as error:
        if "password" in str(error).lower():
            raise PinIncorrect(f"the password of {path} is incorrect, or the file is damaged") from None
        raise ConfigError(f"{path} is not a PKCS #12 file that can be read", key="p12", standard="RFC 7292") from None


def _private_key(path: Path, password: Password | None) -> SigningKey:
    raw = _read(path)
    load = load_pem_private_key if b"-----BEGIN" in raw else load_der_private_key
    try:
        return _supported(load(raw, None), path)
    except TypeError:  # encrypted: the only case in which a password is asked for
        pass
    except ValueError:
        raise ConfigError(f"{path} holds no private key that can be read", key="key", standard="RFC 5958") from None
    secret = _ask(password, path)
    try:
        return _supported(load(raw, secret), path)
    except ValueError:
        raise PinIncorrect(f"the password of {path} is incorrect, or the file is damaged") from None


def _ask(password: Password | None, path: Path) -> bytes:
    if password is None:
        raise TokenError(f"{path} is protected by a password", hint="give it with --pin-file or --pin-env")
    return password()


def _supported(key: object, path: Path) -> SigningKey:
    if isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        return key
    raise ConfigError(f"the key in {path} is neither RSA nor elliptic curve", key="key")


def _credential(
    private_key: SigningKey, candidates: Iterable[x509.Certificate], extra: Iterable[x509.Certificate], *, label: str
) -> Credential:
    wanted = _spki(private_key.public_key())
    certificates = list(candidates)
    leaf = next((cert for cert in certificates if _spki(cert.public_key()) == wanted), None)
    if leaf is None:
        raise ConfigError("the private key does not belong to the certificate", key="cert", hint="check which files were given")
    others = dict.fromkeys(cert for cert in (*certificates, *extra) if cert != leaf)
    return Credential(leaf, private_key, order_chain(leaf, others), Assurance.SOFTWARE, label)


def order_chain(leaf: x509.Certificate, others: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return those of `others` that lead upward from `leaf` by name, nearest first; NOT checked: their signatures."""
    remaining = [certificate for certificate in others if certificate != leaf]
    line: list[x509.Certificate] = []
    current = leaf
    while current.issuer != current.subject:
        above = next((certificate for certificate in remaining if certificate.subject == current.issuer), None)
        if above is None:
            break
        line.append(above)
        remaining.remove(above)
        current = above
    return tuple(line)


def _spki(public_key: object) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > _FILE_LIMIT:
        raise ConfigError(f"{path} is too large for a key or certificate file")
    return raw
