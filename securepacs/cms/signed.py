"""CMS SignedData (RFC 5652 5): signs in DER, reads BER.

Knows no trust: `verify` proves that the signatures fit the content and the certificates that came along; whether these
certificates may be believed is the caller's question. Signed attributes always include the ESS signing certificate (RFC 5035),
so that no other certificate with the same key can be put in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from securepacs.cms.algorithms import HASHES, SIGNING_HASHES, HashState, hash_state, sign_with, signature_holds
from securepacs.cms.algorithms import digest as compute
from securepacs.cms.encapsulated import Encapsulated, content_levels, watched
from securepacs.cms.identifiers import matches
from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, Buffer, Level, Reader, Stream, framed, tlv
from securepacs.cms.structures import SignedDataStructure, SignedDataTrailer, econtent, load
from securepacs.codes import (
    ID_CONTENT_TYPE,
    ID_DATA,
    ID_MESSAGE_DIGEST,
    ID_SIGNED_DATA,
    ID_SIGNING_CERTIFICATE_V2,
    ID_SIGNING_TIME,
)
from securepacs.errors import IntegrityFailure, UsageError, VerificationError

_MAX_ALGORITHMS = 1 << 12  # octets
_MAX_CERTIFICATES = 4 << 20  # octets of all certificates and revocation lists in a message
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


def sign_stream(
    content: Stream,
    signers: Sequence[Signer],
    *,
    digest: str = "sha256",
    content_type: str = ID_DATA,
    signing_time: datetime | None,
    bare: bool = False,
    new_hash: Callable[[str], HashState] = hash_state,
) -> Stream:
    """Sign `content` while it passes (RFC 5652 5.1-5.4); the result is a ContentInfo, or with `bare` the SignedData alone.

    `digest` is sha256, sha384 or sha512; `signing_time` is aware, None leaves the attribute out. The size is known beforehand only
    when all signers have RSA keys: elliptic curve signatures vary in length. NOT checked: key usage and validity of certificates.
    """
    leading, certificates = _around(signers, digest, content_type)
    state = new_hash(digest)

    def infos(value: bytes, *, rehearsal: bool = False) -> bytes:
        made = [_signer_info(signer, value, digest, content_type, signing_time, rehearsal=rehearsal) for signer in signers]
        return bytes(cms.SignerInfos(made).dump())

    known = all(isinstance(signer.private_key, RSAPrivateKey) for signer in signers)
    trailing = len(certificates) + len(infos(bytes(state.digest_size), rehearsal=True)) if known else 0
    structure = Level(SEQUENCE, leading, trailing)
    levels = content_levels(structure, content_type, None if bare else ID_SIGNED_DATA)

    def trailers() -> list[bytes]:
        return [certificates + infos(state.digest()) if level is structure else b"" for level in levels]

    size = content.size if known else None
    return framed(levels, OCTET_STRING, Stream(size, watched(content.chunks, [state])), trailers)


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
    """Sign `content` and return a DER ContentInfo, or with `bare` the SignedData alone; see `sign_stream`.

    `detached` leaves the content out.
    """
    leading, certificates = _around(signers, digest, content_type)
    value = compute(digest, content)
    infos = cms.SignerInfos([_signer_info(signer, value, digest, content_type, signing_time) for signer in signers]).dump()
    carried = b"" if detached else tlv(0xA0, tlv(OCTET_STRING, content))
    encapsulated = tlv(SEQUENCE, core.ObjectIdentifier(content_type).dump(), carried)
    structure = tlv(SEQUENCE, leading, encapsulated, certificates, infos)
    return structure if bare else tlv(SEQUENCE, core.ObjectIdentifier(ID_SIGNED_DATA).dump(), tlv(0xA0, structure))


def _around(signers: Sequence[Signer], digest: str, content_type: str) -> tuple[bytes, bytes]:
    """Return what stands before the content, version and digest algorithms, and the certificates after it."""
    if not signers:
        raise UsageError("SignedData needs at least one signer", standard="RFC 5652 5.1")
    if digest not in SIGNING_HASHES:
        raise UsageError(f"the digest {digest} is not one of {', '.join(SIGNING_HASHES)}", standard="RFC 5754")
    version = tlv(INTEGER, b"\1" if content_type == ID_DATA else b"\3")
    along = {cert.public_bytes(Encoding.DER) for signer in signers for cert in (signer.certificate, *signer.chain)}
    return version + cms.DigestAlgorithms([{"algorithm": digest}]).dump(), tlv(0xA0, *sorted(along))


def _signer_info(
    signer: Signer, value: bytes, digest_name: str, content_type: str, signing_time: datetime | None, *, rehearsal: bool = False
) -> Any:
    """Return a SignerInfo over the digest `value`; a `rehearsal` has its size and a signature of zeros."""
    certificate = _asn1(signer.certificate)
    attributes = cms.CMSAttributes(_attributes(signer, value, digest_name, content_type, signing_time))
    if rehearsal:
        algorithm, signature = "rsassa_pkcs1v15", bytes((signer.private_key.key_size + 7) // 8)
    else:
        algorithm, signature = sign_with(signer.private_key, digest_name, attributes.dump())
    return {
        "version": "v1",
        "sid": cms.SignerIdentifier(
            "issuer_and_serial_number", {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
        ),
        "digest_algorithm": {"algorithm": digest_name},
        "signed_attrs": attributes,
        "signature_algorithm": {"algorithm": algorithm},
        "signature": signature,
    }


def _attributes(
    signer: Signer, value: bytes, digest_name: str, content_type: str, signing_time: datetime | None
) -> list[dict[str, Any]]:
    certificate_id = {
        "hash_algorithm": {"algorithm": digest_name},
        "cert_hash": compute(digest_name, signer.certificate.public_bytes(Encoding.DER)),
    }
    attributes: list[dict[str, Any]] = [
        {"type": ID_CONTENT_TYPE, "values": [content_type]},
        {"type": ID_MESSAGE_DIGEST, "values": [value]},
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
    digests: dict[str, bytes] = {}

    def hashed(name: str) -> bytes:
        if name not in digests:
            digests[name] = compute(name, content)
        return digests[name]

    results = tuple(_verify_signer(info, hashed, content_type, (*enclosed, *certificates)) for info in infos)
    return SignedContent(content_type, content, results, enclosed)


class SignedReader:
    """A SignedData whose version has just been read: `chunks` gives the content and checks every signature at its end.

    After that, `signers` are those whose signatures hold and `certificates` all that came along. Raises as `verify`.
    """

    def __init__(self, reader: Reader, new_hash: Callable[[str], HashState] = hash_state) -> None:
        encoded = reader.value(limit=_MAX_ALGORITHMS)
        with ber.asn1_errors("SignedData"):
            names = {item["algorithm"].native for item in cms.DigestAlgorithms.load(encoded, strict=True)}
        self._states = {name: new_hash(name) for name in sorted(names & HASHES.keys())}
        self._reader = reader
        self._content = Encapsulated(reader, "SignedData")
        self.content_type = self._content.content_type
        self.signers: tuple[SignerResult, ...] = ()
        self.certificates: tuple[x509.Certificate, ...] = ()

    def chunks(self) -> Iterator[Buffer]:
        """Yield the content; IntegrityFailure or VerificationError at its end when a signature does not hold."""
        yield from watched(self._content.chunks(), list(self._states.values()))
        fields = []
        while not self._reader.at_end():
            fields.append(self._reader.value(limit=_MAX_CERTIFICATES))
        with ber.asn1_errors("SignedData"):
            after = SignedDataTrailer.load(tlv(SEQUENCE, *fields), strict=True)
            self.certificates = _certificates(after)
            infos = [_read_signer(info) for info in after["signer_infos"]]
        if not infos:
            raise IntegrityFailure("nobody signed the content", standard="RFC 5652 5.1")
        self.signers = tuple(_verify_signer(info, self._digest, self.content_type, self.certificates) for info in infos)

    def _digest(self, name: str) -> bytes:
        if name not in self._states:
            raise IntegrityFailure("a signer's digest algorithm was not announced", standard="RFC 5652 5.1")
        return self._states[name].digest()


def _certificates(structure: core.Sequence) -> tuple[x509.Certificate, ...]:
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
    info: _SignerInfo, hashed: Callable[[str], bytes], content_type: str, certificates: tuple[x509.Certificate, ...]
) -> SignerResult:
    with ber.asn1_errors("SignerInfo"):
        certificate = next((cert for cert in certificates if matches(info.sid, cert)), None)
    if certificate is None:
        raise VerificationError("the certificate of a signer is not at hand", standard="RFC 5652 5.3")
    if info.signed_octets:
        _check_attributes(info, hashed, content_type, certificate)
    elif content_type != ID_DATA:
        raise IntegrityFailure("signed attributes are missing", standard="RFC 5652 5.3")
    with ber.asn1_errors("SignerInfo"):
        public_key = certificate.public_key()
        held = any(
            signature_holds(public_key, info.algorithm, info.digest_name, info.signature, source)
            for source in _signed(info.signed_octets) or (hashed,)
        )
    if not held:
        raise IntegrityFailure("a signature does not fit the content", standard="RFC 5652 5.6")
    with ber.asn1_errors("signing time"):
        return SignerResult(certificate, info.digest_name, _signing_time(info), info.attributes)


def _signed(encodings: Iterable[bytes]) -> tuple[Callable[[str], bytes], ...]:
    """Return what gives the digest of each encoding."""
    return tuple(functools.partial(_compute_of, octets) for octets in encodings)


def _compute_of(octets: bytes, name: str) -> bytes:
    return compute(name, octets)


def _check_attributes(info: _SignerInfo, hashed: Callable[[str], bytes], content_type: str, certificate: x509.Certificate) -> None:
    """Check content-type, message-digest and, when present, the ESS signing certificate (RFC 5652 11.1-11.2, RFC 5035 5.4)."""
    with ber.asn1_errors("signed attributes"):
        claimed_type = core.ObjectIdentifier.load(_single(info, ID_CONTENT_TYPE), strict=True).dotted
        claimed_digest = core.OctetString.load(_single(info, ID_MESSAGE_DIGEST), strict=True).native
        certificate_id = _signing_certificate(info)
    if claimed_type != content_type:
        raise IntegrityFailure("the signed content type is another than the content's", standard="RFC 5652 11.1")
    if claimed_digest != hashed(info.digest_name):
        raise IntegrityFailure("the content is not what was signed", standard="RFC 5652 11.2")
    if certificate_id is not None:
        hash_name, expected = certificate_id
        if compute(hash_name, certificate.public_bytes(Encoding.DER)) != expected:
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
