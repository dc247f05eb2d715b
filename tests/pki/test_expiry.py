"""What is about to expire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs.pki.expiry import expiring
from tests.support.pki import make_pki, pem_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_folder_of_a_ca_without_what_is_revoked(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, now=NOW)
    for name, days in (("late", 90), ("soon", 20), ("gone", 5), ("first", 10)):
        credential = pki.credential(CertificateProfile.AUDITOR, name, key_kind="p256", lifetime=timedelta(days=days))
        if name == "gone":
            pki.ca.revoke(credential.certificate, at=NOW)
    pki.ca.save(tmp_path)
    assert [entry.subject for entry in expiring([tmp_path], before=NOW + timedelta(days=30))] == ["first", "soon"]
    later = [entry.subject for entry in expiring([tmp_path], before=NOW + timedelta(days=30 * 365))]
    assert later[-2:] == ["CN=Test Hospital Issuing CA,O=Test Hospital", "CN=Test Hospital Root CA,O=Test Hospital"]


def test_files(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, now=NOW)
    leaf = pki.credential(CertificateProfile.AUDITOR, "leaf", key_kind="p256", lifetime=timedelta(days=1)).certificate
    (tmp_path / "leaf.pem").write_bytes(pem_of(leaf, pki.ca.issuing))
    found = expiring([tmp_path / "leaf.pem"], before=NOW + timedelta(days=2))
    assert [(entry.serial_number, entry.source) for entry in found] == [(leaf.serial_number, str(tmp_path / "leaf.pem"))]
    assert expiring([tmp_path / "leaf.pem"], before=NOW) == []
    with pytest.raises(ConfigError):
        expiring([tmp_path / "none.pem"], before=NOW)
