"""The progress file of `securepacs verify --resume`: what is done stays done when the run is interrupted.

JSON Lines: the first line says what was asked, each further line is the outcome for one file with the state the file had (size,
times of change). A line is written by one system call when its file is done; a line cut off by a crash is dropped. An outcome
counts again only for the same question and for a file whose state is the same. Outcomes that depend on more than the file (secure
references, services that did not answer, files that could not be opened) are never kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.hashes import SHA256

from securepacs.cli.verify_work import Outcome, Question, state_of
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.trust import TrustPolicy

_FORMAT = 1
_MODE = 0o600  # file names may be somebody's


class ProgressFile:
    """An open progress file. UsageError when another run holds it, or it belongs to another question."""

    def __init__(self, path: Path, question: Question, policy: TrustPolicy, *, at_given: bool) -> None:
        header = {"securepacs-verify": _FORMAT, "question": _fingerprint(question, policy, at_given=at_given)}
        self._known: dict[str, tuple[int, int]] = {}  # where in the progress file the last line about each file stands
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise UsageError(f"cannot open {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(path, header)
        except BlockingIOError:
            os.close(self._file)
            raise UsageError(f"another run is writing {path}") from None
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        os.close(self._file)

    def known(self, file: Path) -> Outcome | None:
        """Return the outcome of an earlier run for a file that was not touched since."""
        place = self._known.get(str(file.absolute()))
        if place is None:
            return None
        found = _parsed(os.pread(self._file, place[1], place[0]))
        if found["state"] != list(state_of(file) or ()):
            return None
        return _thaw(found["outcome"], file)

    def keep(self, file: Path, outcome: Outcome) -> None:
        """Write down an outcome, if it depends on the file alone."""
        if outcome.state is None or not _lasting(outcome):
            return
        self._write({"path": str(file.absolute()), "state": outcome.state, "outcome": _freeze(outcome)})

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        if os.write(self._file, data) != len(data):
            raise UsageError("the progress file cannot be written: no space left")

    def _read(self, path: Path, header: dict[str, Any]) -> None:
        size = 0
        with os.fdopen(os.dup(self._file), "rb") as stream:
            stream.seek(0)
            for line in stream:
                if not size and not (_parsed(line) == header and line.endswith(b"\n")):
                    if line.startswith(b'{"securepacs-verify"') and not line.endswith(b"\n"):
                        break  # a run that ended while it wrote its first line
                    hint = "name a new file, or give the same options, certificates and revocation lists"
                    raise UsageError(f"{path} belongs to another question, or is no progress file", hint=hint)
                if not line.endswith(b"\n"):
                    break
                found = _parsed(line) if size else None
                if isinstance(found, dict) and {"path", "state", "outcome"} <= found.keys():
                    self._known[found["path"]] = (size, len(line))
                size += len(line)
        os.ftruncate(self._file, size)
        if not size:
            self._write(header)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _fingerprint(question: Question, policy: TrustPolicy, *, at_given: bool) -> str:
    """Return what two runs must have in common: the options, and the certificates and lists themselves, not their file names."""
    digest = hashlib.sha256()
    parts: Iterable[object] = (
        question.online,
        question.at.isoformat() if at_given else "now",
        sorted(question.require),
        question.bit_exact,
        question.allow_weak_hash,
        question.trust_signing_time,
        *(
            sorted(one.fingerprint(SHA256()).hex() for one in group)
            for group in (policy.anchors, policy.intermediates, policy.crls)
        ),
    )
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()


def _lasting(outcome: Outcome) -> bool:
    report = outcome.report
    if report is None:
        return outcome.error_code == "malformed"
    return not report.references and all(result.sub_indication != "TRY_LATER" for result in report.signatures)


def _freeze(outcome: Outcome) -> dict[str, Any]:
    found = {name: getattr(outcome, name) for name in ("code", "error", "error_code", "offset")}
    if outcome.report is not None:
        found["missing"] = outcome.report.missing
        found["signatures"] = [_plain(asdict(result)) for result in outcome.report.signatures]
    return found


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    dates = {name: value.isoformat() for name, value in result.items() if isinstance(value, datetime)}
    return result | dates | {"profiles": sorted(result["profiles"])}


def _thaw(found: dict[str, Any], file: Path) -> Outcome | None:
    from securepacs.cli.paths import readable
    from securepacs.signatures.report import SignatureReport, SignatureResult

    name = readable(file)
    try:
        if "signatures" not in found:
            return Outcome(name, found["code"], None, found["error"], found["error_code"], found["offset"])
        results = tuple(SignatureResult(**{key: _value(key, value) for key, value in one.items()}) for one in found["signatures"])
        return Outcome(name, found["code"], SignatureReport(name, results, tuple(found["missing"])))
    except (KeyError, TypeError, ValueError):
        return None  # not ours, or of another version: verify the file again


def _value(key: str, value: Any) -> Any:
    if key in ("signing_time", "timestamp"):
        return datetime.fromisoformat(value) if value else None
    if key == "profiles":
        return frozenset(value)
    if key == "uncovered_ranges":
        return tuple((start, end) for start, end in value)
    return tuple(value) if isinstance(value, list) else value
