"""Throughput of the relay core alone: no sockets, no TLS. Prints MB/s and microseconds per PDU; run it as a program.

.venv/bin/python tests/bench/relay_core.py [--seconds 2]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from securepacs_proxy.commands import Send  # noqa: E402
from securepacs_proxy.events import DataReceived, Side  # noqa: E402
from tests.support.dicom_wire import CONTEXT_ID, CT, Conversation, echo_rq, pdv_pdu, store_rq, store_rsp  # noqa: E402

BATCH = 1 << 20


def associated(max_pdu: int) -> Conversation:
    return Conversation(max_pdu_length=max_pdu).associate(max_length=max_pdu, answer={"max_length": max_pdu})


def stream(max_pdu: int, batch: int, seconds: float) -> tuple[float, float]:
    """One endless image in PDUs of `max_pdu`, fed in batches; return MB/s and microseconds per PDU."""
    talk = associated(max_pdu)
    talk.requestor(store_rq(1, max_pdu=max_pdu, pixels=b"\0" * 64)[:-1])
    # the last byte of the first message is still missing: take a fresh one whose data set goes on
    talk = associated(max_pdu)
    head = store_rq(1, max_pdu=max_pdu)
    unfinished = bytearray(head)
    unfinished[head.rindex(bytes((CONTEXT_ID[CT], 2))) + 1] = 0
    talk.requestor(bytes(unfinished))
    pdu = pdv_pdu((CONTEXT_ID[CT], 0, bytes(max_pdu - 6)))
    data = pdu * -(-4 * batch // len(pdu))
    views = [memoryview(data)[start : start + batch] for start in range(0, len(data), batch)]
    relay, at = talk.relay, talk.at
    events = [DataReceived(Side.REQUESTOR, view) for view in views]
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for event in events:
            relay.handle(event, at=at)
        done += len(data)
    elapsed = time.perf_counter() - started
    return done / elapsed / 1e6, elapsed / (done / len(pdu)) * 1e6


def messages(seconds: float) -> tuple[float, float]:
    """Whole C-STOREs of 64 KiB and C-ECHOs; return microseconds for each exchange (request, response, decision, records)."""
    talk = associated(16384)
    requests = [store_rq(number, max_pdu=16384, pixels=bytes(65536)) for number in range(1, 60)]
    responses = [store_rsp(number) for number in range(1, 60)]
    relay, at = talk.relay, talk.at
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for request, response in zip(requests, responses, strict=True):
            sends = [
                each for each in relay.handle(DataReceived(Side.REQUESTOR, memoryview(request)), at=at) if isinstance(each, Send)
            ]
            if len(sends) != 1:
                raise SystemExit("an image left in more than one piece")
            relay.handle(DataReceived(Side.ACCEPTOR, memoryview(response)), at=at)
        done += len(requests)
    store = (time.perf_counter() - started) / done * 1e6
    denied = Conversation().associate()
    denied.policy.permits = lambda asked: False
    done, started = 0, time.perf_counter()
    request = memoryview(echo_rq(1))
    while time.perf_counter() - started < seconds:
        denied.relay.handle(DataReceived(Side.REQUESTOR, request), at=at)
        done += 1
    return store, (time.perf_counter() - started) / done * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    for max_pdu in (16384, 131072):
        for batch in (BATCH, 262144, 65536):
            rate, cost = stream(max_pdu, batch, seconds)
            print(f"PDU {max_pdu // 1024:4d} KiB, batch {batch // 1024:5d} KiB: {rate:10.0f} MB/s, {cost:6.2f} us/PDU")
    store, refusal = messages(seconds)
    print(f"C-STORE of 64 KiB with its response: {store:.1f} us; refused C-ECHO with its record: {refusal:.1f} us")


if __name__ == "__main__":
    main()
