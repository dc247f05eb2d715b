"""The people and machines of the demonstration: their keys and certificates, and the doctor's smart card."""

from __future__ import annotations

import os
import pty
import secrets
import select
import shutil
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from securepacs.errors import SecurePacsError, Unavailable
from securepacs.pki import CertificateAuthority, CertificateProfile
from securepacs.tokens.credential import Credential
from securepacs.tokens.software import load_pkcs12

SOFTHSM_MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
)
RADIOLOGIST = "Dr. Kim Min-ji"
RADIOLOGIST_EMAIL = "kim@hospital.example"
REFERRING_PHYSICIAN = "Dr. Anna Schmidt"
AUDITOR = "Lee Soo-jin"
MODALITY_HOST = "ct1.hospital.example"
_PERSONALISATION_SECONDS = 30.0


@dataclass(frozen=True)
class Card:
    """A smart card (SoftHSM stands in for the hardware) or, where there is none, a PKCS #12 file. `pin_file` has mode 0600."""

    description: str
    location: str
    pin_file: Path
    hardware: bool
    chain: tuple[x509.Certificate, ...]

    def pin(self) -> str:
        """Return the PIN, as the doctor's fingers would."""
        return self.pin_file.read_text(encoding="ascii").strip()

    def open(self) -> AbstractContextManager[Credential]:
        """Log in: everything inside the block is done with the card's key."""
        if self.hardware:
            return self._smart_card()
        return self._software()

    @contextmanager
    def _smart_card(self) -> Iterator[Credential]:
        from securepacs.tokens.pkcs11 import open_credential

        with open_credential(self.location, pin=self.pin) as credential:
            yield replace(credential, chain=self.chain)  # the CA is not on the card, as on most real ones

    @contextmanager
    def _software(self) -> Iterator[Credential]:
        yield load_pkcs12(Path(self.location), password=lambda: self.pin().encode("ascii"))


@dataclass(frozen=True)
class Cast:
    """Who plays. Key files lie in `folder`, one pair of NAME.key and NAME.pem each."""

    folder: Path
    authority: CertificateAuthority
    gateway: Credential
    gateway_client: Credential
    repository: Credential
    modality: Credential
    referring_physician: Credential
    auditor: Credential
    expired: Credential
    revoked: Credential
    card: Card

    @property
    def trust_file(self) -> Path:
        """The root certificate everybody trusts."""
        return self.folder / "root.pem"

    def files(self, name: str) -> tuple[Path, Path]:
        """Return the (key, certificate) files of one player."""
        return self.folder / f"{name}.key", self.folder / f"{name}.pem"


