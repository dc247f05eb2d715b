"""Smart cards, USB keys and HSMs through PKCS #11: list tokens, use their keys, generate keys and write certificates.

Login rules are in `login`. Here: every key has its own session and its own lock; when a session or an object is gone (card pulled
and put back, fork, somebody logged in again), the token is found again, logged in if needed, and the operation is tried once more.
Certificates of issuers are usually not on the card: give the chain separately.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from securepacs.errors import TokenError, TokenNotPresent, UsageError
from securepacs.tokens.credential import Assurance, Credential
from securepacs.tokens.delegates import Pkcs11EllipticCurvePrivateKey, Pkcs11RSAPrivateKey
from securepacs.tokens.login import (
    PinSource,
    TokenInfo,
    close_quietly,
    describe,
    describe_with_tries,
    find_token,
    login_for,
    present_tokens,
    token_errors,
)
from securepacs.tokens.pcsc import PIV_LOGIN_KEYS, PivReader, is_piv
from securepacs.tokens.session_key import SessionKey, attribute
from securepacs.tokens.software import order_chain
from securepacs.tokens.uri import TokenUri

KeyKind = Literal["rsa-2048", "rsa-3072", "p256"]
DelegateKey = Pkcs11RSAPrivateKey | Pkcs11EllipticCurvePrivateKey

_RSA_BITS = {"rsa-2048": 2048, "rsa-3072": 3072}
_SECP256R1 = "1.2.840.10045.3.1.7"
_ID_BYTES = 16
_PRIVATE = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}


def list_tokens(module: Path) -> list[TokenInfo]:
    """Return the initialized tokens that `module` sees at this moment; needs no PIN."""
    with token_errors():
        return [describe_with_tries(token, module) for token in present_tokens(module)]


class Pkcs11Token:
    """One token, open until `close` (or the end of a `with` block). Its keys work only as long as it is open."""

    def __init__(self, uri: TokenUri, pin: PinSource | None) -> None:
        self._uri = uri
        self._pin = pin
        self._keys: list[SessionKey] = []
        self._closed = False
        self._login = login_for(uri)
        try:
            if pin is not None:
                self._login.authenticate(pin)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, uri: str, *, pin: PinSource | None = None) -> Pkcs11Token:
        """Open the one token that the RFC 7512 URI names; with `pin`, check it by one login.

        Raises TokenNotPresent, PinIncorrect (with the tries left, when the token tells), PinLocked, TokenError; UsageError and
        ConfigError for a wrong URI or module. `pin` is asked again only when the login is lost, for example with a pulled card.
        """
        return cls(TokenUri.parse(uri), pin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all sessions of this object, and the login when nobody else in the process uses the token."""
        if not self._closed:
            self._closed = True
            for key in self._keys:
                key.close()
            self._login.release()

    def info(self) -> TokenInfo:
        """Return the token's description as it is now, with the state of its PIN."""
        return describe_with_tries(find_token(self._login.uri), self._uri.module_path)

    def open_session(self, *, rw: bool = False) -> Any:
        """Return a new session of python-pkcs11, logged in when this object has a PIN; the caller closes it."""
        if self._closed:
            raise TokenError("the token was closed")
        return self._login.ensure(self._pin).open(rw=rw)

    def ask_pin(self) -> str:
        """Return the PIN for a key that wants it for every use."""
        if self._pin is None:
            raise TokenError("the key needs a PIN")
        if describe(find_token(self._login.uri), self._uri.module_path).pin_pad:
            raise TokenError("the key wants its PIN for every use, which is not possible with a PIN pad")
        return self._pin()

    def refusal(self) -> TokenError:
        """Return what to raise when the PIN for one use was refused: PinLocked, or PinIncorrect with the tries left."""
        return self._login.refusal()

    def reader(self) -> str:
        """Return the description of the slot the token is in: for a card, the name of its reader."""
        return str(find_token(self._login.uri).slot.slot_description)

    def present(self) -> bool:
        """Tell whether the token is there at this moment; needs no PIN."""
        try:
            find_token(self._login.uri)
        except TokenNotPresent:
            return False
        return True

    def logged_in(self) -> bool:
        """Tell whether a key could be used now without asking for the PIN."""
        return self._login.alive()

    def log_out(self) -> None:
        """End the login of this process at the token; the next use of a key asks for the PIN again."""
        self._login.log_out()

    def log_in(self) -> None:
        """Ask for the PIN and check it by one login, now; after a refusal, too."""
        if self._pin is None:
            raise TokenError("a PIN is needed to log in")
        self._login.authenticate(self._pin)

    def change_pin(self, *, old: PinSource, new: PinSource) -> None:
        """Replace the PIN (PKCS #11 C_SetPIN): exactly one try with the old one; PinIncorrect, PinLocked as with `open`.

        A program that still holds the old PIN must be given the new one. A new PIN that the token does not take raises TokenError.
        """
        self._login.change_pin(old, new)

    def unblock(self, *, puk: PinSource, new: PinSource) -> None:
        """Set a new PIN and all tries back, with the PUK (PIV, SP 800-73-4 3.2.3) or security officer PIN (others, C_InitPIN).

        Exactly one try with the PUK. PinIncorrect and PinLocked are about the PUK: a card whose PUK is locked is lost.
        """
        if is_piv(self.info().manufacturer):
            with PivReader.of_slot(find_token(self._login.uri).slot.slot_description) as reader:
                reader.reset_retry_counter(puk=puk(), new=new())
            self._login.log_out()
        else:
            self._login.unblock(puk, new)

    def certificates(self) -> list[tuple[str, bytes, x509.Certificate]]:
        """Return label, CKA_ID and certificate of everything on the token that is an X.509 certificate; needs no PIN."""
        with self._session() as session:
            return list(_certificates(session))

    def credentials(self) -> list[Credential]:
        """Return the certificates that have their private key on the token and fit the URI's `object` and `id`."""
        with self._session() as session:
            stored = list(_certificates(session))
            keys = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
            with_key = {attribute(key, Attribute.ID): _assurance(key) for key in keys}
            manufacturer = session.token.manufacturer_id
        others = [certificate for _, _, certificate in stored]
        return [
            Credential(
                certificate,
                self._delegate(key_id, public_key),
                order_chain(certificate, others),
                with_key[key_id],
                label,
                login_only=is_piv(manufacturer) and key_id in PIV_LOGIN_KEYS,
            )
            for label, key_id, certificate in stored
            if key_id in with_key
            and self._uri.object in ("", label)
            and self._uri.id in (b"", key_id)
            and isinstance(public_key := certificate.public_key(), RSAPublicKey | EllipticCurvePublicKey)
        ]

    def generate(self, *, label: str, kind: KeyKind, id: bytes | None = None) -> DelegateKey:
        """Generate a key pair on the token; the private half is sensitive and cannot be extracted (PKCS #11 4.9)."""
        key_id = id or os.urandom(_ID_BYTES)
        common = {"id": key_id, "label": label, "store": True, "private_template": _PRIVATE}
        with self._session(rw=True) as session:
            if list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})):
                raise UsageError("the token has a key with this identifier already")
            if kind == "p256":
                curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_SECP256R1)}
                parameters = session.create_domain_parameters(KeyType.EC, curve, local=True)
                public, _ = parameters.generate_keypair(capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY, **common)
            elif kind in _RSA_BITS:
                uses = MechanismFlag.SIGN | MechanismFlag.VERIFY | MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT
                public, _ = session.generate_keypair(KeyType.RSA, _RSA_BITS[kind], capabilities=uses, **common)
            else:
                raise UsageError(f"the key kind {kind} is not one of rsa-2048, rsa-3072, p256")
            public_key = _public_key(public)
        return self._delegate(key_id, public_key)

    def write_certificate(self, certificate: x509.Certificate, *, label: str, id: bytes | None = None) -> None:
        """Store `certificate` beside its key; `id` is that key's CKA_ID and is found by the public key when not given."""
        with self._session(rw=True) as session:
            key_id = id or _key_id_for(session, certificate)
            session.create_object(
                {
                    Attribute.CLASS: ObjectClass.CERTIFICATE,
                    Attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
                    Attribute.TOKEN: True,
                    Attribute.PRIVATE: False,
                    Attribute.LABEL: label,
                    Attribute.ID: key_id,
                    Attribute.SUBJECT: certificate.subject.public_bytes(),
                    Attribute.ISSUER: certificate.issuer.public_bytes(),
                    Attribute.SERIAL_NUMBER: _der_integer(certificate.serial_number),
                    Attribute.VALUE: certificate.public_bytes(Encoding.DER),
                }
            )

    @contextmanager
    def _session(self, *, rw: bool = False) -> Iterator[Any]:
        with token_errors():
            session = self.open_session(rw=rw)
            try:
                yield session
            finally:
                close_quietly(session)

    def _delegate(self, key_id: bytes, public_key: RSAPublicKey | EllipticCurvePublicKey) -> DelegateKey:
        key = SessionKey(self, key_id)
        self._keys.append(key)
        if isinstance(public_key, RSAPublicKey):
            return Pkcs11RSAPrivateKey(key, public_key)
        return Pkcs11EllipticCurvePrivateKey(key, public_key)


