"""Does warm-up end early training in sharp places, and does TVLARS end in flatter ones? Measured on Fashion-MNIST.

    python benchmarks/sharpness_study.py --out runs/sharpness-study
    tvlars report runs/sharpness-study

For each batch size, arm and seed one run with layer statistics at every step and sharpness after every epoch, at the
learning rates that ``large_batch.py`` found best with a seed of its own. Runs that are finished are not repeated.
Ends with a table: of convolutions LNR over the first two epochs and how far norms grew (geometric means over layers);
the Hessian's top eigenvalue λ₁ and adaptive worst-case sharpness early and at the end; accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from large_batch import ARMS, KEY, best_factor, centre
from measured import Table

from tvlars.lab import DivergedError, LoadedRun, TrainConfig, load_data, load_run, train
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.training.progress import LineReporter

STUDIED = ("tvlars", "lars, warm-up", "lars, no warm-up", "lamb, warm-up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8192, 512])
    parser.add_argument("--epochs", nargs="+", type=int, default=[10, 2], help="one for each batch size")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--samples", type=int, default=512, help="training images that sharpness is measured on")
    parser.add_argument("--csv", type=Path, help="where to write every measurement of every run")
    parser.add_argument("--tuned", type=Path, default=Path("docs/results/large-batch.csv"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, gone on with where it exists")
    arguments = parser.parse_args()
    data = load_data("fashion-mnist")
    rows = Table(arguments.tuned, KEY).rows()
    found, every = [], []
    for seed in arguments.seeds:
        for batch_size, epochs in zip(arguments.batch_sizes, arguments.epochs, strict=True):
            for arm in STUDIED:
                config = TrainConfig("fashion-mnist", batch_size=batch_size, epochs=epochs, seed=seed, **ARMS[arm])
                lr = best_factor(rows, (arm, batch_size, epochs)) * centre(arm, batch_size)
                config = replace(config, lr=lr, layer_stats=1, noise_scale=True)
                config = replace(config, sharpness="epochs:1", sharpness_samples=arguments.samples)
                folder = arguments.out / f"{arm.replace(', ', '-').replace(' ', '-')}-b{batch_size}-s{seed}"
                if not (folder / "summary.json").is_file() or load_run(folder).status not in ("finished", "diverged"):
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(parents=True)
                    with contextlib.suppress(DivergedError):
                        train(config, data=data, folder=folder, reporter=LineReporter(brief=True))
                run = load_run(folder)
                if run.complete:
                    found.append({"batch size": batch_size, "arm": arm, **measured(run)})
                    every.append(run.sharpness.merge(run.epochs[["epoch", "test_accuracy"]]))
                    every[-1].insert(0, "seed", seed)
                    every[-1].insert(0, "lr", round(lr, 4))
                    every[-1].insert(0, "arm", arm)
                    every[-1].insert(0, "batch_size", batch_size)
                else:
                    print(f"{folder.name} is {run.status}")
    if arguments.csv:
        pd.concat(every).to_csv(arguments.csv, index=False)
    frame = pd.DataFrame(found)
    print("| " + " | ".join(frame.columns) + " |\n" + "|---" * len(frame.columns) + "|")
    for key, cell in frame.groupby(["batch size", "arm"], sort=False):
        texts = [text(cell[name].tolist()) for name in frame.columns[2:]]
        print(f"| {key[0]:,} | {key[1]} | " + " | ".join(texts) + " |")


def measured(run: LoadedRun) -> dict[str, Any]:
    """Row of the table for one run."""
    stats = run.layer_stats()
    kernels = stats[stats["layer"].astype(str).str.contains(r"conv|stem|shortcut\.0")]
    early = kernels[(kernels["quantity"] == "LNR") & (kernels["step"] <= 2 * run.plan["steps_per_epoch"])]["value"]
    norms = kernels[kernels["quantity"] == "LWN"].groupby("step")["value"].agg(lambda x: np.log(x).mean())
    sharp = run.sharpness
    return {
        "LNR, 2 epochs": float(np.exp(np.log(early).mean())),
        "‖w‖, times its start": float(np.exp(norms.iloc[-1] - norms.iloc[0])),
        "λ₁, epoch 1": float(sharp["hessian_max"].iloc[0]),
        "λ₁, end": float(sharp["hessian_max"].iloc[-1]),
        "adaptive, epoch 1": float(sharp["worst_case"].iloc[0]),
        "adaptive, end": float(sharp["worst_case"].iloc[-1]),
        "test accuracy, %": 100 * float(run.epochs["test_accuracy"].iloc[-1]),
    }


def text(values: list[float]) -> str:
    """Each seed where there are only two, else the mean and its 95 % interval."""
    mean, half = mean_and_interval(values)
    return (
        " ".join(f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" for value in values)
        if len(values) < 3
        else f"{mean:.4g} ± {half:.2g}"
    )


if __name__ == "__main__":
    main()
