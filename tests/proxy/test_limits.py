"""What one peer may take, over all workers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AE, evt

from securepacs.codes import SECURITY_ALERT, VERIFICATION_SOP_CLASS
from securepacs_proxy.workers.listening import PeerCounts
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import wait_until


@pytest.fixture
def archive() -> Iterator[tuple[str, int]]:
    """An archive that answers C-ECHO."""
    entity = AE("ARCHIVE")
    entity.add_supported_context(VERIFICATION_SOP_CLASS)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)])
    assert server is not None
    try:
        yield "127.0.0.1", int(server.server_address[1])
    finally:
        server.shutdown()


def said(gateway: Gateway, words: str) -> bool:
    return any(words in text for text in gateway.texts(event=SECURITY_ALERT.csd_code))


def is_closed_unheard(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as probe:
        probe.settimeout(10)
        try:
            return probe.recv(1) == b""
        except ConnectionResetError:
            return True


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["10.0.0.1", "10.0.0.2", "::1"]), st.booleans()), max_size=60))
def test_an_estimate_is_never_too_low(steps: list[tuple[int, str, bool]]) -> None:
    counts = PeerCounts(3)
    true = dict.fromkeys([(worker, peer) for worker in range(3) for peer in ("10.0.0.1", "10.0.0.2", "::1")], 0)
    for worker, peer, comes in steps:
        if comes or true[worker, peer]:
            true[worker, peer] += 1 if comes else -1
            counts.add(worker, peer, 1 if comes else -1)
    for peer in ("10.0.0.1", "10.0.0.2", "::1"):
        assert counts.estimate(peer) >= sum(number for (_, who), number in true.items() if who == peer)


def test_estimates_are_exact_for_as_many_peers_as_a_hospital_has() -> None:
    counts = PeerCounts(2)
    for number in range(500):
        counts.add(number % 2, f"10.0.{number // 250}.{number % 250}", 3)
    assert sum(counts.estimate(f"10.0.{number // 250}.{number % 250}") == 3 for number in range(500)) >= 499
    counts.clear(0)
    counts.clear(1)
    assert counts.estimate("10.0.0.1") == 0


def test_a_new_window_begins_at_zero() -> None:
    counts = PeerCounts(2)
    counts.add(0, "a", 5, window=7)
    counts.add(1, "a", 2, window=8)
    assert (counts.estimate("a", window=7), counts.estimate("a", window=8)) == (5, 2)
    counts.add(0, "a", 1, window=8)
    assert (counts.estimate("a", window=7), counts.estimate("a", window=8)) == (0, 3)


def test_one_address_has_no_more_than_its_share(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, limits={"max_connections_per_peer": 6}) as gateway:
        kept = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(6)]
        wait_until(lambda: len(gateway.status()) == 6, what="six connections")
        assert all(is_closed_unheard(gateway.port) for _ in range(4))
        wait_until(lambda: said(gateway, "127.0.0.1, too many at the same time"), what="the record")
        for one in kept:
            one.close()
        wait_until(lambda: not gateway.status(), what="the end of the connections")
        association = gateway.associate("ct1", calling="CT1")
        assert association.send_c_echo().Status == 0
        association.release()


def test_one_address_comes_no_more_often_than_it_may(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, limits={"connections_per_minute_per_peer": 5}) as gateway:

        def turned_away() -> bool:
            return is_closed_unheard(gateway.port) and said(gateway, "127.0.0.1, too many in a minute")

        held = []
        for _ in range(5):
            held.append(socket.create_connection(("127.0.0.1", gateway.port)))
        wait_until(turned_away, what="the refusal")
        for one in held:
            one.close()


def test_one_subject_has_no_more_associations_than_it_may(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, limits={"max_associations_per_subject": 3}) as gateway:
        live = [gateway.associate("ct1", calling="CT1") for _ in range(3)]
        assert all(one.is_established for one in live)
        assert not gateway.associate("ct1", calling="CT1").is_established
        other = gateway.associate("peer1", calling="PEER1")
        assert other.is_established
        other.release()
        wait_until(lambda: said(gateway, "ct1 has 3 associations already"), what="the record")
        live.pop().release()
        wait_until(lambda: len(gateway.status()) == 2, what="room")
        again = gateway.associate("ct1", calling="CT1")
        assert again.is_established
        for one in (*live, again):
            one.release()