def gather(folder: Path, authority: CertificateAuthority, *, at: datetime) -> Cast:
    """Make every key and certificate, write them to `folder`, and give the radiologist a card."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def issue(
        profile: CertificateProfile, name: str, *, rsa: bool = False, expired: bool = False, server: bool = False
    ) -> Credential:
        """Issue by profile; those who sign need RSA (PS3.15 C.1)."""
        return authority.issue_credential(
            profile,
            common_name=name,
            at=at - timedelta(days=2) if expired else at,
            key_kind="rsa-3072" if rsa else "p256",
            lifetime=timedelta(hours=1) if expired else None,
            dns=("localhost",) if server else (),
            ip=("127.0.0.1",) if server else (),
        )

    physician = CertificateProfile.REFERRING_PHYSICIAN
    cast = Cast(
        folder=folder,
        authority=authority,
        gateway=issue(CertificateProfile.GATEWAY_SERVER, "gateway.hospital.example", server=True),
        gateway_client=issue(CertificateProfile.GATEWAY_PEER, "audit.gateway.hospital.example", server=True),
        repository=issue(CertificateProfile.AUDIT_REPOSITORY, "audit.hospital.example", server=True),
        modality=issue(CertificateProfile.MODALITY, MODALITY_HOST, rsa=True),
        referring_physician=issue(physician, REFERRING_PHYSICIAN, rsa=True),
        auditor=issue(CertificateProfile.AUDITOR, AUDITOR),
        expired=issue(physician, "Dr. Expired", expired=True),
        revoked=issue(physician, "Dr. Revoked"),
        card=_card(folder, authority, at=at),
    )
    authority.revoke(cast.revoked.certificate, at=at - timedelta(minutes=1))
    for name in ("gateway", "gateway_client", "repository", "modality", "referring_physician", "auditor", "expired", "revoked"):
        _write(folder / name, getattr(cast, name))
    cast.trust_file.write_bytes(authority.root.public_bytes(Encoding.PEM))
    for name, crl in (("issuing", authority.crl(at=at)), ("root", authority.root_crl(at=at))):
        (folder / f"{name}.crl").write_bytes(crl.public_bytes(Encoding.PEM))
    return cast


def _write(stem: Path, credential: Credential) -> None:
    key, certificate = stem.with_suffix(".key"), stem.with_suffix(".pem")
    key.touch(mode=0o600)
    key.write_bytes(credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificates = (credential.certificate, *credential.chain)
    certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in certificates))


def _card(folder: Path, authority: CertificateAuthority, *, at: datetime) -> Card:
    pin_file = folder / "card.pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(f"{secrets.randbelow(10**8):08}\n", encoding="ascii")
    try:
        return _smart_card(folder / "softhsm", authority, pin_file, at=at)
    except Unavailable:
        return _software_token(folder / "card.p12", authority, pin_file, at=at)


def _smart_card(folder: Path, authority: CertificateAuthority, pin_file: Path, *, at: datetime) -> Card:
    """Personalise a SoftHSM token: key made on the token, certificate written back. Unavailable where SoftHSM is missing."""
    tool = shutil.which("softhsm2-util")
    module = next((path for path in SOFTHSM_MODULES if path.exists()), None)
    if tool is None or module is None:
        raise Unavailable("SoftHSM is not installed", retryable=False, hint="apt install softhsm2 p11-kit p11-kit-modules")
    (folder / "tokens").mkdir(mode=0o700, parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n", encoding="utf-8"
    )
    os.environ["SOFTHSM2_CONF"] = str(configuration)  # read by the module, once in a process
    pin = pin_file.read_text(encoding="ascii").strip()
    _answer_prompts([tool, "--init-token", "--free", "--label", "radiologist"], pin)
    from securepacs.tokens.pkcs11 import Pkcs11Token

    uri = f"pkcs11:token=radiologist?module-path={module}"
    try:
        with Pkcs11Token.open(uri, pin=lambda: pin) as token:
            key = token.generate(label=RADIOLOGIST, kind="rsa-3072")
            certificate = authority.issue(
                CertificateProfile.RADIOLOGIST,
                common_name=RADIOLOGIST,
                public_key=key.public_key(),
                at=at,
                email=RADIOLOGIST_EMAIL,
            )
            token.write_certificate(certificate, label=RADIOLOGIST)
    except SecurePacsError as error:
        raise Unavailable(f"the smart card cannot be used here: {error}", retryable=False) from error
    return Card("smart card (SoftHSM through PKCS #11)", uri, pin_file, True, authority.chain)


def _answer_prompts(command: list[str], pin: str) -> None:
    """Run a program that asks for PINs on its terminal and answer each prompt with `pin`, so that none stands on a command line."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    try:
        deadline = time.monotonic() + _PERSONALISATION_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.05)[0]:
                continue
            if os.read(ours, 4096).endswith(b": ") and _stops_echoing(its, deadline):
                os.write(ours, pin.encode("ascii") + b"\n")
    finally:
        if process.poll() is None:
            process.kill()
        os.close(ours)
        os.close(its)
    if process.wait() != 0:
        raise Unavailable("SoftHSM could not make a token", retryable=False)


def _stops_echoing(terminal: int, deadline: float) -> bool:
    """Wait until the program switched the echo off: what is typed before that is thrown away."""
    while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline:
        time.sleep(0.005)
    return time.monotonic() < deadline


def _software_token(path: Path, authority: CertificateAuthority, pin_file: Path, *, at: datetime) -> Card:
    credential = authority.issue_credential(
        CertificateProfile.RADIOLOGIST, common_name=RADIOLOGIST, at=at, key_kind="rsa-3072", email=RADIOLOGIST_EMAIL
    )
    password = pin_file.read_text(encoding="ascii").strip().encode("ascii")
    path.touch(mode=0o600)
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(
            RADIOLOGIST.encode(),
            credential.private_key,
            credential.certificate,
            credential.chain,
            BestAvailableEncryption(password),
        )
    )
    return Card("software token (PKCS #12; SoftHSM is not usable here)", str(path), pin_file, False, authority.chain)
