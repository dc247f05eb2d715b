"""Charts as inline SVG: no script, nothing from elsewhere, every text escaped, readable in print and by screen readers."""

from __future__ import annotations

from html import escape

from securepacs.audit.reports.cells import visible
from securepacs.audit.reports.model import Chart

_WIDTH = 720
_LABEL = 230  # width of the labels beside bars
_LABEL_LENGTH = 34  # characters
_ROW, _HEIGHT = 22, 180
_MOST_LABELS = 16  # below columns


def svg(chart: Chart) -> str:
    """Return a chart as an SVG element, empty for a chart without values."""
    if not chart.values:
        return ""
    body, height = _columns(chart) if chart.upright else _bars(chart)
    title = text(chart.title)
    return (
        f'<svg role="img" aria-label="{title}" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">'
        f"<title>{title}</title>{body}</svg>"
    )


def text(value: object) -> str:
    """Return text for HTML: visible and escaped."""
    return escape(visible(str(value)))


def _highest(chart: Chart) -> int:
    return max(1, *(count for _, count in chart.values))


def _bars(chart: Chart) -> tuple[str, int]:
    highest, parts = _highest(chart), []
    room = _WIDTH - _LABEL - 80
    for number, (label, count) in enumerate(chart.values):
        y, width = number * _ROW, max(1, round(room * count / highest))
        short = label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"
        parts.append(
            f'<text x="{_LABEL - 8}" y="{y + 15}" class="label">{text(short)}</text>'
            f'<rect x="{_LABEL}" y="{y + 3}" width="{width}" height="{_ROW - 6}"><title>{text(label)}: {count}</title></rect>'
            f'<text x="{_LABEL + width + 6}" y="{y + 15}">{count}</text>'
        )
    return "".join(parts), len(chart.values) * _ROW + 4


def _columns(chart: Chart) -> tuple[str, int]:
    highest, parts = _highest(chart), []
    step = (_WIDTH - 50) / len(chart.values)
    every = -(-len(chart.values) // _MOST_LABELS)
    for number, (label, count) in enumerate(chart.values):
        x, height = 45 + number * step, round((_HEIGHT - 20) * count / highest)
        parts.append(
            f'<rect x="{x:.1f}" y="{_HEIGHT - height}" width="{max(1.0, step - 2):.1f}" height="{height}">'
            f"<title>{text(label)}: {count}</title></rect>"
        )
        if number % every == 0:
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 14}" class="tick">{text(label)}</text>')
    axis = f'<text x="40" y="24" class="label">{highest}</text><text x="40" y="{_HEIGHT}" class="label">0</text>'
    line = f'<path d="M45 {_HEIGHT} H{_WIDTH}" class="axis"/>'
    return axis + "".join(parts) + line, _HEIGHT + 22
