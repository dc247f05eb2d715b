"""What a tolerant reader had to forgive, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

# codes of findings that are no deviation from the grammar: they are reported and do not cost the verdict
NOTES = frozenset(("schema-location", "leap-second", "purpose-of-use"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One deviation: a stable `code`, `where` (the path of elements), and `detail` for people. Never holds patient data."""

    code: str
    where: str
    detail: str

    @property
    def is_note(self) -> bool:
        """True when the message conforms in spite of it."""
        return self.code in NOTES


@dataclass(slots=True)
class Findings:
    """Collects findings; the same code at the same place is kept once."""

    _found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, code: str, where: str, detail: str) -> None:
        """Keep one finding."""
        self._found.setdefault((code, where), Finding(code, where, detail))

    @property
    def all(self) -> tuple[Finding, ...]:
        """Everything found, in order."""
        return tuple(self._found.values())
