"""Indexing messages by their shape: senders write the same elements again and again, only the values differ.

A message is split into its shape (everything but attribute values and texts) and its values. A shape is validated and walked once,
by way of `quick`; from then on each value only meets the check of its place, which is at least as strict as the schema's. Whatever
is not plain (entities other than the five, other quotes, blanks around a number, ...) goes the longer way. `index` gives the same
for all ways; a test compares them.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import datetime

from lxml import etree

from securepacs.audit.grading import Verdict
from securepacs.audit.repository import terms as limits
from securepacs.audit.repository.terms import Index, Terms, is_patient, json_list, readable, storable
from securepacs.codes import STUDY_INSTANCE_UID_TYPE
from securepacs.store.tables import MOMENT_LENGTH, moment_text

MAX_SHAPES = 1024
MAX_SHAPE = 32_768  # characters; longer ones (lists of instances) are not worth keeping
_TEXT = re.compile(r">([^<>]+)</")
_VALUE, _TEXT_MARK = "\0", "\1"
_PRINTABLE = bytes(range(0x20, 0x7F))
_REFERENCES = ("&lt;", "&gt;", "&amp;", "&quot;", "&apos;")
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\dT[0-2]\d:\d\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:(?:0\d|1[0-3]):[0-5]\d|14:00))", flags=re.ASCII
)
_MARK = "v{}v"
_MARKED = re.compile(r"v(\d+)v")
_BOOLEAN = frozenset(("true", "false", "1", "0"))


def _numbers(last: int) -> frozenset[str]:
    return frozenset(map(str, range(1, last + 1)))


_ALLOWED = {
    "EventActionCode": frozenset("CRUDE"),
    "EventOutcomeIndicator": frozenset(("0", "4", "8", "12")),
    "UserIsRequestor": _BOOLEAN,
    "NetworkAccessPointTypeCode": _numbers(5),
    "ParticipantObjectTypeCode": _numbers(4),
    "ParticipantObjectTypeCodeRole": _numbers(26),
    "ParticipantObjectDataLifeCycle": _numbers(15),
}
_FILLED = frozenset(("UserID", "AuditSourceID", "ParticipantObjectID"))
_NAMES = ("UserID", "AlternativeUserID", "UserName")
_CODED = ("csd-code", "codeSystemName", "originalText")
_OTHER_DIALECTS = ("ehdsi-", "epsos-")


class _NotPlain(Exception):
    """The message has to go the longer way."""


@dataclass(slots=True)
class _Person:
    user: int
    requestor: int
    texts: list[int]  # UserID, AlternativeUserID, UserName as far as they are there
    address: int | None
    roles: list[int]


@dataclass(slots=True)
class _Object:
    identity: int
    type_code: int | None
    role: int | None
    code: int
    system: int
    name: int | None
    details: list[tuple[int, int]]
    accessions: list[int]
    studies: list[int]


@dataclass(slots=True)
class Shape:
    """Which value is what, as numbers of values."""

    dialect: str = "D5"
    brackets: int = 0
    moment: int = 0
    action: int | None = None
    outcome: int = 0
    event_code: int = 0
    event_name: int = 0
    types: list[tuple[int, int]] = field(default_factory=list)
    outcome_text: int | None = None
    people: list[_Person] = field(default_factory=list)
    source_id: int = 0
    site_id: int | None = None
    objects: list[_Object] = field(default_factory=list)
    order: list[_Person | _Object | None] = field(default_factory=list)  # None: the audit source
    allowed: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    binary: list[int] = field(default_factory=list)


class Shapes:
    """The shapes seen so far. `index` answers for a known one, `learn` takes a message that was found to conform."""

    def __init__(self) -> None:
        self._known: dict[str, Shape] = {}

    def index(self, xml: str, received: str) -> Index | None:
        """Return the index of a message whose shape is known and whose values are plain, else None."""
        key, values = split(xml)
        shape = self._known.get(key)
        if shape is None or not _plain(xml) or xml.count("<") != shape.brackets:  # none may stand in a value
            return None
        try:
            return _fill(shape, _unescaped(values) if "&" in xml else values, received)
        except (_NotPlain, ValueError):
            return None

    def learn(self, xml: str) -> None:
        """Keep the shape of a message that meets the schema and whose index was made the longer way."""
        key, values = split(xml)
        if len(key) > MAX_SHAPE or key in self._known or not _plain(xml):
            return
        if len(self._known) >= MAX_SHAPES:  # a sender that never writes the same twice must not fill the memory
            self._known.clear()
        try:
            shape = _shape(etree.fromstring(_marked(key).encode()), len(values))
        except (etree.XMLSyntaxError, _NotPlain, StopIteration, KeyError):
            return
        shape.brackets = xml.count("<")
        self._known[key] = shape


def split(xml: str) -> tuple[str, list[str]]:
    """Return what a message is without its values, and its values: those of attributes in order, then texts in order."""
    pieces = _TEXT.split(xml)
    structure: list[str] = []
    values: list[str] = []
    for piece in pieces[::2]:
        quoted = piece.split('"')
        structure.append(_VALUE.join(quoted[::2]))
        values += quoted[1::2]
    values += pieces[1::2]
    return _TEXT_MARK.join(structure), values


def _marked(key: str) -> str:
    """Return a message of this shape whose values are marks that tell their numbers."""
    structure = key.split(_TEXT_MARK)
    count = key.count(_VALUE)
    numbers = iter(range(count))
    pieces = []
    for piece in structure:
        first, *others = piece.split(_VALUE)
        pieces.append(first + "".join(f'"{_MARK.format(next(numbers))}"{each}' for each in others))
    text = pieces[0]
    for number, piece in enumerate(pieces[1:], count):
        text += f">{_MARK.format(number)}</{piece}"
    return text


def _plain(xml: str) -> bool:
    """Tell whether a message has no characters XML forbids or normalizes, and no references but the five everybody knows."""
    # ASCII: the same question, asked where it is answered much sooner
    if xml.encode("ascii").translate(None, _PRINTABLE) if xml.isascii() else not xml.isprintable():
        return False
    marks = xml.count("&")
    return not marks or marks == xml.count("&amp;") or marks == sum(map(xml.count, _REFERENCES))


def _unescaped(values: list[str]) -> list[str]:
    return [
        value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&apos;", "'").replace("&amp;", "&")
        if "&" in value
        else value
        for value in values
    ]


# --- learning ---------------------------------------------------------------------------------------------------------
def _shape(root: etree._Element, count: int) -> Shape:
    """Read the places of values off a message whose values are marks."""
    shape = Shape()
    seen = 0
    for element in root.iter():
        seen += _checks(shape, element)
    if seen != count:  # a value that is no value of an attribute or a text: single quotes, or quotes in a text
        raise _NotPlain
    for element in root:
        if element.tag == "EventIdentification":
            _event(shape, element)
        elif element.tag == "ActiveParticipant":
            texts = [_place(element.get(name)) for name in _NAMES if element.get(name) is not None]
            roles = [_place(each.get("csd-code")) for each in element.iterchildren("RoleIDCode")]
            requestor, address = _place(element.get("UserIsRequestor")), _optional(element, "NetworkAccessPointID")
            person = _Person(texts[0], requestor, texts, address, roles)
            shape.people.append(person)
            shape.order.append(person)
        elif element.tag == "AuditSourceIdentification":
            shape.source_id = _place(element.get("AuditSourceID"))
            shape.site_id = _optional(element, "AuditEnterpriseSiteID")
            shape.order.append(None)
        else:
            what = _object(element)
            shape.objects.append(what)
            shape.order.append(what)
    return shape


def _checks(shape: Shape, element: etree._Element) -> int:
    """Note the checks of an element's values; return how many values it has."""
    tag = element.tag
    for name, mark in element.attrib.items():
        place = _place(str(mark))
        if name in _ALLOWED:
            shape.allowed.append((place, _ALLOWED[str(name)]))
        elif name in _FILLED or (name in _CODED and tag != "AuditSourceTypeCode"):
            shape.filled.append(place)
        elif name == "NumberOfInstances":
            shape.counts.append(place)
        elif tag == "ParticipantObjectDetail" and name == "value":
            shape.binary.append(place)
        elif tag == "AuditSourceTypeCode" and name == "csd-code" and element.get("codeSystemName") is None:
            shape.allowed.append((place, _numbers(9)))
    texts = [text for text in (element.text, element.tail) if text]
    if element.text and tag == "ParticipantObjectQuery":
        shape.binary.append(_place(element.text))
    elif element.text and tag in ("Encrypted", "Anonymized"):
        shape.allowed.append((_place(element.text), _BOOLEAN))
    if element.tail:
        raise _NotPlain
    return len(element.attrib) + len(texts)


