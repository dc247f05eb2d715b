"""The processes of a gateway: a supervisor without threads, pre-forked workers, and an auditor that delivers the records.

The supervisor binds the ports, forks, replaces what dies and passes orders on. Workers share the listening sockets; each is an
audit source of its own with its own spool folder. The auditor is a process apart because delivering needs threads, and a process
with threads must not fork.
"""

from securepacs_proxy.workers.supervisor import DRAIN_SECONDS, run_gateway

__all__ = ["run_gateway", "DRAIN_SECONDS"]
