"""HTML of results for notebooks, as plain text: paragraphs, tables, and curves as inline SVG.

Text and axes have the color of the page (``currentColor``) and nothing has a background, so that they are legible on
light and on dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 40
"""Margins of the axes, in the units of ``WIDTH``."""


@dataclass(frozen=True)
class Line:
    """A curve of a picture; points that are not finite are gaps."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    color: str = "currentColor"
    opacity: float = 1.0


def page(*parts: str) -> str:
    """Return HTML parts as one block."""
    return f"<div>{''.join(parts)}</div>"


def pre(text: object) -> str:
    """Return preformatted text."""
    return f'<pre style="margin:0;white-space:pre-wrap">{escape(str(text))}</pre>'


def paragraph(text: object) -> str:
    """Return a paragraph of text."""
    return f"<p>{escape(str(text))}</p>"


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table of text, aligned left."""
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{_row('th', head)}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    style = 'style="text-align:left"'  # notebooks align cells right
    return f"<tr>{''.join(f'<{tag} {style}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


def folded(title: object, content: str) -> str:
    """Return HTML that is folded under a title."""
    return f"<details><summary>{escape(str(title))}</summary>{content}</details>"


def picture(lines: Sequence[Line], title: str, x: str, *, log: str = "", zero: bool = False) -> str:
    """Return curves as SVG; "" if no line has a point.

    Args:
        lines: the curves. Names other than "" make a legend.
        title: text above the axes, with the unit of y.
        x: label of the x axis.
        log: axes with a logarithmic scale, "x", "y" or "xy"; values that are not positive are gaps there.
        zero: begin the y axis at 0.
    """
    curves = [(line, _points(line, log)) for line in lines]
    known = [point for _, points in curves for point in points if point is not None]
    if not known:
        return ""
    left, right = _range([at for at, _ in known])
    low, high = _range([*(value for _, value in known), *([0.0] if zero else [])])
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across, up = (point[0] - left) / (right - left), (point[1] - low) / (high - low)
        return LEFT + wide * across, HEIGHT - BOTTOM - tall * up

    drawn = [_drawn(line, [None if point is None else place(point) for point in points]) for line, points in curves]
    (first, last), ends = _unscaled("x" in log, left, right), _unscaled("y" in log, low, high)
    bottom = HEIGHT - BOTTOM
    axes = f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="currentColor" opacity="0.4"/>'
    texts = [
        _text(LEFT, TOP - 12, _axis(title, "y" in log), "start", [line for line in lines if line.name]),
        _text(LEFT - 6, bottom, f"{ends[0]:.3g}", "end"),
        _text(LEFT - 6, TOP + 8, f"{ends[1]:.3g}", "end"),
        _text(LEFT, bottom + 15, f"{first:,.6g}", "start"),
        _text(WIDTH - RIGHT, bottom + 15, f"{last:,.6g}", "end"),
        _text(LEFT + wide / 2, bottom + 15, _axis(x, "x" in log), "middle"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'style="max-width:100%;height:auto" role="img" aria-label="{escape(title)}" font-family="sans-serif" '
        f'font-size="11" fill="currentColor">{axes}{"".join(drawn)}{"".join(texts)}</svg>'
    )


def _axis(name: str, log: bool) -> str:
    return f"{name}, log scale" if log else name


def _points(line: Line, log: str) -> list[tuple[float, float] | None]:
    """Return the points of a line, None for a gap; on a logarithmic axis as exponents of 10."""
    places = zip(_scaled("x" in log, line.x), _scaled("y" in log, line.y), strict=True)
    return [(x, y) if math.isfinite(x) and math.isfinite(y) else None for x, y in places]


def _scaled(log: bool, values: Iterable[float]) -> list[float]:
    return [math.nan if log and value <= 0 else math.log10(value) if log else float(value) for value in values]


def _unscaled(log: bool, *values: float) -> list[float]:
    return [10.0**value if log else value for value in values]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest value, with some room if they are equal."""
    low, high = min(values), max(values)
    if low < high:
        return low, high
    room = abs(low) / 2 or 1.0
    return low - room, high + room


def _drawn(line: Line, places: Sequence[tuple[float, float] | None]) -> str:
    """Return a curve as a path, with a dot for each point between two gaps."""
    steps, dots = [], []
    for i, at in enumerate(places):
        before, after = (places[j] if 0 <= j < len(places) else None for j in (i - 1, i + 1))
        if at is None:
            continue
        steps.append(f"{'M' if before is None else 'L'}{at[0]:.1f} {at[1]:.1f}")
        if before is None and after is None:
            dots.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.5" fill="{line.color}"/>')
    if not steps:
        return ""
    style = f'fill="none" stroke="{line.color}" stroke-width="1.5" opacity="{line.opacity:g}"'
    return f'<path d="{"".join(steps)}" {style}/>{"".join(dots)}'


def _text(x: float, y: float, text: str, anchor: str, legend: Sequence[Line] = ()) -> str:
    """Return text at a place, followed by the names of the ``legend`` in their colors."""
    names = "".join(f'<tspan dx="10" fill="{line.color}">{escape(line.name)}</tspan>' for line in legend)
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}{names}</text>'
