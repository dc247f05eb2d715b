"""A million damaged inputs (`--full`; a few thousand otherwise): always answered or held, never forwarded when refused, bounded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from securepacs_proxy.commands import Close
from securepacs_proxy.events import Side
from tests.fuzz.inputs import CORPUS, answers, associations, damaged, pieces, requests, turns
from tests.fuzz.targets import TARGETS, associated, check, fuzz_dimse, fuzz_pdu, fuzz_relay, policy
from tests.support.dicom_wire import Conversation

REQUESTS, ANSWERS, ASSOCIATIONS = requests(), answers(), associations()
SHARDS = 8


def run_relay(seed: int, count: int) -> None:
    """Damaged conversations, each in a relay of its own; the same bytes cut otherwise must have the same outcome."""
    for number in range(count):
        generator = random.Random(seed * 1_000_003 + number)
        script = turns(generator, REQUESTS, ANSWERS)
        heard: list[Side] = []
        talk, whole = associated(), associated()
        for side, data in script:
            for piece in pieces(generator, data):
                talk.feed(side, piece)
            heard.append(side)
            check(talk, marked=len(heard) == len(set(heard)))
            whole.feed(side, data)
        assert talk.sent == whole.sent, f"split matters: seed {seed}, input {number}"
        assert talk.relay.finished == whole.relay.finished
        assert [record.EventIdentification.EventID for record in talk.records] == [
            record.EventIdentification.EventID for record in whole.records
        ]
        if talk.relay.finished:
            answered = any(bytes(talk.sent[side]).endswith(b"\x07\0\0\0\0\x04" + tail) for side in Side for tail in _tails())
            released = any(b"\x06\0\0\0\0\x04\0\0\0\0" in talk.sent[side] for side in Side)
            cut = any(talk.relay._half_sent(side) or side in talk.relay._was_cut for side in Side)
            assert answered or released or cut or _peer_aborted(script), f"not answered: seed {seed}, input {number}"
            assert {command.side for command in talk.commands if isinstance(command, Close)} == set(Side)


def _tails() -> list[bytes]:
    return [bytes((0, 0, source, reason)) for source in (0, 1, 2) for reason in range(7)]


def _peer_aborted(script: list[tuple[Side, bytes]]) -> bool:
    return any(b"\x07\0\0\0\0\x04" in data for _, data in script)


def run_associations(seed: int, count: int) -> None:
    """Damaged association requests: permitted, rejected or aborted, but always something, and closed unless it waits or goes on."""
    for number in range(count):
        generator = random.Random(seed * 1_000_003 + number)
        talk = Conversation(policy()).authenticate()
        for piece in pieces(generator, damaged(generator, generator.choice(ASSOCIATIONS))):
            talk.feed(Side.REQUESTOR, piece)
        check(talk, marked=True)
        if talk.relay.finished:
            assert bytes(talk.sent[Side.REQUESTOR][:1]) in (b"\x03", b"\x07"), f"not answered: seed {seed}, input {number}"


def run_decoders(seed: int, count: int) -> None:
    """Damaged PDUs and command sets."""
    seeds = {name: [file.read_bytes() for file in sorted((CORPUS / name).iterdir())] for name in ("pdu", "dimse")}
    for number in range(count):
        generator = random.Random(seed * 1_000_003 + number)
        fuzz_pdu(damaged(generator, generator.choice(seeds["pdu"])))
        fuzz_dimse(damaged(generator, generator.choice(seeds["dimse"])))


def test_damaged_conversations() -> None:
    run_relay(1, 600)


def test_damaged_association_requests() -> None:
    run_associations(2, 400)


def test_damaged_pdus_and_command_sets() -> None:
    run_decoders(3, 3000)


@pytest.mark.full
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_million_inputs(shard: int) -> None:
    """In eight parts, for as many processes: 8 x (65,000 conversations + 20,000 requests + 2 x 20,000 PDUs and command sets)."""
    run_relay(100 + shard, 65_000)
    run_associations(200 + shard, 20_000)
    run_decoders(300 + shard, 20_000)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_targets_take_their_corpus(name: str) -> None:
    folder = CORPUS / ("pdu" if name == "relay" else name)
    files = sorted(folder.iterdir())
    assert len(files) >= 8
    for file in files:
        TARGETS[name](file.read_bytes())
        TARGETS[name](b"\x02\x20" + file.read_bytes())


def test_the_corpus_is_what_the_program_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import inputs

    monkeypatch.setattr(inputs, "CORPUS", tmp_path)
    inputs.write_corpus()
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.bin")}
    assert made == {file.relative_to(CORPUS): file.read_bytes() for file in CORPUS.rglob("*.bin")}


def test_a_check_fails_for_a_relay_that_forwards_what_was_refused() -> None:
    talk = Conversation(policy()).associate()
    talk.sent[Side.ACCEPTOR] += b"MARKER-OF-REFUSED-DATA"
    with pytest.raises(AssertionError, match="forwarded"):
        check(talk, marked=True)
    fuzz_relay(b"\x01")
