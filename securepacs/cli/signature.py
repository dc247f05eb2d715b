"""`securepacs signature`: what can be done to signatures that exist, and the signed manifest of a study (PS3.3 C.12.1.1.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from securepacs.cli.paths import files_in, outputs_for, parse_moment, printable
from securepacs.cli.trusting import AllowHostOption, CrlOption, IntermediatesOption, OnlineOption, read_policy
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from pydicom import Dataset

app = typer.Typer(help="Signatures that exist: remove, stamp later; the manifest of a study.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A signed DICOM file.")]
UidOption = Annotated[str, typer.Option("--uid", metavar="UID", help="Digital Signature UID, as `securepacs inspect` shows it.")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="Where the changed file goes.")]
InPlaceOption = Annotated[bool, typer.Option("--in-place", help="Replace the file.")]


@app.command()
@output.reports_errors
def remove(file: FileArgument, uid: UidOption, destination: OutputOption = None, in_place: InPlaceOption = False) -> None:
    """Remove one signature; every byte that does not belong to it stays as it is."""
    from securepacs import signatures

    source, target = _one_file(file, destination, in_place=in_place)
    signatures.remove(source, uid, output=target)
    output.console.print(printable(f"{target}: removed {uid}"), markup=False, highlight=False)


@app.command()
@output.reports_errors
def timestamp(
    file: FileArgument,
    uid: UidOption,
    tsa: Annotated[str, typer.Option("--tsa", metavar="URL", help="URL of a time stamp authority (RFC 3161).")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the time stamp that the signature has.")] = False,
    destination: OutputOption = None,
    in_place: InPlaceOption = False,
) -> None:
    """Add a certified time stamp to a signature made without one: it proves that the signature existed by now."""
    from functools import partial

    from securepacs import signatures
    from securepacs.trust.timestamp import request_timestamp

    source, target = _one_file(file, destination, in_place=in_place)
    signatures.add_timestamp(source, uid, partial(request_timestamp, url=tsa), output=target, replace=replace)
    output.console.print(printable(f"{target}: stamped {uid}"), markup=False, highlight=False)


def _one_file(file: Path, destination: Path | None, *, in_place: bool) -> tuple[Path, Path]:
    if file.is_dir():
        raise UsageError(f"{file} is a folder; this command takes one file")
    ((source, target),) = outputs_for([file], destination, in_place=in_place)
    return source, target


@app.command()
@output.reports_errors
def manifest(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="All instances of one study: files, or folders of them.")],
    document: Annotated[Path, typer.Option("-o", "--output", metavar="KO.dcm", help="Where the signed manifest goes.")],
    key: KeyOption = None,
    cert: CertOption = None,
    chain: ChainOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Title it Signed Complete Acquisition Content: the archive vouches as source.")
    ] = False,
    purpose: Annotated[int | None, typer.Option("--purpose", help="Signature purpose, 1-18 of CID 7007.")] = None,
    observer: Annotated[str, typer.Option("--observer", metavar="NAME", help="Person who answers for it.")] = "",
    tsa: Annotated[str | None, typer.Option("--tsa", metavar="URL", help="URL of a time stamp authority (RFC 3161).")] = None,
) -> None:
    """Write the signed manifest of a study: a Key Object that names every instance by its content (PS3.15 A.4, PS3.17 W)."""
    from functools import partial

    from securepacs.dicom.files import write_atomically
    from securepacs.signatures.manifests import (
        PURPOSES,
        SIGNED_COMPLETE_ACQUISITION_CONTENT,
        SIGNED_MANIFEST,
        build_manifest,
        sign_manifest,
    )
    from securepacs.trust.timestamp import request_timestamp

    if document.exists():
        raise UsageError(f"{document} exists already", hint="a manifest is evidence: name a new file")
    if purpose is not None and purpose not in range(1, 19):
        raise UsageError("--purpose takes 1 to 18", standard="PS3.16 CID 7007")
    instances = files_in(files)
    at, title = datetime.now(UTC), SIGNED_COMPLETE_ACQUISITION_CONTENT if complete else SIGNED_MANIFEST
    unsigned = build_manifest(instances, at=at, title=title, observer=observer)
    if token:
        _show(unsigned, len(instances))  # before the PIN is asked for
    with credential_from(key=key, cert=cert, chain=chain, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env) as credential:
        stamp = partial(request_timestamp, url=tsa) if tsa else None
        raw = sign_manifest(unsigned, credential, at=at, purpose=purpose or PURPOSES[title], timestamp=stamp)
    write_atomically(document, [raw])
    output.console.print(printable(f"{document}: manifest of {len(instances)} instances"), markup=False, highlight=False)


def _show(document: Dataset, count: int) -> None:
    from securepacs.cli.sign import show_studies
    from securepacs.signatures.session import Study

    shown = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyDescription", "StudyInstanceUID")
    show_studies({Study(*(str(document.get(keyword) or "") for keyword in shown)): count})


@app.command()
@output.reports_errors
def study(
    document: Annotated[Path, typer.Argument(metavar="KO.dcm", help="The signed manifest.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The instances: files, or folders of them.")],
    trust: Annotated[list[Path], typer.Option("--trust", help="Certificates to trust: PEM file or folder.")],
    intermediates: IntermediatesOption = None,
    crl: CrlOption = None,
    online: OnlineOption = True,
    allow_host: AllowHostOption = None,
    at: Annotated[str | None, typer.Option("--at", metavar="RFC3339", help="Judge as of this moment.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare a study with its signed manifest: unchanged, changed, missing and extra instances.

    Ends with 0 only if the manifest passes and the study is exactly what it names.
    """
    from securepacs.signatures import Verifier, check_study

    policy = read_policy(trust, intermediates, crl, online=online, allow_host=allow_host)
    verifier = Verifier(policy, parse_moment(at) if at else datetime.now(UTC))
    report = check_study(document, files_in(files), verifier)
    if as_json:
        output.print_json(report.to_dict())
    else:
        output.console.print(report.verdict, markup=False, highlight=False)
        output.console.print(f"  manifest {report.manifest.verdict}", markup=False, highlight=False)
        for result in report.manifest.signatures:
            signer = f"  signed by {result.signer or 'an unknown signer'} {result.sub_indication}"
            output.console.print(printable(signer.rstrip()), markup=False, highlight=False)
        output.console.print(f"  {len(report.unchanged)} instances unchanged", markup=False, highlight=False)
        for name in ("changed", "missing", "extra", "undecided"):
            for uid in getattr(report, name):
                output.console.print(printable(f"  {name}: {uid}"), markup=False, highlight=False)
    raise SystemExit(0 if report.verdict == "TOTAL-PASSED" else 1)
