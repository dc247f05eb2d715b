"""The policy that a configuration asks for: the shipped one or that of a folder, with what settings add to either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securepacs_proxy.config.model import PolicySection

if TYPE_CHECKING:
    from securepacs.policy.cedar import CedarPolicy

PERSONS_NEED_HARDWARE = """\
@id("persons-need-hardware")
@reason("a person must hold the key in hardware (setting policy.persons_need_hardware)")
forbid (principal is Person, action, resource)
unless { principal.assurance == "hardware" };
"""


def policy_of(section: PolicySection) -> CedarPolicy:
    """Load the policy of a [policy] section. Raises ConfigError."""
    from securepacs.policy.cedar import CedarPolicy

    policy = CedarPolicy.from_folder(section.folder)
    if not section.persons_need_hardware:
        return policy
    return CedarPolicy({**policy.texts, "settings/persons-need-hardware.cedar": PERSONS_NEED_HARDWARE})
