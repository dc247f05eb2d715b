"""How `gateway run` logs: text for people, or one JSON object a line for programs. Neither holds data of patients."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from securepacs_proxy.faults import fault, place

_log = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """How lines look."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, pid, logger, message, and of an error its type and place, never its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        row: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            row["error"] = record.exc_info[0].__name__
            row["place"] = place(record.exc_info[2])
        return json.dumps(row, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people; of an error its type and place, never its text or a traceback, whose lines could hold it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s")

    def formatException(self, ei: Any) -> str:
        """Return type and place."""
        return f"  {ei[0].__name__} at {place(ei[2])}" if ei[0] is not None else ""

    def formatStack(self, stack_info: str) -> str:
        """Return nothing: a stack shows no more than the place."""
        return ""


def configure(kind: LogFormat, *, verbose: bool) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if kind is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # what nobody catches is logged like everything else, instead of a traceback with the text of the error
    sys.excepthook = lambda _kind, error, _trace: _log.critical("failed: %s", fault(error))
    sys.unraisablehook = lambda what: _log.error("failed: %s", fault(what.exc_value) if what.exc_value else what.exc_type.__name__)
    threading.excepthook = lambda what: _log.critical("a thread failed: %s", fault(what.exc_value) if what.exc_value else "?")
