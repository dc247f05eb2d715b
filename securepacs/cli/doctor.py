"""`securepacs doctor`: what this computer brings along, and what is missing, in one table.

Nothing is changed and no PIN is asked, except with --token: then one login, and one signature with every key.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from securepacs.cli import output
from securepacs.cli.keys import PinEnvOption, PinFileOption
from securepacs.errors import TokenError

MODULES = {
    "OpenSC": "opensc-pkcs11.so",
    "Yubico": "libykcs11.so",
    "SoftHSM": "softhsm/libsofthsm2.so",
    "TPM": "libtpm2_pkcs11.so.1",
}
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
_LIST_MODULE = """
import json, sys
from pathlib import Path
from securepacs.errors import SecurePacsError
from securepacs.tokens.pkcs11 import Pkcs11Token, list_tokens
try:
    for info in list_tokens(Path(sys.argv[1])):
        with Pkcs11Token.open(info.uri) as token:
            held = [[c.subject.rfc4514_string(), c.not_valid_after_utc.isoformat()] for _, _, c in token.certificates()]
        print(json.dumps([info.label, info.pin, info.tries_left, info.uri, held]))
except SecurePacsError as error:
    print(json.dumps(str(error)))
"""
_WARNING_DAYS = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: `state` is ok, warning or failed."""

    area: str
    what: str
    state: str
    detail: str


@output.reports_errors
def doctor(
    token: Annotated[str | None, typer.Option("--token", help="Log in at this token and sign with every key of it.")] = None,
    module: Annotated[
        list[Path] | None, typer.Option("--module", help="PKCS #11 module to ask; the known ones when not given.")
    ] = None,
    store: Annotated[list[Path] | None, typer.Option("--store", help="Spool or store: mode 0700, on an encrypted volume?")] = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
) -> None:
    """Look at time, crypto libraries, card readers, tokens, certificates and stores. Exit code 1 when something failed."""
    findings = [*clock(), *libraries(), *card_stack()]
    for name, path in _modules(module):
        findings += tokens_of(name, path)
    if token is not None:
        findings += _signatures(token, pin_file, pin_env)
    for path in store or ():
        findings += store_findings(path)
    if as_json:
        for finding in findings:
            output.print_json({"area": finding.area, "what": finding.what, "state": finding.state, "detail": finding.detail})
    else:
        columns = ("area", "what", "state", "detail")
        output.print_table("doctor", columns, [(one.area, one.what, one.state, one.detail) for one in findings])
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def clock() -> Iterator[Finding]:
    """Whether something keeps the clock right: records and signatures carry its time."""
    from securepacs.audit.ntp import clock_state

    state = clock_state()
    advice = "" if state.right else ": run chrony or systemd-timesyncd"
    yield Finding("time", "synchronized", "ok" if state.right else "warning", f"{state}{advice}")


def libraries() -> Iterator[Finding]:
    """Which OpenSSL does what, from where, and whether Python can do TLS with a key inside a token."""
    from cryptography.hazmat.backends.openssl import backend
    from cryptography.hazmat.bindings import _rust

    yield Finding("crypto", "signatures, gateway", "ok", f"{backend.openssl_version_text()}, in {_rust.__file__}")
    loaded = sorted(set(re.findall(r"(/\S*lib(?:ssl|crypto)\S*\.so\S*)", _maps())))
    where = ", ".join(loaded) if loaded else "inside the interpreter"
    yield Finding("crypto", "ssl of Python", "ok", f"{ssl.OPENSSL_VERSION}, {where}")
    if importlib.util.find_spec("sslcontext") is None:
        yield Finding("crypto", "TLS with a token", "warning", "sslcontext is missing: pip install 'securepacs[tokens]'")
    elif not any("libssl" in path for path in loaded):
        yield Finding(
            "crypto", "TLS with a token", "failed", "this Python has libssl inside itself; use your distribution's Python"
        )
    else:
        yield Finding("crypto", "TLS with a token", "ok", f"sslcontext {importlib.metadata.version('sslcontext')}")


def _maps() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""


def card_stack() -> Iterator[Finding]:
    """The reader service with its readers, p11-kit, and pinentry."""
    from securepacs.tokens.pcsc import card_in, readers

    try:
        found = readers()
    except TokenError as error:
        yield Finding("cards", "reader service", "warning", str(error))
    else:
        yield Finding("cards", "reader service", "ok", f"{len(found)} readers")
        for name in found:
            yield Finding("cards", name, "ok", "card in" if card_in(name) else "no card")
    proxy = next(
        (Path(folder, "p11-kit-proxy.so") for folder in _LIBRARY_FOLDERS if Path(folder, "p11-kit-proxy.so").exists()), None
    )
    yield Finding("cards", "p11-kit", "ok" if proxy else "failed", str(proxy or "not installed: apt install p11-kit-modules"))
    pinentry = shutil.which("pinentry")
    yield Finding("cards", "pinentry", "ok" if pinentry else "warning", pinentry or "not installed: the agent asks at the terminal")


