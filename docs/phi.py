"""Draws docs/phi.svg: the learning rate of TVLARS over a run, against warm-up and cosine. Run by ``make figures``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from tvlars import plan

RUN = dict(batch_size=4096, dataset_size=60_000, epochs=15)


def main() -> None:
    matplotlib.rcParams["svg.hashsalt"] = "tvlars"  # the same file from the same script
    figure = plt.figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    tvlars, lars = plan(**RUN), plan(**RUN, optimizer="lars")
    for p, color, label in (
        (tvlars, "#D55E00", "TVLARS: φ(t), no warm-up"),
        (lars, "#0072B2", "LARS: linear warm-up, then cosine"),
    ):
        p.plot(axes)
        line = axes.lines[0] if p is tvlars else axes.lines[-1]
        line.set(color=color, label=label, linewidth=2)
    axes.annotate(
        "d_e: half way down",
        (tvlars.delay, tvlars.lr * 0.5),
        xytext=(8, 10),
        textcoords="offset points",
        color="0.35",
    )
    axes.set(ylabel="learning rate (before the trust ratio)", title="Fashion-MNIST, batch size 4,096, 15 epochs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.get_legend().remove()  # it would lie on the curves
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(Path(__file__).with_name("phi.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