@contextmanager
def open_credential(uri: str, *, pin: PinSource | None, key_usage: str | None = None) -> Iterator[Credential]:
    """Give the one credential that the URI names, for as long as the `with` block lasts.

    `key_usage` is a name of pyca's KeyUsage (`digital_signature`, `key_encipherment`, ...): among several certificates those are
    meant that allow it. TokenError when none or several are left.
    """
    with Pkcs11Token.open(uri, pin=pin) as token:
        found = [credential for credential in token.credentials() if key_usage is None or _allows(credential, key_usage)]
        if not found:
            raise TokenError("no certificate with its private key on the token fits", hint="see: securepacs token show")
        if len(found) > 1:
            labels = ", ".join(sorted(credential.label for credential in found))
            raise TokenError(f"several keys fit: {labels}", hint="add object=... or id=... to the URI")
        yield found[0]


def _assurance(key: Any) -> Assurance:
    """Tell whether a key was generated on the token and never could leave it (CKA_LOCAL, CKA_NEVER_EXTRACTABLE, PKCS #11 4.9)."""
    born_here = attribute(key, Attribute.LOCAL) is True and attribute(key, Attribute.NEVER_EXTRACTABLE) is True
    return Assurance.HARDWARE if born_here else Assurance.SOFTWARE


def _allows(credential: Credential, key_usage: str) -> bool:
    try:
        usage = credential.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool(getattr(usage, key_usage))


