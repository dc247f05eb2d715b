"""The agent as a whole: the port on loopback, one thread an association, the idle clock, the status file."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType

from securepacs.audit.forwarder import Forwarder
from securepacs.audit.senders import Transport, destination_name, make_sender
from securepacs.audit.sinks import SpoolSink
from securepacs.dicom.files import write_atomically
from securepacs.errors import ConfigError, SecurePacsError, TokenError, Unavailable
from securepacs.tls import client_context
from securepacs.trust.files import load_certificates
from securepacs_proxy.agent.association import Association, Associations
from securepacs_proxy.agent.caller import uid_of_peer
from securepacs_proxy.agent.config import AgentConfig
from securepacs_proxy.agent.door import Door, DoorState, Login
from securepacs_proxy.agent.records import APP_NAME, Records
from securepacs_proxy.agent.reverse import Deliveries

_log = logging.getLogger(__name__)
_MIB = 1024 * 1024
_TICK_SECONDS = 0.5
_STRANGER_EVERY = 60.0
_DELIVERY_SECONDS = 5.0
STATUS_FILE = "status.json"
STUCK_EXIT_CODE = 4  # a token's trouble


class Agent:
    """Serves until `stop`. The card may come and go meanwhile."""

    def __init__(self, config: AgentConfig, ask: Callable[[str], str], records: Records) -> None:
        """Bind the port. Raises ConfigError."""
        self._config = config
        self._records = records
        self._associations = Associations()
        self._stopping = False
        self.stuck = False
        self._idle_since = time.monotonic()
        self._stranger_at = -_STRANGER_EVERY
        self._status = config.agent.state / STATUS_FILE
        self._door = Door(
            config.token.uri,
            ask,
            records,
            trust=load_certificates(config.agent.trust, key="agent.trust"),
            chain=load_certificates(config.token.chain, key="token.chain") if config.token.chain else (),
            on_close=self._end_all,
            on_change=self._tell,
            on_stuck=self._give_up,
        )
        self._deliveries = Deliveries(config.viewers, self._door, self._connect_reverse, self._associations, self._tell)
        try:
            family = socket.AF_INET6 if ":" in config.agent.host else socket.AF_INET
            self._listener = socket.create_server((config.agent.host, config.agent.port), family=family)
        except OSError as error:
            hint = "is another agent running?"
            raise ConfigError(f"cannot listen: {error.strerror}", key="agent.port", hint=hint) from None
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Accept until stopped; then end associations and the login."""
        self._tell()
        self._door.start()
        self._deliveries.start()
        self._listener.setblocking(False)
        while not self._stopping:
            ready, _, _ = select.select([self._listener], [], [], _TICK_SECONDS)
            if ready:
                with suppress(OSError):
                    self._accept(self._listener.accept()[0])
            self._look_at_the_clock()
        self._listener.close()
        self._door.lock("the agent was stopped", DoorState.CLOSED)
        deadline = time.monotonic() + 2
        while self._associations and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        self._status.unlink(missing_ok=True)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Have `serve` return; usable as a signal handler."""
        self._stopping = True

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        _log.error("the module of the card does not come back; a new agent is needed")
        self.stuck = True
        self.stop()

    def _accept(self, viewer: socket.socket) -> None:
        uid = uid_of_peer(viewer)
        if uid != os.getuid():
            viewer.close()
            self._refuse(uid)
            return
        config = self._config.agent
        association = Association(viewer, self._door, self._connect, config.login_seconds)
        threading.Thread(target=self._associations.run, args=(association, association.run), daemon=True).start()

    def _refuse(self, uid: int | None) -> None:
        _log.warning("a connection of user id %s was refused", uid)
        if time.monotonic() - self._stranger_at >= _STRANGER_EVERY:  # one record a minute: another user must not fill the spool
            self._stranger_at = time.monotonic()
            try:
                self._records.stranger(uid)
            except SecurePacsError as error:
                _log.error("a refused connection is not on record: %s", error)

    def _end_all(self, why: str) -> None:
        self._associations.end_all(why)
        self._deliveries.end_all(why)

    def _connect_reverse(self, login: Login) -> ssl.SSLSocket:
        return self._connect(login, login.reverse_context)

    def _connect(self, login: Login, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """Open mutual TLS to the gateway. Raises TokenError of the card, Unavailable for everything else."""
        config = self._config.agent
        try:
            plain = socket.create_connection(config.gateway, config.connect_seconds)
        except OSError as error:
            raise Unavailable(f"the gateway {config.gateway} does not answer: {error.strerror or error}") from None
        try:
            return (context or login.context).wrap_socket(plain, server_hostname=config.server_name or config.gateway.host)
        except TokenError:
            plain.close()
            raise
        except OSError as error:
            plain.close()
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            raise Unavailable(f"no TLS with the gateway {config.gateway}: {reason}") from None

    def _look_at_the_clock(self) -> None:
        """Lock when nothing happened for long; a living association is never idle."""
        if self._associations or self._door.login is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since >= self._config.token.idle_seconds:
            self._door.lock("nothing happened for a while (time-out)")

    def _tell(self) -> None:
        """Write the status file and a line of log."""
        door = self._door
        status = {
            "state": str(door.state),
            "person": door.login.person if door.login else "",
            "trouble": door.trouble,
            "deliveries": self._deliveries.trouble,
            "port": self.port,
            "gateway": str(self._config.agent.gateway),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
        }
        _log.info("%s%s", status["state"], f": {status['person']}" if status["person"] else "")
        with suppress(OSError):
            write_atomically(self._status, [json.dumps(status).encode() + b"\n"])


def run_agent(config: AgentConfig, ask: Callable[[str], str], *, ready: Callable[[int], None]) -> None:
    """Run an agent until SIGTERM or SIGINT; `ready(port)` is called when it listens. Raises ConfigError, Unavailable."""
    state = config.agent.state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if state.stat().st_mode & 0o077:
        raise ConfigError(f"others may look into {state}", key="agent.state", hint=f"chmod 700 {state}")
    destinations = {
        destination_name(Transport(place.transport), place.host, place.port): place for place in config.audit.destinations
    }
    with ExitStack() as stack:
        sink = stack.enter_context(
            SpoolSink.open(state / "spool", app_name=APP_NAME, quota_bytes=config.audit.quota_mb * _MIB, destinations=destinations)
        )
        for name, place in destinations.items():
            tls = partial(client_context, place.tls_profile, trust=place.trust, certificate=place.certificate, key=place.key)
            sender = make_sender(Transport(place.transport), place.host, place.port, context=tls)
            forwarder = Forwarder([state / "spool"], sender, name=name)
            forwarder.start()
            stack.callback(forwarder.stop, drain_seconds=_DELIVERY_SECONDS)
        records = Records(sink, config.agent.name)
        agent = Agent(config, ask, records)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, agent.stop)
        records.activity(started=True)
        ready(agent.port)
        agent.serve()
        records.activity(started=False)
    if agent.stuck:
        logging.shutdown()
        os._exit(STUCK_EXIT_CODE)  # the usual end would ask the module to finish, and wait with it


def read_status(state: Path) -> dict[str, object]:
    """Return what the running agent last told; TokenError when none runs."""
    try:
        status: dict[str, object] = json.loads((state / STATUS_FILE).read_text())
        os.kill(int(str(status["pid"])), 0)
    except (OSError, ValueError, KeyError):
        raise Unavailable("no agent is running", hint="securepacs-proxy agent run") from None
    return status
