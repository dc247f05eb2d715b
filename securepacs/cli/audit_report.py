"""`securepacs audit report`: what an audit repository says about a patient, a month, emergency access, a breach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli import output
from securepacs.cli.audit_log import FromOption, StoreOption, ToOption
from securepacs.cli.keys import (
    CertOption,
    ChainOption,
    KeyOption,
    P12Option,
    PinEnvOption,
    PinFileOption,
    TokenOption,
    credential_from,
)
from securepacs.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from securepacs.audit.reports import Report, Scope

app = typer.Typer(help="Reports over the audit trail, as one page (HTML) and as CSV.", no_args_is_help=True)

HtmlOption = Annotated[Path | None, typer.Option("--html", help="File to write the page to.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="File to write the rows to, safe to open in a spreadsheet.")]
LanguageOption = Annotated[str, typer.Option("--language", help="en or ko.")]
ZoneOption = Annotated[str, typer.Option("--time-zone", help="Zone of times shown, and of days and months, e.g. Asia/Seoul.")]

_PRIVATE = 0o600  # a report names patients


@app.command()
@output.reports_errors
def access(
    store: StoreOption,
    patient: Annotated[str, typer.Option("--patient", help="Patient ID, with or without its issuer.")],
    since: FromOption = "",
    until: ToOption = "",
    html: HtmlOption = None,
    csv: CsvOption = None,
    language: LanguageOption = "en",
    time_zone: ZoneOption = "UTC",
) -> None:
    """Report who saw the images of a patient: every record that names the patient."""
    from securepacs.audit import reports

    _refuse_nowhere(html, csv)
    with _scope(store, since, until, language, time_zone) as scope, reports.access(scope, patient=patient) as report:
        _write(report, html, csv)


@app.command()
@output.reports_errors
def emergency(
    store: StoreOption,
    since: FromOption = "",
    until: ToOption = "",
    html: HtmlOption = None,
    csv: CsvOption = None,
    language: LanguageOption = "en",
    time_zone: ZoneOption = "UTC",
) -> None:
    """Report every emergency override for review: who, why, how long, and what was done meanwhile."""
    from securepacs.audit import reports

    _refuse_nowhere(html, csv)
    with _scope(store, since, until, language, time_zone) as scope, reports.emergency(scope) as report:
        _write(report, html, csv)


@app.command()
@output.reports_errors
def breach(
    store: StoreOption,
    since: FromOption,
    until: ToOption,
    subject: Annotated[str, typer.Option("--subject", help="User ID, alternative ID or name.")] = "",
    serial: Annotated[str, typer.Option("--serial", help="Serial number of a certificate, hexadecimal.")] = "",
    peer: Annotated[str, typer.Option("--peer", help="IP address, network or host name.")] = "",
    ae: Annotated[str, typer.Option("--ae", help="AE title.")] = "",
    html: HtmlOption = None,
    csv: CsvOption = None,
    language: LanguageOption = "en",
    time_zone: ZoneOption = "UTC",
) -> None:
    """Report which patients and studies somebody had to do with: a person, a certificate, an address or an AE title."""
    from securepacs.audit import reports
    from securepacs.audit.reports import Suspect, SuspectKind

    _refuse_nowhere(html, csv)
    named = [(SuspectKind(kind), text) for kind, text in zip(SuspectKind, (subject, serial, peer, ae), strict=True) if text]
    if len(named) != 1:
        raise UsageError("name exactly one of --subject, --serial, --peer, --ae")
    suspect = Suspect.of(*named[0])
    with _scope(store, since, until, language, time_zone) as scope, reports.breach(scope, suspect) as report:
        _write(report, html, csv)


@app.command()
@output.reports_errors
def monthly(
    store: StoreOption,
    month: Annotated[str, typer.Option("--month", help="Month, for example 2027-01; else the month before this one.")] = "",
    html: HtmlOption = None,
    csv: CsvOption = None,
    language: LanguageOption = "en",
    time_zone: ZoneOption = "UTC",
    comment: Annotated[str, typer.Option("--comment", help="What the auditor found; it is part of the page.")] = "",
    key: KeyOption = None,
    cert: CertOption = None,
    chain: ChainOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Report a month for the check that PIPA asks for; with a key the page is signed, and the signature stored in the trail.

    The signature (CMS, detached) stands beside the page as FILE.p7s.
    """
    from securepacs.audit import reports

    _refuse_nowhere(html, csv)
    if not (key or cert or p12 or token):
        with _scope(store, "", "", language, time_zone, month=month or "last") as scope:
            closing = _closing(scope, comment)
            with reports.monthly(scope, closing=closing) as report:
                _write(report, html, csv)
        return
    if html is None:
        raise UsageError("the auditor signs the page: give --html")
    pins = {"pin_file": pin_file, "pin_env": pin_env}
    with (
        credential_from(key=key, cert=cert, chain=chain, p12=p12, token=token, **pins) as auditor,  # type: ignore[arg-type]
        _scope(store, "", "", language, time_zone, month=month or "last") as scope,
    ):
        auditor.for_documents()  # refused before anything is read or written
        subject = auditor.certificate.subject.rfc4514_string()
        words = scope.words
        named = (
            (words("auditor"), subject),
            (words("certificate"), f"{auditor.certificate.serial_number:x}, {auditor.certificate.issuer.rfc4514_string()}"),
            *_closing(scope, comment),
            (words("signature"), words("signature text")),
        )
        with reports.monthly(scope, closing=named) as report:
            if csv is not None:
                digest = _write_csv(report, csv)
                report = replace(report, closing=((words("csv digest"), digest), *named))
            page = b"".join(reports.html(report))
            signature = reports.sign_page(page, auditor, scope)
        record = reports.record_signature(report, page, signature, auditor, scope)
        _write_file(html, [page])
        _write_file(reports.signature_path(html), [signature])
    output.errors.print(f"signed by {subject}, recorded as {record}", markup=False, highlight=False)