def _certificates(session: Any) -> Iterator[tuple[str, bytes, x509.Certificate]]:
    for stored in list(session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE})):
        value = attribute(stored, Attribute.VALUE)
        try:
            certificate = x509.load_der_x509_certificate(value or b"")
        except (ValueError, x509.InvalidVersion):
            continue  # attribute certificates and leftovers are of no use here
        yield attribute(stored, Attribute.LABEL) or "", attribute(stored, Attribute.ID) or b"", certificate


def _public_key(stored: Any) -> RSAPublicKey | EllipticCurvePublicKey:
    encode = encode_rsa_public_key if stored.key_type is KeyType.RSA else encode_ec_public_key
    key = load_der_public_key(encode(stored))
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise TokenError("the token holds a key that is neither RSA nor elliptic curve")
    return key


def _key_id_for(session: Any, certificate: x509.Certificate) -> bytes:
    wanted = _spki(certificate.public_key())
    for stored in list(session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY})):
        if stored.key_type in (KeyType.RSA, KeyType.EC) and _spki(_public_key(stored)) == wanted:
            return bytes(stored[Attribute.ID])
    raise UsageError("the certificate's key is not on the token")


def _spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _der_integer(value: int) -> bytes:
    """Encode a certificate serial number (at most 20 octets) as PKCS #11 wants it."""
    octets = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((2, len(octets))) + octets
