"""The trust ratio at work, what φ multiplies, and why biases and norms want a rate of their own: runs on digits."""

from __future__ import annotations

import warnings

from _style import Theme, draw, legend
from digits import planned, train
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

SGD_LR, TRUST_COEFFICIENT = 0.1, 1e-3
SEEDS = (0, 1, 2)
WEIGHT, BIAS = "blocks.1.conv1.weight", "blocks.1.bn1.bias"


def trust_ratio(figure: Figure, theme: Theme) -> None:
    p = planned(12, optimizer="lars")
    frame = train(p, steps=1)[2].pivot(index="layer", columns="quantity", values="value")
    weights = frame[frame["trust_ratio"].notna()][::-1]
    lars = 100 * p.lr * TRUST_COEFFICIENT
    axes = figure.add_subplot()
    names = [str(name).removesuffix(".weight").replace("shortcut.0", "shortcut") for name in weights.index]
    axes.plot(
        100 * SGD_LR / weights["LNR"], names, "o", color=theme.color(1), label=f"SGD, lr {SGD_LR:g}: lr ‖g‖ / ‖w‖"
    )
    axes.plot([lars] * len(names), names, "D", color=theme.color(0), label=f"LARS, lr {p.lr:g}: lr η, whatever ‖g‖")
    axes.set(xscale="log", xlabel="share of its norm that the first step moves a layer by")
    axes.set_xticks([0.5, 1, 2, 5], labels=["0.5%", "1%", "2%", "5%"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0.45, 6)
    axes.grid(axis="y", color=theme.faint, alpha=0.25)
    axes.tick_params(axis="y", length=0)
    legend(figure, axes)


def phi_scope(figure: Figure, theme: Theme) -> None:
    panels = figure.subplots(2, 1, sharex=True)
    for i, (scope, style) in enumerate((("all", "-"), ("ratio", "--"))):
        frame = train(planned(12), phi_scope=scope)[2]
        values = frame[frame["layer"].isin([WEIGHT, BIAS])].pivot(
            index=["layer", "step"], columns="quantity", values="value"
        )
        moved = 100 * values["effective_lr"] / values["LNR"]
        options = dict(linestyle=style, color=theme.color(i), label=f'phi_scope="{scope}"')
        panels[0].plot(moved.loc[WEIGHT], **options)
        panels[1].plot(values["effective_lr"].loc[BIAS], **options)
    panels[0].set_title("A weight: share of its norm that its gradient moves it by")
    panels[0].yaxis.set_major_formatter(PercentFormatter(decimals=1))
    panels[1].set_title("A norm's bias: its learning rate")
    for axes in panels:
        axes.set(ylim=(0, None), xlim=(1, None))
    panels[1].set_xlabel("optimizer step")
    legend(figure, panels[0], columns=2)


def bias_norm_lr_scale(figure: Figure, theme: Theme) -> None:
    warnings.simplefilter("ignore")  # of the rate that is the point of the figure
    axes = figure.add_subplot()
    p = planned(12)
    for i, scale in enumerate((1.0, 0.03)):
        for seed in SEEDS:
            losses = train(p, seed=seed, bias_norm_lr_scale=scale, steps=30)[1]
            label = f"× {scale:g}: biases and norms take {p.lr * scale:g}" if seed == SEEDS[0] else None
            axes.semilogy(range(1, 31), losses, color=theme.color(1 - i), alpha=0.85, linewidth=1.4, label=label)
    axes.set(xlabel="optimizer step", ylabel="training loss", xlim=(1, 30))
    axes.set_title(f"Digits, TVLARS, lr {p.lr:g} for weights, seeds 0, 1, 2")
    legend(figure, axes)


if __name__ == "__main__":
    draw("trust-ratio", 3.7, trust_ratio)
    draw("phi-scope", 4.0, phi_scope)
    draw("bias-norm-lr-scale", 3.3, bias_norm_lr_scale)
