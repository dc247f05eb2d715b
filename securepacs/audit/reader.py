"""Reading audit messages of every dialect: hardened, tolerant, and telling exactly what had to be forgiven.

Rules of this file:
1. `read` never raises for what a sender wrote; a message that cannot be used is a Reading without message.
2. No DTD, no entities, no network; size, element count and depth are bounded before anything is built from the text.
3. Whatever the XML declaration claims, the text is UTF-8 (audit trails say ASCII and mean UTF-8).
4. The bytes given are never changed; every correction happens in the view and is a Finding.
5. Findings carry no values of the message, so that they may be logged.

Rewrites are those of RFC 3881 and of the older DICOM editions to PS3.15 2017c and later (attribute `code`, `displayName` as the
text, source type codes, loose object descriptions). NOT done: repair of truncated XML, the IHE "Year 4" schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo

from lxml import etree

from securepacs.audit import elements
from securepacs.audit.findings import Finding, Findings
from securepacs.audit.message import AuditMessage

MAX_BYTES = 16 * 1024 * 1024
MAX_ELEMENTS = 100_000
MAX_DEPTH = 32
_BOM = b"\xef\xbb\xbf"
_DECLARATION = re.compile(r"\s*<\?xml\b[^>]*\?>")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DESCRIPTION_ELEMENTS = frozenset(("MPPS", "Accession", "SOPClass"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What was made of the bytes: `message` of None means unparsed; `root` is the tree in the senders' own words.

    `dialect` is D0-D9 of the list in `dialect_of`, empty when the text is not an audit message at all.
    """

    message: AuditMessage | None
    dialect: str
    findings: tuple[Finding, ...]
    root: etree._Element | None = None


def read(raw: bytes, *, zone: tzinfo = UTC, max_bytes: int = MAX_BYTES) -> Reading:
    """Read one audit message (PS3.15 A.5.1 and its ancestors). `zone` is assumed for an EventDateTime without one."""
    findings = Findings()
    root = _parse(raw, findings, max_bytes)
    if root is None:
        return Reading(None, "", findings.all)
    dialect = dialect_of(root)
    if elements.local_name(root) != "AuditMessage":
        findings.add("not-an-audit-message", "", "the root element is not AuditMessage")
        return Reading(None, dialect, findings.all, root)
    if elements.namespace(root):
        findings.add("namespace", "AuditMessage", "elements are in a namespace")
    message = elements.message(root, findings, zone)
    return Reading(message, dialect, findings.all, root)


def dialect_of(root: etree._Element) -> str:
    """Name the dialect, the most telling mark first.

    D0 IHE Year 4; D9 eHDSI; D8 own namespace; D7 dcm4che; D2 Supplement 95 and D1 RFC 3881 (`code`); D3 DICOM 2011, D4 2016a and
    D4b 2016c (where the source type sits); D6 IHE's additions; D5 DICOM 2017c and later; empty: none of them.
    """
    names = {elements.local_name(each) for each in _elements(root)}
    if elements.local_name(root) == "IHEYr4":
        return "D0"
    if elements.local_name(root) != "AuditMessage":
        return ""
    types = [elements.code_of(each) for each in _elements(root) if elements.local_name(each) in ("EventTypeCode", "EventID")]
    if "Signature" in names or any(each.lower().startswith(("ehdsi-", "epsos-")) for each in types):
        return "D9"
    if elements.namespace(root):
        return "D8"
    if "UserIDTypeCode" in names or any(each.get("UserTypeCode") for each in _elements(root)):
        return "D7"
    if any(each.get("code") is not None for each in _elements(root) if elements.local_name(each) == "EventID"):
        return "D2" if names & _DESCRIPTION_ELEMENTS else "D1"
    return _dialect_of_csd_code(root, names)


def _dialect_of_csd_code(root: etree._Element, names: set[str]) -> str:
    loose = any(
        elements.local_name(child) in _DESCRIPTION_ELEMENTS
        for each in _elements(root)
        if elements.local_name(each) == "ParticipantObjectIdentification"
        for child in each
    )
    if loose:
        return "D3"
    for each in _elements(root):
        if elements.local_name(each) == "AuditSourceIdentification" and each.get("code") is not None:
            return "D4" if names & _DESCRIPTION_ELEMENTS else "D3"
        if elements.local_name(each) == "AuditSourceTypeCode" and each.get("csd-code") is None:
            return "D4b"
    return "D6" if "PurposeOfUse" in names or _object_without_name_or_query(root) else "D5"


def _object_without_name_or_query(root: etree._Element) -> bool:
    return any(
        not {elements.local_name(child) for child in each} & {"ParticipantObjectName", "ParticipantObjectQuery"}
        for each in _elements(root)
        if elements.local_name(each) == "ParticipantObjectIdentification"
    )


def _elements(root: etree._Element) -> Iterator[etree._Element]:
    return root.iter(etree.Element)


def _parse(raw: bytes, findings: Findings, max_bytes: int) -> etree._Element | None:
    """Return the root of the view of `raw`, or None with the reason in `findings`."""
    if len(raw) > max_bytes:
        findings.add("too-large", "", f"more than {max_bytes} bytes")
        return None
    text = _view(raw, findings)
    if not text:
        findings.add("empty", "", "no text")
        return None
    if "<!DOCTYPE" in text:
        findings.add("doctype", "", "a document type declaration is never read")
        return None
    if text.count("<") > 2 * MAX_ELEMENTS:
        findings.add("too-many-elements", "", f"more than {MAX_ELEMENTS} elements")
        return None
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except etree.XMLSyntaxError as error:
        findings.add("not-well-formed", f"line {error.lineno}", f"the XML parser stopped: {_reason(parser)}")
        return None
    if _deeper_than(root, MAX_DEPTH):
        findings.add("too-deep", "", f"elements are nested deeper than {MAX_DEPTH}")
        return None
    return root


def _reason(parser: etree.XMLParser) -> str:
    entries = list(parser.error_log)  # the type of the error; its message would quote the text
    return str(entries[-1].type_name) if entries else "no element"


def _view(raw: bytes, findings: Findings) -> str:
    """Return the text without byte order marks, declaration and characters XML forbids."""
    while raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    text = raw.decode("utf-8", errors="replace")
    if "�" in text and b"\xef\xbf\xbd" not in raw:
        findings.add("not-utf-8", "", "byte sequences that are not UTF-8 were replaced in the view")
    if _FORBIDDEN.search(text):
        findings.add("forbidden-character", "", "characters that XML forbids were replaced in the view")
        text = _FORBIDDEN.sub("�", text)
    return _DECLARATION.sub("", text, count=1).strip() if _DECLARATION.match(text) else text.strip()


def _deeper_than(root: etree._Element, limit: int) -> bool:
    level = [root]
    for _ in range(limit):
        level = [child for each in level for child in each]
        if not level:
            return False
    return True
