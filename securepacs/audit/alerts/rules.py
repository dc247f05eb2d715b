"""The alert rules: facts in, findings out, no I/O. What each means, and what to do, stands in docs/reference/alerts.md.

Every rule has thresholds as fields of its own, which the settings may change. State is bounded, and is built anew from the last
records at the start. Findings name people and machines as the records do, and never a patient.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import ClassVar, Protocol
from zoneinfo import ZoneInfo

from securepacs import codes
from securepacs.audit.alerts.facts import Fact
from securepacs.audit.sequences import Source, named

MAX_KEYS = 10_000  # people, addresses or studies that one rule remembers
MAX_ENTRIES = 10_000  # of one key

_FAILED = 4
_LOGIN, _EMERGENCY = codes.LOGIN.csd_code, codes.EMERGENCY_OVERRIDE_STARTED.csd_code
_UNKNOWN_ISSUER = ("unable to get local issuer", "unable to get issuer", "self-signed certificate", "self signed certificate")


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for an alert. `key` tells repeats from new ones; `records` are ids in the repository, the newest last."""

    kind: str
    at: datetime
    key: str
    text: str
    records: tuple[int, ...] = ()


class Rule(Protocol):
    """One rule; its fields are its thresholds."""

    kind: ClassVar[str]

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Take the next record."""
        ...

    def tick(self, at: datetime) -> Iterator[Finding]:
        """The time is `at`: find what did not come."""
        ...


class _Windows:
    """What happened lately, by key: (moment, item, record). Keys that were silent longest are forgotten first."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, deque[tuple[datetime, str, int]]] = OrderedDict()

    def add(self, key: str, item: str, fact: Fact, seconds: float) -> deque[tuple[datetime, str, int]]:
        """Return what is in the window of `key` after adding `item`."""
        window = self._by_key.setdefault(key, deque(maxlen=MAX_ENTRIES))
        self._by_key.move_to_end(key)
        if len(self._by_key) > MAX_KEYS:
            self._by_key.popitem(last=False)
        window.append((fact.at, item, fact.number))
        while window and window[0][0] <= fact.at - timedelta(seconds=seconds):
            window.popleft()
        return window

    def clear(self, key: str) -> None:
        """Begin anew: an alert was made of it."""
        self._by_key.pop(key, None)


def _numbers(window: deque[tuple[datetime, str, int]]) -> tuple[int, ...]:
    return tuple(number for _, _, number in window)[-20:]


class _Silent:
    """The half of a rule that finds nothing by the clock."""

    def tick(self, at: datetime) -> Iterator[Finding]:
        """Nothing."""
        yield from ()


@dataclass
class SourceSilent:
    """A source that used to report has been silent for too long. `sources` gives other times for some, by name."""

    kind: ClassVar[str] = "source-silent"
    seconds: float = 86_400
    sources: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last: OrderedDict[str, tuple[datetime, int]] = OrderedDict()
        self._told: set[str] = set()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """A source spoke. Workers of one gateway are one source."""
        name = fact.source.partition("/")[0]
        self._last[name] = (max(fact.at, self._last.get(name, (fact.at, 0))[0]), fact.number)
        self._last.move_to_end(name)
        if len(self._last) > MAX_KEYS:
            self._last.popitem(last=False)
        self._told.discard(name)
        yield from ()

    def tick(self, at: datetime) -> Iterator[Finding]:
        """Find who is silent; each once, until it speaks again."""
        for name, (last, number) in self._last.items():
            limit = timedelta(seconds=self.sources.get(name, self.seconds))
            if name not in self._told and at - last > limit:
                self._told.add(name)
                yield Finding(self.kind, at, name, f"{name} has sent nothing since {last:%Y-%m-%d %H:%M} UTC", (number,))


