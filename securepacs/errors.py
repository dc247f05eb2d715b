"""Every public exception of securepacs, arranged by who must act.

    SecurePacsError                     .code .hint .standard
    |-- UsageError                      fix the program that called
    |-- ConfigError                     the operator; .key names the setting
    |-- MalformedError                  the sender of the data; .offset is the byte where reading stopped
    |-- ProtocolError                   the peer broke its protocol
    |-- VerificationError               a human decides; .report carries the verdict
    |   `-- IntegrityFailure            protected content was changed or its key is wrong
    |-- NoMatchingRecipient             none of the keys at hand opens the message
    |-- PasswordIncorrect               the password does not open the message
    |-- IllegalTransition               PS3.15 A.1 has no such change of SOP Instance Status
    |-- AccessDenied                    .decision names the policies that refused
    |-- TokenError                      the card holder
    |   |-- PinIncorrect                .tries_left, None when the token does not tell
    |   |-- PinLocked
    |   `-- TokenNotPresent
    `-- Unavailable                     something outside did not answer; .retryable

Messages never contain a secret, a PIN, or patient data. What each class means for the exit code, the log level, the reply on the
wire and the audit trail is one table in `securepacs.wiring`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SecurePacsError(Exception):
    """Base of all errors. `code` is stable for programs, `hint` says what to do, `standard` names the clause concerned."""

    code: ClassVar[str] = "securepacs"

    def __init__(self, message: str, *, hint: str = "", standard: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.standard = standard

    def __str__(self) -> str:
        return f"{self.message} ({self.standard})" if self.standard else self.message


class UsageError(SecurePacsError):
    """The caller asked for something that cannot be meant."""

    code = "usage"


class ConfigError(SecurePacsError):
    """A setting is missing, unknown or wrong; `key` is its dotted name."""

    code = "config"

    def __init__(self, message: str, *, key: str = "", hint: str = "", standard: str = "") -> None:
        super().__init__(message, hint=hint, standard=standard)
        self.key = key


class MalformedError(SecurePacsError):
    """Data that does not follow its format; `offset` is the byte position where reading stopped, None when unknown."""

    code = "malformed"

    def __init__(self, message: str, *, offset: int | None = None, hint: str = "", standard: str = "") -> None:
        super().__init__(message if offset is None else f"{message} at byte {offset}", hint=hint, standard=standard)
        self.offset = offset


class ProtocolError(SecurePacsError):
    """A peer sent what its protocol does not allow in this state."""

    code = "protocol"


class VerificationError(SecurePacsError):
    """A check did not end well; `report` is the full result for a human to judge."""

    code = "verification"

    def __init__(self, message: str, *, report: Any = None, hint: str = "", standard: str = "") -> None:
        super().__init__(message, hint=hint, standard=standard)
        self.report = report


class IntegrityFailure(VerificationError):
    """Protected content was altered, or was opened with a wrong key; the two cannot be told apart (RFC 3218)."""

    code = "integrity"


class NoMatchingRecipient(SecurePacsError):
    """The message is not addressed to any of the keys or passwords at hand (RFC 5652 6.2)."""

    code = "no-matching-recipient"


class PasswordIncorrect(SecurePacsError):
    """The password does not unwrap the content key (RFC 3211)."""

    code = "password"


class IllegalTransition(SecurePacsError):
    """The change of SOP Instance Status is not one of the transitions of PS3.15 A.1."""

    code = "illegal-transition"


class AccessDenied(SecurePacsError):
    """The policy refused; `decision` names the policies that did."""

    code = "access-denied"

    def __init__(self, message: str, *, decision: Any = None, hint: str = "", standard: str = "") -> None:
        super().__init__(message, hint=hint, standard=standard)
        self.decision = decision


class TokenError(SecurePacsError):
    """A smart card, USB key or key file could not do what was asked."""

    code = "token"


class PinIncorrect(TokenError):
    """The PIN was wrong; `tries_left` is None when the token does not tell."""

    code = "pin-incorrect"

    def __init__(self, message: str = "the PIN is incorrect", *, tries_left: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.tries_left = tries_left


class PinLocked(TokenError):
    """The token refuses every PIN until it is unblocked."""

    code = "pin-locked"


class TokenNotPresent(TokenError):
    """No token answers to the given URI, or it was removed."""

    code = "token-not-present"


class Unavailable(SecurePacsError):
    """Something outside did not answer; `retryable` says whether waiting may help."""

    code = "unavailable"

    def __init__(self, message: str, *, retryable: bool = True, hint: str = "", standard: str = "") -> None:
        super().__init__(message, hint=hint, standard=standard)
        self.retryable = retryable
