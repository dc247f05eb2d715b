"""CMS SignedData (RFC 5652 5): signs in DER, reads BER.

Knows no trust: `verify` proves that the signatures fit the content and the certificates that came along; whether these
certificates may be believed is the caller's question. Signed attributes always include the ESS signing certificate (RFC 5035),
so that no other certificate with the same key can be put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.cms import ber
from securepacs.cms.algorithms import SIGNING_HASHES, digest, sign_with, signature_holds
from securepacs.cms.identifiers import matches
from securepacs.cms.structures import SignedDataStructure, econtent, load, wrap
from securepacs.codes import (
    ID_CONTENT_TYPE,
    ID_DATA,
    ID_MESSAGE_DIGEST,
    ID_SIGNED_DATA,
    ID_SIGNING_CERTIFICATE_V2,
    ID_SIGNING_TIME,
)
from securepacs.errors import IntegrityFailure, UsageError, VerificationError

_UTC_TIME_YEARS = range(1950, 2050)  # RFC 5652 11.3: UTCTime inside, GeneralizedTime outside


@dataclass(frozen=True, slots=True)
class Signer:
    """One who signs: certificate, private key (or token delegate) and the certificates to send along."""

    certificate: x509.Certificate
    private_key: RSAPrivateKey | EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class SignerResult:
    """One signature that holds. `signed_attributes` maps dotted OIDs to encoded values; `signing_time` is the signer's claim."""

    certificate: x509.Certificate
    digest_algorithm: str
    signing_time: datetime | None
    signed_attributes: Mapping[str, list[bytes]]


@dataclass(frozen=True, slots=True)
class SignedContent:
    """Content whose every signature holds. `certificates` are all that came along, in no trusted order."""

    content_type: str
    content: bytes
    signers: tuple[SignerResult, ...]
    certificates: tuple[x509.Certificate, ...]


def sign(
    content: bytes,
    signers: Sequence[Signer],
    *,
    digest: str = "sha256",
    content_type: str = ID_DATA,
    signing_time: datetime | None,
    detached: bool = False,
    bare: bool = False,
) -> bytes:
    """Sign `content` (RFC 5652 5.1-5.4) and return a DER ContentInfo, or with `bare` the SignedData alone.

    `digest` is sha256, sha384 or sha512; `signing_time` is aware, None leaves the attribute out; `detached` leaves the content out.
    NOT checked: key usage and validity of the certificates.
    """
    if not signers:
        raise UsageError("SignedData needs at least one signer", standard="RFC 5652 5.1")
    if digest not in SIGNING_HASHES:
        raise UsageError(f"the digest {digest} is not one of {', '.join(SIGNING_HASHES)}", standard="RFC 5754")
    signer_infos = [_signer_info(signer, content, digest, content_type, signing_time) for signer in signers]
    certificates = dict.fromkeys(cert for signer in signers for cert in (signer.certificate, *signer.chain))
    encapsulated = {"content_type": content_type} if detached else {"content_type": content_type, "content": content}
    structure = SignedDataStructure(
        {
            "version": "v1" if content_type == ID_DATA else "v3",
            "digest_algorithms": [{"algorithm": digest}],
            "encap_content_info": encapsulated,
            "certificates": [cms.CertificateChoices("certificate", _asn1(cert)) for cert in certificates],
            "signer_infos": signer_infos,
        }
    )
    return bytes(structure.dump()) if bare else wrap(ID_SIGNED_DATA, structure)


