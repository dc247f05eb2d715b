"""The spool: what was acknowledged is there, in order, whatever happens; nothing is dropped silently."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.segments import (
    MAX_RECORD,
    SEGMENT_HEADER,
    Cursor,
    SpoolReader,
    encode_record,
    read_spool,
    segment_path,
    segments,
)
from securepacs.audit.spool import AlarmKind, Spool, SpoolAlarm
from securepacs.errors import ConfigError, Unavailable, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]


def sequences(folder: Path) -> list[int]:
    found: list[int] = []
    reader = SpoolReader(folder)
    while records := reader.read():
        found += [record.sequence for record in records]
    reader.close()
    return found


STEPS = st.lists(st.one_of(st.binary(max_size=300), st.just("reopen"), st.just("torn")), max_size=40)


@given(steps=STEPS, segment=st.sampled_from([1024, 2048, 65_536]))
def test_any_appends_rotations_and_reopens_give_the_same_records_in_order(steps: list[bytes | str], segment: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = Path(name), list[bytes]()
        options: dict[str, Any] = {"segment_bytes": segment, "quota_bytes": 1_000_000}
        spool = Spool.open(folder, **options)
        for step in steps:
            if isinstance(step, bytes):
                assert spool.append(step) == len(written) + 1
                written.append(step)
                continue
            spool.close()
            if step == "torn" and segments(folder):
                with segment_path(folder, segments(folder)[-1]).open("ab") as file:
                    file.write(encode_record(len(written) + 1, b"never acknowledged")[:-1])
            spool = Spool.open(folder, **options)
        spool.close()
        assert list(read_spool(folder)) == written


def test_eight_callers_lose_nothing_and_keep_their_own_order(tmp_path: Path) -> None:
    with Spool.open(tmp_path, segment_bytes=4096, quota_bytes=10_000_000) as spool:
        numbers: dict[bytes, int] = {}

        def run(caller: int) -> None:
            for step in range(200):
                record = b"%d/%04d" % (caller, step)
                numbers[record] = spool.append(record)

        threads = [threading.Thread(target=run, args=(caller,)) for caller in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = list(read_spool(tmp_path))
    assert sorted(found) == sorted(numbers)
    assert sorted(numbers.values()) == list(range(1, 1601))
    assert found == sorted(numbers, key=numbers.__getitem__)
    for caller in range(8):
        own = [record for record in found if record.startswith(b"%d/" % caller)]
        assert own == sorted(own)


def test_submit_tells_when_the_record_is_durable(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        outcomes: list[tuple[BaseException | None, list[bytes]]] = []
        done = threading.Event()

        def on_durable(error: BaseException | None) -> None:
            outcomes.append((error, list(read_spool(tmp_path))))
            done.set()

        spool.submit(b"one", on_durable)
        assert done.wait(10)
        assert outcomes == [(None, [b"one"])]


WRITER = """
import sys, threading
from securepacs.audit.spool import Spool
spool = Spool.open(sys.argv[1], segment_bytes=4096, quota_bytes=100_000_000)
lock = threading.Lock()
def run(caller):
    step = 0
    while True:
        record = b"%s/%d/%06d" % (sys.argv[2].encode(), caller, step) + b"." * (step % 700)
        number = spool.append(record)
        with lock:
            sys.stdout.write(f"{number} {record[:30].rstrip(b'.').decode()}\\n")
            sys.stdout.flush()
        step += 1
