"""The numbers of senders that count their records (RFC 5424 7.3.1, `[meta sequenceId="..."]`): what never arrived."""

from __future__ import annotations

import re
from collections.abc import Iterator

from securepacs.audit.syslog import parse_record

MAX_SEQUENCE = 2**31 - 1
MAX_OPEN = 10_000  # missing numbers remembered for one source
_ID = re.compile(r'\[meta(?: [^\]]*?)? sequenceId="(\d{1,10})"')
_MARK, _HEAD = b"sequenceId=", 2048
Source = tuple[str, str, str, str]


class Sequences:
    """Follows the numbers of each source: the sender's certificate, host, program and process.

    Records may overtake each other and come twice. A source that reaches the highest number begins anew with 1.
    """

    def __init__(self) -> None:
        self._next: dict[Source, int] = {}
        self._open: dict[Source, dict[int, int]] = {}  # missing number -> index of the record that showed it
        self._lost: list[tuple[int, str]] = []

    def see(self, index: int, peer: str, raw: bytes) -> None:
        """Take the record of one entry."""
        found = number_of(peer, raw)
        if found is None:
            return
        source, number = found
        following = self._next.get(source, 1)
        if number >= following:
            waiting = self._open.setdefault(source, {})
            if number - following > MAX_OPEN:
                self._lost.append((index, f"{number - following} records of {named(source)} before this one never arrived"))
            else:
                waiting.update(dict.fromkeys(range(following, number), index))
            self._next[source] = number + 1 if number < MAX_SEQUENCE else 1
        else:
            self._open.get(source, {}).pop(number, None)

    def gaps(self) -> Iterator[tuple[int, str]]:
        """Yield what is missing now, as the index of the entry that shows it and a text."""
        yield from self._lost
        for source, missing in self._open.items():
            for number, index in missing.items():
                yield index, f"record {number} of {named(source)} never arrived"


def number_of(peer: str, raw: bytes) -> tuple[Source, int] | None:
    """Return whose record it is and its number; None when the sender does not count."""
    if _MARK not in raw[:_HEAD]:
        return None
    record = parse_record(raw)
    found = _ID.search(record.structured_data)
    if found is None or not 1 <= (number := int(found[1])) <= MAX_SEQUENCE:
        return None
    return (peer, record.hostname, record.app_name, record.procid), number


def named(source: Source) -> str:
    """Write a source as people know it: host, program, process."""
    return f"{source[1]} {source[2]} {source[3]}"
