"""`securepacs evidence`: keep signed files verifiable for decades (PS3.15 C, RFC 3161)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.paths import files_in, parse_moment, printable
from securepacs.cli.trusting import AllowHostOption, CrlOption, IntermediatesOption, OnlineOption, read_policy
from securepacs.errors import SecurePacsError, UsageError

if TYPE_CHECKING:
    from securepacs.signatures.evidence import EvidenceReport
    from securepacs.trust import TrustPolicy
    from securepacs.trust.evidence import Evidence

app = typer.Typer(help="Evidence beside signed files, so that their signatures verify for decades, offline.", no_args_is_help=True)

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Signed DICOM files, or folders of them.")]
TrustOption = Annotated[list[Path], typer.Option("--trust", help="Certificates to trust, old roots included: PEM file or folder.")]
TimestampTrustOption = Annotated[
    list[Path] | None, typer.Option("--timestamp-trust", help="Whom to trust for time stamps instead: PEM file or folder.")
]
TsaOption = Annotated[str, typer.Option("--tsa", metavar="URL", help="Time stamp authority (RFC 3161).")]
DigestOption = Annotated[str, typer.Option("--digest", help="sha256|sha384|sha512.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per file, one per line.")]


@app.command()
@output.reports_errors
def collect(
    files: FilesArgument,
    trust: TrustOption,
    tsa: TsaOption,
    timestamp_trust: TimestampTrustOption = None,
    intermediates: IntermediatesOption = None,
    crl: CrlOption = None,
    online: OnlineOption = True,
    allow_host: AllowHostOption = None,
    digest: DigestOption = "sha256",
    replace: Annotated[bool, typer.Option("--replace", help="Collect anew where there is evidence already.")] = False,
) -> None:
    """Verify signed files and write evidence beside each: FILE.evidence.json, under a time stamp."""
    policy = read_policy(trust, intermediates, crl, online=online, allow_host=allow_host, timestamp_trust=timestamp_trust)
    _each(files, partial(_collect_one, policy=policy, tsa=tsa, digest=_known(digest), replace=replace))


@app.command()
@output.reports_errors
def renew(
    files: FilesArgument,
    trust: TrustOption,
    tsa: TsaOption,
    timestamp_trust: TimestampTrustOption = None,
    intermediates: IntermediatesOption = None,
    crl: CrlOption = None,
    online: OnlineOption = True,
    allow_host: AllowHostOption = None,
    digest: DigestOption = "sha256",
    due_within: Annotated[
        int | None, typer.Option("--due-within", metavar="DAYS", help="Leave alone what holds for longer than this.")
    ] = None,
) -> None:
    """Put a new time stamp over files and their evidence, before the last authority's certificate ends or its hash gets weak."""
    policy = read_policy(trust, intermediates, crl, online=online, allow_host=allow_host, timestamp_trust=timestamp_trust)
    _each(files, partial(_renew_one, policy=policy, tsa=tsa, digest=_known(digest), due_within=due_within))


