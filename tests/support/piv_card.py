"""A PIV card (NIST SP 800-73-4) that counts its PIN tries, behind a real reader stack: vpcd, pcscd and OpenSC.

SoftHSM never locks a PIN and cannot be pulled out; this card does both. The reader service is system-wide, so it runs in mount and
network namespaces of its own (`piv_host.py`); only its socket is visible here, and PCSCLITE_CSOCK_NAME leads a program to it.
A process can use one PKCS #11 module: programs that use the card run as processes of their own (`run_with_card`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securepacs.tokens.credential import Credential
from tests.support.programs import PKCS11_PROXY_FOLDERS, require

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so", "/usr/lib/aarch64-linux-gnu/opensc-pkcs11.so")
SPIES = ("/usr/lib/x86_64-linux-gnu/pkcs11-spy.so", "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so")
PIN = "271828"
PUK = "31415926"


@dataclass
class PivCard:
    """A card in a reader. `keys` are its slots (9a, 9c, 9d, 9e) in use; `environment` lets another process see the reader."""

    folder: Path
    module: Path
    keys: Mapping[str, Credential]
    host: subprocess.Popen[str] = field(repr=False)
    pin: str = PIN
    puk: str = PUK

    @property
    def environment(self) -> dict[str, str]:
        return {"PCSCLITE_CSOCK_NAME": str(self.folder / "run" / "pcscd.comm"), "OPENSC_CONF": str(self.folder / "opensc.conf")}

    def uri(self, slot: str = "", *, module: Path | None = None) -> str:
        """Return the URI of the card, or of one key: OpenSC numbers the slots 9A, 9C, 9D, 9E from 1."""
        key = f"id=%{['9a', '9c', '9d', '9e'].index(slot) + 1:02X}" if slot else ""
        return f"pkcs11:{key}?module-path={module or self.module}"

    def pull(self) -> None:
        """Take the card out of the reader."""
        self._ask("pull")

    def yank(self) -> None:
        """Take the card out and return at once, before the reader service has noticed."""
        self._ask("yank")

    def insert(self) -> None:
        """Put the card back; the reader has seen it when this returns."""
        self._ask("insert")

    @property
    def state(self) -> dict[str, int]:
        """What the card counted: `tries` and `puk_tries` left, `verify` (PINs given to it), `wrong`, `signed`."""
        return self._ask("state")

    def _ask(self, command: str) -> dict[str, Any]:
        assert self.host.stdin is not None
        assert self.host.stdout is not None
        self.host.stdin.write(command + "\n")
        self.host.stdin.flush()
        answer = self.host.stdout.readline()
        assert answer, f"the card's host ended: {(self.folder / 'host.log').read_text(errors='replace')[-2000:]}"
        return dict(json.loads(answer))


@contextmanager
def piv_card(folder: Path, keys: Mapping[str, Credential]) -> Iterator[PivCard]:
    """Give a card with these keys, inserted; skips the test when the reader stack is missing or namespaces are not allowed."""
    require("pcscd")
    require("unshare")
    module = next((Path(path) for path in MODULES if Path(path).exists()), None)
    if module is None or not Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so").exists():
        pytest.skip("opensc-pkcs11 or vsmartcard-vpcd is not installed")
    if not any(Path(path, "p11-kit-proxy.so").exists() for path in PKCS11_PROXY_FOLDERS):
        pytest.skip("p11-kit-proxy.so is not installed")
    if os.geteuid() or subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a reader service of its own needs root and namespaces")
    folder.mkdir(parents=True, exist_ok=True)
    for slot, credential in keys.items():
        pem = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = folder / f"{slot}.pem"
        path.touch(mode=0o600)
        path.write_bytes(pem + credential.certificate.public_bytes(Encoding.PEM))
    (folder / "opensc.conf").write_text("app default { card_drivers = PIV-II; framework pkcs15 { use_file_caching = no; } }\n")
    with (folder / "host.log").open("wb") as log:
        host = subprocess.Popen(
            ["unshare", "-m", "-n", sys.executable, "-m", "tests.support.piv_host", str(folder), PIN, PUK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    card = PivCard(folder, module, dict(keys), host)
    try:
        card.insert()
        yield card
    finally:
        if host.stdin is not None:
            host.stdin.close()  # the host ends its reader service and itself
        try:
            host.wait(20)
        except subprocess.TimeoutExpired:
            host.kill()
            host.wait(10)
        shutil.rmtree(folder / "run", ignore_errors=True)


def spy_module() -> Path:
    """Return the module that writes down every PKCS #11 call, or skip."""
    found = next((Path(path) for path in SPIES if Path(path).exists()), None)
    if found is None:
        pytest.skip("pkcs11-spy is not installed")
    return found


def start_with_card(card: PivCard, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a program that sees the card's reader."""
    return subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **card.environment, "NO_COLOR": "1", **environment},
    )


def run_with_card(card: PivCard, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees the card's reader to its end."""
    with start_with_card(card, arguments, **environment) as process:
        try:
            out, err = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
