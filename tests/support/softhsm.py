"""A private SoftHSM: its own token folder and configuration, chosen by SOFTHSM2_CONF.

SoftHSM reads SOFTHSM2_CONF when it is initialized, once in a process: all tests of a process share one folder, each with tokens of
its own label. Separate processes (pytest-xdist workers) have separate folders.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from securepacs.pki import CertificateProfile
from securepacs.pki.keys import KeyKind
from securepacs.tokens.credential import Credential
from tests.support.pki import TestPki, make_pki
from tests.support.programs import PKCS11_PROXY_FOLDERS, require

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
)

_numbers = itertools.count(1)
_folder: Path | None = None


@dataclass(frozen=True)
class SoftHsmToken:
    """A new token. `uri` names it by label, `environment` lets another process see it."""

    label: str
    module: Path
    pin: str
    so_pin: str
    uri: str
    environment: dict[str, str] = field(repr=False)

    def pin_source(self) -> str:
        return self.pin


def softhsm_token(*, label: str = "", pin: str = "123456", so_pin: str = "87654321") -> SoftHsmToken:
    """Make a token of its own; skips the test when SoftHSM or p11-kit is not installed."""
    tool = require("softhsm2-util")
    module = next((Path(path) for path in MODULES if Path(path).exists()), None)
    if module is None or not any(Path(folder, "p11-kit-proxy.so").exists() for folder in PKCS11_PROXY_FOLDERS):
        pytest.skip("SoftHSM's module or p11-kit-proxy.so is not installed")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    label = label or f"test-{os.getpid()}-{next(_numbers)}"
    environment = {"SOFTHSM2_CONF": str(_configuration())}
    os.environ.update(environment)
    subprocess.run(
        [tool, "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin],
        check=True,
        capture_output=True,
        timeout=60,
    )
    _see_new_tokens(module)
    return SoftHsmToken(label, module, pin, so_pin, f"pkcs11:token={label}?module-path={module}", environment)


def _configuration() -> Path:
    global _folder
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="securepacs-softhsm-"))
        atexit.register(_remove, _folder, os.getpid())
        (_folder / "tokens").mkdir()
        (_folder / "softhsm2.conf").write_text(
            f"directories.tokendir = {_folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = true\n"
        )
    return _folder / "softhsm2.conf"


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in forked children
        shutil.rmtree(folder, ignore_errors=True)


def _see_new_tokens(module: Path) -> None:
    """Let an already running SoftHSM look at its folder again; only safe while nobody uses a token, as between tests."""
    from securepacs.tokens import p11kit
    from securepacs.tokens.openssl_queue import shielded

    with shielded():
        p11kit.library(module).reinitialize()


def see_new_objects(token: SoftHsmToken) -> None:
    """Let SoftHSM look at what another process put into `token`."""
    _see_new_tokens(token.module)


KINDS: tuple[KeyKind, ...] = ("rsa-2048", "rsa-3072", "p256")


@functools.cache
def enrolled_token() -> tuple[SoftHsmToken, TestPki]:
    """Return a token with a key and a certificate of every kind (label is the kind), and the CA that issued; one per process."""
    from securepacs.tokens.pkcs11 import Pkcs11Token

    pki = make_pki(Path(tempfile.gettempdir()))
    token = softhsm_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        for kind in KINDS:
            key = opened.generate(label=kind, kind=kind)
            certificate = pki.ca.issue(
                CertificateProfile.MODALITY,
                common_name=f"device {kind}",
                public_key=key.public_key(),
                at=pki.now,
                dns=["localhost"],
            )
            opened.write_certificate(certificate, label=kind)
    return token, pki


@contextmanager
def token_credential(kind: KeyKind) -> Iterator[Credential]:
    """Give the credential of `enrolled_token` that has a key of this kind, with its chain."""
    from securepacs.tokens.pkcs11 import open_credential

    token, pki = enrolled_token()
    with open_credential(token.uri.replace("?", f";object={kind}?"), pin=token.pin_source) as credential:
        yield replace(credential, chain=pki.ca.chain)
