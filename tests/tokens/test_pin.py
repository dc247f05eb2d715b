"""Where PINs come from, and that they stay out of the environment and of error texts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from securepacs.errors import ConfigError, TokenError, UsageError
from securepacs.tokens import pin
from securepacs.tokens.pin import as_bytes, pin_source


def pin_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "pin"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "expected"), [(b"1234", "1234"), (b"1234\n", "1234"), (b"1234\r\n", "1234"), (b" 12 \n\n", " 12 \n")]
)
def test_file(tmp_path: Path, content: bytes, expected: str) -> None:
    assert pin_source(pin_file=pin_file(tmp_path, content))() == expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="others"):
        pin_source(pin_file=pin_file(tmp_path, b"1234", mode))()


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 2000, b"secret\xff"])
def test_a_file_without_a_pin_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        pin_source(pin_file=pin_file(tmp_path, content))()
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_file_is_told_when_the_pin_is_needed(tmp_path: Path) -> None:
    source = pin_source(pin_file=tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read"):
        source()


def test_the_environment_variable_is_read_once_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECUREPACS_TEST_PIN", "1234")
    source = pin_source(pin_env="SECUREPACS_TEST_PIN")
    assert "SECUREPACS_TEST_PIN" not in os.environ
    assert (source(), source()) == ("1234", "1234")
    assert as_bytes(source)() == b"1234"
    with pytest.raises(ConfigError):
        pin_source(pin_env="SECUREPACS_TEST_PIN")


def test_a_pin_stays_in_neither_environment_nor_core_dump() -> None:
    """In a process of its own: the kernel shows the environment that a process started with, and the limits stay."""
    script = """
import resource, ctypes
from securepacs.tokens.pin import pin_source
before = b"hush-4711" in open("/proc/self/environ", "rb").read()
source = pin_source(pin_env="SECUREPACS_TEST_PIN")
after = b"hush-4711" in open("/proc/self/environ", "rb").read()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
print(before, after, dumpable, resource.getrlimit(resource.RLIMIT_CORE), source() == "hush-" + "4711")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SECUREPACS_TEST_PIN": "hush-4711"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "True False 0 (0, 0) True\n"


def test_both_sources_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        pin_source(pin_file=tmp_path / "pin", pin_env="X")


def test_no_source_refuses() -> None:
    with pytest.raises(TokenError, match="needed and none was given"):
        pin_source()()


def test_prompt_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end) as not_a_terminal:
        monkeypatch.setattr("sys.stdin", not_a_terminal)
        with pytest.raises(TokenError):
            pin_source(prompt="PIN: ")()


def test_prompt_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    with os.fdopen(leader, "r+b", buffering=0) as ours, os.fdopen(follower, "r") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr(pin.getpass, "getpass", lambda prompt: terminal.readline().removesuffix("\n"))
        ours.write(b"1234\n")
        assert pin_source(prompt="PIN: ")() == "1234"
