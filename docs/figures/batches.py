"""Parts of a large batch, and savings of a larger one: micro-batches and the noise scale."""

from __future__ import annotations

from _style import Theme, draw, legend
from digits import measured_noise
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

PARTS = 4


def micro_batches(figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 6.6))
    axes.axis("off")

    def box(x: float, y: float, width: float, text: str, color: str) -> None:
        axes.add_patch(Rectangle((x, y), width, 0.95, facecolor="none", edgecolor=color, linewidth=1.5))
        axes.text(x + width / 2, y + 0.475, text, ha="center", va="center")

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=theme.faint, linewidth=1))

    box(0.1, 5.5, 9.8, "batch: 4,096 samples, one optimizer step", theme.color(1))
    for i in range(PARTS):
        x = 0.1 + 2.5 * i
        arrow((x + 1.15, 5.5), (x + 1.15, 4.65))
        box(x, 3.7, 2.3, "1,024", theme.color(2))
        arrow((x + 1.15, 3.7), (x + 1.15, 2.55))
        axes.text(x + 1.15, 2.2, f"g{'₁₂₃₄'[i]}", ha="center", va="center")
        arrow((x + 1.15, 1.9), (5.0 + 0.5 * (i - 1.5), 1.0))
    axes.text(5.0, 3.1, "batch norm sees these", ha="center", va="center", color=theme.color(2))
    box(1.6, 0.05, 6.8, "g = mean of all: the whole batch's", theme.color(0))


def noise_scale(figure: Figure, theme: Theme) -> None:
    noise = measured_noise()
    axes = figure.add_subplot()
    sizes = [2.0 ** (i / 4) for i in range(12, 57)]
    axes.loglog(sizes, [1 + noise.value / b for b in sizes], color=theme.color(0), label="steps, times the fewest")
    axes.loglog(sizes, [1 + b / noise.value for b in sizes], color=theme.color(1), label="samples, times the fewest")
    axes.axvspan(noise.low, noise.high, color=theme.faint, alpha=0.25, linewidth=0)
    axes.axvline(noise.value, color=theme.faint, linestyle=":")
    axes.annotate(
        f"B_simple = {noise.value:,.0f}", (noise.value, 40), ha="left", xytext=(14, 0), textcoords="offset points"
    )
    axes.set(xlabel="batch size, samples", ylabel="cost of the same loss", xlim=(sizes[0], sizes[-1]), ylim=(1, 100))
    axes.set_title("Digits, small ResNet, after one epoch of TVLARS")
    legend(figure, axes)


if __name__ == "__main__":
    draw("micro-batches", 2.9, micro_batches)
    draw("noise-scale", 3.3, noise_scale)
