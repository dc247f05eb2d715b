"""What a permit is tied to: annotations of the deciding policies, fulfilled by the gateway (XACML 2.0 7.14, words of Cedar).

    @obligation_required_query_keys("PatientID AccessionNumber PatientName+PatientBirthDate")
        a C-FIND must fill in one of these, or all of those joined by +
    @obligation_only_responses("InstitutionName={organization}; Modality=CT")
        answers to a C-FIND pass only when each of these elements has this value; {user_id}, {name}, {organization} of the subject
    @obligation_patients_per_hour("alarm 100, refuse 300")
        see `budget`

1. An obligation that the gateway does not know, or cannot read, turns the permit into a refusal.
2. When several policies permit, the obligations of all of them hold; values of one name are joined by "; ".
3. An answer without the element does not pass. So the viewer must ask for it, as a return key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword

from securepacs.errors import MalformedError
from securepacs.policy.subject import AccessRequest, Subject
from securepacs_proxy.dicom import head
from securepacs_proxy.dicom.budget import PATIENTS_PER_HOUR, read_limits

REQUIRED_QUERY_KEYS, ONLY_RESPONSES = "required_query_keys", "only_responses"
_NAME = re.compile(r"\{([^}]*)\}")
_ATTRIBUTES = frozenset(("user_id", "name", "organization"))
_KNOWN = frozenset((REQUIRED_QUERY_KEYS, ONLY_RESPONSES, PATIENTS_PER_HOUR))


@dataclass(frozen=True, slots=True)
class Filter:
    """One element that an answer must have, with its value."""

    tag: int
    value: str

    def matches(self, values: dict[int, bytes]) -> bool:
        """Return whether one of the values of the element is this one, in any case of letters."""
        charset = values.get(head.SPECIFIC_CHARACTER_SET, b"")
        text = head.text_value({self.tag: values.get(self.tag, b""), head.SPECIFIC_CHARACTER_SET: charset}, self.tag)
        return self.value.casefold() in (part.strip().casefold() for part in text.split("\\"))


def unmet(obligations: Mapping[str, str], request: AccessRequest) -> str:
    """Return why a permit with these obligations must be refused, "" when it need not. No value asked for is in it."""
    unknown = sorted(obligations.keys() - _KNOWN)
    if unknown:
        return f"the gateway does not know the obligation {', '.join(unknown)}"
    if PATIENTS_PER_HOUR in obligations and read_limits(obligations[PATIENTS_PER_HOUR]) is None:
        return f"the obligation {PATIENTS_PER_HOUR} cannot be read"
    if ONLY_RESPONSES in obligations and filters(obligations, request.subject) is None:
        return f"the obligation {ONLY_RESPONSES} cannot be read"
    if request.action == "C-FIND":
        for wanted in _parts(obligations.get(REQUIRED_QUERY_KEYS, "")):
            if not any(set(each.split("+")) <= request.query_keys for each in wanted.split()):
                return f"the query must fill in {' or '.join(wanted.split())}"
    return ""


def filters(obligations: Mapping[str, str], subject: Subject) -> tuple[Filter, ...] | None:
    """Return what answers must have, None when the obligation cannot be read or the subject has no such attribute."""
    found = []
    for part in _parts(obligations.get(ONLY_RESPONSES, "")):
        keyword, sign, template = (piece.strip() for piece in part.partition("="))
        tag = tag_for_keyword(keyword) if keyword else None
        names = _NAME.findall(template)
        if not sign or tag is None or not set(names) <= _ATTRIBUTES or "" in (getattr(subject, name) for name in names):
            return None
        value = _NAME.sub(lambda match: str(getattr(subject, match[1])), template)
        if not value:
            return None
        found.append(Filter(tag, value))
    return tuple(found)


def passes(data: bytes, transfer_syntax: str, wanted: tuple[Filter, ...], *, limit: int) -> bool:
    """Return whether an answer may pass; one that cannot be read does not."""
    try:
        values = head.read_identifier(data, transfer_syntax, limit=limit)
    except MalformedError:
        return False
    return all(each.matches(values) for each in wanted)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]
