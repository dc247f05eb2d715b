"""Finding the real programs that interop tests talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PKCS11_PROXY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
DCMTK_TOOLS = Path("/usr/bin")  # by absolute path: pynetdicom installs tools of the same names into the virtual environment


def require(path: str) -> str:
    """Return the absolute path of an installed program, or skip the test with the reason."""
    found = path if Path(path).is_absolute() and Path(path).exists() else shutil.which(path)
    if not found:
        pytest.skip(f"{path} is not installed")
    return found


def venv_program(name: str) -> str:
    """Return the absolute path of a program that a Python package brought along, or skip."""
    return require(str(Path(sys.executable).parent / name))


def dcmtk(tool: str) -> str:
    """Return the absolute path of a DCMTK tool, or skip; the banner proves that it is DCMTK's."""
    path = require(str(DCMTK_TOOLS / tool))
    banner = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    if "dcmtk" not in banner.lower():
        pytest.skip(f"{path} is not DCMTK's")
    return path


def syslog_ng() -> tuple[list[str], dict[str, str]]:
    """Return command and environment of syslog-ng, or skip. `./run` unpacks it beside rsyslog, which it excludes as a package."""
    unpacked = Path(sys.prefix) / "debian"
    program = unpacked / "usr/sbin/syslog-ng"
    if not program.exists():
        return [require("syslog-ng")], dict(os.environ)
    libraries = [unpacked / "usr/lib/syslog-ng", *unpacked.glob("usr/lib/*-linux-gnu"), *unpacked.glob("lib/*-linux-gnu")]
    modules = ":".join(str(each.parent) for each in unpacked.glob("usr/lib/syslog-ng/*/libafsocket.so"))
    return [str(program), "--module-path", modules], {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