@dataclass
class SequenceGap:
    """A sender that counts its records skipped numbers, and they did not come within `seconds`."""

    kind: ClassVar[str] = "sequence-gap"
    seconds: float = 300

    def __post_init__(self) -> None:
        self._next: OrderedDict[Source, int] = OrderedDict()
        self._missing: dict[Source, dict[int, tuple[datetime, int]]] = {}

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Note which numbers are missing before this one; a first record begins wherever it is."""
        if fact.sequence is not None:
            source, number = fact.sequence
            following = self._next.get(source, number)
            missing = self._missing.setdefault(source, {})
            if number < following:
                missing.pop(number, None)
            else:
                missing.update(dict.fromkeys(range(max(following, number - MAX_ENTRIES), number), (fact.at, fact.number)))
                self._next[source] = number + 1
                self._next.move_to_end(source)
            if len(self._next) > MAX_KEYS:
                gone, _ = self._next.popitem(last=False)
                self._missing.pop(gone, None)
        yield from ()

    def tick(self, at: datetime) -> Iterator[Finding]:
        """Find the gaps that stayed."""
        for source, missing in self._missing.items():
            late = [number for number, (since, _) in missing.items() if at - since > timedelta(seconds=self.seconds)]
            if late:
                records = tuple(sorted({missing[number][1] for number in late}))[-20:]
                text = f"{len(late)} records of {named(source)} never arrived: {late[0]} to {late[-1]}"
                for number in late:
                    del missing[number]
                yield Finding(self.kind, at, named(source), text, records)


@dataclass
class BeginWithoutTransferred:
    """A transfer was begun and its end was never recorded."""

    kind: ClassVar[str] = "begin-without-transferred"
    seconds: float = 3600

    def __post_init__(self) -> None:
        self._begun: OrderedDict[tuple[str, str], Fact] = OrderedDict()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Remember beginnings, forget those that ended."""
        source = fact.source.partition("/")[0]
        for study in fact.studies:
            if fact.event == codes.BEGIN_TRANSFERRING_DICOM_INSTANCES.csd_code:
                self._begun.setdefault((source, study), fact)
                if len(self._begun) > MAX_KEYS:
                    self._begun.popitem(last=False)
            elif fact.event == codes.DICOM_INSTANCES_TRANSFERRED.csd_code:
                self._begun.pop((source, study), None)
        yield from ()

    def tick(self, at: datetime) -> Iterator[Finding]:
        """Find what was begun too long ago."""
        late = [key for key, fact in self._begun.items() if at - fact.at > timedelta(seconds=self.seconds)]
        for key in late:
            fact = self._begun.pop(key)
            text = f"{key[0]} recorded the beginning of a transfer by {fact.user} and never its end"
            yield Finding(self.kind, at, f"{key[0]} {fact.number}", text, (fact.number,))


@dataclass
class ManyRefusals(_Silent):
    """`count` failures or refusals of one user or address within `seconds`."""

    kind: ClassVar[str] = "many-refusals"
    count: int = 10
    seconds: float = 300

    def __post_init__(self) -> None:
        self._windows = _Windows()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Count what failed."""
        who = fact.user or fact.address
        if fact.outcome < _FAILED or not who:
            return
        window = self._windows.add(who, "", fact, self.seconds)
        if len(window) >= self.count:
            yield Finding(self.kind, fact.at, who, f"{len(window)} refusals or failures of {who}", _numbers(window))
            self._windows.clear(who)


@dataclass
class EmergencyStarted(_Silent):
    """Somebody started emergency access."""

    kind: ClassVar[str] = "emergency-started"

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Tell every start."""
        if _EMERGENCY in fact.types:
            yield Finding(self.kind, fact.at, f"{fact.user} {fact.number}", f"{fact.user} started emergency access", (fact.number,))


@dataclass
class UnknownIssuerStorm(_Silent):
    """`count` TLS handshakes with certificates of unknown issuers within `seconds`, from anywhere."""

    kind: ClassVar[str] = "unknown-issuer-storm"
    count: int = 20
    seconds: float = 600

    def __post_init__(self) -> None:
        self._windows = _Windows()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Count by the text of OpenSSL's verdict."""
        if codes.NODE_AUTHENTICATION.csd_code not in fact.types or not any(words in fact.text for words in _UNKNOWN_ISSUER):
            return
        window = self._windows.add("", fact.address, fact, self.seconds)
        if len(window) >= self.count:
            places = len({address for _, address, _ in window})
            text = f"{len(window)} certificates of unknown issuers from {places} addresses"
            yield Finding(self.kind, fact.at, "", text, _numbers(window))
            self._windows.clear("")


