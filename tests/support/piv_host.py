"""Runs inside its own namespaces (started by `piv_card.py`): pcscd with vpcd's virtual reader, and a PIV card connected to it.

Reads commands from stdin, one a line (pull, yank, insert, state), answers each with one line of JSON, and ends with stdin.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.support.net import wait_until

READER_PORT = 35963
READER_LIBRARY = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"
AID = bytes.fromhex("A000000308000010000100")
ATR = bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940")  # the shape of a PIV token's answer to reset
CONTAINERS = {"9a": "5fc105", "9c": "5fc10a", "9d": "5fc10b", "9e": "5fc101"}  # SP 800-73-4 part 1 table 3
TRIES = 3
REMOVED = b"Card Removed From"
OK, MORE = b"\x90\x00", 0x61
WRONG_LENGTH_OR_DATA, NOT_FOUND, NO_REFERENCE = b"\x6a\x80", b"\x6a\x82", b"\x6a\x88"
BLOCKED, NOT_SATISFIED, UNKNOWN_INSTRUCTION, FAULT = b"\x69\x83", b"\x69\x82", b"\x6d\x00", b"\x6f\x00"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def tlv(tag: str, value: bytes) -> bytes:
    size = len(value)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else bytes([0x82, size >> 8, size & 0xFF])
    return bytes.fromhex(tag) + length + value


def read_tlv(data: bytes) -> dict[str, bytes]:
    found, at = {}, 0
    while at < len(data):
        end = at + (2 if data[at] & 0x1F == 0x1F else 1)
        tag, size, at = data[at:end].hex(), data[end], end + 1
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        found[tag] = data[at : at + size]
        at += size
    return found


def raw_rsa(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    """The bare private key operation (RFC 8017 5.1.2): padding is the host's business with PIV."""
    n = key.private_numbers()
    value = int.from_bytes(message, "big")
    m1, m2 = pow(value, n.dmp1, n.p), pow(value, n.dmq1, n.q)
    return (m2 + n.iqmp * (m1 - m2) % n.p * n.q).to_bytes((key.key_size + 7) // 8, "big")


class Card:
    """The card application. A PIN counts for everything but 9C, which wants one right before every signature."""

    def __init__(self, keys: dict[str, tuple[Key, bytes]], pin: bytes, puk: bytes) -> None:
        self.keys, self.pin, self.puk = keys, pin, puk
        self.tries = self.puk_tries = TRIES
        self.counts = {"verify": 0, "wrong": 0, "signed": 0}
        self.reset()
        fascn = bytes.fromhex("d4e739da739ced39ce739d836858210842108421c84210c3eb")  # 9999: the GUID names the card
        chuid = tlv("30", fascn) + tlv("34", os.urandom(16)) + tlv("35", b"20391231") + tlv("3e", b"") + tlv("fe", b"")
        self.objects = {"5fc102": tlv("53", chuid), "7e": tlv("7e", tlv("4f", AID) + tlv("5f2f", bytes.fromhex("4000")))}
        for slot, (_, certificate) in keys.items():
            self.objects[CONTAINERS[slot]] = tlv("53", tlv("70", certificate) + tlv("71", b"\0") + tlv("fe", b""))

    def reset(self) -> None:
        self.selected = self.verified = self.fresh = False
        self.chained = self.waiting = b""

    def answer(self, apdu: bytes) -> bytes:
        instruction, p1, p2 = apdu[1:4]
        data, expected = body_of(apdu)
        if instruction == 0xC0:
            return self._next(expected)
        if apdu[0] & 0x10:  # command chaining
            self.chained += data
            return OK
        data, self.chained, self.waiting = self.chained + data, b"", b""
        if instruction == 0xA4:
            return self._select(p1, data, expected)
        handler = {0x20: self._verify, 0x24: self._change, 0x2C: self._unblock, 0xCB: self._get, 0x87: self._sign}.get(instruction)
        if handler is None or not self.selected:
            return UNKNOWN_INSTRUCTION
        reply = handler(p1, p2, data)
        if len(reply) == 2:
            return reply
        self.waiting = reply
        return self._next(expected)

    def _next(self, expected: int) -> bytes:
        part, self.waiting = self.waiting[:expected], self.waiting[expected:]
        return part + (bytes([MORE, min(len(self.waiting), 255)]) if self.waiting else OK)

    def _select(self, p1: int, data: bytes, expected: int) -> bytes:
        if p1 != 4 or len(data) < 5 or not AID.startswith(data):
            return NOT_FOUND
        self.selected, self.verified = True, False
        self.waiting = tlv("61", tlv("4f", AID[5:]) + tlv("79", tlv("4f", AID[:5])))
        return self._next(expected)

    def _verify(self, p1: int, p2: int, data: bytes) -> bytes:
        if p2 != 0x80:
            return NO_REFERENCE
        if p1 == 0xFF:
            self.verified = False
            return OK
        if not self.tries:
            return BLOCKED
        if not data:
            return OK if self.verified else bytes([0x63, 0xC0 | self.tries])
        self.counts["verify"] += 1
        if self._wrong(data):
            return BLOCKED if not self.tries else bytes([0x63, 0xC0 | self.tries])
        self.verified = self.fresh = True
        return OK

    def _wrong(self, given: bytes) -> bool:
        if given.rstrip(b"\xff") == self.pin:
            self.tries = TRIES
            return False
        self.tries -= 1
        self.counts["wrong"] += 1
        self.verified = self.fresh = False
        return True

    def _change(self, p1: int, p2: int, data: bytes) -> bytes:
        if p2 != 0x80:
            return NO_REFERENCE
        if not self.tries:
            return BLOCKED
        if self._wrong(data[:8]):
            return BLOCKED if not self.tries else bytes([0x63, 0xC0 | self.tries])
        self.pin = data[8:].rstrip(b"\xff")
        return OK

    def _unblock(self, p1: int, p2: int, data: bytes) -> bytes:
        if not self.puk_tries:
            return BLOCKED
        if data[:8].rstrip(b"\xff") != self.puk:
            self.puk_tries -= 1
            return BLOCKED if not self.puk_tries else bytes([0x63, 0xC0 | self.puk_tries])
        self.pin = data[8:].rstrip(b"\xff")
        self.tries = self.puk_tries = TRIES
        return OK

    def _get(self, p1: int, p2: int, data: bytes) -> bytes:
        return self.objects.get(read_tlv(data).get("5c", b"").hex(), NOT_FOUND)

    def _sign(self, algorithm: int, slot: int, data: bytes) -> bytes:
        if f"{slot:02x}" not in self.keys:
            return NO_REFERENCE
        if (slot != 0x9E and not self.verified) or (slot == 0x9C and not self.fresh):
            return NOT_SATISFIED
        self.fresh = False
        challenge = read_tlv(read_tlv(data)["7c"]).get("81")
        if not challenge:
            return WRONG_LENGTH_OR_DATA
        key, _ = self.keys[f"{slot:02x}"]
        self.counts["signed"] += 1
        if isinstance(key, rsa.RSAPrivateKey):
            return tlv("7c", tlv("82", raw_rsa(key, challenge)))
        digest = {20: hashes.SHA1(), 32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}[len(challenge)]
        return tlv("7c", tlv("82", key.sign(challenge, ec.ECDSA(Prehashed(digest)))))


def body_of(apdu: bytes) -> tuple[bytes, int]:
    """Return command data and the greatest number of bytes expected (ISO 7816-4 5.1, short and extended)."""
    body = apdu[4:]
    if len(body) <= 1:
        return b"", (body[0] or 256) if body else 256
    if body[0]:
        rest = body[1 + body[0] :]
        return body[1 : 1 + body[0]], (rest[0] or 256) if rest else 256
    size = struct.unpack(">H", body[1:3])[0]
    if len(body) == 3:
        return b"", size or 65536
    rest = body[3 + size :]
    return body[3 : 3 + size], (struct.unpack(">H", rest)[0] or 65536) if len(rest) == 2 else 65536


class Reader:
    """The card's place in vpcd's reader: a connection is a card that is in."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.socket: socket.socket | None = None
        self.powered = threading.Event()  # the reader service has seen the card and asked for its answer to reset

    def insert(self) -> None:
        if self.socket is None:
            self.card.reset()
            self.powered.clear()
            self.socket = socket.create_connection(("127.0.0.1", READER_PORT), 10)
            self.socket.settimeout(None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(self.socket,), daemon=True).start()

    def pull(self) -> bool:
        """Take the card out; False when none was in."""
        if self.socket is None:
            return False
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.socket = None
        return True

    def _serve(self, connection: socket.socket) -> None:
        def read(size: int) -> bytes:
            data = b""
            while len(data) < size:
                # vpcd writes length and data separately: without quick acknowledgements every command waits 40 ms
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                part = connection.recv(size - len(data))
                if not part:
                    raise EOFError
                data += part
            return data

        try:
            while True:
                message = read(struct.unpack(">H", read(2))[0])
                if len(message) == 1:  # 0 off, 1 on, 2 reset, 4 answer to reset
                    if message[0] in (0, 1, 2):
                        self.card.reset()
                    if message[0] != 4:
                        continue
                    answer = ATR
                    self.powered.set()
                else:
                    answer = self._answer(message)
                connection.sendall(struct.pack(">H", len(answer)) + answer)
        except (EOFError, OSError):
            return

    def _answer(self, message: bytes) -> bytes:
        try:
            return self.card.answer(message)
        except Exception as error:
            print(f"card: {type(error).__name__}: {error} for {message.hex()}", file=sys.stderr, flush=True)
            return FAULT


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING


def main(folder: Path, pin: str, puk: str) -> None:
    keys: dict[str, tuple[Key, bytes]] = {}
    for slot in CONTAINERS:
        if (path := folder / f"{slot}.pem").exists():
            key = load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, Key)
            keys[slot] = (key, x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER))
    (folder / "run").mkdir(mode=0o755, exist_ok=True)
    loopback_up()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    Path("/run/pcscd").mkdir()
    subprocess.run(["mount", "--bind", str(folder / "run"), "/run/pcscd"], check=True)
    configuration = folder / "reader.conf"
    configuration.write_text(
        f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME /dev/null:{READER_PORT:#x}\nLIBPATH {READER_LIBRARY}\nCHANNELID {READER_PORT:#x}\n'
    )
    log = folder / "pcscd.log"
    with log.open("wb") as stream:
        command = ["/usr/sbin/pcscd", "--foreground", "--info", "--config", str(configuration)]
        service = subprocess.Popen(command, stdout=stream, stderr=stream)
    reader = Reader(Card(keys, pin.encode(), puk.encode()))
    try:
        wait_until(lambda: (folder / "run" / "pcscd.comm").exists() or service.poll() is not None, what="pcscd")
        for line in sys.stdin:
            if line.strip() == "insert":
                wait_until(lambda: _inserted(reader), what="the reader")
                wait_until(reader.powered.is_set, what="the reader service's look at the card")
            elif line.strip() == "yank":
                reader.pull()
            elif line.strip() == "pull":
                # OpenSC 0.23 waits for itself for ever when a card goes in the middle of a command, before the service has noticed
                before = log.read_bytes().count(REMOVED)
                if reader.pull():
                    wait_until(
                        lambda before=before: log.read_bytes().count(REMOVED) > before,
                        what="the reader service's notice of the removal",
                    )
            state = {"tries": reader.card.tries, "puk_tries": reader.card.puk_tries, **reader.card.counts}
            print(json.dumps(state), flush=True)
    finally:
        reader.pull()
        service.terminate()
        service.wait(10)


def _inserted(reader: Reader) -> bool:
    try:
        reader.insert()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
