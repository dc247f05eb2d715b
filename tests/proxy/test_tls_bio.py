"""The TLS end of the gateway over memory BIOs, against Python's own ssl module (another OpenSSL) as the peer."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs.tls import profile
from securepacs_proxy import tls_bio
from securepacs_proxy.tls_bio import Buffers, HandshakeRefused, TlsServer, server_context
from tests.support.pki import TestPki, make_pki

BOTH_PATHS = pytest.mark.parametrize("private_api", [True, False], ids=["private-lib", "public-api"])


@dataclass
class Parties:
    """One gateway context and everything needed to make clients for it."""

    pki: TestPki
    context: SSL.Context
    folder: Path

    def client(self, *, name: str = "ct1", version: ssl.TLSVersion | None = None, trusting: bool = True) -> ssl.SSLContext:
        credential = self.pki.credential(CertificateProfile.MODALITY, name)
        return self.client_with(credential, version=version, trusting=trusting)

    def client_with(self, credential: object, *, version: ssl.TLSVersion | None = None, trusting: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        if trusting:
            context.load_verify_locations(self.pki.write_trust(self.folder))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if credential is not None:
            key, certificate = self.pki.write_pem(credential, self.folder)  # type: ignore[arg-type]
            context.load_cert_chain(certificate, key)
        return context


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    pki = make_pki(tmp_path)
    return Parties(pki, gateway_context(pki), tmp_path)


def gateway_context(pki: TestPki, *, crls: bool = True) -> SSL.Context:
    credential = pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway")
    lists = (pki.ca.crl(at=pki.now), pki.ca.root_crl(at=pki.now)) if crls else ()
    return server_context(profile("B.12"), credential=credential, trust=(pki.ca.root,), crls=lists)


class Client:
    """A TLS client over memory BIOs; `talk` moves bytes between it and the server until nothing moves."""

    def __init__(self, context: ssl.SSLContext, server: TlsServer) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.server = server
        self.established = False

    def handshake(self) -> None:
        """Raises HandshakeRefused of the server or SSLError of the client."""
        refusal: HandshakeRefused | None = None
        for _ in range(20):
            if not self.established:
                try:
                    self.tls.do_handshake()
                    self.established = True
                except ssl.SSLWantReadError:
                    pass
            sent = self.to_server()
            try:
                done = self.server.established or (sent > 0 and self.server.handshake())
            except HandshakeRefused as error:
                refusal, done = error, False
            received = self.from_server()
            if refusal is not None:
                raise refusal
            if done and self.established and not received:
                return
        raise AssertionError("the handshake does not end")

    def to_server(self) -> int:
        data = self.outgoing.read()
        self.server.feed(data)
        return len(data)

    def from_server(self) -> int:
        moved = 0
        while data := self.server.pull():
            self.incoming.write(bytes(data))
            moved += len(data)
        return moved

    def read_all(self) -> bytes:
        parts = []
        try:
            while part := self.tls.read(1 << 20):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(parts)


def connect(parties: Parties, client: ssl.SSLContext, *, private_api: bool = True, buffers: Buffers | None = None) -> Client:
    joined = Client(client, TlsServer(parties.context, buffers or Buffers(), private_api=private_api))
    joined.handshake()
    return joined


def read_everything(server: TlsServer, size: int) -> bytes:
    parts = []
    while data := server.read():
        parts.append(bytes(data))
        if len(data) < size:
            break
    return b"".join(parts)


def test_this_installation_has_the_fast_path() -> None:
    assert tls_bio.PRIVATE_API_AVAILABLE


@BOTH_PATHS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_handshake_tells_peer_version_and_cipher(parties: Parties, version: ssl.TLSVersion, private_api: bool) -> None:
    server = connect(parties, parties.client(version=version), private_api=private_api).server
    assert server.established
    assert server.version == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
    assert "GCM" in server.cipher or "CHACHA20" in server.cipher
    assert server.peer_certificate == parties.pki.credential(CertificateProfile.MODALITY, "ct1").certificate or (
        server.peer_certificate is not None and "ct1" in server.peer_certificate.subject.rfc4514_string()
    )
    assert server.peer_chain == (parties.pki.ca.issuing, parties.pki.ca.root)
    assert server.application_protocol == ""


def test_alpn_dicom_is_accepted_when_offered(parties: Parties) -> None:
    client = parties.client()
    client.set_alpn_protocols(["http/1.1", "dicom"])
    joined = connect(parties, client)
    assert joined.server.application_protocol == "dicom"
    assert joined.tls.selected_alpn_protocol() == "dicom"


def test_alpn_without_dicom_goes_on_without(parties: Parties) -> None:
    client = parties.client()
    client.set_alpn_protocols(["http/1.1"])
    joined = connect(parties, client)
    assert joined.tls.selected_alpn_protocol() is None


@BOTH_PATHS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_never_resumed(parties: Parties, version: ssl.TLSVersion, private_api: bool) -> None:
    client = parties.client(version=version)
    first = connect(parties, client, private_api=private_api)
    first.server.write(b"x")
    first.from_server()
    assert first.read_all() == b"x"
    second = Client(client, TlsServer(parties.context, Buffers(), private_api=private_api))
    second.tls = client.wrap_bio(second.incoming, second.outgoing, session=first.tls.session)
    second.handshake()
    assert not second.tls.session_reused


@BOTH_PATHS
def test_bytes_arrive_as_sent_whatever_the_pieces(tmp_path_factory: pytest.TempPathFactory, private_api: bool) -> None:
    folder = tmp_path_factory.mktemp("tls")
    pki = make_pki(folder)
    parties = Parties(pki, gateway_context(pki), folder)
    client, buffers = parties.client(), Buffers(64 * 1024)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=90_000), max_size=6), st.lists(st.integers(1, 70_000), min_size=1, max_size=6))
    def exchange(messages: list[bytes], cuts: list[int]) -> None:
        joined = connect(parties, client, private_api=private_api, buffers=buffers)
        for message in messages:
            joined.tls.write(message)
            joined.server.write(memoryview(bytearray(message)))
        stream, got, position, turn = joined.outgoing.read(), b"", 0, 0
        while position < len(stream):
            step = cuts[turn % len(cuts)]
            joined.server.feed(memoryview(stream)[position : position + step])
            got += read_everything(joined.server, len(buffers.plain))
            position, turn = position + step, turn + 1
        joined.from_server()
        assert got == b"".join(messages)
        assert joined.read_all() == b"".join(messages)
        assert joined.server.ended is None

    exchange()


@BOTH_PATHS
def test_fed_memory_may_be_overwritten_once_settled(tmp_path_factory: pytest.TempPathFactory, private_api: bool) -> None:
    folder = tmp_path_factory.mktemp("tls")
    pki = make_pki(folder)
    parties = Parties(pki, gateway_context(pki), folder)
    client, buffers = parties.client(), Buffers(4096)
    shared = bytearray(70_000)

    @settings(max_examples=25, deadline=None)
    @given(
        st.binary(min_size=1, max_size=90_000),
        st.lists(st.tuples(st.integers(1, 70_000), st.integers(0, 20)), min_size=1, max_size=6),
    )
    def exchange(message: bytes, turns: list[tuple[int, int]]) -> None:
        joined = connect(parties, client, private_api=private_api, buffers=buffers)
        joined.tls.write(message)
        stream, got, position, turn = joined.outgoing.read(), b"", 0, 0
        while position < len(stream):
            step, reads = turns[turn % len(turns)]
            piece = stream[position : position + step]
            shared[: len(piece)] = piece
            joined.server.feed(memoryview(shared)[: len(piece)])
            for _ in range(reads):
                got += bytes(joined.server.read())
            joined.server.settle()
            shared[:] = b"\xa5" * len(shared)
            position, turn = position + step, turn + 1
        assert got + read_everything(joined.server, len(buffers.plain)) == message
        assert joined.server.ended is None

    exchange()


@BOTH_PATHS
def test_a_full_buffer_means_there_may_be_more(parties: Parties, private_api: bool) -> None:
    joined = connect(parties, parties.client(), private_api=private_api, buffers=Buffers(4096))
    joined.tls.write(bytes(10_000))
    joined.to_server()
    full = 4096 + 4096 // 16  # with room for a record that began earlier
    assert [len(joined.server.read()) for _ in range(4)] == [full, full, 10_000 - 2 * full, 0]


@BOTH_PATHS
def test_close_notify_is_told_from_a_broken_stream(parties: Parties, private_api: bool) -> None:
    joined = connect(parties, parties.client(), private_api=private_api)
    joined.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        joined.tls.unwrap()
    joined.to_server()
    assert bytes(joined.server.read()) == b"last words"
    assert joined.server.ended == ""
    joined.server.write(b"answer")  # half closed: the other direction still works
    joined.server.close_notify()
    joined.from_server()
    assert joined.read_all() == b"answer"


@BOTH_PATHS
def test_a_changed_record_breaks_the_stream(parties: Parties, private_api: bool) -> None:
    joined = connect(parties, parties.client(), private_api=private_api)
    joined.tls.write(b"untouched")
    record = bytearray(joined.outgoing.read())
    record[-1] ^= 1
    joined.server.feed(bytes(record))
    assert bytes(joined.server.read()) == b""
    assert joined.server.ended
    assert "mac" in joined.server.ended or "decrypt" in joined.server.ended
    joined.server.write(b"nobody hears this")
    joined.server.close_notify()


@BOTH_PATHS
def test_one_broken_stream_does_not_disturb_another(parties: Parties, private_api: bool) -> None:
    """OpenSSL's error queue belongs to the thread, not to the connection."""
    buffers = Buffers()
    good = connect(parties, parties.client(), private_api=private_api, buffers=buffers)
    bad = connect(parties, parties.client(), private_api=private_api, buffers=buffers)
    bad.server.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert bytes(bad.server.read()) == b""
    assert bad.server.ended
    assert bytes(good.server.read()) == b""
    assert good.server.ended is None


