"""Which secure transport profile of PS3.15 Annex B a server meets, and what it would have to change. Looks, never logs in.

One connection a question, up to eighty in all, each of which the server may record as a failed handshake.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from securepacs.errors import MalformedError, Unavailable
from securepacs.tls_hello import (
    GROUPS,
    SUITES,
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    VERSION_NAMES,
    WEAK_GROUPS,
    Flight,
    FlightReader,
    client_hello,
    codes_of,
)
from securepacs.trust.usage import key_weakness

SECONDS = 5.0
_TLS13_SUITES = [code for code in SUITES if code >> 8 == 0x13]
_OLD_SUITES = [code for code in SUITES if code >> 8 != 0x13]
_BROKEN = ("_NULL_", "_RC4_", "_EXPORT_", "_anon_", "_DES_", "_3DES_", "_MD5")
_RECOMMENDED = (  # RFC 9325 4.2
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
)
_B10 = tuple(f"TLS_{kx}_RSA_WITH_AES_{size}" for kx in ("DHE", "ECDHE") for size in ("128_GCM_SHA256", "256_GCM_SHA384"))


@dataclass(slots=True)
class Findings:
    """What a server offers. `plain` says what answered instead of TLS, empty when TLS did."""

    host: str
    port: int
    plain: str = ""
    versions: list[int] = field(default_factory=list)
    suites: list[str] = field(default_factory=list)
    tls13_suites: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    dh_bits: int = 0
    chain: list[x509.Certificate] = field(default_factory=list)
    asks_client: bool | None = None


@dataclass(frozen=True, slots=True)
class ProfileVerdict:
    """Whether one profile is met; `changes` what must change for it, `advice` what should."""

    profile: str
    title: str
    met: bool
    changes: tuple[str, ...]
    advice: tuple[str, ...] = ()


class Prober:
    """Asks one server. `seconds` is the patience for each answer."""

    def __init__(self, host: str, port: int, *, server_name: str = "", seconds: float = SECONDS) -> None:
        self.host, self.port, self.seconds = host, port, seconds
        self._name = server_name or ("" if _is_address(host) else host)

    def probe(self) -> Findings:
        """Return what the server offers. Raises Unavailable when nothing answers there."""
        found = Findings(self.host, self.port)
        self._connect().close()
        answers = {version: self._ask(version, SUITES, GROUPS) for version in (TLS13, TLS12, TLS11, TLS10)}
        if not any(flight is not None and (flight.version or flight.alert is not None) for flight in answers.values()):
            found.plain = self._plain()
            return found
        found.versions = [version for version, flight in answers.items() if flight is not None and flight.version == version]
        if TLS13 in found.versions:
            found.tls13_suites = self._suites(TLS13, _TLS13_SUITES)
        old = next((version for version in (TLS12, TLS11, TLS10) if version in found.versions), None)
        if old is not None:
            self._look_at_old(found, old, answers[old])
        if TLS13 in found.versions:
            found.groups = list(dict.fromkeys([*self._groups(TLS13, _TLS13_SUITES), *found.groups]))
        if not found.chain:
            found.chain = self._certificate()
        return found

    def _look_at_old(self, found: Findings, version: int, first: Flight | None) -> None:
        for each in [one for one in found.versions if one != TLS13]:
            found.suites = list(dict.fromkeys([*found.suites, *self._suites(each, _OLD_SUITES)]))
        ephemeral = codes_of([name for name in found.suites if "_ECDHE_" in name])
        if ephemeral:
            found.groups = self._groups(version, ephemeral)
        finite = codes_of([name for name in found.suites if "_DHE_" in name])
        if finite and (flight := self._ask(version, finite, GROUPS)) is not None:
            found.dh_bits = flight.dh_bits
        if first is not None:
            with contextlib.suppress(ValueError):
                found.chain = [x509.load_der_x509_certificate(raw) for raw in first.certificates]
            found.asks_client = first.asks_client

    def _suites(self, version: int, candidates: Iterable[int]) -> list[str]:
        """Offer all, take away what was chosen, and again, until the server chooses nothing: in its order of preference or ours."""
        left, chosen = list(candidates), []
        while left:
            flight = self._ask(version, left, GROUPS)
            if flight is None or flight.version != version or flight.suite not in left:
                break
            left.remove(flight.suite)
            chosen.append(SUITES[flight.suite])
        return chosen

    def _groups(self, version: int, suites: Iterable[int]) -> list[str]:
        left, chosen, offered = list(GROUPS), [], list(suites)
        while left:
            flight = self._ask(version, offered, left)
            if flight is None or flight.version != version or flight.group not in left:
                break
            left.remove(flight.group)
            chosen.append(GROUPS[flight.group])
        return chosen

    def _ask(self, version: int, suites: Iterable[int], groups: Iterable[int]) -> Flight | None:
        """Return the server's flight as far as it came; None when it is not TLS or nothing came."""
        reader = FlightReader()
        hello = client_hello(version, suites, groups, server_name=self._name, random=secrets.token_bytes(64))
        with self._connect() as sock:
            try:
                sock.sendall(hello)
                while data := sock.recv(65_536):
                    if reader.feed(data):
                        break
            except (OSError, MalformedError):
                return None
        flight = reader.flight
        return flight if flight.version or flight.alert is not None else None

    def _certificate(self) -> list[x509.Certificate]:
        """Complete a handshake where the certificate is not shown in clear; nobody is trusted, nothing is sent."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._connect() as plain, context.wrap_socket(plain, server_hostname=self._name or None) as secure:
                raw = secure.getpeercert(binary_form=True)
        except (OSError, Unavailable):
            return []
        return [x509.load_der_x509_certificate(raw)] if raw else []

    def _plain(self) -> str:
        """Say what answers there instead of TLS."""
        with self._connect() as sock:
            try:
                sock.sendall(_associate_request())
                answer = sock.recv(10)
            except OSError:
                answer = b""
        if len(answer) >= 2 and answer[0] in (2, 3, 7) and answer[1] == 0:
            return "plain DICOM: an association request in clear is answered"
        return "something that speaks neither TLS nor plain DICOM"

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection((self.host, self.port), self.seconds)
        except OSError as error:
            raise Unavailable(
                f"{self.host} port {self.port} does not answer: {error.strerror or error}", hint="is the address right?"
            ) from None


def probe(host: str, port: int, *, server_name: str = "", seconds: float = SECONDS) -> Findings:
    """Look at the TLS server on a port (PS3.15 Annex B). Raises Unavailable when nothing answers."""
    return Prober(host, port, server_name=server_name, seconds=seconds).probe()


def judge(found: Findings) -> list[ProfileVerdict]:
    """Compare findings with the profiles of PS3.15 Annex B, current ones first. Not looked at: path, revocation, host name."""
    if found.plain:
        return [ProfileVerdict(name, title, False, ("switch TLS on, from the first byte",)) for name, title, _ in _PROFILES]
    verdicts = []
    for name, title, check in _PROFILES:
        changes, advice = check(found)
        verdicts.append(ProfileVerdict(name, title, not changes, tuple(changes), tuple(advice)))
    return verdicts


Demands = tuple[list[str], list[str]]


def _old_versions(found: Findings) -> list[str]:
    return [f"switch {VERSION_NAMES[version]} off" for version in (TLS11, TLS10) if version in found.versions]


def _without(found: Findings, *parts: str) -> list[str]:
    bad = [name for name in found.suites if any(part in name for part in parts)]
    return [f"remove the broken suites {', '.join(bad)}"] if bad else []


def _key_kind(found: Findings) -> str:
    key = found.chain[0].public_key() if found.chain else None
    return "ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else "RSA"


def _certificates(found: Findings) -> list[str]:
    changes = []
    for certificate in found.chain:
        weak = key_weakness(certificate, minimum_rsa_bits=2048)
        name = certificate.subject.rfc4514_string()
        if weak:
            changes.append(f"replace the certificate {name}: it has {weak}")
        algorithm = certificate.signature_hash_algorithm
        if certificate.issuer != certificate.subject and algorithm is not None and algorithm.name in ("md5", "sha1"):
            changes.append(f"replace the certificate {name}: it is signed with {algorithm.name.upper()}")
    return changes


def _sizes(found: Findings) -> list[str]:
    weak = [name for name in found.groups if name in WEAK_GROUPS]
    changes = [f"remove the groups {', '.join(weak)}"] if weak else []
    if 0 < found.dh_bits < 2048:
        changes.append(f"use DH parameters of 2048 bits or more, not {found.dh_bits}")
    return changes


def _b12(found: Findings) -> Demands:
    changes = [] if TLS12 in found.versions else ["offer TLS 1.2"]
    fitting = [name for name in _RECOMMENDED if f"_{_key_kind(found)}_" in name]
    if TLS12 in found.versions and not set(fitting) & set(found.suites):
        changes.append(f"offer {' or '.join(fitting)}")
    changes += [*_old_versions(found), *_without(found, *_BROKEN), *_sizes(found), *_certificates(found)]
    advice = [] if TLS13 in found.versions else ["offer TLS 1.3 too"]
    if any(name.startswith("TLS_RSA_WITH_") for name in found.suites):
        advice.append("remove suites with RSA key exchange: no forward secrecy (RFC 9325 4.1)")
    if any("_CBC_" in name for name in found.suites):
        advice.append("remove CBC suites (RFC 9325 4.2)")
    if any("_DHE_" in name for name in found.suites):
        advice.append("prefer ECDHE to DHE (RFC 9325 4.1)")
    if found.asks_client is False:
        advice.append("ask for a client certificate: anybody may connect")
    return changes, advice


def _b13(found: Findings) -> Demands:
    from securepacs.tls import PROFILES

    changes = [f"offer {VERSION_NAMES[version]}" for version in (TLS13, TLS12) if version not in found.versions]
    kind = _key_kind(found)
    by_openssl = {_openssl_name(name): name for name in SUITES.values()}
    demanded = [by_openssl[name] for name in PROFILES["B.13"].tls12_suites]
    missing = [name for name in demanded if f"_{kind}_" in name and name not in found.suites] if TLS12 in found.versions else []
    missing += [name for name in PROFILES["B.13"].tls13_suites if name not in found.tls13_suites] if TLS13 in found.versions else []
    if missing:
        changes.append(f"offer {', '.join(missing)}")
    closed = {name for name in SUITES.values() if "_CBC_" not in name and ("_ECDHE_" in name or "_DHE_" in name)}
    outside = [name for name in found.suites if name not in closed or any(part in name for part in _BROKEN)]
    if outside:
        changes.append(f"remove {', '.join(outside)}")
    changes += [*_old_versions(found), *_sizes(found), *_certificates(found)]
    if "X25519MLKEM768" in found.groups:
        changes.append("remove the hybrid group X25519MLKEM768, which the closed list does not know")
    return changes, []


def _b10(found: Findings) -> Demands:
    changes = [] if TLS12 in found.versions else ["offer TLS 1.2"]
    missing = [name for name in _B10 if name not in found.suites]
    if missing:
        changes.append(f"offer {', '.join(missing)}")
    return [*changes, *_old_versions(found), *_without(found, *_BROKEN), *_sizes(found)], []


def _b9(found: Findings) -> Demands:
    changes = [] if TLS12 in found.versions else ["offer TLS 1.2"]
    return [*changes, *_without(found, "_NULL_", "_RC4_", "_EXPORT_", "_anon_"), *_sizes(found)], []


def _retired(found: Findings, *demanded: str) -> Demands:
    missing = [name for name in demanded if name not in found.suites]
    return ([f"offer {', '.join(missing)}; better: meet B.12"] if missing else []), []


def _b3(found: Findings) -> Demands:
    return _retired(found, "TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_3DES_EDE_CBC_SHA")


def _b1(found: Findings) -> Demands:
    return _retired(found, "TLS_RSA_WITH_3DES_EDE_CBC_SHA")


_PROFILES = (
    ("B.12", "BCP 195 RFC 8996, 9325", _b12),
    ("B.13", "Modified BCP 195 RFC 8996, 9325", _b13),
    ("B.10", "Non-Downgrading BCP 195 (retired)", _b10),
    ("B.9", "BCP 195 (retired)", _b9),
    ("B.3", "AES TLS (retired)", _b3),
    ("B.1", "Basic TLS (retired)", _b1),
)


def _openssl_name(name: str) -> str:
    """Return OpenSSL's name of a suite of TLS 1.2 by IANA's."""
    short = name.removeprefix("TLS_").replace("_WITH_", "_").replace("AES_128", "AES128").replace("AES_256", "AES256")
    short = short.replace("CCM_8", "CCM8").replace("CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305")
    return short.replace("_", "-")


def describe_key(certificate: x509.Certificate) -> str:
    """Return kind and size of a key."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return f"EC {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return False


def _associate_request() -> bytes:
    """Return a minimal A-ASSOCIATE-RQ for Verification (PS3.8 9.3.2): who answers it speaks DICOM in clear."""

    def item(kind: int, body: bytes) -> bytes:
        return bytes([kind, 0]) + len(body).to_bytes(2, "big") + body

    abstract, transfer = item(0x30, b"1.2.840.10008.1.1"), item(0x40, b"1.2.840.10008.1.2")
    user = item(0x50, item(0x51, (16_384).to_bytes(4, "big")) + item(0x52, b"2.25.1"))
    body = b"\x00\x01\x00\x00" + b"ANY-SCP".ljust(16) + b"SECUREPACS".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\x01\x00\x00\x00" + abstract + transfer) + user
    return b"\x01\x00" + len(body).to_bytes(4, "big") + body
