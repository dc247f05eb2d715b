"""What PKCS #11 cannot say of a PIV card: how many tries are left, and setting the PIN anew with the PUK (SP 800-73-4 part 2, 3.2).

Speaks to the card through PC/SC (libpcsclite) in one exclusive transaction. Both commands are the standard's own and the same for
every PIV card. `tries_left` never costs a try: VERIFY without data only asks.
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

from securepacs.errors import PinIncorrect, PinLocked, TokenError, TokenNotPresent

PIV_LOGIN_KEYS = (b"\x01", b"\x04")  # CKA_ID of the keys in 9A and 9E, with OpenSC and with Yubico's module alike
_PIV_MANUFACTURERS = ("piv", "yubico")
_AID = bytes.fromhex("A000000308000010000100")
_PIN_BYTES = 8
_SCOPE_SYSTEM, _SHARE_SHARED, _PROTOCOL_T0, _PROTOCOL_T1 = 2, 2, 1, 2
_LEAVE, _RESET = 0, 1
_NO_CARD = (0x8010000C, 0x80100069)  # SCARD_E_NO_SMARTCARD, SCARD_W_REMOVED_CARD
_NO_READERS = 0x8010002E
_STATE_PRESENT = 0x20
_RESPONSE_BYTES = 258


def is_piv(manufacturer: str) -> bool:
    """Tell by CK_TOKEN_INFO's manufacturer whether a token is a PIV card (OpenSC: piv_II; Yubico's module)."""
    return manufacturer.lower().startswith(_PIV_MANUFACTURERS)


class _Request(ctypes.Structure):
    _fields_ = (("protocol", ctypes.c_ulong), ("length", ctypes.c_ulong))


class _ReaderState(ctypes.Structure):
    _fields_ = (
        ("reader", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
        ("current", ctypes.c_ulong),
        ("event", ctypes.c_ulong),
        ("atr_size", ctypes.c_ulong),
        ("atr", ctypes.c_ubyte * 33),
    )


def card_in(slot_description: str) -> bool | None:
    """Tell whether a card is in the reader of a PKCS #11 slot; None when the slot is no PC/SC reader, or the reader is gone.

    Asks the reader service, not the module: a module that is busy with a card, or stuck since its removal, is not waited for.
    """
    wanted = slot_description.rstrip("\0 ").encode()
    try:
        library = _library()
    except TokenError:
        return None
    context = ctypes.c_long()
    if library.SCardEstablishContext(_SCOPE_SYSTEM, None, None, ctypes.byref(context)):
        return None
    try:
        for reader in _readers(library, context):
            if reader[:64].rstrip() == wanted[:64].rstrip():
                state = _ReaderState(reader=reader)
                if library.SCardGetStatusChange(context, 0, ctypes.byref(state), 1):
                    return None
                return bool(state.event & _STATE_PRESENT)
    except TokenError:
        return None
    finally:
        library.SCardReleaseContext(context)
    return None


def readers() -> list[str]:
    """Return the names of the card readers; TokenError when the reader service does not answer."""
    library, context = _library(), ctypes.c_long()
    _check(library.SCardEstablishContext(_SCOPE_SYSTEM, None, None, ctypes.byref(context)))
    try:
        return [name.decode("utf-8", "replace") for name in _readers(library, context)]
    finally:
        library.SCardReleaseContext(context)


class PivReader:
    """A connection to the PIV application of the card in one reader; a context manager."""

    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._library = _library()
        self._context = ctypes.c_long()
        self._card = ctypes.c_long()
        self._protocol = ctypes.c_ulong()
        self._changed = False

    @classmethod
    def of_slot(cls, slot_description: str) -> Self:
        """Name the reader by its PKCS #11 slot, whose description is the reader's name (cut off after 64 characters)."""
        return cls(slot_description.rstrip("\0 "))

    def __enter__(self) -> Self:
        _check(self._library.SCardEstablishContext(_SCOPE_SYSTEM, None, None, ctypes.byref(self._context)))
        try:
            self._connect()
        except BaseException:
            self._library.SCardReleaseContext(self._context)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        end = _RESET if self._changed else _LEAVE  # after a new PIN everybody must ask the card again
        self._library.SCardEndTransaction(self._card, end)
        self._library.SCardDisconnect(self._card, end)
        self._library.SCardReleaseContext(self._context)

    def tries_left(self) -> int:
        """Return how many wrong PINs the card still takes; while the PIN is verified it does not tell, and TokenError is raised."""
        status = self._send(bytes((0x00, 0x20, 0x00, 0x80)))
        if status == 0x6983:
            return 0
        if status & 0xFFF0 == 0x63C0:
            return status & 0x0F
        raise TokenError("the card does not tell how many tries are left")

    def reset_retry_counter(self, *, puk: str, new: str) -> None:
        """Set the PIN to `new` and its tries back. PinIncorrect and PinLocked are about the PUK."""
        status = self._send(bytes((0x00, 0x2C, 0x00, 0x80, 2 * _PIN_BYTES)) + _padded(puk, "PUK") + _padded(new, "PIN"))
        if status == 0x6983:
            raise PinLocked("the PUK is locked", hint="the card is lost; ask who issued it for another one")
        if status & 0xFFF0 == 0x63C0:
            if not status & 0x0F:
                raise PinLocked("the PUK was wrong and is locked now", hint="the card is lost; ask who issued it for another one")
            raise PinIncorrect("the PUK is incorrect", tries_left=status & 0x0F)
        if status != 0x9000:
            raise TokenError(f"the card does not take the new PIN (status {status:04X})", hint="PIV: 6 to 8 digits")
        self._changed = True

    def _connect(self) -> None:
        name = self._reader.encode()
        found = [reader for reader in _readers(self._library, self._context) if reader[:64].rstrip() == name[:64].rstrip()]
        if not found:
            raise TokenNotPresent("the reader is gone")
        mode = _PROTOCOL_T0 | _PROTOCOL_T1
        _check(
            self._library.SCardConnect(
                self._context, found[0], _SHARE_SHARED, mode, ctypes.byref(self._card), ctypes.byref(self._protocol)
            )
        )
        _check(self._library.SCardBeginTransaction(self._card))
        # a SELECT would end the login of others at the card: only when the card does not know VERIFY here
        if self._send(bytes((0x00, 0x20, 0x00, 0x80))) in (0x6D00, 0x6A88, 0x6A82, 0x6E00):
            self._send(bytes((0x00, 0xA4, 0x04, 0x00, len(_AID))) + _AID + b"\0")

    def _send(self, command: bytes) -> int:
        """Send one command and return its status word."""
        request = _Request(self._protocol.value, ctypes.sizeof(_Request))
        response, size = ctypes.create_string_buffer(_RESPONSE_BYTES), ctypes.c_ulong(_RESPONSE_BYTES)
        buffer = ctypes.create_string_buffer(command, len(command))
        try:
            _check(
                self._library.SCardTransmit(
                    self._card, ctypes.byref(request), buffer, len(command), None, response, ctypes.byref(size)
                )
            )
        finally:
            ctypes.memset(buffer, 0, len(command))
        return int.from_bytes(response.raw[max(size.value - 2, 0) : size.value], "big")


