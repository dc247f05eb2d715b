"""A CA whose keys never leave a token: made there, used there, found again by their certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cryptography import x509

from securepacs.errors import TokenError, UsageError
from securepacs.pki import storage
from securepacs.pki.authority import CertificateAuthority
from securepacs.pki.keys import KeyKind
from securepacs.tokens.credential import SigningKey
from securepacs.tokens.pin import PinSource


def create_on_token(
    name: str, folder: Path, *, uri: str, pin: PinSource, at: datetime, key_kind: KeyKind = "p256", base_url: str = ""
) -> None:
    """Make a root and an issuing CA with keys generated on the token `uri` (RFC 7512), and write the rest to `folder`.

    Raises UsageError when the token has keys of such a CA already; TokenError, PinIncorrect and PinLocked of the token.
    """
    from securepacs.tokens.pkcs11 import Pkcs11Token

    labels = (f"{name} Root CA", f"{name} Issuing CA")
    with Pkcs11Token.open(uri, pin=pin) as token:
        if set(labels) & {label for label, _, _ in token.certificates()}:
            raise UsageError(f"the token has a CA named {name} already", hint="give it another name, or take another token")
        keys = (token.generate(label=labels[0], kind=key_kind), token.generate(label=labels[1], kind=key_kind))
        authority = CertificateAuthority.create(name, at=at, base_url=base_url, keys=keys)
        for label, certificate in zip(labels, (authority.root, authority.issuing), strict=True):
            token.write_certificate(certificate, label=label)
        storage.save(authority, folder, token_uri=uri)


@contextmanager
def opened(folder: Path, secret: Callable[[bool], bytes | None]) -> Iterator[CertificateAuthority]:
    """Give the CA of `folder` for as long as the block lasts, wherever its keys are.

    `secret(in_token)` is asked once: for the PIN of the token, or for the passphrase of key files, None when they have none.
    """
    uri = storage.token_uri(folder)
    if not uri:
        yield CertificateAuthority.load(folder, passphrase=secret(False))
        return
    from securepacs.tokens.pkcs11 import Pkcs11Token

    with Pkcs11Token.open(uri, pin=lambda: (secret(True) or b"").decode()) as token:
        keys = {credential.certificate: credential.private_key for credential in token.credentials()}

        def key_of(name: str, certificate: x509.Certificate) -> SigningKey:
            if certificate not in keys:
                raise TokenError(f"the token does not hold the key of {name}.pem", hint="is this the token of this CA?")
            return keys[certificate]

        yield storage.load_with(folder, key_of)
