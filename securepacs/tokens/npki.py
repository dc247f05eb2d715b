"""Korean accredited certificates: a folder with signCert.der and signPri.key, as on a USB stick (KCAC.TS.ENC, RFC 4269, RFC 8018).

The key is an EncryptedPrivateKeyInfo under SEED-CBC: PBES1 with SHA-1 (key and IV from PBKDF1) or PBES2. A folder is `software`:
whoever copies it and knows the password is its owner. The number R that the holder's identity number was hashed with is kept in the
key; the check of that number (KCAC.TS.SIVID) is off unless asked for, reads the number from a terminal only, and neither stores nor
logs it.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asn1crypto import algos, core, keys
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_der_private_key

from securepacs.errors import ConfigError, PinIncorrect, TokenError
from securepacs.tokens.credential import Assurance, Credential
from securepacs.tokens.software import Password, load_certificates, order_chain

CERTIFICATE_FILE, KEY_FILE = "signCert.der", "signPri.key"
_SEED_CBC_WITH_SHA1 = "1.2.410.200004.1.15"
_SEED_CBC = "1.2.410.200004.1.4"
_FIXED_IV = b"0123456789012345"  # of PBES1 under the OID of SEED-CBC alone
_PBES2, _PBKDF2 = "1.2.840.113549.1.5.13", "1.2.840.113549.1.5.12"
_PRF = {
    "1.2.840.113549.2.7": "sha1",
    "1.2.840.113549.2.9": "sha256",
    "1.2.840.113549.2.10": "sha384",
    "1.2.840.113549.2.11": "sha512",
}
_RANDOM_NUMBER = "1.2.410.200004.10.1.1.3"
_IDENTIFY_DATA = "1.2.410.200004.10.1.1"
_VID = "1.2.410.200004.10.1.1.1"
_HASHES = {"1.3.14.3.2.26": "sha1", "2.16.840.1.101.3.4.2.1": "sha256"}
_BLOCK = 16
_ITERATION_LIMIT = 1_000_000
_FILE_LIMIT = 1024 * 1024
_STANDARD = "KCAC.TS.ENC"


class _Encryption(core.Sequence):  # type: ignore[misc]
    _fields = [("algorithm", core.ObjectIdentifier), ("parameters", core.Any, {"optional": True})]  # noqa: RUF012


class _EncryptedKey(core.Sequence):  # type: ignore[misc]
    _fields = [("encryption", _Encryption), ("data", core.OctetString)]  # noqa: RUF012


class _Pbes1(core.Sequence):  # type: ignore[misc]
    _fields = [("salt", core.OctetString), ("iterations", core.Integer)]  # noqa: RUF012


class _Pbkdf2(core.Sequence):  # type: ignore[misc]
    _fields = [  # noqa: RUF012
        ("salt", core.OctetString),
        ("iterations", core.Integer),
        ("key_length", core.Integer, {"optional": True}),
        ("prf", _Encryption, {"optional": True}),
    ]


class _Pbes2(core.Sequence):  # type: ignore[misc]
    _fields = [("derivation", _Encryption), ("scheme", _Encryption)]  # noqa: RUF012


class _TypeAndValue(core.Sequence):  # type: ignore[misc]
    _fields = [("type", core.ObjectIdentifier), ("value", core.Any)]  # noqa: RUF012


class _UserInformation(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _TypeAndValue


class _IdentifyData(core.Sequence):  # type: ignore[misc]
    _fields = [("real_name", core.UTF8String), ("user_information", _UserInformation, {"optional": True})]  # noqa: RUF012


class _Vid(core.Sequence):  # type: ignore[misc]
    _fields = [("algorithm", algos.DigestAlgorithm), ("virtual_id", core.OctetString, {"explicit": 0})]  # noqa: RUF012


class _HashContent(core.Sequence):  # type: ignore[misc]
    _fields = [("number", core.PrintableString), ("random", core.BitString)]  # noqa: RUF012


def load_npki(
    folder: Path,
    *,
    password: Password,
    chain: Path | None = None,
    check_identity: bool = False,
    ask: Callable[[], str] | None = None,
) -> Credential:
    """Return the credential of an NPKI folder. `check_identity` asks for the holder's identity number at the terminal.

    Raises PinIncorrect for a wrong password (or a damaged file: they cannot be told apart), ConfigError for what is no such folder,
    TokenError when the identity number does not fit or there is no terminal. `ask` replaces the terminal in tests.
    """
    certificate = _certificate(folder / CERTIFICATE_FILE)
    info = _decrypted(_read(folder / KEY_FILE), password(), folder / KEY_FILE)
    try:
        private_key = load_der_private_key(info.untag().dump(), None)
    except ValueError:
        raise PinIncorrect(f"the password of {folder} is incorrect, or the key is damaged") from None
    if not isinstance(private_key, RSAPrivateKey) or private_key.public_key() != certificate.public_key():
        raise ConfigError(f"{KEY_FILE} is not the RSA key of {CERTIFICATE_FILE}", key="npki", hint="check the folder")
    if check_identity:
        _check_identity(certificate, info, ask or _from_terminal)
    above = order_chain(certificate, load_certificates(chain)) if chain is not None else ()
    return Credential(certificate, private_key, above, Assurance.SOFTWARE, folder.name)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(_read(path))
    except ValueError:
        raise ConfigError(f"{path} holds no certificate (DER)", key="npki") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_FILE_LIMIT)
    except OSError as error:
        hint = f"name the folder with {CERTIFICATE_FILE} and {KEY_FILE}, usually below NPKI/.../USER"
        raise ConfigError(f"cannot read {path}: {error.strerror}", key="npki", hint=hint) from None


def _decrypted(raw: bytes, password: bytes, path: Path) -> Any:
    """Return the PrivateKeyInfo inside an EncryptedPrivateKeyInfo (RFC 5958 3)."""
    try:
        outer = _EncryptedKey.load(raw, strict=True)
        algorithm, parameters = outer["encryption"]["algorithm"].dotted, outer["encryption"]["parameters"]
        key, iv = _key_and_iv(algorithm, parameters, password)
        data = outer["data"].native
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} is not an encrypted key of an accredited certificate", key="npki", standard=_STANDARD) from None
    wrong = f"the password of {path} is incorrect, or the file is damaged"
    try:
        unpadder = PKCS7(_BLOCK * 8).unpadder()
        plain = unpadder.update(_seed_cbc(key, iv, data)) + unpadder.finalize()
        return keys.PrivateKeyInfo.load(plain, strict=True)
    except ValueError:
        raise PinIncorrect(wrong) from None


def _key_and_iv(algorithm: str, parameters: Any, password: bytes) -> tuple[bytes, bytes]:
    if algorithm in (_SEED_CBC_WITH_SHA1, _SEED_CBC):
        simple = parameters.parse(_Pbes1)
        derived = _pbkdf1(password, simple["salt"].native, _bounded(simple["iterations"].native))
        iv = hashlib.sha1(derived[16:20], usedforsecurity=False).digest()[:_BLOCK]
        return derived[:16], iv if algorithm == _SEED_CBC_WITH_SHA1 else _FIXED_IV
    if algorithm != _PBES2:
        raise ValueError(algorithm)
    scheme = parameters.parse(_Pbes2)
    if scheme["derivation"]["algorithm"].dotted != _PBKDF2 or scheme["scheme"]["algorithm"].dotted != _SEED_CBC:
        raise ValueError(scheme["scheme"]["algorithm"].dotted)
    derivation = scheme["derivation"]["parameters"].parse(_Pbkdf2)
    prf = derivation["prf"]["algorithm"].dotted if derivation["prf"].native is not None else "1.2.840.113549.2.7"
    iterations = _bounded(derivation["iterations"].native)
    key = hashlib.pbkdf2_hmac(_PRF[prf], password, derivation["salt"].native, iterations, 16)
    return key, scheme["scheme"]["parameters"].parse(core.OctetString).native


def _bounded(iterations: int) -> int:
    if not 1 <= iterations <= _ITERATION_LIMIT:
        raise ValueError("iterations")
    return iterations


def _pbkdf1(password: bytes, salt: bytes, iterations: int) -> bytes:
    """RFC 8018 5.1 with SHA-1, which this format prescribes."""
    derived = password + salt
    for _ in range(iterations):
        derived = hashlib.sha1(derived, usedforsecurity=False).digest()
    return derived


def _seed_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SEED counts as decrepit; this format knows nothing else
        from cryptography.hazmat.decrepit.ciphers.algorithms import SEED

        decryptor = Cipher(SEED(key), modes.CBC(iv)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def _from_terminal() -> str:
    if not sys.stdin.isatty():
        raise TokenError("the identity number is read from a terminal only")
    return getpass.getpass("Identity number (it is compared and forgotten): ")


def _check_identity(certificate: x509.Certificate, info: Any, ask: Callable[[], str]) -> None:
    """Compare VID = h(h(identity number, R)) with the certificate's (KCAC.TS.SIVID 5)."""
    random, vid = _random_number(info), _vid(certificate)
    if random is None or vid is None:
        raise TokenError("the certificate carries nothing to check an identity number with")
    name = _HASHES.get(vid["algorithm"]["algorithm"].dotted)
    if name is None:
        raise TokenError("the identity number of this certificate is hashed in a way that is not known here")
    content = _HashContent({"number": ask().replace("-", ""), "random": random}).dump()
    found = hashlib.new(name, hashlib.new(name, content).digest()).digest()
    if not hmac.compare_digest(found, vid["virtual_id"].native):
        raise TokenError("the identity number is not that of the certificate's holder")


def _random_number(info: Any) -> Any:
    for attribute in info["attributes"] or ():
        raw = _TypeAndValue.load(attribute.dump())
        if raw["type"].dotted == _RANDOM_NUMBER:
            return core.SetOf.load(raw["value"].dump(), spec=core.BitString)[0]
    return None


def _vid(certificate: x509.Certificate) -> Any:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id.dotted_string == _IDENTIFY_DATA:
            for entry in _IdentifyData.load(name.value)["user_information"] or ():
                if entry["type"].dotted == _VID:
                    return entry["value"].parse(_Vid)
    return None
