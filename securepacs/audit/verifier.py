"""The offline verifier of exported audit logs: no network, no database, memory that does not grow with the log.

What it does, in order:
1. signatures of the newest and of every earlier checkpoint, and of those the auditor brought;
2. the tree recomputed from the entries, compared with every tile and every checkpoint (one history, no fork, no truncation);
3. each entry in its place, recorded time never backwards, nothing recorded before a time stamp that precedes it;
4. octets against their commitments; octets that are gone need an entry that says they were lawfully erased;
5. time stamps (RFC 3161) over checkpoints;
6. numbers of senders that count their records (RFC 5424 7.3.1): what never arrived.

What no verifier can tell from the folder alone: that the whole log was not written anew with the signing key. That needs an
anchor: a checkpoint the auditor or a witness kept, or a time stamp. `AuditReport.anchored` says whether there was one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from securepacs.audit.checkpoint import Checkpoint, LogPublicKey
from securepacs.audit.evidence import Content, Scope, content_path, decode_content
from securepacs.audit.log_entry import LogEntry, commitment, decode_entry
from securepacs.audit.merkle import leaf_hash
from securepacs.audit.sequences import Sequences
from securepacs.audit.tiles import WIDTH, GrowingTree, bundle_path, bundles_of, decode_bundle, partial_widths, tile_path
from securepacs.errors import MalformedError, SecurePacsError, UsageError

if TYPE_CHECKING:
    from securepacs.trust import TrustPolicy

MAX_PROBLEMS = 1000
MAX_FILE = 1 << 30
CLOCK_TOLERANCE = timedelta(minutes=5)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be: a stable `code`, the entry it concerns when there is one, and `detail` for people."""

    code: str
    detail: str
    index: int | None = None


