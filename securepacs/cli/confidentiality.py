"""`securepacs deidentify` and `securepacs reidentify`: attribute confidentiality (PS3.15 E), one file or a tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.batch import DestinationOption, JsonOption, SourceArgument, each_file, file_pairs
from securepacs.cli.keys import CertOption, KeyOption, P12Option, PinEnvOption, PinFileOption, TokenOption, credential_or_password

_OPTIONS = (
    "An option of the profile (repeatable): retain-uids, retain-device-identity, retain-institution-identity, "
    "retain-patient-characteristics, retain-full-dates, retain-modified-dates or clean-descriptors."
)


@output.reports_errors
def deidentify(
    source: SourceArgument,
    destination: DestinationOption,
    to: Annotated[
        list[Path] | None,
        typer.Option("--to", help="RSA certificate of one who may re-identify (repeatable); without any nobody can."),
    ] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help=_OPTIONS)] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option("--secret-file", help="File (mode 600) with a secret, for the same new UIDs and names in every run."),
    ] = None,
    cipher: Annotated[
        str, typer.Option("--cipher", help="aes256-cbc, aes192-cbc, aes128-cbc or, only for old readers, des-ede3-cbc.")
    ] = "aes256-cbc",
    unsafe_burned_in: Annotated[
        bool, typer.Option("--unsafe-burned-in", help="Also take images that say that their pixels show the patient.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the patient's identity (PS3.15 E.1); with --to it goes along, encrypted. Pixels are not cleaned.

    Of a folder the results are numbered, because the names of files may name the patient.
    """
    from securepacs import confidentiality
    from securepacs.tokens.pin import pin_source
    from securepacs.tokens.software import load_certificates

    pairs = file_pairs(source, destination)
    if source.is_dir():
        pairs = [(file, destination / f"IM{number:06}.dcm") for number, (file, _) in enumerate(pairs, start=1)]
    recipients = [load_certificates(path)[0] for path in to or ()]
    pseudonyms = confidentiality.Pseudonyms(pin_source(pin_file=secret_file)().encode() if secret_file else None)

    def one(file: Path, result: Path) -> dict[str, Any]:
        made = confidentiality.deidentify(
            file, recipients=recipients, options=option or (), pseudonyms=pseudonyms, cipher=cipher, output=result,
            unsafe_burned_in=unsafe_burned_in,
        )  # fmt: skip
        return {"file": str(file), "output": str(result), "sop_instance_uid": made.sop_instance_uid, "warnings": made.warnings}

    results, code = each_file(pairs, one, as_json=as_json)
    if not as_json:
        for each in results:
            for warning in each["warnings"]:
                output.errors.print(f"warning: {each['file']}: {warning}", markup=False, highlight=False)
        rows = [(each["file"], each["output"], each["sop_instance_uid"]) for each in results]
        output.print_table("de-identified", ("file", "output", "new SOP Instance UID"), rows)
    raise SystemExit(code)


@output.reports_errors
def reidentify(
    source: SourceArgument,
    destination: DestinationOption,
    key: KeyOption = None,
    cert: CertOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File (mode 600) with the password, for writers that use one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore the identity that was encrypted for you (PS3.15 E.1.2). Only a signature would prove that it belongs to the image."""
    from securepacs import confidentiality
    from securepacs.tokens.pin import pin_source

    pairs = file_pairs(source, destination)
    credential = credential_or_password(
        key=key, cert=cert, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env, password_file=password_file
    )
    with credential as mine:
        password = pin_source(pin_file=password_file)() if password_file else None

        def one(file: Path, result: Path) -> dict[str, Any]:
            made = confidentiality.reidentify(file, mine, password=password, output=result)
            facts = {"file": str(file), "output": str(result), "sop_instance_uid": made.sop_instance_uid}
            return {**facts, "restored": len(made.restored)}

        results, code = each_file(pairs, one, as_json=as_json)
    if not as_json:
        rows = [(each["file"], each["output"], each["restored"]) for each in results]
        output.print_table("re-identified", ("file", "output", "attributes restored"), rows)
    raise SystemExit(code)
