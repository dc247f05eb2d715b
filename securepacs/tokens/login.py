"""Finding a token and logging in: the part of PKCS #11 where a mistake costs the card holder a locked card (PKCS #11 11.6).

Rules (each was forced by a token that behaved otherwise):
1. A PIN is checked by exactly one C_Login. A PIN that was refused is never tried again by itself; flags tell the tries left.
2. Login belongs to process and token. Authenticating again logs out first, so that the PIN really is checked. After a fork it
   cannot always be checked again (SoftHSM keeps the parent's login): start workers that take PINs with spawn.
3. Tokens are selected by what they say of themselves, never by slot number, and found again by serial number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import TokenFlag

from securepacs.errors import PinIncorrect, PinLocked, TokenError, TokenNotPresent
from securepacs.tokens import p11kit
from securepacs.tokens.openssl_queue import shielded
from securepacs.tokens.pcsc import PivReader, is_piv
from securepacs.tokens.uri import TokenUri

PinSource = Callable[[], str]

_UNBLOCK = "unblock it with the PUK, or ask who issued the card"
REFUSED = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)
_PIV_TRIES = 3  # what cards come with; those set to more read "ok" until three are left
_BROKEN = (pkcs11.GeneralError, pkcs11.DeviceError, pkcs11.FunctionFailed)
_ABSENT = (pkcs11.DeviceRemoved, pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised, pkcs11.SlotIDInvalid)

# what an operation says when its session, object or login is gone: a pulled card, a fork, a logout
LOST = (
    pkcs11.DeviceRemoved,
    pkcs11.KeyHandleInvalid,
    pkcs11.ObjectHandleInvalid,
    pkcs11.OperationNotInitialized,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.UserNotLoggedIn,
)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What a token says of itself. `pin` is ok, count-low, final-try, locked or not-set.

    `tries_left` is known of PIV cards only, while nobody is logged in.
    `pin_pad`: the PIN (or finger) is given at the reader, never to this program (CKF_PROTECTED_AUTHENTICATION_PATH).
    """

    label: str
    serial: str
    manufacturer: str
    model: str
    pin: str
    login_required: bool
    module: Path
    pin_pad: bool = False
    tries_left: int | None = None

    @property
    def uri(self) -> str:
        """The RFC 7512 URI that names this token."""
        return str(TokenUri(self.module, token=self.label, serial=self.serial))


@contextmanager
def token_errors(passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn python-pkcs11's errors into ours, except `passing`; only their names are passed on, never their texts."""
    try:
        with shielded():
            yield
    except passing:
        raise
    except pkcs11.PinLocked:
        raise PinLocked("the PIN is locked", hint=_UNBLOCK) from None
    except REFUSED:
        raise PinIncorrect from None
    except _ABSENT:
        raise TokenNotPresent("the token was removed") from None
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"the token refused: {type(error).__name__}") from None


def present_tokens(module: Path) -> list[Any]:
    """Return python-pkcs11's objects of the initialized tokens that `module` sees now."""
    return _read_slots(p11kit.library(module))[0]


def _read_slots(library: Any) -> tuple[list[Any], bool]:
    """Return the initialized tokens, and whether a slot answered as if the module had lost what it stands on."""
    tokens, broken = [], False
    for slot in library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except _ABSENT:
            continue  # pulled between the two calls, or a card of another maker
        except _BROKEN:
            broken = True
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            tokens.append(token)
    return tokens, broken


def describe(token: Any, module: Path) -> TokenInfo:
    """Return the token's own description with the state of its PIN at the moment `token` was read."""
    serial = token.serial.decode("utf-8", "replace").rstrip("\0 ")
    login_required = bool(token.flags & TokenFlag.LOGIN_REQUIRED)
    pin_pad = bool(token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH)
    return TokenInfo(
        token.label, serial, token.manufacturer_id, token.model, _pin_state(token.flags), login_required, module, pin_pad
    )


def describe_with_tries(token: Any, module: Path) -> TokenInfo:
    """Return `describe` with the tries that a PIV card itself tells: OpenSC's flags lag behind the card."""
    info, tries = describe(token, module), piv_tries(token)
    if tries is None:
        return info
    state = ("locked", "final-try", "count-low")[tries] if tries < _PIV_TRIES else "ok"
    return replace(info, pin=state, tries_left=tries)


