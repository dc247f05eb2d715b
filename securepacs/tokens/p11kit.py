"""Loads one PKCS #11 module behind p11-kit-proxy, and nothing else (docs/adr/0003-pkcs11-through-p11-kit.md).

python-pkcs11 initializes a module without locking and calls it from many threads; p11-kit's proxy in between initializes it with
locking. By itself p11-kit loads every module registered on the computer, so its configuration is replaced, inside this process
only, by one that names the wanted module. p11-kit reads that once: a process can use one module.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from pkcs11 import PKCS11Error, _pkcs11

from securepacs.errors import ConfigError, TokenError, TokenNotPresent
from securepacs.tokens.openssl_queue import shielded

PROXY_PATHS = (
    "/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib/aarch64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib64/p11-kit-proxy.so",
    "/usr/lib/p11-kit-proxy.so",
)
_MARK = b"x-securepacs"


class _Loaded:
    """The proxy of this process: which module it was loaded for, and in which process it was initialized."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.module: Path | None = None
        self.library: Any = None
        self.pid = 0


_loaded = _Loaded()


def _after_fork() -> None:
    _loaded.lock = threading.RLock()  # another thread of the parent may have held the old one


os.register_at_fork(after_in_child=_after_fork)


def library(module: Path) -> Any:
    """Return python-pkcs11's library object for `module`, initialized in this process (also after a fork).

    Raises ConfigError when the module or p11-kit is missing or unsafe, TokenError when this process already uses another module.
    """
    with _loaded.lock, shielded():
        if _loaded.module is None:
            _loaded.library = _load(check_module(module))
            _loaded.module, _loaded.pid = module.resolve(), os.getpid()
        if _loaded.module != module.resolve():
            raise TokenError("this process already uses another PKCS #11 module", hint="use one module in one process")
        if _loaded.pid != os.getpid():
            _initialize_again()
        return _loaded.library


def check_module(module: Path) -> Path:
    """Return `module` when only the administrator can have put it there: its code runs with the rights of this process."""
    try:
        status = module.stat()
    except OSError as error:
        raise ConfigError(f"cannot use the PKCS #11 module {module}: {error.strerror}", key="module-path") from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"the PKCS #11 module {module} does not belong to root alone",
            key="module-path",
            hint="install the module from your distribution or its vendor as root",
        )
    return module


def _load(module: Path) -> Any:
    proxy = next((path for path in PROXY_PATHS if Path(path).exists()), None)
    if proxy is None:
        raise ConfigError("p11-kit-proxy.so is not installed", key="tokens", hint="install the package p11-kit-modules or p11-kit")
    with tempfile.TemporaryDirectory(prefix="securepacs-p11-") as folder:
        mark = secrets.token_hex(8).encode()
        kit = _restrict(proxy, Path(folder), module, mark)
        try:
            loaded = _pkcs11.lib(proxy)
        except PKCS11Error as error:
            raise TokenError(f"the PKCS #11 module {module} does not start: {type(error).__name__}") from None
        if _mark_of(kit) != mark:
            loaded.finalize()
            raise TokenError("p11-kit was already configured by another part of this process")
    return loaded


def _restrict(proxy: str, folder: Path, module: Path, mark: bytes) -> ctypes.CDLL:
    """Point p11-kit of this process to a configuration that carries `mark` and names `module` alone."""
    for name in ("modules", "none"):
        (folder / name).mkdir()
    (folder / "pkcs11.conf").write_text(f"user-config: none\n{_MARK.decode()}: {mark.decode()}\n")
    (folder / "modules" / "securepacs.module").write_text(f"module: {module}\ncritical: yes\n")
    kit = ctypes.CDLL(proxy)
    try:
        override = kit.p11_kit_override_system_files
    except AttributeError:
        raise ConfigError("this p11-kit cannot be restricted to one module", key="tokens") from None
    override.restype = None
    names = ("pkcs11.conf", "none/pkcs11.conf", "none", "modules", "none")  # system, user, package, system and user modules
    paths = [str(folder / name).encode() for name in names]
    _keep_alive.append(paths)
    override(*map(ctypes.c_char_p, paths))
    return kit


def _mark_of(kit: ctypes.CDLL) -> bytes:
    """Return the mark in the configuration that p11-kit really read (it reads only once in a process)."""
    kit.p11_kit_config_option.restype = ctypes.c_char_p
    return kit.p11_kit_config_option(None, ctypes.c_char_p(_MARK)) or b""


_keep_alive: list[list[bytes]] = []  # p11-kit keeps the pointers


def restarted(module: Path) -> Any:
    """Return the library object of `module`, finalized and initialized anew: every session and login of the process is gone."""
    with _loaded.lock, shielded():
        library(module)
        _initialize_again()
        return _loaded.library


def _initialize_again() -> None:
    """Start the module anew, also in a forked child, where the parent's sessions do not exist (PKCS #11 6.7.1)."""
    with suppress(PKCS11Error):  # p11-kit says "not initialized", which is what a child starts with
        _loaded.library.finalize()
    _loaded.pid = 0
    try:
        _loaded.library.initialize()
    except PKCS11Error as error:
        raise TokenNotPresent(f"the PKCS #11 module does not start again: {type(error).__name__}") from None
    _loaded.pid = os.getpid()
