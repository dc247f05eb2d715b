"""Health care roles in certificates: the hcRole attribute of ISO 17090-2, inside subjectDirectoryAttributes (RFC 5280 4.2.1.8).

    HCActorData ::= SET OF HCActor
    HCActor     ::= SEQUENCE { codedData [0] CodedData OPTIONAL, regionalHCActorData [1] SEQUENCE OF RegionalData OPTIONAL }
    CodedData   ::= SET { codingSchemeReference [0] OBJECT IDENTIFIER, codeDataValue [1] NumericString OPTIONAL,
                          codeDataFreeText [2] DirectoryString OPTIONAL }          -- all tags explicit, as deployed in HPKI

A role counts only in its own coding scheme: the text "administrator" of a foreign scheme is not this product's administrator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography import x509

from securepacs.codes import HCROLE_ATTRIBUTE_OID
from securepacs.errors import MalformedError, UsageError

SUBJECT_DIRECTORY_ATTRIBUTES = x509.ObjectIdentifier("2.5.29.9")
ROLE_SCHEME_OID = (
    "2.25.252195542144090017468305617677953144914"  # an ISO/IEC 9834-8 UUID arc: the role names of the shipped policies
)

_MAX_EXTENSION_BYTES = 16 * 1024
_MAX_ROLE_LENGTH = 64


@dataclass(frozen=True, slots=True)
class HCActor:
    """One coded role: the OID of its coding scheme, its numeric code and its text (either may be empty)."""

    scheme: str
    value: str = ""
    text: str = ""


class _CodedData(core.Sequence):  # type: ignore[misc]
    tag = 17  # a SET: in DER its members stand in the order of their tags, and asn1crypto's own Set cannot write explicit ones
    _fields = [  # noqa: RUF012 - asn1crypto's declaration style
        ("codingSchemeReference", core.ObjectIdentifier, {"explicit": 0}),
        ("codeDataValue", core.NumericString, {"explicit": 1, "optional": True}),
        ("codeDataFreeText", asn1_x509.DirectoryString, {"explicit": 2, "optional": True}),
    ]


class _HCActor(core.Sequence):  # type: ignore[misc]
    _fields = [  # noqa: RUF012
        ("codedData", _CodedData, {"explicit": 0, "optional": True}),
        ("regionalHCActorData", core.Any, {"explicit": 1, "optional": True}),
    ]


class _HCActorData(core.SetOf):  # type: ignore[misc]
    _child_spec = _HCActor


class _AttributeValues(core.SetOf):  # type: ignore[misc]
    _child_spec = core.Any


class _Attribute(core.Sequence):  # type: ignore[misc]
    _fields = [("type", core.ObjectIdentifier), ("values", _AttributeValues)]  # noqa: RUF012


class _SubjectDirectoryAttributes(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _Attribute


def hcrole_extension(roles: Sequence[str]) -> x509.UnrecognizedExtension:
    """Return the subjectDirectoryAttributes extension that carries `roles` (ISO 17090-2 hcRole); never critical (RFC 5280 4.2.1.8).

    Raises UsageError when there is no role, or one is empty, too long or not printable.
    """
    if not roles:
        raise UsageError("a certificate with hcRole needs at least one role")
    for role in roles:
        if not role or len(role) > _MAX_ROLE_LENGTH or not role.isprintable():
            raise UsageError(f"not a role name: {role!r}", hint=f"1 to {_MAX_ROLE_LENGTH} printable characters")
    actors = [
        {
            "codedData": {
                "codingSchemeReference": ROLE_SCHEME_OID,
                "codeDataFreeText": asn1_x509.DirectoryString("utf8_string", core.UTF8String(role)),
            }
        }
        for role in roles
    ]
    attribute = {"type": HCROLE_ATTRIBUTE_OID, "values": [core.Any(_HCActorData(actors))]}
    return x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, _SubjectDirectoryAttributes([attribute]).dump())


def actors_of(certificate: x509.Certificate) -> tuple[HCActor, ...]:
    """Return every coded hcRole of `certificate`, of any coding scheme, in the order written.

    Says what the certificate claims; whether it is to be believed is for `validate`. Raises MalformedError on a broken extension.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(SUBJECT_DIRECTORY_ATTRIBUTES).value
    except x509.ExtensionNotFound:
        return ()
    except ValueError as error:
        raise MalformedError("the certificate's extensions cannot be read", standard="RFC 5280 4.2") from error
    raw = extension.public_bytes()
    if len(raw) > _MAX_EXTENSION_BYTES:
        raise MalformedError(f"subjectDirectoryAttributes has {len(raw)} bytes", standard="ISO 17090-2")
    try:
        return tuple(_read_actors(raw))
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedError("the hcRole attribute cannot be read", standard="ISO 17090-2") from error


def _read_actors(raw: bytes) -> list[HCActor]:
    found = []
    for attribute in _SubjectDirectoryAttributes.load(raw, strict=True):
        if attribute["type"].dotted != HCROLE_ATTRIBUTE_OID:
            continue
        for value in attribute["values"]:
            for actor in value.parse(_HCActorData):
                coded = actor["codedData"]
                if coded.native is not None:
                    found.append(
                        HCActor(
                            coded["codingSchemeReference"].dotted,
                            coded["codeDataValue"].native or "",
                            coded["codeDataFreeText"].native or "",
                        )
                    )
    return found


def roles_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the role names in `certificate` that are of this product's coding scheme. Raises like `actors_of`."""
    return frozenset(actor.text for actor in actors_of(certificate) if actor.scheme == ROLE_SCHEME_OID and actor.text)
