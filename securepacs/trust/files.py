"""Reading certificates and CRLs from files, PEM or DER, with errors that say what was found instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from securepacs.errors import ConfigError

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 1024 * 1024  # national CRLs reach tens of megabytes
CERTIFICATE_SUFFIXES = frozenset({".pem", ".crt", ".cer", ".der"})
CRL_SUFFIXES = frozenset({".pem", ".crl", ".der"})

_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_CERTIFICATE_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})


def load_certificates(sources: Iterable[Path], *, key: str, required: bool = True) -> tuple[x509.Certificate, ...]:
    """Read every certificate of the files and folders in `sources`, without duplicates, in order.

    Of a folder those files count that end in .pem, .crt, .cer or .der and hold a certificate. Raises ConfigError, with `key` as its
    key, when a source is missing, unreadable or holds none, and when `required` and nothing was named.
    """
    return _load_all(sources, key, required, CERTIFICATE_SUFFIXES, parse_certificates)


def load_crls(sources: Iterable[Path], *, key: str, required: bool = True) -> tuple[x509.CertificateRevocationList, ...]:
    """Read every CRL of the files and folders in `sources`; of a folder the .crl, .pem and .der files. Raises like above."""
    return _load_all(sources, key, required, CRL_SUFFIXES, parse_crls)


def load_certificate(path: Path, *, key: str) -> x509.Certificate:
    """Read the first certificate of a file; raises ConfigError when there is none."""
    return parse_certificates(read_file(path, key=key), str(path), key)[0]


def parse_certificates(data: bytes, name: str, key: str = "") -> tuple[x509.Certificate, ...]:
    """Read all certificates from PEM or DER bytes; `name` is what an error calls them. Raises ConfigError when there is none."""
    blocks = list(_PEM_BLOCK.finditer(data))
    if not blocks:
        return (_parse(x509.load_der_x509_certificate, data, name, key, "a certificate"),)
    wanted = [block for block in blocks if block[1] in _CERTIFICATE_LABELS]
    if not wanted:
        raise ConfigError(f"{name}: no certificate, but {_describe(data)}", key=key)
    return tuple(_parse(x509.load_pem_x509_certificate, block[0], name, key, "a certificate") for block in wanted)


def parse_crls(data: bytes, name: str, key: str = "") -> tuple[x509.CertificateRevocationList, ...]:
    """Read all CRLs from PEM or DER bytes. Raises ConfigError when there is none."""
    blocks = list(_PEM_BLOCK.finditer(data))
    if not blocks:
        return (_parse(x509.load_der_x509_crl, data, name, key, "a CRL"),)
    wanted = [block for block in blocks if block[1] == b"X509 CRL"]
    if not wanted:
        raise ConfigError(f"{name}: no CRL, but {_describe(data)}", key=key)
    return tuple(_parse(x509.load_pem_x509_crl, block[0], name, key, "a CRL") for block in wanted)


def read_file(path: Path, *, key: str) -> bytes:
    """Read a file of at most MAX_FILE_BYTES; raises ConfigError naming the file."""
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes", key=key)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", key=key) from error


def _load_all(
    sources: Iterable[Path],
    key: str,
    required: bool,
    suffixes: frozenset[str],
    parse: Callable[[bytes, str, str], tuple[T, ...]],
) -> tuple[T, ...]:
    found: list[T] = []
    for source in sources:
        if source.is_dir():
            useful = False
            for path in _files(source, suffixes):
                data = read_file(path, key=key)
                if not _holds(data, parse):
                    continue  # a folder may well keep keys, certificates and CRLs side by side
                useful = True
                found.extend(item for item in parse(data, str(path), key) if item not in found)
            if not useful:
                raise ConfigError(f"{source}: the folder holds nothing of use", key=key, hint=f"files ending in {sorted(suffixes)}")
        else:
            found.extend(item for item in parse(read_file(source, key=key), str(source), key) if item not in found)
    if required and not found:
        raise ConfigError("no file is named", key=key)
    return tuple(found)


def _files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and path.is_file())


def _holds(data: bytes, parse: object) -> bool:
    labels = {block[1] for block in _PEM_BLOCK.finditer(data)}
    return not labels or bool(labels & (_CERTIFICATE_LABELS if parse is parse_certificates else {b"X509 CRL"}))


def _parse(load: Callable[[bytes], T], data: bytes, name: str, key: str, wanted: str) -> T:
    try:
        return load(data)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise ConfigError(f"{name}: not {wanted}, but {_describe(data)}", key=key) from error


def _describe(data: bytes) -> str:
    """Say in a few words what the bytes are, without showing any of them."""
    labels = sorted({block[1].decode("ascii").lower() for block in _PEM_BLOCK.finditer(data)})
    if labels:
        return "PEM of: " + ", ".join(labels)
    if not data.strip():
        return "an empty file"
    if data.startswith(b"-----BEGIN"):
        return "damaged PEM"
    if data.startswith(b"\x30"):
        return "other DER data"
    return f"{len(data)} bytes of something else"
