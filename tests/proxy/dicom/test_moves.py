"""Who asked for a C-MOVE: the same answers from the book of one process and from that of all workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs_proxy.dicom.moves import AFTERLIFE, MAX_MOVES, Move, MoveBook, Mover, Moves
from securepacs_proxy.workers.moves import SharedMoves
from tests.support.dicom_wire import NOW

KIM, LEE = Mover("kim@hospital.example", "Kim", ("radiologist",), "192.0.2.7", "ab12"), Mover("lee@hospital.example")
BOOKS: list[Callable[[], MoveBook]] = [Moves, lambda: SharedMoves(2).of(0)]


def move(mover: Mover = KIM, *studies: str, message_id: int = 1, destination: str = "DEST") -> Move:
    return Move("VIEWER", message_id, destination, mover, studies)


def asked(
    book: MoveBook, study: str = "1.2.3", *, message_id: int = 1, destination: str = "DEST", later: timedelta = timedelta()
) -> list[Mover]:
    return list(book.movers("VIEWER", message_id, destination, study, NOW + later))


@pytest.mark.parametrize("make", BOOKS)
def test_a_move_is_known_until_its_final_response(make: Callable[[], MoveBook]) -> None:
    book = make()
    number = book.begin(move(KIM, "1.2.3", "1.2.4"))
    assert asked(book) == [KIM]
    assert asked(book, "1.2.5") == asked(book, message_id=2) == asked(book, destination="OTHER") == []
    book.end(number)
    assert asked(book) == []
    book.end(number)
    book.abandon(number, NOW)


@pytest.mark.parametrize("make", BOOKS)
def test_an_abandoned_move_is_known_a_little_longer(make: Callable[[], MoveBook]) -> None:
    book = make()
    book.abandon(book.begin(move(KIM, "1.2.3")), NOW)
    assert asked(book, later=AFTERLIFE - timedelta(seconds=1)) == [KIM]
    assert asked(book, later=AFTERLIFE) == []


@pytest.mark.parametrize("make", BOOKS)
def test_two_people_with_one_ae_title_are_told_apart_by_study_or_not_at_all(make: Callable[[], MoveBook]) -> None:
    book = make()
    book.begin(move(KIM, "1.2.3"))
    book.begin(move(KIM, "1.2.3"))
    book.begin(move(LEE, "1.2.4"))
    assert (asked(book, "1.2.3"), asked(book, "1.2.4")) == ([KIM], [LEE])
    book.begin(move(LEE))  # a whole patient
    assert asked(book, "1.2.3") == [KIM, LEE]


@pytest.mark.parametrize("make", BOOKS)
def test_the_oldest_is_forgotten_when_there_are_too_many(make: Callable[[], MoveBook]) -> None:
    book = make()
    for number in range(MAX_MOVES + 1):
        book.begin(move(replace(KIM, user_id=f"user-{number}"), message_id=number))
    assert asked(book, message_id=0) == []
    assert [one.user_id for number in range(1, MAX_MOVES + 1) for one in asked(book, message_id=number)] == [
        f"user-{number}" for number in range(1, MAX_MOVES + 1)
    ]


def test_every_worker_sees_what_the_others_keep_and_a_new_one_begins_empty() -> None:
    shared = SharedMoves(2)
    one, other = shared.of(0), shared.of(1)
    one.begin(move(KIM, "1.2.3"))
    assert asked(other) == [KIM]
    child = os.fork()
    if child == 0:  # another process writes, as a worker does
        other.begin(move(LEE, "1.2.4"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert asked(one, "1.2.4") == [LEE]
    shared.of(0)
    assert asked(other) == []
    assert asked(one, "1.2.4") == [LEE]


def test_studies_and_names_that_do_not_fit_are_left_out() -> None:
    book = SharedMoves(1).of(0)
    book.begin(move(replace(KIM, name="n" * 5000), *(f"1.2.{number:060}" for number in range(100))))
    (found,) = asked(book, "9.9.9")
    assert (found.user_id, found.name) == (KIM.user_id, "")


def test_a_slot_that_is_being_written_is_not_read() -> None:
    shared = SharedMoves(1)
    book = shared.of(0)
    book.begin(move(KIM, "1.2.3"))
    memory = shared.slots._memory
    slot = MAX_MOVES - 1 if shared.slots.read(MAX_MOVES - 1) else 0
    position = slot * 2048 + 40
    memory[position : position + 1] = bytes([memory[position] ^ 1])
    assert asked(book) == []


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "abandon"]), st.integers(0, 20), st.text(max_size=8)), max_size=60))
def test_both_books_agree(script: list[tuple[str, int, str]]) -> None:
    books, numbers = [Moves(), SharedMoves(1).of(0)], [[], []]  # type: ignore[var-annotated]
    for step, value, name in script:
        for book, known in zip(books, numbers, strict=True):
            if step == "begin":
                known.append(book.begin(move(Mover(f"u{value}", name), "1.2.3")))
            elif known:
                getattr(book, step)(known[value % len(known)], *([NOW] if step == "abandon" else []))
    assert set(asked(books[0])) == set(asked(books[1]))
