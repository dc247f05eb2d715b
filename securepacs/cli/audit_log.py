"""`securepacs audit export|verify|hold|erase|grant`: the evidence in an audit repository (Merkle log, checkpoints, erasures)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli import output
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.audit.checkpoint import LogPublicKey
    from securepacs.audit.repository import Criteria
    from securepacs.audit.repository.retention import RecordClass
    from securepacs.audit.verifier import AuditReport

StoreOption = Annotated[str, typer.Option("--store", help="The repository, for example sqlite:///audit.db.")]
LogKeyOption = Annotated[Path | None, typer.Option("--log-key", help="Ed25519 key the log is signed with (PEM).")]
OriginOption = Annotated[str, typer.Option("--origin", help="Name of the log, for example hospital.example/audit.")]
PatientOption = Annotated[str, typer.Option("--patient", help="Patient ID, with or without its issuer.")]
StudyOption = Annotated[str, typer.Option("--study", help="Study Instance UID.")]
UserOption = Annotated[str, typer.Option("--user", help="User ID, alternative ID or name.")]
EventOption = Annotated[str, typer.Option("--event", help="Event or event type code, or the name of an event.")]
FromOption = Annotated[str, typer.Option("--from", help="Earliest moment, RFC 3339 or a date (UTC).")]
ToOption = Annotated[str, typer.Option("--to", help="Moment before which, RFC 3339 or a date (UTC).")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]

_SHOWN_PROBLEMS = 50


@output.reports_errors
def export(
    store: StoreOption,
    folder: Annotated[Path, typer.Option("-o", "--output", help="New folder to export to.")],
    case: Annotated[str, typer.Option("--case", help="Only the octets of the records that are held for a case.")] = "",
    patient: PatientOption = "",
    study: StudyOption = "",
    user: UserOption = "",
    event: EventOption = "",
    since: FromOption = "",
    until: ToOption = "",
    log_key: LogKeyOption = None,
    origin: OriginOption = "",
) -> None:
    """Export the log for `audit verify`: all its entries, and the octets of all records or of those asked for."""
    from securepacs.audit.repository import Repository
    from securepacs.cli.audit import reader

    wanted = criteria_of(patient, study, user, event, since, until)
    at = datetime.now(UTC)
    with Repository(store, must_exist=True) as repository:
        chosen = [wanted] if wanted is not None else []
        if case:
            held = repository.holds().get(case)
            if held is None or wanted is not None:
                raise UsageError(f"there is no hold of case {case!r}" if held is None else "give --case or criteria, not both")
            chosen = held
        if log_key is not None:
            from securepacs.audit.repository.signer import LogSigner

            repository.checkpoint(LogSigner.load(log_key, origin=origin), at=at)
        checkpoint = repository.export(folder, reader=reader(), at=at, criteria=chosen or None)
    output.errors.print(f"{checkpoint.size} entries of {checkpoint.origin} in {folder}", markup=False, highlight=False)


@output.reports_errors
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `audit export` wrote.")],
    key: Annotated[str, typer.Option("--key", help="Verifier key as `audit serve` prints it, or a PEM file of the public key.")],
    origin: Annotated[str, typer.Option("--origin", help="Name of the log; needed with a PEM file.")] = "",
    kept: Annotated[
        list[Path] | None,
        typer.Option("--kept", help="Checkpoint that was kept elsewhere: a signed note, or the audit record a witness received."),
    ] = None,
    tsa_trust: Annotated[
        list[Path] | None, typer.Option("--tsa-trust", help="Whom to trust for time stamps: file or folder.")
    ] = None,
    tsa_crl: Annotated[list[Path] | None, typer.Option("--tsa-crl", help="Revocation lists of those authorities.")] = None,
    no_anchor: Annotated[
        bool, typer.Option("--unsafe-no-anchor", help="Accept a log nothing outside the folder speaks for.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Verify an exported log, without network and database (exit code 1: altered, incomplete, or without an anchor)."""
    from securepacs.audit.verifier import verify_export
    from securepacs.audit.witness import kept_checkpoint

    public = _public_key(key, origin)
    notes = [kept_checkpoint(_read(path)) for path in kept or ()]
    policy = None
    if tsa_trust:
        from securepacs.trust import TrustPolicy

        policy = TrustPolicy.from_files(tsa_trust, crls=tsa_crl or ())
    with _progress() as advance:
        report = verify_export(folder, public, previous=notes, stamp_policy=policy, progress=advance)
    accepted = report.sound and (report.anchored or no_anchor)
    if json:
        output.print_json(_report_dict(report, accepted=accepted))
    else:
        _print_report(report)
    raise typer.Exit(0 if accepted else 1)


@output.reports_errors
def hold(
    store: StoreOption,
    case: Annotated[str, typer.Argument(metavar="[CASE]", help="Name of the case; without it the holds are listed.")] = "",
    patient: PatientOption = "",
    study: StudyOption = "",
    user: UserOption = "",
    event: EventOption = "",
    since: FromOption = "",
    until: ToOption = "",
    reason: ReasonOption = "",
    release: Annotated[bool, typer.Option("--release", help="End every hold of the case.")] = False,
) -> None:
    """Keep records from retention and erasure for a case, release them, or list what is held."""
    from securepacs.audit.repository import Repository
    from securepacs.cli.audit import reader

    wanted = criteria_of(patient, study, user, event, since, until)
    at = datetime.now(UTC)
    with Repository(store, must_exist=True) as repository:
        if not case:
            rows = ((name, _shown(each)) for name, held in repository.holds().items() for each in held)
            output.print_table("holds", ("case", "criteria"), rows)
            return
        if not reason.strip():
            raise UsageError("give --reason: it is recorded")
        if release:
            repository.release(case, actor=reader(), reason=reason, at=at)
        elif wanted is None:
            raise UsageError("a hold needs criteria", hint="for example --patient, --study, --user, --from and --to")
        else:
            repository.hold(case, wanted, actor=reader(), reason=reason, at=at)


