"""A ClientHello of any version and what a server answers in clear (RFC 2246, 5246, 8446). Pure; for looking, not for talking.

No library offers what modern ones have rightly forgotten (RC4, 3DES, export, NULL), so a question about them is built by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from securepacs.errors import MalformedError

TLS13, TLS12, TLS11, TLS10 = 0x0304, 0x0303, 0x0302, 0x0301
VERSION_NAMES = MappingProxyType({TLS13: "TLS 1.3", TLS12: "TLS 1.2", TLS11: "TLS 1.1", TLS10: "TLS 1.0", 0x0300: "SSL 3.0"})
GROUPS = MappingProxyType(
    {
        0x11EC: "X25519MLKEM768",
        0x001D: "x25519",
        0x0017: "secp256r1",
        0x0018: "secp384r1",
        0x0019: "secp521r1",
        0x001E: "x448",
        0x0100: "ffdhe2048",
        0x0101: "ffdhe3072",
        0x0102: "ffdhe4096",
        0x0015: "secp224r1",
        0x0013: "secp192r1",
    }
)
WEAK_GROUPS = frozenset({"secp224r1", "secp192r1"})
SUITES = MappingProxyType(
    {
        0x1301: "TLS_AES_128_GCM_SHA256",
        0x1302: "TLS_AES_256_GCM_SHA384",
        0x1303: "TLS_CHACHA20_POLY1305_SHA256",
        0x1304: "TLS_AES_128_CCM_SHA256",
        0x1305: "TLS_AES_128_CCM_8_SHA256",
        0xC02B: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        0xC02C: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        0xC02F: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        0xC030: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        0xCCA8: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xCCA9: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        0xC0AC: "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
        0xC0AD: "TLS_ECDHE_ECDSA_WITH_AES_256_CCM",
        0xC0AE: "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        0xC0AF: "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8",
        0xC086: "TLS_ECDHE_ECDSA_WITH_CAMELLIA_128_GCM_SHA256",
        0xC087: "TLS_ECDHE_ECDSA_WITH_CAMELLIA_256_GCM_SHA384",
        0xC08A: "TLS_ECDHE_RSA_WITH_CAMELLIA_128_GCM_SHA256",
        0xC08B: "TLS_ECDHE_RSA_WITH_CAMELLIA_256_GCM_SHA384",
        0x009E: "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256",
        0x009F: "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384",
        0xCCAA: "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xC09E: "TLS_DHE_RSA_WITH_AES_128_CCM",
        0xC09F: "TLS_DHE_RSA_WITH_AES_256_CCM",
        0xC0A2: "TLS_DHE_RSA_WITH_AES_128_CCM_8",
        0xC0A3: "TLS_DHE_RSA_WITH_AES_256_CCM_8",
        0xC07C: "TLS_DHE_RSA_WITH_CAMELLIA_128_GCM_SHA256",
        0xC07D: "TLS_DHE_RSA_WITH_CAMELLIA_256_GCM_SHA384",
        0xC023: "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        0xC024: "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
        0xC027: "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        0xC028: "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384",
        0xC009: "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        0xC00A: "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        0xC013: "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        0xC014: "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        0x0067: "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256",
        0x006B: "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256",
        0x0033: "TLS_DHE_RSA_WITH_AES_128_CBC_SHA",
        0x0039: "TLS_DHE_RSA_WITH_AES_256_CBC_SHA",
        0x009C: "TLS_RSA_WITH_AES_128_GCM_SHA256",
        0x009D: "TLS_RSA_WITH_AES_256_GCM_SHA384",
        0x003C: "TLS_RSA_WITH_AES_128_CBC_SHA256",
        0x003D: "TLS_RSA_WITH_AES_256_CBC_SHA256",
        0x002F: "TLS_RSA_WITH_AES_128_CBC_SHA",
        0x0035: "TLS_RSA_WITH_AES_256_CBC_SHA",
        0x0041: "TLS_RSA_WITH_CAMELLIA_128_CBC_SHA",
        0x0084: "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA",
        0xC008: "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA",
        0xC012: "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        0x0016: "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA",
        0x000A: "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        0xC007: "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        0xC011: "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        0x0005: "TLS_RSA_WITH_RC4_128_SHA",
        0x0004: "TLS_RSA_WITH_RC4_128_MD5",
        0x0009: "TLS_RSA_WITH_DES_CBC_SHA",
        0x0003: "TLS_RSA_EXPORT_WITH_RC4_40_MD5",
        0x0008: "TLS_RSA_EXPORT_WITH_DES40_CBC_SHA",
        0xC006: "TLS_ECDHE_ECDSA_WITH_NULL_SHA",
        0xC010: "TLS_ECDHE_RSA_WITH_NULL_SHA",
        0x003B: "TLS_RSA_WITH_NULL_SHA256",
        0x0002: "TLS_RSA_WITH_NULL_SHA",
        0x0001: "TLS_RSA_WITH_NULL_MD5",
        0x0034: "TLS_DH_anon_WITH_AES_128_CBC_SHA",
        0x00A6: "TLS_DH_anon_WITH_AES_128_GCM_SHA256",
        0xC018: "TLS_ECDH_anon_WITH_AES_128_CBC_SHA",
    }
)

_HELLO, _CERTIFICATE, _KEY_EXCHANGE, _REQUEST, _DONE = 2, 11, 12, 13, 14
_HANDSHAKE, _ALERT = 22, 21
_NAMED_CURVE = 3
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446 4.1.3
_SIGNATURES = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0809, 0x080A, 0x080B, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)
MAX_FLIGHT = 256 * 1024


def client_hello(version: int, suites: Iterable[int], groups: Iterable[int], *, server_name: str = "", random: bytes) -> bytes:
    """Return a record with a ClientHello (RFC 8446 4.1.2, RFC 5246 7.4.1.2) for one version; `random` are 64 bytes.

    For TLS 1.3 no key is shared, so the server names suite and group in a HelloRetryRequest, and nothing is ever encrypted.
    """
    codes, wanted = list(suites), list(groups)
    extensions = [(10, _vector16(wanted)), (11, b"\x01\x00"), (13, _vector16(_SIGNATURES)), (0xFF01, b"\x00"), (23, b"")]
    if version == TLS13:
        extensions += [(43, b"\x02" + struct.pack(">H", TLS13)), (51, b"\x00\x00")]
    if server_name:
        name = server_name.encode("idna")
        extensions.append((0, struct.pack(">HBH", len(name) + 3, 0, len(name)) + name))
    encoded = b"".join(struct.pack(">HH", kind, len(body)) + body for kind, body in extensions)
    session = random[32:64] if version == TLS13 else b""
    body = struct.pack(">H", min(version, TLS12)) + random[:32] + bytes([len(session)]) + session
    body += _vector16(codes) + b"\x01\x00" + struct.pack(">H", len(encoded)) + encoded
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return struct.pack(">BHH", _HANDSHAKE, TLS10, len(message)) + message


def _vector16(values: Iterable[int]) -> bytes:
    packed = b"".join(struct.pack(">H", value) for value in values)
    return struct.pack(">H", len(packed)) + packed


@dataclass(slots=True)
class Flight:
    """What a server said in clear up to the end of its first flight; `alert` is set when it refused."""

    version: int = 0
    suite: int = 0
    group: int = 0
    dh_bits: int = 0
    certificates: list[bytes] = field(default_factory=list)
    asks_client: bool = False
    alert: int | None = None
    complete: bool = False


class FlightReader:
    """Reads a server's first flight; any split of the bytes gives the same. Raises MalformedError for what is no TLS."""

    def __init__(self) -> None:
        self.flight = Flight()
        self._raw = b""
        self._messages = b""
        self._total = 0

    def feed(self, data: bytes) -> bool:
        """Take bytes; True when the flight is complete or refused."""
        self._raw += data
        self._total += len(data)
        if self._total > MAX_FLIGHT:
            raise MalformedError("the answer of the server never ends", offset=MAX_FLIGHT)
        while len(self._raw) >= 5 and not self.flight.complete:
            kind, version, length = struct.unpack_from(">BHH", self._raw)
            if kind not in (_HANDSHAKE, _ALERT) or version >> 8 != 3:
                raise MalformedError("the answer is not TLS", offset=self._total - len(self._raw))
            if len(self._raw) < 5 + length:
                return False
            body, self._raw = self._raw[5 : 5 + length], self._raw[5 + length :]
            if kind == _ALERT:
                if len(body) == 2 and body[0] == 1:  # a warning, such as unrecognized_name
                    continue
                self.flight.alert = body[1] if len(body) == 2 else -1
                self.flight.complete = True
            else:
                self._messages += body
                self._read_messages()
        return self.flight.complete

    def _read_messages(self) -> None:
        while len(self._messages) >= 4 and not self.flight.complete:
            length = int.from_bytes(self._messages[1:4], "big")
            if len(self._messages) < 4 + length:
                return
            kind, body, self._messages = self._messages[0], self._messages[4 : 4 + length], self._messages[4 + length :]
            try:
                _read_message(self.flight, kind, body)
            except (struct.error, IndexError):
                raise MalformedError("a handshake message is cut off", standard="RFC 5246 7.4") from None


