"""The error table: what each class of error means for the exit code, the log, the wire and the audit trail.

Also the place where configuration becomes live objects; the only reader of entry points.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from securepacs import errors
from securepacs.codes import (
    NODE_AUTHENTICATION,
    SECURITY_CONFIGURATION,
    USE_OF_RESTRICTED_FUNCTION,
    CodedValue,
)


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Consequences of one error class. `protocol_reply` names the DIMSE status or PDU; `audit` the Security Alert type, if any."""

    exit_code: int
    log_level: int
    protocol_reply: str
    audit: CodedValue | None


ERROR_TABLE: dict[type[errors.SecurePacsError], ErrorRow] = {
    errors.SecurePacsError: ErrorRow(2, logging.ERROR, "A-ABORT", None),
    errors.UsageError: ErrorRow(2, logging.ERROR, "A-ABORT", None),
    errors.ConfigError: ErrorRow(2, logging.ERROR, "none", SECURITY_CONFIGURATION),
    errors.MalformedError: ErrorRow(3, logging.WARNING, "A-ABORT", NODE_AUTHENTICATION),
    errors.ProtocolError: ErrorRow(3, logging.WARNING, "A-ABORT", NODE_AUTHENTICATION),
    errors.VerificationError: ErrorRow(1, logging.WARNING, "0x0110", None),
    errors.IntegrityFailure: ErrorRow(1, logging.WARNING, "0x0110", None),
    errors.NoMatchingRecipient: ErrorRow(1, logging.WARNING, "none", None),
    errors.PasswordIncorrect: ErrorRow(1, logging.WARNING, "none", None),
    errors.IllegalTransition: ErrorRow(1, logging.WARNING, "0x0110", None),
    errors.AccessDenied: ErrorRow(1, logging.WARNING, "0x0124", USE_OF_RESTRICTED_FUNCTION),
    errors.TokenError: ErrorRow(4, logging.WARNING, "none", None),
    errors.PinIncorrect: ErrorRow(4, logging.WARNING, "none", None),
    errors.PinLocked: ErrorRow(4, logging.WARNING, "none", None),
    errors.TokenNotPresent: ErrorRow(4, logging.WARNING, "none", None),
    errors.Unavailable: ErrorRow(5, logging.ERROR, "A-ASSOCIATE-RJ transient", None),
}


def error_row(error: errors.SecurePacsError) -> ErrorRow:
    """Return the row of the nearest class of `error` that has one."""
    return next(ERROR_TABLE[cls] for cls in type(error).__mro__ if cls in ERROR_TABLE)


def exit_code(error: errors.SecurePacsError) -> int:
    """Return the process exit code for `error` (docs/reference/errors.md)."""
    return error_row(error).exit_code
