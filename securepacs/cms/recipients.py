"""RecipientInfo (RFC 5652 6.2): who can open an envelope, written for each of them and found again with the keys at hand.

RSA failures never show: a key that does not decrypt gives a random content key, so that the sender of a message learns nothing
from how it fails (RFC 3218 2.3.2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from asn1crypto import algos, cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.cms import agreement, ber, kek, passwords
from securepacs.cms.algorithms import hash_named
from securepacs.cms.identifiers import matches
from securepacs.cms.kek import KeyEncryptionKey
from securepacs.cms.passwords import Password
from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, SET, Reader, tlv
from securepacs.errors import MalformedError, NoMatchingRecipient, PasswordIncorrect, UsageError

MAX_RECIPIENTS = 10_000
MAX_RECIPIENT_INFO = 1 << 16  # octets
MAX_PASSWORD_RECIPIENTS = 100

PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey
KeyTransport: TypeAlias = Literal["pkcs1v15", "oaep"]

_RSA_ENCRYPTION, _RSAES_OAEP = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7"
_KINDS = {0x30: "ktri", 0xA1: "kari", 0xA2: "kekri", 0xA3: "pwri", 0xA4: "ori"}


@dataclass(frozen=True, slots=True)
class Keys:
    """What a reader has: certificates with private keys (token delegates too), and passwords or their octets."""

    credentials: tuple[tuple[x509.Certificate, PrivateKey], ...] = field(default=(), repr=False)
    passwords: tuple[bytes | Password, ...] = field(default=(), repr=False)
    keks: tuple[KeyEncryptionKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RecipientInfo, as far as it can be known without keys. `kind` is ktri, kari, kekri, pwri or ori (RFC 5652 6.2)."""

    kind: str
    issuer: str = ""
    serial_number: int | None = None
    subject_key_identifier: bytes | None = None
    algorithm: str = ""


@dataclass(slots=True)
class Matches:
    """The RecipientInfos that the keys at hand may open."""

    transported: list[tuple[Any, RSAPrivateKey]] = field(default_factory=list)
    agreed: list[tuple[Any, bytes, EllipticCurvePrivateKey]] = field(default_factory=list)
    wrapped: list[tuple[Any, KeyEncryptionKey]] = field(default_factory=list)
    with_password: list[Any] = field(default_factory=list)


def write(
    certificates: Iterable[x509.Certificate],
    content_key: bytes,
    *,
    password_list: Sequence[bytes | Password] = (),
    keks: Sequence[KeyEncryptionKey] = (),
    key_transport: KeyTransport = "pkcs1v15",
    iterations: int = passwords.MINIMUM_ITERATIONS,
) -> tuple[bytes, int]:
    """Return the SET OF RecipientInfo as DER and the version of EnvelopedData that it asks for (RFC 5652 6.1).

    RSA certificates get key transport (RFC 3370 4.2.1, or RFC 3560 with `key_transport` oaep), elliptic curve certificates key
    agreement (RFC 5753).
    """
    infos = [_for_certificate(certificate, content_key, key_transport) for certificate in dict.fromkeys(certificates)]
    infos += [passwords.recipient_info(password, content_key, iterations=iterations) for password in password_list]
    infos += [kek.recipient_info(each, content_key) for each in keks]
    if not infos:
        raise UsageError("EnvelopedData needs at least one recipient", standard="RFC 5652 6.1")
    if len(infos) > MAX_RECIPIENTS:
        raise UsageError(f"there are more than {MAX_RECIPIENTS} recipients")
    version = 3 if password_list else 2 if any(info[0] != SEQUENCE for info in infos) else 0
    return tlv(SET, *sorted(infos)), version


