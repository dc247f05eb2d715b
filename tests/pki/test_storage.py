"""A CA in a folder: nothing lost, nothing readable, nothing half written."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from securepacs.errors import ConfigError
from securepacs.pki import CertificateAuthority, CertificateProfile, storage
from securepacs.pki.storage import locked, private_pem, save_register, write_private
from tests.support.pki import TestPki, cached_key, make_pki

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def saved(tmp_path: Path) -> TestPki:
    pki = make_pki(tmp_path / "ca", now=NOW, base_url="http://pki.example")
    pki.credential(CertificateProfile.RADIOLOGIST, "Dr. 방사선", key_kind="p256")
    gone = pki.credential(CertificateProfile.MODALITY, "ct1", key_kind="p256")
    pki.ca.revoke(gone.certificate, at=NOW, reason=x509.ReasonFlags.superseded)
    pki.ca.crl(at=NOW)
    pki.ca.save(pki.folder)
    return pki


def test_round_trip(saved: TestPki) -> None:
    loaded = CertificateAuthority.load(saved.folder)
    assert loaded.register == saved.ca.register
    assert (loaded.name, loaded.base_url) == (saved.ca.name, saved.ca.base_url)
    assert (loaded.root, loaded.issuing) == (saved.ca.root, saved.ca.issuing)
    assert loaded.crl(at=NOW).is_signature_valid(saved.ca.issuing.public_key())  # type: ignore[arg-type]
    assert loaded.root_crl(at=NOW).is_signature_valid(saved.ca.root.public_key())  # type: ignore[arg-type]


def test_modes_of_the_files(saved: TestPki) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.folder.iterdir()}
    assert modes == {"root.key": 0o600, "issuing.key": 0o600, "root.pem": 0o644, "issuing.pem": 0o644, "register.json": 0o644}
    assert saved.folder.stat().st_mode & 0o777 == 0o700


def test_encrypted_keys(saved: TestPki) -> None:
    saved.ca.save(saved.folder, passphrase=b"correct horse")
    assert b"ENCRYPTED" in (saved.folder / "root.key").read_bytes()
    assert CertificateAuthority.load(saved.folder, passphrase=b"correct horse").root == saved.ca.root
    with pytest.raises(ConfigError, match="passphrase is needed") as caught:
        CertificateAuthority.load(saved.folder)
    assert caught.value.key == "passphrase"
    with pytest.raises(ConfigError, match="passphrase is wrong") as caught:
        CertificateAuthority.load(saved.folder, passphrase=b"wrong")
    assert "wrong'" not in str(caught.value)


def test_passphrase_for_keys_without_one(saved: TestPki) -> None:
    with pytest.raises(ConfigError, match="not encrypted"):
        CertificateAuthority.load(saved.folder, passphrase=b"x")


def test_key_that_others_may_read(saved: TestPki) -> None:
    (saved.folder / "issuing.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        CertificateAuthority.load(saved.folder)


@pytest.mark.parametrize("name", ["root.pem", "issuing.pem", "root.key", "issuing.key", "register.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "junk"])
def test_damaged_folder(saved: TestPki, name: str, damage: str) -> None:
    path = saved.folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"junk")
    with pytest.raises(ConfigError):
        CertificateAuthority.load(saved.folder)


def test_mixed_folders(saved: TestPki, tmp_path: Path) -> None:
    other = make_pki(tmp_path / "other", now=NOW)
    other.ca.save(other.folder)
    (saved.folder / "root.pem").write_bytes((other.folder / "root.pem").read_bytes())
    with pytest.raises(ConfigError, match="not issued by"):
        CertificateAuthority.load(saved.folder)


def test_key_of_another_certificate(saved: TestPki) -> None:
    write_private(saved.folder / "issuing.key", private_pem(cached_key("p256", "other")))
    with pytest.raises(ConfigError, match=r"not the key of issuing\.pem"):
        CertificateAuthority.load(saved.folder)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"issued": [{}]}, {"revoked": [{"serial_number": "1", "at": "x", "reason": "y"}]}]
)
def test_register_that_cannot_be_understood(saved: TestPki, change: dict[str, object]) -> None:
    path = saved.folder / "register.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError):
        CertificateAuthority.load(saved.folder)


def test_failed_write_leaves_the_old_file_and_no_rest(saved: TestPki, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (saved.folder / "register.json").read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full_disk)
    saved.ca.register.crl_number += 1
    with pytest.raises(OSError, match="No space"):
        save_register(saved.ca, saved.folder)
    assert (saved.folder / "register.json").read_bytes() == before
    assert not list(saved.folder.glob(".register*"))


def issue_some(folder: Path, count: int) -> None:
    for number in range(count):
        with locked(folder):
            ca = CertificateAuthority.load(folder)
            ca.issue(CertificateProfile.AUDITOR, common_name=f"a{number}", public_key=ca.root_key.public_key(), at=NOW)
            save_register(ca, folder)


def test_processes_that_issue_at_once_lose_nothing(saved: TestPki) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=issue_some, args=(saved.folder, 8)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(CertificateAuthority.load(saved.folder).register.issued) == len(saved.ca.register.issued) + 16


def test_lock_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CA"), locked(tmp_path / "none"):
        pass


def test_times_survive_with_their_zone(saved: TestPki) -> None:
    later = NOW.astimezone().replace(microsecond=0) + timedelta(days=1)
    certificate = saved.credential(CertificateProfile.AUDITOR, "zone", key_kind="p256").certificate
    saved.ca.revoke(certificate, at=later)
    saved.ca.save(saved.folder)
    assert CertificateAuthority.load(saved.folder).register.revoked[certificate.serial_number].at == later
