"""When a card counts as pulled: after half a second without it, so that a bouncing contact does not cut work. Time is given."""

from __future__ import annotations

from dataclasses import dataclass, field

GRACE_SECONDS = 0.5


@dataclass(slots=True)
class Presence:
    """What a series of looks at the reader means. Starts with the card in."""

    grace: float = GRACE_SECONDS
    removed: bool = False
    _missing_since: float | None = field(default=None, repr=False)

    def saw(self, present: bool, *, at: float) -> bool:
        """Take one look (`at` in seconds of a clock that only runs forward); True when `removed` has just changed."""
        before = self.removed
        if present:
            self._missing_since, self.removed = None, False
        else:
            self._missing_since = at if self._missing_since is None else self._missing_since
            self.removed = at - self._missing_since >= self.grace
        return self.removed != before
