"""`securepacs token`: what is in the reader, whose keys it holds, and putting new ones on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.keys import PinEnvOption, PinFileOption, needs_tokens_extra
from securepacs.errors import ConfigError, TokenError, UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from securepacs.tokens.credential import Credential
    from securepacs.tokens.pkcs11 import DelegateKey

app = typer.Typer(no_args_is_help=True, help="Smart cards, USB keys and other PKCS #11 tokens.")

_MODULES = (
    "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/opensc-pkcs11.so",
    "/usr/lib64/opensc-pkcs11.so",
    "/usr/lib/opensc-pkcs11.so",
)

Uri = Annotated[str, typer.Argument(metavar="URI", help="The token, as PKCS #11 URI (RFC 7512); `token list` prints them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON Lines.")]


def _pin(pin_file: Path | None, pin_env: str | None) -> Any:
    from securepacs.tokens.pin import pin_source

    return pin_source(pin_file=pin_file, pin_env=pin_env, prompt="PIN: ")


def _print(rows: list[dict[str, Any]], *, title: str, as_json: bool) -> None:
    if as_json:
        for row in rows:
            output.print_json(row)
    elif rows:
        output.print_table(title, rows[0].keys(), [row.values() for row in rows])
    else:
        output.errors.print(f"{title}: none", markup=False, highlight=False)


@app.command("list")
@output.reports_errors
def list_command(
    module: Annotated[Path | None, typer.Option("--module", help="PKCS #11 module to ask; OpenSC's when not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tokens that a module sees now, with the state of their PINs. Needs no PIN."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import list_tokens
    chosen = module or next((Path(path) for path in _MODULES if Path(path).exists()), None)
    if chosen is None:
        raise ConfigError("OpenSC is not installed", key="module", hint="name another module with --module")
    rows = [
        {
            "label": info.label,
            "serial": info.serial,
            "manufacturer": info.manufacturer,
            "model": info.model,
            "pin": info.pin,
            "tries_left": "" if info.tries_left is None else info.tries_left,
            "uri": info.uri,
        }
        for info in list_tokens(chosen)
    ]
    _print(rows, title="tokens", as_json=as_json)


@app.command()
@output.reports_errors
def show(uri: Uri, as_json: JsonOption = False) -> None:
    """Show the certificates on a token. Needs no PIN, so it cannot tell which of them have their private key."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token

    with Pkcs11Token.open(uri) as token:
        rows = [
            {
                "label": label,
                "id": key_id.hex(),
                "subject": certificate.subject.rfc4514_string(),
                "issuer": certificate.issuer.rfc4514_string(),
                "not_after": certificate.not_valid_after_utc.isoformat(),
            }
            for label, key_id, certificate in token.certificates()
        ]
        title = f"certificates on {token.info().label}"
    _print(rows, title=title, as_json=as_json)


