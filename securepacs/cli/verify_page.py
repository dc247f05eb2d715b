"""The report page of `securepacs verify --html`: one file, no script, nothing loaded from elsewhere, all content escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from securepacs.cli.paths import printable
from securepacs.cli.preview import NoPreviewError, png_of
from securepacs.cli.verdicts import file_verdict, keyword_in_words, notes, open_elements, purpose, reason, signer, when
from securepacs.dicom.files import map_file, write_atomically
from securepacs.errors import SecurePacsError

if TYPE_CHECKING:
    from securepacs.cli.verify_work import Outcome
    from securepacs.signatures.report import SignatureResult

MOST_PICTURES = 200  # a page with more would be too large to open
_SMALLER_FROM = 20  # from how many files on pictures are half as wide
_STYLE = """
:root { --ink: #1d2433; --quiet: #5d6780; --line: #dfe3ec; --good: #0b6e36; --bad: #b3122b; --open: #8a5a00 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; margin: 0; color: var(--ink); background: #f3f5f9 }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.02rem; margin: 0; overflow-wrap: anywhere }
p { margin: .2rem 0 } .quiet, small { color: var(--quiet) }
.sum { display: flex; gap: .6rem; flex-wrap: wrap; margin: 1rem 0 1.6rem }
.sum span { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .35rem .8rem }
article { background: #fff; border: 1px solid var(--line); border-left: .4rem solid var(--open); border-radius: .6rem;
margin: 0 0 1.1rem; padding: 1rem 1.2rem; display: flex; gap: 1.4rem; align-items: flex-start; break-inside: avoid }
article.good { border-left-color: var(--good) } article.bad { border-left-color: var(--bad) }
figure { margin: 0; flex: 0 0 auto; width: 15rem; text-align: center; background: #0d1017; border-radius: .4rem; overflow: hidden }
figure img { display: block; width: 100%; max-height: 18rem; object-fit: contain }
figure.none { background: #f3f5f9; color: var(--quiet); padding: 2.2rem .8rem; font-size: .85rem }
.facts { flex: 1 1 auto; min-width: 0 }
.head { display: flex; justify-content: space-between; gap: 1rem; margin-bottom: .5rem }
.verdict { font-weight: 700; letter-spacing: .02em; white-space: nowrap; color: var(--open) }
.good .verdict, .good.verdict { color: var(--good) } .bad .verdict, .bad.verdict { color: var(--bad) }
section { border-top: 1px solid var(--line); padding-top: .55rem; margin-top: .55rem }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .15rem .8rem; margin: 0 }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere } ul { margin: 0; padding-left: 1.1rem }
details { margin-top: .4rem; color: var(--quiet); font-size: .88rem; overflow-wrap: anywhere } summary { cursor: pointer }
@media (max-width: 44rem) { article { flex-direction: column } figure { width: 100% } dl { grid-template-columns: 1fr } }
@media print { body { background: #fff } details { display: none } }
"""
_CLASSES = {"VALID": "good", "NOT VALID": "bad", "DAMAGED": "bad", "MISSING": "bad"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(path: Path, outcomes: Sequence[Outcome], at: datetime) -> None:
    """Write the report page atomically."""
    write_atomically(path, (part.encode() for part in page(outcomes, at)))


def page(outcomes: Sequence[Outcome], at: datetime) -> Iterator[str]:
    """Yield the report page: a sum, then one block per file."""
    valid = sum(outcome.code == 0 for outcome in outcomes)
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Signature report</title>'
    yield f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f"<style>{_STYLE}</style></head>\n<body><main><h1>Signature report</h1>"
    yield f'<p class="quiet">{valid} of {len(outcomes)} files valid, judged as of {_text(f"{at:%Y-%m-%d %H:%M %Z}")}</p>'
    yield f'<p class="sum">{"".join(_sum(outcomes))}</p>'
    for number, outcome in enumerate(outcomes):
        yield _article(outcome, side=384 if len(outcomes) < _SMALLER_FROM else 192, picture=number < MOST_PICTURES)
    yield "</main></body></html>\n"


def _sum(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for verdict in ("VALID", "NOT VALID", "UNDECIDED", "NOT SIGNED", "DAMAGED", "MISSING", "ERROR"):
        count = sum(file_verdict(outcome) == verdict for outcome in outcomes)
        if count:
            yield f'<span><b class="verdict {_class(verdict)}">{verdict}</b> {count}</span>'


def _article(outcome: Outcome, *, side: int, picture: bool) -> str:
    verdict = file_verdict(outcome)
    report = outcome.report
    parts = [f'<div class="head"><h2>{_text(outcome.file)}</h2><span class="verdict">{verdict}</span></div>']
    parts += map(_section, report.signatures if report is not None else ())
    facts = []
    if report is not None:
        facts.append(("Not protected", _text(open_elements(report) if report.signatures else "everything: nobody has signed it")))
    facts.append(("Notes", _list(notes(outcome))))
    parts.append(f"<section>{_facts(facts)}</section>")
    if report is not None and report.references:
        lines = (f"{one.sop_instance_uid} {one.outcome} {one.detail}" for one in report.references)
        parts.append(f"<details><summary>Images it refers to</summary>{_list(lines)}</details>")
    drawn = _picture(outcome, side) if picture and report is not None else ""
    return f'<article class="{_class(verdict)}">{drawn}<div class="facts">{"".join(parts)}</div></article>\n'


def _section(result: SignatureResult) -> str:
    facts = [
        ("Signature", f'<b class="verdict {_result_class(result)}">{_text(reason(result))}</b>'),
        ("Signed by", _text(signer(result))),
        ("Purpose", _text(purpose(result))),
        ("When", _text(when(result))),
        ("Place", _text(f"inside {result.location}" if result.location else "")),
    ]
    open_bytes = sum(end - start for start, end in result.uncovered_ranges)
    technical = [
        f"{result.indication} {result.sub_indication} {result.detail}",
        f"UID {result.uid}",
        f"profile {result.profile}, {result.signature_algorithm} over {result.mac_algorithm}",
        f"certificate {result.signer}",
        "protected: " + (", ".join(map(keyword_in_words, result.covered)) or "nothing"),
        "not protected: " + (", ".join(map(keyword_in_words, result.uncovered)) or "nothing"),
        f"{open_bytes} bytes in {len(result.uncovered_ranges)} places not protected",
        *result.warnings,
    ]
    summary = "<summary>What is protected, and technical details</summary>"
    return f"<section>{_facts(facts)}<details>{summary}{_list(technical)}</details></section>"


def _picture(outcome: Outcome, side: int) -> str:
    """Return the first frame as part of the page. It is read again: the verdict is about the file, the picture illustrates it."""
    try:
        data = b64encode(png_of(map_file(Path(outcome.file)), side=side)).decode("ascii")
    except NoPreviewError as error:
        return f'<figure class="none">No picture: {_text(error)}.</figure>'
    except SecurePacsError:
        return '<figure class="none">No picture: the file cannot be read.</figure>'
    return f'<figure><img alt="first frame" src="data:image/png;base64,{data}"></figure>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value) + "</dl>"


def _class(verdict: str) -> str:
    return _CLASSES.get(verdict, "open")


def _result_class(result: SignatureResult) -> str:
    return {"TOTAL-PASSED": "good", "TOTAL-FAILED": "bad"}.get(result.indication, "open")


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _text(value: object) -> str:
    return escape(printable(value))
