"""`securepacs inspect`: show the signatures of a DICOM file without judging them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.paths import printable
from securepacs.errors import UsageError


@output.reports_errors
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A DICOM file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show which signatures a DICOM file carries; nothing is verified."""
    from securepacs.signatures.inspection import describe

    if file.is_dir():
        raise UsageError(f"{file} is a folder; inspect takes one file")
    found = describe(file)
    if as_json:
        output.print_json(found)
        return
    signatures: list[dict[str, Any]] = found["signatures"]
    count = f"{len(signatures)} signature{'' if len(signatures) == 1 else 's'}"
    _line(f"{file}: {count}, transfer syntax {found['transfer_syntax']}")
    for signature in signatures:
        _line("")
        for name, value in signature.items():
            _line(f"  {name.replace('_', ' '):<20} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if "references_problem" in found:
        _line(f"  its references cannot be read: {found['references_problem']}")
    for reference in found.get("references", []):
        _line("")
        bound = (
            [f"MAC {reference['mac_algorithm']} over {len(reference['signed_tags'])} elements"]
            if reference["mac_algorithm"]
            else []
        )
        bound += [f"signature {uid}" for uid in reference["signature_uids"]]
        _line(f"  refers to {reference['sop_instance_uid']} by {', '.join(bound) or 'nothing that would protect it'}")
    if signatures:
        _line("")
        _line("Nothing of this has been verified.")


def _line(text: str) -> None:
    output.console.print(printable(text), markup=False, highlight=False)
