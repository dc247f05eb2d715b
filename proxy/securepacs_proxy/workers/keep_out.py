"""The supervisor's end of blocks: the list in force, changing it on request of the control socket, and following other gateways."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from securepacs.errors import ConfigError, UsageError
from securepacs_proxy.blocks import (
    FILE_NAME,
    UNSHARED_NAME,
    Block,
    BlockChange,
    BlockKind,
    BlockList,
    normalised,
    read_blocks,
    read_unshared,
    write_blocks,
    write_unshared,
)
from securepacs_proxy.config import GatewayConfig
from securepacs_proxy.control import Message
from securepacs_proxy.workers.auditor import Notes
from securepacs_proxy.workers.sharer import SHARER

_log = logging.getLogger(__name__)
MAX_REASON = 256


class KeepOut:
    """The blocks in force. What is in the file is in force, and nothing else: it is written before anybody is told.

    `unshared` are the changes that the database of [shared] does not have yet; a list from there never undoes them.
    """

    def __init__(
        self, config: GatewayConfig, notes: Notes, tell_workers: Callable[[Message], None], tell: Callable[[str, Message], None]
    ) -> None:
        """Read the files in the spool folder. `tell(name, order)` is for one process. Raises ConfigError when a file is damaged."""
        self._notes = notes
        self._tell_workers = tell_workers
        self._tell = tell
        self._path = config.audit.spool / FILE_NAME
        self._unshared_path = config.audit.spool / UNSHARED_NAME
        self._gateway = config.gateway.name
        self._database = config.shared.url if config.shared is not None else ""
        self.blocks: BlockList = read_blocks(self._path)
        self.unshared: tuple[BlockChange, ...] = ()
        if self._database:
            known = read_unshared(self._unshared_path, self._database)
            # with a database that is new to this gateway everything it blocks is news
            self.unshared = tuple(BlockChange(one, True, self._gateway) for one in self.blocks) if known is None else known
            write_unshared(self._unshared_path, self._database, self.unshared)

    def change(self, request: Message, *, at: datetime) -> Message:
        """Follow a `block` or `unblock`; return `text` for the audit trail, or `error` and `hint`. Never raises."""
        try:
            kind = BlockKind(str(request.get("kind")))
            value = normalised(kind, str(request.get("value", "")))
            reason, by = str(request.get("reason", "")).strip(), str(request["by"])
            if not reason or len(reason) > MAX_REASON or not reason.isprintable():
                raise UsageError(f"a reason of 1 to {MAX_REASON} printable characters belongs to every change")
            known = next((one for one in self.blocks if (one.kind, one.value) == (kind, value)), None)
            if known is not None:
                at = max(at, known.since + timedelta(microseconds=1))  # other gateways must see that it is the newer one
            change = BlockChange(Block(kind, value, reason, by, at), request["type"] == "block", self._gateway)
            changed = self.blocks.following(change)
            if self._database:
                write_unshared(self._unshared_path, self._database, (*self.unshared, change))
            write_blocks(self._path, changed)
        except (UsageError, ConfigError) as error:
            return {"error": error.message, "hint": error.hint}
        except ValueError:
            return {"error": "only serial, subject, ae and peer can be blocked", "hint": ""}
        self.blocks = changed
        self._notes.add("rights", at=at, text=_told(change, self._gateway), by=by)
        if self._database:
            self.unshared = (*self.unshared, change)
            self._share(change)
        return {"text": _told(change, self._gateway)}

    @property
    def order(self) -> Message:
        """The list as an order to a worker; nobody at the control socket waits for the answer."""
        return {"type": "blocks", "id": -1, "blocks": [block.to_dict() for block in self.blocks]}

    def came_up(self, name: str) -> None:
        """A process is ready: give the sharer what the database does not have yet."""
        if name == SHARER:
            for change in self.unshared:
                self._share(change)

    def follow(self, message: Message, *, at: datetime) -> None:
        """Put in force what other gateways blocked or let in; what cannot be put in force is on record and tried again."""
        before = self.blocks.blocks
        try:
            for text, by in self._take_over(message):
                self._notes.add("rights", at=at, text=text, by=by)
        except (ConfigError, UsageError) as error:
            _log.error("blocks of other gateways are not in force: %s", error.message)
            self._notes.add("failed", at=at, text=f"blocks of other gateways are not in force: {error.message}")
        if self.blocks.blocks != before:
            self._tell_workers(self.order)

    def _share(self, change: BlockChange) -> None:
        self._tell(SHARER, {"type": "share", "change": change.to_dict()})

    def _take_over(self, message: Message) -> Iterator[tuple[str, str]]:
        """Take over the rows of the database, and what it lacks yet; yield words and author of every change. Raises ConfigError."""
        shared = [BlockChange.from_dict(row) for row in message["blocks"]]
        done = {BlockChange.from_dict(row) for row in message["done"]}
        waiting = tuple(change for change in self.unshared if change not in done)
        new = BlockList([change.block for change in shared if change.active])
        for change in waiting:
            new = new.following(change, strict=False)
        changes = [change for change in shared if change.block not in self.blocks.blocks and change.block in new.blocks]
        ended = [one for one in self.blocks if new.named(one.kind, one.value) is None]
        taken_back = {(change.block.kind, change.block.value): change for change in shared if not change.active}
        if changes or ended:
            write_blocks(self._path, new)
        if done:
            write_unshared(self._unshared_path, self._database, waiting)
        self.blocks, self.unshared = new, waiting
        for change in changes:
            yield _told(change, self._gateway), change.block.by
        for block in ended:
            change = taken_back.get((block.kind, block.value), BlockChange(block, False, "the database itself"))
            yield _told(change, self._gateway), change.block.by


def _told(change: BlockChange, here: str) -> str:
    block, what = change.block, "blocked" if change.active else "no longer blocked"
    where = f" at {change.gateway}" if change.gateway != here else ""
    return f"{block.kind.value} {block.value} is {what}, by {block.by}{where}: {block.reason}"