@dataclass
class PatientsPerHour(_Silent):
    """One person reached `count` different patients within an hour."""

    kind: ClassVar[str] = "patients-per-hour"
    count: int = 60
    except_users: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._windows = _Windows()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Count the patients of successful access."""
        if not fact.is_person or fact.outcome >= _FAILED or fact.user in self.except_users:
            return
        for patient in fact.patients:
            window = self._windows.add(fact.user, patient, fact, 3600)
            if len({one for _, one, _ in window}) >= self.count:
                text = f"{fact.user} reached {self.count} patients within an hour"
                yield Finding(self.kind, fact.at, fact.user, text, _numbers(window))
                self._windows.clear(fact.user)
                return


@dataclass
class WildcardEnumeration(_Silent):
    """One user asked `count` queries that restrict nothing, or only by one or two letters, within `seconds`."""

    kind: ClassVar[str] = "wildcard-enumeration"
    count: int = 10
    seconds: float = 600
    except_users: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._windows = _Windows()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Count enumerating queries."""
        if not fact.enumerates or not fact.user or fact.user in self.except_users:
            return
        window = self._windows.add(fact.user, "", fact, self.seconds)
        if len(window) >= self.count:
            text = f"{fact.user} asked {len(window)} queries for everything"
            yield Finding(self.kind, fact.at, fact.user, text, _numbers(window))
            self._windows.clear(fact.user)


@dataclass
class OneCardTwoAddresses(_Silent):
    """One person logged in from two addresses within `seconds`, as one source saw it."""

    kind: ClassVar[str] = "one-card-two-addresses"
    seconds: float = 1800

    def __post_init__(self) -> None:
        self._windows = _Windows()

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Compare the addresses of logins."""
        if _LOGIN not in fact.types or fact.outcome >= _FAILED or not (fact.user and fact.address):
            return
        key = f"{fact.source.partition('/')[0]} {fact.user}"
        window = self._windows.add(key, fact.address, fact, self.seconds)
        addresses = sorted({address for _, address, _ in window})
        if len(addresses) > 1:
            text = f"{fact.user} logged in from {' and '.join(addresses[:4])}"
            yield Finding(self.kind, fact.at, key, text, _numbers(window))
            self._windows.clear(key)


@dataclass
class BulkExportAtNight(_Silent):
    """`count` different studies left for one user within an hour of the night, `begin` to `end` in `timezone`."""

    kind: ClassVar[str] = "bulk-export-at-night"
    count: int = 20
    begin: str = "22:00"
    end: str = "06:00"
    timezone: str = "UTC"
    except_users: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._windows = _Windows()
        self._zone = ZoneInfo(self.timezone)
        self._from, self._until = time.fromisoformat(self.begin), time.fromisoformat(self.end)

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Count exports of anybody, and transfers to people."""
        export = fact.event == codes.EXPORT.csd_code
        transfer = fact.event == codes.DICOM_INSTANCES_TRANSFERRED.csd_code and fact.is_person
        if not (export or transfer) or fact.outcome >= _FAILED or fact.user in self.except_users or not self._is_night(fact.at):
            return
        for study in fact.studies:
            window = self._windows.add(fact.user, study, fact, 3600)
            if len({one for _, one, _ in window}) >= self.count:
                text = f"{self.count} studies left for {fact.user} within an hour of the night"
                yield Finding(self.kind, fact.at, fact.user, text, _numbers(window))
                self._windows.clear(fact.user)
                return

    def _is_night(self, at: datetime) -> bool:
        now = at.astimezone(self._zone).time()
        return self._from <= now < self._until if self._from < self._until else now >= self._from or now < self._until


@dataclass
class ClockOff(_Silent):
    """The clock of a source is not synchronized, or a second off."""

    kind: ClassVar[str] = "clock-off"

    def see(self, fact: Fact) -> Iterator[Finding]:
        """Tell what a source says of its clock."""
        if codes.NETWORK_CONFIGURATION.csd_code in fact.types and fact.outcome >= _FAILED and "clock" in fact.text:
            name = fact.source.partition("/")[0]
            yield Finding(self.kind, fact.at, name, f"{name}: {fact.text.strip()[:200]}", (fact.number,))


RULES: dict[str, type[Rule]] = {
    rule.kind: rule
    for rule in (
        SourceSilent, SequenceGap, BeginWithoutTransferred, ManyRefusals, EmergencyStarted, UnknownIssuerStorm, PatientsPerHour,
        WildcardEnumeration, OneCardTwoAddresses, BulkExportAtNight, ClockOff,
    )
}  # fmt: skip
