"""The entry a log keeps of one record: what is known of its receipt and a salted commitment to its octets, never patient data.

Text lines in a fixed order, one way only to write each entry:

    securepacs audit entry v1
    index 17
    received 2027-01-31T12:30:15.123456Z
    receiver securepacs-audit@arr.hospital.example
    transport tls
    peer 10.0.0.7 SHA-256-OF-ITS-CERTIFICATE
    length 2048
    truncated 0
    commitment SHA-256(salt ‖ octets)
    verdict conformant
    dialect D5
    event 110104 C 0
    repeats -
    erases -

`index` counts from 0 and is the leaf of the tree. `repeats` is the index of the first entry with the same frame. `erases` are the
indexes whose octets and salt were lawfully removed; the record of this entry says by whom and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

from securepacs.errors import MalformedError

SALT_SIZE = 32
_TITLE = "securepacs audit entry v1"
_MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_NUMBER = r"0|[1-9]\d{0,18}"
_WORD = r"[!-~]{1,255}"
_ENTRY = re.compile(
    rf"{_TITLE}\n"
    rf"index (?P<index>{_NUMBER})\n"
    rf"received (?P<received>{_MOMENT})\n"
    rf"receiver (?P<receiver>{_WORD})\n"
    rf"transport (?P<transport>{_WORD})\n"
    rf"peer (?P<peer_address>{_WORD}) (?P<peer_sha256>-|[0-9a-f]{{64}})\n"
    rf"length (?P<length>{_NUMBER})\n"
    r"truncated (?P<truncated>[01])\n"
    r"commitment (?P<commitment>[0-9a-f]{64})\n"
    r"verdict (?P<verdict>[a-z][a-z ]{0,31})\n"
    rf"dialect (?P<dialect>{_WORD})\n"
    rf"event (?P<event_code>{_WORD}) (?P<action>{_WORD}) (?P<outcome>-|{_NUMBER})\n"
    rf"repeats (?P<repeats>-|{_NUMBER})\n"
    r"erases (?P<erases>-|[0-9,-]+)\n",
    flags=re.ASCII,
)
# a code of a code system; anything longer may be text a sender put there
_CODE = re.compile(r"[A-Za-z0-9._:-]{1,32}", flags=re.ASCII)
_UNSAFE = re.compile("[^!-~]")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What one leaf of the log says. `received` is text as written (sorts as time does); `repeats` and `erases` are indexes."""

    index: int
    received: str
    receiver: str
    transport: str
    peer_address: str
    peer_sha256: str
    length: int
    truncated: bool
    commitment: str
    verdict: str
    dialect: str
    event_code: str
    action: str
    outcome: int | None
    repeats: int | None
    erases: tuple[range, ...]


def commitment(salt: bytes, raw: bytes) -> str:
    """Return the commitment to the octets of a record, lower-case hex. Without the salt nothing can be guessed from it."""
    return sha256(salt + raw).hexdigest()


def encode_entry(
    *,
    index: int,
    received: str,
    receiver: str,
    transport: str,
    peer_address: str,
    peer_sha256: str,
    length: int,
    truncated: bool,
    commitment: str,
    verdict: str,
    dialect: str,
    event_code: str,
    action: str,
    outcome: int | None,
    repeats: int | None,
    erases: str,
) -> bytes:
    """Return an entry as it stands in the log. Codes no code system has are left out: they may be a sender's free text."""
    code = event_code if _CODE.fullmatch(event_code) else "-"
    return (
        f"{_TITLE}\nindex {index}\nreceived {received}\nreceiver {receiver}\ntransport {transport}\n"
        f"peer {peer_address or '-'} {peer_sha256 or '-'}\nlength {length}\ntruncated {truncated:d}\ncommitment {commitment}\n"
        f"verdict {verdict}\ndialect {dialect or '-'}\nevent {code} {action or '-'} {'-' if outcome is None else outcome}\n"
        f"repeats {'-' if repeats is None else repeats}\nerases {erases or '-'}\n"
    ).encode("ascii")


def decode_entry(octets: bytes) -> LogEntry:
    """Read an entry; MalformedError for anything `encode_entry` would not write."""
    try:
        found = _ENTRY.fullmatch(octets.decode("ascii"))
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise MalformedError("this is no entry of an audit log")
    return LogEntry(
        index=int(found["index"]),
        received=found["received"],
        receiver=found["receiver"],
        transport=found["transport"],
        peer_address=_given(found["peer_address"]),
        peer_sha256=_given(found["peer_sha256"]),
        length=int(found["length"]),
        truncated=found["truncated"] == "1",
        commitment=found["commitment"],
        verdict=found["verdict"],
        dialect=_given(found["dialect"]),
        event_code=_given(found["event_code"]),
        action=_given(found["action"]),
        outcome=None if found["outcome"] == "-" else int(found["outcome"]),
        repeats=None if found["repeats"] == "-" else int(found["repeats"]),
        erases=() if found["erases"] == "-" else decode_ranges(found["erases"]),
    )


def safe_token(text: str) -> str:
    """Return text as one word of an entry."""
    return _UNSAFE.sub("_", text.strip())[:255] or "-"


def encode_ranges(numbers: Iterable[int]) -> str:
    """Return numbers as `3-9,12`, in order and without repetitions."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def decode_ranges(text: str) -> tuple[range, ...]:
    """Read what `encode_ranges` wrote; MalformedError for anything else."""
    ranges: list[range] = []
    for part in text.split(","):
        first, separator, last = part.partition("-")
        if not first.isdigit() or (separator and not last.isdigit()) or len(part) > 40:
            raise MalformedError("this is no list of entries")
        ranges.append(range(int(first), int(last or first) + 1))
    if any(not each for each in ranges) or any(a.stop >= b.start for a, b in pairwise(ranges)):
        raise MalformedError("a list of entries is not in order")
    return tuple(ranges)


def _given(text: str) -> str:
    return "" if text == "-" else text
