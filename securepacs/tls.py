"""The secure transport connection profiles of PS3.15 Annex B as data, and contexts of Python's ssl module made from them.

Kept in both profiles: TLS from the first byte, 1.2 and 1.3 only (RFC 8996), forward secrecy and authenticated encryption only
(RFC 9325 4.2), no compression, no renegotiation, no session tickets on servers.
Python's ssl module cannot choose TLS 1.3 suites, groups or signature algorithms: OpenSSL's own (none weaker than the profiles ask
for; the CCM suites of B.13 are missing) stand there. The gateway, which uses pyOpenSSL, follows the profile to the letter.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import ConfigError
from securepacs.trust.files import load_certificates, load_crls, read_file

SECURITY_LEVEL = 2  # OpenSSL's: RSA and DH of 2048 bits or more, curves of 224 or more, no SHA-1 or MD5 in certificates
DICOM_TLS_PORT = 2762  # PS3.8 9.1.2: recommended for DICOM over TLS

_GCM_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
_CHACHA_SUITES = ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305")
_TLS13_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_GROUPS = ("X25519MLKEM768", "X25519", "secp256r1", "secp384r1", "secp521r1")
_SIGNATURE_ALGORITHMS = (
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512",
    "rsa_pss_rsae_sha256",
    "rsa_pss_rsae_sha384",
    "rsa_pss_rsae_sha512",
    "rsa_pss_pss_sha256",
    "rsa_pss_pss_sha384",
    "rsa_pss_pss_sha512",
    "rsa_pkcs1_sha256",
    "rsa_pkcs1_sha384",
    "rsa_pkcs1_sha512",
)


@dataclass(frozen=True, slots=True)
class TlsProfile:
    """One profile of Annex B. Suites are OpenSSL's names in order of preference; groups and signature algorithms IANA's.

    `server_versions` must all be offered by a server; a client needs at least one. `minimum_ec_bits` and `minimum_rsa_bits` hold
    for the keys of certificates.
    """

    name: str
    clause: str
    title: str
    server_versions: tuple[ssl.TLSVersion, ...]
    tls12_suites: tuple[str, ...]
    tls13_suites: tuple[str, ...]
    groups: tuple[str, ...] = _GROUPS
    signature_algorithms: tuple[str, ...] = _SIGNATURE_ALGORITHMS
    minimum_rsa_bits: int = 2048
    minimum_ec_bits: int = 256

    @property
    def cipher_string(self) -> str:
        """The TLS 1.2 suites in OpenSSL's syntax, with the security level."""
        return ":".join(self.tls12_suites) + f":@SECLEVEL={SECURITY_LEVEL}"


PROFILES: Mapping[str, TlsProfile] = MappingProxyType(
    {
        "B.12": TlsProfile(
            name="B.12",
            clause="PS3.15 B.12",
            title="BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile",
            server_versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
            tls12_suites=_GCM_SUITES + _CHACHA_SUITES,
            tls13_suites=_TLS13_SUITES,
        ),
        "B.13": TlsProfile(
            name="B.13",
            clause="PS3.15 B.13",
            title="Modified BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile",
            server_versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
            tls12_suites=(
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                "ECDHE-RSA-AES256-GCM-SHA384",
                "ECDHE-ECDSA-AES256-CCM",
                "ECDHE-ECDSA-AES256-CCM8",
                *_CHACHA_SUITES,
                "ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-AES128-CCM",
                "ECDHE-ECDSA-AES128-CCM8",
            ),
            tls13_suites=(
                "TLS_AES_256_GCM_SHA384",
                "TLS_CHACHA20_POLY1305_SHA256",
                "TLS_AES_128_GCM_SHA256",
                "TLS_AES_128_CCM_SHA256",
                "TLS_AES_128_CCM_8_SHA256",
            ),
            groups=("X25519", "secp256r1", "secp384r1", "secp521r1"),
        ),
    }
)
DEFAULT_PROFILE = "B.12"


