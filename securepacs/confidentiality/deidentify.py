"""De-identification that chosen recipients can undo: the Basic Application Level Confidentiality Profile (PS3.15 E.1, E.3).

The result is a new instance. Attributes that the rules do not touch keep their octets; what is removed or replaced goes, when there
are recipients, encrypted into the Encrypted Attributes Sequence (0400,0500) (PS3.3 C.12.1.1.4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from securepacs import codes
from securepacs.cms import enveloped
from securepacs.cms.ciphers import CIPHERS
from securepacs.cms.recipients import require_fit
from securepacs.codes import CodedValue
from securepacs.confidentiality import instance
from securepacs.confidentiality.changes import PATIENT_ID, PATIENT_NAME, Changes
from securepacs.confidentiality.descriptors import words_of
from securepacs.confidentiality.instance import Instance, tag_text
from securepacs.confidentiality.options import Option, checked, described, longitudinal
from securepacs.confidentiality.pseudonyms import Pseudonyms
from securepacs.confidentiality.rules import Action, action, dictionary_vr
from securepacs.confidentiality.tree import Attribute, Standing, encode_all
from securepacs.dicom import Part
from securepacs.dicom.elements import EXPLICIT_LITTLE
from securepacs.dicom.part10 import compression_of
from securepacs.dicom.vr import TEXT
from securepacs.errors import UsageError

STANDARD = "PS3.15 E.1"
DEFAULT_CIPHER = "aes256-cbc"

_ISSUER_OF_PATIENT_ID = 0x00100021
_BURNED_IN_ANNOTATION, _RECOGNIZABLE_VISUAL_FEATURES = 0x00280301, 0x00280302
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_SHORTEST_NAME = 4  # letters; shorter words occur by chance
_LO_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Deidentified:
    """The new instance; `content` is empty when it was written to a file.

    `warnings`: pixel-data-not-cleaned (nobody said that there is no text in the image); patient-named-in (gggg,eeee): an attribute
    that is kept and holds the patient's ID or a word of his name.
    """

    content: bytes = field(repr=False)
    sop_instance_uid: str
    options: frozenset[Option]
    warnings: tuple[str, ...] = ()


def deidentify(
    src: bytes | Path,
    *,
    recipients: Sequence[x509.Certificate] = (),
    options: Iterable[Option | str] = (),
    pseudonyms: Pseudonyms | None = None,
    cipher: str = DEFAULT_CIPHER,
    at: datetime | None = None,
    output: Path | None = None,
    unsafe_burned_in: bool = False,
) -> Deidentified:
    """De-identify the Part 10 file `src` (PS3.15 E.1, E.3); return it, or write it to `output`.

    `recipients`: RSA certificates, valid at `at` (now when None), whose owners can identify the instance again; without any nobody
    can. `pseudonyms`: the mapping of UIDs, names and dates, one for all instances that belong together; random when None. `cipher`:
    AES or triple DES in CBC mode. Raises MalformedError when `src` is no SOP instance, UsageError for a recipient, cipher or option
    that cannot be, for an instance with Encrypted Attributes, and, unless `unsafe_burned_in`, for one that says that its pixel data
    show the patient. NOT done: cleaning of pixel data, graphics and structured content; trust in the recipients' certificates.
    """
    chosen = checked(options)
    _require_means(recipients, cipher, at or datetime.now(UTC))
    source = Instance(src)
    if instance.ENCRYPTED_ATTRIBUTES in source.attributes:
        raise UsageError("the instance has encrypted attributes already", hint="re-identify it first", standard=STANDARD)
    warnings = _pixel_warnings(source, unsafe_burned_in=unsafe_burned_in)
    mapping = pseudonyms or Pseudonyms()
    names = words_of(_person_names(source.attributes.values())) if Option.CLEAN_DESCRIPTORS in chosen else frozenset()
    patient = mapping.patient(source.text(PATIENT_ID), source.text(_ISSUER_OF_PATIENT_ID))
    changed, originals = _changed(source, Changes(chosen, mapping, patient, names))
    warnings += _naming(source, changed)
    for new in _statement(source, chosen):
        if new.tag in source.attributes:
            originals.setdefault(new.tag, source.attributes[new.tag].read())
        changed[new.tag] = new
    if recipients and originals:
        changed[instance.ENCRYPTED_ATTRIBUTES] = _encrypted(source, originals, recipients, cipher)
    uid = changed.get(instance.SOP_INSTANCE_UID)
    content = instance.delivered(source.pieces(changed), output)
    return Deidentified(content, uid.text if uid else source.text(instance.SOP_INSTANCE_UID), chosen, warnings)


def _require_means(recipients: Sequence[x509.Certificate], cipher: str, moment: datetime) -> None:
    if cipher not in CIPHERS or CIPHERS[cipher].authenticated:
        names = ", ".join(name for name, each in CIPHERS.items() if not each.authenticated)
        raise UsageError(f"the profile has no cipher {cipher}", hint=f"one of {names}", standard="PS3.15 E.1.1")
    if any(not isinstance(certificate.public_key(), RSAPublicKey) for certificate in recipients):
        raise UsageError("the profile has RSA recipients only", hint="use an RSA certificate", standard="PS3.15 E.1.1")
    require_fit(recipients, moment)


def _pixel_warnings(source: Instance, *, unsafe_burned_in: bool) -> tuple[str, ...]:
    for tag, what in ((_BURNED_IN_ANNOTATION, "text of the patient"), (_RECOGNIZABLE_VISUAL_FEATURES, "the patient's features")):
        if source.text(tag) == "YES" and not unsafe_burned_in:
            raise UsageError(
                f"the pixel data show {what}: {tag_text(tag)} says so",
                hint="clean the image first, or allow it with unsafe_burned_in (--unsafe-burned-in)",
                standard="PS3.15 E.3.1",
            )
    has_pixels = any(tag in source.attributes for tag in _PIXEL_DATA)
    return ("pixel-data-not-cleaned",) if has_pixels and source.text(_BURNED_IN_ANNOTATION) != "NO" else ()


def _changed(source: Instance, rules: Changes) -> tuple[dict[int, Attribute | None], dict[int, Attribute]]:
    """Return what the rules make of the attributes that they change, and the originals of these."""
    changed: dict[int, Attribute | None] = {}
    originals: dict[int, Attribute] = {}
    for tag, old in source.attributes.items():
        vr = (dictionary_vr(tag) or old.vr) if old.vr == b"UN" else old.vr
        what = action(tag, vr, rules.options)
        if what is Action.KEEP:
            continue
        original = old.read()
        new = rules.made(original, what)
        if new != original:
            changed[tag] = new
            originals[tag] = original
    return changed, originals


def _person_names(attributes: Iterable[Standing]) -> Iterable[str]:
    for each in attributes:
        for token in each.tokens:
            if token.part is Part.ELEMENT and (token.vr == b"PN" or dictionary_vr(token.tag) == b"PN"):
                yield bytes(each.dataset.value(token)).decode("latin-1")


def _naming(source: Instance, changed: dict[int, Attribute | None]) -> tuple[str, ...]:
    """Return a warning for every attribute that stays and names the patient: somebody typed him where nobody should."""
    words = {word for word in words_of([source.text(PATIENT_NAME)]) if len(word) >= _SHORTEST_NAME}
    patient_id = source.text(PATIENT_ID).casefold()
    if len(patient_id) >= _SHORTEST_NAME:
        words.add(patient_id)
    if not words or (PATIENT_ID not in changed and PATIENT_NAME not in changed):
        return ()
    found = []
    for tag, each in source.attributes.items():
        if tag in changed:
            continue
        texts = (
            bytes(each.dataset.value(token)) for token in each.tokens if token.part is Part.ELEMENT and token.vr in TEXT - {b"UI"}
        )
        if any(word in text.decode("latin-1").casefold() for text in texts for word in words):
            found.append(f"patient-named-in {tag_text(tag)}")
    return tuple(found)


def _statement(source: Instance, options: frozenset[Option]) -> list[Attribute]:
    """Return the attributes that say what was done, added to what an earlier de-identification said (PS3.3 C.7.1.1)."""
    terms = described(options)
    methods = [each.strip() for each in source.text(instance.METHOD).split("\\") if each.strip()]
    methods += [term.originalText[:_LO_LIMIT] for term in terms if term.originalText[:_LO_LIMIT] not in methods]
    earlier = source.attributes.get(instance.METHOD_CODES)
    items = earlier.read().items or () if earlier is not None and earlier.is_sequence else ()
    items += tuple(item for item in map(_code_item, terms) if item not in items)
    return [
        Attribute(instance.PATIENT_IDENTITY_REMOVED, b"CS", value=b"YES"),
        Attribute(instance.METHOD, b"LO", value="\\".join(methods).encode("latin-1")),
        Attribute(instance.METHOD_CODES, b"SQ", items=items),
        Attribute(instance.LONGITUDINAL_MODIFIED, b"CS", value=longitudinal(options).encode("ascii")),
    ]


def _code_item(term: CodedValue) -> tuple[Attribute, ...]:
    values = ((0x00080100, b"SH", term.csd_code), (0x00080102, b"SH", term.codeSystemName), (0x00080104, b"LO", term.originalText))
    return tuple(Attribute(tag, vr, value=_even(value)) for tag, vr, value in values)


def _even(text: str) -> bytes:
    """Pad as a file would have it, so that terms that stand already are recognised."""
    return (text + " " * (len(text) % 2)).encode("ascii")


def _encrypted(source: Instance, originals: dict[int, Attribute], recipients: Sequence[x509.Certificate], cipher: str) -> Attribute:
    """Return the Encrypted Attributes Sequence: one envelope for all recipients (PS3.3 C.12.1.1.4.1)."""
    if instance.SPECIFIC_CHARACTER_SET in source.attributes:  # the originals are read by it
        originals.setdefault(instance.SPECIFIC_CHARACTER_SET, source.attributes[instance.SPECIFIC_CHARACTER_SET].read())
    encapsulated = any(_has_fragments(each) for each in originals.values())
    syntax = compression_of(source.transfer_syntax) if encapsulated else codes.EXPLICIT_VR_LITTLE_ENDIAN
    plain = Attribute(instance.MODIFIED_ATTRIBUTES, b"SQ", items=(tuple(originals.values()),))
    envelope = enveloped.encrypt(encode_all([plain], EXPLICIT_LITTLE), recipients, cipher=cipher, content_type=codes.ID_DATA)
    item = (
        Attribute(instance.ENCRYPTED_CONTENT_SYNTAX, b"UI", value=syntax.encode("ascii")),
        Attribute(instance.ENCRYPTED_CONTENT, b"OB", value=envelope),
    )
    return Attribute(instance.ENCRYPTED_ATTRIBUTES, b"SQ", items=(item,))


def _has_fragments(attribute: Attribute) -> bool:
    if attribute.items is not None:
        return any(_has_fragments(each) for item in attribute.items for each in item)
    return attribute.fragments is not None
