"""The I/O shell around a relay: sockets, TLS, timers and the audit barrier. The only executor of commands.

sockets -> ends.py -> relayed.py -> relay.handle(event, at=now) -> commands -> relayed.py -> ends.py -> sockets, audit
"""

from securepacs_proxy.connection.others import Deliveries, InnerPort
from securepacs_proxy.connection.peers import AuthenticatedPeer, Limits
from securepacs_proxy.connection.relayed import RelayedConnection
from securepacs_proxy.connection.shell import AuditSubmit, Shell

__all__ = ["Shell", "Limits", "InnerPort", "Deliveries", "RelayedConnection", "AuthenticatedPeer", "AuditSubmit"]