@app.command()
@output.reports_errors
def check(
    page: Annotated[Path, typer.Argument(metavar="PAGE", help="A signed report; its signature stands beside it as PAGE.p7s.")],
    trust: Annotated[list[Path], typer.Option("--trust", help="Whom to trust for auditors: file or folder.")],
    crl: Annotated[list[Path] | None, typer.Option("--crl", help="Revocation lists of auditors.")] = None,
    store: Annotated[str, typer.Option("--store", help="The repository that has to hold the signature, too.")] = "",
) -> None:
    """Check the auditor's signature of a report, and with --store that the audit trail holds it (exit code 1: no).

    With --store the certificate is judged as of the moment the trail received the signature, else as of now.
    """
    from securepacs.audit import reports
    from securepacs.trust import TrustPolicy

    content, signature = (_read(path) for path in (page, reports.signature_path(page)))
    policy, at, kept = TrustPolicy.from_files(trust, crls=crl or ()), datetime.now(UTC), ""
    if store:
        with _scope(store, "", "", "en", "UTC") as scope:
            record = reports.find_signature(content, signature, scope)
        if record is None:
            raise VerificationError("the audit trail does not hold this signature of this page")
        at, kept = record.received, f", recorded as {record.id} at {record.received:%Y-%m-%dT%H:%M:%SZ}"
    signer, _ = reports.check_signature(content, signature, policy, at=at)
    claimed = f" at {signer.signing_time:%Y-%m-%dT%H:%M:%SZ}" if signer.signing_time else ""
    output.console.print(f"signed by {signer.certificate.subject.rfc4514_string()}{claimed}{kept}", markup=False, highlight=False)


@contextmanager
def _scope(store: str, since: str, until: str, language: str, zone_name: str, *, month: str = "") -> Iterator[Scope]:
    from securepacs.audit.reports import Scope, month_before, month_of, time_zone
    from securepacs.audit.repository import Repository
    from securepacs.cli.audit import moment, reader

    zone, at = time_zone(zone_name), datetime.now(UTC)
    if month:
        begin, end = month_of(month_before(at, zone) if month == "last" else month, zone)
    else:
        begin, end = moment(since, "--from"), moment(until, "--to")  # type: ignore[assignment]
    with Repository(store, must_exist=True) as repository:
        yield Scope(repository, reader(), at, since=begin, until=end, language=language, zone=zone)


def _closing(scope: Scope, comment: str) -> tuple[tuple[str, str], ...]:
    return ((scope.words("comment"), comment),) if comment.strip() else ()


def _refuse_nowhere(html: Path | None, csv: Path | None) -> None:
    if html is None and csv is None:
        raise UsageError("where to? give --html, --csv or both")


def _write(report: Report, html: Path | None, csv: Path | None) -> None:
    from securepacs.audit import reports

    if csv is not None:
        _write_csv(report, csv)
    if html is not None:
        _write_file(html, reports.html(report))


def _write_csv(report: Report, path: Path) -> str:
    """Write the rows and return the SHA-256 of the file."""
    from securepacs.audit import reports

    state = sha256()

    def watched() -> Iterator[bytes]:
        for line in reports.csv_lines(report.data):
            state.update(line)
            yield line

    _write_file(path, watched())
    return state.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _write_file(path: Path, pieces: Iterator[bytes] | list[bytes]) -> None:
    from securepacs.dicom.files import write_atomically

    write_atomically(path, pieces, mode=_PRIVATE)
