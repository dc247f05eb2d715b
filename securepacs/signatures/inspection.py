"""What the signatures of an instance say about themselves; nothing is verified and nobody is trusted (PS3.3 C.12.1.1.3)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from securepacs.dicom.edit import format_path
from securepacs.dicom.part10 import EncodedDataSet, open_dataset
from securepacs.errors import MalformedError
from securepacs.signatures.check import read_certificate
from securepacs.signatures.coverage import measure, outline
from securepacs.signatures.instances import Target, raw_of
from securepacs.signatures.judgement import name_key
from securepacs.signatures.mac import MacStream, UnsignableError
from securepacs.signatures.profiles import PURPOSE_SCHEME, PURPOSES, name_tag
from securepacs.signatures.references import SecureReference, read_references
from securepacs.signatures.sequences import (
    MacParameters,
    Scope,
    SignatureItem,
    read_signatures,
    scope_tokens,
    survey,
)
from securepacs.signatures.values import parse_date_time


def describe(target: Target) -> dict[str, Any]:
    """Return what an instance and its signatures claim, ready for JSON. MalformedError when it is no DICOM instance.

    `covered` are the elements listed and present, `problems` what does not follow the standard, `references`, when there are any,
    those of a document to instances (PS3.15 A.4); all unverified.
    """
    raw, name = raw_of(target)
    dataset = open_dataset(raw)
    found = survey(dataset)
    signatures = [
        _describe(dataset, scope, item, parameters)
        for scope, parameters in zip(found.scopes, found.parameters, strict=True)
        for item in read_signatures(dataset, scope)
    ]
    described = {"file": name, "transfer_syntax": dataset.transfer_syntax, "signatures": signatures}
    try:
        references = [_reference(one) for one in read_references(dataset)]
    except MalformedError as error:
        return described | {"references": [], "references_problem": error.message}
    return described | {"references": references} if references else described


def _reference(reference: SecureReference) -> dict[str, Any]:
    return {
        "sop_instance_uid": reference.instance.sop_instance_uid,
        "mac_algorithm": reference.mac.algorithm if reference.mac else "",
        "signed_tags": [f"{tag:08X}" for tag in reference.mac.tags] if reference.mac else [],
        "signature_uids": [copy.uid for copy in reference.signatures],
    }


def _describe(dataset: EncodedDataSet, scope: Scope, item: SignatureItem, parameters: tuple[MacParameters, ...]) -> dict[str, Any]:
    mine = next((one for one in parameters if one.mac_id == item.mac_id), MacParameters(problems=["no MAC Parameters item"]))
    outermost = outline(dataset)
    stream = MacStream(update=len)
    problems = [*item.problems, *mine.problems]
    try:
        stream.feed(dataset.view, scope_tokens(dataset, scope), frozenset(mine.tags), dataset.encoding)
    except UnsignableError as error:
        problems.append(error.message)
    certificate = _certificate(item.certificate)
    key = certificate.public_key() if certificate else None
    coverage = measure(dataset, scope, mine, stream, outermost, in_profiles=isinstance(key, rsa.RSAPublicKey), purpose=item.purpose)
    return {
        "uid": item.uid,
        "location": format_path(scope.path),
        "profile": coverage.profile,
        "purpose": _purpose(item.purpose),
        "mac_id": item.mac_id,
        "mac_algorithm": mine.algorithm,
        "mac_transfer_syntax": mine.transfer_syntax,
        "signature_algorithm": name_key(key),
        "signer": certificate.subject.rfc4514_string() if certificate else "",
        "issuer": certificate.issuer.rfc4514_string() if certificate else "",
        "signing_time": _time(item.date_time),
        "timestamp_present": bool(item.timestamp),
        "signed_tags": [f"{tag:08X}" for tag in mine.tags],
        "covered": [name_tag(tag) for tag in stream.seen],
        "uncovered": list(coverage.uncovered),
        "problems": problems,
    }


def _certificate(raw: bytes) -> x509.Certificate | None:
    try:
        return read_certificate(raw)
    except MalformedError:
        return None


def _purpose(code: tuple[str, str] | None) -> str:
    """Return the purpose as text: its CID 7007 meaning when it has one, else the code as it stands."""
    if code is None:
        return ""
    value, scheme = code
    if scheme == PURPOSE_SCHEME and value.isascii() and value.isdigit() and int(value) in PURPOSES:
        return PURPOSES[int(value)]
    return f"{value} ({scheme})"


def _time(text: str) -> str | None:
    try:
        moment: datetime = parse_date_time(text)[0]
    except ValueError:
        return None
    return moment.isoformat()
