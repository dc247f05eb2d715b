"""The watcher: reads what the repository stored, asks the rules, and puts alerts where they cannot get lost.

An alert is in the queue before the position moves on: after a crash it may be made twice, never not at all. At the start the last
records are read again without alerts, so that rules know what they knew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from securepacs.audit.alerts.channels import channels_of
from securepacs.audit.alerts.facts import fact_of
from securepacs.audit.alerts.rules import Finding
from securepacs.audit.alerts.settings import AlertSettings
from securepacs.audit.forwarder import Forwarder, Supply
from securepacs.audit.repository import Repository
from securepacs.audit.spool import Spool
from securepacs.errors import Unavailable

REPLAYED = 50_000  # records before the position from which the rules learn again
POSITION = "watch"
MAX_TOLD = 10_000  # findings of which the moment is remembered
_MIB = 1024 * 1024
_BATCH = 1024 * 1024
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alert:
    """What leaves. `id` is the same when the same finding is made again; `records` are ids in the repository `store`."""

    id: str
    kind: str
    at: str
    text: str
    records: tuple[int, ...]
    store: str

    @classmethod
    def of(cls, finding: Finding, store: str) -> Self:
        """Make an alert of a finding."""
        mark = json.dumps([finding.kind, finding.key, finding.records], ensure_ascii=False)
        number = hashlib.sha256(mark.encode()).hexdigest()[:32]
        return cls(number, finding.kind, finding.at.isoformat(timespec="seconds"), finding.text, finding.records, store)

    def to_json(self) -> bytes:
        """Return one line of JSON, ASCII only."""
        return json.dumps(asdict(self)).encode()


class Watcher:
    """Watches a repository. Use as a context manager: inside, channels deliver; call `turn` as often as alerts may be late."""

    def __init__(
        self,
        repository: Repository,
        settings: AlertSettings,
        *,
        on_alert: Callable[[Alert], None] = lambda _alert: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._on_alert = on_alert
        self._clock = clock
        self._state = settings.watch.state
        self._told: dict[tuple[str, str], datetime] = {}
        self._stack = ExitStack()
        self._forwarders: list[Forwarder] = []

    def __enter__(self) -> Self:
        """Open queue and channels, and let the rules learn. Raises ConfigError, Unavailable."""
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        hostname = socket.gethostname()
        channels = channels_of(self._settings, hostname)
        queue = self._state / "queue"
        with ExitStack() as stack:
            quota = self._settings.watch.quota_mb * _MIB
            self._spool = stack.enter_context(Spool.open(queue, quota_bytes=quota, destinations=tuple(channels)))
            for name, make in channels.items():
                forwarder = Forwarder([Supply.of_spool(queue, name)], make(), name=name, window_seconds=0.0)
                forwarder.start()
                stack.callback(forwarder.stop)
                self._forwarders.append(forwarder)
            supply = self._repository.supply(self._state, POSITION)
            self._cursor = supply.cursor
            known = supply.cursor.load()
            self._reached = self._repository.count() if known is None else known
            if known is None:  # a first start tells nothing of the past
                supply.cursor.save(self._reached)
            self._reader = supply.open(max(0, self._reached - REPLAYED))
            stack.callback(self._reader.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Deliver what waits, as far as somebody answers, and close."""
        self._stack.close()

    def run(self, stopping: threading.Event) -> None:
        """Turn until told to stop; a repository that does not answer is asked again."""
        while not stopping.wait(self._settings.watch.poll_seconds):
            try:
                self.turn()
            except Unavailable as error:
                _logger.error("alerts: %s", error)

    def turn(self) -> list[Alert]:
        """Look at everything new, and at the clock; return the alerts made. Raises Unavailable; then it goes on from there."""
        made: list[Alert] = []
        while records := self._reader.read(at_most=_BATCH):
            for record in records:
                fact = fact_of(record.sequence, record.data)
                if fact is not None:
                    findings = (finding for rule in self._settings.rules for finding in rule.see(fact))
                    made += self._tell(findings, known=record.sequence <= self._reached)
            if records[-1].sequence > self._reached:
                self._cursor.save(records[-1].sequence)
        now = self._clock()
        return made + self._tell(finding for rule in self._settings.rules for finding in rule.tick(now))

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _tell(self, findings: Iterable[Finding], *, known: bool = False) -> list[Alert]:
        """Make alerts, each key once in `again_seconds`; of what is `known` only the moment is remembered."""
        made = []
        again = timedelta(seconds=self._settings.watch.again_seconds)
        for finding in findings:
            last = self._told.get((finding.kind, finding.key))
            if last is not None and finding.at - last < again:
                continue
            self._told[finding.kind, finding.key] = finding.at
            if len(self._told) > MAX_TOLD:
                del self._told[min(self._told, key=self._told.__getitem__)]
            if known:
                continue
            alert = Alert.of(finding, self._repository.uri)
            self._spool.append(alert.to_json())
            self._on_alert(alert)
            made.append(alert)
        for forwarder in self._forwarders if made else ():
            forwarder.wake()
        return made
