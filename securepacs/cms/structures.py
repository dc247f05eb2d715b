"""ASN.1 structures of RFC 5652 where asn1crypto's own guess at PKCS #7 contents, and the way in and out of a ContentInfo."""

from __future__ import annotations

from typing import Any

from asn1crypto import cms, core

from securepacs.errors import MalformedError


class EncapsulatedContent(core.Sequence):  # type: ignore[misc]
    """EncapsulatedContentInfo (RFC 5652 5.2); eContent stays octets, whatever its type is."""

    _fields = [  # noqa: RUF012 - the form that asn1crypto reads
        ("content_type", cms.ContentType),
        ("content", core.OctetString, {"explicit": 0, "optional": True}),
    ]


class SignedDataStructure(core.Sequence):  # type: ignore[misc]
    """SignedData (RFC 5652 5.1)."""

    _fields = [  # noqa: RUF012
        ("version", cms.CMSVersion),
        ("digest_algorithms", cms.DigestAlgorithms),
        ("encap_content_info", EncapsulatedContent),
        ("certificates", cms.CertificateSet, {"implicit": 0, "optional": True}),
        ("crls", core.SetOf, {"implicit": 1, "optional": True, "spec": core.Any}),
        ("signer_infos", cms.SignerInfos),
    ]


class SignedDataTrailer(core.Sequence):  # type: ignore[misc]
    """The fields of a SignedData that follow its content (RFC 5652 5.1)."""

    _fields = SignedDataStructure._fields[3:]


class ContentInfo(core.Sequence):  # type: ignore[misc]
    """ContentInfo (RFC 5652 3) with the structures of this module."""

    _fields = [  # noqa: RUF012
        ("content_type", cms.ContentType),
        ("content", core.Any, {"explicit": 0, "optional": True}),
    ]
    _oid_pair = ("content_type", "content")
    _oid_specs = {  # noqa: RUF012
        "signed_data": SignedDataStructure,
    }


def load(der: bytes, content_type: str, spec: type[core.Sequence]) -> Any:
    """Parse `spec` from a ContentInfo of `content_type`, or bare (PS3.15 D.1 nests bare structures); MalformedError otherwise."""
    outer = core.Sequence.load(der, strict=True)
    if not isinstance(outer[0], core.ObjectIdentifier):
        return spec.load(der, strict=True)
    if outer[0].dotted != content_type:
        raise MalformedError(f"the CMS message is not {spec.__name__.removesuffix('Structure')}", standard="RFC 5652 3")
    content = ContentInfo.load(der, strict=True)["content"]
    if not isinstance(content, spec):
        raise MalformedError("the CMS message is empty", standard="RFC 5652 3")
    return content


def econtent(structure: Any) -> bytes | None:
    """Return the octets of the encapsulated content, None when it is detached; constructed strings are joined."""
    value = structure["encap_content_info"]["content"]
    return None if isinstance(value, core.Void) else bytes(value)