def refusal_of(parties: Parties, client: ssl.SSLContext) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        connect(parties, client)
    return caught.value


def alert_of(parties: Parties, client: ssl.SSLContext) -> str:
    """Return what a TLS 1.2 client is told; in TLS 1.3 its own handshake is over before it is judged."""
    joined = Client(client, TlsServer(parties.context, Buffers()))
    with pytest.raises(HandshakeRefused):
        joined.handshake()
    with pytest.raises(ssl.SSLError) as caught:
        joined.tls.do_handshake()
    return str(caught.value.reason)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_certificate(parties: Parties, version: ssl.TLSVersion) -> None:
    refusal = refusal_of(parties, parties.client_with(None, version=version))
    assert refusal.message == "no certificate was shown"
    assert refusal.claimed == ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_expired(parties: Parties, version: ssl.TLSVersion) -> None:
    long_ago = parties.pki.now - timedelta(days=400)
    pki = make_pki(parties.folder, now=long_ago)
    credential = pki.credential(CertificateProfile.MODALITY, "old", lifetime=timedelta(days=30))
    context = server_context(
        profile("B.12"), credential=parties.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway"), trust=(pki.ca.root,)
    )
    client = parties.client_with(credential, version=version)
    refusal = refusal_of(Parties(parties.pki, context, parties.folder), client)
    assert refusal.message == "certificate: expired"
    assert "CN=old" in refusal.claimed


