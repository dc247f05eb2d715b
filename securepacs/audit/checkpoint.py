"""Checkpoints of a log (c2sp.org/tlog-checkpoint) as signed notes (c2sp.org/signed-note), with Ed25519 keys.

    hospital.example/audit        origin, also the name of the key
    1234                          size of the tree
    base64 of the root

    — hospital.example/audit base64(key id ‖ signature)

Signature lines of other keys, for example of witnesses, are kept and passed over.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from securepacs.audit.merkle import HASH_SIZE
from securepacs.errors import ConfigError, MalformedError, VerificationError

MAX_NOTE = 16 * 1024
_ED25519 = b"\x01"
_STANDARD = "C2SP signed-note"
_ORIGIN = re.compile(r"[^\s+]{1,200}")
_BODY = re.compile(r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9]\d{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n")
_SIGNATURE = re.compile(r"— (?P<name>[^\s+]+) (?P<value>[A-Za-z0-9+/]+={0,2})\n")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The size and root of a log at one moment, and the whole note they were signed in."""

    origin: str
    size: int
    root: bytes
    note: str

    @property
    def body(self) -> str:
        """What the signatures cover."""
        return self.note.partition("\n\n")[0] + "\n"


@dataclass(frozen=True, slots=True)
class LogPublicKey:
    """The key checkpoints are verified with; `name` is the origin."""

    name: str
    key: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str, *, name: str = "") -> LogPublicKey:
        """Read a verifier key (`NAME+KEYID+BASE64`), or a PEM public key for the origin `name`; ConfigError for anything else."""
        hint = "give NAME+KEYID+BASE64 as `audit serve` prints it, or a PEM file of an Ed25519 public key"
        try:
            if text.lstrip().startswith("-----BEGIN"):
                key = load_pem_public_key(text.encode())
                if isinstance(key, Ed25519PublicKey) and _ORIGIN.fullmatch(name):
                    return cls(name, key)
            else:
                found_name, key_id, encoded = text.strip().split("+", 2)
                octets = b64decode(encoded, validate=True)
                parsed = cls(found_name, Ed25519PublicKey.from_public_bytes(octets[1:]))
                if octets[:1] == _ED25519 and parsed.key_id.hex() == key_id and _ORIGIN.fullmatch(found_name):
                    return parsed
        except ValueError:
            pass
        raise ConfigError("the key of the log cannot be read", key="key", hint=hint)

    @property
    def key_id(self) -> bytes:
        """The four octets that begin each signature of this key."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key.public_bytes_raw()).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(_ED25519 + self.key.public_bytes_raw()).decode()}"

    def verify(self, note: str) -> Checkpoint:
        """Return the checkpoint in a signed note; VerificationError when this key did not sign it."""
        checkpoint = parse_checkpoint(note)
        if checkpoint.origin != self.name:
            raise VerificationError("the checkpoint is of another log", standard=_STANDARD)
        for found in _SIGNATURE.finditer(note.partition("\n\n")[2]):
            octets = b64decode(found["value"])
            if found["name"] != self.name or octets[:4] != self.key_id:
                continue
            try:
                self.key.verify(octets[4:], checkpoint.body.encode())
            except InvalidSignature:
                raise VerificationError("the signature of a checkpoint is wrong", standard=_STANDARD) from None
            return checkpoint
        raise VerificationError("the checkpoint is not signed with this key", standard=_STANDARD)


@dataclass(frozen=True, slots=True)
class LogKey:
    """The private key of a log."""

    public: LogPublicKey
    key: Ed25519PrivateKey

    @classmethod
    def load(cls, pem: bytes, *, origin: str) -> LogKey:
        """Read an Ed25519 private key (PEM, PKCS#8, not encrypted); ConfigError for any other key, and for a bad origin."""
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"{origin!r} cannot name a log", key="origin", hint="no spaces, no +; for example hospital.example/audit"
            )
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                "the log key must be an Ed25519 key", key="log_key", hint="openssl genpkey -algorithm ed25519 -out log.key"
            )
        return cls(LogPublicKey(origin, key.public_key()), key)

    def sign(self, size: int, root: bytes) -> Checkpoint:
        """Return the signed checkpoint of a tree. NOT checked: that it continues earlier ones; see `repository.signer`."""
        body = f"{self.public.name}\n{size}\n{b64encode(root).decode()}\n"
        signature = b64encode(self.public.key_id + self.key.sign(body.encode())).decode()
        return Checkpoint(self.public.name, size, root, f"{body}\n— {self.public.name} {signature}\n")


def parse_checkpoint(note: str) -> Checkpoint:
    """Read a signed note as a checkpoint, without looking at its signatures. Raises MalformedError."""
    body, separator, signatures = note.partition("\n\n")
    found = _BODY.fullmatch(body + "\n")
    if len(note) > MAX_NOTE or not separator or found is None:
        raise MalformedError("this is no checkpoint", standard="C2SP tlog-checkpoint")
    if not signatures.endswith("\n") or not all(_is_signature(line + "\n") for line in signatures[:-1].split("\n")):
        raise MalformedError("a signature line of a checkpoint cannot be read", standard=_STANDARD)
    root = b64decode(found["root"])
    if len(root) != HASH_SIZE or b64encode(root).decode() != found["root"]:
        raise MalformedError("the root of a checkpoint is no SHA-256 hash", standard="C2SP tlog-checkpoint")
    return Checkpoint(found["origin"], int(found["size"]), root, note)


def _is_signature(line: str) -> bool:
    found = _SIGNATURE.fullmatch(line)
    try:  # one way only to write a signature: no bit of a note may be free
        return found is not None and b64encode(b64decode(found["value"], validate=True)).decode() == found["value"]
    except ValueError:
        return False
