"""`securepacs pki`: a pilot CA in a folder, its responders, and what is about to expire."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from securepacs.cli import output
from securepacs.cli.keys import PinEnvOption, PinFileOption, needs_tokens_extra
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.pki import CertificateAuthority
    from securepacs.pki.expiry import Expiring
    from securepacs.pki.keys import KeyKind
    from securepacs.pki.server import Service

AskSecret: TypeAlias = "Callable[[bool], bytes | None]"  # of the token when true, else of key files

app = typer.Typer(help="A small CA for pilots: issue, revoke, publish.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(help="Folder of the CA.", metavar="FOLDER")]
OutputFileOption = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]


@app.command()
@output.reports_errors
def init(
    folder: FolderArgument,
    name: Annotated[str, typer.Option(help="Name of the organization, part of both CA names.")],
    key_kind: Annotated[str, typer.Option(help="p256 or rsa-3072.")] = "p256",
    base_url: Annotated[str, typer.Option(help="Where `pki serve` will be reached: written into every certificate.")] = "",
    token: Annotated[
        str | None, typer.Option("--token", help="Make the keys inside this token (PKCS #11 URI): they never leave it.")
    ] = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Make a root and an issuing CA in a new folder. With --pin-file or --pin-env their keys are encrypted."""
    from securepacs.pki import CertificateAuthority
    from securepacs.pki.keys import key_kind as checked_kind

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="a CA is made in a folder of its own")
    if token:
        from securepacs.pki.token_keys import create_on_token

        with needs_tokens_extra():
            create_on_token(
                name, folder, uri=token, pin=_pin(pin_file, pin_env), at=_now(), key_kind=checked_kind(key_kind), base_url=base_url
            )
        output.console.print(str(folder / "root.pem"), highlight=False, markup=False)
        return
    authority = CertificateAuthority.create(name, at=_now(), key_kind=checked_kind(key_kind), base_url=base_url)
    authority.save(folder, passphrase=_passphrase(pin_file, pin_env))
    output.console.print(str(folder / "root.pem"), highlight=False, markup=False)


