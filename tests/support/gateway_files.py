"""A complete, valid gateway configuration on disk, made anew for a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from securepacs.pki import CertificateProfile
from tests.support.pki import TestPki, make_pki

CONFIG = """\
[gateway]
name = "gw1"
ae_title = "SECUREPACS"

[[listener]]
host = "127.0.0.1"
port = 2762
certificate = "gateway.pem"
key = "gateway.key"
trust = ["root.pem"]
crls = ["issuing.crl", "root.crl"]

[[route]]
called_ae_title = "ARCHIVE"
destinations = ["127.0.0.1:11112"]

[[device]]
certificate_common_name = "ct1.hospital.example"
ae_titles = ["CT1"]
roles = ["modality"]

[audit]
spool = "spool"

[[audit.destination]]
host = "localhost"
trust = ["root.pem"]
certificate = "gateway.pem"
key = "gateway.key"
"""


@dataclass(frozen=True)
class GatewayFiles:
    """The folder of a configuration, its PKI, and the text that `write` starts from."""

    folder: Path
    pki: TestPki
    text: str = CONFIG

    @property
    def path(self) -> Path:
        return self.folder / "gateway.toml"

    def write(self, old: str = "", new: str = "", *, text: str | None = None) -> Path:
        """Write the configuration with `old` (which must be there) replaced by `new` once."""
        source = self.text if text is None else text
        assert old in source
        self.path.write_text(source.replace(old, new, 1) if old else source, encoding="utf-8")
        return self.path

    def certificate(self, profile: CertificateProfile, common_name: str, **names: object) -> Path:
        """Issue a certificate, write it, and return its path."""
        return self.pki.write_pem(self.pki.credential(profile, common_name, key_kind="p256", **names), self.folder / "peers")[1]


def gateway_files(folder: Path) -> GatewayFiles:
    """Write keys, certificates, CRLs and gateway.toml into `folder`."""
    pki = make_pki(folder)
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway", key_kind="p256"))
    key.rename(folder / "gateway.key")
    certificate.rename(folder / "gateway.pem")
    pki.write_trust()
    pki.write_crls()
    files = GatewayFiles(folder, pki)
    files.write()
    return files
