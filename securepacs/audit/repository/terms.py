"""The terms records are found by, and the shape of an index; shared by the quick and the tolerant way to make one."""

from __future__ import annotations

import json
from collections.abc import Collection
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from securepacs.audit.parts import CERTIFICATE_SERIAL
from securepacs.codes import PATIENT_NUMBER_TYPE

SEARCHABLE_LENGTH = 65_536  # characters of a record that a text search looks at
TERM_LENGTH = 512
MIN_YEAR, MAX_YEAR = 1900, 9000  # years outside nobody can mean; they would not sort, or not convert to UTC
_PATIENT, _PERSON = 1, 1  # ParticipantObjectTypeCodeRole, ParticipantObjectTypeCode


class TermKind(StrEnum):
    """What a term of the index is."""

    TYPE = "type"
    USER = "user"
    PATIENT = "patient"
    STUDY = "study"
    CERTIFICATE = "certificate"


class Index(NamedTuple):
    """The index of one record. `moment` is as the tables write it, `patients` and `studies` are JSON arrays."""

    verdict: str
    dialect: str
    moment: str
    event_code: str
    event_name: str
    action: str
    outcome: int | None
    source_id: str
    site_id: str
    requestor: str
    description: str
    searchable: str
    patients: str
    studies: str
    terms: tuple[int, ...]


class Terms:
    """Collects the terms of one record."""

    def __init__(self) -> None:
        self._found: set[int] = set()

    def event_type(self, code: str) -> None:
        """Add a code of EventTypeCode."""
        self._found.update(_hashes(_TYPE, term(code)))

    def user(self, user: str) -> None:
        """Add a UserID, AlternativeUserID or UserName."""
        self._found.update(_user_hashes(user))

    def role(self, code: str) -> None:
        """Add a code of RoleIDCode when it names the certificate of a participant (`parts.certificate_role`)."""
        if code.startswith(CERTIFICATE_SERIAL):
            self._found.update(_hashes(_CERTIFICATE, term(code.removeprefix(CERTIFICATE_SERIAL))))

    def patient(self, identity: str, shown: set[str]) -> None:
        """Add a patient ID, whole and without its issuer (HL7 CX)."""
        for value in (term(identity), term(identity.partition("^")[0])):
            if value:
                self._found.add(term_hash(_PATIENT_KIND, value))
                shown.add(value)

    def study(self, uid: str, shown: set[str]) -> None:
        """Add a Study Instance UID."""
        if value := term(uid):
            self._found.add(term_hash(_STUDY, value))
            shown.add(value)

    def all(self) -> tuple[int, ...]:
        """Return the terms in order."""
        return tuple(sorted(self._found))


@lru_cache(maxsize=16_384)
def _user_hashes(user: str) -> tuple[int, ...]:
    return _hashes(_USER, user_term(user))


def _hashes(kind: str, value: str) -> tuple[int, ...]:
    return (term_hash(kind, value),) if value else ()


_TYPE, _USER, _PATIENT_KIND, _STUDY, _CERTIFICATE = (kind.value for kind in TermKind)


@lru_cache(maxsize=16_384)
def term_hash(kind: str, value: str) -> int:
    """Return what the index keeps of a term: 64 bits of SHA-256, as a signed number."""
    return int.from_bytes(sha256(f"{kind}\0{value}".encode(errors="surrogatepass")).digest()[:8], "big", signed=True)


def storable(text: str) -> str:
    """Return text that every database takes."""
    return text.replace("\0", "�")


def term(value: str) -> str:
    """Return the form in which terms are indexed: without outer spaces, and of bounded length."""
    return storable(value.strip())[:TERM_LENGTH]


def user_term(user: str) -> str:
    """Return the form in which users are indexed: letter case does not count."""
    return term(user.casefold())


def is_patient(type_code: int | None, role: int | None, code: str, system: str) -> bool:
    """Tell whether an object is a patient: by its type and role, or by the type of its ID."""
    return (type_code, role) == (_PERSON, _PATIENT) or (code, system) == (
        PATIENT_NUMBER_TYPE.csd_code,
        PATIENT_NUMBER_TYPE.codeSystemName,
    )


def json_list(values: Collection[str]) -> str:
    """Return values as a JSON array, in order."""
    if not values:
        return "[]"
    plain = '", "'.join(sorted(values))
    if plain.isprintable() and "\\" not in plain and plain.count('"') == 2 * (len(values) - 1):
        return f'["{plain}"]'
    return json.dumps(sorted(values), ensure_ascii=False)


def readable(value: bytes) -> str:
    """Return octets as text when they are text."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return ""
