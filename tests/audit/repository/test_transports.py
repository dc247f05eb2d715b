"""The same guarantees over every transport: what arrives is kept as it came, bad input costs nobody else's record.

Over TLS the sender is known by its certificate; over plain TCP (RFC 6587) and UDP (RFC 5426) by nothing, and stored so.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from securepacs.audit.repository import AuditRecord, Criteria, Repository, RepositoryServer
from securepacs.audit.syslog import frame, to_syslog
from securepacs.audit.xml import to_xml
from securepacs.errors import Unavailable
from tests.support.audit import AT, LEE, TlsFiles, numbered
from tests.support.net import wait_until
from tests.support.pki import make_pki

MIB = 1024 * 1024
LARGEST_DATAGRAM = 65_507  # UDP over IPv4
BOM = b"\xef\xbb\xbf"
LOOPBACK = ("127.0.0.1", 0)
STREAMS = ("tls", "tcp")
TRANSPORTS = ("tls", "tcp", "tcp-lines", "udp")
GOOD = [to_syslog(numbered(number), hostname="h", app_name="a", procid="1") for number in range(3)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("pki")
    return TlsFiles(make_pki(folder), folder)


class World:
    """A repository that listens on everything, and a sender for each transport."""

    def __init__(self, repository: Repository, server: RepositoryServer, files: TlsFiles) -> None:
        self.repository = repository
        self.server = server
        self.files = files

    def connect(self, transport: str) -> socket.socket:
        if transport == "udp":
            connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            connection.connect(("127.0.0.1", self.server.udp_port))
            return connection
        port = self.server.port if transport == "tls" else self.server.tcp_port
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        if transport != "tls":
            return plain
        return self.files.client_context().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)

    def stream(self, transport: str, data: bytes) -> None:
        """Send octets, close in order, and wait until the server has stored them."""
        connection = self.connect(transport)
        connection.sendall(data)
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap().close()
            return
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
        connection.close()

    def deliver(self, transport: str, records: Sequence[bytes]) -> None:
        """Send records as the transport frames them, and wait until they are stored."""
        if transport == "udp":
            before = len(self.kept())
            with self.connect(transport) as connection:
                for record in records:
                    connection.send(record)
            wait_until(lambda: len(self.kept()) == before + len(records), what="the datagrams in the store")
        elif transport == "tcp-lines":
            self.stream(transport, b"".join(record + b"\n" for record in records))
        else:
            self.stream(transport, b"".join(map(frame, records)))

    def kept(self) -> list[AuditRecord]:
        """Return what came over the network, in order of receipt."""
        found = self.repository.search(Criteria(limit=10_000), reader=LEE, at=AT)
        return sorted((each for each in found if each.transport != "internal"), key=lambda each: each.id)

    def raws(self) -> list[bytes]:
        return [self.repository.raw(each.id) for each in self.kept()]

    def alerts(self, code: str) -> list[str]:
        return [each.description for each in self.repository.search(Criteria(event=code), reader=LEE, at=AT)]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def world(repository: Repository, files: TlsFiles) -> Iterator[World]:
    with RepositoryServer(
        repository,
        host="127.0.0.1",
        port=0,
        context=files.server_context(),
        unsafe_tcp=LOOPBACK,
        unsafe_udp=LOOPBACK,
        frame_seconds=0.5,
    ) as server:
        yield World(repository, server, files)


def test_only_tls_is_listened_to_unless_asked(repository: Repository, files: TlsFiles) -> None:
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()) as server:
        assert server.port
        assert (server.tcp_port, server.udp_port) == (0, 0)
        assert World(repository, server, files).alerts("110129") == []


def test_that_strangers_may_send_is_recorded_at_the_start(world: World) -> None:
    (told,) = world.alerts("110129")
    assert f"TCP port {world.server.tcp_port}, UDP port {world.server.udp_port}" in told


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_records_are_kept_with_what_is_known_of_their_sender(world: World, transport: str) -> None:
    world.deliver(transport, GOOD)
    assert world.raws() == GOOD
    name = transport.removesuffix("-lines")
    assert {(each.transport, each.peer_address, each.verdict) for each in world.kept()} == {(name, "127.0.0.1", "conformant")}
    assert {each.authenticated for each in world.kept()} == {transport == "tls"}
    assert {bool(each.peer_subject and each.peer_sha256) for each in world.kept()} == {transport == "tls"}
    assert {each.to_dict()["authenticated"] for each in world.kept()} == {transport == "tls"}


SIZES = (480, 1180, 2048, 8192, 32_768, LARGEST_DATAGRAM, MIB, MIB + 1)


@pytest.mark.parametrize(
    ("transport", "size"),
    [(name, size) for name in TRANSPORTS for size in SIZES if name != "udp" or size <= LARGEST_DATAGRAM],
)
def test_sizes(world: World, transport: str, size: int) -> None:
    record = b"<85>1 - - - - - - ".ljust(size, b"x")
    world.deliver(transport, [record, b"<85>next"])
    found, after = world.kept()
    assert (found.frame_length, found.frame_sha256) == (size, sha256(record).hexdigest())
    assert found.truncated == (size > MIB)
    assert world.repository.raw(found.id) == record[:MIB]
    assert world.repository.raw(after.id) == b"<85>next"


@pytest.mark.parametrize("transport", ["tls", "tcp", "tcp-lines"])
def test_a_split_at_every_octet(world: World, transport: str) -> None:
    record = b"<85>1 - h a - - - s\xc3\xa9t"
    data = b"".join(frame(each) if transport != "tcp-lines" else each + b"\n" for each in (record, b"<85>second", record))
    connection = world.connect(transport)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(len(data)):
        connection.sendall(data[number : number + 1])
    wait_until(lambda: len(world.kept()) == 3, what="the records")
    connection.close()
    assert world.raws() == [record, b"<85>second", record]
    first, _, again = world.kept()
    assert again.duplicate_of == first.id


HOSTILE = {
    "entity": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><AuditMessage>&x;</AuditMessage>',
    "laughs": b'<!DOCTYPE a [<!ENTITY a "a">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10 if n else b"&a;" * 10) for n in range(12))
    + b"]><AuditMessage>&a11;</AuditMessage>",
    "nul": b"<85>1 - - - - - - <AuditMessage>\0</AuditMessage>",
    "script": to_xml(numbered(1)).replace(b"lee@hospital.example", b"&lt;script&gt;alert(1)&lt;/script&gt;"),
    "deep": b"<a>" * 10_000,
    "plain": b"<13>1 2027-01-01T00:00:00Z host logger 1 - - just a line",
    "old": b"<13>Nov 22 11:00:00 host logger: just a line",
    "one mark before PRI": b"<85>1 - - - - - - " + BOM + to_xml(numbered(1)),
    "marks before XML": b"<85>1 - - - - - - " + BOM + BOM + to_xml(numbered(1)),
    "not UTF-8": b"<85>1 - - - - - - \xff\xfe\x80 text",
    "highest PRI": b"<191>1 - - - - - - text",
    "control characters": b"<85>1 - - - - - - \x1b[2J\x07",
}
GRADED = {"script": "conformant", "one mark before PRI": "conformant", "marks before XML": "conformant"}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", HOSTILE)
def test_whatever_arrives_is_kept_as_it_came(world: World, transport: str, case: str) -> None:
    world.deliver(transport, [HOSTILE[case], GOOD[0]])
    found, after = world.kept()
    assert world.raws() == [HOSTILE[case], GOOD[0]]
    assert (found.verdict == "conformant") == (case in GRADED)
    assert (after.verdict, after.truncated) == ("conformant", False)


@pytest.mark.parametrize("marks", [0, 1, 2])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_byte_order_marks_before_the_record(world: World, transport: str, marks: int) -> None:
    records = [BOM * marks + each for each in GOOD]
    if transport == "tcp-lines":  # the marks before the first record of a connection are before its frame
        records[0] = GOOD[0]
        world.stream(transport, BOM * marks + b"".join(each + b"\n" for each in records))
    else:
        world.deliver(transport, records)
    assert world.raws() == records
    assert {each.verdict for each in world.kept()} == {"conformant"}


LINES_OF_XML = to_xml(numbered(7)).replace(b"><", b">\n<")


@pytest.mark.parametrize("transport", ["tls", "tcp", "udp"])
def test_a_message_of_several_lines(world: World, transport: str) -> None:
    world.deliver(transport, [b"<85>1 - - - - - - " + LINES_OF_XML + b"\r\n", GOOD[0]])
    assert [each.verdict for each in world.kept()] == ["conformant", "conformant"]


def test_lines_that_belong_together_are_all_kept(world: World) -> None:
    """Without octet counts a line end ends a record; the rest of one is kept as records of its own."""
    lines = (b"<85>1 - - - - - - " + LINES_OF_XML).split(b"\n")
    world.deliver("tcp-lines", [*lines, GOOD[0]])
    assert world.raws() == [*lines, GOOD[0]]
    assert world.kept()[-1].verdict == "conformant"


WRONG_COUNTS = {
    "too short": b"10 " + GOOD[1],
    "too long": b"%d " % (len(GOOD[1]) + 50) + GOOD[1],
    "leading zero": b"0%d " % len(GOOD[1]) + GOOD[1],
    "twenty digits": b"9" * 20 + b" " + GOOD[1],
    "negative": b"-5 " + GOOD[1],
    "no space": b"%dx" % len(GOOD[1]) + GOOD[1],
    "nothing after it": b"%d " % len(GOOD[1]),
    "digits alone": b"12",
}


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("case", WRONG_COUNTS)
def test_a_wrong_count_costs_no_record_before_it_and_none_of_the_next_connection(world: World, transport: str, case: str) -> None:
    """What follows it on the connection is kept as octets, truncated: nothing tells where the next frame begins."""
    connection = world.connect(transport)
    connection.sendall(frame(GOOD[0]) + WRONG_COUNTS[case])
    connection.close()
    remnant = 0 if case in ("nothing after it", "digits alone") else 1 if case != "too short" else 2
    wait_until(lambda: len(world.kept()) == 1 + remnant, what="the good record and the rest")
    world.deliver(transport, [GOOD[2]])
    found = world.kept()
    assert (world.raws()[0], world.raws()[-1]) == (GOOD[0], GOOD[2])
    assert [each.truncated for each in found[1:-1]] == [False, True][-remnant:] if remnant else True
    if remnant:
        assert GOOD[1][10:] in b"".join(world.raws()[1:-1])


@pytest.mark.parametrize("transport", STREAMS)
def test_what_arrived_with_a_broken_frame_is_kept(world: World, transport: str) -> None:
    """More than one read takes, in one write: the records in it cannot be told apart any more, their octets are there."""
    after = b"".join(map(frame, GOOD * 100))
    connection = world.connect(transport)
    connection.sendall(frame(GOOD[0]) + b"12x" + after)
    wait_until(lambda: len(world.kept()) == 2, what="the good record and the rest")
    connection.close()
    rest = world.kept()[1]
    assert rest.truncated
    assert (b"12x" + after).startswith(world.repository.raw(rest.id))
    assert rest.frame_length == len(world.repository.raw(rest.id)) >= len(frame(GOOD[1]))


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 20, 100, len(GOOD[1]) - 1])
def test_an_end_in_the_middle_of_a_frame(world: World, transport: str, place: int) -> None:
    whole = frame(GOOD[1])
    connection = world.connect(transport)
    connection.sendall(frame(GOOD[0]) + whole[:place])
    connection.close()
    count = 1 + (place > len(whole) - len(GOOD[1]))
    wait_until(lambda: len(world.kept()) == count, what="what was sent")
    world.deliver(transport, [GOOD[1]])
    raws = world.raws()
    assert (raws[0], raws[-1]) == (GOOD[0], GOOD[1])
    assert [each.truncated for each in world.kept()] == [False, True, False] if count == 2 else True
    assert all(whole[:place].endswith(each) for each in raws[1:-1])


def test_a_last_line_without_its_end_is_kept_as_truncated(world: World) -> None:
    connection = world.connect("tcp-lines")
    connection.sendall(GOOD[0] + b"\n" + GOOD[1][:50])
    connection.close()
    wait_until(lambda: len(world.kept()) == 2, what="both")
    assert world.raws() == [GOOD[0], GOOD[1][:50]]
    assert [each.truncated for each in world.kept()] == [False, True]


@pytest.mark.parametrize("transport", STREAMS)
def test_a_sender_that_stalls_inside_a_frame_is_let_go(world: World, transport: str) -> None:
    connection = world.connect(transport)
    connection.sendall(b"100 half")
    wait_until(lambda: len(world.kept()) == 1, what="the half record")
    world.deliver(transport, [GOOD[0]])
    connection.close()


def test_an_incomplete_stream_ends_in_a_reset(world: World) -> None:
    connection = world.connect("tcp")
    connection.sendall(b"100 half")
    connection.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    connection.close()


def test_a_store_that_fails_resets_the_connection(tmp_path: Path, files: TlsFiles) -> None:
    with Repository(f"sqlite:///{tmp_path}/other.db") as repository:
        server = RepositoryServer(
            repository, host="127.0.0.1", port=0, context=files.server_context(), unsafe_tcp=LOOPBACK
        )  # fmt: skip
        server.start()
        connection = World(repository, server, files).connect("tcp")
        repository._writer.close()
        connection.sendall(frame(GOOD[0]))
        connection.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        connection.close()
        with pytest.raises(Unavailable):
            server.stop()


@pytest.mark.parametrize("place", range(1, 4))
def test_a_datagram_cut_inside_a_character_is_kept_and_marked(world: World, place: int) -> None:
    record = GOOD[0].replace(b"lee@hospital.example", "이@hospital.example".encode())
    cut = record[: record.index("이".encode()) + place]
    world.deliver("udp", [cut, GOOD[1]])
    assert world.raws() == [cut, GOOD[1]]
    first, second = world.kept()
    assert (first.truncated, first.verdict, first.frame_length) == (True, "unparsed", len(cut))
    assert (second.truncated, second.verdict) == (False, "conformant")


def test_empty_datagrams_are_no_records(world: World) -> None:
    with world.connect("udp") as connection:
        connection.send(b"")
    world.deliver("udp", [GOOD[0]])
    assert world.raws() == [GOOD[0]]


def test_a_burst_of_datagrams_is_stored_in_order(world: World) -> None:
    records = [b"<85>1 - - - - - - datagram %d" % number for number in range(2000)]
    world.deliver("udp", records)
    assert world.raws() == records


def test_datagrams_that_come_too_fast_are_counted_and_reported(
    repository: Repository, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("securepacs.audit.repository.datagrams._BUFFER", 4096)
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context(), unsafe_udp=LOOPBACK) as server:
        receiver = server._udp
        assert receiver is not None
        with receiver._changed, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # nothing is taken meanwhile
            for _ in range(500):
                sender.sendto(b"x" * 1000, ("127.0.0.1", receiver.port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

            def reported() -> bool:
                sender.sendto(b"<85>one more", ("127.0.0.1", receiver.port))
                return server._dropped > 0

            wait_until(reported, what="the count of what was dropped")
    world = World(repository, server, files)
    (told,) = world.alerts("110133")
    assert "datagrams were dropped" in told
    assert len(world.kept()) < 500


def _taken(kind: int) -> tuple[socket.socket, tuple[str, int]]:
    taken = socket.socket(socket.AF_INET, kind)
    taken.bind(LOOPBACK)
    if kind == socket.SOCK_STREAM:
        taken.listen()
    return taken, taken.getsockname()


@pytest.mark.parametrize(("option", "kind"), [("unsafe_tcp", socket.SOCK_STREAM), ("unsafe_udp", socket.SOCK_DGRAM)])
def test_a_port_in_use_leaves_nothing_open(
    repository: Repository, files: TlsFiles, option: str, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, address = _taken(kind)
    ended: list[bool] = []
    stop = "securepacs.audit.repository.acceptor.Acceptor.stop"
    original: Callable[..., None] = RepositoryServer.__init__.__globals__["Acceptor"].stop
    monkeypatch.setattr(stop, lambda self: (ended.append(True), original(self)))
    with taken, pytest.raises(Unavailable, match="cannot listen"):
        RepositoryServer(
            repository, host="127.0.0.1", port=0, context=files.server_context(), **{option: address}  # type: ignore[arg-type]
        )  # fmt: skip
    assert ended == [True]
