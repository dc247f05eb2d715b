"""The rules applied to attributes: what becomes of each, at any depth (PS3.15 E.1.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from securepacs.confidentiality import descriptors
from securepacs.confidentiality.dummies import dummy
from securepacs.confidentiality.options import Option
from securepacs.confidentiality.pseudonyms import Pseudonyms
from securepacs.confidentiality.rules import Action, action, dictionary_vr, fallback
from securepacs.confidentiality.tree import Attribute

PATIENT_NAME, PATIENT_ID = 0x00100010, 0x00100020
_CODING_SCHEME_DESIGNATOR, _CODE_MEANING = 0x00080102, 0x00080104
_STRUCTURE = frozenset({0x0040A010, 0x0040A040, 0x0040A050})  # Relationship Type, Value Type, Continuity of Content: enumerated
_CODING_SCHEMES = frozenset(
    [
        "DCM",
        "SCT",
        "SRT",
        "SNM3",
        "LN",
        "UMLS",
        "FMA",
        "RADLEX",
        "I9",
        "I9C",
        "I10",
        "I10P",
        "ICDO3",
        "C4",
        "C5",
        "UCUM",
        "BI",
        "NCIt",
        "MSH",
        "UBERON",
        "NEU",
        "RFC5646",
        "ISO3166_1",
    ]
)
_ESCAPE = b"\x1b"


@dataclass(frozen=True, slots=True)
class Changes:
    """Who the patient is, and how his attributes are changed. `patient` is his pseudonym, `names` the words of persons' names."""

    options: frozenset[Option]
    pseudonyms: Pseudonyms
    patient: str
    names: frozenset[str]

    def made(self, old: Attribute, what: Action) -> Attribute | None:
        """Return what becomes of a top-level attribute; None when it is removed."""
        if old.tag in (PATIENT_NAME, PATIENT_ID) and what in (Action.EMPTY, Action.DUMMY):
            return Attribute(old.tag, b"PN" if old.tag == PATIENT_NAME else b"LO", value=self.patient.encode("ascii"))
        return self._changed(old, what, codes=False)

    def _changed(self, old: Attribute, what: Action, *, codes: bool) -> Attribute | None:
        """`codes`: inside a sequence that is cleaned, where Code Meaning is text that somebody may have typed."""
        vr = effective_vr(old)
        match what:
            case Action.KEEP:
                return old
            case Action.EMPTY:
                return Attribute(old.tag, vr, items=()) if old.items is not None else Attribute(old.tag, vr, value=b"")
            case Action.DUMMY:
                return self._dummy(old, vr)
            case Action.UID:
                return _texts(old, vr, [self.pseudonyms.uid(each.strip(" \0")) for each in old.text.split("\\")])
            case Action.SHIFT:
                moved = self.pseudonyms.shifted(old.text, vr, self.patient)
                return _texts(old, vr, [moved]) if moved is not None else self._basic(old, codes=codes)
            case Action.CLEAN if old.value is not None:
                return self._cleaned(old, vr, codes=codes)
            case Action.CLEAN | Action.ITEMS if old.items is not None:
                cleaning = what is Action.CLEAN
                items = tuple(
                    self._item(item, codes=codes or cleaning) for item in old.items if not cleaning or _is_known_code(item)
                )
                return replace(old, items=items) if items or not cleaning else self._basic(old, codes=codes)
            case _:
                return None

    def _basic(self, old: Attribute, *, codes: bool) -> Attribute | None:
        """Do as without the option that could not be carried out."""
        return self._changed(old, fallback(old.tag), codes=codes)

    def _item(self, item: tuple[Attribute, ...], *, codes: bool) -> tuple[Attribute, ...]:
        made = []
        for each in item:
            vr = effective_vr(each)
            what = Action.CLEAN if codes and each.tag == _CODE_MEANING else action(each.tag, vr, self.options)
            if codes and each.items is not None and what is Action.ITEMS:
                what = Action.CLEAN
            changed = self._changed(each, what, codes=codes)
            if changed is not None:
                made.append(changed)
        return tuple(made)

    def _cleaned(self, old: Attribute, vr: bytes, *, codes: bool) -> Attribute | None:
        value = old.value or b""
        if _ESCAPE not in value:  # a 7-bit code extension would make letters of other scripts look like ours
            cleaned = [descriptors.clean(each, self.names) for each in value.decode("latin-1").split("\\")]
            if any(cleaned):
                return _texts(old, vr, cleaned)
        if old.tag == _CODE_MEANING:
            return Attribute(old.tag, vr, value=dummy(vr))  # of type 1 in every code
        return self._basic(old, codes=codes)

    def _dummy(self, old: Attribute, vr: bytes) -> Attribute | None:
        """Return the attribute with values that tell nothing: of a sequence, the structure of its first item."""
        if old.items is not None:
            first = old.items[:1]
            made = tuple(tuple(new for each in item if (new := self._dummy_inside(each)) is not None) for item in first)
            return replace(old, items=made)
        if vr == b"UI":
            return _texts(old, vr, [self.pseudonyms.uid(each) for each in old.text.split("\\")])
        if vr == b"SQ" or old.fragments is not None:
            return None  # a sequence written as UN, whose content cannot be seen
        return Attribute(old.tag, vr, value=dummy(vr))

    def _dummy_inside(self, old: Attribute) -> Attribute | None:
        if old.tag >> 16 & 1 or (old.items is None and dictionary_vr(old.tag) is None):
            return None
        return old if old.tag in _STRUCTURE else self._dummy(old, effective_vr(old))


def effective_vr(attribute: Attribute) -> bytes:
    """Return the VR to go by: that of the dictionary when the file says UN, SQ for whatever has items."""
    if attribute.items is not None:
        return b"SQ"
    return (dictionary_vr(attribute.tag) or b"UN") if attribute.vr == b"UN" else attribute.vr


def _texts(old: Attribute, vr: bytes, values: list[str]) -> Attribute:
    """Return `old` itself when nothing changed, so that its octets stay as they are."""
    text = "\\".join(values)
    return old if text == old.text else Attribute(old.tag, vr, value=text.encode("latin-1"))


def _is_known_code(item: tuple[Attribute, ...]) -> bool:
    """Whether the item is no code at all or one of a public coding scheme; private codes can name anybody."""
    schemes = [each.text.strip() for each in item if each.tag == _CODING_SCHEME_DESIGNATOR]
    return all(scheme in _CODING_SCHEMES for scheme in schemes)