@app.command()
@output.reports_errors
def issue(
    folder: FolderArgument,
    profile: Annotated[
        str,
        typer.Argument(help="Kind of certificate, such as gateway-server, modality, radiologist; with --kit for rows without one."),
    ] = "",
    common_name: Annotated[str, typer.Option("--cn", help="Common name; with --csr the request's unless given.")] = "",
    output_folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for NAME.pem and NAME.key.")] = Path(),
    kit: Annotated[
        Path | None, typer.Option(help="List of devices (CSV: name, gateway, ae_titles, ...); a folder each is written.")
    ] = None,
    csr: Annotated[Path | None, typer.Option(help="Certify the key of this request (PKCS #10); no key is made.")] = None,
    dns: Annotated[list[str] | None, typer.Option(help="DNS name; may be repeated.")] = None,
    ip: Annotated[list[str] | None, typer.Option(help="IP address; may be repeated.")] = None,
    email: Annotated[str, typer.Option(help="Mail address.")] = "",
    organization: Annotated[str, typer.Option(help="Organization; that of the CA unless given.")] = "",
    role: Annotated[list[str] | None, typer.Option(help="hcRole instead of the profile's; may be repeated.")] = None,
    days: Annotated[int | None, typer.Option(help="Validity; the profile's unless given.", min=1)] = None,
    key_kind: Annotated[str, typer.Option(help="rsa-3072, rsa-2048 or p256.")] = "rsa-3072",
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Issue a certificate and its key (mode 600), or one for a request, or kits for many devices. Prints what was written.

    A kit is a folder: PKCS #12 and its password, PEM, chain, root, and a page to print (address, AE titles, test, expiry).
    """
    from datetime import timedelta

    from securepacs.pki.files import load_request, write_credential
    from securepacs.pki.keys import generate_key
    from securepacs.pki.keys import key_kind as checked_kind
    from securepacs.pki.profiles import profile_named

    if kit is not None:
        if csr or common_name or dns or ip or email or organization or role:
            raise UsageError("with --kit everything about a device stands in the list")
        _issue_kits(folder, kit, profile, output_folder, checked_kind(key_kind), days, _secret(pin_file, pin_env))
        return
    request = load_request(csr) if csr else None
    kind, wanted = checked_kind(key_kind), profile_named(profile)
    lifetime = timedelta(days=days) if days else None
    with _changing(folder, _secret(pin_file, pin_env)) as authority:
        if request is not None:
            key = None
            certificate = authority.sign_request(
                request,
                wanted,
                common_name=common_name,
                at=_now(),
                lifetime=lifetime,
                dns=dns or (),
                ip=ip or (),
                email=email,
                organization=organization,
                roles=role,
            )
        else:
            key = generate_key(kind)
            certificate = authority.issue(
                wanted,
                common_name=common_name,
                public_key=key.public_key(),
                at=_now(),
                lifetime=lifetime,
                dns=dns or (),
                ip=ip or (),
                email=email,
                organization=organization,
                roles=role,
            )
        written = write_credential(output_folder, certificate, authority.chain, key)
    output.console.print(str(written), highlight=False, markup=False)


@app.command()
@output.reports_errors
def revoke(
    folder: FolderArgument,
    certificate: Annotated[str, typer.Argument(help="Certificate file, or its serial number in hexadecimal.")],
    reason: Annotated[
        str, typer.Option(help="keyCompromise, affiliationChanged, superseded, ... (RFC 5280 5.3.1)")
    ] = "unspecified",
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Revoke a certificate as of now. OCSP answers at once; publish a new CRL with `pki crl` or `pki serve`."""
    from securepacs.pki.files import certificate_or_serial, reason_named

    wanted, flag = certificate_or_serial(certificate), reason_named(reason)
    with _changing(folder, _secret(pin_file, pin_env)) as authority:
        revocation = authority.revoke(wanted, at=_now(), reason=flag)
    output.console.print(f"{revocation.serial_number:x} revoked", highlight=False, markup=False)


@app.command()
@output.reports_errors
def crl(
    folder: FolderArgument,
    target: OutputFileOption,
    root: Annotated[bool, typer.Option("--root", help="The CRL of the root instead of the issuing CA.")] = False,
    days: Annotated[int | None, typer.Option(help="Days until the next CRL at the latest; 7, for the root 180.", min=1)] = None,
    der: Annotated[bool, typer.Option("--der", help="Write DER instead of PEM.")] = False,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Sign a new CRL and write it."""
    from datetime import timedelta

    from cryptography.hazmat.primitives.serialization import Encoding

    from securepacs.pki.authority import CRL_LIFETIME, ROOT_CRL_LIFETIME
    from securepacs.pki.storage import write_atomically

    lifetime = timedelta(days=days) if days else (ROOT_CRL_LIFETIME if root else CRL_LIFETIME)
    with _changing(folder, _secret(pin_file, pin_env)) as authority:
        signed = authority.root_crl(at=_now(), lifetime=lifetime) if root else authority.crl(at=_now(), lifetime=lifetime)
    write_atomically(target, signed.public_bytes(Encoding.DER if der else Encoding.PEM))
    output.console.print(str(target), highlight=False, markup=False)


@app.command()
@output.reports_errors
def serve(
    folder: FolderArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8080,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Publish CRLs, certificates, OCSP and time stamps over HTTP until SIGTERM or Ctrl-C. The address goes to stderr when ready."""
    from securepacs.pki.server import ALL_SERVICES

    _serve(folder, host, port, pin_file, pin_env, ALL_SERVICES)


@app.command()
@output.reports_errors
def ocsp(
    folder: FolderArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8080,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Run the OCSP responder alone, with CRLs and CA certificates beside it."""
    from securepacs.pki.server import Service

    _serve(folder, host, port, pin_file, pin_env, frozenset({Service.REVOCATION}))


@app.command()
@output.reports_errors
def tsa(
    folder: FolderArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8080,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Run the time stamp authority alone (RFC 3161)."""
    from securepacs.pki.server import Service

    _serve(folder, host, port, pin_file, pin_env, frozenset({Service.TIMESTAMPS}))


@app.command("import")
@output.reports_errors
def import_ca(
    folder: FolderArgument,
    name: Annotated[str, typer.Option(help="Name of the organization.")],
    root: Annotated[Path, typer.Option(help="Certificate of the external root (PEM or DER).")],
    issuing: Annotated[Path, typer.Option(help="Certificate of the issuing CA that the root signed for you.")],
    key: Annotated[Path, typer.Option(help="Private key of the issuing CA (PEM, mode 600).")],
    base_url: Annotated[str, typer.Option(help="Where `pki serve` will be reached: written into every certificate.")] = "",
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
) -> None:
    """Use an issuing CA under an external root, whose key stays where it is. With --pin-file or --pin-env the key is encrypted."""
    from securepacs.pki.storage import import_external

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="a CA is made in a folder of its own")
    secret = _passphrase(pin_file, pin_env)
    authority = import_external(name, root=root, issuing=issuing, key=key, base_url=base_url, passphrase=secret, at=_now())
    authority.save(folder, passphrase=secret)
    output.console.print(str(folder / "issuing.pem"), highlight=False, markup=False)


@app.command()
@output.reports_errors
def expiring(
    paths: Annotated[list[Path], typer.Argument(help="CA folders, certificate files, or folders of them.", metavar="PATH...")],
    within: Annotated[int, typer.Option(help="Days to look ahead.", min=0)] = 30,
    json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values with a header.")] = False,
    metric: Annotated[bool, typer.Option("--metric", help="Every certificate as a Prometheus metric, whenever it ends.")] = False,
) -> None:
    """List what has expired or will; exit code 1 when there is anything, so that a timer can raise an alarm.

    `alert` is the smallest of 90, 60, 30, 14, 7 and 1 days that has been reached. A certificate that has a successor for the same
    subject and profile is not listed: the two may overlap.
    """
    from datetime import timedelta

    from securepacs.pki.expiry import expiring as find
    from securepacs.pki.expiry import prometheus

    if json + csv + metric > 1:
        raise UsageError("--json, --csv and --metric exclude each other")
    now = _now()
    if metric:
        sys.stdout.write(prometheus(find(paths, before=None)))
        return
    found = find(paths, before=now + timedelta(days=within))
    _print_expiring(found, now, as_json=json, as_csv=csv)
    if found:
        raise typer.Exit(1)


def _print_expiring(found: list[Expiring], now: datetime, *, as_json: bool, as_csv: bool) -> None:
    rows = [
        {
            "source": entry.source,
            "subject": entry.subject,
            "serial_number": f"{entry.serial_number:x}",
            "not_after": entry.not_after.isoformat(),
            "days_left": (entry.not_after - now).days,
            "alert": entry.alert(now),
        }
        for entry in found
    ]
    if as_json:
        for row in rows:
            output.print_json(row)
    elif as_csv:
        from csv import DictWriter

        writer = DictWriter(
            sys.stdout, ["source", "subject", "serial_number", "not_after", "days_left", "alert"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    elif rows:
        columns = ("subject", "not_after", "days_left", "alert", "source")
        output.print_table("Expiring certificates", columns, [[row[column] for column in columns] for row in rows])


def _serve(folder: Path, host: str, port: int, pin_file: Path | None, pin_env: str | None, services: frozenset[Service]) -> None:
    import signal
    import threading

    from securepacs.pki.server import Service, issue_timestamp_credential
    from securepacs.pki.server import serve as start
    from securepacs.pki.storage import load_register, locked, save_register

    with _opened(folder, _secret(pin_file, pin_env), lock=lambda _folder: nullcontext()) as authority:
        with locked(folder):
            authority.register = load_register(folder)
            stamping = issue_timestamp_credential(authority, at=_now()) if Service.TIMESTAMPS in services else None
            save_register(authority, folder)
        done = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: done.set())
        with start(authority, host=host, port=port, folder=folder, timestamp_credential=stamping, services=services) as server:
            output.errors.print(f"ready {server.url}", highlight=False, markup=False)
            done.wait()


def _issue_kits(folder: Path, listed: Path, profile: str, target: Path, kind: KeyKind, days: int | None, ask: AskSecret) -> None:
    from datetime import timedelta

    from securepacs.pki.kit import issue_kits, read_devices, refuse_existing, write_kit

    devices = read_devices(listed, profile=profile)
    refuse_existing(target, devices)
    with _changing(folder, ask) as authority:
        kits = issue_kits(authority, devices, at=_now(), key_kind=kind, lifetime=timedelta(days=days) if days else None)
    for one in kits:  # written when the register knows them: what is on disk can be revoked
        output.console.print(str(write_kit(target, one, authority)), highlight=False, markup=False)


@contextmanager
def _changing(folder: Path, ask: AskSecret) -> Iterator[CertificateAuthority]:
    """Give the CA of `folder` and save its register at the end, with the folder locked."""
    from securepacs.pki.storage import locked, save_register

    with _opened(folder, ask, lock=locked) as authority:
        yield authority
        save_register(authority, folder)


@contextmanager
def _opened(
    folder: Path, ask: AskSecret, *, lock: Callable[[Path], AbstractContextManager[None]]
) -> Iterator[CertificateAuthority]:
    """Give the CA of `folder`; the secret is asked before the folder is locked, for a person takes time."""
    from securepacs.pki.storage import token_uri
    from securepacs.pki.token_keys import opened

    in_token = bool(token_uri(folder))
    known = ask(in_token)
    with needs_tokens_extra(), lock(folder), opened(folder, lambda _in_token: known) as authority:
        yield authority


def _pin(pin_file: Path | None, pin_env: str | None) -> Callable[[], str]:
    from securepacs.tokens.pin import pin_source

    return pin_source(pin_file=pin_file, pin_env=pin_env, prompt="PIN of the token: ")


def _passphrase(pin_file: Path | None, pin_env: str | None) -> bytes | None:
    return None if pin_file is None and pin_env is None else _pin(pin_file, pin_env)().encode()


def _secret(pin_file: Path | None, pin_env: str | None) -> AskSecret:
    """Return the source of the PIN of a token, or of the passphrase of key files."""
    return lambda in_token: _pin(pin_file, pin_env)().encode() if in_token else _passphrase(pin_file, pin_env)


def _now() -> datetime:
    from datetime import UTC

    return datetime.now(UTC)
