"""Blocks that gateways share through PostgreSQL: in force everywhere within a second, and in no outage forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest
from pynetdicom import AE, evt

from securepacs.codes import SECURITY_ALERT, VERIFICATION_SOP_CLASS
from securepacs.errors import ConfigError
from securepacs_proxy.blocks import Block, BlockChange, BlockKind, read_unshared
from securepacs_proxy.config import SharedSection, load
from securepacs_proxy.shared import SharedBlocks
from tests.support.gateway import Gateway, running_gateway
from tests.support.gateway_files import gateway_files
from tests.support.net import free_port, wait_until
from tests.support.postgres import Cluster, postgresql

AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with postgresql() as cluster:
        yield cluster


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


def change(value: str, *, active: bool = True, seconds: float = 0, gateway: str = "gw1") -> BlockChange:
    return BlockChange(Block(BlockKind.AE, value, "lost", "kim", AT + timedelta(seconds=seconds)), active, gateway)


def shared(url: str) -> str:
    return f'[shared]\nurl = "{url}"'


def said(gateway: Gateway, *words: str) -> bool:
    return any(all(word in text for word in words) for text in gateway.texts(event=SECURITY_ALERT.csd_code))


def blocked(gateway: Gateway) -> set[str]:
    done = gateway.run("blocks", "--json")
    assert done.returncode == 0, done.stderr
    return {json.loads(line)["value"] for line in done.stdout.splitlines()}


def block(gateway: Gateway, title: str, command: str = "block") -> None:
    done = gateway.run(command, "--ae", title, "--reason", "reported lost")
    assert done.returncode == 0, done.stderr


def test_the_table_keeps_the_last_change_and_never_lets_in_by_accident(cluster: Cluster) -> None:
    one, other = SharedBlocks(SharedSection(url=cluster.url)), SharedBlocks(SharedSection(url=cluster.url))
    try:
        assert other.number() == 0
        one.push([change("CT1"), change("CT2")])
        first = other.number()
        assert first > 0
        assert {row.block.value: row.active for row in other.read()} == {"CT1": True, "CT2": True}
        other.push([change("CT1", active=False, seconds=1, gateway="gw2")])
        assert one.number() > first
        assert one.read()[-1] == change("CT1", active=False, seconds=1, gateway="gw2")
        one.push([change("CT2", active=False, seconds=-1)])  # older than the block it takes back
        assert {row.block.value for row in one.read() if row.active} == {"CT2"}
        one.push([change("CT1", seconds=-60)])  # a block counts, whatever the clock of its gateway says
        assert {row.block.value for row in other.read() if row.active} == {"CT1", "CT2"}
    finally:
        one.close()
        other.close()


def test_a_row_that_is_no_block_is_an_error(cluster: Cluster) -> None:
    table = SharedBlocks(SharedSection(url=cluster.url))
    try:
        table.push([change("CT1")])
        table._connected().execute("UPDATE gateway_block SET value = 'no AE title of this length'")
        with pytest.raises(ConfigError, match="is no block"):
            table.read()
    finally:
        table.close()


def test_a_block_acts_in_all_gateways_within_a_second(tmp_path: Path, archive: tuple[str, int], cluster: Cluster) -> None:
    extra = shared(cluster.url)
    with (
        running_gateway(tmp_path / "a", {"ARCHIVE": archive}, extra=extra) as here,
        running_gateway(tmp_path / "b", {"ARCHIVE": archive}, extra=extra) as there,
    ):
        live, other = there.associate("ct1", calling="CT1"), there.associate("peer1", calling="PEER1")
        assert live.is_established
        block(here, "CT1")
        answered = monotonic()
        wait_until(lambda: live.is_aborted, what="the end of the association at the other gateway")
        assert monotonic() - answered < 1.0
        assert other.send_c_echo().Status == 0
        other.release()
        assert not there.associate("ct1", calling="CT1").is_established
        assert blocked(there) == {"CT1"}
        wait_until(lambda: said(there, "ae CT1 is blocked", "reported lost"), what="the record at the other gateway")
        block(there, "CT1", "unblock")
        wait_until(lambda: blocked(here) == set(), what="the end of the block where it was made")
        wait_until(lambda: said(here, "ae CT1 is no longer blocked"), what="the record")
        again = here.associate("ct1", calling="CT1")
        assert again.is_established
        again.release()


def test_an_outage_keeps_the_list_alarms_and_loses_no_change(tmp_path: Path, archive: tuple[str, int], cluster: Cluster) -> None:
    extra = shared(cluster.url)
    with (
        running_gateway(tmp_path / "a", {"ARCHIVE": archive}, extra=extra) as here,
        running_gateway(tmp_path / "b", {"ARCHIVE": archive}, extra=extra) as there,
    ):
        block(here, "CT1")
        wait_until(lambda: blocked(there) == {"CT1"}, what="the block")
        cluster.stop()
        for gateway in (here, there):
            wait_until(lambda gateway=gateway: said(gateway, "the database of shared blocks fails"), what="the alarm")  # type: ignore[misc]
        block(here, "PEER1")  # acts here at once
        assert not here.associate("peer1", calling="PEER1").is_established
        block(there, "CT1", "unblock")
        assert blocked(here) == {"CT1", "PEER1"}
        assert here.stop() == 0
        here.start("--drain", "2")  # without the database, from its files
        assert blocked(here) == {"CT1", "PEER1"}
        cluster.start()
        wait_until(lambda: blocked(here) == blocked(there) == {"PEER1"}, what="the same list")
        for gateway in (here, there):
            wait_until(lambda gateway=gateway: said(gateway, "answers again"), what="the end of the alarm")  # type: ignore[misc]
        assert read_unshared(here.spool / "blocks-unshared.json", cluster.url) == ()


def test_what_was_blocked_before_is_shared_with_a_new_database(tmp_path: Path, archive: tuple[str, int], cluster: Cluster) -> None:
    with running_gateway(tmp_path / "a", {"ARCHIVE": archive}, workers=1) as here:
        block(here, "CT1")
    here.extra = shared(cluster.url)
    here.write()
    here.start("--drain", "2")
    try:
        with running_gateway(tmp_path / "b", {"ARCHIVE": archive}, extra=shared(cluster.url), workers=1) as there:
            wait_until(lambda: blocked(there) == {"CT1"}, what="the old block in the new gateway")
        assert blocked(here) == {"CT1"}
        assert here.stop() == 0
    finally:
        here.kill()


def test_a_gateway_starts_without_the_database_and_says_so(tmp_path: Path, archive: tuple[str, int]) -> None:
    pytest.importorskip("psycopg", reason="the driver psycopg 3 is not installed")
    extra = shared(f"postgresql://gw@127.0.0.1:{free_port()}/gateways")
    with running_gateway(tmp_path, {"ARCHIVE": archive}, extra=extra) as gateway:
        block(gateway, "CT1")
        assert not gateway.associate("ct1", calling="CT1").is_established
        wait_until(lambda: said(gateway, "the database of shared blocks fails", "changes wait"), what="the alarm")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('url = "postgresql://gw:secret@db/gateways"', "holds a password"),
        ('url = "postgresql://gw@db/gateways?sslmode=disable"', "no address of a PostgreSQL database"),
        ('url = "mysql://gw@db/gateways"', "no address of a PostgreSQL database"),
        ('url = "postgresql://gw@db/gateways"\npassword_file = "absent"', "cannot be read"),
        ('url = "postgresql://gw@db/gateways"\npassword_file = "open"', "others than the owner"),
        ('url = "postgresql://gw@db/gateways"\ntrust = "gateway.key"', "gateway.key"),
    ],
)
def test_what_would_weaken_the_way_to_the_database_is_refused(tmp_path: Path, section: str, message: str) -> None:
    files = gateway_files(tmp_path)
    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    files.write("[audit]", f"[shared]\n{section}\n[audit]")
    with pytest.raises(ConfigError, match=message) as caught:
        load(files.path)
    assert "secret" not in str(caught.value)