def _for_certificate(certificate: x509.Certificate, content_key: bytes, key_transport: KeyTransport) -> bytes:
    public_key = certificate.public_key()
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    identifier = tlv(SEQUENCE, parsed.issuer.dump(), core.Integer(parsed.serial_number).dump())
    if isinstance(public_key, EllipticCurvePublicKey) and agreement.supports(public_key):
        return agreement.recipient_info(identifier, public_key, content_key)
    if not isinstance(public_key, RSAPublicKey):
        raise UsageError("a recipient's key is neither RSA nor on a NIST curve", standard="RFC 3370 4.2, RFC 5753")
    if key_transport == "oaep":
        mask = algos.MaskGenAlgorithm({"algorithm": "mgf1", "parameters": {"algorithm": "sha256"}})
        parameters = algos.RSAESOAEPParams({"hash_algorithm": {"algorithm": "sha256"}, "mask_gen_algorithm": mask})
        algorithm = tlv(SEQUENCE, core.ObjectIdentifier(_RSAES_OAEP).dump(), parameters.dump())
        encrypted = public_key.encrypt(content_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    else:
        algorithm = tlv(SEQUENCE, core.ObjectIdentifier(_RSA_ENCRYPTION).dump(), core.Null().dump())
        encrypted = public_key.encrypt(content_key, padding.PKCS1v15())
    return tlv(SEQUENCE, tlv(INTEGER, b"\0"), identifier, algorithm, tlv(OCTET_STRING, encrypted))


def require_fit(certificates: Iterable[x509.Certificate], moment: datetime) -> None:
    """Raise UsageError for a certificate that is not valid at `moment` or not made for encryption (RFC 5280 4.1.2.5, 4.2.1.3)."""
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise UsageError(f"the recipient's certificate is not valid now: {name}", standard="RFC 5280 4.1.2.5")
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            continue
        if not (usage.key_encipherment if isinstance(certificate.public_key(), RSAPublicKey) else usage.key_agreement):
            raise UsageError(f"the recipient's certificate is not made for encryption: {name}", standard="RFC 5280 4.2.1.3")


def read(reader: Reader) -> Iterable[bytes]:
    """Yield the RecipientInfos of the SET that comes next, one at a time; MalformedError when there are too many."""
    reader.enter(SET, "list of recipients")
    count = 0
    while not reader.at_end():
        count += 1
        if count > MAX_RECIPIENTS:
            raise MalformedError(f"there are more than {MAX_RECIPIENTS} recipients", offset=reader.offset)
        yield reader.value(limit=MAX_RECIPIENT_INFO)
    reader.leave()


def find(infos: Iterable[bytes], keys: Keys) -> Matches:
    """Keep those RecipientInfos that `keys` may open."""
    found = Matches()
    marks = [_marks(certificate) for certificate, _ in keys.credentials]
    for info in infos:
        kind = _KINDS.get(info[0], "")
        if kind == "pwri" and keys.passwords and len(found.with_password) < MAX_PASSWORD_RECIPIENTS:
            found.with_password.append(_parse(info, cms.PasswordRecipientInfo, "PasswordRecipientInfo"))
        if kind == "kekri":
            _match_kek(info, keys.keks, found)
        if kind not in ("ktri", "kari"):
            continue
        for (certificate, key), (serial, identifier) in zip(keys.credentials, marks, strict=True):
            if serial not in info and (identifier is None or identifier not in info):
                continue  # cannot be meant: spares the decoder thousands of strangers
            if kind == "ktri" and isinstance(key, RSAPrivateKey):
                _match_transport(info, certificate, key, found)
            elif kind == "kari" and isinstance(key, EllipticCurvePrivateKey):
                _match_agreement(info, certificate, key, found)
    return found


def _marks(certificate: x509.Certificate) -> tuple[bytes, bytes | None]:
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    return bytes(core.Integer(parsed.serial_number).contents), parsed.key_identifier


def _parse(info: bytes, spec: type[core.Sequence], what: str) -> Any:
    """Parse a RecipientInfo whose choice tag takes the place of SEQUENCE."""
    with ber.asn1_errors(what):
        parsed = spec.load(bytes((SEQUENCE,)) + info[1:], strict=True)
        _ = [parsed[name] for name in range(len(spec._fields))]
        return parsed


def _match_transport(info: bytes, certificate: x509.Certificate, key: RSAPrivateKey, found: Matches) -> None:
    parsed = _parse(info, cms.KeyTransRecipientInfo, "KeyTransRecipientInfo")
    with ber.asn1_errors("KeyTransRecipientInfo"):
        known = parsed["key_encryption_algorithm"]["algorithm"].dotted in (_RSA_ENCRYPTION, _RSAES_OAEP)
        if known and matches(parsed["rid"], certificate):
            found.transported.append((parsed, key))


def _match_agreement(info: bytes, certificate: x509.Certificate, key: EllipticCurvePrivateKey, found: Matches) -> None:
    parsed = _parse(info, agreement.KeyAgreeRecipientInfo, "KeyAgreeRecipientInfo")
    with ber.asn1_errors("KeyAgreeRecipientInfo"):
        for each in parsed["recipient_encrypted_keys"]:
            if matches(each["rid"], certificate):
                found.agreed.append((parsed, bytes(each["encrypted_key"]), key))


def _match_kek(info: bytes, keks: Sequence[KeyEncryptionKey], found: Matches) -> None:
    for each in keks:
        if each.identifier in info:  # else it cannot be meant
            parsed = _parse(info, cms.KEKRecipientInfo, "KEKRecipientInfo")
            with ber.asn1_errors("KEKRecipientInfo"):
                if kek.is_for(parsed, each):
                    found.wrapped.append((parsed, each))


def unlock(found: Matches, keys: Keys, key_size: int) -> bytes:
    """Return the content key; a random one when RSA or key agreement fails (RFC 3218 2.3.2).

    Raises NoMatchingRecipient when no key or password fits the list, PasswordIncorrect when passwords were all there was to try.
    """
    substitute = os.urandom(key_size)
    if found.transported:
        info, private_key = found.transported[0]
        return _sized(_transported(info, private_key), substitute)
    if found.agreed:
        info, encrypted, curve_key = found.agreed[0]
        with ber.asn1_errors("KeyAgreeRecipientInfo"):
            return _sized(agreement.unlock(info, encrypted, curve_key), substitute)
    if found.wrapped:
        wrapped, key = found.wrapped[0]
        with ber.asn1_errors("KEKRecipientInfo"):
            return _sized(kek.unlock(wrapped, key), substitute)
    if not found.with_password:
        raise NoMatchingRecipient("the message is not encrypted for this key or password", standard="RFC 5652 6.2")
    content_key = passwords.unlock(found.with_password, keys.passwords)
    if content_key is None:
        raise PasswordIncorrect("the password does not open the message", standard="RFC 3211 2.3.2")
    return _sized(content_key, substitute)


def _sized(content_key: bytes | None, substitute: bytes) -> bytes:
    return content_key if content_key is not None and len(content_key) == len(substitute) else substitute


def _transported(info: Any, private_key: RSAPrivateKey) -> bytes | None:
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    with ber.asn1_errors("KeyTransRecipientInfo"):
        encrypted = bytes(info["encrypted_key"])
        algorithm = info["key_encryption_algorithm"]
        if algorithm["algorithm"].dotted == _RSAES_OAEP:
            scheme = _oaep(algorithm["parameters"])
    try:
        return private_key.decrypt(encrypted, scheme)
    except ValueError:
        return None


def _oaep(parameters: Any) -> padding.OAEP:
    if not isinstance(parameters, algos.RSAESOAEPParams):
        parameters = algos.RSAESOAEPParams({})
    mask = parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native
    label = parameters["p_source_algorithm"]["parameters"].native
    return padding.OAEP(padding.MGF1(hash_named(mask)), hash_named(parameters["hash_algorithm"]["algorithm"].native), label or None)


def describe(info: bytes) -> Recipient:
    """Tell what a RecipientInfo says of itself."""
    kind = _KINDS.get(info[0])
    if kind is None:
        raise MalformedError("there is a recipient of no known kind", standard="RFC 5652 6.2")
    if kind == "ktri":
        parsed = _parse(info, cms.KeyTransRecipientInfo, "KeyTransRecipientInfo")
        with ber.asn1_errors("KeyTransRecipientInfo"):
            return _identified(kind, parsed["rid"], str(parsed["key_encryption_algorithm"]["algorithm"].native))
    if kind == "kari":
        parsed = _parse(info, agreement.KeyAgreeRecipientInfo, "KeyAgreeRecipientInfo")
        with ber.asn1_errors("KeyAgreeRecipientInfo"):
            return _identified(kind, parsed["recipient_encrypted_keys"][0]["rid"], "ecdh")
    return Recipient(kind, algorithm="pbkdf2" if kind == "pwri" else "")


def _identified(kind: str, identifier: Any, algorithm: str) -> Recipient:
    chosen = identifier.chosen
    if identifier.name == "issuer_and_serial_number":
        return Recipient(kind, chosen["issuer"].human_friendly, chosen["serial_number"].native, algorithm=algorithm)
    octets = chosen.native if isinstance(chosen, core.OctetString) else chosen[0].native
    return Recipient(kind, subject_key_identifier=octets, algorithm=algorithm)
