"""The key options that several commands share: `--key/--cert/--chain`, `--p12` or `--token`, with `--pin-file` or `--pin-env`.

Use the annotated types as parameter types of a command and hand the values to `credential_from`:

    def sign(key: KeyOption = None, cert: CertOption = None, chain: ChainOption = None, p12: P12Option = None,
             token: TokenOption = None, pin_file: PinFileOption = None, pin_env: PinEnvOption = None) -> None:
        with credential_from(key=key, cert=cert, chain=chain, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env) as mine:
            ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from securepacs.tokens.credential import Credential

_PANEL = "Whose key"

KeyOption = Annotated[Path | None, typer.Option("--key", help="Private key file (PEM or DER).", rich_help_panel=_PANEL)]
CertOption = Annotated[Path | None, typer.Option("--cert", help="Certificate of that key (PEM or DER).", rich_help_panel=_PANEL)]
ChainOption = Annotated[Path | None, typer.Option("--chain", help="Certificates above it (PEM).", rich_help_panel=_PANEL)]
P12Option = Annotated[
    Path | None,
    typer.Option(
        "--p12",
        help="PKCS #12 file with key and certificate, or the folder of a Korean accredited certificate.",
        rich_help_panel=_PANEL,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", help="Key inside a smart card or USB key, as PKCS #11 URI (RFC 7512).", rich_help_panel=_PANEL),
]
PinFileOption = Annotated[
    Path | None, typer.Option("--pin-file", help="File (mode 600) with the PIN or password.", rich_help_panel=_PANEL)
]
PinEnvOption = Annotated[
    str | None,
    typer.Option("--pin-env", help="Name of the environment variable with the PIN or password.", rich_help_panel=_PANEL),
]


@contextmanager
def credential_from(
    *,
    key: Path | None = None,
    cert: Path | None = None,
    chain: Path | None = None,
    p12: Path | None = None,
    token: str | None = None,
    pin_file: Path | None = None,
    pin_env: str | None = None,
    names: str = "--key with --cert, --p12, or --token",
) -> Iterator[Credential]:
    """Give the credential that exactly one of the three kinds of options describes; a token stays logged in until the end.

    `names` is how the calling command spells its options, for the error text.
    """
    kinds = [kind for kind, given in (("key", key or cert), ("p12", p12), ("token", token)) if given]
    if len(kinds) != 1 or bool(key) != bool(cert):
        raise UsageError(f"give exactly one of {names}")
    from securepacs.tokens.pin import as_bytes, pin_source

    source = pin_source(pin_file=pin_file, pin_env=pin_env, prompt="PIN or password: ")
    if token:
        with needs_tokens_extra():
            from securepacs.tokens.pkcs11 import open_credential
        with open_credential(token, pin=source) as credential:
            yield _with_chain(credential, chain)
        return
    from securepacs.tokens.software import load_pem, load_pkcs12

    if p12 and p12.is_dir():
        from securepacs.tokens.npki import load_npki

        yield _with_chain(load_npki(p12, password=as_bytes(source)), chain)
    elif p12:
        yield _with_chain(load_pkcs12(p12, password=as_bytes(source)), chain)
    elif key and cert:
        yield load_pem(key, cert, chain=chain, password=as_bytes(source))


def credential_or_password(
    *,
    key: Path | None,
    cert: Path | None,
    p12: Path | None,
    token: str | None,
    pin_file: Path | None,
    pin_env: str | None,
    password_file: Path | None,
) -> AbstractContextManager[Credential | None]:
    """Give the credential of one who opens what was encrypted; None for one who has nothing but a password."""
    if bool(key or cert or p12 or token) or not password_file:
        names = "--key with --cert, --p12, --token, or --password-file"
        return credential_from(key=key, cert=cert, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env, names=names)
    if pin_file or pin_env:
        raise UsageError("a PIN was given and no key")
    return nullcontext()


@contextmanager
def needs_tokens_extra() -> Iterator[None]:
    """Explain a failed import of python-pkcs11 inside the block."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "pkcs11":
            raise
        raise ConfigError("smart cards need python-pkcs11", key="token", hint="pip install 'securepacs[tokens]'") from None


def _with_chain(credential: Credential, chain: Path | None) -> Credential:
    """Add the certificates of `chain`: the intermediate CA is usually not on the card."""
    if chain is None:
        return credential
    from dataclasses import replace

    from securepacs.tokens.software import load_certificates, order_chain

    others = dict.fromkeys((*credential.chain, *load_certificates(chain)))
    others.pop(credential.certificate, None)
    return replace(credential, chain=order_chain(credential.certificate, others))
