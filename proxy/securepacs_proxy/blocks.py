"""Who is kept out by hand, without asking the CA: by serial number, subject, calling AE title or address. Survives restarts.

The file is JSON, for its owner only, replaced as a whole. A file that cannot be read keeps a gateway from starting: a forgotten
block would let somebody in.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from securepacs.errors import ConfigError, UsageError
from securepacs.policy.subject import Subject

FILE_NAME = "blocks.json"
UNSHARED_NAME = "blocks-unshared.json"
MAX_BLOCKS = 10_000
_MAX_TEXT = 512


class BlockKind(StrEnum):
    """What a block names."""

    SERIAL = "serial"
    SUBJECT = "subject"
    AE = "ae"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Block:
    """One block. `value` is in the form in which it is compared: see `normalised`."""

    kind: BlockKind
    value: str
    reason: str
    by: str
    since: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return it for a file, a message or `--json`."""
        return {**asdict(self), "kind": self.kind.value, "since": self.since.isoformat(timespec="seconds")}

    @property
    def text(self) -> str:
        """What the audit trail says of a connection that it keeps out."""
        return f"blocked by {self.by} ({self.kind.value} {self.value}): {self.reason}"


@dataclass(frozen=True, slots=True)
class BlockChange:
    """A block that was made, or taken back (`active` is False), at one gateway."""

    block: Block
    active: bool
    gateway: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for a file or a message."""
        since = self.block.since.isoformat(timespec="microseconds")  # which of two changes is the newer one decides
        return {**self.block.to_dict(), "since": since, "active": self.active, "gateway": self.gateway}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> BlockChange:
        """Return the change of `to_dict`. Raises as the function `from_dict` does."""
        return cls(from_dict(row), bool(row["active"]), str(row["gateway"]))


def from_dict(row: dict[str, Any]) -> Block:
    """Return the block of `to_dict`. Raises UsageError, KeyError, TypeError or ValueError for anything else."""
    kind = BlockKind(row["kind"])
    since = datetime.fromisoformat(row["since"])
    if since.tzinfo is None:
        raise ValueError("since has no offset")
    return Block(kind, normalised(kind, str(row["value"])), str(row["reason"]), str(row["by"]), since)


def normalised(kind: BlockKind, value: str) -> str:
    """Return a value as it is compared. Raises UsageError for one that could match nothing.

    serial: hexadecimal digits as `openssl x509 -serial` prints them, colons allowed. subject: user ID, common name or e-mail
    address as `gateway status` shows it, in any case. ae: calling AE title (PS3.5 6.2). peer: an IP address or a network.
    """
    text = value.strip()
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise UsageError(f"the {kind.value} is empty, too long or not printable")
    match kind:
        case BlockKind.SERIAL:
            digits = text.replace(":", "").lower().removeprefix("0x").lstrip("0")
            if not digits or not set(digits) <= set("0123456789abcdef"):
                raise UsageError("a serial number is written in hexadecimal", hint="openssl x509 -in CERT -noout -serial prints it")
            return digits
        case BlockKind.SUBJECT:
            return text.casefold()
        case BlockKind.AE:
            if len(text) > 16:
                raise UsageError("an AE title has 1 to 16 characters", standard="PS3.5 6.2")
            return text
        case BlockKind.PEER:
            try:
                return str(ipaddress.ip_network(text))
            except ValueError:
                raise UsageError("a peer is an IP address or a network", hint="for example 10.1.2.3 or 10.1.0.0/16") from None


class BlockList:
    """All blocks, indexed. Immutable."""

    def __init__(self, blocks: Sequence[Block] = ()) -> None:
        self.blocks = tuple(blocks)
        self._by_value = {(block.kind, block.value): block for block in self.blocks}
        self._networks = [(ipaddress.ip_network(block.value), block) for block in self.blocks if block.kind is BlockKind.PEER]

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def adding(self, block: Block) -> BlockList:
        """Return the list with a block more; one for the same value is replaced. Raises UsageError when there are too many."""
        kept = [other for other in self.blocks if (other.kind, other.value) != (block.kind, block.value)]
        if len(kept) >= MAX_BLOCKS:
            raise UsageError(f"there are {MAX_BLOCKS} blocks already", hint="block a network, or revoke at the CA")
        return BlockList([*kept, block])

    def without(self, kind: BlockKind, value: str) -> BlockList:
        """Return the list without the block of a value. Raises UsageError when there is none."""
        if (kind, value) not in self._by_value:
            raise UsageError(f"{kind.value} {value} is not blocked", hint="gateway blocks lists all blocks")
        return BlockList([block for block in self.blocks if (block.kind, block.value) != (kind, value)])

    def following(self, change: BlockChange, *, strict: bool = True) -> BlockList:
        """Return the list after a change. Raises UsageError as above; not `strict`: what is not there may be taken back."""
        block = change.block
        if change.active:
            return self.adding(block)
        return self.without(block.kind, block.value) if strict or self.named(block.kind, block.value) else self

    def named(self, kind: BlockKind, value: str) -> Block | None:
        """Return the block of a value."""
        return self._by_value.get((kind, value))

    def of(self, subject: Subject, host: str) -> Block | None:
        """Return the block that concerns a peer by its certificate or its address."""
        found = self._by_value.get((BlockKind.SERIAL, subject.certificate_serial.lower().lstrip("0")))
        for name in (subject.user_id, subject.name):
            found = found or self._by_value.get((BlockKind.SUBJECT, name.casefold()))
        return found or self._of_host(host)

    def of_ae(self, title: str) -> Block | None:
        """Return the block of a calling AE title."""
        return self._by_value.get((BlockKind.AE, title.strip()))

    def _of_host(self, host: str) -> Block | None:
        if not self._networks:
            return None
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return next((block for network, block in self._networks if address in network), None)


def read_blocks(path: Path) -> BlockList:
    """Read the file; no file is no block. Raises ConfigError for one that cannot be read, as a whole."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return BlockList([from_dict(row) for row in rows])
    except FileNotFoundError:
        return BlockList()
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise ConfigError(
            f"the list of blocks {path} cannot be read: {reason}", key="audit.spool", hint="repair it, or remove it and block anew"
        ) from None


def write_blocks(path: Path, blocks: BlockList) -> None:
    """Replace the file, durably, mode 0600. Raises ConfigError; the old one then stands."""
    _write(path, [{**block.to_dict(), "since": block.since.isoformat(timespec="microseconds")} for block in blocks])


def read_unshared(path: Path, database: str) -> tuple[BlockChange, ...] | None:
    """Return the changes that a database does not have yet; None when the file is of another database, or there is none.

    Raises ConfigError for a file that cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        changes = tuple(BlockChange.from_dict(row) for row in document["changes"])
        return changes if document["database"] == database else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        hint = "remove it: everything that is blocked here is then shared anew"
        raise ConfigError(f"the list of unshared blocks {path} cannot be read: {reason}", key="audit.spool", hint=hint) from None


def write_unshared(path: Path, database: str, changes: Sequence[BlockChange]) -> None:
    """Replace the file, durably, mode 0600. Raises ConfigError; the old one then stands."""
    _write(path, {"database": database, "changes": [change.to_dict() for change in changes]})


def _write(path: Path, document: Any) -> None:
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"the list of blocks {path} cannot be written: {error.strerror}", key="audit.spool") from None
