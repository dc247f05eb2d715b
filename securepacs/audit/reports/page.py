"""A report as one page: no script, nothing loaded from elsewhere, everything escaped; long tables are cut, and say so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from securepacs.audit.reports.charts import svg, text
from securepacs.audit.reports.model import Report, Table, local
from securepacs.audit.reports.words import Words

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { --ink: #1d2433; --quiet: #5d6780; --line: #dfe3ec; --bar: #2d62a3; --good: #0b6e36; --bad: #b3122b }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, "Segoe UI", "Malgun Gothic", "Noto Sans KR", sans-serif; margin: 0 }
body { color: var(--ink); background: #f3f5f9 }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.1rem; margin: 0 0 .6rem }
section { background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem; margin: 1.1rem 0 }
section { overflow-x: auto }
dl { display: grid; grid-template-columns: 15rem 1fr; gap: .15rem .8rem; margin: 0 }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; font-size: .88rem }
th { text-align: left; color: var(--quiet); font-weight: 600; border-bottom: 2px solid var(--line); white-space: nowrap }
th, td { padding: .25rem .5rem; vertical-align: top }
td { overflow-wrap: break-word; max-width: 22rem }
td { border-top: 1px solid var(--line) }
svg { max-width: 100%; height: auto } svg rect { fill: var(--bar) } svg text { font-size: 12px; fill: var(--ink) }
svg .label { text-anchor: end } svg .tick { font-size: 10px } svg .axis { stroke: var(--quiet); fill: none }
.quiet { color: var(--quiet) } .clear { color: var(--good); font-weight: 600 } .act { color: var(--bad); font-weight: 600 }
@media print { body { background: #fff } section { break-inside: avoid; border: 0; padding: .3rem 0 } main { max-width: none } }
"""


def html(report: Report) -> Iterator[bytes]:
    """Yield the page of a report in UTF-8."""
    for part in _parts(report, Words(report.language)):
        yield part.encode("utf-8", errors="replace")


def _parts(report: Report, words: Words) -> Iterator[str]:
    yield f'<!doctype html>\n<html lang="{report.language}"><head><meta charset="utf-8"><title>{text(report.title)}</title>'
    yield f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f"<style>{_STYLE}</style></head>\n<body><main><h1>{text(report.title)}</h1>"
    yield f'<p class="quiet">{text(report.subject)}</p>\n<section>'
    yield _facts((*report.figures, (words("made"), local(report.made, report.zone))))
    yield "</section>\n"
    if report.checks:
        yield f"<section><h2>{words('checklist')}</h2><table>"
        for check in report.checks:
            mark = "clear" if check.clear else "act"
            yield f'<tr><td>{text(check.question)}</td><td>{text(check.finding)}</td><td class="{mark}">{words(mark)}</td></tr>\n'
        yield "</table></section>\n"
    for chart in report.charts:
        if chart.values:
            yield f"<section><h2>{text(chart.title)}</h2>{svg(chart)}</section>\n"
    for table in report.tables:
        yield from _table(table, words)
    if report.closing:
        yield f"<section>{_facts(report.closing)}</section>\n"
    yield "</main></body></html>\n"


def _table(table: Table, words: Words) -> Iterator[str]:
    yield f"<section><h2>{text(table.title)}</h2>"
    if not table.count:
        yield f'<p class="quiet">{words("nothing")}</p></section>\n'
        return
    if table.count > table.most:
        yield f'<p class="quiet">{text(words("more", table.most, table.count))}</p>'
    yield f"<table><thead><tr>{''.join(f'<th>{text(column)}</th>' for column in table.columns)}</tr></thead><tbody>\n"
    for row in islice(table.rows(), table.most):
        yield f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>\n"
    yield "</tbody></table></section>\n"


def _facts(facts: tuple[tuple[str, str], ...]) -> str:
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts if value) + "</dl>"