def _event(shape: Shape, element: etree._Element) -> None:
    shape.moment = _place(element.get("EventDateTime"))
    shape.action = _optional(element, "EventActionCode")
    shape.outcome = _place(element.get("EventOutcomeIndicator"))
    for number, child in enumerate(element):
        if child.tag == "EventOutcomeDescription":
            shape.outcome_text = _place(child.text) if child.text else None
            continue
        code, text = _place(child.get("csd-code")), _place(child.get("originalText"))
        if number == 0:
            shape.event_code, shape.event_name = code, text
        elif child.tag == "PurposeOfUse":
            shape.dialect = "D6"
        else:
            shape.types.append((code, text))


def _object(element: etree._Element) -> _Object:
    kind = next(element.iterchildren("ParticipantObjectIDTypeCode"))
    name = next(element.iterchildren("ParticipantObjectName"), None)
    return _Object(
        identity=_place(element.get("ParticipantObjectID")),
        type_code=_optional(element, "ParticipantObjectTypeCode"),
        role=_optional(element, "ParticipantObjectTypeCodeRole"),
        code=_place(kind.get("csd-code")),
        system=_place(kind.get("codeSystemName")),
        name=None if name is None or not name.text else _place(name.text),
        details=[(_place(each.get("type")), _place(each.get("value"))) for each in element.iterchildren("ParticipantObjectDetail")],
        accessions=[_place(each.get("Number")) for each in element.iter("Accession")],
        studies=[_place(each.get("UID")) for each in element.iter("StudyIDs")],
    )


