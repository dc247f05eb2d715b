"""Online revocation checking against the real responders of `securepacs.pki`, and against servers that fail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from securepacs.pki import CertificateProfile, serve
from securepacs.pki.server import PkiServer
from securepacs.tokens.credential import Credential
from securepacs.trust import Indication, PathResult, Purpose, SubIndication, TrustPolicy, validate
from tests.support.http import ScriptedServer, body
from tests.support.net import free_port
from tests.support.pki import Party, TestPki, make_crl, make_party, make_pki, usage

HOSTS = frozenset({"127.0.0.1"})


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path, base_url=f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def doctor(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256")


@pytest.fixture
def server(pki: TestPki) -> Iterator[PkiServer]:
    with serve(pki.ca, port=int(pki.ca.base_url.rpartition(":")[2])) as running:
        yield running


def judge(pki: TestPki, credential: Credential, **changes: object) -> PathResult:
    policy = pki.policy(**{"online": True, "allowed_hosts": HOSTS, **changes})
    return validate(credential.certificate, policy=policy, at=pki.now, purpose=Purpose.SIGNER)


def test_everything_declared_is_fetched_and_good(pki: TestPki, doctor: Credential, server: PkiServer) -> None:
    result = judge(pki, doctor)
    assert (result.indication, result.warnings) == (Indication.TOTAL_PASSED, ())


def test_revoked_online(pki: TestPki, doctor: Credential, server: PkiServer) -> None:
    pki.ca.revoke(doctor.certificate, at=pki.now, reason=x509.ReasonFlags.key_compromise)
    result = judge(pki, doctor)
    assert result.sub_indication == SubIndication.REVOKED
    assert result.revocation_time == pki.now


def test_missing_intermediate_is_fetched(pki: TestPki, doctor: Credential, server: PkiServer) -> None:
    assert judge(pki, doctor, intermediates=()).passed
    assert judge(pki, doctor, intermediates=(), online=False).sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_nobody_answers(pki: TestPki, doctor: Credential) -> None:
    result = judge(pki, doctor)
    assert (result.indication, result.sub_indication) == (Indication.INDETERMINATE, SubIndication.TRY_LATER)


def test_missing_intermediate_and_nobody_answers(pki: TestPki, doctor: Credential) -> None:
    assert judge(pki, doctor, intermediates=()).sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_offline_passes_with_a_warning_and_asks_nobody(pki: TestPki, doctor: Credential, server: PkiServer) -> None:
    pki.ca.revoke(doctor.certificate, at=pki.now)
    result = judge(pki, doctor, online=False)
    assert result.passed
    assert result.warnings == ("revocation-unchecked",)


def test_private_host_that_is_not_listed_is_not_asked(pki: TestPki, doctor: Credential, server: PkiServer) -> None:
    result = judge(pki, doctor, allowed_hosts=frozenset())
    assert result.sub_indication == SubIndication.TRY_LATER
    assert "not a public host" in result.detail


def test_good_crl_at_hand_needs_no_network(pki: TestPki, doctor: Credential) -> None:
    assert judge(pki, doctor, crls=(pki.ca.crl(at=pki.now), pki.ca.root_crl(at=pki.now))).passed


def test_stale_crl_at_hand_is_made_up_for_online(pki: TestPki, doctor: Credential, server: PkiServer) -> None:
    stale = pki.ca.crl(at=pki.now - timedelta(days=30))
    assert judge(pki, doctor, crls=(stale,)).passed
    assert judge(pki, doctor, crls=(stale,), online=False).sub_indication == SubIndication.TRY_LATER


def declaring(issuer: Party, now_pki: TestPki, *, crl: str = "", ocsp: str = "", ldap: str = "") -> x509.Certificate:
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    names = [x509.UniformResourceIdentifier(url) for url in (ldap, crl) if url]
    if names:
        extensions.append((x509.CRLDistributionPoints([x509.DistributionPoint(names, None, None, None)]), False))
    if ocsp:
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp))
        extensions.append((x509.AuthorityInformationAccess([access]), False))
    return make_party(
        "Leaf", now=now_pki.now, issuer=issuer, key_usage=usage(digital_signature=True), extensions=tuple(extensions)
    ).certificate


@pytest.fixture
def root(pki: TestPki) -> Party:
    return make_party("Root", now=pki.now, ca=True, key_usage=usage(key_cert_sign=True, crl_sign=True))


def online(root: Party) -> TrustPolicy:
    return TrustPolicy(anchors=(root.certificate,), online=True, allowed_hosts=HOSTS)


def test_crl_is_asked_when_ocsp_fails_and_ldap_is_left_alone(pki: TestPki, root: Party) -> None:
    crl = make_crl(root, now=pki.now).public_bytes(Encoding.DER)
    with ScriptedServer({"/ocsp": body(b"junk"), "/a.crl": body(crl)}) as http:
        leaf = declaring(root, pki, crl=f"{http.url}/a.crl", ocsp=f"{http.url}/ocsp", ldap="ldap://127.0.0.1/cn=crl")
        assert validate(leaf, policy=online(root), at=pki.now, purpose=Purpose.SIGNER).passed
        assert [path for _, path, _ in http.asked] == ["/ocsp", "/a.crl"]


@pytest.mark.parametrize("answer", [b"", b"junk", b"\x30\x00"])
def test_crl_that_is_none(pki: TestPki, root: Party, answer: bytes) -> None:
    with ScriptedServer({"/a.crl": body(answer)}) as http:
        leaf = declaring(root, pki, crl=f"{http.url}/a.crl")
        result = validate(leaf, policy=online(root), at=pki.now, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.TRY_LATER


def test_crl_of_somebody_else(pki: TestPki, root: Party) -> None:
    stranger = make_party("Stranger", now=pki.now, ca=True)
    with ScriptedServer({"/a.crl": body(make_crl(stranger, now=pki.now).public_bytes(Encoding.DER))}) as http:
        leaf = declaring(root, pki, crl=f"{http.url}/a.crl")
        result = validate(leaf, policy=online(root), at=pki.now, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.TRY_LATER
    assert "other certificates" in result.detail


def test_answers_are_asked_for_once_per_policy(pki: TestPki, root: Party) -> None:
    with ScriptedServer({"/a.crl": body(make_crl(root, now=pki.now).public_bytes(Encoding.DER))}) as http:
        policy, leaf = online(root), declaring(root, pki, crl=f"{http.url}/a.crl")
        for _ in range(5):
            assert validate(leaf, policy=policy, at=pki.now, purpose=Purpose.SIGNER).passed
        assert len(http.asked) == 1


def test_issuer_that_is_fetched_is_still_not_trusted(pki: TestPki, root: Party) -> None:
    """caIssuers leads to a CA of the right name that nobody trusts; then to itself, without end."""
    rogue = make_party("Rogue", now=pki.now, ca=True)
    with ScriptedServer({"/ca.cer": body(rogue.certificate.public_bytes(Encoding.DER))}) as http:
        access = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(f"{http.url}/ca.cer")
        )
        leaf = make_party("Leaf", now=pki.now, issuer=rogue, extensions=((x509.AuthorityInformationAccess([access]), False),))
        result = validate(leaf.certificate, policy=online(root), at=pki.now, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_answers_are_kept_on_disk_and_need_no_server_the_next_time(pki: TestPki, doctor: Credential, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serve(pki.ca, port=int(pki.ca.base_url.rpartition(":")[2])):
        assert judge(pki, doctor, cache_folder=cache).passed
    result = judge(pki, doctor, cache_folder=cache)
    assert (result.indication, result.warnings) == (Indication.TOTAL_PASSED, ())
    assert judge(pki, doctor).sub_indication == SubIndication.TRY_LATER


def test_revoked_answer_is_kept_too(pki: TestPki, root: Party, tmp_path: Path) -> None:
    with ScriptedServer({}) as http:
        leaf = declaring(root, pki, crl=f"{http.url}/a.crl")
    crl = make_crl(root, now=pki.now, revoked={leaf.serial_number: (pki.now - timedelta(hours=1), None)})
    with ScriptedServer({"/a.crl": body(crl.public_bytes(Encoding.DER))}, port=int(http.url.rpartition(":")[2])):
        assert validate(leaf, policy=cached(root, tmp_path), at=pki.now, purpose=Purpose.SIGNER).revocation_time
    result = validate(leaf, policy=cached(root, tmp_path), at=pki.now, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.REVOKED


def cached(root: Party, folder: Path) -> TrustPolicy:
    return TrustPolicy(anchors=(root.certificate,), online=True, allowed_hosts=HOSTS, cache_folder=folder / "cache")


@pytest.mark.parametrize("poison", ["junk", "stranger", "stale"])
def test_poisoned_entry_is_asked_for_again(pki: TestPki, root: Party, tmp_path: Path, poison: str) -> None:
    """What stands in the cache decides only if it would decide when it came from the network."""
    stranger = make_party("Root", now=pki.now, ca=True, key_usage=usage(key_cert_sign=True, crl_sign=True))
    past = pki.now - timedelta(days=20)
    planted = {
        "junk": b"junk",
        "stranger": make_crl(stranger, now=pki.now).public_bytes(Encoding.DER),
        "stale": make_crl(root, now=past).public_bytes(Encoding.DER),
    }[poison]
    good = make_crl(root, now=pki.now).public_bytes(Encoding.DER)
    with ScriptedServer({"/a.crl": body(good)}) as http:
        url = f"{http.url}/a.crl"
        leaf = declaring(root, pki, crl=url)
        cached(root, tmp_path).fetcher.store(url, b"", planted, until=pki.now.timestamp() + 3600)
        for _ in range(2):  # the second time it is good, and nobody is asked
            assert validate(leaf, policy=cached(root, tmp_path), at=pki.now, purpose=Purpose.SIGNER).passed
        assert len(http.asked) == 1


def test_useless_answers_are_not_kept(pki: TestPki, root: Party, tmp_path: Path) -> None:
    stale = make_crl(root, now=pki.now - timedelta(days=20)).public_bytes(Encoding.DER)
    with ScriptedServer({"/a.crl": body(stale)}) as http:
        leaf = declaring(root, pki, crl=f"{http.url}/a.crl")
        result = validate(leaf, policy=cached(root, tmp_path), at=pki.now, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.TRY_LATER
    assert list((tmp_path / "cache").iterdir()) == []


def test_issuer_is_not_fetched_from_hosts_that_are_not_listed(
    pki: TestPki, doctor: Credential, server: PkiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a public host is not asked for the sake of a certificate that chains to nobody we trust."""
    asked: list[object] = []
    monkeypatch.setattr("securepacs.trust.fetch.socket.getaddrinfo", lambda *arguments, **options: asked.append(arguments))
    result = judge(pki, doctor, intermediates=(), allowed_hosts=frozenset())
    assert result.sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND
    assert asked == []