def _signer_info(signer: Signer, content: bytes, digest_name: str, content_type: str, signing_time: datetime | None) -> Any:
    certificate = _asn1(signer.certificate)
    attributes = cms.CMSAttributes(_attributes(signer, content, digest_name, content_type, signing_time))
    algorithm, value = sign_with(signer.private_key, digest_name, attributes.dump())
    return {
        "version": "v1",
        "sid": cms.SignerIdentifier(
            "issuer_and_serial_number", {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
        ),
        "digest_algorithm": {"algorithm": digest_name},
        "signed_attrs": attributes,
        "signature_algorithm": {"algorithm": algorithm},
        "signature": value,
    }


def _attributes(
    signer: Signer, content: bytes, digest_name: str, content_type: str, signing_time: datetime | None
) -> list[dict[str, Any]]:
    certificate_id = {
        "hash_algorithm": {"algorithm": digest_name},
        "cert_hash": digest(digest_name, signer.certificate.public_bytes(Encoding.DER)),
    }
    attributes: list[dict[str, Any]] = [
        {"type": ID_CONTENT_TYPE, "values": [content_type]},
        {"type": ID_MESSAGE_DIGEST, "values": [digest(digest_name, content)]},
        {"type": ID_SIGNING_CERTIFICATE_V2, "values": [tsp.SigningCertificateV2({"certs": [certificate_id]})]},
    ]
    if signing_time is not None:
        attributes.append({"type": ID_SIGNING_TIME, "values": [_time(signing_time)]})
    return attributes


def _time(moment: datetime) -> cms.Time:
    if moment.tzinfo is None:
        raise UsageError("the signing time has no time zone", standard="RFC 5652 11.3")
    utc = moment.astimezone(UTC).replace(microsecond=0)
    if utc.year in _UTC_TIME_YEARS:
        return cms.Time("utc_time", core.UTCTime(utc))
    return cms.Time("generalized_time", core.GeneralizedTime(utc))


def _asn1(certificate: x509.Certificate) -> asn1_x509.Certificate:
    return asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))


@dataclass(frozen=True, slots=True)
class _SignerInfo:
    """What one SignerInfo says, read and bounded but not yet believed."""

    sid: cms.SignerIdentifier
    digest_name: str
    algorithm: algos.SignedDigestAlgorithm
    signature: bytes
    attributes: Mapping[str, list[bytes]]
    signed_octets: tuple[bytes, ...]  # the encodings under which the attributes may have been signed; empty without attributes


def verify(der: bytes, *, detached_content: bytes | None = None, certificates: Sequence[x509.Certificate] = ()) -> SignedContent:
    """Check every signature of a SignedData, bare or inside a ContentInfo (RFC 5652 5.4-5.6).

    `detached_content` is required when the message carries no content and refused when it does; `certificates` helps when a signer
    did not send its own. Raises MalformedError for bad structure, IntegrityFailure when a signature does not hold or there is none,
    VerificationError when a signer's certificate is missing or an algorithm is not supported. NOT checked: trust, key usage, time.
    """
    ber.check(der)
    with ber.asn1_errors("SignedData"):
        structure = load(der, ID_SIGNED_DATA, SignedDataStructure)
        content_type = str(structure["encap_content_info"]["content_type"].dotted)
        carried = econtent(structure)
        enclosed = _certificates(structure)
        infos = [_read_signer(info) for info in structure["signer_infos"]]
    if (carried is None) == (detached_content is None):
        raise UsageError("detached content is needed exactly when the message carries none", standard="RFC 5652 5.2")
    content = carried if carried is not None else detached_content or b""
    if not infos:
        raise IntegrityFailure("nobody signed the content", standard="RFC 5652 5.1")
    results = tuple(_verify_signer(info, content, content_type, (*enclosed, *certificates)) for info in infos)
    return SignedContent(content_type, content, results, enclosed)


def _certificates(structure: SignedDataStructure) -> tuple[x509.Certificate, ...]:
    field = structure["certificates"]
    if isinstance(field, core.Void):
        return ()
    try:
        return tuple(x509.load_der_x509_certificate(choice.chosen.dump()) for choice in field if choice.name == "certificate")
    except x509.InvalidVersion as error:  # the one error of the parser that is no ValueError
        raise ValueError("a certificate of unknown version") from error


