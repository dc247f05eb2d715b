"""One private key on a token: its own session, its own lock, and one more attempt when the session was lost.

What a token says when its session, object or login is gone is `login.LOST`: a pulled card, a fork, a logout. The token is then
found again, logged in if needed, and the operation is tried once more. A refused PIN is never tried again.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import pkcs11
from pkcs11 import Attribute, ObjectClass

from securepacs.errors import TokenError
from securepacs.tokens.login import LOST, REFUSED, close_quietly, token_errors, undisturbed
from securepacs.tokens.openssl_queue import shielded

_LOST_OR_BROKEN = (*LOST, pkcs11.GeneralError)
_BAD_CIPHERTEXT = (
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.GeneralError,  # SoftHSM's answer to wrong padding
)
_NOT_OFFERED = (pkcs11.MechanismInvalid, pkcs11.MechanismParamInvalid, pkcs11.FunctionNotSupported)


class Owner(Protocol):
    """The token that a key lives on."""

    def open_session(self, *, rw: bool = False) -> Any: ...

    def ask_pin(self) -> str: ...

    def refusal(self) -> TokenError: ...


class SessionKey:
    """One private key on the token, found by CKA_ID: its own session and lock."""

    def __init__(self, owner: Owner, key_id: bytes) -> None:
        self._owner = owner
        self._id = key_id
        self._lock = threading.Lock()
        self._session: Any = None
        self._key: Any = None
        self._pid = 0
        self._wants_pin_every_time = False
        _session_keys.add(self)

    def sign(self, data: bytes, mechanism: Any, parameter: Any = None) -> bytes:
        """Return the raw signature of `data`. Raises TokenError, also when the key or the token does not do this."""
        return self._offered("sign", mechanism, data, parameter, _LOST_OR_BROKEN)

    def decrypt(self, data: bytes, mechanism: Any, parameter: Any = None) -> bytes:
        """Return the plaintext; ValueError when the token finds no valid padding, TokenError as with `sign`."""
        try:
            return self._offered("decrypt", mechanism, data, parameter, LOST)
        except _BAD_CIPHERTEXT:
            raise ValueError("Decryption failed") from None

    def _offered(self, verb: str, mechanism: Any, data: bytes, parameter: Any, lost: tuple[type[Exception], ...]) -> bytes:
        """Do `verb`; explain a key without that use (python-pkcs11 gives it no such method) and a mechanism the token lacks."""

        def operation(key: Any, **pin: str) -> bytes:
            method = getattr(key, verb, None)
            if method is None:
                raise TokenError(f"the key does not {verb}", hint="another key of the token may: securepacs token test")
            return bytes(method(data, mechanism=mechanism, mechanism_param=parameter, **pin))

        with token_errors(passing=_BAD_CIPHERTEXT if verb == "decrypt" else ()):
            try:
                return self._use(operation, lost)
            except _NOT_OFFERED:
                raise TokenError(f"the token does not {verb} with {mechanism.name}") from None
            except pkcs11.ArgumentsBad:
                if parameter is None:
                    raise
                raise TokenError(f"the token does not {verb} with {mechanism.name} and these parameters") from None

    def _use(self, operation: Callable[..., bytes], lost: tuple[type[Exception], ...] = LOST) -> bytes:
        with self._lock:
            if self._pid != os.getpid():
                self._key = None
            if self._key is not None:
                try:
                    return self._once(operation)
                except lost:
                    self._forget()
            self._open()
            try:
                return self._once(operation)
            except lost:  # somebody checked a PIN just now, which logs out and in again (rule 5)
                self._forget()
                if self._wants_pin_every_time:
                    raise
            self._open()
            return self._once(operation)

    def _once(self, operation: Callable[..., bytes]) -> bytes:
        try:
            pin = {"pin": self._owner.ask_pin()} if self._wants_pin_every_time else {}
            return operation(self._key, **pin)
        except REFUSED:
            self._forget()
            raise self._owner.refusal() from None

    def _open(self) -> None:
        self._key = None
        with undisturbed():
            self._session = self._owner.open_session()
            self._pid = os.getpid()
            found = list(self._session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: self._id}))
            if len(found) != 1:
                close_quietly(self._session)
                raise TokenError("the private key is not on the token")
            # PIV 9C and other keys for signatures that bind a person: the PIN is asked anew for each
            self._wants_pin_every_time = bool(attribute(found[0], Attribute.ALWAYS_AUTHENTICATE))
            self._key = found[0]

    def _forget(self) -> None:
        """Give up the session: after a refused PIN an operation is left open in it."""
        close_quietly(self._session)
        self._key = None

    def close(self) -> None:
        """End the session of this key."""
        with self._lock, shielded():
            if self._key is not None and self._pid == os.getpid():
                close_quietly(self._session)
            self._key = None

    def after_fork(self) -> None:
        """Take a new lock: another thread of the parent may have held the old one."""
        self._lock = threading.Lock()


_session_keys: weakref.WeakSet[SessionKey] = weakref.WeakSet()


def _after_fork() -> None:
    for key in list(_session_keys):
        key.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def attribute(stored: Any, name: Any) -> Any:
    """Return an attribute, None when the token does not have it."""
    try:
        return stored[name]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, pkcs11.AttributeValueInvalid, pkcs11.FunctionFailed):
        return None
