"""A day's load in ten minutes: 1,000 idle and 50 active associations, nothing lost, nothing grows. Run by ./run test --full."""

from __future__ import annotations

import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support import pdata
from tests.support.gateway import running_gateway
from tests.support.peers import Peer

IDLE, ACTIVE, MINUTES = 1000, 50, 10
IMAGE = 512 * 1024
ALLOWED_GROWTH_KIB = 16 * 1024


@pytest.mark.full
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_a_thousand_idle_and_fifty_active_associations(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    limits = {"max_connections": IDLE + ACTIVE + 50, "idle_seconds": 3600, "max_pdu_length": pdata.PDU}
    with (
        pdata.receiver() as target,
        running_gateway(tmp_path / "gateway", {"ARCHIVE": ("127.0.0.1", target)}, limits=limits) as gateway,
    ):
        context = pdata.client_context(*map(str, gateway.client_files("ct1")))
        idle = [pdata.Sender("127.0.0.1", gateway.port, context) for _ in range(IDLE)]
        assert gateway.process is not None
        peer = Peer("gateway", gateway.port, gateway.process.pid)
        stop = threading.Event()
        stored = [0] * ACTIVE
        faults: list[BaseException] = []

        def work(number: int) -> None:
            try:
                sender = pdata.Sender("127.0.0.1", gateway.port, context)
                while not stop.is_set():
                    sender.send(IMAGE)  # returns when the archive has answered
                    stored[number] += 1
                sender.release()
            except (OSError, SystemExit) as fault:
                faults.append(fault)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(ACTIVE)]
        for thread in threads:
            thread.start()
        stop.wait(60)
        early = peer.memory_kib()
        begun = time.monotonic()
        stop.wait((MINUTES - 1) * 60)
        late = peer.memory_kib()
        stop.set()
        for thread in threads:
            thread.join(60)
        assert faults == []
        assert min(stored) > 0
        assert late - early < ALLOWED_GROWTH_KIB, f"grew from {early:.0f} to {late:.0f} KiB in {time.monotonic() - begun:.0f} s"
        for sender in idle:  # each is still there and is let go in order
            sender.release()
        print(f"{sum(stored)} images, {early:.0f} -> {late:.0f} KiB")


def test_the_receiver_counts_what_it_gets(tmp_path: Path) -> None:
    """The simulator of an archive answers only after the last byte of an image."""
    with pdata.receiver() as target, socket.create_connection(("127.0.0.1", target)) as plain:
        sender = pdata.Sender.over(plain)
        sender.send(IMAGE)
        sender.release()