def _read_signer(info: cms.SignerInfo) -> _SignerInfo:
    attributes: dict[str, list[bytes]] = {}
    encodings: tuple[bytes, ...] = ()
    field = info["signed_attrs"]
    if not isinstance(field, core.Void):
        for attribute in field:
            attributes.setdefault(attribute["type"].dotted, []).extend(value.dump() for value in attribute["values"])
        encodings = _encodings(field)
    sid = info["sid"]
    sid.chosen.native  # noqa: B018 - parse now, where errors are translated
    return _SignerInfo(
        sid,
        info["digest_algorithm"]["algorithm"].native,
        info["signature_algorithm"],
        bytes(info["signature"]),
        attributes,
        encodings,
    )


def _encodings(attributes: cms.CMSAttributes) -> tuple[bytes, ...]:
    """Return the octets that were signed: the SET OF as it came, and as DER when that differs (RFC 5652 5.4)."""
    received = b"\x31" + core.OctetString(attributes.contents).dump()[1:]
    canonical = cms.CMSAttributes.load(received).dump(force=True)
    return (received,) if canonical == received else (received, bytes(canonical))


def _verify_signer(
    info: _SignerInfo, content: bytes, content_type: str, certificates: tuple[x509.Certificate, ...]
) -> SignerResult:
    with ber.asn1_errors("SignerInfo"):
        certificate = next((cert for cert in certificates if matches(info.sid, cert)), None)
    if certificate is None:
        raise VerificationError("the certificate of a signer is not at hand", standard="RFC 5652 5.3")
    if info.signed_octets:
        _check_attributes(info, content, content_type, certificate)
    elif content_type != ID_DATA:
        raise IntegrityFailure("signed attributes are missing", standard="RFC 5652 5.3")
    with ber.asn1_errors("SignerInfo"):
        public_key = certificate.public_key()
        held = any(
            signature_holds(public_key, info.algorithm, info.digest_name, info.signature, octets)
            for octets in info.signed_octets or (content,)
        )
    if not held:
        raise IntegrityFailure("a signature does not fit the content", standard="RFC 5652 5.6")
    with ber.asn1_errors("signing time"):
        return SignerResult(certificate, info.digest_name, _signing_time(info), info.attributes)


def _check_attributes(info: _SignerInfo, content: bytes, content_type: str, certificate: x509.Certificate) -> None:
    """Check content-type, message-digest and, when present, the ESS signing certificate (RFC 5652 11.1-11.2, RFC 5035 5.4)."""
    with ber.asn1_errors("signed attributes"):
        claimed_type = core.ObjectIdentifier.load(_single(info, ID_CONTENT_TYPE), strict=True).dotted
        claimed_digest = core.OctetString.load(_single(info, ID_MESSAGE_DIGEST), strict=True).native
        certificate_id = _signing_certificate(info)
    if claimed_type != content_type:
        raise IntegrityFailure("the signed content type is another than the content's", standard="RFC 5652 11.1")
    if claimed_digest != digest(info.digest_name, content):
        raise IntegrityFailure("the content is not what was signed", standard="RFC 5652 11.2")
    if certificate_id is not None:
        hash_name, expected = certificate_id
        if digest(hash_name, certificate.public_bytes(Encoding.DER)) != expected:
            raise IntegrityFailure("the signer's certificate is another than the signed one", standard="RFC 5035 5.4")


def _single(info: _SignerInfo, oid: str) -> bytes:
    values = info.attributes.get(oid, [])
    if len(values) != 1:
        raise IntegrityFailure("a required signed attribute is missing or repeated", standard="RFC 5652 11")
    return values[0]


def _signing_certificate(info: _SignerInfo) -> tuple[str, bytes] | None:
    if ID_SIGNING_CERTIFICATE_V2 not in info.attributes:
        return None
    first = tsp.SigningCertificateV2.load(_single(info, ID_SIGNING_CERTIFICATE_V2), strict=True)["certs"][0]
    return first["hash_algorithm"]["algorithm"].native, first["cert_hash"].native


def _signing_time(info: _SignerInfo) -> datetime | None:
    if ID_SIGNING_TIME not in info.attributes:
        return None
    moment = cms.Time.load(_single(info, ID_SIGNING_TIME), strict=True).native
    return moment.astimezone(UTC) if isinstance(moment, datetime) and moment.tzinfo else None
