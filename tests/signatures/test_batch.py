"""Many files at once: written whole or not at all, in order, each with its own outcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from securepacs.errors import MalformedError, TokenError, UsageError
from securepacs.signatures import evaluate, preparation
from securepacs.signatures.batch import _UNWRITTEN, FileWriter, sign_files
from securepacs.signatures.sign import SigningOptions, make_options
from tests.support.signing import policy, signer


def test_many_files_are_written_while_the_next_are_made(tmp_path: Path) -> None:
    with FileWriter() as writer:
        written = [writer.write(tmp_path / f"{number}.dcm", [str(number).encode(), b" end"]) for number in range(20)]
    assert [done.result() for done in written] == [None] * 20
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {f"{n}.dcm": f"{n} end".encode() for n in range(20)}


def test_one_file_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    with FileWriter() as writer:
        (tmp_path / "folder").mkdir()
        bad, good = writer.write(tmp_path / "folder", [b"1"]), writer.write(tmp_path / "good", [b"2"])
    with pytest.raises(UsageError, match="cannot write"):
        bad.result()
    assert good.result() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "good"]


def image(folder: Path, name: str, size: int) -> Path:
    from tests.support.encoded import element, part10

    path = folder / name
    meta = element(0x00080016, b"UI", b"1.2.3\0") + element(0x00080018, b"UI", name.encode() + b"\0" * (len(name) % 2))
    path.write_bytes(part10(meta + element(0x00100010, b"PN", b"Test^P") + element(0x7FE00010, b"OW", bytes(size))))
    return path


def options() -> SigningOptions:
    return make_options(profile="base", identity=True)


@pytest.mark.parametrize("large", [False, True])
def test_outcomes_come_in_order_and_each_target_is_signed(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securepacs.signatures.batch._LARGE", 0 if large else 1 << 30)
    sources = [image(tmp_path, f"{number}.1", 1000) for number in range(10)]
    pairs = [(source, tmp_path / "out" / source.name) for source in sources]
    done = list(sign_files(pairs, signer(), options))
    assert [(one.source, one.target, one.error) for one in done] == [(*pair, None) for pair in pairs]
    for one in done:
        report = evaluate(one.target, policy())
        assert (report.verdict, tuple(result.uid for result in report.signatures)) == ("TOTAL-PASSED", one.uids)


def test_large_and_small_files_get_the_same_bytes_around_the_signature(tmp_path: Path) -> None:
    from securepacs.dicom.edit import replace_elements
    from securepacs.signatures.sequences import DIGITAL_SIGNATURES_SEQUENCE, MAC_PARAMETERS_SEQUENCE

    source = image(tmp_path, "1.1", 20 << 20)
    (done,) = sign_files([(source, tmp_path / "signed")], signer(), options)
    assert evaluate(done.target, policy()).verdict == "TOTAL-PASSED"
    unsigned = replace_elements(done.target.read_bytes(), {MAC_PARAMETERS_SEQUENCE: None, DIGITAL_SIGNATURES_SEQUENCE: None})
    assert unsigned == source.read_bytes()


@pytest.mark.parametrize("large", [False, True])
def test_a_bad_file_among_good_ones(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securepacs.signatures.batch._LARGE", 0 if large else 1 << 30)
    (tmp_path / "bad").write_bytes(b"no DICOM")
    (tmp_path / "no-folder").write_bytes(b"")
    good = image(tmp_path, "1.1", 10)
    pairs = [(tmp_path / "bad", tmp_path / "a"), (good, tmp_path / "no-folder" / "b"), (good, tmp_path / "c")]
    first, second, third = sign_files(pairs, signer(), options)
    assert isinstance(first.error, MalformedError)
    assert isinstance(second.error, UsageError)
    assert third.error is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.1", "bad", "c", "no-folder"]


@pytest.mark.parametrize("large", [False, True])
def test_a_token_that_fails_ends_the_run(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securepacs.signatures.batch._LARGE", 0 if large else 1 << 30)

    good, again = image(tmp_path, "1.1", 10), image(tmp_path, "1.2", 10)
    again_target = tmp_path / "b"
    again_target.write_bytes(b"old")
    run = sign_files([(good, tmp_path / "a"), (again, again_target)], signer(), options)
    real = preparation.sign_digest
    signed: list[bytes] = []

    def two_signatures(*arguments: object) -> bytes:
        if len(signed) == 2:
            raise TokenError("the card was pulled")
        signed.append(real(*arguments))  # type: ignore[arg-type]
        return signed[-1]

    monkeypatch.setattr(preparation, "sign_digest", two_signatures)
    assert next(run).target == tmp_path / "a"
    with pytest.raises(TokenError):
        next(run)
    assert evaluate(tmp_path / "a", policy()).verdict == "TOTAL-PASSED"
    assert again_target.read_bytes() == b"old"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_where_nothing_was_written_nothing_is_synchronized(tmp_path: Path) -> None:
    source = image(tmp_path, "1.1", 10)
    pairs = [(source, Path("/proc/1.dcm")), (source, tmp_path / "good")]
    first, second = sign_files(pairs, signer(), options)
    assert isinstance(first.error, UsageError)
    assert second.error is None


def test_little_content_waits_for_the_disk(tmp_path: Path) -> None:
    handed, written, seen = 0, 0, []

    def content() -> Iterator[bytes]:
        nonlocal written
        yield b"content"
        written += 1

    with FileWriter() as writer:
        for number in range(60):
            writer.write(tmp_path / str(number), content())
            handed += 1
            seen.append(handed - written)
    assert max(seen) <= _UNWRITTEN + 1
    assert written == 60
