"""A credential: a certificate, the chain above it, and a private key that may never leave its card.

`private_key` is always an object of pyca/cryptography's private key interfaces. For a key inside a token it is a delegate
(`Pkcs11RSAPrivateKey`, `Pkcs11EllipticCurvePrivateKey`) that implements sign and decrypt on the token and refuses to be exported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from securepacs.errors import UsageError

SigningKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey


class Assurance(StrEnum):
    """How well the private key is kept from its owner and everybody else.

    HARDWARE only for a key that was generated in its token and never could leave it; one that was put into a token may have copies.
    """

    HARDWARE = "hardware"
    SOFTWARE = "software"


@dataclass(frozen=True, slots=True)
class Credential:
    """One identity that can sign, decrypt and authenticate.

    `chain` holds the certificates above `certificate`, nearest first, usually without the root. `login_only` keys prove presence
    (PIV 9A, 9E: a PIN once, or none) and never sign documents (FIPS 201-3 4.2.2).
    """

    certificate: x509.Certificate
    private_key: SigningKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    assurance: Assurance = Assurance.SOFTWARE
    label: str = ""
    login_only: bool = False

    @property
    def in_token(self) -> bool:
        """Whether the private key is a delegate of a key in a token, whose bytes cannot be had, wherever it was generated."""
        return hasattr(self.private_key, "token_key")

    def for_documents(self) -> Self:
        """Return this credential, or raise UsageError when its key is for logging in only."""
        if self.login_only:
            raise UsageError(
                "this key is for logging in and signs no documents",
                hint="choose the signature key of the card: id=%02 (PIV 9C) in the token URI",
                standard="FIPS 201-3 4.2.2",
            )
        return self
