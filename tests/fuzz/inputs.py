"""Inputs for fuzzing from real conversations: valid streams, then damaged; the same for a fixed seed on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securepacs_proxy.events import Side
from tests.support.dicom_wire import (
    CONTEXT_ID,
    CT,
    MPPS,
    MR,
    associate_rq,
    echo_rq,
    encode,
    find_answers,
    find_rq,
    identifier,
    image,
    message,
    pdv_pdu,
    release_rq,
    split_pdus,
    store_rq,
    store_rsp,
)

CORPUS = Path(__file__).parent / "corpus"
MARKER = b"MARKER-OF-REFUSED-DATA"  # every data set that must not pass holds it

FORBIDDEN: dict[str, Any] = {"context_id": CONTEXT_ID[MR], "sop_class": MR, "pixels": MARKER * 40}


def associations() -> list[bytes]:
    """Association requests."""
    return [associate_rq(), associate_rq(classes=[CT, MR]), associate_rq(max_length=0)]


def requests() -> list[bytes]:
    """Messages of the requestor; those that the policy of the fuzzers refuses hold the marker."""
    fields = {"MessageID": 9, "AffectedSOPClassUID": MPPS, "AffectedSOPInstanceUID": "1.2"}
    create = message("N_CREATE_RQ", CONTEXT_ID[MPPS], data=encode(image(sop_class=MPPS)), **fields)
    return [
        store_rq(1, pixels=b"\1\2" * 3000),
        store_rq(2, max_pdu=1000, pixels=b"\1\2" * 1500),
        store_rq(3, **FORBIDDEN),
        store_rq(4, max_pdu=1024, **FORBIDDEN),
        find_rq(5),
        find_rq(6, identifier(PatientID="PAT1", PatientComments="c" * 3000)),
        echo_rq(7),
        create,
        pdv_pdu(*[(value[10], value[11], value[12:]) for value in split_pdus(store_rq(8, pixels=b"\0" * 100))]),
        release_rq(),
    ]


def answers() -> list[bytes]:
    """Messages of the archive."""
    return [store_rsp(1), store_rsp(2, 0xA700), find_answers(5, 3), store_rq(11, **FORBIDDEN), release_rq()]


def damaged(generator: random.Random, data: bytes) -> bytes:
    """Return the data with one to four damages: flipped, cut, doubled, moved or replaced parts, lengths that lie."""
    result = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        if not result:
            return b""
        at = generator.randrange(len(result))
        width = min(generator.choice((1, 2, 4, 8, 64)), len(result) - at)
        match generator.randrange(7):
            case 0:
                result[at] ^= 1 << generator.randrange(8)
            case 1:
                del result[at : at + width]
            case 2:
                result[at:at] = result[at : at + width]
            case 3:
                result[at : at + width] = generator.randbytes(width)
            case 4:
                result[at : at + width] = (b"\xff" if generator.random() < 0.5 else b"\0") * width
            case 5:
                del result[at:]
            case _:
                other = generator.randrange(len(result))
                result[at : at + width] = result[other : other + width]
    return bytes(result)


def pieces(generator: random.Random, data: bytes) -> Iterator[bytes]:
    """Cut the data into pieces, most of them large."""
    while data:
        length = generator.choice((1, 7, 100, 5000, len(data)))
        yield data[:length]
        data = data[length:]


def turns(generator: random.Random, requestor: list[bytes], acceptor: list[bytes]) -> list[tuple[Side, bytes]]:
    """Return a few turns of a conversation, about half of them damaged."""
    made = []
    for _ in range(generator.randint(1, 3)):
        side = Side.REQUESTOR if generator.random() < 0.8 else Side.ACCEPTOR
        raw = generator.choice(requestor if side is Side.REQUESTOR else acceptor)
        made.append((side, damaged(generator, raw) if generator.random() < 0.6 else raw))
    return made


def write_corpus() -> None:
    """Write the seeds of the atheris targets anew."""
    for name, seeds in (("pdu", associations() + requests() + answers()), ("dimse", [*map(_command, requests()[:8])])):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (CORPUS / name / f"{number:02}.bin").write_bytes(seed[:4096])


def _command(stream: bytes) -> bytes:
    """The command set of a message."""
    return split_pdus(stream)[0][12:]