def _read_message(flight: Flight, kind: int, body: bytes) -> None:
    if kind == _HELLO:
        _read_server_hello(flight, body)
        flight.complete = flight.version == TLS13
    elif kind == _CERTIFICATE:
        position, end = 3, 3 + int.from_bytes(body[:3], "big")
        while position < end:
            size = int.from_bytes(body[position : position + 3], "big")
            flight.certificates.append(body[position + 3 : position + 3 + size])
            position += 3 + size
    elif kind == _KEY_EXCHANGE:
        name = SUITES.get(flight.suite, "")
        if "_ECDH" in name and body[0] == _NAMED_CURVE:
            flight.group = struct.unpack_from(">H", body, 1)[0]
        elif "_DH" in name:
            size = struct.unpack_from(">H", body)[0]
            flight.dh_bits = int.from_bytes(body[2 : 2 + size], "big").bit_length()
    elif kind == _REQUEST:
        flight.asks_client = True
    elif kind == _DONE:
        flight.complete = True


def _read_server_hello(flight: Flight, body: bytes) -> None:
    flight.version = struct.unpack_from(">H", body)[0]
    retry = body[2:34] == _RETRY
    position = 35 + body[34]
    flight.suite = struct.unpack_from(">H", body, position)[0]
    position += 5
    while position + 4 <= len(body):
        kind, size = struct.unpack_from(">HH", body, position)
        value = body[position + 4 : position + 4 + size]
        if kind == 43:
            flight.version = struct.unpack(">H", value)[0]
        elif kind == 51 and retry:
            flight.group = struct.unpack(">H", value)[0]
        position += 4 + size


def codes_of(names: Sequence[str]) -> list[int]:
    """Return the code points of suites by their IANA names."""
    by_name = {name: code for code, name in SUITES.items()}
    return [by_name[name] for name in names]