def _check(result: int) -> None:
    code = result & 0xFFFFFFFF
    if code in _NO_CARD:
        raise TokenNotPresent("the token was removed")
    if code:
        raise TokenError(f"the reader service refused (PC/SC {code:08X})", hint="is pcscd running?")


def _readers(library: Any, context: ctypes.c_long) -> list[bytes]:
    size = ctypes.c_ulong()
    result = library.SCardListReaders(context, None, None, ctypes.byref(size))
    if result & 0xFFFFFFFF == _NO_READERS:
        return []
    _check(result)
    names = ctypes.create_string_buffer(size.value)
    _check(library.SCardListReaders(context, None, names, ctypes.byref(size)))
    return [name for name in names.raw[: size.value].split(b"\0") if name]


def _padded(secret: str, name: str) -> bytes:
    raw = secret.encode()
    if not raw or len(raw) > _PIN_BYTES:
        raise TokenError(f"a PIV {name} has 6 to 8 characters")
    return raw.ljust(_PIN_BYTES, b"\xff")


def _library() -> Any:
    try:
        library = ctypes.CDLL("libpcsclite.so.1")
    except OSError:
        raise TokenError("libpcsclite is not installed", hint="install the package libpcsclite1") from None
    library.SCardTransmit.argtypes = [
        ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    library.SCardConnect.argtypes = [
        ctypes.c_long, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    library.SCardListReaders.argtypes = [ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    library.SCardEstablishContext.argtypes = [ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    for name in ("SCardEndTransaction", "SCardDisconnect"):
        getattr(library, name).argtypes = [ctypes.c_long, ctypes.c_ulong]
    library.SCardGetStatusChange.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong]
    for name in (
        "SCardGetStatusChange",
        "SCardEstablishContext",
        "SCardTransmit",
        "SCardConnect",
        "SCardListReaders",
        "SCardBeginTransaction",
    ):
        getattr(library, name).restype = ctypes.c_long
    library.SCardReleaseContext.argtypes = library.SCardBeginTransaction.argtypes = [ctypes.c_long]
    return library
