"""Style of all figures: narrow enough for a phone, and drawn once for the light theme and once for the dark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
WIDTH = 5.0
"""Inches. 480 pixels on a desk, and letters of 10 pixels where a phone shrinks it to its own width."""


@dataclass(frozen=True)
class Theme:
    """Colours of a theme. ``series`` can be told apart by people who confuse red and green (Okabe and Ito)."""

    ink: str
    faint: str
    ground: str
    series: tuple[str, ...]

    def color(self, number: int) -> str:
        return self.series[number % len(self.series)]


LIGHT = Theme("#24292f", "#8a9097", "#ffffff", ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B8860B"))
DARK = Theme("#e6e6ea", "#8b8fa3", "none", ("#FF8A3D", "#5BB5F0", "#3FD0A4", "#E79BC6", "#F0C94A"))


def draw(name: str, height: float, painter: Callable[[Figure, Theme], None]) -> None:
    """Write NAME.svg, on white so that it can be read anywhere, and NAME-dark.svg for the site's dark theme."""
    for theme, suffix in ((LIGHT, ""), (DARK, "-dark")):
        with matplotlib.rc_context(_settings(theme)):
            figure = plt.figure(figsize=(WIDTH, height), layout="constrained", facecolor=theme.ground)
            painter(figure, theme)
            figure.savefig(HERE / f"{name}{suffix}.svg", metadata={"Date": None})
            plt.close(figure)
    print(HERE / f"{name}.svg")


def legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """A legend under the axes, where it cannot lie on the curves."""
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=columns)


def _settings(theme: Theme) -> dict[str, object]:
    ink = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    lines = ("axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(ink, theme.ink),
        **dict.fromkeys(lines, theme.faint),
        "axes.facecolor": "none",
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "font.size": 9.5,
        "lines.linewidth": 1.8,
        "svg.hashsalt": "tvlars",  # the same file from the same script
    }
