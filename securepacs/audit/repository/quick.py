"""The quick way to index a message that conforms: by its shape when that is known, else straight from its validated tree.

`quick_index` gives exactly what `index` would give by way of `grading`, or None where anything is not plain; a test compares both.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime

from lxml import etree

from securepacs.audit.grading import Verdict, conforms
from securepacs.audit.repository.shapes import Shapes
from securepacs.audit.repository.terms import (
    MAX_YEAR,
    MIN_YEAR,
    SEARCHABLE_LENGTH,
    Index,
    Terms,
    is_patient,
    json_list,
    readable,
    storable,
)
from securepacs.codes import STUDY_INSTANCE_UID_TYPE
from securepacs.store.tables import MOMENT_LENGTH, moment_text

_LONGEST = 1024 * 1024
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[0-2]\d:\d\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", flags=re.ASCII)
_OTHER_DIALECTS = ("ehdsi-", "epsos-")
_LONGEST_NUMBER = 18
_PARSER = etree.XMLParser(
    encoding="utf-8",
    resolve_entities=False,
    no_network=True,
    load_dtd=False,
    huge_tree=False,
    remove_comments=True,
    remove_pis=True,
)

_SHAPES = Shapes()


class _NotPlain(Exception):
    """The message needs the tolerant reader."""


def quick_index(xml: bytes, received: str) -> Index | None:
    """Return the index of a message that conforms and is plainly written, else None. `received` is the moment of receipt."""
    if not xml.startswith(b"<AuditMessage") or len(xml) > _LONGEST or b"<!DOCTYPE" in xml:
        return None
    try:
        text = xml.decode("utf-8")
        found = _SHAPES.index(text, received)
        if found is not None:
            return found
        root = etree.fromstring(xml, _PARSER)
        found = _index(root, received) if conforms(root) else None
    except (etree.XMLSyntaxError, _NotPlain, ValueError):
        return None
    if found is not None:
        _SHAPES.learn(text)
    return found


def _index(root: etree._Element, received: str) -> Index:
    event, *rest = root
    terms, texts, people = Terms(), list[str | None](), list[tuple[bool, str]]()
    description, patients, studies = list[str](), set[str](), set[str]()
    event_code, event_name, dialect = _event(event, terms, texts, description)
    source_id = site_id = ""
    sources: list[str | None] = []
    for element in rest:
        tag = element.tag
        if tag == "ActiveParticipant":
            people.append(_participant(element, terms, texts))
        elif tag == "ParticipantObjectIdentification":
            _object(element, terms, texts, description, patients, studies)
        else:
            source_id, site_id = _filled(element.get("AuditSourceID")), element.get("AuditEnterpriseSiteID") or ""
            sources = [source_id, site_id]
            texts.extend(sources)
    if sum(requestor for requestor, _ in people) > 1:
        raise _NotPlain
    return Index(
        verdict=Verdict.CONFORMANT.value,
        dialect=dialect,
        moment=_moment(event.get("EventDateTime") or "", received),
        event_code=event_code,
        event_name=event_name,
        action=(event.get("EventActionCode") or "").strip(),
        outcome=int(event.get("EventOutcomeIndicator") or ""),
        source_id=source_id,
        site_id=site_id,
        requestor=next((user for requestor, user in people if requestor), people[0][1]),
        description=storable(": ".join(filter(None, description))),
        searchable=storable("\n".join(filter(None, texts))).casefold()[:SEARCHABLE_LENGTH],
        patients=json_list(patients),
        studies=json_list(studies),
        terms=terms.all(),
    )


def _event(event: etree._Element, terms: Terms, texts: list[str | None], description: list[str]) -> tuple[str, str, str]:
    dialect, outcome_text, types = "D5", "", list[str]()
    event_code, event_name = _coded(event[0])
    for element in event.iterchildren():
        if element is event[0]:
            continue
        tag = element.tag
        if tag == "EventOutcomeDescription":
            outcome_text = _content(element)
            continue
        code, text = _coded(element)
        if tag == "PurposeOfUse":
            dialect = "D6"
            continue
        if code.lower().startswith(_OTHER_DIALECTS):
            raise _NotPlain
        terms.event_type(code)
        types.append(text)
    if event_code.lower().startswith(_OTHER_DIALECTS):
        raise _NotPlain
    texts.extend((event_name, *types, outcome_text))
    description.extend((*types, outcome_text))
    return event_code, event_name, dialect


def _participant(element: etree._Element, terms: Terms, texts: list[str | None]) -> tuple[bool, str]:
    get = element.get
    user, alternative, name = _filled(get("UserID")), get("AlternativeUserID"), get("UserName")
    for each in element.iter("RoleIDCode", "MediaType"):
        code = _coded(each)[0]
        if each.tag == "RoleIDCode":
            terms.role(code)
    for text in (user, alternative, name):
        if text:
            terms.user(text)
    texts.extend((user, alternative, name, get("NetworkAccessPointID")))
    return (get("UserIsRequestor") or "").strip() in ("true", "1"), user


def _object(
    element: etree._Element,
    terms: Terms,
    texts: list[str | None],
    description: list[str],
    patients: set[str],
    studies: set[str],
) -> None:
    get = element.get
    identity, name = _filled(get("ParticipantObjectID")), ""
    details, accessions = list[str](), list[str | None]()
    code, system = "", ""
    for child in element:
        tag = child.tag
        if tag == "ParticipantObjectIDTypeCode":
            code, system = _coded(child)[0], child.get("codeSystemName") or ""
        elif tag == "ParticipantObjectName":
            name = _content(child)
        elif tag == "ParticipantObjectQuery":
            _binary(_content(child))
        elif tag == "ParticipantObjectDetail":
            kind, value = child.get("type") or "", _binary(child.get("value") or "")
            details.extend((kind, readable(value)))
            if kind == "Alert Description":
                description.append(value.decode("utf-8", errors="replace"))
        else:
            accessions.extend(each.get("Number") for each in child.iter("Accession"))
            for study in _contained(child):
                terms.study(study, studies)
    if is_patient(_number(get("ParticipantObjectTypeCode")), _number(get("ParticipantObjectTypeCodeRole")), code, system):
        terms.patient(identity, patients)
    if code == STUDY_INSTANCE_UID_TYPE.csd_code:
        terms.study(identity, studies)
    texts.extend((identity, name, *details, *accessions))


def _contained(element: etree._Element) -> Iterator[str]:
    """Yield the studies of an object description; a count no reader takes is not plain."""
    for each in element.iter("SOPClass"):
        if len((each.get("NumberOfInstances") or "").strip()) > _LONGEST_NUMBER:
            raise _NotPlain
    return (each.get("UID") or "" for each in element.iter("StudyIDs"))


def _coded(element: etree._Element) -> tuple[str, str]:
    code, text = (element.get("csd-code") or "").strip(), element.get("originalText") or ""
    if not code or not text or not element.get("codeSystemName"):
        raise _NotPlain
    return code, text


def _filled(text: str | None) -> str:
    if not text or not text.strip():
        raise _NotPlain
    return text


def _content(element: etree._Element) -> str:
    return element.text or ""  # comments are removed, and elements with text have no children


def _binary(text: str) -> bytes:
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _NotPlain from None


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _moment(text: str, received: str) -> str:
    if not _MOMENT.fullmatch(text):
        raise _NotPlain
    if len(text) == MOMENT_LENGTH and text.endswith("Z") and MIN_YEAR <= int(text[:4]) <= MAX_YEAR:
        datetime.fromisoformat(text)  # raises for the 31st of February
        return text
    if not MIN_YEAR <= int(text[:4]) <= MAX_YEAR:
        return received
    return moment_text(datetime.fromisoformat(text))
