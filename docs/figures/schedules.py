"""The learning rate of TVLARS over a run beside that of LARS, the numbers that shape φ, and all schedules by name."""

from __future__ import annotations

from _style import Theme, draw, legend
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tvlars import plan, sigmoid_decay

RUN = dict(batch_size=4096, dataset_size=60_000, epochs=15)
SHAPE = dict(delay_factor=0.06, delay=150.0, alpha=1.0, gamma_min=0.0)
VARIED = {
    "delay_factor": ("λ, per step: how steep", (0.02, 0.06, 0.2)),
    "delay": ("d_e, steps: where", (75.0, 150.0, 225.0)),
    "alpha": ("α: bounded by 1/α", (0.7, 1.0, 2.0)),
    "gamma_min": ("γ_min: the floor", (0.0, 0.1, 0.3)),
}


def schedules(figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    tvlars, lars = plan(**RUN), plan(**RUN, optimizer="lars", schedule="cosine")
    for p, color, label in ((tvlars, 0, "TVLARS: φ(t), no warm-up"), (lars, 1, "LARS: linear warm-up, then cosine")):
        steps = range(1, p.total_steps + 1)
        axes.plot(steps, [p.lr * p.factor(t) for t in steps], color=theme.color(color), label=label)
    axes.axvline(tvlars.delay, linestyle=":", linewidth=1, color=theme.faint)
    place = (tvlars.delay, tvlars.lr * 0.5)
    axes.annotate("d_e: half way down", place, xytext=(-6, 30), textcoords="offset points", ha="right")
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None), xlim=(0, tvlars.total_steps))
    axes.set_title("Fashion-MNIST, batch size 4,096, 15 epochs")
    legend(figure, axes)


def phi(figure: Figure, theme: Theme) -> None:
    panels: list[Axes] = list(figure.subplots(2, 2, sharex=True, sharey=True).flat)
    for axes, (name, (title, values)) in zip(panels, VARIED.items(), strict=True):
        for i, value in enumerate(values):
            factor = [sigmoid_decay(float(t), **{**SHAPE, name: value}) for t in range(1, 301)]
            axes.plot(range(1, 301), factor, color=theme.color(i), label=f"{value:g}")
        axes.set(title=title, ylim=(0, 1.5), xlim=(0, 300))
        axes.legend(frameon=False, loc="upper right", fontsize=8.5, ncols=3, handlelength=0.9, columnspacing=0.7)
    for axes in panels[2:]:
        axes.set_xlabel("optimizer step t")
    for axes in panels[::2]:
        axes.set_ylabel("φ(t)")


SHAPES = {
    "falling to the end": (("cosine", {}), ("linear", {}), ("polynomial", {})),
    "trapezoid": (("trapezoid", {}), ("trapezoid", dict(decay_tail="sqrt"))),
    "sigmoid, constant": (("sigmoid", {}), ("constant", dict(warmup_steps=42))),
}


def shapes(figure: Figure, theme: Theme) -> None:
    panels: list[Axes] = list(figure.subplots(1, 3, sharey=True).flat)
    for axes, (title, some) in zip(panels, SHAPES.items(), strict=True):
        for i, (name, options) in enumerate(some):
            p = plan(**RUN, optimizer="sgd", lr=1.0, schedule=name, **options)
            said = ", ".join(f"{option} {value}".replace("_", "-") for option, value in options.items())
            steps = range(1, p.total_steps + 1)
            factors = [p.factor(t) for t in steps]
            style = dict(color=theme.color(i), linestyle=("-", "--", ":")[i], label=said or name)
            axes.plot(steps, factors, **style)
        axes.set(title=title, xlabel="optimizer step", ylim=(0, 1.45))
        axes.legend(frameon=False, loc="upper right", fontsize=8, handlelength=1.4)
    panels[0].set_ylabel("factor of lr")


if __name__ == "__main__":
    draw("schedules", 3.2, schedules)
    draw("phi", 4.4, phi)
    draw("shapes", 2.7, shapes)
