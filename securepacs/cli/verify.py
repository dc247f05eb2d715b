"""`securepacs verify`: judge the digital signatures of DICOM files (PS3.15 C)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.paths import cache_folder, files_in, parse_moment, printable
from securepacs.errors import MalformedError, SecurePacsError, UsageError

if TYPE_CHECKING:
    from securepacs.signatures.report import SignatureReport, SignatureResult
    from securepacs.signatures.verify import Verifier

MAX_WORKERS = 64
_NAMES_SHOWN = 12
_CHUNK = 8  # files handed to a worker at a time


@dataclass(frozen=True)
class Question:
    """What to verify against: everything a worker process needs to build its own verifier."""

    trust: tuple[Path, ...]
    intermediates: tuple[Path, ...]
    crls: tuple[Path, ...]
    online: bool
    at: datetime
    require: tuple[str, ...]
    bit_exact: bool
    allow_weak_hash: bool
    trust_signing_time: bool
    allowed_hosts: tuple[str, ...] = ()

    def verifier(self) -> Verifier:
        """Read the certificates and build the verifier. ConfigError when there is nobody to trust."""
        from securepacs.signatures.verify import Verifier
        from securepacs.trust import TrustPolicy

        policy = TrustPolicy.from_files(
            self.trust,
            intermediates=self.intermediates,
            crls=self.crls,
            online=self.online,
            allowed_hosts=self.allowed_hosts,
            cache_folder=cache_folder() if self.online else None,
        )
        return Verifier(policy, self.at, self.require, self.bit_exact, self.allow_weak_hash, self.trust_signing_time)


@dataclass(frozen=True)
class Outcome:
    """The result for one file: a report, or the error that kept it from being read."""

    file: str
    code: int
    report: SignatureReport | None = None
    error: str = ""
    error_code: str = ""
    offset: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of this file."""
        if self.report is not None:
            return self.report.to_dict() | {"file": self.file}
        error = {"code": self.error_code, "message": self.error, "offset": self.offset}
        return {"file": self.file, "verdict": None, "signatures": [], "error": error}


@output.reports_errors
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders of them.")],
    trust: Annotated[list[Path], typer.Option("--trust", help="Certificates to trust: PEM file or folder.")],
    intermediates: Annotated[list[Path] | None, typer.Option("--intermediates", help="CA certificates that help.")] = None,
    crl: Annotated[list[Path] | None, typer.Option("--crl", help="Certificate revocation list; repeatable.")] = None,
    online: Annotated[
        bool, typer.Option("--online/--offline", help="Ask the revocation services that certificates name, or do not.")
    ] = True,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="HOST", help="Ask this host although it is not public; repeatable.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="RFC3339", help="Judge as of this moment.")] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", help="creator|authorization|sr: fail without such a signature; repeatable.")
    ] = None,
    bit_exact: Annotated[bool, typer.Option("--bit-exact", help="Refuse signatures that fit only after trimming values.")] = False,
    allow_weak_hash: Annotated[bool, typer.Option("--allow-weak-hash", help="Accept MD5 and SHA-1.")] = False,
    trust_signing_time: Annotated[
        bool, typer.Option("--trust-signing-time", help="Believe the claimed time when the certificate has expired since.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file, one per line.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="F", help="Write a report page as well.")] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Verify on N processes.")] = 1,
) -> None:
    """Judge every digital signature of DICOM files. Ends with 0 only if all files are signed and every signature passes."""
    if not 1 <= workers <= MAX_WORKERS:
        raise UsageError(f"--workers takes 1 to {MAX_WORKERS}")
    question = Question(
        trust=tuple(trust),
        intermediates=tuple(intermediates or ()),
        crls=tuple(crl or ()),
        online=online,
        at=parse_moment(at) if at else datetime.now(UTC),
        require=tuple(require or ()),
        bit_exact=bit_exact,
        allow_weak_hash=allow_weak_hash,
        trust_signing_time=trust_signing_time,
        allowed_hosts=tuple(allow_host or ()),
    )
    verifier = question.verifier()  # mistakes show before the work starts
    files = files_in(paths)
    outcomes = []
    for outcome in _with_progress(_outcomes(files, question, verifier, workers), len(files)):
        outcomes.append(outcome)
        if as_json:
            output.print_json(outcome.to_dict())
        else:
            print_outcome(outcome)
    if html is not None:
        from securepacs.cli.verify_page import write_page

        write_page(html, outcomes, question.at)
    raise SystemExit(output.worst_of_files(outcome.code for outcome in outcomes))


def _outcomes(files: Sequence[Path], question: Question, verifier: Verifier, workers: int) -> Iterator[Outcome]:
    if workers == 1 or len(files) == 1:
        yield from (judge(verifier, file) for file in files)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(
        min(workers, len(files)), multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(question,)
    ) as pool:
        yield from pool.map(_judge_in_worker, files, chunksize=_CHUNK)


_worker: list[Verifier] = []  # the verifier of a worker process


def _start_worker(question: Question) -> None:
    _worker.append(question.verifier())


def _judge_in_worker(file: Path) -> Outcome:
    return judge(_worker[0], file)


def judge(verifier: Verifier, file: Path) -> Outcome:
    """Verify one file; what keeps it from being read becomes part of the outcome."""
    from securepacs.wiring import exit_code

    name = str(file).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        report = verifier.evaluate(file)
    except SecurePacsError as error:
        offset = error.offset if isinstance(error, MalformedError) else None
        return Outcome(name, exit_code(error), error=str(error), error_code=error.code, offset=offset)
    return Outcome(name, 0 if report.verdict == "TOTAL-PASSED" else 1, report)


def _with_progress(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    """Show a progress bar on stderr when it is a terminal and there is more than a moment's work."""
    if total < 20 or not output.errors.is_terminal:
        return outcomes
    from rich.progress import track

    return track(outcomes, "verifying", total=total, console=output.errors, transient=True)


def print_outcome(outcome: Outcome) -> None:
    """Print the verdict about one file for a human."""
    if outcome.report is None:
        _line(f"ERROR          {outcome.file}: {outcome.error}")
        return
    report = outcome.report
    _line(f"{report.verdict:<14} {outcome.file}")
    for result in report.signatures:
        for text in describe(result):
            _line(f"    {text}")
    for profile in report.missing:
        _line(f"    required, but no passed signature meets it: {profile}")
    if report.uncovered:
        shown, more = report.uncovered[:_NAMES_SHOWN], len(report.uncovered) - _NAMES_SHOWN
        rest = f" and {more} more (all with --json)" if more > 0 else ""
        _line(f"    not covered by any passed signature: {', '.join(shown)}{rest}")


def describe(result: SignatureResult) -> Iterator[str]:
    """Yield the lines about one signature."""
    reason = f" ({result.sub_indication}: {result.detail})" if result.sub_indication else ""
    yield f"{result.indication}{reason}"
    yield f"  signature {result.uid} in {result.location or 'the data set'}"
    yield f"  profile {result.profile}, {result.signature_algorithm} over {result.mac_algorithm}"
    yield f"  by {result.signer or 'an unknown signer'}"
    stamp = f", time stamp {result.timestamp.isoformat()}" if result.timestamp else ", not time-stamped"
    yield f"  claimed time {result.signing_time.isoformat() if result.signing_time else 'unreadable'}{stamp}"
    for warning in result.warnings:
        yield f"  warning: {warning}"


def _line(text: str) -> None:
    output.console.print(printable(text), markup=False, highlight=False)
