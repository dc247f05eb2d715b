"""What must hold for the files that settings name: they can be read, are what they claim, and keys are kept from others."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from securepacs.errors import ConfigError
from securepacs.trust.files import parse_certificates, parse_crls, read_file
from securepacs_proxy.config.model import GatewayConfig
from securepacs_proxy.config.rules import calls_of

_PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_OTHERS_MAY_ACCESS = stat.S_IRWXG | stat.S_IRWXO


def unusable_files(config: GatewayConfig) -> Iterator[ConfigError]:
    """Yield one error for every file of `config` that cannot serve its purpose, in the order of the file."""
    for index, listener in enumerate(config.listeners):
        section = f"listener[{index}]"
        yield from _key_pair(section, listener.certificate, listener.key)
        yield from _lists(section, listener.trust, listener.crls)
    for key, call in calls_of(config):
        if call.certificate is not None and call.key is not None:
            yield from _key_pair(key, call.certificate, call.key)
        yield from _lists(key, call.trust, call.crls)
    for index, issuer in enumerate(config.user_identity.issuers):
        for position, path in enumerate(issuer.keys):
            try:
                read_public_key(path, key=f"user_identity.issuer[{index}].keys[{position}]", certified=issuer.kind == "saml")
            except ConfigError as error:
                yield error
    yield from _unscoped_anchors(config)
    if config.shared is not None:
        yield from _lists("shared", (config.shared.trust,) if config.shared.trust else (), ())
        yield from _password(config.shared.password_file)
    if config.policy.folder is not None and not config.policy.folder.is_dir():
        hint = "create it, or leave the setting out for the shipped policies"
        yield ConfigError(f"{config.policy.folder} is not a folder", key="policy.folder", hint=hint)
    if config.audit.spool.exists() and not config.audit.spool.is_dir():
        hint = "name a folder; it is created when absent"
        yield ConfigError(f"{config.audit.spool} is not a folder", key="audit.spool", hint=hint)
    for index, destination in enumerate(config.audit.destinations):
        section = f"audit.destination[{index}]"
        if destination.certificate is not None and destination.key is not None:
            yield from _key_pair(section, destination.certificate, destination.key)
        yield from _lists(section, destination.trust, ())


def _unscoped_anchors(config: GatewayConfig) -> Iterator[ConfigError]:
    """Yield an error for each [[anchor]] that cannot be read or is trusted nowhere, and each trusted certificate without one."""
    scoped: set[x509.Certificate] = set()
    trusted: dict[x509.Certificate, str] = {}
    try:
        for index, listener in enumerate(config.listeners):
            for path in listener.trust:
                trusted |= dict.fromkeys(read_certificates(path, key=f"listener[{index}].trust"), f"listener[{index}].trust")
    except ConfigError:
        return  # told already
    for index, anchor in enumerate(config.anchors):
        key = f"anchor[{index}].certificate"
        try:
            found = read_certificates(anchor.certificate, key=key)
        except ConfigError as error:
            yield _with_hint(error)
            continue
        if not any(certificate in trusted for certificate in found):
            yield ConfigError(f"no listener trusts {anchor.certificate}", key=key, hint="add it to `trust` of a listener")
        if scoped.intersection(found):
            yield ConfigError(f"{anchor.certificate} has a scope already", key=key, hint="one [[anchor]] section each")
        scoped.update(found)
    for certificate, key in trusted.items():
        if config.anchors and certificate not in scoped:
            name = certificate.subject.rfc4514_string()
            yield ConfigError(f"{name} is trusted and has no [[anchor]] section", key=key, hint="say what it may assert")


def read_certificates(path: Path, *, key: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a file (PEM or DER) in order, at least one; ConfigError names `key`."""
    return parse_certificates(read_file(path, key=key), str(path), key)


def read_crl(path: Path, *, key: str) -> x509.CertificateRevocationList:
    """Return the one revocation list of a file (PEM or DER); ConfigError names `key`, also when there are several."""
    found = parse_crls(read_file(path, key=key), str(path), key)
    if len(found) != 1:
        hint = "store each list in a file of its own"
        raise ConfigError(f"{path} holds {len(found)} revocation lists", key=key, hint=hint)
    return found[0]


def read_public_key(path: Path, *, key: str, certified: bool = False) -> tuple[PublicKeyTypes, x509.Certificate | None]:
    """Return the public key of a PEM file, and its certificate when it is one; `certified` wants one. ConfigError names `key`."""
    raw = read_file(path, key=key)
    if _PEM_CERTIFICATE in raw:
        certificate = parse_certificates(raw, str(path), key)[0]
        return certificate.public_key(), certificate
    try:
        public_key = serialization.load_pem_public_key(raw)
    except ValueError:
        message = f"{path} holds neither a public key nor a certificate in PEM"
        raise ConfigError(message, key=key, hint="openssl x509 -pubkey, or the certificate itself") from None
    if certified:
        raise ConfigError(f"{path} holds no certificate", key=key, hint="an issuer of assertions is known by its certificate")
    return public_key, None


def read_private_key(path: Path, *, key: str) -> PrivateKeyTypes:
    """Return the private key of a PEM file that only its owner can access; a ConfigError shows nothing of it."""
    raw = read_file(path, key=key)
    if path.stat().st_mode & _OTHERS_MAY_ACCESS:
        raise ConfigError(f"others than the owner may access the private key {path}", key=key, hint=f"chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(raw, password=None)
    except TypeError:
        hint = "a gateway starts unattended: store the key unencrypted, with mode 0600"
        raise ConfigError(f"the private key {path} is encrypted", key=key, hint=hint) from None
    except ValueError:
        raise ConfigError(f"{path} holds no PEM private key", key=key, hint="it begins with -----BEGIN PRIVATE KEY-----") from None


def _password(path: Path | None) -> Iterator[ConfigError]:
    try:
        if path is not None and read_file(path, key="shared.password_file") and path.stat().st_mode & _OTHERS_MAY_ACCESS:
            message = f"others than the owner may access the password {path}"
            yield ConfigError(message, key="shared.password_file", hint=f"chmod 600 {path}")
    except ConfigError as error:
        yield _with_hint(error)


def _key_pair(section: str, certificate_file: Path, key_file: Path) -> Iterator[ConfigError]:
    try:
        certificate = read_certificates(certificate_file, key=f"{section}.certificate")[0]
        if _PEM_CERTIFICATE not in read_file(certificate_file, key=f"{section}.certificate"):
            hint = "convert it: openssl x509 -inform DER -in FILE -out FILE.pem"
            raise ConfigError(f"{certificate_file} is not PEM", key=f"{section}.certificate", hint=hint)
        private_key = read_private_key(key_file, key=f"{section}.key")
    except ConfigError as error:
        yield _with_hint(error)
        return
    if private_key.public_key() != certificate.public_key():
        hint = "in the file of the certificate its own certificate comes first, then the chain"
        yield ConfigError(f"{key_file} is not the key of {certificate_file}", key=f"{section}.key", hint=hint)


def _lists(section: str, trust: tuple[Path, ...], crls: tuple[Path, ...]) -> Iterator[ConfigError]:
    for index, path in enumerate(trust):
        try:
            read_certificates(path, key=f"{section}.trust[{index}]")
        except ConfigError as error:
            yield _with_hint(error)
    for index, path in enumerate(crls):
        try:
            read_crl(path, key=f"{section}.crls[{index}]")
        except ConfigError as error:
            yield _with_hint(error)


def _with_hint(error: ConfigError) -> ConfigError:
    error.hint = error.hint or "paths are relative to the folder of the configuration; the gateway must be able to read the file"
    return error
