"""`securepacs media`: protect, open and inspect Secure DICOM Files (PS3.15 D.1), one file or a tree."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import disc, output
from securepacs.cli.batch import DestinationOption, JsonOption, SourceArgument, each_file, file_pairs
from securepacs.cli.keys import (
    CertOption,
    KeyOption,
    P12Option,
    PinEnvOption,
    PinFileOption,
    TokenOption,
    credential_from,
    credential_or_password,
)
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.media import MediaSigner

app = typer.Typer(no_args_is_help=True, help="DICOM files encrypted for their recipients (PS3.15 Annex D).")

Secured = Annotated[Path, typer.Argument(metavar="SRC", help="A file, a folder of files, or a disc: its folder or ISO 9660 image.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File (mode 600) with the recipients' password.")]

app.command("publish")(disc.publish)

_CIPHERS = (
    "aes256-cbc, aes192-cbc, aes128-cbc or, only for old readers, des-ede3-cbc; aes256-gcm, aes192-gcm and aes128-gcm are "
    "extensions that PS3.15 D.1 does not have."
)


@app.command()
@output.reports_errors
def protect(
    source: SourceArgument,
    destination: DestinationOption,
    to: Annotated[
        list[Path] | None, typer.Option("--to", help="Certificate of a recipient (repeatable). Elliptic curves are an extension.")
    ] = None,
    password_file: PasswordFileOption = None,
    new_password_file: Annotated[
        Path | None, typer.Option("--new-password-file", help="Make a passphrase of 100 bits and write it to this new file.")
    ] = None,
    sign_key: Annotated[Path | None, typer.Option("--sign-key", help="Private key of the signer.")] = None,
    sign_cert: Annotated[Path | None, typer.Option("--sign-cert", help="Certificate of the signer.")] = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    cipher: Annotated[str, typer.Option("--cipher", help=_CIPHERS)] = "aes256-cbc",
    oaep: Annotated[bool, typer.Option("--oaep", help="RSA-OAEP for RSA recipients: an extension.")] = False,
    unsafe_weak_password: Annotated[
        bool, typer.Option("--unsafe-weak-password", help="Take a password that could be found by trying.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Encrypt DICOM files for their recipients, signed when a signer's key is given, else with a digest."""
    from securepacs import media
    from securepacs.tokens.software import load_certificates

    pairs = file_pairs(source, destination)
    recipients = [load_certificates(path)[0] for path in to or ()]
    signing = bool(sign_key or sign_cert or token)
    if not signing and (pin_file or pin_env):
        raise UsageError("a PIN was given and no signer's key")
    names = "--sign-key with --sign-cert, or --token"
    credential = (
        credential_from(key=sign_key, cert=sign_cert, token=token, pin_file=pin_file, pin_env=pin_env, names=names)
        if signing
        else nullcontext()
    )
    with credential as signer:
        password = password_from(password_file, new_password_file)

        def one(file: Path, result: Path) -> dict[str, Any]:
            media.protect(
                file, recipients=recipients, password=password, signer=signer, cipher=cipher, output=result,
                key_transport="oaep" if oaep else "pkcs1v15", unsafe_weak_password=unsafe_weak_password,
            )  # fmt: skip
            made = media.inspect(result)
            return {"file": str(file), "output": str(result), "profile": made.profile, "extensions": made.extensions}

        results, code = each_file(pairs, one, as_json=as_json)
    if not as_json:
        rows = [
            (each["file"], each["output"], each["profile"] or f"extension: {', '.join(each['extensions'])}") for each in results
        ]
        output.print_table("protected", ("file", "output", "profile"), rows)
    raise SystemExit(code)