@output.reports_errors
def erase(
    store: StoreOption,
    ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Records, as `audit search --json` numbers them.")],
    reason: ReasonOption,
    law: Annotated[str, typer.Option("--law", help="By which law; it is recorded.")],
) -> None:
    """Lawfully erase the octets and the index of records; the log stays verifiable and says who, why and by which law."""
    from securepacs.audit.repository import Repository
    from securepacs.cli.audit import reader

    with Repository(store, must_exist=True) as repository:
        record = repository.erase(ids, actor=reader(), reason=reason, law=law, at=datetime.now(UTC))
    output.errors.print(f"erased {len(set(ids))} records, recorded as {record}", highlight=False)


@output.reports_errors
def grant(
    store: Annotated[str, typer.Option("--store", help="The repository as its owner, postgresql://OWNER@HOST/DATABASE.")],
    role: Annotated[str, typer.Argument(metavar="ROLE", help="A role of the database.")],
) -> None:
    """Let a PostgreSQL role add and read audit records, and never change, remove or erase one."""
    from securepacs.audit.repository import Repository

    with Repository(store, must_exist=True) as repository:
        repository.grant(role)


def criteria_of(patient: str, study: str, user: str, event: str, since: str, until: str) -> Criteria | None:
    """Return criteria, None when nothing was asked for."""
    from securepacs.audit.repository import Criteria
    from securepacs.cli.audit import moment

    if not any((patient, study, user, event, since, until)):
        return None
    return Criteria(
        patient=patient, study=study, user=user, event=event, since=moment(since, "--from"), until=moment(until, "--to")
    )  # fmt: skip


def retention_by_class(texts: Iterable[str]) -> dict[RecordClass, timedelta]:
    """Read `CLASS=DAYS` options. Raises UsageError, also for less than the least that is allowed."""
    from securepacs.audit.repository.retention import MIN_RETENTION, RecordClass

    found: dict[RecordClass, timedelta] = {}
    for text in texts:
        name, _, days = text.partition("=")
        if name not in tuple(RecordClass) or not days.isdecimal() or len(days) > 6 or name in found:
            names = ", ".join(RecordClass)
            raise UsageError(f"--keep {text!r} is no CLASS=DAYS", hint=f"once for each of {names}, for example patient=3653")
        found[RecordClass(name)] = timedelta(days=int(days))
        if found[RecordClass(name)] < MIN_RETENTION:
            raise UsageError(f"--keep {text}: audit records are kept for {MIN_RETENTION.days} days at least")
    return found


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar when stderr is a terminal."""
    from rich.progress import Progress

    with Progress(console=output.errors, transient=True, disable=not output.errors.is_terminal) as bar:
        task = bar.add_task("entries", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _public_key(text: str, origin: str) -> LogPublicKey:
    from securepacs.audit.checkpoint import LogPublicKey

    path = Path(text)
    if "+" not in text or path.is_file():
        text = _read(path).decode("utf-8", errors="replace")
    return LogPublicKey.parse(text, name=origin)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _shown(criteria: Criteria) -> str:
    return ", ".join(f"{name} {value}" for name, value in criteria.given().items() if name not in ("limit", "newest_first"))


def _report_dict(report: AuditReport, *, accepted: bool) -> dict[str, object]:
    return {
        "verdict": "sound" if accepted else "not accepted",
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "verified": report.verified,
        "erased": report.erased,
        "withheld": report.withheld,
        "checkpoints": report.checkpoints,
        "anchors": report.anchors,
        "erasures": [{"entry": each.index, "received": each.received} for each in report.erasures],
        "problem_count": report.problem_count,
        "problems": [{"code": each.code, "entry": each.index, "detail": each.detail} for each in report.problems],
    }


def _print_report(report: AuditReport) -> None:
    def line(text: str) -> None:
        output.console.print(text, markup=False, highlight=False)

    line(f"{report.origin}: {report.size} entries, {report.checkpoints} checkpoints")
    line(f"  octets: {report.verified} verified, {report.erased} lawfully erased, {report.withheld} not in this export")
    for each in report.erasures:
        line(f"  erasure: entry {each.index} of {each.received}")
    for anchor in report.anchors:
        line(f"  anchor: {anchor}")
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        where = "" if problem.index is None else f" entry {problem.index}:"
        line(f"  {problem.code}:{where} {problem.detail}")
    if report.problem_count > _SHOWN_PROBLEMS:
        line(f"  ... {report.problem_count} problems in all")
    if not report.sound:
        line("NOT SOUND: altered or incomplete")
    elif report.anchored:
        line("SOUND")
    else:
        line("SOUND IN ITSELF, but nothing outside the folder speaks for it: give --kept or --tsa-trust")
