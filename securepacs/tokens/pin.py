"""Where a PIN or password comes from: a private file, an environment variable that is wiped, or the terminal. Never an argument.

The returned callable is asked at most when a secret is really needed. Secrets are never logged and never part of an error text.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from securepacs.errors import ConfigError, TokenError, UsageError

PinSource = Callable[[], str]

_PIN_LIMIT = 1024
_PR_SET_DUMPABLE = 4  # linux/prctl.h


def pin_source(*, pin_file: Path | None = None, pin_env: str | None = None, prompt: str | None = None) -> PinSource:
    """Return a callable that gives the PIN; the first of `pin_file`, `pin_env`, `prompt` that is given is the only one used.

    `pin_env` is read here, at once, and deleted from the environment so that no child process inherits it. With none of the three,
    or with only `prompt` and no terminal, the callable raises TokenError instead of guessing.
    """
    if pin_file is not None and pin_env is not None:
        raise UsageError("--pin-file and --pin-env exclude each other")
    if pin_file is not None:
        return lambda: _guarded(_from_file, pin_file)
    if pin_env is not None:
        no_core_dumps()
        secret = _take_from_environment(pin_env)
        return lambda: secret
    if prompt is not None:
        return lambda: _guarded(_from_terminal, prompt)
    return _refuse


def as_bytes(source: PinSource) -> Callable[[], bytes]:
    """Turn a PIN source into the password source that `tokens.software` takes (UTF-8)."""
    return lambda: source().encode()


def no_core_dumps() -> None:
    """Keep the memory of this process, which holds a PIN, out of core dumps and away from other programs of the same user."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):  # Linux only; a pipe as core_pattern ignores the limit
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _guarded(read: Callable[[Any], str], place: Any) -> str:
    no_core_dumps()
    return read(place)


def _take_from_environment(name: str) -> str:
    """Return the variable's value and wipe it, also where the kernel shows it (/proc/PID/environ)."""
    import ctypes

    secret = os.environ.get(name)
    if secret is None:
        raise ConfigError(f"the environment variable {name} is not set", key="pin-env")
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    place = getenv(os.fsencode(name))
    if place:
        ctypes.memset(place, 0, len(os.fsencode(secret)))
    del os.environ[name]
    return secret


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            raw = stream.read(_PIN_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the PIN file {path}: {error.strerror}", key="pin-file") from None
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others may read the PIN file {path}", key="pin-file", hint=f"chmod 600 {path}")
    pin = _decoded(raw, path).removesuffix("\n").removesuffix("\r")
    if not pin or len(raw) > _PIN_LIMIT:
        raise ConfigError(f"the PIN file {path} is empty or too long", key="pin-file")
    return pin


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:  # its text would carry the bytes of the secret
        raise ConfigError(f"the PIN file {path} is not UTF-8 text", key="pin-file") from None


def _from_terminal(prompt: str) -> str:
    if not sys.stdin.isatty():
        return _refuse()
    return getpass.getpass(prompt)


def _refuse() -> str:
    raise TokenError("a PIN or password is needed and none was given", hint="give it with --pin-file or --pin-env")
