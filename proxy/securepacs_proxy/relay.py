"""The contract of every relay (DICOM now; HTTP and HL7 have room beside it). Rules, and the reason relays can be trusted:

1. `handle(event, at=now)` returns a list of commands and never raises; `at` is the only clock. A peer's protocol error becomes
   the protocol's own refusal, an audit record, and a close of both sides.
2. Commands already produced in a call survive an error later in the same call.
3. Input is bounded before it is buffered.
4. Any split of the byte stream gives the same bytes out and the same records.
5. Authorization never waits: `policy.decide` is pure and inline. Decisions are remembered per association by their full
   input; a new policy forgets them.
6. No decision, no forwarding.
7. Both sides may originate requests: the same rules in both directions.
8. Audit precedes the send it describes.
9. Data is forwarded as received; only association PDUs are written anew, hop by hop.
10. What archive and gateway could read differently is refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from securepacs_proxy.commands import Command
from securepacs_proxy.events import Event


class Relay(Protocol):
    """A protocol seen from the middle; one object per connection."""

    def handle(self, event: Event, *, at: datetime) -> list[Command]:
        """Return what must be done because of `event`, in order. Never raises."""
        ...

    @property
    def finished(self) -> bool:
        """True when both sides are closed or being closed and no further event matters."""
        ...