@app.command()
@output.reports_errors
def verify(
    files: FilesArgument,
    trust: TrustOption,
    timestamp_trust: TimestampTrustOption = None,
    intermediates: IntermediatesOption = None,
    crl: CrlOption = None,
    online: OnlineOption = False,
    allow_host: AllowHostOption = None,
    at: Annotated[str | None, typer.Option("--at", metavar="RFC3339", help="Judge as of this moment.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge signed files by the evidence beside them; only the revocation of the newest authority can need the network."""
    policy = read_policy(trust, intermediates, crl, online=online, allow_host=allow_host, timestamp_trust=timestamp_trust)
    _each(files, partial(_verify_one, policy=policy, at=parse_moment(at) if at else None, as_json=as_json), as_json=as_json)


@dataclass(frozen=True)
class _Subject:
    """A file, mapped, and where its evidence stands."""

    path: Path
    content: Any
    sidecar: Path

    @classmethod
    def open(cls, path: Path) -> _Subject:
        from securepacs.dicom.files import map_file
        from securepacs.signatures.evidence import sidecar_of

        return cls(path, map_file(path), sidecar_of(path))

    def evidence(self) -> Evidence:
        from securepacs.dicom.files import map_file
        from securepacs.trust.evidence import decode

        if not self.sidecar.is_file():
            raise UsageError(f"there is no evidence {self.sidecar}", hint="securepacs evidence collect makes it")
        return decode(bytes(map_file(self.sidecar)))

    def write(self, evidence: Evidence) -> None:
        from securepacs.dicom.files import write_atomically

        write_atomically(self.sidecar, [evidence.encode()])


def _collect_one(path: Path, *, policy: TrustPolicy, tsa: str, digest: str, replace: bool) -> int:
    from securepacs.signatures.evidence import collect

    subject = _Subject.open(path)
    if subject.sidecar.exists() and not replace:
        raise UsageError("there is evidence already", hint="renew it, or --replace it")
    subject.write(collect(subject.content, policy, stamp=_stamp(tsa), digest=digest))
    _line(f"{path}: evidence written")
    return 0


def _renew_one(path: Path, *, policy: TrustPolicy, tsa: str, digest: str, due_within: int | None) -> int:
    from securepacs.signatures.evidence import is_due, renew
    from securepacs.signatures.evidence import verify as verify_now

    subject = _Subject.open(path)
    evidence = subject.evidence()
    if due_within is not None:
        report = verify_now(subject.content, evidence, policy)
        if not is_due(report, within=timedelta(days=due_within)):
            _line(f"{path}: holds until {_day(report.renew_before)}, left alone")
            return 0
    subject.write(renew(subject.content, evidence, policy, stamp=_stamp(tsa), digest=digest))
    _line(f"{path}: evidence renewed")
    return 0


def _verify_one(path: Path, *, policy: TrustPolicy, at: datetime | None, as_json: bool) -> int:
    from securepacs.signatures.evidence import evaluate

    subject = _Subject.open(path)
    report = evaluate(subject.content, subject.evidence(), policy, at=at)
    if as_json:
        output.print_json(report.to_dict() | {"file": printable(path)})
    else:
        _show(path, report)
    return 0 if report.verdict == "TOTAL-PASSED" else 1


def _show(path: Path, report: EvidenceReport) -> None:
    from securepacs.cli.verdicts import describe

    _line(f"{report.verdict:<14} {path}")
    if report.sub_indication:
        _line(f"    evidence: {report.sub_indication}: {report.detail}")
        return
    _line(f"    seen as it is at {report.proven:%Y-%m-%d %H:%M:%S}Z; to be renewed before {_day(report.renew_before)}")
    for stamp in report.timestamps:
        authority = stamp.tsa.subject.rfc4514_string()
        _line(f"    time stamp {stamp.gen_time:%Y-%m-%d %H:%M:%S}Z over {stamp.digest_algorithm} by {authority}")
    for warning in report.warnings:
        _line(f"    warning: {warning}")
    for result in report.signatures.signatures if report.signatures is not None else ():
        for text in describe(result):
            _line(f"    {text}")


def _each(files: Iterable[Path], work: Callable[[Path], int], *, as_json: bool = False) -> None:
    """Do the work for every file; what goes wrong with one is printed and becomes its exit code."""
    from securepacs.wiring import exit_code

    codes = []
    for path in files_in(files):
        try:
            codes.append(work(path))
        except SecurePacsError as error:
            codes.append(exit_code(error))
            if as_json:
                problem = {"code": error.code, "message": str(error)}
                output.print_json({"file": printable(path), "verdict": None, "timestamps": [], "signatures": [], "error": problem})
            else:
                output.print_error(error, file=printable(path))
    raise SystemExit(output.worst_of_files(codes))


def _known(digest: str) -> str:
    from securepacs.trust.timestamp import IMPRINT_OCTETS

    if digest not in IMPRINT_OCTETS:
        raise UsageError(f"--digest takes {', '.join(IMPRINT_OCTETS)}")
    return digest


def _stamp(tsa: str) -> Callable[[bytes, str], bytes]:
    from securepacs.trust.timestamp import request_timestamp

    return lambda data, digest: request_timestamp(data, url=tsa, digest=digest)


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else ""


def _line(text: str) -> None:
    output.console.print(printable(text), markup=False, highlight=False)
