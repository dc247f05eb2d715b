"""`securepacs audit`: keep, send, grade and search audit messages (PS3.15 A.5, IHE ITI-20)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import audit_log, output
from securepacs.errors import MalformedError, SecurePacsError, Unavailable, UsageError

if TYPE_CHECKING:
    from securepacs.audit.grading import Grade
    from securepacs.audit.message import ActiveParticipant
    from securepacs.audit.repository import AuditRecord, Repository
    from securepacs.audit.sinks import SpoolSink

app = typer.Typer(help="Audit messages: keep, send, validate, search, prove.", no_args_is_help=True)

CertOption = Annotated[Path, typer.Option("--cert", help="Own certificate, its chain may follow (PEM).")]
KeyOption = Annotated[Path, typer.Option("--key", help="Private key of that certificate (PEM).")]
TrustOption = Annotated[list[Path], typer.Option("--trust", help="Certificates that peers are verified against: file or folder.")]
CrlOption = Annotated[list[Path] | None, typer.Option("--crl", help="Revocation lists; then every peer must be covered by one.")]
StoreOption = Annotated[str, typer.Option("--store", help="The repository, for example sqlite:///audit.db.")]
FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Audit messages as XML or syslog records.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on a line.")]

_OUTCOMES = {"success": 0, "minor": 4, "serious": 8, "major": 12}
_COLUMNS = ("time", "event", "outcome", "user", "patient", "description")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


for _command in (audit_log.export, audit_log.verify, audit_log.hold, audit_log.erase, audit_log.grant):
    app.command()(_command)


@app.command()
@output.reports_errors
def serve(
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to listen on; port 0 takes a free one.")],
    store: StoreOption,
    cert: CertOption,
    key: KeyOption,
    trust: TrustOption,
    crl: CrlOption = None,
    log_key: audit_log.LogKeyOption = None,
    origin: audit_log.OriginOption = "",
    checkpoint_seconds: Annotated[float, typer.Option("--checkpoint-seconds", min=0.1, help="Sign the log so often.")] = 10.0,
    tsa: Annotated[list[str] | None, typer.Option("--tsa", help="Time stamp authority (RFC 3161) for a checkpoint a day.")] = None,
    witness: Annotated[str, typer.Option("--witness", help="HOST:PORT that every checkpoint is sent to as an audit record.")] = "",
    spool: Annotated[Path | None, typer.Option("--spool", help="Folder where checkpoints wait for the witness.")] = None,
    keep_days: Annotated[int, typer.Option("--keep-days", help="Erase what is older and not held; 0 keeps for ever.")] = 0,
    law: Annotated[str, typer.Option("--law", help="The law that retention follows; it is recorded.")] = "",
) -> None:
    """Run an audit record repository: syslog over mutual TLS (RFC 5425) into a searchable store, until SIGTERM.

    With --log-key the log over all records is signed, so that `audit verify` can prove it unaltered.
    """
    import signal
    import threading
    from contextlib import ExitStack

    from securepacs.audit.repository import Repository, RepositoryServer
    from securepacs.tls import server_context

    if log_key is None and (tsa or witness or keep_days):
        raise UsageError("--tsa, --witness and --keep-days need --log-key: only a signed log can prove what was erased")

    host, port = _address(listen)
    context = server_context(certificate=cert, key=key, trust=trust, crls=crl or ())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    with Repository(store) as repository, ExitStack() as stack:
        if log_key is not None:
            from securepacs.audit.repository.keeper import LogKeeper
            from securepacs.audit.repository.signer import LogSigner

            signer = LogSigner.load(log_key, origin=origin)
            output.errors.print(f"log key {signer.public}", markup=False, highlight=False)
            sink = stack.enter_context(_witness(witness, spool, cert, key, trust)) if witness else None
            days = timedelta(days=keep_days) if keep_days else None
            stack.enter_context(
                LogKeeper(
                    repository, signer, seconds=checkpoint_seconds, witness=sink, stamp_urls=tsa or (), retention=days, law=law
                )
            )
        server = RepositoryServer(repository, host=host, port=port, context=context)
        with server:
            output.errors.print(f"listening on {_joined(host, server.port)}", highlight=False)
            ended.wait()


@app.command()
@output.reports_errors
def send(
    files: FilesArgument,
    to: Annotated[str, typer.Option("--to", help="HOST:PORT of the repository.")],
    cert: CertOption,
    key: KeyOption,
    trust: TrustOption,
    crl: CrlOption = None,
) -> None:
    """Send audit messages to a repository over mutual TLS; done means the repository read them all."""
    from securepacs.audit.syslog_tls import SyslogTlsSender
    from securepacs.tls import client_context

    host, port = _address(to)
    records = [_record_of(path) for path in files]
    context = client_context(certificate=cert, key=key, trust=trust, crls=crl or ())
    sender = SyslogTlsSender(host, port, context)
    sender.connect()
    sender.send(records)
    if not sender.close():
        raise Unavailable("the repository did not confirm what it was sent", hint="look into its log; sending again does no harm")


@app.command()
@output.reports_errors
def validate(files: FilesArgument, json: JsonOption = False) -> None:
    """Grade audit messages: conformant, usable with findings (exit code 1), or unparsed (exit code 3)."""
    from securepacs.audit.grading import EDITION, grade

    codes = []
    for path in files:
        try:
            graded = grade(_read(path))
        except SecurePacsError as error:
            output.print_error(error, file=str(path))
            codes.append(3)
            continue
        codes.append(_exit_code(graded))
        if json:
            output.print_json(_graded_dict(path, graded, EDITION))
        else:
            _print_grade(path, graded, EDITION)
    raise typer.Exit(output.worst_of_files(codes))


@app.command()
@output.reports_errors
def search(
    store: StoreOption,
    patient: Annotated[str, typer.Option("--patient", help="Patient ID, with or without its issuer.")] = "",
    study: Annotated[str, typer.Option("--study", help="Study Instance UID.")] = "",
    user: Annotated[str, typer.Option("--user", help="User ID, alternative ID or name.")] = "",
    event: Annotated[str, typer.Option("--event", help="Event or event type code, or the name of an event.")] = "",
    outcome: Annotated[str, typer.Option("--outcome", help="success, minor, serious, major, or 0, 4, 8, 12.")] = "",
    source: Annotated[str, typer.Option("--source", help="Audit source or enterprise site ID.")] = "",
    since: Annotated[str, typer.Option("--from", help="Earliest moment, RFC 3339 or a date (UTC).")] = "",
    until: Annotated[str, typer.Option("--to", help="Moment before which, RFC 3339 or a date (UTC).")] = "",
    text: Annotated[str, typer.Option("--text", help="Part of any text of the record.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="At most so many records.")] = 100,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="In order of time; newest first otherwise.")] = False,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, safe to open in a spreadsheet.")] = False,
) -> None:
    """Search a repository; the search itself is recorded there as Audit Log Used."""
    from securepacs.audit.repository import Criteria, Repository

    if json and csv:
        raise UsageError("give --json or --csv, not both")
    criteria = Criteria(
        since=moment(since, "--from"),
        until=moment(until, "--to"),
        patient=patient,
        study=study,
        user=user,
        event=event,
        outcome=_outcome(outcome),
        source=source,
        text=text,
        limit=limit,
        newest_first=not oldest_first,
    )
    with Repository(store, must_exist=True) as repository:
        records = repository.search(criteria, reader=reader(), at=datetime.now(UTC))
        if json:
            _print_json(repository, records)
        elif csv:
            _print_csv(records)
        else:
            output.print_table(f"{len(records)} audit records", _COLUMNS, map(_cells, records))


@contextmanager
def _witness(to: str, spool: Path | None, cert: Path, key: Path, trust: list[Path]) -> Iterator[SpoolSink]:
    """Yield a sink whose records are delivered to another repository."""
    if spool is None:
        raise UsageError("--witness needs --spool: checkpoints wait there while the witness cannot be reached")
    with delivered(to, spool, cert, key, trust, app_name="securepacs-audit", name="witness") as sink:
        yield sink


@contextmanager
def delivered(to: str, spool: Path, cert: Path, key: Path, trust: list[Path], *, app_name: str, name: str) -> Iterator[SpoolSink]:
    """Yield a sink whose records are delivered to the repository `to`; those that were not wait in the spool, and it is said."""
    from securepacs.audit.sinks import SpoolSink
    from securepacs.audit.syslog_tls import Forwarder, SyslogTlsSender
    from securepacs.tls import client_context

    host, port = _address(to)
    sender = SyslogTlsSender(host, port, client_context(certificate=cert, key=key, trust=trust))
    with SpoolSink.open(spool, app_name=app_name, destinations=(name,)) as sink:
        forwarder = Forwarder([spool], sender, name=name)
        forwarder.start()
        try:
            yield sink
        finally:
            if not forwarder.stop():
                text = f"warning: records for {to} wait in {spool}; the next command that delivers from there sends them"
                output.errors.print(text, markup=False, highlight=False)


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _record_of(path: Path) -> bytes:
    """Return a file as a syslog record: as it is when it is one already, else with a header of its own."""
    import os
    import socket

    from securepacs.audit.grading import grade
    from securepacs.audit.syslog import to_record

    raw = _read(path)
    graded = grade(raw)
    if graded.message is None:
        reason = graded.findings[-1].detail if graded.findings else "no audit message"
        raise MalformedError(f"{path}: {reason}", hint="see: securepacs audit validate")
    if graded.record is not None:
        return raw
    return to_record(raw, hostname=socket.gethostname(), app_name="securepacs", procid=str(os.getpid()), at=datetime.now(UTC))


def _exit_code(graded: Grade) -> int:
    from securepacs.audit.grading import Verdict

    return {Verdict.CONFORMANT: 0, Verdict.USABLE: 1, Verdict.UNPARSED: 3}[graded.verdict]


def _graded_dict(path: Path, graded: Grade, edition: str) -> dict[str, Any]:
    findings = [{"code": each.code, "where": each.where, "detail": each.detail, "note": each.is_note} for each in graded.findings]
    return {
        "file": str(path), "verdict": graded.verdict.value, "edition": edition, "dialect": graded.dialect, "findings": findings
    }  # fmt: skip


def _print_grade(path: Path, graded: Grade, edition: str) -> None:
    dialect = f", dialect {graded.dialect}" if graded.dialect else ""
    output.console.print(f"{path}: {graded.verdict.value} ({edition}{dialect})", markup=False, highlight=False)
    for each in graded.findings:
        where = f" {each.where}:" if each.where else ""
        output.console.print(f"  {each.code}:{where} {each.detail}", markup=False, highlight=False)


def moment(text: str, option: str) -> datetime | None:
    """Read a moment or date of an option; without a zone it is UTC."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no date and time", hint="for example 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _outcome(text: str) -> int | None:
    if not text:
        return None
    value = _OUTCOMES.get(text.lower(), int(text) if text.isdecimal() else -1)
    if value not in _OUTCOMES.values():
        raise UsageError(f"{text!r} is no outcome", hint="one of " + ", ".join((*_OUTCOMES, *map(str, _OUTCOMES.values()))))
    return value


