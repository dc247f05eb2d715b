"""Options that say whom to trust and whom to ask, the same for every command that judges certificates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli.paths import cache_folder

if TYPE_CHECKING:
    from securepacs.trust import TrustPolicy

IntermediatesOption = Annotated[list[Path] | None, typer.Option("--intermediates", help="CA certificates that help.")]
CrlOption = Annotated[list[Path] | None, typer.Option("--crl", help="Certificate revocation list; repeatable.")]
OnlineOption = Annotated[
    bool, typer.Option("--online/--offline", help="Ask the revocation services that certificates name, or do not.")
]
AllowHostOption = Annotated[
    list[str] | None, typer.Option("--allow-host", metavar="HOST", help="Ask this host although it is not public; repeatable.")
]


def read_policy(
    trust: Sequence[Path],
    intermediates: Sequence[Path] | None,
    crl: Sequence[Path] | None,
    *,
    online: bool,
    allow_host: Sequence[str] | None,
    timestamp_trust: Sequence[Path] | None = None,
) -> TrustPolicy:
    """Read the certificates; what is fetched online is kept between runs. ConfigError when there is nobody to trust."""
    from securepacs.trust import TrustPolicy

    return TrustPolicy.from_files(
        trust,
        intermediates=intermediates or (),
        crls=crl or (),
        online=online,
        timestamp_trust=timestamp_trust,
        allowed_hosts=allow_host or (),
        cache_folder=cache_folder() if online else None,
    )
