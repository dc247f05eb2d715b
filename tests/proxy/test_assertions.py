"""Tokens and assertions as user identities: only what a configured issuer signed, about this subject, at this time."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from signxml.algorithms import SignatureConstructionMethod
from signxml.signer import XMLSigner

from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs_proxy.assertions import Issued, Issuer, identity_rules
from securepacs_proxy.config import load
from securepacs_proxy.dicom.user_identity import JWT, SAML, Certified, Ignored
from securepacs_proxy.dicom.user_information import UserIdentity
from tests.support.dicom_wire import PERSON
from tests.support.gateway_files import GatewayFiles, gateway_files
from tests.support.pki import make_pki

NAME, AUDIENCE = "https://login.hospital.example", "dicom://ARCHIVE"
EC_KEY, OTHER_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def at() -> datetime:
    return SIGNING.now


@pytest.fixture(scope="module", autouse=True)
def signing(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SIGNING
    SIGNING = _Signing(tmp_path_factory.mktemp("issuer"))


class _Signing:
    """A SAML issuer with a certificate of a test CA."""

    def __init__(self, folder: Path) -> None:
        pki = make_pki(folder)
        credential = pki.credential(CertificateProfile.PACS, "idp.hospital.example")
        self.now, self.key, self.certificate = pki.now, credential.private_key, credential.certificate
        other = pki.credential(CertificateProfile.PACS, "other.hospital.example")
        self.other_key, self.other_certificate = other.private_key, other.certificate


SIGNING: _Signing


def rules(*, audience: str = AUDIENCE, claim: str = "sub", keys: tuple[Any, ...] | None = None) -> Issued:
    keys = keys or (EC_KEY.public_key(), RSA_KEY.public_key())
    return Issued((Issuer(NAME, audience, claim, keys, ()),), (Issuer(NAME, audience, "", (), (SIGNING.certificate,)),))


def refusal(kind: int, raw: bytes | str, at: datetime, issued: Issued | None = None) -> str:
    primary = raw.encode() if isinstance(raw, str) else raw
    return (issued or rules()).refusal(UserIdentity(kind, True, primary, b""), PERSON, at)


# --- tokens -----------------------------------------------------------------------------------------------------------


def claims(at: datetime, **changes: Any) -> dict[str, Any]:
    row = {"iss": NAME, "aud": AUDIENCE, "sub": PERSON.user_id, "exp": int(at.timestamp()) + 300, "nbf": int(at.timestamp()) - 10}
    return {name: value for name, value in {**row, **changes}.items() if value is not None}


def test_a_token_of_the_issuer_is_accepted(at: datetime) -> None:
    assert refusal(JWT, jwt.encode(claims(at), EC_KEY, "ES256"), at) == ""
    assert refusal(JWT, jwt.encode(claims(at), RSA_KEY, "PS256"), at) == ""
    assert refusal(JWT, jwt.encode(claims(at), RSA_KEY, "RS512") + "\0", at) == ""  # padded to an even length
    assert refusal(JWT, jwt.encode(claims(at, sub="x", name="Kim Radiologist"), EC_KEY, "ES256"), at, rules(claim="name")) == ""
    assert refusal(JWT, jwt.encode(claims(at, aud=None), EC_KEY, "ES256"), at, rules(audience="")) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sub": "lee@hospital.example"}, "somebody else"),
        ({"sub": 7}, "damaged"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "dicom://OTHER"}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": None}, "damaged"),
        ({"exp": 1}, "not valid at this time"),
        ({"nbf": 4_000_000_000}, "not valid at this time"),
        ({"sub": None}, "damaged"),
    ],
)
def test_a_token_that_says_something_else_is_refused(at: datetime, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(JWT, jwt.encode(claims(at, **changes), EC_KEY, "ES256"), at)


def test_a_token_by_another_hand_is_refused(at: datetime) -> None:
    public = EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()  # noqa: E731
    import hashlib
    import hmac

    head = f"{part({'alg': 'HS256'})}.{part(claims(at))}"
    mac = base64.urlsafe_b64encode(hmac.new(public, head.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    for forged in (
        jwt.encode(claims(at), OTHER_KEY, "ES256"),
        jwt.encode(claims(at), None, "none"),
        f"{head}.{mac}",  # the public key as the secret of an HMAC
    ):
        assert "not signed by a configured issuer" in refusal(JWT, forged, at)


def test_the_clock_is_the_one_of_the_event(at: datetime) -> None:
    token = jwt.encode(claims(at), EC_KEY, "ES256")
    assert refusal(JWT, token, at + timedelta(minutes=6)) == ""  # within the skew
    assert refusal(JWT, token, at + timedelta(minutes=8)) != ""


@given(st.binary(max_size=300))
def test_garbage_is_refused(raw: bytes) -> None:
    assert refusal(JWT, raw, SIGNING.now)
    assert refusal(SAML, raw, SIGNING.now)


# --- assertions -------------------------------------------------------------------------------------------------------

ASSERTION = """<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_a1" Version="2.0" IssueInstant="{begins}">
<saml:Issuer>{issuer}</saml:Issuer><saml:Subject><saml:NameID>{name}</saml:NameID></saml:Subject>
<saml:Conditions NotBefore="{begins}" NotOnOrAfter="{ends}"><saml:AudienceRestriction><saml:Audience>{audience}</saml:Audience>
</saml:AudienceRestriction></saml:Conditions></saml:Assertion>"""


def unsigned(at: datetime, **changes: str) -> Any:
    moment = lambda when: when.strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: E731
    values = {"begins": moment(at - timedelta(seconds=10)), "ends": moment(at + timedelta(minutes=5))}
    values |= {"issuer": NAME, "name": PERSON.user_id, "audience": AUDIENCE}
    return etree.fromstring(ASSERTION.format(**values | changes).encode())


def signed(at: datetime, *, other: bool = False, **changes: str) -> Any:
    signer = XMLSigner(method=SignatureConstructionMethod.enveloped, c14n_algorithm="http://www.w3.org/2001/10/xml-exc-c14n#")  # type: ignore[arg-type]
    key, certificate = (SIGNING.other_key, SIGNING.other_certificate) if other else (SIGNING.key, SIGNING.certificate)
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return signer.sign(unsigned(at, **changes), key=key, cert=pem, reference_uri="_a1")  # type: ignore[arg-type]


def test_an_assertion_of_the_issuer_is_accepted(at: datetime) -> None:
    assert refusal(SAML, etree.tostring(signed(at)), at) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "lee@hospital.example"}, "somebody else"),
        ({"issuer": "https://evil.example"}, "issuer"),
        ({"audience": "dicom://OTHER"}, "audience"),
        ({"ends": "2001-01-01T00:00:00Z"}, "not valid at this time"),
        ({"begins": "2091-01-01T00:00:00Z"}, "not valid at this time"),
        ({"ends": "tomorrow"}, "time that cannot be read"),
        ({"ends": "2091-01-01T00:00:00"}, "time that cannot be read"),
        ({"ends": ""}, "how long"),
    ],
)
def test_an_assertion_that_says_something_else_is_refused(at: datetime, changes: dict[str, str], words: str) -> None:
    assert words in refusal(SAML, etree.tostring(signed(at, **changes)), at)


def test_an_assertion_by_another_hand_is_refused(at: datetime) -> None:
    altered = etree.tostring(signed(at, name="lee@hospital.example")).replace(b"lee@hospital.example", PERSON.user_id.encode())
    for forged in (etree.tostring(unsigned(at)), etree.tostring(signed(at, other=True)), altered):
        assert "not signed by a configured issuer" in refusal(SAML, forged, at)


def test_what_is_wrapped_around_a_signed_assertion_is_not_read(at: datetime) -> None:
    """The classic attack: the signature covers an assertion about somebody else, which is hidden inside a forged one."""
    genuine = etree.tostring(signed(at, name="lee@hospital.example")).decode()
    forged = etree.tostring(unsigned(at)).decode().replace('ID="_a1"', 'ID="_forged"')
    for attack in (
        forged.replace("</saml:Assertion>", f"{genuine}</saml:Assertion>"),
        f"<r>{forged}{genuine}</r>",
        f"<r>{genuine}{forged}</r>",
    ):
        assert refusal(SAML, attack, at) != ""


def test_entities_and_document_types_are_refused(at: datetime) -> None:
    raw = b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + etree.tostring(signed(at))
    assert "document type" in refusal(SAML, raw, at)


# --- configuration ----------------------------------------------------------------------------------------------------


def configured(folder: Path, text: str) -> Callable[[], Any]:
    files: GatewayFiles = gateway_files(folder)
    files.write(text=files.text + text)
    return lambda: identity_rules(load(files.path))


def test_rules_by_configuration(tmp_path: Path, at: datetime) -> None:
    (tmp_path / "token.pem").write_bytes(EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "idp.pem").write_bytes(SIGNING.certificate.public_bytes(Encoding.PEM))
    assert isinstance(configured(tmp_path, "")(), Certified)
    assert isinstance(configured(tmp_path, "\n[user_identity]\nunsafe_ignore = true\n")(), Ignored)
    issuer = '\n[[user_identity.issuer]]\nkind = "{}"\nname = "' + NAME + '"\naudience = "' + AUDIENCE + '"\nkeys = ["{}"]\n'
    issued = configured(tmp_path, issuer.format("jwt", "token.pem") + issuer.format("saml", "idp.pem"))()
    assert refusal(JWT, jwt.encode(claims(at), EC_KEY, "ES256"), at, issued) == ""
    assert refusal(SAML, etree.tostring(signed(at)), at, issued) == ""
    assert isinstance(issued.assertions[0].certificates[0], x509.Certificate)
    only_tokens = configured(tmp_path, issuer.format("jwt", "idp.pem"))()
    assert "no issuer is configured" in refusal(SAML, etree.tostring(signed(at)), at, only_tokens)
    for kind, key in (("saml", "token.pem"), ("jwt", "gateway.key"), ("jwt", "nothing.pem")):
        with pytest.raises(ConfigError) as raised:
            configured(tmp_path, issuer.format(kind, key))()
        assert raised.value.key == "user_identity.issuer[0].keys[0]"
    with pytest.raises(ConfigError, match="nobody could vouch"):
        configured(tmp_path, issuer.format("jwt", "x").replace('["x"]', "[]"))()
