"""`securepacs sign`: add digital signatures to DICOM files (PS3.15 C)."""

from __future__ import annotations

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
from securepacs.cli.paths import outputs_for, printable

if TYPE_CHECKING:
    from securepacs.signatures.batch import SignedFile
    from securepacs.signatures.sign import SigningOptions


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
) -> None:
    """Add a digital signature to DICOM files; every other byte of them stays as it is."""
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
    pairs = outputs_for(files, destination, in_place=in_place)
    with credential_from(key=key, cert=cert, chain=chain, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env) as credential:
        codes = [_report(done) for done in sign_files(pairs, credential, partial(_options, options, tsa))]
    raise SystemExit(output.worst_of_files(codes))


def _report(done: SignedFile) -> int:
    """Say what became of one file and return its exit code."""
    from securepacs.wiring import exit_code

    if done.error is not None:
        output.print_error(done.error, file=printable(done.source))
        return exit_code(done.error)
    output.console.print(printable(f"{done.target}: {' '.join(done.uids)}"), markup=False, highlight=False)
    if done.padded:
        text = "signed values carry surplus padding; software that trims values, such as DCMTK, will reject it"
        output.errors.print(printable(f"warning: {done.source}: {text}"), markup=False, highlight=False)
    return 0


def _options(options: dict[str, Any], tsa: str | None) -> SigningOptions:
    from securepacs.signatures.sign import make_options

    if tsa is None:
        return make_options(**options)
    from securepacs.trust.timestamp import request_timestamp

    return make_options(**options, timestamp=partial(request_timestamp, url=tsa))
