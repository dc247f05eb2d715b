"""PS3.15 D.1 both ways with BouncyCastle: a small Java program (CmsPeer.java), compiled once per session."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from securepacs import media
from securepacs.codes import ID_DIGESTED_DATA, ID_SIGNED_DATA
from securepacs.errors import PasswordIncorrect
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Credential
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.programs import require
from tests.support.samples import sample

pytestmark = pytest.mark.interop

JARS = [f"/usr/share/java/{name}.jar" for name in ("bcprov", "bcutil", "bcpkix")]
PASSWORD = "K7QX-2M4N-P0RS-8TVW-3YZA"
OIDS = {
    "aes128-cbc": "2.16.840.1.101.3.4.1.2",
    "aes192-cbc": "2.16.840.1.101.3.4.1.22",
    "aes256-cbc": "2.16.840.1.101.3.4.1.42",
    "des-ede3-cbc": "1.2.840.113549.3.7",
}
SOURCE = sample("CT_small.dcm")


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    for jar in JARS:
        require(jar)
    classes = tmp_path_factory.mktemp("classes")
    program = str(Path(__file__).with_name("CmsPeer.java"))
    command = [require("javac"), "-nowarn", "-cp", ":".join(JARS), "-d", str(classes), program]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return [require("java"), "-cp", ":".join([str(classes), *JARS]), "CmsPeer"]


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


@pytest.fixture
def signer(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")


@pytest.fixture
def patient(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee")


def write_p12(folder: Path, who: Credential) -> Path:
    path = folder / "who.p12"
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"who", who.private_key, who.certificate, list(who.chain), BestAvailableEncryption(b"test")
        )
    )
    return path


def run(peer: list[str], *arguments: str | Path) -> list[str]:
    done = subprocess.run([*peer, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("cipher", OIDS)
def test_bouncycastle_opens_ours(
    tmp_path: Path, peer: list[str], pki: TestPki, signer: Credential, patient: Credential, cipher: str
) -> None:
    secure, plain = tmp_path / "secure", tmp_path / "plain"
    by_key = ("key", write_p12(tmp_path, patient), "test")
    media.protect(SOURCE, recipients=[patient.certificate], password=PASSWORD, signer=signer, cipher=cipher, output=secure)
    assert run(peer, "read", secure, plain, *by_key) == [ID_SIGNED_DATA, "signed"]
    assert plain.read_bytes() == SOURCE.read_bytes()
    media.protect(SOURCE, recipients=[patient.certificate], password=PASSWORD, cipher=cipher, output=secure)
    plain.unlink()
    assert run(peer, "read", secure, plain, "password", PASSWORD) == [ID_DIGESTED_DATA, "digested"]
    assert plain.read_bytes() == SOURCE.read_bytes()


@pytest.mark.parametrize("cipher", OIDS)
@pytest.mark.parametrize("kind", ["signed", "digested"])
def test_we_open_bouncycastles(
    tmp_path: Path, peer: list[str], pki: TestPki, signer: Credential, patient: Credential, cipher: str, kind: str
) -> None:
    certificates, secure = tmp_path / "to.pem", tmp_path / "secure"
    certificates.write_bytes(pem_of(signer.certificate, patient.certificate))
    p12 = write_p12(tmp_path, signer)
    run(peer, "write", kind, SOURCE, secure, certificates, p12, "test", OIDS[cipher], PASSWORD)
    policy = pki.policy() if kind == "signed" else None
    opened = media.open(secure, patient, policy=policy)
    assert (opened.content, opened.integrity) == (SOURCE.read_bytes(), kind)
    assert opened.origin == ("proven" if kind == "signed" else "not proven")
    assert media.open(secure, password=PASSWORD).content == SOURCE.read_bytes()
    with pytest.raises(PasswordIncorrect):
        media.open(secure, password="another")
    described = media.inspect(secure)
    assert (described.cipher, described.profile, len(described.recipients)) == (cipher, "PS3.15 D.1", 3)
