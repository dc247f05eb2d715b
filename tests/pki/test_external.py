"""An issuing CA under an external root, made by OpenSSL; and what `pki expiring` prints for programs."""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path

import pytest

from securepacs.errors import UsageError
from securepacs.pki import CertificateAuthority
from tests.pki.test_cli import run
from tests.support.programs import require

CA_EXTENSIONS = """
[root]
basicConstraints=critical,CA:true
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
[issuing]
basicConstraints=critical,CA:true,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
[leaf]
basicConstraints=critical,CA:false
subjectKeyIdentifier=hash
keyUsage=digitalSignature
"""


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run([require("openssl"), *arguments], cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with root.pem, issuing.pem, issuing.key and leaf.pem from a hospital's CA."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "ca.cnf").write_text(CA_EXTENSIONS)
    for name in ("root", "issuing", "leaf"):
        openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
        openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/O=Hospital/CN=Hospital {name}", "-out", f"{name}.csr")
    extensions = ["-extfile", "ca.cnf", "-days", "400", "-sha256"]
    openssl(
        folder, "x509", "-req", "-in", "root.csr", "-signkey", "root.key", "-extensions", "root", "-out", "root.pem", *extensions
    )
    for name in ("issuing", "leaf"):
        signed = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-extensions", name, "-out", f"{name}.pem"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, *extensions)
    (folder / "issuing.key").chmod(0o600)
    (folder / "leaf.key").chmod(0o600)
    return folder


def test_import_issue_revoke(outside: Path, tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    parts = ["--root", outside / "root.pem", "--issuing", outside / "issuing.pem", "--key", outside / "issuing.key"]
    run("import", ca, "--name", "St. Example", *parts)
    assert not (ca / "root.key").exists()
    run("issue", ca, "modality", "--cn", "ct1", "--key-kind", "p256", "-o", tmp_path)
    openssl(tmp_path, "verify", "-x509_strict", "-CAfile", "outside/root.pem", "-untrusted", "outside/issuing.pem", "ct1.pem")
    run("revoke", ca, tmp_path / "ct1.pem")
    run("crl", ca, "-o", tmp_path / "issuing.crl")
    openssl(tmp_path, "crl", "-in", "issuing.crl", "-CAfile", "outside/issuing.pem", "-noout")
    done = run("crl", ca, "-o", tmp_path / "root.crl", "--root", status=2)
    assert "external" in done.stderr
    authority = CertificateAuthority.load(ca)
    with pytest.raises(UsageError):
        _ = authority.root_key


def test_an_external_root_publishes_its_own_crl(outside: Path, tmp_path: Path) -> None:
    import urllib.error
    import urllib.request

    from securepacs.pki.server import serve

    ca = tmp_path / "ca"
    parts = ["--root", outside / "root.pem", "--issuing", outside / "issuing.pem", "--key", outside / "issuing.key"]
    run("import", ca, "--name", "St. Example", *parts)
    with serve(CertificateAuthority.load(ca), folder=ca) as server:
        assert urllib.request.urlopen(f"{server.url}/crl/issuing.crl", timeout=20).status == 200
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{server.url}/crl/root.crl", timeout=20)
        assert caught.value.code == 404


@pytest.mark.parametrize(
    ("root", "issuing", "key", "said"),
    [
        ("root.pem", "leaf.pem", "leaf.key", "may not sign certificates"),
        ("root.pem", "issuing.pem", "leaf.key", "not the key"),
        ("leaf.pem", "issuing.pem", "issuing.key", "was not issued by"),
        ("root.pem", "none.pem", "issuing.key", "none.pem"),
    ],
)
def test_what_does_not_fit_is_refused(outside: Path, tmp_path: Path, root: str, issuing: str, key: str, said: str) -> None:
    parts = ["--root", outside / root, "--issuing", outside / issuing, "--key", outside / key]
    done = run("import", tmp_path / "ca", "--name", "St. Example", *parts, status=2)
    assert said in done.stderr
    assert not (tmp_path / "ca").exists()


def test_expiring_for_programs(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    run("init", ca, "--name", "St. Example")
    run("issue", ca, "modality", "--cn", 'ct "1", A', "--days", "5", "--key-kind", "p256", "-o", tmp_path)
    rows = list(csv.DictReader(io.StringIO(run("expiring", ca, "--csv", status=1).stdout)))
    assert [(row["subject"], row["days_left"], row["alert"]) for row in rows] == [('ct "1", A', "4", "7")]
    metric = run("expiring", ca, "--metric").stdout
    assert metric.count("securepacs_certificate_not_after_seconds{") == 3  # both CAs, too
    assert 'subject="ct \\"1\\", A"' in metric
    run("expiring", ca, "--csv", "--json", status=2)
    assert run("expiring", ca, "--csv", "--within", "1").stdout.count("\n") == 1  # the header alone
