"""Reading a configuration as one consistent snapshot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509 import ReasonFlags

from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs_proxy import reload
from securepacs_proxy.reload import needs_restart, read_snapshot
from tests.support.gateway import Gateway
from tests.support.pki import make_pki


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", 104)})
    gateway.write()
    return gateway


def test_the_version_covers_every_file(gateway: Gateway) -> None:
    first = read_snapshot(gateway.config)
    assert read_snapshot(gateway.config).version == first.version
    seen = {first.version}
    for name in ("gateway.toml", "root.pem", "gateway.pem", "gateway.key"):
        file = gateway.folder / name
        file.write_bytes(file.read_bytes() + b"\n")
        seen.add(read_snapshot(gateway.config).version)
    gateway.pki.write_crls(gateway.folder)
    seen.add(read_snapshot(gateway.config).version)
    assert len(seen) == 6


def test_a_snapshot_holds_what_a_worker_needs(gateway: Gateway) -> None:
    snapshot = read_snapshot(gateway.config)
    (listener,) = snapshot.listeners
    assert (listener.host, listener.port, listener.profile.name) == ("127.0.0.1", 0, "B.12")
    assert listener.credential.chain == (gateway.pki.ca.issuing,)
    assert len(listener.crls) == 2
    assert snapshot.source("worker-0").AuditSourceID == "gw1/worker-0"
    assert snapshot.source().AuditSourceID == "gw1"


def test_files_that_change_while_they_are_read_are_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = reload.load

    def meddle(path: Path) -> object:
        config = genuine(path)
        crl = gateway.folder / "issuing.crl"
        monkeypatch.setattr(
            reload, "read_private_key", lambda *args, **named: (crl.write_bytes(crl.read_bytes() + b"\n"), key(*args, **named))[1]
        )
        return config

    key = reload.read_private_key
    monkeypatch.setattr(reload, "load", meddle)
    with pytest.raises(ConfigError, match="change while they are read"):
        read_snapshot(gateway.config)


def test_a_key_of_another_kind_is_refused(gateway: Gateway) -> None:
    (gateway.folder / "gateway.key").write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ConfigError):
        read_snapshot(gateway.config)


def test_live_sessions_are_judged_by_new_settings(gateway: Gateway) -> None:
    snapshot = read_snapshot(gateway.config)
    certificate = gateway.pki.credential(CertificateProfile.MODALITY, "ct1").certificate
    subject = snapshot.identify(certificate)
    assert snapshot.verdict(certificate, subject) == ""
    assert snapshot.verdict(certificate, replace(subject, roles=frozenset({"auditor"}))) == "its enrolment was changed"
    stranger = gateway.pki.credential(CertificateProfile.MODALITY, "ct9").certificate
    assert "not enrolled" in snapshot.verdict(stranger, subject)
    gateway.pki.ca.revoke(certificate, at=gateway.pki.now, reason=ReasonFlags.superseded)
    gateway.pki.write_crls(gateway.folder)
    assert read_snapshot(gateway.config).verdict(certificate, subject) == "its certificate was revoked"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "gw1"', 'name = "gw2"', "gateway.name"),
        ("workers = 2", "workers = 3", "gateway.workers"),
        ("quota_mb = 64", "quota_mb = 65", "audit"),
        ("[limits]", "[limits]\nmax_connections = 7", "limits.max_connections"),
        ("port = 0", "port = 2762", "listener"),
        ("[limits]", "[limits]\nidle_seconds = 7", ""),
        ('roles = ["modality"]', 'roles = ["auditor"]', ""),
    ],
)
def test_what_a_running_gateway_cannot_change(gateway: Gateway, old: str, new: str, key: str) -> None:
    before = read_snapshot(gateway.config)
    gateway.config.write_text(gateway.config.read_text().replace(old, new, 1))
    after = read_snapshot(gateway.config)
    assert after.version != before.version
    assert needs_restart(before, after) == key
