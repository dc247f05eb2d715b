"""Makes an error of the gateway itself visible: class and place, never the text, which may hold data of the connection."""

from __future__ import annotations

import logging

from securepacs_proxy.faults import fault

_log = logging.getLogger(__name__)


def report(association_id: str, error: Exception) -> None:
    """Log that `error` ended an association."""
    _log.critical("association %s ended by an error of the gateway: %s", association_id, fault(error))
