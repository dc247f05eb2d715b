"""Answers on disk: bounded, whole or not at all, and believed by nobody."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import time
from pathlib import Path

import pytest

from securepacs.errors import ConfigError
from securepacs.trust import cache as cache_module
from securepacs.trust.cache import DiskCache, Entry

URL = "http://ca.example/a.crl"


def soon() -> float:
    return time.time() + 60


def only_file(cache: DiskCache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "deep" / "cache")


def test_folder_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    for path in (folder, tmp_path / "new" / "cache"):
        DiskCache(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="not a folder of this user"):
        DiskCache(tmp_path)


def test_folder_that_is_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file", "file/below"):
        with pytest.raises(ConfigError):
            DiskCache(tmp_path / name)


def test_round_trip_by_address_and_request(cache: DiskCache) -> None:
    cache.put(URL, b"", Entry(b"answer\n\0"), until=soon())
    cache.put(URL, b"q", Entry(problem="nobody"), until=soon())
    assert cache.get(URL) == Entry(b"answer\n\0")
    assert cache.get(URL, b"q") == Entry(problem="nobody")
    assert cache.get(URL + "x") is None
    assert DiskCache(cache.folder).get(URL) == Entry(b"answer\n\0")
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in cache.folder.iterdir())


def test_entry_ends_with_its_time(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    cache.put(URL, b"", Entry(b"answer"), until=now + 100)
    for moment, there in ((now + 99, True), (now + 101, False), (now - 200, True), (now - 1000, False)):
        monkeypatch.setattr(cache_module.time, "time", lambda moment=moment: moment)
        assert (cache.get(URL) is not None) is there
    monkeypatch.undo()
    cache.put(URL + "old", b"", Entry(b"answer"), until=now - 1)
    assert cache.get(URL + "old") is None


def test_no_entry_is_kept_for_ten_years(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    cache.put(URL, b"", Entry(b"answer"), until=now + 3650 * 86_400)
    monkeypatch.setattr(cache_module.time, "time", lambda: now + cache_module.MAX_SECONDS + 1)
    assert cache.get(URL) is None


def test_every_flipped_byte_and_every_cut_makes_it_none(cache: DiskCache) -> None:
    cache.put(URL, b"", Entry(b"answer"), until=soon())
    path = only_file(cache)
    raw = path.read_bytes()
    for position in range(len(raw)):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        assert cache.get(URL) is None, position
        path.write_bytes(raw[:position])
        assert cache.get(URL) is None, position
    path.write_bytes(raw)
    assert cache.get(URL) is not None


def test_entry_moved_to_another_request_is_none(cache: DiskCache) -> None:
    cache.put(URL, b"", Entry(b"answer"), until=soon())
    path = only_file(cache)
    cache.put(URL, b"q", Entry(b"other"), until=soon())
    (other,) = (found for found in cache.folder.iterdir() if found != path)
    path.replace(other)
    assert cache.get(URL, b"q") is None


@pytest.mark.parametrize("header", [b"", b"[]", b"{}", json.dumps({"fetched": "x", "until": 1, "problem": ""}).encode()])
def test_entry_with_a_strange_header(cache: DiskCache, header: bytes) -> None:
    cache.put(URL, b"", Entry(b"answer"), until=soon())
    path = only_file(cache)
    payload = header + b"\nanswer"
    path.write_bytes(cache_module._MAGIC + cache_module._digest(path.name, payload) + b"\n" + payload)
    assert cache.get(URL) is None


def test_links_are_not_followed(cache: DiskCache, tmp_path: Path) -> None:
    cache.put(URL, b"", Entry(b"answer"), until=soon())
    path = only_file(cache)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get(URL) is None


def test_bounds(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", max_bytes=4000, max_entries=5)
    cache.put(URL, b"", Entry(b"x" * 5000), until=soon())
    assert cache.get(URL) is None
    for number in range(8):
        cache.put(URL, bytes([number]), Entry(b"x" * 10), until=soon())
        os.utime(cache._path(URL, bytes([number])), (number, number))
    cache.prune()
    assert [number for number in range(8) if cache.get(URL, bytes([number]))] == [3, 4, 5, 6, 7]
    cache.put(URL, b"big", Entry(b"x" * 3500), until=soon())
    cache.prune()
    assert cache.get(URL, b"big") is not None
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 4000


def test_what_a_broken_off_write_left_is_swept(cache: DiskCache) -> None:
    fresh, old = cache.folder / ".writing-a", cache.folder / ".writing-b"
    for path in (fresh, old):
        path.touch()
    os.utime(old, (1, 1))
    cache.prune()
    assert fresh.exists()
    assert not old.exists()


def test_folder_that_went_away_is_no_error(cache: DiskCache) -> None:
    cache.folder.rmdir()
    cache.put(URL, b"", Entry(b"answer"), until=soon())
    assert cache.get(URL) is None


def _hammer(folder: Path, seed: int, bad: object) -> None:
    cache = DiskCache(folder, max_entries=6)
    for number in range(150):
        name = bytes([number % 9])
        cache.put(URL, name, Entry(name * 3000 + bytes([seed])), until=soon())
        found = cache.get(URL, name)
        if found is not None and found.body[:-1] != name * 3000:
            bad.set()  # type: ignore[attr-defined]
        if number % 20 == 0:
            cache.prune()


def test_several_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    bad = context.Event()
    workers = [context.Process(target=_hammer, args=(tmp_path / "cache", seed, bad)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert not bad.is_set()
    assert not list((tmp_path / "cache").glob(".writing-*"))
