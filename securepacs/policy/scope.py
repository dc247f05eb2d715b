"""What a trust anchor may say: for whom it speaks, which roles its certificates may bring, as whom and whereto they may call.

A certificate of a partner's CA is authentic, but that does not make the partner's word about roles count in this house.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

EVERYTHING = ("*",)


@dataclass(frozen=True, slots=True)
class AnchorScope:
    """The scope of one anchor. Patterns of names: `*` and `?`, case counts; an empty tuple allows nothing.

    `public`: the anchor identifies people but knows nothing of their work, so roles in its certificates never count.
    `hardware_policies`: object identifiers of certificate policies (RFC 5280 4.2.1.4) that promise a key held in hardware.
    """

    roles: tuple[str, ...] = EVERYTHING
    organizations: tuple[str, ...] = EVERYTHING
    ae_titles: tuple[str, ...] = EVERYTHING
    routes: tuple[str, ...] = EVERYTHING
    public: bool = False
    hardware_policies: frozenset[str] = frozenset()

    def speaks_for(self, organization: str) -> bool:
        """Whether certificates may name this organisation ("" when they name none)."""
        return _matches(organization, self.organizations)

    def allowed_roles(self, roles: Iterable[str]) -> frozenset[str]:
        """Return those roles that count."""
        return frozenset(role for role in roles if _matches(role, self.roles))

    def allowed_ae_titles(self, titles: Iterable[str]) -> frozenset[str]:
        """Return those AE titles that a device may be bound to."""
        return frozenset(title for title in titles if _matches(title, self.ae_titles))

    def refusal(self, calling: str, called: str) -> str:
        """Return why an association between two AE titles is out of scope, "" when it is not."""
        if not _matches(calling, self.ae_titles):
            return f"its CA may not be used with the calling AE title {calling}"
        if not _matches(called, self.routes):
            return f"its CA may not be used for {called}"
        return ""


UNLIMITED = AnchorScope()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