def _pin_state(flags: Any) -> str:
    states = (
        (TokenFlag.USER_PIN_LOCKED, "locked"),
        (TokenFlag.USER_PIN_FINAL_TRY, "final-try"),
        (TokenFlag.USER_PIN_COUNT_LOW, "count-low"),
        (TokenFlag.USER_PIN_INITIALIZED, "ok"),
    )
    return next((name for flag, name in states if flags & flag), "not-set")


def find_token(uri: TokenUri) -> Any:
    """Return the one token that fits `uri`; TokenNotPresent for none, TokenError for several.

    When it is missing and the module is broken (its reader service or its storage went away), the module is started anew, once.
    """
    with token_errors():
        tokens, broken = _read_slots(p11kit.library(uri.module_path))
        found = _fitting(tokens, uri)
        if not found and broken:
            found = _fitting(_read_slots(p11kit.restarted(uri.module_path))[0], uri)
    if not found:
        raise TokenNotPresent("no token fits the URI", hint="is the card in the reader? see: securepacs token list")
    if len(found) > 1:
        raise TokenError("several tokens fit the URI", hint="add serial=... as shown by: securepacs token list")
    return found[0]


def _fitting(tokens: list[Any], uri: TokenUri) -> list[Any]:
    wanted = {"label": uri.token, "serial": uri.serial, "manufacturer": uri.manufacturer, "model": uri.model}
    described = [(token, describe(token, uri.module_path)) for token in tokens]
    return [token for token, info in described if all(not value or getattr(info, name) == value for name, value in wanted.items())]


def _new_lock() -> None:
    global lock
    lock = threading.RLock()


