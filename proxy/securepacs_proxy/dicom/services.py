"""What the gateway knows of single SOP Classes: which of them share a presentation context, which are procedures, which print.

Rules:
1. A command names the SOP Class of its presentation context, or one that the standard puts under it: a Meta SOP Class stands for
   its members (PS3.4 H.3.2), every UPS class works on instances of UPS Push (PS3.4 CC.3.1).
2. A procedure step and a work item are procedure records (PS3.15 A.5.3.12); printing is an export (PS3.15 A.5.3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

from securepacs.audit.message import EventActionCode
from securepacs.dicom.elements import Part, tokens
from securepacs.dicom.part10 import encoding_of, inflate, is_deflated
from securepacs.errors import MalformedError
from securepacs_proxy.dicom import head

MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
UNIFIED_PROCEDURE_STEP_PUSH = "1.2.840.10008.5.1.4.34.6.1"
BASIC_FILM_SESSION = "1.2.840.10008.5.1.1.1"
BASIC_FILM_BOX = "1.2.840.10008.5.1.1.2"
_PRINTER = "1.2.840.10008.5.1.1.16"

_FILM = frozenset((BASIC_FILM_SESSION, BASIC_FILM_BOX, _PRINTER))
_UPS = frozenset((UNIFIED_PROCEDURE_STEP_PUSH,))
_UNDER: dict[str, frozenset[str]] = {
    "1.2.840.10008.5.1.1.9": _FILM | {"1.2.840.10008.5.1.1.4"},  # Basic Grayscale Print Management Meta
    "1.2.840.10008.5.1.1.18": _FILM | {"1.2.840.10008.5.1.1.4.1"},  # Basic Color Print Management Meta
    "1.2.840.10008.5.1.1.9.1": _FILM | {"1.2.840.10008.5.1.1.4.2"},  # Referenced Grayscale (retired)
    "1.2.840.10008.5.1.1.18.1": _FILM | {"1.2.840.10008.5.1.1.4.2"},  # Referenced Color (retired)
    "1.2.840.10008.5.1.1.32": frozenset((_PRINTER, "1.2.840.10008.5.1.1.31")),  # Pull Stored Print Management Meta (retired)
    "1.2.840.10008.5.1.4.34.6.1": _UPS,  # UPS Push
    "1.2.840.10008.5.1.4.34.6.2": _UPS,  # UPS Watch
    "1.2.840.10008.5.1.4.34.6.3": _UPS,  # UPS Pull
    "1.2.840.10008.5.1.4.34.6.4": _UPS,  # UPS Event
    "1.2.840.10008.5.1.4.34.6.5": _UPS,  # UPS Query
}
_PROCEDURES = frozenset((MODALITY_PERFORMED_PROCEDURE_STEP, "1.2.840.10008.3.1.2.3.4", UNIFIED_PROCEDURE_STEP_PUSH))
_PROCEDURE_ACTIONS = {
    "N-CREATE": EventActionCode.CREATE,
    "N-SET": EventActionCode.UPDATE,
    "N-ACTION": EventActionCode.UPDATE,
    "N-GET": EventActionCode.READ,
    "N-DELETE": EventActionCode.DELETE,
}
MAX_STUDIES = 256


@dataclass(frozen=True, slots=True)
class Procedure:
    """Whom a procedure step or work item is about; empty for what it does not say."""

    patient_id: str = ""
    study_instance_uids: tuple[str, ...] = ()


def belongs(sop_class_uid: str, abstract_syntax: str) -> bool:
    """Return whether a command may name this SOP Class in a presentation context of this abstract syntax."""
    return sop_class_uid == abstract_syntax or sop_class_uid in _UNDER.get(abstract_syntax, ())


def procedure_action(service: str, sop_class_uid: str) -> EventActionCode | None:
    """Return what the service does to a procedure record, None when it has none to do with."""
    return _PROCEDURE_ACTIONS.get(service) if sop_class_uid in _PROCEDURES else None


def prints(service: str, sop_class_uid: str) -> bool:
    """Return whether the request makes a printer print (N-ACTION Print, PS3.4 H.4.1.2.4 and H.4.2.2.4)."""
    return service == "N-ACTION" and sop_class_uid in (BASIC_FILM_SESSION, BASIC_FILM_BOX)


def read_procedure(data: bytes, transfer_syntax: str, *, limit: int) -> Procedure:
    """Read patient and studies of the attribute list of an N-CREATE. Raises MalformedError.

    Studies stand inside Scheduled Step Attributes, Referenced Request and Input Information sequences, so all depths are looked at.
    """
    values = head.read_identifier(data, transfer_syntax, limit=limit)
    plain = inflate(data, limit=limit) if is_deflated(transfer_syntax) else data
    studies: dict[str, None] = {}
    for token in tokens(plain, encoding=encoding_of(transfer_syntax)):
        if token.part is Part.ELEMENT and token.tag == head.STUDY_INSTANCE_UID:
            raw = bytes(plain[token.value_offset : token.value_offset + token.length])
            studies |= dict.fromkeys(
                filter(None, head.uid_value({head.STUDY_INSTANCE_UID: raw}, head.STUDY_INSTANCE_UID).split("\\"))
            )
        if len(studies) > MAX_STUDIES:
            raise MalformedError("the procedure names too many studies")
    return Procedure(head.text_value(values, head.PATIENT_ID), tuple(studies))
