"""A credential: a certificate, the chain above it, and a private key that may never leave its card.

`private_key` is always an object of pyca/cryptography's private key interfaces. For a key inside a token it is a delegate
(`Pkcs11RSAPrivateKey`, `Pkcs11EllipticCurvePrivateKey`) that implements sign and decrypt on the token and refuses to be exported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SigningKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey


class Assurance(StrEnum):
    """How well the private key is kept from its owner and everybody else."""

    HARDWARE = "hardware"
    SOFTWARE = "software"


@dataclass(frozen=True, slots=True)
class Credential:
    """One identity that can sign, decrypt and authenticate.

    `chain` holds the certificates above `certificate`, nearest first, usually without the root.
    """

    certificate: x509.Certificate
    private_key: SigningKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    assurance: Assurance = Assurance.SOFTWARE
    label: str = ""
