"""What must hold for every stream of bytes and every way to cut it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs_proxy.commands import Close, Send
from securepacs_proxy.events import Side
from tests.support.dicom_wire import (
    CONTEXT_ID,
    CT,
    MR,
    PERSON,
    Conversation,
    TablePolicy,
    associate_rq,
    create_scripts,
    echo_rq,
    find_rq,
    pdv_pdu,
    release_rq,
    split_pdus,
    store_rq,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
MARKER = b"MARKER-OF-REFUSED-DATA"


@dataclass
class Outcome:
    sent: dict[Side, bytes]
    records: list[Any]
    finished: bool


def outcome(talk: Conversation) -> Outcome:
    return Outcome({side: bytes(data) for side, data in talk.sent.items()}, talk.records, talk.relay.finished)


def policy() -> TablePolicy:
    """MR is forbidden, and so are echoes."""
    return TablePolicy(lambda asked: asked.action == "Associate" or asked.sop_class_uid not in (MR, "1.2.840.10008.1.1"))


def play(script: list[tuple[Side, bytes]], cuts: list[int], *, associated: bool = True) -> Outcome:
    """Feed each part of the script in pieces; `cuts` are piece lengths, used in turn."""
    talk = Conversation(policy(), subject=PERSON, head_bytes=4096)
    if associated:
        talk.associate()
    else:
        talk.authenticate()
    turn = 0
    for side, data in script:
        rest = data
        while rest:
            length = cuts[turn % len(cuts)] if cuts else len(rest)
            turn += 1
            talk.feed(side, rest[:length])
            rest = rest[length:]
    return outcome(talk)


cut_lengths = st.lists(st.one_of(st.integers(1, 30), st.integers(1, 5000)), min_size=1, max_size=12)


@given(script=create_scripts(), cuts=cut_lengths)
def test_any_split_gives_the_same_bytes_and_records(script: list[tuple[Side, bytes]], cuts: list[int]) -> None:
    assert play(script, cuts) == play(script, [])


@given(script=create_scripts(), data=st.data(), cuts=cut_lengths)
def test_any_split_of_a_damaged_stream_gives_the_same(
    script: list[tuple[Side, bytes]], data: st.DataObject, cuts: list[int]
) -> None:
    side, raw = script[0]
    position = data.draw(st.integers(0, len(raw) - 1))
    damaged = bytearray(raw)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    script = [(side, bytes(damaged)), *script[1:]]
    assert play(script, cuts) == play(script, [])


@given(cuts=cut_lengths)
def test_any_split_of_an_association_request_gives_the_same(cuts: list[int]) -> None:
    script = [(R, associate_rq())]
    assert play(script, cuts, associated=False) == play(script, [], associated=False)


@given(data=st.binary(min_size=16, max_size=400), associated=st.booleans(), side=st.sampled_from([R, A]))
def test_garbage_never_raises_and_is_answered_by_the_end(data: bytes, associated: bool, side: Side) -> None:
    talk = Conversation()
    if associated:
        talk.associate()
    else:
        talk.authenticate()
        side = R
    talk.feed(side, b"\x09" + data)
    assert talk.relay.finished
    assert talk.commands[-2:] == [Close(R), Close(A)]
    assert bytes((7, 0, 0, 0, 0, 4, 0, 0, 2)) in bytes(talk.sent[side])
    assert len(talk.records) == 1


@given(body=st.binary(max_size=300), kind=st.sampled_from([1, 4, 5, 6, 7, 2, 3]), side=st.sampled_from([R, A]))
def test_hostile_bodies_never_raise(body: bytes, kind: int, side: Side) -> None:
    raw = bytes((kind, 0)) + len(body).to_bytes(4, "big") + body
    for talk in (Conversation().associate(), Conversation().authenticate()):
        for command in talk.feed(side, raw):
            if isinstance(command, Send):
                assert command.data[0] in (3, 5, 6, 7)


@given(command=st.binary(max_size=200), fragment=st.binary(max_size=200), context=st.sampled_from([1, 3, 5, 7, 9, 11, 13, 15]))
def test_hostile_messages_never_pass(command: bytes, fragment: bytes, context: int) -> None:
    talk = Conversation().associate()
    talk.requestor(pdv_pdu((context, 3, command)) + pdv_pdu((context, 2, fragment)))
    assert all(pdu[0] == 7 for pdu in split_pdus(bytes(talk.sent[A])))


refused = st.lists(
    st.tuples(st.sampled_from(["mr", "echo", "wrong class", "wrong instance", "head"]), st.sampled_from([1000, 1024, 3000, 16384])),
    min_size=1,
    max_size=6,
)


@given(requests=refused, cuts=cut_lengths, packed=st.booleans())
def test_nothing_refused_is_ever_forwarded(requests: list[tuple[str, int]], cuts: list[int], packed: bool) -> None:
    script = []
    for number, (kind, max_pdu) in enumerate(requests, 1):
        size = MARKER * 150
        match kind:
            case "mr":
                raw = store_rq(number, context_id=CONTEXT_ID[MR], sop_class=MR, pixels=size, max_pdu=max_pdu)
            case "echo":
                raw = echo_rq(number)
            case "wrong class":
                raw = store_rq(number, context_id=CONTEXT_ID[MR], pixels=size, max_pdu=max_pdu)
            case "wrong instance":
                raw = store_rq(number, pixels=size, max_pdu=max_pdu).replace(b"1.2.3.1", b"1.2.3.2", 1)
            case _:
                raw = store_rq(number, ImageComments="x", pixels=size, max_pdu=max_pdu).replace(b"\x20\0\x0d\0", b"\x10\0\x20\0")
        script.append((R, pack(raw) if packed else raw))
        script.append((R, find_rq(number + 100)))
    result = play(script, cuts)
    assert MARKER not in result.sent[A]
    assert b"Secret^Patient" not in result.sent[A]
    assert result.sent[A] == b"".join(find_rq(number + 100) for number in range(1, len(requests) + 1))
    assert not result.finished
    answers = split_pdus(result.sent[R])
    assert len(answers) == len(requests)


def pack(raw: bytes) -> bytes:
    """Put two PDVs into each PDU where they fit."""
    pdus = split_pdus(raw)
    pairs = [pdus[index : index + 2] for index in range(0, len(pdus), 2)]
    packed = []
    for pair in pairs:
        body = b"".join(pdu[6:] for pdu in pair)
        packed.append(b"\x04\0" + len(body).to_bytes(4, "big") + body if len(body) <= 16384 else b"".join(pair))
    return b"".join(packed)


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(store_rq(1, pixels=b"x" * 60_000), id="images"),
        pytest.param(find_rq(1), id="queries"),
        pytest.param(echo_rq(1), id="refused echoes"),
    ],
)
def test_buffers_stay_bounded_for_ever(endless: bytes) -> None:
    talk = Conversation(policy())
    talk.associate()
    for number in range(1, 1500):
        talk.requestor(endless.replace(b"\x10\x01\x02\0\0\0\x01\0", b"\x10\x01\x02\0\0\0" + number.to_bytes(2, "little")))
        talk.sent[A].clear()
        talk.sent[R].clear()
        talk.records.clear()
        talk.commands.clear()
        assert talk.relay.buffered < 300_000
    assert talk.relay.finished == (endless != echo_rq(1))  # outstanding requests are bounded too


def test_a_pdu_that_trickles_in_is_kept_only_up_to_its_length() -> None:
    talk = Conversation().associate()
    talk.requestor(b"\x04\0\0\0\x40\0" + b"\0\0\x01\0" + bytes((CONTEXT_ID[CT], 3)))
    for _ in range(100):
        talk.requestor(b"x" * 100)
    assert talk.relay.buffered < 16390


def test_a_released_association_takes_nothing_more() -> None:
    talk = Conversation().associate()
    talk.requestor(release_rq() + b"\x04" * 50)
    assert talk.relay.finished
