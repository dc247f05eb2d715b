"""Attacks on a log of 10,000 entries, each found by the offline verifier; and every byte of a small export, flipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from securepacs.audit.checkpoint import parse_checkpoint
from securepacs.audit.evidence import Content, Scope, content_path, decode_content, encode_content
from securepacs.audit.log_entry import commitment
from securepacs.audit.merkle import leaf_hash
from securepacs.audit.repository import Receipt
from securepacs.audit.tiles import WIDTH, GrowingTree, bundle_path, bundles_of, decode_bundle, encode_bundle, tile_path, tiles_of
from tests.support.audit_log import BEGIN, SignedLog, codes, receipts

COUNT = 10_000
VICTIM = 4321


class Forger:
    """Someone with the whole export in hand who writes it anew, with or without the signing key."""

    def __init__(self, folder: Path, size: int = COUNT) -> None:
        self.folder = folder
        self.entries = [
            entry
            for number, width in bundles_of(size)
            for entry in decode_bundle((folder / bundle_path(number, width)).read_bytes(), width)
        ]
        self.contents = {
            number * WIDTH + each.place: each
            for number, _ in bundles_of(size)
            for each in decode_content((folder / content_path(number)).read_bytes())
        }

    def replace(self, index: int, raw: bytes) -> None:
        """Put other octets in the place of an entry's, with a commitment that fits them."""
        salt = self.contents[index].salt
        before, after = commitment(salt, self.contents[index].raw), commitment(salt, raw)
        entry = self.entries[index].replace(before.encode(), after.encode())
        self.entries[index] = entry.replace(b"length %d\n" % len(self.contents[index].raw), b"length %d\n" % len(raw))
        self.contents[index] = Content(self.contents[index].place, salt, raw)

    def renumber(self, kept: list[int]) -> None:
        """Let the entries `kept` (old indexes, in their new order) be the log, and number them again."""
        self.entries = [self.entries[old].replace(b"\nindex %d\n" % old, b"\nindex %d\n" % new) for new, old in enumerate(kept)]
        self.contents = {new: self.contents[old] for new, old in enumerate(kept)}

    def write(self, log: SignedLog | None = None) -> Path:
        """Write everything that can be written: tiles, bundles, octets; the checkpoints as well when there is a key."""
        size, tree, roots = len(self.entries), GrowingTree(), dict[int, bytes]()
        sizes = {int(path.name) for path in (self.folder / "checkpoints").iterdir()}
        shutil.rmtree(self.folder / "tile")
        shutil.rmtree(self.folder / "content")
        hashes: dict[tuple[int, int], bytes] = {}
        for number, entry in enumerate(self.entries, 1):
            tree.append(leaf_hash(entry))
            hashes.update({(level, tile): octets for level, tile, octets in tree.filled})
            tree.filled.clear()
            if number in sizes or number == size:
                roots[number] = tree.root()
        for level, number, width in tiles_of(size):
            self._put(tile_path(level, number, width), hashes.get((level, number)) or tree.partial(level))
        for number, width in bundles_of(size):
            first = number * WIDTH
            self._put(bundle_path(number, width), encode_bundle(self.entries[first : first + width]))
            kept = [self.contents[index] for index in range(first, first + width) if index in self.contents]
            places = [index - first for index in range(first, first + width) if index in self.contents]
            self._put(content_path(number), encode_content(
                Content(place, each.salt, each.raw) for place, each in zip(places, kept, strict=True)
            ))  # fmt: skip
        if log is not None:
            for each in sizes:
                (self.folder / "checkpoints" / str(each)).unlink()
                if each in roots:
                    self._put(f"checkpoints/{each}", log.key.sign(each, roots[each]).note.encode())
            newest = log.key.sign(size, roots[size]).note.encode()
            self._put(f"checkpoints/{size}", newest)
            self._put("checkpoint", newest)
            self._put("scope", Scope(size, None).text().encode())
        return self.folder

    def _put(self, name: str, octets: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedLog]:
    made = SignedLog(tmp_path_factory.mktemp("log"), COUNT, every=2500)
    yield made
    made.repository.close()


