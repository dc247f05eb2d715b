"""Taking datagrams by itself: what is cut off is noticed, what was taken waits for the store."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from securepacs.audit.repository import Repository
from securepacs.audit.repository.datagrams import DatagramReceiver, is_cut_off
from securepacs.audit.syslog import to_syslog
from securepacs.errors import Unavailable
from tests.support.audit import numbered
from tests.support.net import wait_until

LOOPBACK = ("127.0.0.1", 0)
GOOD = to_syslog(numbered(0), hostname="h", app_name="a", procid="1")


@pytest.mark.parametrize("place", range(len(GOOD) + 1))
def test_every_cut_of_a_message_is_noticed(place: int) -> None:
    began = GOOD.index(b"<AuditMessage") + len(b"<AuditMessage") + 1
    assert is_cut_off(GOOD[:place]) == (began <= place < len(GOOD))
    assert not is_cut_off(GOOD[:place].replace(b"AuditMessage", b"Else"))


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\0", b" \n\0"])
def test_what_senders_put_after_a_message_does_not_make_it_cut_off(ending: bytes) -> None:
    assert not is_cut_off(GOOD + ending)


def test_what_was_received_before_a_stop_is_stored(tmp_path: Path) -> None:
    repository = Repository(f"sqlite:///{tmp_path}/audit.db")
    receiver = DatagramReceiver(repository, *LOOPBACK)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(50):  # the system keeps them until somebody takes them
            sender.sendto(b"<85>datagram %d" % number, ("127.0.0.1", receiver.port))
    receiver.start()
    receiver.stop()
    assert repository.count() == 50
    repository.close()


class Failing:
    """A repository that cannot store until it is told that it can."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.tried = threading.Event()
        self.stored: list[bytes] = []

    def store(self, receipts: Sequence[object]) -> None:
        self.tried.set()
        if not self.works.is_set():
            raise Unavailable("the disk is full")
        self.stored += [each.raw for each in receipts]  # type: ignore[attr-defined]


@pytest.mark.parametrize("recovers", [True, False])
def test_datagrams_wait_for_a_store_that_fails(
    recovers: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("securepacs.audit.repository.datagrams._RETRY_SECONDS", 0.01)
    store = Failing()
    receiver = DatagramReceiver(store, *LOOPBACK)  # type: ignore[arg-type]
    receiver.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"<85>one", ("127.0.0.1", receiver.port))
        assert store.tried.wait(10)
        sender.sendto(b"<85>two", ("127.0.0.1", receiver.port))
    if recovers:
        store.works.set()
        wait_until(lambda: store.stored == [b"<85>one", b"<85>two"], what="both datagrams")
    with caplog.at_level(logging.CRITICAL):
        receiver.stop()
    assert ("2 datagrams are lost" in caplog.text) == (not recovers)