@app.command("open")
@output.reports_errors
def open_file(
    source: Secured,
    destination: DestinationOption,
    key: KeyOption = None,
    cert: CertOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    password_file: PasswordFileOption = None,
    trust: Annotated[
        list[Path] | None, typer.Option("--trust", help="Demand a signer whom these certificates vouch for (PEM or folder).")
    ] = None,
    unsafe_no_integrity: Annotated[
        bool, typer.Option("--unsafe-no-integrity", help="Also open files without any protection against changes.")
    ] = False,
    unsafe_incomplete: Annotated[
        bool, typer.Option("--unsafe-incomplete", help="Of a disc open what can be opened, though files are missing or damaged.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Decrypt files; nothing is written before its integrity, and with --trust its signer, is verified."""
    from securepacs import media
    from securepacs.media import passphrase
    from securepacs.media.file_set import is_secure_file_set
    from securepacs.media.volume import FolderVolume, is_image
    from securepacs.trust import TrustPolicy

    is_disc = is_image(source) or (source.is_dir() and is_secure_file_set(FolderVolume(source)))
    pairs = [] if is_disc else file_pairs(source, destination)
    policy = TrustPolicy.from_files(trust) if trust else None
    credential = credential_or_password(
        key=key, cert=cert, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env, password_file=password_file
    )
    with credential as mine:
        password = password_from(password_file, None)
        if is_disc:
            entered = None if password is None else passphrase.entered(password)
            disc.open_disc_at(
                source, destination, mine, entered, policy, allow_no_integrity=unsafe_no_integrity,
                allow_incomplete=unsafe_incomplete, as_json=as_json,
            )  # fmt: skip
            return

        def one(file: Path, result: Path) -> dict[str, Any]:
            opened = media.open(file, mine, password=password, policy=policy, allow_no_integrity=unsafe_no_integrity, output=result)
            facts = {"file": str(file), "output": str(result), "integrity": opened.integrity, "origin": opened.origin}
            return {**facts, "signers": [_describe(signer) for signer in opened.signers], "warnings": opened.warnings}

        results, code = each_file(pairs, one, as_json=as_json)
    if not as_json:
        _print_opened(results)
    raise SystemExit(code)


def _print_opened(results: list[dict[str, Any]]) -> None:
    for result in results:
        for warning in result["warnings"]:
            output.errors.print(f"warning: {result['file']}: {warning}", markup=False, highlight=False)
    rows = [
        (result["file"], result["integrity"], f"origin {result['origin']}", signer.get("subject", ""),
         signer.get("signing_time") or "", signer.get("indication") or "not asked")
        for result in results
        for signer in result["signers"] or [{}]
    ]  # fmt: skip
    output.print_table("opened", ("file", "integrity", "origin", "signer", "claimed time", "trust"), rows)


@app.command()
@output.reports_errors
def inspect(source: Annotated[Path, typer.Argument(metavar="FILE", help="The file to read.")], as_json: JsonOption = False) -> None:
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
    facts: dict[str, Any] = {"kind": described.kind, "size": described.size, "cipher": described.cipher}
    facts |= {"content_type": described.content_type, "profile": described.profile, "extensions": described.extensions}
    if as_json:
        output.print_json({"file": str(source), **facts, "recipients": recipients})
        return
    facts["extensions"] = ", ".join(described.extensions)
    output.print_table(str(source), ("property", "value"), facts.items())
    if recipients:
        output.print_table("recipients", recipients[0].keys(), [recipient.values() for recipient in recipients])


def password_from(existing: Path | None, new: Path | None) -> str | None:
    """Read the password, or make one and write it to a file that only its owner may read."""
    from securepacs import media
    from securepacs.tokens.pin import pin_source

    if existing and new:
        raise UsageError("--password-file and --new-password-file exclude each other")
    if existing:
        return pin_source(pin_file=existing)()
    if new:
        passphrase = media.generate_passphrase()
        try:
            new.touch(mode=0o600, exist_ok=False)
            new.write_text(passphrase + "\n", encoding="ascii")
        except OSError as error:
            raise UsageError(f"cannot write {new}: {error.strerror}", hint="name a file that does not exist") from None
        return passphrase
    return None


def _describe(signer: MediaSigner) -> dict[str, str | None]:
    return {
        "subject": signer.certificate.subject.rfc4514_string(),
        "signing_time": signer.signing_time.isoformat() if signer.signing_time else None,
        "indication": signer.path.indication.value if signer.path is not None else None,
        "sub_indication": signer.path.sub_indication if signer.path is not None else None,
    }
