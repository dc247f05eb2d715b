"""Group commit: one commit for all that wait, one fate for each item."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from securepacs.audit.group import GroupCommit
from securepacs.errors import SecurePacsError, Unavailable


def doubled(items: list[int]) -> Sequence[int | SecurePacsError]:
    return [2 * item if item >= 0 else Unavailable("negative") for item in items]


def make(commit=doubled, **options) -> GroupCommit[int, int]:  # type: ignore[no-untyped-def]
    return GroupCommit(commit, name="test", size_of=lambda item: abs(item), **options)


def test_each_caller_gets_its_own_result() -> None:
    group = make()
    results: dict[int, int] = {}

    def run(number: int) -> None:
        for step in range(50):
            results[number * 100 + step] = group.call(number * 100 + step)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    group.close()
    assert results == {key: 2 * key for key in results}
    assert len(results) == 400


def test_one_item_may_fail_beside_others() -> None:
    group = make()
    assert group.call(1) == 2
    with pytest.raises(Unavailable, match="negative"):
        group.call(-1)
    group.close()


def test_what_waits_shares_one_commit() -> None:
    batches: list[list[int]] = []
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def commit(items: list[int]) -> list[int]:
        batches.append(items)
        inside.set()
        go_on.wait(10)
        return items

    group = make(commit)
    group.submit(1, lambda *_: None)
    assert inside.wait(10)
    for item in (2, 3):
        group.submit(item, lambda *_: None)
    group.submit(4, lambda *_: done.set())
    go_on.set()
    assert done.wait(10)
    group.close()
    assert batches == [[1], [2, 3, 4]]


def test_an_exception_of_commit_is_everybodys_error_and_the_thread_lives() -> None:
    failing = True

    def commit(items: list[int]) -> list[int]:
        if failing:
            raise ValueError("broken")
        return items

    group = make(commit)
    with pytest.raises(ValueError, match="broken"):
        group.call(1)
    failing = False
    assert group.call(1) == 1
    group.close()


def test_what_waits_is_bounded() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def commit(items: list[int]) -> list[int]:
        inside.set()
        go_on.wait(10)
        return items

    group = make(commit, max_pending=100)
    group.submit(1, lambda *_: None)
    assert inside.wait(10)
    group.submit(99, lambda *_: None)
    with pytest.raises(Unavailable):
        group.submit(2, lambda *_: None)
    go_on.set()
    group.close()


def test_closing_commits_what_waits_and_refuses_the_rest() -> None:
    seen: list[int] = []
    group = make(lambda items: [seen.append(item) or item for item in items])  # type: ignore[func-returns-value]
    for item in range(20):
        group.submit(item, lambda *_: None)
    group.close()
    assert seen == list(range(20))
    with pytest.raises(Unavailable):
        group.call(1)


def test_the_writer_never_waits_for_itself() -> None:
    errors: list[BaseException] = []
    done = threading.Event()
    group = make()

    def again(_result: int | None, _error: BaseException | None) -> None:
        try:
            group.call(1)
        except Unavailable as error:
            errors.append(error)
        done.set()

    group.submit(1, again)
    assert done.wait(10)
    group.close()
    assert len(errors) == 1


def test_an_error_of_a_callback_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_result: int | None, _error: BaseException | None) -> None:
        raise RuntimeError("Event loop is closed")

    group = make()
    group.submit(1, broken)
    assert group.call(2) == 4
    group.close()
    assert "Event loop is closed" in caplog.text


def test_callers_who_come_back_together_share_commits() -> None:
    """Eight callers in a loop: a commit that takes a while is shared by most of them, not made for the first one back."""
    sizes: list[int] = []
    pause = threading.Event()

    def commit(items: list[int]) -> list[int]:
        sizes.append(len(items))
        pause.wait(0.004)
        return items

    group = GroupCommit[int, int](commit, name="test", size_of=lambda _item: 1)

    def run() -> None:
        for number in range(25):
            group.call(number)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    group.close()
    assert sum(sizes) == 200
    assert len(sizes) < 100


def test_an_item_that_follows_a_failed_one_is_not_written() -> None:
    began, go_on = threading.Event(), threading.Event()
    written: list[int] = []
    failed: list[BaseException] = []
    ends: dict[int, BaseException | None] = {}

    def commit(items: list[int]) -> Sequence[int | SecurePacsError]:
        if items == [1]:
            began.set()
            go_on.wait(30)
            raise Unavailable("the disk is full")
        written.extend(items)
        return items

    def ended(item: int) -> Callable[[int | None, BaseException | None], None]:
        def note(_result: int | None, error: BaseException | None) -> None:
            ends[item] = error
            if item == 1 and error is not None:
                failed.append(error)

        return note

    group = make(commit)
    group.submit(1, ended(1))
    assert began.wait(30)
    group.submit(2, ended(2), still_wanted=lambda: not failed)  # handed in before the commit of 1 failed
    group.submit(3, ended(3))
    go_on.set()
    group.close()
    assert written == [3]
    assert isinstance(ends[2], Unavailable)
    assert ends[3] is None
