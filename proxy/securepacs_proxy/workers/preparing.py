"""What must stand before the first process of a gateway is forked: the folder of the spool, and enough descriptors."""

from __future__ import annotations

import logging
import resource

from securepacs.errors import ConfigError
from securepacs_proxy.reload import Snapshot

_log = logging.getLogger(__name__)
_OWN_DESCRIPTORS = 128


def create_spool(snapshot: Snapshot) -> None:
    """Make the folder of the spool, for its owner only. Raises ConfigError."""
    try:
        snapshot.config.audit.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{snapshot.config.audit.spool} cannot be made: {error.strerror}", key="audit.spool") from None


def raise_descriptor_limit(connections: int) -> None:
    """Allow two sockets for each connection; one worker may come to hold them all."""
    needed = 2 * connections + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        _log.warning("%d open files are allowed, %d connections may need %d: raise LimitNOFILE", allowed, connections, needed)
