"""Sinks: from a message, or from `logging`, into the spool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from securepacs import audit, codes
from securepacs.audit import AuditHandler, SpoolSink, read_spool
from securepacs.audit.syslog import parse_record
from securepacs.audit.xml import from_xml
from securepacs.errors import Unavailable, UsageError
from tests.support.audit import all_messages, numbered


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SpoolSink]:
    with SpoolSink.open(tmp_path, app_name="reading room", hostname="ws1") as opened:
        yield opened


@pytest.fixture
def log(sink: SpoolSink) -> Iterator[logging.Logger]:
    logger = logging.getLogger("securepacs.test.audit")
    handler = AuditHandler(sink, source="ROOM")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)


def test_emit_returns_when_the_record_is_in_the_spool(sink: SpoolSink, tmp_path: Path) -> None:
    sink.emit(numbered(1))
    (raw,) = read_spool(tmp_path)
    parsed = parse_record(raw)
    assert (parsed.hostname, parsed.app_name, parsed.msgid) == ("ws1", "reading_room", "IHE+RFC-3881")
    assert from_xml(parsed.msg) == numbered(1)


def test_submit_tells_later(sink: SpoolSink, tmp_path: Path) -> None:
    errors: list[BaseException | None] = []
    done = threading.Event()
    sink.submit(numbered(1), lambda error: (errors.append(error), done.set())[0])
    assert done.wait(10)
    assert errors == [None]
    assert len(list(read_spool(tmp_path))) == 1


def test_a_closed_sink_refuses(tmp_path: Path) -> None:
    sink = SpoolSink.open(tmp_path, app_name="x")
    sink.close()
    with pytest.raises(Unavailable):
        sink.emit(numbered(1))
    with pytest.raises(Unavailable):
        sink.submit(numbered(1), lambda _error: None)


def test_a_message_in_a_log_record_is_emitted(log: logging.Logger, tmp_path: Path) -> None:
    message = all_messages()["query"]
    log.info("asked", extra={"audit": message})
    (raw,) = read_spool(tmp_path)
    assert from_xml(parse_record(raw).msg) == message


@pytest.mark.parametrize(
    ("level", "outcome"), [(logging.DEBUG, 0), (logging.INFO, 0), (logging.WARNING, 4), (logging.ERROR, 8), (logging.CRITICAL, 12)]
)
def test_a_log_line_of_a_user_is_a_security_alert(log: logging.Logger, tmp_path: Path, level: int, outcome: int) -> None:
    log.log(level, "changed %s", "limit", extra={"audit_user": "lee", "audit_type": codes.SECURITY_CONFIGURATION})
    (raw,) = read_spool(tmp_path)
    message = from_xml(parse_record(raw).msg)
    event = message.EventIdentification
    assert (event.EventID, event.EventTypeCode) == (codes.SECURITY_ALERT, (codes.SECURITY_CONFIGURATION,))
    assert event.EventOutcomeIndicator == outcome
    assert message.ActiveParticipant[0].UserID == "lee"
    assert message.AuditSourceIdentification.AuditSourceID == "ROOM"
    assert message.ParticipantObjectIdentification[0].ParticipantObjectDetail[0].value == b"changed limit"


def test_other_log_lines_pass_by(log: logging.Logger, tmp_path: Path) -> None:
    log.error("something else")
    assert list(read_spool(tmp_path)) == []


@pytest.mark.parametrize("extra", [{"audit": "text"}, {"audit_user": "lee", "audit_type": "110129"}, {"audit_user": ""}])
def test_a_wrong_use_is_an_error_of_the_caller(log: logging.Logger, tmp_path: Path, extra: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        log.info("x", extra=extra)
    assert list(read_spool(tmp_path)) == []


def test_a_log_line_that_cannot_be_recorded_is_not_swallowed(tmp_path: Path) -> None:
    sink = SpoolSink.open(tmp_path, app_name="x")
    sink.close()
    logger = logging.Logger("alone")
    logger.addHandler(AuditHandler(sink, source="ROOM"))
    with pytest.raises(Unavailable):
        logger.info("x", extra={"audit_user": "lee"})


def test_every_name_of_the_room_can_be_had() -> None:
    assert [name for name in audit.__all__ if getattr(audit, name, None) is None] == []
    assert set(audit.__all__) <= set(dir(audit))
    with pytest.raises(AttributeError):
        _ = audit.nothing
