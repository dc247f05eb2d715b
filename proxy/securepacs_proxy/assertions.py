"""Tokens (JWT, RFC 7519) and assertions (SAML 2.0) of configured issuers as user identities, types 5 and 4 of PS3.7 D.3.3.7.

1. Signature algorithms are those below, never what a token asks for; keys are those of the issuer, never what comes with it.
2. Issuer, validity and audience are checked; what is read is only what the signature covers.
3. Nothing of a token or assertion is written anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml.algorithms import SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from securepacs.policy.subject import Subject
from securepacs_proxy.config import GatewayConfig, IssuerSection, read_public_key
from securepacs_proxy.dicom.user_identity import (
    JWT,
    SAML,
    USERNAME,
    USERNAME_AND_PASSCODE,
    Certified,
    IdentityRules,
    Ignored,
    is_name_of,
    name_refusal,
)
from securepacs_proxy.dicom.user_information import UserIdentity

_ALGORITHMS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (rsa.RSAPublicKey, ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    (ec.EllipticCurvePublicKey, ("ES256", "ES384", "ES512")),
    ((ed25519.Ed25519PublicKey, ed448.Ed448PublicKey), ("EdDSA",)),
)
_SAML = "{urn:oasis:names:tc:SAML:2.0:assertion}"
CLOCK_SKEW = timedelta(minutes=2)
_METHODS = frozenset(
    (
        SignatureMethod.RSA_SHA256,
        SignatureMethod.RSA_SHA384,
        SignatureMethod.RSA_SHA512,
        SignatureMethod.ECDSA_SHA256,
        SignatureMethod.ECDSA_SHA384,
        SignatureMethod.ECDSA_SHA512,
        SignatureMethod.SHA256_RSA_MGF1,
        SignatureMethod.SHA384_RSA_MGF1,
        SignatureMethod.SHA512_RSA_MGF1,
    )
)


@dataclass(frozen=True)
class Issuer:
    """Who may vouch for users: `keys` verify tokens, `certificates` assertions."""

    name: str
    audience: str
    claim: str
    keys: tuple[PublicKeyTypes, ...]
    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True)
class Issued:
    """The rules with issuers."""

    tokens: tuple[Issuer, ...]
    assertions: tuple[Issuer, ...]

    def refusal(self, identity: UserIdentity, subject: Subject, at: datetime) -> str:
        """Return why the item is refused, "" when it is accepted."""
        if identity.type in (USERNAME, USERNAME_AND_PASSCODE):
            return name_refusal(identity.primary, subject)
        if identity.type == JWT and self.tokens:
            return _best(_token_refusal(identity.primary, issuer, subject, at) for issuer in self.tokens)
        if identity.type == SAML and self.assertions:
            return _best(_assertion_refusal(identity.primary, issuer, subject, at) for issuer in self.assertions)
        return f"no issuer is configured for user identities of type {identity.type}"


def identity_rules(config: GatewayConfig) -> IdentityRules:
    """Return the rules of a configuration. Raises ConfigError for a key that cannot be read."""
    section = config.user_identity
    if section.unsafe_ignore:
        return Ignored()
    if not section.issuers:
        return Certified()
    issuers = [(row.kind, _issuer(row, f"user_identity.issuer[{index}]")) for index, row in enumerate(section.issuers)]
    return Issued(
        tuple(issuer for kind, issuer in issuers if kind == "jwt"), tuple(issuer for kind, issuer in issuers if kind == "saml")
    )


def _issuer(row: IssuerSection, key: str) -> Issuer:
    read = [read_public_key(path, key=f"{key}.keys", certified=row.kind == "saml") for path in row.keys]
    certificates = tuple(certificate for _, certificate in read if certificate is not None)
    return Issuer(row.name, row.audience, row.claim, tuple(found for found, _ in read), certificates)


def _best(refusals: Iterable[str]) -> str:
    """Return "" when one issuer accepts, else the last reason."""
    reason = ""
    for reason in refusals:
        if not reason:
            return ""
    return reason


def _token_refusal(raw: bytes, issuer: Issuer, subject: Subject, at: datetime) -> str:
    for key in issuer.keys:
        try:
            claims = jwt.decode(
                raw.strip(b" \0"),
                key,  # type: ignore[arg-type]  # PyJWT takes the keys of its algorithms, and refuses the others
                algorithms=_algorithms(key),
                issuer=issuer.name,
                audience=issuer.audience or None,
                options={
                    "verify_exp": False,  # by `at`, below
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": bool(issuer.audience),
                    "require": ["exp", "iss", issuer.claim],
                },
            )
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
            continue
        except jwt.PyJWTError:
            return "the token is damaged, or of another issuer or audience"
        return _claims_refusal(claims, issuer, subject, at)
    return "the token is not signed by a configured issuer"


def _algorithms(key: PublicKeyTypes) -> list[str]:
    """Return what a key of this kind signs with: never a secret for an HMAC."""
    return [name for kind, names in _ALGORITHMS if isinstance(key, kind) for name in names]


def _claims_refusal(claims: dict[str, Any], issuer: Issuer, subject: Subject, at: datetime) -> str:
    now, skew = at.timestamp(), CLOCK_SKEW.total_seconds()
    begins, ends = claims.get("nbf", 0), claims["exp"]
    if not all(isinstance(moment, int | float) for moment in (begins, ends)):
        return "the token has a time that is no number"
    if now < begins - skew or now > ends + skew:
        return "the token is not valid at this time"
    name = claims[issuer.claim]
    return "" if isinstance(name, str) and is_name_of(name, subject) else "the token is about somebody else than the certificate"


def _assertion_refusal(raw: bytes, issuer: Issuer, subject: Subject, at: datetime) -> str:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True)
    try:
        document = etree.fromstring(raw.strip(b" \0"), parser)
    except (etree.XMLSyntaxError, ValueError):
        return "the assertion is not XML"
    if b"<!DOCTYPE" in raw:
        return "the assertion has a document type"
    for certificate in issuer.certificates:
        pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
        try:
            signed: Any = XMLVerifier().verify(
                document,
                x509_cert=pem,
                expect_config=SignatureConfiguration(expect_references=1, signature_methods=_METHODS, verification_time=at),
            )
        except (SignXMLException, ValueError, etree.LxmlError):
            continue
        root = (signed[0] if isinstance(signed, list) else signed).signed_xml
        if root is None or root.tag != f"{_SAML}Assertion":
            return "the signature does not cover the assertion"
        return _content_refusal(root, issuer, subject, at)
    return "the assertion is not signed by a configured issuer"


def _content_refusal(assertion: Any, issuer: Issuer, subject: Subject, at: datetime) -> str:
    if assertion.get("Version") != "2.0" or (assertion.findtext(f"{_SAML}Issuer") or "").strip() != issuer.name:
        return "the assertion is of another version or issuer"
    conditions = assertion.find(f"{_SAML}Conditions")
    if conditions is None or not conditions.get("NotOnOrAfter"):
        return "the assertion does not say how long it is valid"
    try:
        begins = datetime.fromisoformat(conditions.get("NotBefore") or conditions.get("NotOnOrAfter"))
        ends = datetime.fromisoformat(conditions.get("NotOnOrAfter"))
        valid = (at + CLOCK_SKEW >= begins or conditions.get("NotBefore") is None) and at - CLOCK_SKEW < ends
    except (ValueError, TypeError):
        return "the assertion has a time that cannot be read"
    if not valid:
        return "the assertion is not valid at this time"
    audiences = {(one.text or "").strip() for one in conditions.iter(f"{_SAML}Audience")}
    if (issuer.audience or audiences) and issuer.audience not in audiences:
        return "the assertion is for another audience"
    name = (assertion.findtext(f"{_SAML}Subject/{_SAML}NameID") or "").strip()
    return "" if name and is_name_of(name, subject) else "the assertion is about somebody else than the certificate"