def reader() -> ActiveParticipant:
    """Return the person at this command line, as a participant of what is recorded."""
    import getpass
    import os
    import socket

    from securepacs.audit.events import participant

    host = socket.gethostname()
    try:
        login = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        login = str(os.getuid())
    return participant(f"{login}@{host}", requestor=True, alternative=str(os.getpid()), host=host)


def _cells(record: AuditRecord) -> tuple[str, ...]:
    names = {value: name for name, value in _OUTCOMES.items()}
    description = record.description if record.duplicate_of is None else f"{record.description} (repeats {record.duplicate_of})"
    return (
        record.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        record.event_name or record.event_code or record.verdict,
        "" if record.outcome is None else names.get(record.outcome, str(record.outcome)),
        record.user,
        ", ".join(record.patients),
        description.strip(),
    )


def _print_json(repository: Repository, records: list[AuditRecord]) -> None:
    from base64 import b64encode

    for record in records:
        output.print_json({**record.to_dict(), "raw": b64encode(repository.raw(record.id)).decode("ascii")})


def _print_csv(records: list[AuditRecord]) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout)
    writer.writerow(_COLUMNS)
    writer.writerows([_neutral(cell) for cell in _cells(record)] for record in records)


def _neutral(cell: str) -> str:
    """Keep a spreadsheet from taking text of a sender for a formula."""
    return "'" + cell if cell.startswith(_FORMULA) else cell