def test_revoked_and_its_alert(parties: Parties) -> None:
    from cryptography.x509 import ReasonFlags

    credential = parties.pki.credential(CertificateProfile.MODALITY, "stolen")
    parties.pki.ca.revoke(credential.certificate, at=parties.pki.now, reason=ReasonFlags.key_compromise)
    parties.context = gateway_context(parties.pki)
    refusal = refusal_of(parties, parties.client_with(credential))
    assert refusal.message == "certificate: revoked"
    assert "CN=stolen" in refusal.claimed
    assert "REVOKED" in alert_of(parties, parties.client_with(credential, version=ssl.TLSVersion.TLSv1_2))


def test_revocation_is_not_checked_without_lists(parties: Parties) -> None:
    from cryptography.x509 import ReasonFlags

    credential = parties.pki.credential(CertificateProfile.MODALITY, "stolen")
    parties.pki.ca.revoke(credential.certificate, at=parties.pki.now, reason=ReasonFlags.key_compromise)
    parties.context = gateway_context(parties.pki, crls=False)
    assert connect(parties, parties.client_with(credential)).server.established


def test_a_missing_list_refuses(parties: Parties) -> None:
    parties.context = server_context(
        profile("B.12"),
        credential=parties.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway"),
        trust=(parties.pki.ca.root,),
        crls=(parties.pki.ca.root_crl(at=parties.pki.now),),
    )
    refusal = refusal_of(parties, parties.client())
    assert refusal.message == "certificate: no certificate revocation list of its issuer is configured"