threads = [threading.Thread(target=run, args=(caller,), daemon=True) for caller in range(4)]
for thread in threads: thread.start()
threads[0].join()
"""


def test_kill_9_at_random_instants_loses_no_acknowledged_record(tmp_path: Path) -> None:
    acknowledged: dict[int, str] = {}
    chance = random.Random(20)
    for life in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        wanted = chance.randrange(1, 400)
        while len(lines) < wanted:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait(timeout=30)
        process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                number, record = line.split()
                assert int(number) not in acknowledged
                acknowledged[int(number)] = record
    with Spool.open(tmp_path, segment_bytes=4096, quota_bytes=100_000_000) as spool:
        reader = spool.reader()
        found: dict[int, str] = {}
        while records := reader.read():
            for record in records:
                assert record.sequence not in found
                found[record.sequence] = record.data[:30].rstrip(b".").decode()
        reader.close()
    assert {number: found.get(number) for number in acknowledged} == acknowledged
    assert len(acknowledged) > 1000
    assert list(found) == sorted(found)


def test_one_folder_has_one_writer(tmp_path: Path) -> None:
    with Spool.open(tmp_path), pytest.raises(Unavailable, match="another process"):
        Spool.open(tmp_path)
    Spool.open(tmp_path).close()


def test_a_second_close_does_nothing_and_a_late_append_is_refused(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    spool.close()
    spool.close()
    with pytest.raises(Unavailable):
        spool.append(b"x")


def test_a_torn_tail_is_cut_and_kept_aside(tmp_path: Path) -> None:
    alarms: list[SpoolAlarm] = []
    with Spool.open(tmp_path) as spool:
        spool.append(b"one")
    torn = encode_record(2, b"two")[:-1]
    with segment_path(tmp_path, 1).open("ab") as file:
        file.write(torn)
    with Spool.open(tmp_path, on_alarm=alarms.append) as spool:
        assert spool.append(b"three") == 2
    assert list(read_spool(tmp_path)) == [b"one", b"three"]
    assert [path.read_bytes() for path in tmp_path.glob("*.torn")] == [torn]
    assert [alarm.kind for alarm in alarms] == [AlarmKind.DAMAGED]


@pytest.mark.parametrize("size", range(SEGMENT_HEADER.size))
def test_a_segment_without_its_header_is_begun_anew(tmp_path: Path, size: int) -> None:
    with Spool.open(tmp_path) as spool:
        spool.append(b"one")
    segment_path(tmp_path, 2).write_bytes(b"x" * size)
    with Spool.open(tmp_path) as spool:
        assert spool.append(b"two") == 2
    assert list(read_spool(tmp_path)) == [b"one", b"two"]


def test_numbers_a_destination_has_seen_are_not_used_again(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.append(b"one")
    Cursor(tmp_path, "arr").save(41)  # a power cut took records that were read before they were synced
    with Spool.open(tmp_path) as spool:
        assert spool.append(b"two") == 42
    with Spool.open(tmp_path) as spool:
        assert spool.append(b"three") == 43
    assert sequences(tmp_path) == [1, 42, 43]


def fill(spool: Spool, size: int = 1000, *, reserved: bool = False) -> int:
    count = 0
    while True:
        try:
            spool.append(b"x" * size, reserved=reserved)
        except Unavailable:
            return count
        count += 1


def test_a_full_spool_alarms_and_refuses_and_keeps_all(tmp_path: Path) -> None:
    alarms: list[SpoolAlarm] = []
    with Spool.open(tmp_path, quota_bytes=100_000, segment_bytes=10_000, on_alarm=alarms.append) as spool:
        count = fill(spool)
        assert 85 <= count <= 95
        with pytest.raises(Unavailable, match="full"):
            spool.append(b"x" * 1000)
        assert spool.used_fraction <= 0.95
        assert fill(spool, reserved=True) >= 3
        assert spool.used_bytes <= 100_000
    assert [alarm.percent for alarm in alarms] == [80, 90, 100]
    assert {alarm.kind for alarm in alarms} == {AlarmKind.FILLING}
    assert len(list(read_spool(tmp_path))) >= count + 3


def test_segments_all_destinations_have_passed_make_room(tmp_path: Path) -> None:
    alarms: list[SpoolAlarm] = []
    options: dict[str, Any] = {"quota_bytes": 100_000, "segment_bytes": 10_000, "destinations": ("a", "b")}
    with Spool.open(tmp_path, on_alarm=alarms.append, **options) as spool:
        count = fill(spool)
        Cursor(tmp_path, "a").save(count)
        assert fill(spool) == 0
        Cursor(tmp_path, "b").save(count // 2)
        more = fill(spool)
        assert count // 2 - 10 <= more <= count // 2
        assert sequences(tmp_path)[-1] >= count + more
        assert set(sequences(tmp_path)) >= set(range(count // 2 + 1, count + 1))
        for name in "ab":
            Cursor(tmp_path, name).save(sequences(tmp_path)[-1])
        assert fill(spool) >= count - 20
    assert [alarm.percent for alarm in alarms].count(100) >= 1


def test_without_destinations_nothing_ever_goes(tmp_path: Path) -> None:
    with Spool.open(tmp_path, quota_bytes=100_000, segment_bytes=10_000) as spool:
        count = fill(spool)
        Cursor(tmp_path, "somebody").save(count)
        assert fill(spool) == 0


def test_a_damaged_segment_is_set_aside_not_removed(tmp_path: Path) -> None:
    alarms: list[SpoolAlarm] = []
    with Spool.open(
        tmp_path, quota_bytes=100_000, segment_bytes=10_000, destinations=["a"], on_alarm=alarms.append
    ) as spool:  # fmt: skip
        for _ in range(30):
            spool.append(b"x" * 1000)
        path = segment_path(tmp_path, segments(tmp_path)[0])
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.write_bytes(content)
        Cursor(tmp_path, "a").save(30)
        for _ in range(11):
            spool.append(b"x" * 1000)
    assert AlarmKind.DAMAGED in [alarm.kind for alarm in alarms]
    assert path.with_suffix(".damaged").read_bytes() == content
    assert not path.exists()


def test_a_disk_that_refuses_is_unavailable_and_later_writing_goes_on(tmp_path: Path) -> None:
    alarms: list[SpoolAlarm] = []
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Spool.open(tmp_path, on_alarm=alarms.append) as spool:
            assert spool.append(b"one") == 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, previous[1]))  # a file may not grow: EFBIG, in the middle of a write
            with pytest.raises(Unavailable, match="cannot be written"):
                spool.append(b"x" * 1000)
            resource.setrlimit(resource.RLIMIT_FSIZE, previous)
            assert spool.append(b"three") == 3
        with Spool.open(tmp_path) as spool:
            assert spool.append(b"four") == 4
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(read_spool(tmp_path)) == [b"one", b"three", b"four"]
    assert [alarm.kind for alarm in alarms] == [AlarmKind.WRITE_FAILED]


def test_a_record_nobody_can_mean_is_refused(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool, pytest.raises(UsageError):
        spool.append(bytes(MAX_RECORD + 1))


@pytest.mark.parametrize("options", [{"quota_bytes": 1000}, {"quota_bytes": 100_000, "segment_bytes": 60_000}])
def test_a_quota_that_holds_nothing_is_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Spool.open(tmp_path, **options)


def test_a_folder_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        Spool.open(tmp_path / "file" / "spool")


def test_a_failed_open_frees_the_folder(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError):
        Spool.open(tmp_path, destinations=["a/b"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    Spool.open(tmp_path).close()
