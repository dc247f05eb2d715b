"""What supervisor and workers tell each other: JSON objects, one per line, over a socket pair. Pure.

Every message has a `type`. From the supervisor: `reload` (version), `status` (id), `end` (id, session, reason, by), `blocks` (id,
blocks), `drain`. From a worker: `ready`, `reloaded` (version), `reload-failed` (reason), `status` (id, sessions, totals, versions),
`ended` and `blocked` (id, count). Between supervisor and auditor: `record` (number, kind, at, text, by) and `recorded` (number).
About revocation, passed on by the supervisor: from a worker to the keeper `inquire` (fingerprint, kind, serves, chain) and `in-use`
(fingerprints); from the keeper to all workers `verdicts` (version, full, verdicts); to the supervisor itself `alarm` (text, bad).
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from securepacs.errors import MalformedError

Message: TypeAlias = dict[str, Any]
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


def encode(message: Message) -> bytes:
    """Return one message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class LineReader:
    """Cuts a byte stream into messages; any split of the stream gives the same messages."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._rest = b""
        self._limit = limit

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now. Raises MalformedError for what is not an object with a `type`, or too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._limit:
            raise MalformedError("a control message is too long", offset=self._limit)
        return [_decode(line) for line in lines if line]


def _decode(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except ValueError:
        raise MalformedError("a control message is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise MalformedError("a control message has no type")
    return message
