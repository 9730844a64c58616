"""Charts of studies: described once, drawn by plotly on a page and by matplotlib as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from tvlars.lab.report.drawing import area, figure_of, numbers, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MPL_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
SYMBOLS = {"x": "x", "triangle-up": "^", "triangle-down": "v"}
"""Markers by plotly's names, with those of matplotlib."""


@dataclass(frozen=True)
class Line:
    """A line with points, and a band or error bars from ``low`` to ``high`` if these are given."""

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dash: str = "solid"
    markers: bool = True
    bars: bool = False
    """True for error bars instead of a band."""
    legend: bool = True

    def above(self) -> list[float]:
        """Return the lengths of the error bars above the points; 0 for an infinite end."""
        return [max(end - y, 0.0) if math.isfinite(end) else 0.0 for y, end in zip(self.y, self.high, strict=True)]

    def below(self) -> list[float]:
        """Return the lengths of the error bars below the points."""
        return [max(y - end, 0.0) if math.isfinite(end) else 0.0 for y, end in zip(self.y, self.low, strict=True)]


@dataclass(frozen=True)
class Marks:
    """Points without a line. ``symbol`` is a key of ``SYMBOLS``."""

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float]
    symbol: str = "x"


@dataclass(frozen=True)
class Span:
    """A range of the x axis: a thick bar at height ``y``, or if ``y`` is None, a dotted line at ``x`` over the whole
    height with a shade from ``low`` to ``high``."""

    name: str
    color: str
    low: float
    high: float
    y: float | None = None
    x: float = math.nan


@dataclass
class Chart:
    """A chart. ``ticks`` are ticks of the logarithmic x axis; ``y_ticks`` make the y axis logarithmic too."""

    title: str
    x: str
    y: str
    ticks: Sequence[float]
    y_ticks: Sequence[float] = ()
    lines: list[Line] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def plotly(self) -> go.Figure:
        """Return the chart for a page."""
        figure = figure_of(self.title, self.x, self.y)
        for axis, ticks in (("xaxis", self.ticks), ("yaxis", self.y_ticks)):
            if ticks:
                labels = list(map(_label, ticks))
                figure.layout[axis].update(type="log", tickvals=list(ticks), ticktext=labels, dtick=None)
        for span in self.spans:
            if span.y is None:
                line = {"color": span.color, "dash": "dot", "width": 1}
                figure.add_vline(x=span.x, line=line, name=text(span.name), showlegend=True)
                if span.low < span.high < math.inf:
                    figure.add_vrect(x0=span.low, x1=span.high, fillcolor=span.color, opacity=0.1, line_width=0)
            else:
                line = {"color": span.color, "width": 8}
                hover = f"{text(span.name)}: {span.low:.4g} to {span.high:.4g}<extra></extra>"
                more = dict(showlegend=False, opacity=0.55, hovertemplate=hover, legendgroup=text(span.name))
                figure.add_scatter(x=[span.low, span.high], y=[span.y] * 2, mode="lines", line=line, **more)
        for one in self.lines:
            self._plotly_line(figure, one)
        for mark in self.marks:
            marker = {"color": mark.color, "size": 11, "symbol": mark.symbol, "line": {"width": 2, "color": mark.color}}
            name = text(mark.name)
            figure.add_scatter(x=numbers(mark.x), y=numbers(mark.y), mode="markers", marker=marker, name=name)
        figure.update_layout(hovermode="closest")
        return figure

    def _plotly_line(self, figure: go.Figure, one: Line) -> None:
        name, x, y = text(one.name), numbers(one.x), numbers(one.y)
        more: dict[str, Any] = {}
        if one.bars:
            reach = {"array": one.above(), "arrayminus": one.below()}
            more["error_y"] = {"type": "data", "symmetric": False, "thickness": 1, **reach}
        elif one.low:
            known = [i for i, (a, b) in enumerate(zip(one.low, one.high, strict=True)) if math.isfinite(a + b)]
            around = [*known, *reversed(known)]
            ends = [*(one.high[i] for i in known), *(one.low[i] for i in reversed(known))]
            area(figure, numbers(one.x[i] for i in around), numbers(ends), one.color, name, "interval")
        mode = "lines+markers" if one.markers else "lines"
        line = {"color": one.color, "width": 2 if one.markers else 1, "dash": one.dash}
        more |= {"legendgroup": name, "showlegend": one.legend}
        figure.add_scatter(x=x, y=y, mode=mode, name=name, line=line, hovertemplate="%{x:.4g}: %{y:.4g}", **more)

    def draw(self, ax: Axes) -> None:
        """Draw the chart with matplotlib."""
        from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

        for span in self.spans:
            if span.y is None:
                ax.axvline(span.x, color=span.color, linestyle=":", linewidth=1, label=span.name)
                if span.low < span.high < math.inf:
                    ax.axvspan(span.low, span.high, color=span.color, alpha=0.1, linewidth=0)
            else:
                bar: dict[str, Any] = dict(color=span.color, linewidth=6, alpha=0.55, solid_capstyle="butt")
                ax.plot([span.low, span.high], [span.y] * 2, **bar)
        for one in self.lines:
            style: dict[str, Any] = {"color": one.color, "linestyle": MPL_DASHES.get(one.dash, "-")}
            style |= {"marker": "o", "markersize": 4} if one.markers else {"linewidth": 1}
            style |= {"label": one.name} if one.legend else {}
            if one.bars:
                ax.errorbar(one.x, one.y, yerr=[one.below(), one.above()], capsize=2, **style)
                continue
            ax.plot(one.x, one.y, **style)
            if one.low:
                ax.fill_between(one.x, one.low, one.high, color=one.color, alpha=0.18, linewidth=0)
        for mark in self.marks:
            ax.plot(mark.x, mark.y, SYMBOLS[mark.symbol], color=mark.color, label=mark.name, fillstyle="none")
        ax.set(title=self.title, xlabel=self.x, ylabel=self.y, xscale="log")
        axes: list[tuple[Any, Sequence[float]]] = [(ax.xaxis, self.ticks)]
        if self.y_ticks:
            ax.set_yscale("log")
            axes.append((ax.yaxis, self.y_ticks))
        for axis, ticks in axes:
            axis.set_major_locator(FixedLocator(list(ticks)))
            axis.set_major_formatter(FixedFormatter(list(map(_label, ticks))))
            axis.set_minor_locator(NullLocator())
        ax.grid(alpha=0.3, linewidth=0.5)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=8)


def svg(charts: Sequence[Chart]) -> bytes:
    """Return charts side by side as SVG, the same bytes for the same charts."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "tvlars", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.2 * len(charts), 3.8), layout="constrained")
        for chart, ax in zip(charts, figure.subplots(1, len(charts), squeeze=False)[0], strict=True):
            chart.draw(ax)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _label(tick: float) -> str:
    return f"{tick:,.0f}" if tick >= 1000 else f"{tick:.4g}"


def powers_of_two(values: Sequence[float]) -> list[float]:
    """Return powers of two from below the smallest to above the largest value, as ticks; at most about ten.

    Within one octave there are quarters between both powers, since axes may show neither.
    """
    known = [value for value in values if 0 < value < math.inf]
    if not known:
        return [1.0]
    low, high = math.floor(math.log2(min(known))), math.ceil(math.log2(max(known)))
    every = max(-(-(high - low) // 10), 1)
    if high - low == 1:
        return [2.0**low * (1 + quarter / 4) for quarter in range(5)]
    return [2.0**power for power in range(low, high + every, every)]
