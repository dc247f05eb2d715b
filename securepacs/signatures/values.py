"""Values inside signature items: DER in an OB, and the DT with its UTC offset (PS3.5 6.2, PS3.3 C.12.1.1.3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from securepacs.errors import MalformedError


def der_value(data: bytes) -> bytes:
    """Return the one DER value at the start of `data`, without what follows (an OB pad byte). MalformedError when there is none."""
    if len(data) < 2 or data[0] != 0x30:
        raise MalformedError("this is no DER sequence", standard="PS3.5 6.2, X.690")
    length, header = data[1], 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or len(data) < 2 + count:
            raise MalformedError("a DER length is damaged", standard="X.690 8.1.3")
        length, header = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if header + length > len(data):
        raise MalformedError("a DER value is cut off", standard="X.690 8.1.3")
    if data[header + length :] not in (b"", b"\0"):
        raise MalformedError("something follows a DER value", standard="X.690 8.1.3")
    return data[: header + length]


def parse_date_time(text: str) -> tuple[datetime, bool]:
    """Read a DT value as an aware datetime; also return whether it carried its UTC offset, else UTC is assumed (PS3.5 6.2).

    ValueError when it is no complete date and time.
    """
    main, sign, offset = text, "", ""
    for mark in "+-":
        if mark in text:
            main, sign, offset = text.partition(mark)
            break
    whole, _, fraction = main.partition(".")
    if len(whole) != 14 or not whole.isascii() or not whole.isdigit() or (sign and (len(offset) != 4 or not offset.isdigit())):
        raise ValueError("not a date and time")
    if fraction and not fraction.isdigit():
        raise ValueError("not a fraction of a second")
    month, day, hour, minute, second = (int(whole[place : place + 2]) for place in range(4, 14, 2))
    microsecond = int(fraction.ljust(6, "0")[:6]) if fraction else 0
    moment = datetime(int(whole[:4]), month, day, hour, minute, 59 if second == 60 else second, microsecond)
    if not sign:
        return moment.replace(tzinfo=UTC), False
    shift = timedelta(hours=int(offset[:2]), minutes=int(offset[2:])) * (1 if sign == "+" else -1)
    return moment.replace(tzinfo=timezone(shift)), True


def format_date_time(at: datetime) -> str:
    """Write an aware datetime as DT with the mandatory UTC offset."""
    return at.strftime("%Y%m%d%H%M%S.%f%z")[:26]