lock = threading.RLock()
os.register_at_fork(after_in_child=_new_lock)  # another thread of the parent may have held the old one


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep others of this process from logging in or out: without a login, private keys are not to be seen on the token."""
    with lock:
        yield


class Login:
    """The login of this process at one token, shared by everything in the process that uses the token. Guarded by `lock`."""

    def __init__(self, uri: TokenUri) -> None:
        self.uri = uri  # always with the serial number
        self.users = 0
        self._session: Any = None
        self._pid = 0
        self._refused = False

    @shielded()
    def authenticate(self, pin: PinSource) -> None:
        """Check the PIN by one login, also when somebody is logged in already (rule 2)."""
        with lock:
            self._logout()
            self._login(find_token(self.uri), pin)

    @shielded()
    def ensure(self, pin: PinSource | None) -> Any:
        """Return the token as found now, logged in again when the login is gone; a PIN once refused is not tried again."""
        with lock:
            token = find_token(self.uri)
            if pin is None or self._alive():
                return token
            if self._refused:
                raise TokenError("the PIN was refused before", hint="open the token again with the right PIN")
            inherited = self._session is not None and self._pid != os.getpid()
            self._logout()
            self._login(token, pin, inherited=inherited)
            return token

    @shielded()
    def release(self) -> None:
        """Log out when the last user of the token in this process is done."""
        with lock:
            self.users -= 1
            if self.users == 0:
                self._logout()
                _logins.pop(self.uri.serial, None)

    @shielded()
    def alive(self) -> bool:
        """Tell whether this process is logged in now."""
        with lock:
            return self._alive()

    @shielded()
    def log_out(self) -> None:
        """End the login; the next `ensure` logs in again, also after a refusal."""
        with lock:
            self._logout()
            self._refused = False

    def refusal(self) -> PinIncorrect | PinLocked:
        """Return the error for a PIN that the token refused just now."""
        return refusal(find_token(self.uri))

    @shielded()
    def change_pin(self, old: PinSource, new: PinSource) -> None:
        """Replace the PIN with one C_SetPIN in a session that is not logged in."""
        with lock:
            token = self._unlocked_token()
            current, wanted = old(), new()
            self._logout()
            with self._session_for(token) as session:
                try:
                    session.set_pin(current, wanted)
                except pkcs11.PinLenRange:
                    raise TokenError("the token does not take a PIN of this length", hint="PIV: 6 to 8 digits") from None
            self._refused = False

    @shielded()
    def unblock(self, so_pin: PinSource, new: PinSource) -> None:
        """Set a new PIN as security officer (C_InitPIN)."""
        with lock:
            secret, wanted = so_pin(), new()
            self._logout()
            # a security officer logs in only where no read-only session is left: python-pkcs11 leaves one behind each refused PIN
            p11kit.restarted(self.uri.module_path)
            token = find_token(self.uri)
            with self._session_for(token, so_pin=secret) as session, token_errors():
                session.init_pin(wanted)
            self._refused = False

    @contextmanager
    def _session_for(self, token: Any, **login: str) -> Iterator[Any]:
        session = None
        try:
            try:
                session = token.open(rw=True, **login)
                yield session
            except pkcs11.PinLocked:
                raise PinLocked("the security officer's PIN is locked" if login else "the PIN is locked", hint=_UNBLOCK) from None
            except REFUSED:
                raise (PinIncorrect("the security officer's PIN is incorrect") if login else self.refusal()) from None
            except pkcs11.PKCS11Error:
                with token_errors():
                    raise
        finally:
            if session is not None:
                close_quietly(session)

    def _unlocked_token(self) -> Any:
        token = find_token(self.uri)
        _refuse_locked(token)
        if token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
            raise TokenError("the PIN of this token is changed at its reader", hint="use the program of the token's vendor")
        return token

    def _alive(self) -> bool:
        if self._session is None or self._pid != os.getpid():
            return False
        try:
            self._session.generate_random(8)  # the cheapest question that needs a living session
        except LOST:
            return False
        except pkcs11.PKCS11Error:
            return True  # alive, but without a random generator
        return True

    def _login(self, token: Any, pin: PinSource, *, inherited: bool = False) -> None:
        _refuse_locked(token)
        has_pin_pad = bool(token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH)
        secret = pkcs11.PROTECTED_AUTH if has_pin_pad else pin()
        try:
            self._session = token.open(user_pin=secret)
        except REFUSED:
            self._refused = True
            raise self.refusal() from None
        except pkcs11.UserAlreadyLoggedIn:
            if not inherited:
                raise TokenError("another part of this process is logged in, so the PIN could not be checked") from None
            self._session = token.open()  # some modules keep the login of the parent process, which this object made
        except pkcs11.PKCS11Error:
            with token_errors():
                raise
        self._refused = False
        self._pid = os.getpid()

    def _logout(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            close_quietly(session)  # python-pkcs11 calls C_Logout here, which ends the login of every session of the process


def login_for(uri: TokenUri) -> Login:
    """Return the login of the token that fits `uri`, counted as one more user of it."""
    with lock:
        info = describe(find_token(uri), uri.module_path)
        exact = TokenUri(uri.module_path, token=info.label, serial=info.serial)
        login = _logins.setdefault(info.serial, Login(exact))
        login.users += 1
        return login


_logins: dict[str, Login] = {}


def _refuse_locked(token: Any) -> None:
    """Raise PinLocked without spending a try; a PIV card is asked itself, because its flags stay behind an unblocking."""
    if token.flags & TokenFlag.USER_PIN_LOCKED and piv_tries(token) in (None, 0):
        raise PinLocked("the PIN is locked", hint=_UNBLOCK)


def refusal(token: Any) -> PinIncorrect | PinLocked:
    """Return the error for a refused PIN, with the tries left: from the card itself (PIV), else as far as the flags tell."""
    tries = piv_tries(token)
    if tries == 0 or token.flags & TokenFlag.USER_PIN_LOCKED:
        return PinLocked("the PIN was wrong and is locked now", hint=_UNBLOCK)
    if tries is None and token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        tries = 1
    return PinIncorrect(tries_left=tries)


def piv_tries(token: Any) -> int | None:
    """Return how many wrong PINs a PIV card still takes, asked of the card itself; None for other tokens and without PC/SC."""
    if not is_piv(token.manufacturer_id):
        return None
    try:
        with PivReader.of_slot(token.slot.slot_description) as reader:
            return reader.tries_left()
    except TokenError:
        return None


def close_quietly(session: Any) -> None:
    """Close a session that may be gone already."""
    with suppress(pkcs11.PKCS11Error):
        session.close()
