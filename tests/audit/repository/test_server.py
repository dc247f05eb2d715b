"""The listener: mutual TLS or an alert, whatever arrives is kept, nobody blocks anybody."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509

from securepacs.audit.repository import AuditRecord, Criteria, Repository, RepositoryServer
from securepacs.audit.syslog import frame, to_syslog
from securepacs.errors import ConfigError, Unavailable
from securepacs.pki import CertificateProfile
from securepacs.tls import client_context, server_context
from tests.support.audit import AT, LEE, TlsFiles, numbered
from tests.support.net import wait_until
from tests.support.pki import TestPki, make_pki


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path / "pki")


@pytest.fixture
def files(pki: TestPki, tmp_path: Path) -> TlsFiles:
    return TlsFiles(pki, tmp_path / "pki")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository(f"sqlite:///{tmp_path}/audit.db") as opened:
        yield opened


@pytest.fixture
def server(repository: Repository, files: TlsFiles) -> Iterator[RepositoryServer]:
    with RepositoryServer(
        repository,
        host="127.0.0.1",
        port=0,
        context=files.server_context(),
        frame_seconds=0.5,
        handshake_seconds=5,
        max_connections=20,
    ) as running:
        yield running


def connect(server: RepositoryServer, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


def deliver(server: RepositoryServer, context: ssl.SSLContext, data: bytes) -> None:
    """Send, close in order, and wait until the server has read it all."""
    connection = connect(server, context)
    connection.sendall(data)
    connection.unwrap().close()


def kept(repository: Repository) -> list[AuditRecord]:
    """Return what came over TLS, in order of receipt."""
    found = repository.search(Criteria(limit=10_000), reader=LEE, at=AT)
    return sorted((each for each in found if each.transport == "tls"), key=lambda each: each.id)


def alerts(repository: Repository) -> list[str]:
    return [each.description for each in repository.search(Criteria(event="110126"), reader=LEE, at=AT)]


def test_records_and_their_sender_are_kept(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    records = [to_syslog(numbered(number), hostname="h", app_name="a", procid="1") for number in range(50)]
    deliver(server, files.client_context(), b"".join(map(frame, records)))
    found = kept(repository)
    assert [repository.raw(each.id) for each in found] == records
    certificate = x509.load_pem_x509_certificate(files.client_cert.read_bytes())
    assert {each.peer_subject for each in found} == {certificate.subject.rfc4514_string()}
    from cryptography.hazmat.primitives.serialization import Encoding

    assert {each.peer_sha256 for each in found} == {sha256(certificate.public_bytes(Encoding.DER)).hexdigest()}
    assert {each.peer_address for each in found} == {"127.0.0.1"}
    assert {each.verdict for each in found} == {"conformant"}


def test_its_own_start_and_stop_are_recorded(repository: Repository, files: TlsFiles) -> None:
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()):
        pass
    found = repository.search(Criteria(event="110100", newest_first=False), reader=LEE, at=AT)
    assert [each.description for each in found] == ["Application Start", "Application Stop"]
    assert {each.transport for each in found} == {"internal"}


def test_what_a_broken_stream_held_is_kept(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    connection = connect(server, files.client_context())
    connection.sendall(frame(b"good") + b"bad")
    wait_until(lambda: len(kept(repository)) == 2, what="the good record and the rest")
    good, rest = kept(repository)
    assert (repository.raw(good.id), good.truncated) == (b"good", False)
    assert (repository.raw(rest.id), rest.truncated) == (b"bad", True)
    assert connection.recv(1) == b"" if _ends_in_order(connection) else True
    connection.close()


def _ends_in_order(connection: ssl.SSLSocket) -> bool:
    try:
        return connection.recv(1) == b""
    except (ssl.SSLEOFError, ConnectionError):
        return False


def test_a_record_the_sender_never_finished_is_kept_as_truncated(
    server: RepositoryServer, repository: Repository, files: TlsFiles
) -> None:
    connection = connect(server, files.client_context())
    connection.sendall(frame(b"good") + b"100 half of i")
    connection.close()
    wait_until(lambda: len(kept(repository)) == 2, what="both records")
    good, half = kept(repository)
    assert (good.truncated, half.truncated) == (False, True)
    assert repository.raw(half.id) == b"half of i"


def test_a_sender_that_stalls_inside_a_record_is_let_go(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    connection = connect(server, files.client_context())
    connection.sendall(b"100 half")
    wait_until(lambda: len(kept(repository)) == 1, what="the half record")
    connection.close()


def test_a_quiet_sender_stays(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    quiet = connect(server, files.client_context())
    stalled = connect(server, files.client_context())
    stalled.sendall(b"100 half")  # twice the time that a stalled one gets
    wait_until(lambda: len(kept(repository)) == 1, what="the stalled sender's end")
    quiet.sendall(frame(b"still here"))
    quiet.unwrap().close()
    stalled.close()
    assert len(kept(repository)) == 2


def test_a_silent_client_blocks_nobody(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    deliver(server, files.client_context(), frame(b"x"))
    assert len(kept(repository)) == 1
    for each in silent:
        each.close()
    assert alerts(repository) == []


def test_connections_beyond_the_limit_are_closed(repository: Repository, files: TlsFiles) -> None:
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context(), max_connections=1) as server:
        first = connect(server, files.client_context())
        with pytest.raises(OSError):  # noqa: PT011  (how the end shows is up to the system)
            connect(server, files.client_context())
        first.sendall(frame(b"x"))
        first.unwrap().close()
        assert len(kept(repository)) == 1


def test_no_certificate_is_refused_with_an_alert(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    context = client_context(trust=[files.trust])
    with pytest.raises(OSError):  # noqa: PT011  (in TLS 1.3 the refusal shows at the first read)
        connect(server, context).recv(1)
    wait_until(lambda: len(alerts(repository)) == 1, what="the alert")
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in alerts(repository)[0]


def test_a_flood_of_refusals_is_two_records(repository: Repository, files: TlsFiles) -> None:
    context = ssl.create_default_context(cafile=str(files.trust))
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context()) as running:
        for number in range(1, 21):
            with suppress(OSError), connect(running, context) as refused:  # TLS 1.3: told after the handshake
                refused.recv(1)
            wait_until(lambda number=number: _refusals(running) == number, what="the refusal")  # type: ignore[misc]
        assert len(alerts(repository)) == 1
    first, rest = sorted(alerts(repository), key=len)
    assert "19 times since" not in first
    assert "19 times since" in rest


def _refusals(server: RepositoryServer) -> int:
    """Return how many refusals a running server has taken."""
    return sum(count + 1 for count in server._refusals._counts.values())


def test_an_expired_certificate_is_refused_with_an_alert(
    server: RepositoryServer, repository: Repository, files: TlsFiles, tmp_path: Path
) -> None:
    past = make_pki(tmp_path / "past", now=datetime.now(UTC) - timedelta(days=30))
    trusting = server_context(certificate=files.server_cert, key=files.server_key, trust=[past.write_trust()])
    credential = past.credential(
        CertificateProfile.GATEWAY_PEER, "gw1.hospital.example", key_kind="p256", lifetime=timedelta(days=1)
    )  # fmt: skip
    key, certificate = past.write_pem(credential)
    context = client_context(trust=[files.trust], certificate=certificate, key=key)
    with RepositoryServer(repository, host="127.0.0.1", port=0, context=trusting) as other:
        with pytest.raises(OSError):  # noqa: PT011
            connect(other, context).recv(1)
        wait_until(lambda: len(alerts(repository)) == 1, what="the alert")
    assert "certificate has expired" in alerts(repository)[0]


def test_an_unknown_ca_is_refused_with_an_alert(
    server: RepositoryServer, repository: Repository, files: TlsFiles, tmp_path: Path
) -> None:
    other = TlsFiles(make_pki(tmp_path / "other", name="Other"), tmp_path / "other")
    context = client_context(trust=[files.trust], certificate=other.client_cert, key=other.client_key)
    with pytest.raises(OSError):  # noqa: PT011
        connect(server, context).recv(1)
    wait_until(lambda: len(alerts(repository)) == 1, what="the alert")


def test_plain_text_is_refused_with_an_alert(server: RepositoryServer, repository: Repository) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(frame(b"<85>1 - - - - - - x"))
        wait_until(lambda: len(alerts(repository)) == 1, what="the alert")
    assert kept(repository) == []


def test_without_mutual_tls_it_does_not_begin(repository: Repository, files: TlsFiles) -> None:
    context = server_context(
        certificate=files.server_cert, key=files.server_key, trust=[files.trust], require_client_certificate=False
    )  # fmt: skip
    with pytest.raises(ConfigError):
        RepositoryServer(repository, host="127.0.0.1", port=0, context=context)


def test_a_port_in_use_is_unavailable(server: RepositoryServer, repository: Repository, files: TlsFiles) -> None:
    with pytest.raises(Unavailable):
        RepositoryServer(repository, host="127.0.0.1", port=server.port, context=files.server_context())


def test_a_store_that_fails_ends_the_connection_unconfirmed(tmp_path: Path, files: TlsFiles) -> None:
    with Repository(f"sqlite:///{tmp_path}/other.db") as repository:
        server = RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context())
        server.start()
        connection = connect(server, files.client_context())
        repository._writer.close()
        connection.sendall(frame(b"x"))
        assert _ends_in_order(connection) is False
        connection.close()
        with pytest.raises(Unavailable):
            server.stop()


def test_stopping_ends_standing_connections(repository: Repository, files: TlsFiles) -> None:
    server = RepositoryServer(repository, host="127.0.0.1", port=0, context=files.server_context())
    server.start()
    connection = connect(server, files.client_context())
    connection.sendall(frame(b"x"))
    wait_until(lambda: len(kept(repository)) == 1, what="the record")
    silent = socket.create_connection(("127.0.0.1", server.port))
    server.stop()
    assert _ends_in_order(connection) is False
    connection.close()
    silent.close()
