"""Finding the certificate that a SignerIdentifier or RecipientIdentifier means (RFC 5652 5.3, 6.2.1)."""

from __future__ import annotations

from typing import Any

from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def matches(identifier: Any, certificate: x509.Certificate) -> bool:
    """Tell whether `identifier` (a choice of issuer with serial number, or subject key identifier, plain or
    in a RecipientKeyIdentifier) means `certificate`.

    Names are compared as RFC 5280 7.1 says, so a re-encoded issuer name still matches.
    """
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    chosen = identifier.chosen
    if identifier.name == "issuer_and_serial_number":
        return bool(chosen["serial_number"].native == parsed.serial_number and chosen["issuer"] == parsed.issuer)
    octets = chosen if isinstance(chosen, core.OctetString) else chosen[0]
    return parsed.key_identifier is not None and bool(octets.native == parsed.key_identifier)
