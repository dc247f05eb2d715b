"""Coverage-guided fuzzing by hand, with atheris (not a dependency; `pip install atheris` on a Python it has wheels for):

    PYTHONPATH=.:proxy python tests/fuzz/targets.py pdu   -max_total_time=600 tests/fuzz/corpus/pdu
    PYTHONPATH=.:proxy python tests/fuzz/targets.py dimse -max_total_time=600 tests/fuzz/corpus/dimse
    PYTHONPATH=.:proxy python tests/fuzz/targets.py relay -max_total_time=600 tests/fuzz/corpus/pdu

A target returns when all is well and raises what must be mended. New seeds: `python tests/fuzz/targets.py corpus`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from securepacs_proxy.dicom import pdu
from securepacs_proxy.dicom.dimse import decode_command, encode_response
from securepacs_proxy.dicom.pdu import COMMAND, HEADER_LENGTH, PduType
from securepacs_proxy.dicom.wire import Violation
from securepacs_proxy.events import Side, UpstreamConnected
from tests.fuzz.inputs import MARKER, write_corpus
from tests.support.dicom_wire import CONTEXT_ID, MR, Conversation, TablePolicy, associate_ac, associate_rq

_DECODERS = {
    PduType.ASSOCIATE_RQ: pdu.decode_associate_rq,
    PduType.ASSOCIATE_AC: pdu.decode_associate_ac,
    PduType.ASSOCIATE_RJ: pdu.decode_associate_rj,
    PduType.ABORT: pdu.decode_abort,
}
_KINDS = frozenset(map(int, PduType))
MAX_BUFFERED = 400_000


def fuzz_pdu(data: bytes) -> None:
    """A decoded association PDU is encoded to something that decodes to the same; anything else is a Violation."""
    if not data or data[0] not in _KINDS:
        return
    kind, body = PduType(data[0]), memoryview(data)[HEADER_LENGTH:]
    try:
        if kind is PduType.P_DATA_TF:
            for value in pdu.pdvs(body):
                assert len(value.item) == len(value.fragment) + 6
            return
        if kind not in _DECODERS:
            return
        decoded = _DECODERS[kind](body)
    except Violation:
        return
    again = pdu.encode(decoded)  # type: ignore[arg-type]
    assert _DECODERS[kind](memoryview(again)[HEADER_LENGTH:]) == decoded


def fuzz_dimse(data: bytes) -> None:
    """A decoded request can be answered, and the answer is a command set that decodes to a response of it."""
    try:
        command = decode_command(data)
    except Violation:
        return
    if not command.is_response and not command.is_cancel:
        answer = decode_command(encode_response(command, 0x0124))
        assert answer.is_response
        assert (answer.service, answer.message_id, answer.status) == (command.service, command.message_id, 0x0124)
        assert answer.sop_class_uid == command.sop_class_uid


def policy() -> TablePolicy:
    """MR is refused, and nothing that the archive sends by itself passes."""
    return TablePolicy(lambda asked: asked.action == "Associate" or (asked.toward_archive and asked.sop_class_uid != MR))


@functools.cache
def _request() -> bytes:
    return associate_rq()


@functools.cache
def _acceptance(request: bytes) -> bytes:
    return associate_ac(request)


def associated() -> Conversation:
    """Return a conversation whose association stands; the PDUs that pynetdicom makes for it are made once."""
    talk = Conversation(policy()).authenticate()
    talk.requestor(_request())
    talk.handle(UpstreamConnected())
    talk.acceptor(_acceptance(talk.take(Side.ACCEPTOR)))
    talk.take(Side.REQUESTOR)
    talk.records.clear()
    talk.commands.clear()
    return talk


def forwarded_contexts(stream: bytes) -> set[int]:
    """Return the presentation contexts of all data sets that went out; the last PDU may not be complete yet."""
    found, pos = set(), 0
    while pos + HEADER_LENGTH <= len(stream):
        end = pos + HEADER_LENGTH + int.from_bytes(stream[pos + 2 : pos + 6], "big")
        value = pos + HEADER_LENGTH
        while stream[pos] == PduType.P_DATA_TF and value + 6 <= min(end, len(stream)):
            if not stream[value + 5] & COMMAND:
                found.add(stream[value + 4])
            value += 4 + int.from_bytes(stream[value : value + 4], "big")
        pos = end
    return found


def check(talk: Conversation, *, marked: bool) -> None:
    """What must hold after every input; `marked`: every marker belongs to a message that is refused.

    It does not when bytes before it were lost: then it may lie in the data of a message that was permitted.
    """
    assert CONTEXT_ID[MR] not in forwarded_contexts(bytes(talk.sent[Side.ACCEPTOR])), "refused data was forwarded"
    assert not (marked and MARKER in talk.sent[Side.ACCEPTOR]), "refused data was forwarded"
    assert talk.relay.buffered < MAX_BUFFERED, "memory grows"
    if talk.relay.finished:
        assert [command for command in talk.commands if type(command).__name__ == "Close"], "finished without closing"
    for record in talk.records:
        assert "error of its own" not in str(record), "a defect of the gateway"


def fuzz_relay(data: bytes) -> None:
    """The whole relay, both sides: the first byte says which one sends, the second how the rest is cut."""
    if len(data) < 3:
        return
    side = Side.ACCEPTOR if data[0] & 1 else Side.REQUESTOR
    if data[0] & 2:
        talk = associated()
    else:
        talk, side = Conversation(policy()).authenticate(), Side.REQUESTOR
    width = data[1] + 1
    for start in range(2, len(data), width):
        talk.feed(side, data[start : start + width])
        check(talk, marked=False)


TARGETS: dict[str, Callable[[bytes], None]] = {"pdu": fuzz_pdu, "dimse": fuzz_dimse, "relay": fuzz_relay}


def main() -> None:
    """Run the target named first; the other arguments are libFuzzer's."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name == "corpus":
        write_corpus()
        return
    if name not in TARGETS:
        raise SystemExit(f"usage: targets.py {'|'.join(TARGETS)}|corpus [ATHERIS OPTIONS] [FOLDER]")
    import atheris  # type: ignore[import-not-found]

    atheris.instrument_all()
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