def _modules(named: list[Path] | None) -> list[tuple[str, Path]]:
    if named:
        return [(path.name, path) for path in named]
    places = ((name, Path(folder, file)) for name, file in MODULES.items() for folder in _LIBRARY_FOLDERS)
    return list({name: path for name, path in places if path.exists()}.items())


def tokens_of(name: str, module: Path) -> Iterator[Finding]:
    """What a module sees; in a process of its own, for a process can use one module, and a bad one may crash it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LIST_MODULE, str(module)], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding("token", name, "failed", f"{module} does not answer")
        return
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        yield Finding("token", name, "failed", f"{module} cannot be used (exit code {done.returncode})")
    elif not lines:
        yield Finding("token", name, "ok", f"{module}: no token")
    for line in lines:
        if isinstance(line, str):
            yield Finding("token", name, "failed", line)
            continue
        label, pin, tries, uri, held = line
        left = "" if tries is None else f", {tries} tries left"
        yield Finding("token", label, "ok" if pin in ("ok", "count-low") else "failed", f"{name}, PIN {pin}{left}, {uri}")
        yield from (_certificate(label, subject, datetime.fromisoformat(until)) for subject, until in held)


def _certificate(label: str, subject: str, until: datetime) -> Finding:
    left = (until - datetime.now(UTC)).days
    state = "failed" if left < 0 else "warning" if left < _WARNING_DAYS else "ok"
    return Finding("certificate", label, state, f"{subject}, until {until:%Y-%m-%d} ({left} days)")


def _signatures(uri: str, pin_file: Path | None, pin_env: str | None) -> Iterator[Finding]:
    from securepacs.cli.keys import needs_tokens_extra

    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token
    from securepacs.tokens.pin import pin_source
    from securepacs.tokens.probe import probe

    try:
        with Pkcs11Token.open(uri, pin=pin_source(pin_file=pin_file, pin_env=pin_env, prompt="PIN: ")) as token:
            for credential in token.credentials():
                result = probe(credential)["sign"]
                yield Finding("signature", credential.label, "ok" if result == "ok" else "failed", result)
    except TokenError as error:
        tries = getattr(error, "tries_left", None)
        yield Finding("signature", "login", "failed", str(error) if tries is None else f"{error}, {tries} tries left")


def store_findings(path: Path) -> Iterator[Finding]:
    """Whether only its owner may look into a folder, and whether it lies on an encrypted volume (dm-crypt)."""
    try:
        status = path.stat()
    except OSError as error:
        yield Finding("store", str(path), "failed", error.strerror or "cannot be read")
        return
    mode = stat.S_IMODE(status.st_mode)
    private = stat.S_ISDIR(status.st_mode) and not mode & 0o077
    yield Finding("store", str(path), "ok" if private else "failed", f"mode {mode:04o}{'' if private else ': chmod 700'}")
    encrypted = is_encrypted(_device_of(path, status))
    if encrypted is None:
        yield Finding("store", str(path), "warning", "the volume does not tell whether it is encrypted")
    else:
        yield Finding("store", str(path), "ok" if encrypted else "warning", f"on {'an' if encrypted else 'no'} encrypted volume")


def _device_of(path: Path, status: os.stat_result) -> str:
    """Return major:minor of the block device below a path; btrfs and others have numbers of their own, mountinfo the device."""
    own = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return own
    for fields in lines:
        if fields[2] == own:
            source = Path(fields[fields.index("-") + 2])
            if source.is_block_device():
                number = source.stat().st_rdev
                return f"{os.major(number)}:{os.minor(number)}"
    return own


def is_encrypted(device: str, *, sys_folder: Path = Path("/sys/dev/block")) -> bool | None:
    """Tell whether a block device, or what it is made of, is dm-crypt; None when it is no block device of this system."""
    folder = sys_folder / device
    if not folder.exists():
        return None
    uuid = folder / "dm" / "uuid"
    if uuid.exists() and uuid.read_text().startswith("CRYPT-"):
        return True
    below = [part / "dev" for part in (folder / "slaves").glob("*")]
    return bool(below) and all(is_encrypted(part.read_text().strip(), sys_folder=sys_folder) for part in below)
