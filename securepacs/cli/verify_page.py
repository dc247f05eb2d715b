"""The report page of `securepacs verify --html`: one file, no script, nothing loaded from elsewhere, all content escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from securepacs.cli.paths import printable
from securepacs.dicom.files import write_atomically

if TYPE_CHECKING:
    from securepacs.cli.verify import Outcome

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .4rem .6rem;
border-bottom: 1px solid #ddd; overflow-wrap: anywhere } th { background: #f4f4f4 }
.passed { color: #0a6b2d } .failed { color: #b00020 } .open { color: #8a5a00 } .verdict { font-weight: 600; white-space: nowrap }
small { color: #555 } ul { margin: 0; padding-left: 1.1rem }
"""
_CLASSES = {"TOTAL-PASSED": "passed", "TOTAL-FAILED": "failed"}
_HEADINGS = ("File", "Verdict", "Signature", "Signer", "Time", "Warnings and uncovered elements")


def write_page(path: Path, outcomes: Sequence[Outcome], at: datetime) -> None:
    """Write the report page atomically."""
    write_atomically(path, [page(outcomes, at).encode()])


def page(outcomes: Sequence[Outcome], at: datetime) -> str:
    """Return the report page: one table, a row per signature; files without one have a row of their own."""
    rows = "\n".join(row for outcome in outcomes for row in _rows(outcome))
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    passed = sum(outcome.code == 0 for outcome in outcomes)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Signature report</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head>\n<body><h1>Signature report</h1>"
        f"<p>{passed} of {len(outcomes)} files passed, as of {_text(at.isoformat())}.</p>"
        f"\n<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></body></html>\n"
    )


def _rows(outcome: Outcome) -> Iterable[str]:
    name = _text(outcome.file)
    if outcome.report is None:
        yield _row((name, _verdict("MALFORMED" if outcome.code == 3 else "ERROR"), "", "", "", _text(outcome.error)))
        return
    missing = [f"required profile not met: {profile}" for profile in outcome.report.missing]
    if not outcome.report.signatures:
        yield _row((name, _verdict(outcome.report.verdict), "", "", "", _list(missing)))
    for result in outcome.report.signatures:
        reason = f"<br><small>{_text(result.sub_indication)}: {_text(result.detail)}</small>" if result.sub_indication else ""
        place = _text(result.location or "data set")
        notes = [*missing, *result.warnings]
        if result.uncovered:
            notes.append("uncovered: " + ", ".join(result.uncovered))
        stamp = f"<br><small>stamped {_text(result.timestamp.isoformat())}</small>" if result.timestamp else ""
        yield _row(
            (
                name,
                _verdict(result.indication) + reason,
                f"{_text(result.profile)}, {_text(result.mac_algorithm)}<br><small>{_text(result.uid)}<br>{place}</small>",
                _text(result.signer),
                _text(result.signing_time.isoformat() if result.signing_time else "") + stamp,
                _list(notes),
            )
        )


def _verdict(verdict: str) -> str:
    return f'<span class="verdict {_CLASSES.get(verdict, "open")}">{_text(verdict)}</span>'


def _list(notes: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in notes) + "</ul>" if notes else ""


def _row(cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _text(value: object) -> str:
    return escape(printable(value))
