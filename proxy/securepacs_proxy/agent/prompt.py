"""Asking a person for the PIN: at the terminal, in a window (pinentry), or line by line from a descriptor (tests)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import IO
from urllib.parse import unquote

from securepacs.errors import ConfigError, TokenError
from securepacs.tokens.pin import no_core_dumps, pin_source

Ask = Callable[[str], str]


def terminal() -> Ask:
    """Ask at the terminal that the agent runs in."""

    def ask(explanation: str) -> str:
        return pin_source(prompt=f"{explanation}\nPIN: " if explanation else "PIN: ")()

    return ask


def from_descriptor(descriptor: int) -> Ask:
    """Take one line of the descriptor for each PIN; waits for it. TokenError at its end."""
    stream: IO[str] = os.fdopen(descriptor, "r", encoding="utf-8")
    no_core_dumps()

    def ask(explanation: str) -> str:
        line = stream.readline()
        if not line:
            raise TokenError("no PIN is left to take")
        return line.removesuffix("\n")

    return ask


def pinentry(program: str = "pinentry") -> Ask:
    """Ask in a window of the desktop. Raises ConfigError when pinentry is not installed."""
    path = shutil.which(program)
    if path is None:
        raise ConfigError("pinentry is not installed", key="token.prompt", hint='install pinentry-gtk2, or set prompt = "terminal"')
    no_core_dumps()
    return lambda explanation: _ask_pinentry(path, explanation)


def _ask_pinentry(path: str, explanation: str) -> str:
    """Talk to pinentry (Assuan protocol: a greeting, then one answer for each command)."""
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        if process.stdin is None or process.stdout is None:
            raise TokenError("pinentry cannot be talked to")
        _answer(process.stdout)
        commands = ["SETTITLE securepacs", "SETPROMPT PIN:", "SETDESC Log in with your card to reach the archive."]
        commands += [f"SETERROR {_quoted(explanation)}"] if explanation else []
        for command in [*commands, "GETPIN"]:
            process.stdin.write(command + "\n")
            process.stdin.flush()
            data = _answer(process.stdout)
        with suppress(OSError):
            process.stdin.write("BYE\n")
            process.stdin.close()
    return unquote(data)


def _answer(stream: IO[str]) -> str:
    """Return the data of one answer; TokenError for ERR (the person cancelled) and for the end."""
    data = ""
    for line in stream:
        if line.startswith("D "):
            data += line[2:].removesuffix("\n")
        elif line.startswith("OK"):
            return data
        elif line.startswith("ERR"):
            break
    raise TokenError("the PIN was not given")


def _quoted(text: str) -> str:
    return text.replace("%", "%25").replace("\n", "%0A")
