"""The card's login: opened by a PIN, closed by removal, time or the end; every change is on record before it takes effect.

A PIN is asked only when an association waits, when a card was put back, and at the start. It is used for one login and forgotten:
a module that lost the login (a card that bounced in its reader) gets no PIN from memory, the person is asked again.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography import x509

from securepacs.errors import PinIncorrect, PinLocked, SecurePacsError, TokenError, TokenNotPresent
from securepacs.tokens.credential import Credential
from securepacs.tokens.pcsc import card_in
from securepacs.tokens.pin import PinSource
from securepacs.tokens.pkcs11 import Pkcs11Token
from securepacs.tokens.presence import Presence
from securepacs.tokens.software import order_chain
from securepacs.tokens.tls_key import client_context
from securepacs_proxy.agent.records import Records, name_of
from securepacs_proxy.reverse import ALPN

_log = logging.getLogger(__name__)
LOOK_SECONDS = 0.2
STUCK_SECONDS = 5.0
_REMOVED = "the card was removed"


class DoorState(StrEnum):
    """What the agent would answer an association now."""

    LOCKED = "locked"
    OPEN = "open"
    REMOVED = "card removed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Login:
    """One login: the context that connections are made with, and whose it is."""

    context: ssl.SSLContext
    reverse_context: ssl.SSLContext  # for connections that wait for deliveries
    certificate: x509.Certificate
    token: Pkcs11Token
    reader: str
    is_smart_card: bool

    @property
    def person(self) -> str:
        """The name of the person."""
        return name_of(self.certificate)


class Door:
    """The state of the login, for many threads. `on_close(why)` is called when live associations must end."""

    def __init__(
        self,
        uri: str,
        ask: Callable[[str], str],
        records: Records,
        *,
        trust: Sequence[x509.Certificate],
        chain: Sequence[x509.Certificate],
        on_close: Callable[[str], None],
        on_change: Callable[[], None],
        on_stuck: Callable[[], None],
    ) -> None:
        """`ask(explanation)` asks a person for the PIN; TokenError when nobody answers.

        `on_stuck()` is called when the module does not come back from a logout: only a new process gets further then.
        """
        self._uri = uri
        self._ask = ask
        self._records = records
        self._trust = trust
        self._chain = chain
        self._on_close = on_close
        self._on_change = on_change
        self._on_stuck = on_stuck
        self._changed = threading.Condition()
        self._wanted = True
        self._presence = Presence()
        self.state = DoorState.LOCKED
        self.login: Login | None = None
        self.trouble = ""

    @property
    def closed(self) -> bool:
        """Whether the agent is ending."""
        return self.state is DoorState.CLOSED

    def start(self) -> None:
        """Start asking and watching, each in a thread of its own: a person takes time, a stuck card module takes for ever."""
        for work in (self._ask_when_wanted, self._watch):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def enter(self, *, seconds: float) -> Login:
        """Return the login, after waiting up to `seconds` for one. Raises TokenError."""
        with self._changed:
            if self.state is not DoorState.OPEN:
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self.state in (DoorState.OPEN, DoorState.CLOSED), seconds)
            if self.login is None:
                raise TokenError(self.trouble or "nobody has logged in at the card")
            return self.login

    def wait_for_login(self) -> Login | None:
        """Return the login, after waiting for one without asking anybody; None when the agent ends."""
        with self._changed:
            self._changed.wait_for(lambda: self.login is not None or self.state is DoorState.CLOSED)
            return self.login

    def lock(self, why: str, state: DoorState = DoorState.LOCKED) -> None:
        """End the login; the associations that live by it end first."""
        with self._changed:
            login, self.login, self.state = self.login, None, state
            self._wanted = False
            self._changed.notify_all()
        self._on_change()
        if login is None:
            return
        self._on_close(why)
        try:
            self._records.logout(login.certificate, why=why)
        except SecurePacsError as error:
            _log.error("the end of a login is not on record: %s", error)
        threading.Thread(target=self._log_out, args=(login.token,), daemon=True).start()

    def _log_out(self, token: Pkcs11Token) -> None:
        """Log out with an eye on the clock: a module may be stuck since the card was pulled."""
        clock = threading.Timer(STUCK_SECONDS, self._on_stuck)
        clock.daemon = True
        clock.start()
        token.close()
        clock.cancel()

    def lost(self, login: Login, *, removed: bool = False) -> None:
        """A handshake found the login gone, as after a short loss of contact, or the card itself: ask for the PIN again."""
        with self._changed:
            stale = self.login is login
        if stale and removed:
            self.lock(_REMOVED, DoorState.REMOVED)
        elif stale:
            self.lock("the card lost its login")

    # --- threads --------------------------------------------------------------------------------------------------------

    def _ask_when_wanted(self) -> None:
        while not self.closed:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self.closed)
            if not self.closed:
                self._try_to_log_in()

    def _try_to_log_in(self) -> None:
        """Log in once. A wrong PIN is asked again, for a person types each one; anything else waits for the next reason to ask."""
        again, explanation = False, self.trouble
        try:
            login = self._log_in(explanation)
            self._records.login(login.certificate)
        except SecurePacsError as error:
            again = isinstance(error, PinIncorrect)
            if isinstance(error, PinIncorrect | PinLocked):
                self._fail(error)
            tries = getattr(error, "tries_left", None)
            self.trouble = f"{error.message}, {tries} tries left" if tries is not None else error.message
            _log.warning("not logged in: %s", self.trouble)
            if isinstance(error, TokenNotPresent):
                with self._changed:
                    self.state = self.state if self.closed else DoorState.REMOVED
            self._on_change()
            with self._changed:
                self._wanted = again
            return
        with self._changed:
            if self.closed:
                login.token.close()
                return
            self.login, self.state, self.trouble, self._wanted = login, DoorState.OPEN, "", False
            self._presence = Presence()
            self._changed.notify_all()
        self._on_change()

    def _fail(self, error: SecurePacsError) -> None:
        try:
            self._records.login(None, failure=error.message)
        except SecurePacsError as problem:
            _log.error("a failed login is not on record: %s", problem)

    def _log_in(self, explanation: str) -> Login:
        token = Pkcs11Token.open(self._uri, pin=_Once(lambda: self._ask(explanation)))
        try:
            credential = choose(token.credentials())
            chain = order_chain(credential.certificate, (*credential.chain, *self._chain))
            context, reverse = (client_context(replace(credential, chain=chain), trust=self._trust) for _ in range(2))
            reverse.set_alpn_protocols([ALPN])
            reader = token.reader()
            return Login(context, reverse, credential.certificate, token, reader, card_in(reader) is not None)
        except BaseException:
            token.close()
            raise

    def _watch(self) -> None:
        pause = threading.Event()
        while not self.closed:
            pause.wait(LOOK_SECONDS)
            login = self.login
            if login is not None:
                if self._presence.saw(_is_in(login), at=time.monotonic()):
                    self.lock(_REMOVED, DoorState.REMOVED)
            elif self.state is DoorState.REMOVED and self._card_is_back():
                with self._changed:
                    self.state, self._wanted, self.trouble = DoorState.LOCKED, True, ""
                    self._changed.notify_all()

    def _card_is_back(self) -> bool:
        try:
            Pkcs11Token.open(self._uri).close()
        except SecurePacsError:
            return False
        return True


class _Once:
    """A PIN source that answers once."""

    def __init__(self, source: PinSource) -> None:
        self._source: PinSource | None = source

    def __call__(self) -> str:
        source, self._source = self._source, None
        if source is None:
            raise TokenError("the card wants its PIN again", hint="choose the login key of the card: id=%01 (PIV 9A) in token.uri")
        return source()


def _is_in(login: Login) -> bool:
    if login.is_smart_card:
        return card_in(login.reader) is True
    try:
        return login.token.present()
    except TokenError:
        return False


def choose(credentials: Sequence[Credential]) -> Credential:
    """Return the one key to log in with: the only one, else the only login key (PIV 9A). Raises TokenError."""
    usable = [credential for credential in credentials if _may_authenticate(credential.certificate)]
    login_only = [credential for credential in usable if credential.login_only]
    found = usable if len(usable) == 1 else login_only
    if len(found) == 1:
        return found[0]
    if not usable:
        raise TokenError("the card holds no key with a certificate for logging in", hint="see: securepacs token show")
    raise TokenError("several keys of the card fit", hint="add object=... or id=... to token.uri")


def _may_authenticate(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True
