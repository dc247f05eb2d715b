"""Numbers of senders that count their records."""

from __future__ import annotations

from securepacs.audit.sequences import MAX_OPEN, MAX_SEQUENCE, Sequences


def record(number: int, *, process: int = 7, sd: str = "") -> bytes:
    return f'<85>1 - h gw {process} - {sd or f"""[x a="b"][meta ip="1" sequenceId="{number}"]"""} text'.encode()


def gaps(*records: bytes, peer: str = "ab") -> list[tuple[int, str]]:
    sequences = Sequences()
    for index, raw in enumerate(records):
        sequences.see(index, peer, raw)
    return list(sequences.gaps())


def test_nothing_is_missing() -> None:
    assert gaps(record(1), record(3), record(2), record(3), b"no record", record(1, process=8), record(4)) == []


def test_what_is_missing_is_told_with_the_record_that_showed_it() -> None:
    assert gaps(record(2), record(5), record(4)) == [
        (0, "record 1 of h gw 7 never arrived"), (1, "record 3 of h gw 7 never arrived"),
    ]  # fmt: skip


def test_a_source_is_its_certificate_host_program_and_process() -> None:
    sequences = Sequences()
    sequences.see(0, "ab", record(1))
    sequences.see(1, "cd", record(2))
    assert list(sequences.gaps()) == [(1, "record 1 of h gw 7 never arrived")]


def test_a_count_that_begins_anew() -> None:
    sequences = Sequences()
    sequences._next[("ab", "h", "gw", "7")] = MAX_SEQUENCE
    sequences.see(0, "ab", record(MAX_SEQUENCE))
    sequences.see(1, "ab", record(1))
    assert list(sequences.gaps()) == []


def test_a_gap_too_wide_to_remember_is_one_line() -> None:
    assert gaps(record(1), record(MAX_OPEN + 5)) == [(1, f"{MAX_OPEN + 3} records of h gw 7 before this one never arrived")]


def test_what_is_no_number() -> None:
    assert gaps(*(record(0, sd=f'[meta sequenceId="{each}"]') for each in ("0", "x", "99999999999", MAX_SEQUENCE + 1))) == []
    assert gaps(b'sequenceId="5"') == []
