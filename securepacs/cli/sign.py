"""`securepacs sign`: add digital signatures to DICOM files (PS3.15 C)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import output
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
from securepacs.cli.paths import outputs_for, printable, readable
from securepacs.errors import SecurePacsError, TokenError

if TYPE_CHECKING:
    from securepacs.signatures.preparation import SigningOptions
    from securepacs.signatures.session import Study
    from securepacs.tokens.credential import Credential


@output.reports_errors
def sign(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="DICOM files, or folders of them.")],
    key: KeyOption = None,
    cert: CertOption = None,
    chain: ChainOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="base|creator|authorization|sr|none; creator unless --item is given, then base."),
    ] = None,
    coverage: Annotated[
        str | None, typer.Option("--coverage", help="creator|authorization|sr|all; what the profile asks by default.")
    ] = None,
    mac: Annotated[str, typer.Option("--mac", help="sha256|sha384|sha512.")] = "sha256",
    purpose: Annotated[int | None, typer.Option("--purpose", help="Signature purpose, 1-18 of CID 7007.")] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tags", help="Attributes to sign as well: keywords or 8 hex digits, by comma.")
    ] = None,
    item: Annotated[str | None, typer.Option("--item", help="Sign inside this item, e.g. 0040A730[0]/0040A043[0].")] = None,
    identity: Annotated[bool, typer.Option("--identity", help="Add a second signature over patient and study identity.")] = False,
    tsa: Annotated[str | None, typer.Option("--tsa", help="URL of a time stamp authority (RFC 3161).")] = None,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Where the signed file or files go.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the files by their signed form.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file, one per line.")] = False,
) -> None:
    """Add a digital signature to DICOM files; every other byte of them stays as it is.

    With --token everything is signed with one PIN: patient, study and number of instances are shown on the terminal before the
    PIN is asked for, exactly these instances are signed, and the card is logged out. A file that changes in between is refused.
    """
    from securepacs.signatures.batch import sign_files
    from securepacs.signatures.sign import make_options

    options: dict[str, Any] = {
        "profile": profile,
        "coverage": coverage,
        "mac": mac,
        "purpose": purpose,
        "tags": [tag for group in tags or () for tag in group.split(",") if tag.strip()],
        "item": item,
        "identity": identity,
    }
    make_options(**options)  # mistakes show before a PIN is asked for
    pairs = [pair for pair in outputs_for(files, destination, in_place=in_place) if not _is_directory_of_others(pair[0])]
    opened = partial(credential_from, key=key, cert=cert, chain=chain, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env)
    say = Sayer(as_json=as_json)
    if token:
        _sign_in_session(pairs, _options(options, tsa), opened, say)
    else:
        with opened() as credential:
            outcomes = sign_files(pairs, credential, partial(_options, options, tsa))
            for done in output.with_progress(outcomes, len(pairs), "signing"):
                if done.error is not None:
                    say.failed(done.source, done.error)
                else:
                    say.signed(done.source, done.target, done.uids, padded=done.padded)
    raise SystemExit(output.worst_of_files(say.codes))


def _is_directory_of_others(source: Path) -> bool:
    """Return whether a file is a DICOMDIR, which is rewritten with every change of its disc, and say that it is left alone."""
    from securepacs.media.directory import is_dicomdir

    if not is_dicomdir(source):
        return False
    output.errors.print(printable(f"{source}: a DICOMDIR is no instance and is left alone"), markup=False, highlight=False)
    return True


@dataclass
class Sayer:
    """Prints the result for each file, and keeps the exit codes."""

    as_json: bool
    codes: list[int] = field(default_factory=list)

    def signed(self, source: Path, target: Path, uids: tuple[str, ...], *, padded: bool) -> None:
        """Say that a file was signed."""
        self.codes.append(0)
        if self.as_json:
            warnings = ["surplus-padding"] if padded else []
            output.print_json({"file": readable(source), "output": readable(target), "signatures": uids, "warnings": warnings})
            return
        output.console.print(printable(f"{target}: {' '.join(uids)}"), markup=False, highlight=False)
        if padded:
            text = (
                f"warning: {source}: signed values carry surplus padding; software that trims values, such as DCMTK, will reject it"
            )
            output.errors.print(printable(text), markup=False, highlight=False)

    def failed(self, source: Path, error: SecurePacsError) -> None:
        """Say that a file was not signed; one with the token ends the run."""
        from securepacs.wiring import exit_code

        if isinstance(error, TokenError):
            raise error
        self.codes.append(exit_code(error))
        if self.as_json:
            output.print_json({"file": readable(source), "signatures": [], "error": {"code": error.code, "message": str(error)}})
        else:
            output.print_error(error, file=printable(source))


def _sign_in_session(
    pairs: list[tuple[Path, Path]],
    options: SigningOptions,
    opened: Callable[[], AbstractContextManager[Credential]],
    say: Sayer,
) -> None:
    """Prepare all files, show what they are, ask for the PIN, sign."""
    from securepacs.dicom.files import write_atomically
    from securepacs.signatures.session import SigningSession

    session = SigningSession(options)
    for source, _ in output.with_progress(pairs, len(pairs), "reading"):
        try:
            session.add(source)
        except SecurePacsError as error:
            say.failed(source, error)
    if not len(session):
        return
    if not say.as_json:
        show_studies(session.studies())
    targets = dict(pairs)
    with opened() as credential:
        for source, signed in output.with_progress(session.sign(credential), len(session), "signing"):
            try:
                if isinstance(signed, SecurePacsError):
                    raise signed
                targets[source].parent.mkdir(parents=True, exist_ok=True)
                write_atomically(targets[source], signed.pieces)
            except SecurePacsError as error:
                say.failed(source, error)
            else:
                say.signed(source, targets[source], signed.uids, padded=signed.padded)


def show_studies(studies: Mapping[Study, int]) -> None:
    """Show whose studies are about to be signed: patient data go to a terminal and nowhere else."""
    if not output.errors.is_terminal:
        return
    rows = [
        map(printable, (study.patient_name, study.patient_id, study.birth_date, study.study_date, study.description, count))
        for study, count in studies.items()
    ]
    columns = ("Patient", "Patient ID", "Born", "Study of", "Study", "Instances")
    output.print_table("You are about to sign", columns, rows, on_stderr=True)


def _options(options: dict[str, Any], tsa: str | None) -> SigningOptions:
    from securepacs.signatures.sign import make_options

    if tsa is None:
        return make_options(**options)
    from securepacs.trust.timestamp import request_timestamp

    return make_options(**options, timestamp=partial(request_timestamp, url=tsa))
