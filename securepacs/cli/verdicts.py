"""Verdicts in words that need no knowledge of cryptography, for the table and the page of `securepacs verify`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from securepacs.cli.verify_work import Outcome
from securepacs.signatures.profiles import PURPOSE_SCHEME, PURPOSES

if TYPE_CHECKING:
    from securepacs.signatures.report import SignatureReport, SignatureResult

_MOST_NAMES = 6
_NAMES_SHOWN = 12
_REASONS = {
    "HASH_FAILURE": "CHANGED after it was signed",
    "SIG_CRYPTO_FAILURE": "signature is damaged or forged",
    "REVOKED": "the signer's certificate was revoked",
    "NO_CERTIFICATE_CHAIN_FOUND": "nobody you trust vouches for the signer",
    "CHAIN_CONSTRAINTS_FAILURE": "the signer's certificate is not for signing",
    "CRYPTO_CONSTRAINTS_FAILURE": "signed by a method that is too weak",
    "SIG_CONSTRAINTS_FAILURE": "the time stamp does not hold",
    "OUT_OF_BOUNDS_NO_POE": "the certificate has expired, and the time of signing is not proven",
    "NOT_YET_VALID": "the signer's certificate is not valid yet",
    "TRY_LATER": "could not ask whether the certificate was revoked; try again",
    "FORMAT_FAILURE": "the signature does not follow the standard",
    "SIGNED_DATA_NOT_FOUND": "what was signed is not in this file",
}
_WARNINGS = {
    "trimmed-values": "fits only when padding of values is ignored",
    "pixel-vr-assumed": "fits if the pixel data were stored as bytes",
    "weak-hash": "the hash is old",
    "revocation-unchecked": "revocation of the certificate was not checked",
    "timestamp-untrusted": "the time stamp is by somebody you do not trust",
    "timestamp-of-unknown-type": "the time stamp is of an unknown kind",
    "signing-time-trusted": "the claimed time was believed",
    "signing-time-in-future": "the claimed time lies in the future",
    "signing-time-without-offset": "the claimed time has no time zone",
    "signing-time-unreadable": "the claimed time cannot be read",
    "outside-dicom-profiles": "the kind of key is outside the DICOM profiles",
    "revocation-stale": "the revocation list is out of date",
    "mac-id-not-unique": "an identifier inside the signatures is not unique",
    "mac-transfer-syntax-differs": "the signature names another transfer syntax",
    "covers-item-only": "protects only a part inside the file",
    "listed-but-absent": "names elements that are not there",
    "fragment-embeds-item-tag": "fragments of the pixel data could be joined unnoticed",
    "references-unchecked": "the images it refers to were not compared",
    "references-missing": "images it refers to that are not at hand",
    "references-unsecured": "images it refers to without protection",
    "references-partial": "images it protects only in part",
    "references-weak-hash": "images are bound by an old hash",
}
_OUTCOMES = {
    "matches": "unchanged",
    "differs": "CHANGED",
    "missing": "not at hand",
    "weak": "bound by a weak hash",
    "undecided": "cannot be compared",
    "unsecured": "without protection",
}


def details(outcome: Outcome) -> Iterator[str]:
    """Yield the lines about one file in the words of the standards."""
    report = outcome.report
    if report is None:
        yield f"ERROR          {outcome.file}: {outcome.error}"
        return
    yield f"{report.verdict:<14} {outcome.file}"
    for result in report.signatures:
        yield from (f"    {text}" for text in describe(result))
    for profile in report.missing:
        yield f"    required, but no passed signature meets it: {profile}"
    for one in report.references:
        yield f"    reference {one.sop_instance_uid} {one.outcome}{': ' if one.detail else ''}{one.detail}"
    if report.uncovered:
        names, more = report.uncovered[:_NAMES_SHOWN], len(report.uncovered) - _NAMES_SHOWN
        rest = f" and {more} more (all with --json)" if more > 0 else ""
        yield f"    not covered by any passed signature: {', '.join(names)}{rest}"


def describe(result: SignatureResult) -> Iterator[str]:
    why = f" ({result.sub_indication}: {result.detail})" if result.sub_indication else ""
    yield f"{result.indication}{why}"
    yield f"  signature {result.uid} in {result.location or 'the data set'}"
    yield f"  profile {result.profile}, {result.signature_algorithm} over {result.mac_algorithm}"
    yield f"  by {result.signer or 'an unknown signer'}"
    if result.purpose:
        yield f"  purpose {purpose(result)}"
    stamp = f", time stamp {result.timestamp.isoformat()}" if result.timestamp else ", not time-stamped"
    yield f"  claimed time {result.signing_time.isoformat() if result.signing_time else 'unreadable'}{stamp}"
    for warning in result.warnings:
        yield f"  warning: {warning}"


def file_verdict(outcome: Outcome) -> str:
    """Return the verdict about a file in one word or two."""
    if outcome.report is None:
        return {"malformed": "DAMAGED", "missing": "MISSING"}.get(outcome.error_code, "ERROR")
    words = {"TOTAL-PASSED": "VALID", "TOTAL-FAILED": "NOT VALID", "INDETERMINATE": "UNDECIDED", "NO-SIGNATURE": "NOT SIGNED"}
    return words[outcome.report.verdict]


def reason(result: SignatureResult) -> str:
    """Return why a signature has its verdict; what it means that it passed."""
    if result.passed:
        return "unchanged since it was signed"
    if "referenced" in result.detail and result.sub_indication in ("HASH_FAILURE", "SIGNED_DATA_NOT_FOUND"):
        return "an image it refers to was CHANGED" if result.sub_indication == "HASH_FAILURE" else result.detail
    return _REASONS.get(result.sub_indication, result.detail or result.sub_indication)


def signer(result: SignatureResult) -> str:
    """Return the name and organization of the signer; a name is as good as the certificate behind it."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if not result.signer:
        return "unknown"
    try:
        name = x509.Name.from_rfc4514_string(result.signer)
    except ValueError:
        return result.signer
    common, *organization = [
        [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    ]
    if not common:
        return result.signer
    return ", ".join([common[0], *(words[0] for words in organization if words)])


def purpose(result: SignatureResult) -> str:
    """Return the purpose by its CID 7007 name, empty when there is none."""
    value, _, scheme = result.purpose.partition(" ")
    known = scheme == PURPOSE_SCHEME and value.isascii() and value.isdigit() and int(value) in PURPOSES
    return PURPOSES[int(value)] if known else result.purpose


def when(result: SignatureResult) -> str:
    """Return when a document was signed, and whether anybody but the signer says so."""
    if result.timestamp is not None:
        return f"{result.timestamp:%Y-%m-%d %H:%M} UTC (time-stamped)"
    return f"{result.signing_time:%Y-%m-%d %H:%M %Z} (claimed)" if result.signing_time else "unknown"


def keyword_in_words(keyword: str) -> str:
    """Return PatientBirthDate as "patient birth date"; eight hexadecimal digits as a tag."""
    if re.fullmatch(r"[0-9A-F]{8}", keyword):
        return f"({keyword[:4]},{keyword[4:]})"
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|[^A-Z]+", keyword)
    return " ".join(word if word.isupper() else word.lower() for word in words)


def open_elements(report: SignatureReport) -> str:
    """Return what no passed signature protects: by name what matters most, the rest as a number."""
    if not any(result.passed and not result.location for result in report.signatures):
        return "everything"
    warned = {warning.removeprefix("uncovered:") for result in report.signatures for warning in result.warnings}
    grave = [name for name in report.uncovered if name in warned]
    shown = [keyword_in_words(name) for name in grave[:_MOST_NAMES]]
    more = len(report.uncovered) - len(shown)
    if more:
        shown.append(f"{more} {'other' if shown else 'lesser'} element{'s' if more > 1 else ''}")
    return ", ".join(shown) or "nothing: all is protected"


def notes(outcome: Outcome) -> Iterator[str]:
    """Yield what else a reader should know about a file."""
    yield from facts(outcome)
    yield from remarks(outcome)


def facts(outcome: Outcome) -> Iterator[str]:
    """Yield what concerns this file alone: why it could not be read, missing profiles, what became of references."""
    report = outcome.report
    if report is None:
        yield outcome.error
        return
    for profile in report.missing:
        yield f"lacks the required {profile} signature"
    counted = Counter(str(one.outcome) for one in report.references)
    if counted:
        yield "images it refers to: " + ", ".join(f"{counted[name]} {words}" for name, words in _OUTCOMES.items() if counted[name])


def remarks(outcome: Outcome) -> Iterator[str]:
    """Yield the warnings of a file in words, each once; those that `facts` tells better are left out."""
    if outcome.report is not None:
        said = (text for result in outcome.report.signatures for text in warnings(result))
        yield from dict.fromkeys(text for text in said if not (outcome.report.references and "it refers to" in text))


def warnings(result: SignatureResult) -> Iterable[str]:
    """Yield the warnings of a signature in words, those about uncovered elements aside."""
    for warning in result.warnings:
        name, _, value = warning.partition(":")
        if name != "uncovered":
            text = _WARNINGS.get(name, warning)
            yield f"{text}: {keyword_in_words(value)}" if value and name in _WARNINGS else text
