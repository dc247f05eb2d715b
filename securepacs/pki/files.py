"""What the command line reads and writes beside the CA's own folder: requests, issued certificates and keys."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securepacs.errors import ConfigError, MalformedError, UsageError
from securepacs.pki.storage import private_pem, write_atomically, write_private
from securepacs.tokens.credential import SigningKey
from securepacs.trust.files import load_certificate, read_file


def load_request(path: Path) -> x509.CertificateSigningRequest:
    """Read a PKCS #10 request, PEM or DER (RFC 2986). Raises MalformedError when it is none, ConfigError when it cannot be read."""
    raw = read_file(path, key="csr")
    try:
        if b"-----BEGIN" in raw:
            return x509.load_pem_x509_csr(raw)
        return x509.load_der_x509_csr(raw)
    except ValueError as error:
        raise MalformedError(f"{path}: not a certificate request", standard="RFC 2986") from error


def write_credential(
    folder: Path, certificate: x509.Certificate, chain: tuple[x509.Certificate, ...], key: SigningKey | None
) -> Path:
    """Write NAME.pem (the certificate, then its chain) and, with a key, NAME.key (mode 0600); return the path of NAME.pem.

    NAME is the common name made safe for a file name. Existing files are not overwritten: UsageError.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    stem = re.sub(r"[^\w.-]+", "_", str(names[0].value)).strip("._") or f"{certificate.serial_number:x}"
    target, key_file = folder / f"{stem}.pem", folder / f"{stem}.key"
    for path in (target, *((key_file,) if key else ())):
        if path.exists():
            raise UsageError(f"{path} exists already", hint="choose another folder with -o, or move the file away")
    folder.mkdir(parents=True, exist_ok=True)
    if key is not None:
        write_private(key_file, private_pem(key))
    write_atomically(target, b"".join(link.public_bytes(Encoding.PEM) for link in (certificate, *chain)))
    return target


def certificate_or_serial(text: str) -> x509.Certificate | int:
    """Return the certificate in the file called `text`, or the serial number it spells in hexadecimal (colons allowed)."""
    if Path(text).is_file():
        return load_certificate(Path(text), key="certificate")
    digits = text.replace(":", "").lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{1,40}", digits):
        raise ConfigError(f"{text}: neither a file nor a serial number", key="certificate")
    return int(digits, 16)


def reason_named(name: str) -> x509.ReasonFlags:
    """Return the revocation reason of RFC 5280 5.3.1 called `name`; UsageError for any other."""
    try:
        return x509.ReasonFlags(name)
    except ValueError:
        names = ", ".join(flag.value for flag in x509.ReasonFlags)
        raise UsageError(f"unknown reason {name!r}", hint=names, standard="RFC 5280 5.3.1") from None