@app.command("test")
@output.reports_errors
def try_keys(uri: Uri, pin_file: PinFileOption = None, pin_env: PinEnvOption = None, as_json: JsonOption = False) -> None:
    """Log in once and use every key on the token: sign and verify, and for RSA encrypt and decrypt."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token
    from securepacs.tokens.probe import probe

    with Pkcs11Token.open(uri, pin=_pin(pin_file, pin_env)) as token:
        credentials = token.credentials()
        if not credentials:
            raise TokenError("the token holds no certificate with its private key", hint="see: securepacs token enroll")
        rows = [{"label": credential.label, "key": _key_kind(credential), **probe(credential)} for credential in credentials]
    _print(rows, title="keys", as_json=as_json)
    if any(row["sign"] != "ok" for row in rows):
        raise SystemExit(4)


@app.command()
@output.reports_errors
def enroll(
    uri: Uri,
    label: Annotated[str, typer.Option("--label", help="Label of the new key and certificate.")],
    common_name: Annotated[str, typer.Option("--common-name", help="Whose certificate it will be.")],
    ca: Annotated[Path | None, typer.Option("--ca", help="Folder of the pilot CA that issues the certificate.")] = None,
    profile: Annotated[str, typer.Option("--profile", help="Certificate profile of the pilot CA.")] = "radiologist",
    request: Annotated[
        Path | None, typer.Option("--request", help="Write a certificate request (PKCS #10) for another CA to this file instead.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="rsa-3072, rsa-2048 or p256.")] = "rsa-3072",
    organization: Annotated[str, typer.Option("--organization", help="Organization in the certificate.")] = "",
    email: Annotated[str, typer.Option("--email", help="E-mail address in the certificate.")] = "",
    ca_passphrase_file: Annotated[
        Path | None, typer.Option("--ca-passphrase-file", help="File (mode 600) with the passphrase of the CA's keys.")
    ] = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Generate a key on the token and get it certified: by the pilot CA at once, or with a request for another CA."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token
    from securepacs.tokens.probe import proves_possession

    if (ca is None) == (request is None):
        raise UsageError("give exactly one of --ca and --request")
    with Pkcs11Token.open(uri, pin=_pin(pin_file, pin_env)) as token:
        key = token.generate(label=label, kind=kind)  # type: ignore[arg-type]  # generate refuses what it does not know
        if not proves_possession(key):
            raise TokenError("the new key does not sign")
        if request is not None:
            _write_request(request, key, common_name, organization)
            return
        if ca is not None:
            certificate = _issue(ca, ca_passphrase_file, profile, key, common_name, organization, email)
            token.write_certificate(certificate, label=label)
            output.console.print(f"{token.info().uri} holds {certificate.subject.rfc4514_string()}", markup=False, highlight=False)


def _issue(
    folder: Path, passphrase_file: Path | None, profile: str, key: DelegateKey, common_name: str, organization: str, email: str
) -> x509.Certificate:
    from securepacs.pki import CertificateAuthority, CertificateProfile
    from securepacs.pki.storage import locked
    from securepacs.tokens.pin import as_bytes, pin_source

    if profile not in set(CertificateProfile):
        raise UsageError(f"the profile {profile} is not one of {', '.join(CertificateProfile)}")
    passphrase = as_bytes(pin_source(pin_file=passphrase_file))() if passphrase_file else None
    with locked(folder):
        authority = CertificateAuthority.load(folder, passphrase=passphrase)
        certificate = authority.issue(
            CertificateProfile(profile),
            common_name=common_name,
            public_key=key.public_key(),
            at=datetime.now(UTC),
            organization=organization,
            email=email,
        )
        authority.save(folder, passphrase=passphrase)
    return certificate


def _write_request(path: Path, key: DelegateKey, common_name: str, organization: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    from securepacs.dicom.files import write_atomically

    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    signed = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, hashes.SHA256())
    write_atomically(path, [signed.public_bytes(Encoding.PEM)])


@app.command("import")
@output.reports_errors
def import_certificate(
    uri: Uri,
    certificate: Annotated[Path, typer.Argument(metavar="CERT", help="The certificate that the CA issued.")],
    label: Annotated[str, typer.Option("--label", help="Label of the certificate.")],
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Write the certificate that another CA issued beside its key on the token."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token
    from securepacs.tokens.software import load_certificates

    with Pkcs11Token.open(uri, pin=_pin(pin_file, pin_env)) as token:
        token.write_certificate(load_certificates(certificate)[0], label=label)


NewPinFileOption = Annotated[Path | None, typer.Option("--new-pin-file", help="File (mode 600) with the new PIN.")]
NewPinEnvOption = Annotated[str | None, typer.Option("--new-pin-env", help="Name of the environment variable with the new PIN.")]


@app.command("change-pin")
@output.reports_errors
def change_pin(
    uri: Uri,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    new_pin_file: NewPinFileOption = None,
    new_pin_env: NewPinEnvOption = None,
) -> None:
    """Replace the PIN. The old one is tried exactly once."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token

    with Pkcs11Token.open(uri) as token:
        token.change_pin(old=_pin(pin_file, pin_env), new=_new_pin(new_pin_file, new_pin_env))
        output.console.print(f"{token.info().label}: the PIN was changed", markup=False, highlight=False)


@app.command()
@output.reports_errors
def unblock(
    uri: Uri,
    puk_file: Annotated[Path | None, typer.Option("--puk-file", help="File (mode 600) with the PUK.")] = None,
    puk_env: Annotated[str | None, typer.Option("--puk-env", help="Name of the environment variable with the PUK.")] = None,
    new_pin_file: NewPinFileOption = None,
    new_pin_env: NewPinEnvOption = None,
) -> None:
    """Set a new PIN with the PUK (PIV cards) or the security officer's PIN (others). The PUK is tried exactly once."""
    with needs_tokens_extra():
        from securepacs.tokens.pkcs11 import Pkcs11Token
    from securepacs.tokens.pin import pin_source

    with Pkcs11Token.open(uri) as token:
        puk = pin_source(pin_file=puk_file, pin_env=puk_env, prompt="PUK: ")
        token.unblock(puk=puk, new=_new_pin(new_pin_file, new_pin_env))
        output.console.print(f"{token.info().label}: the PIN is set and unblocked", markup=False, highlight=False)


def _new_pin(pin_file: Path | None, pin_env: str | None) -> Callable[[], str]:
    """Return the source of a new PIN; at the terminal it is asked twice, because a slip would lock its owner out."""
    from securepacs.tokens.pin import pin_source

    if pin_file or pin_env:
        return pin_source(pin_file=pin_file, pin_env=pin_env)
    first, second = pin_source(prompt="New PIN: "), pin_source(prompt="New PIN again: ")

    def ask() -> str:
        wanted = first()
        if second() != wanted:
            raise UsageError("the two new PINs differ; nothing was changed")
        return wanted

    return ask


def _key_kind(credential: Credential) -> str:
    return f"{type(credential.private_key.public_key()).__name__.removesuffix('PublicKey')} {credential.private_key.key_size}"
