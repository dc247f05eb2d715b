"""Syslog records (RFC 5424) that carry audit messages (IHE ITI-20) and their framing over TLS (RFC 5425), without a socket.

Writing is strict: UTC with microseconds, MSGID `IHE+RFC-3881`, facility 10 severity 5, no byte order mark. Reading accepts
any record and any bytes: nothing here drops or changes what was received.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from syslog_rfc5424_formatter import RFC5424Formatter

from securepacs.audit.message import AuditMessage
from securepacs.audit.xml import event_date_time, to_xml

PRI = 85  # facility 10 (security), severity 5 (notice)
MSGID = "IHE+RFC-3881"
_NIL = "-"
_BOM = b"\xef\xbb\xbf"
_NOT_PRINTABLE = re.compile("[^!-~]")
_HEADER = re.compile(
    rb"<(?P<pri>\d{1,3})>(?P<version>[1-9]\d{0,2}) (?P<timestamp>\S+) (?P<hostname>\S+) (?P<app_name>\S+) (?P<procid>\S+) "
    rb'(?P<msgid>\S+) (?P<sd>-|(?:\[(?:[^\]"]|"(?:[^"\\]|\\.)*+")*+\])+)(?: (?P<msg>.*))?',
    flags=re.DOTALL,
)
_PRI_ONLY = re.compile(rb"<(?P<pri>\d{1,3})>(?P<msg>.*)", flags=re.DOTALL)


class _Formatter(RFC5424Formatter):  # type: ignore[misc]  # the package has no types
    """RFC5424Formatter with the moment in UTC (as shipped it may stamp local time with a Z) and a host name that is given."""

    def __init__(self, *, hostname: str, procid: str, msgid: str) -> None:
        super().__init__(procid=procid, msgid=msgid)
        self._hostname = hostname

    def format(self, record: logging.LogRecord) -> str:
        version, _timestamp, _hostname, rest = super().format(record).split(" ", 3)
        moment = event_date_time(datetime.fromtimestamp(record.created, UTC))
        return f"{version} {moment} {self._hostname} {rest}"


def to_syslog(message: AuditMessage, *, hostname: str, app_name: str, procid: str, at: datetime | None = None) -> bytes:
    """Return the RFC 5424 record of an audit message, unframed. `at` is TIMESTAMP; the moment of the event when not given."""
    return to_record(
        to_xml(message), hostname=hostname, app_name=app_name, procid=procid, at=at or message.EventIdentification.EventDateTime
    )


def to_record(text: bytes, *, hostname: str, app_name: str, procid: str, at: datetime, msgid: str = MSGID, pri: int = PRI) -> bytes:
    """Return the RFC 5424 record around text (an audit message in XML) that is already written; it stays byte for byte as it is."""
    formatter = _Formatter(hostname=header_field(hostname, 255), procid=header_field(procid, 128), msgid=msgid)
    record = logging.LogRecord(header_field(app_name, 48), logging.INFO, "", 0, "", (), None)
    record.created = at.timestamp()
    return b"<%d>" % pri + formatter.format(record).encode("ascii") + text


def header_field(text: str, longest: int) -> str:
    """Return `text` as a header field: printable ASCII without space, at most `longest`, `-` when empty (RFC 5424 6)."""
    return _NOT_PRINTABLE.sub("_", text.strip())[:longest] or _NIL


def frame(record: bytes) -> bytes:
    """Put the octet count before a record (RFC 5425 4.3)."""
    return b"%d %b" % (len(record), record)


@dataclass(frozen=True, slots=True)
class SyslogRecord:
    """The parts of a received record. `pri` of None: not syslog at all, `msg` is everything. `version` 0: no RFC 5424 header.

    `timestamp` and the other header fields are text as received, empty when absent; `msg` has no byte order marks.
    """

    pri: int | None
    version: int
    timestamp: str
    hostname: str
    app_name: str
    procid: str
    msgid: str
    structured_data: str
    msg: bytes

    @property
    def facility(self) -> int | None:
        """Facility number of PRI."""
        return None if self.pri is None else self.pri >> 3

    @property
    def severity(self) -> int | None:
        """Severity number of PRI."""
        return None if self.pri is None else self.pri & 7


def parse_record(raw: bytes) -> SyslogRecord:
    """Split a record into header and MSG. Never raises; byte order marks before PRI and before MSG are skipped."""
    body = _without_bom(raw)
    if found := _HEADER.fullmatch(body):
        fields = {
            name: (value or b"").decode("utf-8", errors="replace") for name, value in found.groupdict().items() if name != "msg"
        }
        return SyslogRecord(
            pri=int(fields["pri"]),
            version=int(fields["version"]),
            timestamp=_empty_if_nil(fields["timestamp"]),
            hostname=_empty_if_nil(fields["hostname"]),
            app_name=_empty_if_nil(fields["app_name"]),
            procid=_empty_if_nil(fields["procid"]),
            msgid=_empty_if_nil(fields["msgid"]),
            structured_data=_empty_if_nil(fields["sd"]),
            msg=_without_bom(found["msg"] or b""),
        )
    if found := _PRI_ONLY.fullmatch(body):
        return SyslogRecord(int(found["pri"]), 0, "", "", "", "", "", "", _without_bom(found["msg"]))
    return SyslogRecord(None, 0, "", "", "", "", "", "", body)


def _empty_if_nil(text: str) -> str:
    return "" if text == _NIL else text


def _without_bom(data: bytes) -> bytes:
    while data.startswith(_BOM):
        data = data[len(_BOM) :]
    return data
