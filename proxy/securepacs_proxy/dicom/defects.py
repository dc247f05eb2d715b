"""Makes an error of the gateway itself visible: class and place, never the text, which may hold data of the connection."""

from __future__ import annotations

import logging

_log = logging.getLogger(__name__)


def report(association_id: str, error: Exception) -> None:
    """Log that `error` ended an association."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown place"
    _log.critical("association %s ended by an error of the gateway: %s at %s", association_id, type(error).__name__, place)