@pytest.fixture(scope="module")
def export(log: SignedLog) -> Path:
    return log.export()


@pytest.fixture
def forger(log: SignedLog, export: Path) -> Forger:
    return Forger(log.copy(export, "forged"))


def test_an_honest_log_is_sound(log: SignedLog, export: Path) -> None:
    report = log.verify(export, *log.notes)
    assert (report.problems, report.sound, report.anchored) == ([], True, True)
    assert (report.size, report.verified, report.checkpoints) == (COUNT, COUNT, 4)


def test_a_forger_who_changes_nothing_writes_the_same(log: SignedLog, forger: Forger) -> None:
    assert log.verify(forger.write()).sound
    assert log.verify(forger.write(log), *log.notes).sound


# --- without the signing key ------------------------------------------------------------------------------------------
def test_an_edited_record(log: SignedLog, export: Path) -> None:
    folder = log.copy(export, "edited")
    path = folder / content_path(VICTIM // WIDTH)
    path.write_bytes(path.read_bytes().replace(b"lee@hospital.example", b"kim@hospital.example", 1))
    assert codes(log.verify(folder)) == {"altered"}


def test_an_edited_record_with_a_commitment_that_fits(log: SignedLog, forger: Forger) -> None:
    forger.replace(VICTIM, b"nothing happened")
    assert codes(log.verify(forger.write())) == {"root"}


def test_a_deleted_record(log: SignedLog, forger: Forger) -> None:
    del forger.contents[VICTIM]
    report = log.verify(forger.write())
    assert [(each.code, each.index) for each in report.problems] == [("missing", VICTIM)]


def test_a_deleted_entry(log: SignedLog, forger: Forger) -> None:
    forger.renumber([number for number in range(COUNT) if number != VICTIM])
    assert "entries-missing" in codes(log.verify(forger.write()))


def test_an_inserted_entry(log: SignedLog, forger: Forger) -> None:
    forger.renumber([*range(VICTIM), VICTIM, *range(VICTIM, COUNT)])
    assert "entries-missing" in codes(log.verify(forger.write()))


def test_an_inserted_entry_in_the_place_of_another(log: SignedLog, forger: Forger) -> None:
    forger.renumber([*range(VICTIM), VICTIM, *range(VICTIM, COUNT - 1)])
    assert codes(log.verify(forger.write())) == {"root"}


def test_two_entries_that_change_places(log: SignedLog, forger: Forger) -> None:
    forger.renumber([*range(VICTIM), VICTIM + 1, VICTIM, *range(VICTIM + 2, COUNT)])
    assert codes(log.verify(forger.write())) == {"root", "time-backwards"}


def test_the_log_rolled_back_to_each_old_checkpoint(log: SignedLog, forger: Forger) -> None:
    """A truncation that shows only old, truly signed checkpoints is found by whoever kept a newer one."""
    newest = log.notes[-1]
    for note in log.notes[:-1]:
        size = parse_checkpoint(note).size
        forger.entries, forger.contents = forger.entries[:], forger.contents
        cut = Forger(log.copy(forger.folder, "cut"))
        cut.entries = cut.entries[:size]
        cut.contents = {index: each for index, each in cut.contents.items() if index < size}
        folder = cut.write()
        for path in (folder / "checkpoints").iterdir():
            if int(path.name) > size:
                path.unlink()
        (folder / "checkpoint").write_text(note, encoding="utf-8")
        (folder / "scope").write_text(Scope(size, None).text())
        assert log.verify(folder).sound
        assert codes(log.verify(folder, newest)) == {"truncated"}


def test_a_log_of_another_key(log: SignedLog, tmp_path: Path) -> None:
    other = SignedLog(tmp_path, 300, every=300)
    assert codes(log.verify(other.export())) == {"checkpoint"}
    other.repository.close()


# --- with the signing key: what an anchor outside is for --------------------------------------------------------------
def test_truncate_and_continue(log: SignedLog, forger: Forger) -> None:
    forger.renumber([*range(9000), *([8999] * 1000)])
    folder = forger.write(log)
    assert log.verify(folder).sound  # nothing inside the folder can tell
    assert codes(log.verify(folder, log.notes[-1])) == {"root"}


def test_everything_written_anew_with_the_signing_key(log: SignedLog, forger: Forger) -> None:
    forger.replace(VICTIM, b"nothing happened")
    folder = forger.write(log)
    assert log.verify(folder).sound
    for note in log.notes:
        found = codes(log.verify(folder, note))
        assert found == ({"root"} if parse_checkpoint(note).size > VICTIM else set())


def test_two_logs_shown_to_two_auditors(log: SignedLog, export: Path, forger: Forger) -> None:
    forger.replace(COUNT - 1, b"only for you")
    folder = forger.write(log)
    shown_to_b = (folder / "checkpoint").read_text(encoding="utf-8")
    assert codes(log.verify(export, shown_to_b)) == {"root"}
    assert codes(log.verify(folder, log.notes[-1])) == {"root"}


def test_the_signer_itself_refuses_a_log_that_was_changed(log: SignedLog, tmp_path: Path) -> None:
    """Whoever can write the database but not the signer's own state gets no signature."""
    from securepacs.audit.repository.signer import LogSigner
    from securepacs.errors import IntegrityFailure

    other = SignedLog(tmp_path, 0, every=1, key=log.key_file)
    other.repository.store(receipts(COUNT - 1))
    shutil.copy(log.folder / "last", tmp_path / "state")
    signer = LogSigner.load(log.key_file, origin=log.key.public.name, state=tmp_path / "state")
    with pytest.raises(IntegrityFailure, match="missing"):
        other.repository.checkpoint(signer, at=BEGIN)
    other.repository.store(receipts(2, first=COUNT - 1))
    with pytest.raises(IntegrityFailure, match="not those that were signed"):
        other.repository.checkpoint(signer, at=BEGIN)
    other.repository.close()


def test_records_that_were_dropped_before_they_arrived(tmp_path: Path) -> None:
    def counted(number: int) -> bytes:
        return b'<85>1 - h gw 7 IHE+RFC-3881 [meta sequenceId="%d"] x' % (number + 1)

    log = SignedLog(tmp_path, 0, every=1)
    everything = receipts(1000, raw=counted)
    log.repository.store([*everything[:400], everything[405], *everything[400:405], *everything[406:700], *everything[703:]])
    log.repository.store([everything[10]])
    log.sign(BEGIN)
    report = log.verify(log.export())
    assert [(each.code, each.detail) for each in report.problems] == [
        ("sequence-gap", f"record {number} of h gw 7 never arrived") for number in (701, 702, 703)
    ]
    log.repository.close()


# --- every byte -------------------------------------------------------------------------------------------------------
def test_every_flipped_byte_of_a_small_export_is_noticed(tmp_path: Path) -> None:
    log = SignedLog(tmp_path, 3, every=2)
    log.repository.store([Receipt.of(b"short", received=BEGIN + timedelta(seconds=9), transport="test")])
    log.sign(BEGIN)
    folder = log.export()
    log.repository.close()
    assert log.verify(folder).sound
    flipped = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        octets = path.read_bytes()
        for at in range(len(octets)):
            changed = bytearray(octets)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            assert not log.verify(folder).sound, (path.name, at)
            flipped += 1
        path.write_bytes(octets)
    assert flipped > 5000


def test_every_file_that_is_missing_or_too_much_is_noticed(tmp_path: Path) -> None:
    log = SignedLog(tmp_path, 600, every=300)
    folder = log.export()
    log.repository.close()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.parent.name == "checkpoints":
            continue  # fewer checkpoints are fewer promises; a kept one is what counts
        octets = path.read_bytes()
        path.unlink()
        assert not log.verify(folder).sound, path.name
        path.write_bytes(octets)
    (folder / "tile" / "more").write_bytes(b"")
    assert codes(log.verify(folder)) == {"unexpected-file"}
