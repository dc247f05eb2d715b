"""The supervisor's end of blocks: the list in force, and changing it on request of the control socket."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from securepacs.errors import ConfigError, UsageError
from securepacs_proxy.blocks import FILE_NAME, Block, BlockKind, BlockList, normalised, read_blocks, write_blocks
from securepacs_proxy.control import Message

MAX_REASON = 256


class KeepOut:
    """The blocks in force. What is in the file is in force, and nothing else: it is written before anybody is told."""

    def __init__(self, spool: Path) -> None:
        """Read the file in the spool folder. Raises ConfigError when it is damaged."""
        self._path = spool / FILE_NAME
        self.blocks: BlockList = read_blocks(self._path)

    def change(self, request: Message, *, at: datetime) -> Message:
        """Follow a `block` or `unblock`; return `text` for the audit trail, or `error` and `hint`. Never raises."""
        try:
            kind = BlockKind(str(request.get("kind")))
            value = normalised(kind, str(request.get("value", "")))
            reason, by = str(request.get("reason", "")).strip(), str(request["by"])
            if not reason or len(reason) > MAX_REASON or not reason.isprintable():
                raise UsageError(f"a reason of 1 to {MAX_REASON} printable characters belongs to every change")
            if request["type"] == "block":
                changed, what = self.blocks.adding(Block(kind, value, reason, by, at)), "blocked"
            else:
                changed, what = self.blocks.without(kind, value), "no longer blocked"
            write_blocks(self._path, changed)
        except (UsageError, ConfigError) as error:
            return {"error": error.message, "hint": error.hint}
        except ValueError:
            return {"error": "only serial, subject, ae and peer can be blocked", "hint": ""}
        self.blocks = changed
        return {"text": f"{kind.value} {value} is {what}, by {by}: {reason}"}
