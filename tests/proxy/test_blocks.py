"""Blocks: what they match, that they are kept, and that a running gateway follows them in all workers within a second."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import pytest
from cryptography import x509
from pynetdicom import AE, evt

from securepacs.codes import SECURITY_ALERT, USER_SECURITY_ATTRIBUTES_CHANGED, VERIFICATION_SOP_CLASS
from securepacs.errors import ConfigError, UsageError
from securepacs.policy.subject import AccessRequest, Decision, Effect, Subject, SubjectKind
from securepacs_proxy.blocks import (
    Block,
    BlockKind,
    BlockList,
    normalised,
    read_blocks,
    write_blocks,
)
from securepacs_proxy.guard import AssociationPolicy
from tests.support.gateway import Gateway, running_gateway, text_of
from tests.support.net import wait_until

AT = datetime(2026, 3, 1, tzinfo=UTC)
SUBJECT = Subject(SubjectKind.PERSON, "j.lee@example.org", "Lee Jin", certificate_serial="a1b2c3")


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


def block(kind: BlockKind, value: str) -> Block:
    return Block(kind, normalised(kind, value), "card lost", "root", AT)


@pytest.mark.parametrize(
    ("kind", "value", "host", "matches"),
    [
        (BlockKind.SERIAL, "A1:B2:C3", "", True),
        (BlockKind.SERIAL, "0x00A1B2C3", "", True),
        (BlockKind.SERIAL, "a1b2c", "", False),
        (BlockKind.SUBJECT, "J.Lee@Example.org", "", True),
        (BlockKind.SUBJECT, "lee jin", "", True),
        (BlockKind.SUBJECT, "lee", "", False),
        (BlockKind.PEER, "10.1.0.0/16", "10.1.255.7", True),
        (BlockKind.PEER, "10.1.2.3", "::ffff:10.1.2.3", True),
        (BlockKind.PEER, "10.1.2.3", "10.1.2.4", False),
        (BlockKind.PEER, "fe80::/10", "fe80::1%eth0", True),
        (BlockKind.AE, "CT1", "10.1.2.3", False),  # is asked about apart
    ],
)
def test_what_a_block_matches(kind: BlockKind, value: str, host: str, matches: bool) -> None:
    found = BlockList([block(kind, value)]).of(SUBJECT, host)
    assert (found is not None) is matches


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (BlockKind.SERIAL, "xyz"),
        (BlockKind.SERIAL, "0"),
        (BlockKind.PEER, "10.1.2.3/16"),
        (BlockKind.PEER, "pacs.example"),
        (BlockKind.AE, "SEVENTEEN_LETTERS"),
        (BlockKind.SUBJECT, " "),
        (BlockKind.SUBJECT, "two\nlines"),
    ],
)
def test_what_could_match_nothing_is_refused(kind: BlockKind, value: str) -> None:
    with pytest.raises(UsageError):
        normalised(kind, value)


def test_a_subject_without_a_serial_number_matches_no_serial() -> None:
    assert BlockList([block(BlockKind.SERIAL, "1")]).of(Subject(SubjectKind.DEVICE, "ct1", "ct1"), "10.0.0.1") is None


def test_the_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "blocks.json"
    assert list(read_blocks(path)) == []
    blocks = BlockList().adding(block(BlockKind.SERIAL, "AB")).adding(block(BlockKind.PEER, "10.0.0.1"))
    write_blocks(path, blocks)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_blocks(path).blocks == blocks.blocks
    assert [entry.name for entry in tmp_path.iterdir()] == ["blocks.json"]
    again = blocks.adding(Block(BlockKind.SERIAL, "ab", "other reason", "root", AT))
    assert [one.reason for one in again] == ["card lost", "other reason"]
    with pytest.raises(UsageError, match="is not blocked"):
        blocks.without(BlockKind.AE, "CT1")


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"kind": "serial"}]', '[{"kind":"peer","value":"x","reason":"","by":"","since":""}]']
)
def test_a_damaged_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "blocks.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="damaged"):
        read_blocks(path)


class Permits:
    """A policy that permits everything."""

    version = "1"
    reads_study = False

    def decide(self, request: AccessRequest) -> Decision:
        return Decision(Effect.PERMIT)


def test_a_blocked_ae_title_is_refused_before_the_policy_is_asked() -> None:
    policy = AssociationPolicy(Permits(), BlockList([block(BlockKind.AE, "CT1")]))
    request = AccessRequest(SUBJECT, "Associate", "ARCHIVE", AT, calling_ae_title="CT1")
    decision = policy.decide(request)
    assert not decision.permitted
    assert decision.policies == ("blocked",)
    assert decision.reason == "blocked by root (ae CT1): card lost"
    assert policy.ae_titles == ("CT1", "ARCHIVE")
    policy.blocks = BlockList()
    assert policy.decide(request).permitted


def associations_in_both_workers(gateway: Gateway) -> list[object]:
    live = []

    def one_more() -> bool:
        live.append(gateway.associate("ct1", calling="CT1"))
        return {row["worker"] for row in gateway.status()} == {"worker-0", "worker-1"}

    wait_until(one_more, seconds=60, what="an association in each worker")
    return live


@pytest.mark.parametrize("kind", ["serial", "subject", "ae", "peer"])
def test_a_block_acts_in_all_workers_and_after_a_restart(tmp_path: Path, archive: tuple[str, int], kind: str) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}) as gateway:
        live = associations_in_both_workers(gateway)
        other = gateway.associate("peer1", calling="PEER1")
        assert {row["calling_ae_title"] for row in gateway.status()} == {"CT1", "PEER1"}
        certificate = x509.load_pem_x509_certificate((gateway.folder / "clients" / "ct1.pem").read_bytes())
        value = {"serial": f"{certificate.serial_number:X}", "subject": "CT1", "ae": "CT1", "peer": "127.0.0.0/8"}[kind]
        done = gateway.run("block", f"--{kind}", value, "--reason", "card reported lost")
        answered = monotonic()
        assert done.returncode == 0, done.stderr
        wait_until(lambda: all(one.is_aborted for one in live), what="the end of every live association")  # type: ignore[attr-defined]
        assert monotonic() - answered < 1.0  # the answer came when every worker had followed
        assert f"{len(live) + (kind == 'peer')} live associations were ended" in done.stdout
        assert not gateway.associate("ct1", calling="CT1").is_established
        if kind != "peer":
            assert other.send_c_echo().Status == 0
            other.release()
        assert stat.S_IMODE((gateway.spool / "blocks.json").stat().st_mode) == 0o600

        assert gateway.stop() == 0
        gateway.start("--drain", "2")
        assert not gateway.associate("ct1", calling="CT1").is_established
        (row,) = [json.loads(line) for line in gateway.run("blocks", "--json").stdout.splitlines()]
        assert (row["kind"], row["reason"]) == (kind, "card reported lost")
        assert gateway.run("unblock", f"--{kind}", value, "--reason", "card found").returncode == 0
        again = gateway.associate("ct1", calling="CT1")
        assert again.is_established
        again.release()
        assert gateway.run("unblock", f"--{kind}", value, "--reason", "card found").returncode == 2

        def recorded() -> bool:
            changes = [
                text_of(message)
                for message in gateway.records(event=SECURITY_ALERT.csd_code)
                if message.EventIdentification.EventTypeCode[0].csd_code == USER_SECURITY_ATTRIBUTES_CHANGED.csd_code
            ]
            return (
                sum("is blocked, by " in text and "card reported lost" in text for text in changes) == 1
                and sum("is no longer blocked, by " in text and "card found" in text for text in changes) == 1
            )

        wait_until(recorded, what="the records")
        assert any("was ended: blocked by" in text for text in gateway.texts())


def test_a_block_needs_a_reason_a_single_value_and_a_running_gateway(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, workers=1) as gateway:
        assert gateway.run("block", "--ae", "CT1").returncode == 2
        assert gateway.run("block", "--ae", "CT1", "--peer", "10.0.0.1", "--reason", "x").returncode == 2
        refused = gateway.run("block", "--peer", "nowhere", "--reason", "x")
        assert refused.returncode == 2
        assert "IP address" in refused.stderr
        assert not (gateway.spool / "blocks.json").exists()
    assert gateway.run("block", "--ae", "CT1", "--reason", "x").returncode == 5


def test_a_damaged_list_keeps_the_gateway_from_starting(tmp_path: Path, archive: tuple[str, int]) -> None:
    with running_gateway(tmp_path, {"ARCHIVE": archive}, workers=1) as gateway:
        assert gateway.stop() == 0
        (gateway.spool / "blocks.json").write_text("[{")
        done = gateway.run("run")
        assert done.returncode == 2
        assert "list of blocks" in done.stderr
