"""`securepacs media`: protect, open and inspect Secure DICOM Files (PS3.15 D.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli import output
from securepacs.cli.keys import CertOption, KeyOption, P12Option, PinEnvOption, PinFileOption, TokenOption, credential_from
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.media import MediaSigner
    from securepacs.tokens.credential import Credential

app = typer.Typer(no_args_is_help=True, help="DICOM files encrypted for their recipients (PS3.15 Annex D).")

Source = Annotated[Path, typer.Argument(metavar="SRC", help="The file to read.")]
Destination = Annotated[Path, typer.Option("-o", "--output", metavar="DST", help="The file to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
@output.reports_errors
def protect(
    source: Source,
    destination: Destination,
    to: Annotated[list[Path], typer.Option("--to", help="Certificate of a recipient (repeatable).")],
    sign_key: Annotated[Path | None, typer.Option("--sign-key", help="Private key of the signer.")] = None,
    sign_cert: Annotated[Path | None, typer.Option("--sign-cert", help="Certificate of the signer.")] = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    cipher: Annotated[str, typer.Option("--cipher", help="aes256-cbc, aes192-cbc or aes128-cbc.")] = "aes256-cbc",
) -> None:
    """Encrypt a DICOM file for its recipients, signed when a signer's key is given, else with a digest."""
    from securepacs import media
    from securepacs.tokens.software import load_certificates

    _require_other_file(source, destination)
    recipients = [load_certificates(path)[0] for path in to]

    def write(signer: Credential | None) -> None:
        media.protect(source, recipients=recipients, signer=signer, cipher=cipher, output=destination)

    if not (sign_key or sign_cert or token):
        if pin_file or pin_env:
            raise UsageError("a PIN was given and no signer's key")
        write(None)
        return
    names = "--sign-key with --sign-cert, or --token"
    with credential_from(key=sign_key, cert=sign_cert, token=token, pin_file=pin_file, pin_env=pin_env, names=names) as signer:
        write(signer)


@app.command("open")
@output.reports_errors
def open_file(
    source: Source,
    destination: Destination,
    key: KeyOption = None,
    cert: CertOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    trust: Annotated[
        list[Path] | None, typer.Option("--trust", help="Demand a signer whom these certificates vouch for (PEM or folder).")
    ] = None,
    unsafe_no_integrity: Annotated[
        bool, typer.Option("--unsafe-no-integrity", help="Also open files without any protection against changes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Decrypt a file; nothing is written before its integrity, and with --trust its signer, is verified."""
    from securepacs import media
    from securepacs.trust import TrustPolicy

    _require_other_file(source, destination)
    policy = TrustPolicy.from_files(trust) if trust else None
    with credential_from(key=key, cert=cert, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env) as credential:
        opened = media.open(source, credential, policy=policy, allow_no_integrity=unsafe_no_integrity, output=destination)
    signers = [_describe(signer) for signer in opened.signers]
    if as_json:
        result = {"file": str(source), "output": str(destination), "integrity": opened.integrity}
        output.print_json({**result, "signers": signers, "warnings": opened.warnings})
        return
    for warning in opened.warnings:
        output.errors.print(f"warning: {warning}", markup=False, highlight=False)
    rows = [(signer["subject"], signer["signing_time"] or "", signer["indication"] or "not asked") for signer in signers]
    output.print_table(f"integrity: {opened.integrity}", ("signer", "claimed time", "trust"), rows)


@app.command()
@output.reports_errors
def inspect(source: Source, as_json: JsonOption = False) -> None:
    """Tell how a file is protected and for whom; needs no key."""
    from securepacs import media

    described = media.inspect(source)
    recipients = [
        {
            "kind": recipient.kind,
            "issuer": recipient.issuer,
            "serial_number": f"{recipient.serial_number:x}" if recipient.serial_number is not None else "",
            "subject_key_identifier": (recipient.subject_key_identifier or b"").hex(),
            "algorithm": recipient.algorithm,
        }
        for recipient in described.recipients
    ]
    facts = {"kind": described.kind, "size": described.size, "cipher": described.cipher, "content_type": described.content_type}
    if as_json:
        output.print_json({"file": str(source), **facts, "recipients": recipients})
        return
    output.print_table(str(source), ("property", "value"), facts.items())
    if recipients:
        output.print_table("recipients", recipients[0].keys(), [recipient.values() for recipient in recipients])


def _describe(signer: MediaSigner) -> dict[str, str | None]:
    return {
        "subject": signer.certificate.subject.rfc4514_string(),
        "signing_time": signer.signing_time.isoformat() if signer.signing_time else None,
        "indication": signer.path.indication.value if signer.path is not None else None,
        "sub_indication": signer.path.sub_indication if signer.path is not None else None,
    }


def _require_other_file(source: Path, destination: Path) -> None:
    if destination.exists() and source.exists() and destination.samefile(source):
        raise UsageError("the output would replace the input")