@dataclass(slots=True)
class AuditReport:
    """What was found. `verified` counts entries whose octets were compared, `withheld` those the export leaves out on purpose."""

    origin: str = ""
    size: int = 0
    root: bytes = b""
    verified: int = 0
    erased: int = 0
    withheld: int = 0
    checkpoints: int = 0
    anchors: list[str] = field(default_factory=list)
    erasures: list[LogEntry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    @property
    def anchored(self) -> bool:
        """True when something outside the folder speaks for this log."""
        return bool(self.anchors)

    @property
    def sound(self) -> bool:
        """True when nothing is wrong; look at `anchored` too."""
        return self.problem_count == 0

    def __bool__(self) -> NoReturn:
        raise TypeError("a report is no truth value: look at .sound and .anchored")

    def add(self, code: str, detail: str, index: int | None = None) -> None:
        """Keep a problem; beyond MAX_PROBLEMS they are only counted."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, detail, index))


def verify_export(
    folder: Path,
    key: LogPublicKey,
    *,
    previous: Sequence[str] = (),
    stamp_policy: TrustPolicy | None = None,
    at: datetime | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Verify an export. `previous` are signed notes that were kept elsewhere; `stamp_policy` is whom to trust for time stamps.

    Never raises for what is in the folder: everything wrong is in the report. Raises UsageError when it is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    return _Verifier(folder, key, at or datetime.now(UTC), progress or (lambda _done, _all: None)).run(previous, stamp_policy)


class _Verifier:
    def __init__(self, folder: Path, key: LogPublicKey, at: datetime, progress: Progress) -> None:
        self._folder = folder
        self._key = key
        self._at = at
        self._progress = progress
        self._report = AuditReport(origin=key.name)
        self._expected: set[str] = {"scope", "checkpoint"}
        self._wanted: dict[int, list[tuple[str, Checkpoint]]] = {}
        self._not_before: dict[int, str] = {}  # entries from this index on were recorded after this moment
        self._moment = ""
        self._floor = ""
        self._missing: list[range] = []
        self._present_erased: list[range] = []
        self._erased: list[range] = []
        self._sequences = Sequences()

    def run(self, previous: Sequence[str], policy: TrustPolicy | None) -> AuditReport:
        report = self._report
        try:
            newest = self._key.verify(self._text("checkpoint"))
            scope = Scope.parse(self._text("scope"))
        except SecurePacsError as error:
            report.add("checkpoint", str(error))
            return report
        report.size, report.root = newest.size, newest.root
        if scope.size != newest.size:
            report.add("scope", "the export is not of the size its checkpoint says")
            return report
        self._want("checkpoint", newest)
        self._earlier_checkpoints()
        self._brought(previous)
        self._stamps(policy)
        self._walk(scope)
        self._unexpected_files()
        return report

    # --- 1, 5: signatures and time stamps ----------------------------------------------------------------------------
    def _want(self, name: str, checkpoint: Checkpoint) -> None:
        if checkpoint.size > self._report.size:
            self._report.add("truncated", f"{name} is of {checkpoint.size} entries, the log ends at {self._report.size}")
        else:
            self._wanted.setdefault(checkpoint.size, []).append((name, checkpoint))

    def _earlier_checkpoints(self) -> None:
        for path in _numbered_files(self._folder / "checkpoints"):
            name = f"checkpoints/{path.name}"
            self._expected.add(name)
            try:
                checkpoint = self._key.verify(self._text(name))
            except SecurePacsError as error:
                self._report.add("checkpoint", f"{name}: {error}")
                continue
            if path.name != str(checkpoint.size):
                self._report.add("checkpoint", f"{name} is of {checkpoint.size} entries")
            self._report.checkpoints += 1
            self._want(name, checkpoint)

    def _brought(self, previous: Sequence[str]) -> None:
        for number, note in enumerate(previous, 1):
            name = f"kept checkpoint {number}"
            try:
                checkpoint = self._key.verify(note)
            except SecurePacsError as error:
                self._report.add("kept-checkpoint", f"{name}: {error}")
                continue
            self._want(name, checkpoint)
            self._report.anchors.append(f"{name}: {checkpoint.size} entries")

    def _stamps(self, policy: TrustPolicy | None) -> None:
        for path in _numbered_files(self._folder / "stamps"):
            name = f"stamps/{path.name}"
            self._expected.add(name)
            size = int(path.name.partition(".")[0])
            if policy is None:
                continue
            from securepacs.trust.timestamp import verify_timestamp

            try:
                note = self._octets(f"checkpoints/{size}")
                result = verify_timestamp(self._octets(name), note, policy=policy, at=self._at)
            except SecurePacsError as error:
                self._report.add("time-stamp", f"{name}: {error}")
                continue
            self._report.anchors.append(f"time stamp {result.gen_time:%Y-%m-%dT%H:%M:%SZ}: {size} entries")
            floor = (result.gen_time - CLOCK_TOLERANCE).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            self._not_before[size] = max(floor, self._not_before.get(size, ""))

    # --- 2, 3, 4: the log --------------------------------------------------------------------------------------------
    def _walk(self, scope: Scope) -> None:
        tree, size = GrowingTree(), self._report.size
        self._compare_roots(tree)
        for number, width in bundles_of(size):
            first = number * WIDTH
            entries = self._entries(number, width)
            if entries is None:
                self._report.add(
                    "entries-missing", f"entries {first} to {first + width - 1} cannot be read; what follows them cannot be"
                )
                return
            contents = self._contents(number)
            leaves = bytearray()
            for place, octets in enumerate(entries):
                leaf = leaf_hash(octets)
                leaves += leaf
                tree.append(leaf)
                self._entry(first + place, octets, contents.pop(place, None), scope)
                if tree.size in self._wanted:
                    self._compare_roots(tree)
            for place in contents:
                self._report.add("content", "octets without an entry", first + place)
            self._compare_tiles(tree, bytes(leaves), number, width)
            self._progress(first + width, size)
        for level, width in enumerate(partial_widths(size)):
            if level and width:
                self._compare_tile(level, (size >> 8 * level) // WIDTH, width, tree.partial(level))
        self._erasures()
        self._gaps(scope)

    def _entries(self, number: int, width: int) -> list[bytes] | None:
        name = bundle_path(number, width)
        self._expected.add(name)
        try:
            return decode_bundle(self._octets(name), width)
        except SecurePacsError as error:
            self._report.add("entries", f"{name}: {error}")
            return None

    def _contents(self, number: int) -> dict[int, Content]:
        name = content_path(number)
        self._expected.add(name)
        if not (self._folder / name).exists():
            return {}
        try:
            return {each.place: each for each in decode_content(self._octets(name))}
        except SecurePacsError as error:
            self._report.add("content", f"{name}: {error}")
            return {}

    def _entry(self, index: int, octets: bytes, content: Content | None, scope: Scope) -> None:
        report = self._report
        self._floor = max(self._floor, self._not_before.get(index, ""))
        try:
            entry = decode_entry(octets)
        except MalformedError as error:
            report.add("entry", str(error), index)
            return
        if entry.index != index:
            report.add("entry-moved", f"the entry says it is number {entry.index}", index)
        if entry.received < self._moment:
            report.add("time-backwards", "recorded before the entry that precedes it", index)
        if entry.received < self._floor:
            report.add("back-dated", "recorded before a time stamp over earlier entries", index)
        self._moment = max(self._moment, entry.received)
        if (entry.repeats is not None and entry.repeats >= index) or any(each.stop > index for each in entry.erases):
            report.add("entry", "refers to an entry that comes later", index)
        if entry.erases:
            self._erased.extend(entry.erases)
            if len(report.erasures) < MAX_PROBLEMS:
                report.erasures.append(entry)
        self._content(entry, index, content, scope)

    def _content(self, entry: LogEntry, index: int, content: Content | None, scope: Scope) -> None:
        wanted = scope.content is None or _within(scope.content, index)
        if content is None:
            if wanted:
                _extend(self._missing, index)
            else:
                self._report.withheld += 1
            return
        if not wanted:
            self._report.add("content", "octets the scope of the export does not name", index)
        if commitment(content.salt, content.raw) != entry.commitment:
            self._report.add("altered", "the octets are not those that were received", index)
        elif not entry.truncated and entry.length != len(content.raw):
            self._report.add("entry", "its length is not that of its octets", index)
        else:
            self._report.verified += 1
            _extend(self._present_erased, index)
            self._sequences.see(index, entry.peer_sha256, content.raw)

    def _compare_roots(self, tree: GrowingTree) -> None:
        for name, checkpoint in self._wanted.get(tree.size, ()):
            if tree.root() != checkpoint.root:
                self._report.add("root", f"the first {tree.size} entries are not those {name} was signed over")

    def _compare_tiles(self, tree: GrowingTree, leaves: bytes, number: int, width: int) -> None:
        self._compare_tile(0, number, width, leaves)
        for level, tile, hashes in tree.filled:
            if level:
                self._compare_tile(level, tile, WIDTH, hashes)
        tree.filled.clear()

    def _compare_tile(self, level: int, number: int, width: int, hashes: bytes) -> None:
        name = tile_path(level, number, width)
        self._expected.add(name)
        try:
            same = self._octets(name) == hashes
        except MalformedError as error:
            self._report.add("tile", f"{name}: {error}")
            return
        if not same:
            self._report.add("tile", f"{name} does not hold the hashes of the entries")

    def _erasures(self) -> None:
        """Compare what is gone with what entries say was erased."""
        erased = _merged(self._erased)
        for each in self._missing:
            for index in each:
                if _within(erased, index):
                    self._report.erased += 1
                else:
                    self._report.add("missing", "its octets are gone, and no entry says they were lawfully erased", index)
        for each in erased:
            for index in each:
                if _within(self._present_erased, index):
                    self._report.add("not-erased", "an entry says its octets were erased, and they are here", index)

    def _gaps(self, scope: Scope) -> None:
        """Look for numbers that never came; octets that are withheld or erased leave no trace of theirs."""
        if scope.content is not None or self._report.erased:
            return
        for index, detail in self._sequences.gaps():
            self._report.add("sequence-gap", detail, index)

    # --- files -------------------------------------------------------------------------------------------------------
    def _octets(self, name: str) -> bytes:
        path = self._folder / name
        try:
            if path.stat().st_size > MAX_FILE:
                raise MalformedError("the file is larger than any of an export")
            return path.read_bytes()
        except OSError as error:
            raise MalformedError(f"the file cannot be read: {error.strerror}") from None

    def _text(self, name: str) -> str:
        try:
            return self._octets(name).decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError(f"{name} is no text") from None

    def _unexpected_files(self) -> None:
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if not path.is_dir() and name not in self._expected:
                self._report.add("unexpected-file", f"{name} does not belong to the export")


def _numbered_files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(
            (path for path in folder.iterdir() if path.name.partition(".")[0].isdecimal()),
            key=lambda path: (int(path.name.partition(".")[0]), path.name),
        )


def _extend(ranges: list[range], index: int) -> None:
    """Add the next higher index to a list of ranges."""
    if ranges and ranges[-1].stop == index:
        ranges[-1] = range(ranges[-1].start, index + 1)
    else:
        ranges.append(range(index, index + 1))


def _merged(ranges: Iterable[range]) -> list[range]:
    merged: list[range] = []
    for each in sorted(ranges, key=lambda one: one.start):
        if merged and each.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, each.stop))
        else:
            merged.append(each)
    return merged


def _within(ranges: Sequence[range], index: int) -> bool:
    place = bisect_right(ranges, index, key=lambda each: each.start)
    return place > 0 and index in ranges[place - 1]