def test_unknown_ca(parties: Parties, tmp_path: Path) -> None:
    stranger = make_pki(tmp_path / "other", name="Stranger").credential(CertificateProfile.MODALITY, "ct1")
    refusal = refusal_of(parties, parties.client_with(stranger))
    assert refusal.message.endswith(("issued by an unknown CA", "its path ends at an unknown CA"))
    assert "UNKNOWN_CA" in alert_of(parties, parties.client_with(stranger, version=ssl.TLSVersion.TLSv1_2))


def test_a_server_certificate_is_not_a_client(parties: Parties) -> None:
    credential = parties.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway")
    assert refusal_of(parties, parties.client_with(credential)).message == "certificate: not meant for TLS clients"


def test_a_client_that_does_not_trust_us(parties: Parties) -> None:
    joined = Client(parties.client(trusting=False), TlsServer(parties.context, Buffers()))
    with pytest.raises(ssl.SSLCertVerificationError):
        joined.handshake()
    joined.to_server()
    with pytest.raises(HandshakeRefused) as caught:
        joined.server.handshake()
    assert "unknown ca" in caught.value.message


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
def test_too_old_a_version(parties: Parties) -> None:
    client = parties.client()
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    assert refusal_of(parties, client).message == "no TLS version in common"


def test_no_cipher_in_common(parties: Parties) -> None:
    client = parties.client(version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-RSA-AES256-SHA384")
    assert refusal_of(parties, client).message == "no cipher suite in common"


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n", "not TLS: an HTTP request"),
        (b"POST /dicom-web HTTP/1.1\r\n\r\n", "not TLS: an HTTP request"),
        (b"\x01\x00\x00\x00\x00\xd0\x00\x01\x00\x00ARCHIVE", "not TLS: an unencrypted DICOM association request"),
        (b"\x8f\x12\x00\xff" * 20, "not TLS"),
        (b"\x16\x03\x01\x00\x05\x09hello-and-more-of-it", ""),
    ],
)
@BOTH_PATHS
def test_not_tls_at_all(parties: Parties, opening: bytes, reason: str, private_api: bool) -> None:
    server = TlsServer(parties.context, Buffers(), private_api=private_api)
    server.feed(opening)
    with pytest.raises(HandshakeRefused) as caught:
        server.handshake()
    assert caught.value.message == reason or (not reason and caught.value.message)
    assert caught.value.claimed == ""


def test_the_opening_is_known_when_it_comes_byte_by_byte(parties: Parties) -> None:
    server = TlsServer(parties.context, Buffers())
    reason = ""
    for byte in b"GET / HTTP/1.1\r\n\r\n":
        server.feed(bytes([byte]))
        reason = reason or judge(server)
    assert reason == "not TLS: an HTTP request"


def test_reading_before_the_handshake_gives_nothing(parties: Parties) -> None:
    server = TlsServer(parties.context, Buffers())
    assert not server.handshake()
    assert bytes(server.read()) == b""


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise_is_refused_or_waits_and_never_crashes(shared_context: SSL.Context, noise: bytes) -> None:
    server = TlsServer(shared_context, Buffers(1024))
    server.feed(noise)
    judge(server)
    assert not server.established


def judge(server: TlsServer) -> str:
    """Return why the server refuses, "" while it waits for more."""
    try:
        server.handshake()
    except HandshakeRefused as refusal:
        return refusal.message or "no reason"
    return ""


@pytest.fixture(scope="module")
def shared_context(tmp_path_factory: pytest.TempPathFactory) -> SSL.Context:
    return gateway_context(make_pki(tmp_path_factory.mktemp("shared")))


def test_a_listener_without_trust_is_refused(parties: Parties) -> None:
    with pytest.raises(ConfigError):
        server_context(profile("B.12"), credential=parties.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway"), trust=())


def test_a_key_of_another_certificate_is_refused(parties: Parties) -> None:
    from dataclasses import replace

    one = parties.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway")
    other = parties.pki.credential(CertificateProfile.GATEWAY_SERVER, "another")
    with pytest.raises(ConfigError, match="key values mismatch"):
        server_context(profile("B.12"), credential=replace(one, private_key=other.private_key), trust=(parties.pki.ca.root,))


def test_client_ca_names_are_announced(parties: Parties) -> None:
    """Clients with several certificates choose by this list."""
    seen: Callable[[], object] = SSL.Connection(parties.context, None).get_client_ca_list
    assert [name.CN for name in seen()] == [  # type: ignore[attr-defined]
        parties.pki.ca.root.subject.get_attributes_for_oid(__import__("cryptography").x509.NameOID.COMMON_NAME)[0].value
    ]