def profile(name: str) -> TlsProfile:
    """Return the profile called `name` (B.12 or B.13); raises ConfigError for any other, also for the retired ones."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigError(
            f"unknown TLS profile {name!r}", key="tls_profile", hint="one of " + ", ".join(PROFILES), standard="PS3.15 Annex B"
        ) from None


def server_context(
    profile_name: str = DEFAULT_PROFILE,
    *,
    certificate: Path,
    key: Path,
    trust: Iterable[Path],
    crls: Iterable[Path] = (),
    password: Callable[[], bytes] | None = None,
    require_client_certificate: bool = True,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Make a server context of a profile: PEM `certificate` (its chain may follow) and `key`, clients verified against `trust`.

    `trust` and `crls` are files or folders, PEM or DER. With `crls` every certificate of a client's chain must be covered by a
    current one (RFC 5280 6.3). `require_client_certificate=False` asks no client for a certificate: mutual authentication is then
    up to the caller. Raises ConfigError whose key is the name of the argument.
    Not switched off, because Python cannot: resumption by session ID in TLS 1.2 within this context; a server that must see every
    certificate afresh refuses sockets with `session_reused`.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, profile(profile_name), alpn)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_SINGLE_ECDH_USE
    context.num_tickets = 0
    _load_own(context, certificate, key, password)
    context.verify_mode = ssl.CERT_NONE
    if require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_trust(context, trust, crls)
    return context


def client_context(
    profile_name: str = DEFAULT_PROFILE,
    *,
    trust: Iterable[Path],
    certificate: Path | None = None,
    key: Path | None = None,
    crls: Iterable[Path] = (),
    password: Callable[[], bytes] | None = None,
    check_hostname: bool = True,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Make a client context of a profile; with `certificate` and `key` it authenticates itself (IHE ITI-19 wants both sides to).

    The server is always verified against `trust`. `check_hostname=False` is for nodes that are known by their certificate and not
    by a name, as ITI-19 without its FQDN option allows. The rest is as for `server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, profile(profile_name), alpn)
    context.check_hostname = check_hostname
    context.verify_mode = ssl.CERT_REQUIRED
    if (certificate is None) != (key is None):
        raise ConfigError("a certificate and its key must be named together", key="key" if key is None else "certificate")
    if certificate is not None and key is not None:
        _load_own(context, certificate, key, password)
    _load_trust(context, trust, crls)
    return context


def _context(protocol: ssl._SSLMethod, wanted: TlsProfile, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = min(wanted.server_versions)
    context.maximum_version = max(wanted.server_versions)
    context.set_ciphers(wanted.cipher_string)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path, password: Callable[[], bytes] | None) -> None:
    """Load certificate and key. Without a password an encrypted key is an error: OpenSSL would ask on the terminal."""
    if b"-----BEGIN CERTIFICATE" not in read_file(certificate, key="certificate"):
        raise ConfigError(f"{certificate}: not a certificate in PEM", key="certificate")
    found = read_file(key, key="key")
    if b"PRIVATE KEY-----" not in found:
        raise ConfigError(f"{key}: not a private key in PEM", key="key")
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in found or b"Proc-Type: 4,ENCRYPTED" in found
    if encrypted and password is None:
        raise ConfigError(f"{key}: the key is encrypted and no password is given", key="key")
    try:
        context.load_cert_chain(certificate, key, password=password or b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key}: not the key of {certificate}", key="key") from None
        if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            raise ConfigError(f"{certificate}: too weak for the profile ({error.reason})", key="certificate") from None
        if encrypted:
            raise ConfigError(f"{key}: the password does not open the key", key="key") from None
        raise ConfigError(
            f"{certificate} and {key}: cannot be loaded ({error.reason or 'damaged PEM'})", key="certificate"
        ) from None


def _load_trust(context: ssl.SSLContext, trust: Iterable[Path], crls: Iterable[Path]) -> None:
    anchors = load_certificates(trust, key="trust")
    context.load_verify_locations(cadata="".join(anchor.public_bytes(Encoding.PEM).decode("ascii") for anchor in anchors))
    # An anchor need not be self-signed: nodes may be trusted by their own installed certificate (IHE ITI-19).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    lists = load_crls(crls, key="crls", required=False)
    if lists:
        _load_crls(context, lists)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN | ssl.VERIFY_CRL_CHECK_LEAF


def _load_crls(context: ssl.SSLContext, lists: Sequence[x509.CertificateRevocationList]) -> None:
    """Hand the CRLs over in a file, the only way Python's ssl module takes them."""
    with tempfile.NamedTemporaryFile(prefix="securepacs-crl-", suffix=".pem") as file:
        file.write(b"".join(crl.public_bytes(Encoding.PEM) for crl in lists))
        file.flush()
        context.load_verify_locations(cafile=file.name)