def _place(mark: str | None) -> int:
    found = _MARKED.fullmatch(mark or "")
    if found is None:
        raise _NotPlain
    return int(found[1])


def _optional(element: etree._Element, name: str) -> int | None:
    return None if element.get(name) is None else _place(element.get(name))


# --- indexing ---------------------------------------------------------------------------------------------------------
def _fill(shape: Shape, v: list[str], received: str) -> Index:
    decoded = _check(shape, v)
    terms, texts, description = Terms(), [v[shape.event_name]], list[str]()
    patients, studies = set[str](), set[str]()
    for code, text in shape.types:
        if v[code].lower().startswith(_OTHER_DIALECTS):
            raise _NotPlain
        terms.event_type(v[code].strip())
        texts.append(v[text])
        description.append(v[text])
    if v[shape.event_code].lower().startswith(_OTHER_DIALECTS):
        raise _NotPlain
    if shape.outcome_text is not None:
        texts.append(v[shape.outcome_text])
        description.append(v[shape.outcome_text])
    for each in shape.order:
        if each is None:
            texts.append(v[shape.source_id])
            if shape.site_id is not None:
                texts.append(v[shape.site_id])
        elif isinstance(each, _Person):
            for place in each.texts:
                terms.user(v[place])
                texts.append(v[place])
            if each.address is not None:
                texts.append(v[each.address])
            for place in each.roles:
                terms.role(v[place].strip())
        else:
            _fill_object(each, v, decoded, terms, texts, description, patients, studies)
    requestors = [v[each.user] for each in shape.people if v[each.requestor] in ("true", "1")]
    if len(requestors) > 1:
        raise _NotPlain
    return Index(
        verdict=Verdict.CONFORMANT.value,
        dialect=shape.dialect,
        moment=_moment(v[shape.moment], received),
        event_code=v[shape.event_code].strip(),
        event_name=v[shape.event_name],
        action="" if shape.action is None else v[shape.action],
        outcome=int(v[shape.outcome]),
        source_id=v[shape.source_id],
        site_id="" if shape.site_id is None else v[shape.site_id],
        requestor=requestors[0] if requestors else v[shape.people[0].user],
        description=storable(": ".join(filter(None, description))),
        searchable=storable("\n".join(filter(None, texts))).casefold()[: limits.SEARCHABLE_LENGTH],
        patients=json_list(patients),
        studies=json_list(studies),
        terms=terms.all(),
    )


def _check(shape: Shape, v: list[str]) -> dict[int, bytes]:
    """Raise _NotPlain for a value its place does not take; return what base64 says."""
    for place, allowed in shape.allowed:
        if v[place] not in allowed:
            raise _NotPlain
    for place in shape.filled:
        if not v[place].strip():
            raise _NotPlain
    for place in shape.counts:
        if not (v[place].isascii() and v[place].isdigit() and len(v[place]) <= 18):
            raise _NotPlain
    decoded: dict[int, bytes] = {}
    for place in shape.binary:
        try:
            decoded[place] = b64decode(v[place], validate=True)
        except (binascii.Error, ValueError):
            raise _NotPlain from None
        if b64encode(decoded[place]).decode() != v[place]:  # bits after the last octet, or blanks
            raise _NotPlain
    return decoded


def _fill_object(
    what: _Object,
    v: list[str],
    decoded: dict[int, bytes],
    terms: Terms,
    texts: list[str],
    description: list[str],
    patients: set[str],
    studies: set[str],
) -> None:
    identity, code = v[what.identity], v[what.code].strip()
    type_code = None if what.type_code is None else int(v[what.type_code])
    role = None if what.role is None else int(v[what.role])
    if is_patient(type_code, role, code, v[what.system]):
        terms.patient(identity, patients)
    if code == STUDY_INSTANCE_UID_TYPE.csd_code:
        terms.study(identity, studies)
    for place in what.studies:
        terms.study(v[place], studies)
    texts.append(identity)
    if what.name is not None:
        texts.append(v[what.name])
    for kind, value in what.details:
        texts += (v[kind], readable(decoded[value]))
        if v[kind] == "Alert Description":
            description.append(decoded[value].decode("utf-8", errors="replace"))
    texts += [v[place] for place in what.accessions]


def _moment(text: str, received: str) -> str:
    if not _MOMENT.fullmatch(text):
        raise _NotPlain
    at = datetime.fromisoformat(text)
    if not limits.MIN_YEAR <= at.year <= limits.MAX_YEAR:
        return received
    return text if len(text) == MOMENT_LENGTH and text.endswith("Z") else moment_text(at)
