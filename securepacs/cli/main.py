"""The `securepacs` command: one module per noun, imported here and nowhere else.

Command modules import only Typer, `output` and `securepacs.errors` at their top; everything heavy is imported inside the command.
"""

from __future__ import annotations

import typer

from securepacs import __version__
from securepacs.cli import (
    audit,
    confidentiality,
    doctor,
    evidence,
    inspect,
    media,
    original,
    output,
    pki,
    sign,
    signature,
    tls,
    token,
    verify,
)

app = typer.Typer(
    name="securepacs",
    help="DICOM security: signatures, media encryption, authorized originals, audit, smart cards and PKI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(audit.app, name="audit")
app.add_typer(evidence.app, name="evidence")
app.add_typer(media.app, name="media")
app.add_typer(original.app, name="original")
app.add_typer(pki.app, name="pki")
app.add_typer(signature.app, name="signature")
app.add_typer(tls.app, name="tls")
app.add_typer(token.app, name="token")


def _print_version(wanted: bool) -> None:
    if wanted:
        output.console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Options before the command."""


app.command("sign")(sign.sign)
app.command("verify")(verify.verify)
app.command("inspect")(inspect.inspect)
app.command("deidentify")(confidentiality.deidentify)
app.command("reidentify")(confidentiality.reidentify)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the console script."""
    app()
