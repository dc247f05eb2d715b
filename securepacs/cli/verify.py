"""`securepacs verify`: judge the digital signatures of DICOM files (PS3.15 C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli import output
from securepacs.cli.paths import parse_moment, printable
from securepacs.cli.trusting import AllowHostOption, CrlOption, IntermediatesOption, OnlineOption
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.cli.resume import ProgressFile
    from securepacs.cli.verify_work import Outcome, Question
    from securepacs.signatures.verify import Verifier

MAX_WORKERS = 64


@output.reports_errors
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, folders of them, or a DICOMDIR.")],
    trust: Annotated[list[Path], typer.Option("--trust", help="Certificates to trust: PEM file or folder.")],
    intermediates: IntermediatesOption = None,
    crl: CrlOption = None,
    online: OnlineOption = True,
    allow_host: AllowHostOption = None,
    at: Annotated[str | None, typer.Option("--at", metavar="RFC3339", help="Judge as of this moment.")] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", help="creator|authorization|sr: fail without such a signature; repeatable.")
    ] = None,
    bit_exact: Annotated[bool, typer.Option("--bit-exact", help="Refuse signatures that fit only after trimming values.")] = False,
    allow_weak_hash: Annotated[bool, typer.Option("--allow-weak-hash", help="Accept MD5 and SHA-1.")] = False,
    trust_signing_time: Annotated[
        bool, typer.Option("--trust-signing-time", help="Believe the claimed time when the certificate has expired since.")
    ] = False,
    details: Annotated[bool, typer.Option("--details", help="Say everything about every signature instead of a table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file, one per line.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="F", help="Write a report page with pictures as well.")] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Verify on N processes.")] = 1,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="F", help="Keep what is done in this file, and do not do it again after an interruption."),
    ] = None,
) -> None:
    """Judge every digital signature of DICOM files. Ends with 0 only if all files are signed and every signature passes.

    A signed report or key object is compared with the images it refers to, as far as these are among the files given.
    """
    from securepacs.cli.verify_work import Question, targets_in

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
        places=tuple(paths),
    )
    verifier = question.verifier()  # mistakes show before the work starts
    targets = list(targets_in(paths))
    codes: list[int] = []
    kept: list[Outcome] = []
    with _progress_file(resume, question, verifier, at_given=at is not None) as progress:
        found = _outcomes(targets, question, verifier, workers, progress)
        for outcome in output.with_progress(found, len(targets), "verifying"):
            codes.append(outcome.code)
            if html is not None or not (as_json or details):
                kept.append(outcome)
            if as_json:
                output.print_json(outcome.to_dict())
            elif details:
                print_outcome(outcome)
    if not (as_json or details):
        from securepacs.cli.verify_table import print_verdicts

        print_verdicts(kept, question.at)
    if html is not None:
        from securepacs.cli.verify_page import write_page

        write_page(html, kept, question.at)
    raise SystemExit(output.worst_of_files(codes))


def _progress_file(
    path: Path | None, question: Question, verifier: Verifier, *, at_given: bool
) -> AbstractContextManager[ProgressFile | None]:
    if path is None:
        return nullcontext()
    from securepacs.cli.resume import ProgressFile

    return ProgressFile(path, question, verifier.policy, at_given=at_given)


def _outcomes(
    targets: Sequence[Path | Outcome], question: Question, verifier: Verifier, workers: int, progress: ProgressFile | None
) -> Iterator[Outcome]:
    """Yield the outcome for every target in order: known already, kept from an earlier run, or worked out now."""
    from securepacs.cli.verify_work import judge, outcomes_of

    files = [target for target in targets if isinstance(target, Path)]
    done = {file for file in files if progress.known(file)} if progress else set()
    if done:
        output.errors.print(f"{len(done)} files were done before", markup=False, highlight=False)
    fresh = outcomes_of([file for file in files if file not in done], question, verifier, workers)
    for target in targets:
        if not isinstance(target, Path):
            yield target
            continue
        outcome = progress.known(target) if progress and target in done else next(fresh)
        if outcome is None:  # changed since it was looked at a moment ago
            outcome = judge(verifier, target)
        if progress and target not in done:
            progress.keep(target, outcome)
        yield outcome


def print_outcome(outcome: Outcome) -> None:
    """Print everything about one file for somebody who knows the standard."""
    from securepacs.cli.verdicts import details

    for line in details(outcome):
        output.console.print(printable(line), markup=False, highlight=False)
