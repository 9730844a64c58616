"""Evidence: Barlow Twins under TVLARS, LARS and LAMB, each with a learning rate tuned as the others' is.

    python benchmarks/ssl_study.py --csv docs/results/ssl.csv

Fashion-MNIST without labels, the small ResNet with a projector of 256-256-256. For each batch size B and arm three
learning rates are tried with the tuning seed: a third, once and three times 16 for LARS and TVLARS and
0.015 √(B / 256) for LAMB, B at most 2,048. The best by linear-evaluation accuracy is trained with the other seeds, and
they alone are reported. ``--arms`` takes other shapes of φ too, and LARS without warm-up: they have the rate that was
best for their optimizer, and the same seeds.

A row a run goes to the CSV as it ends; runs that stand there already are not repeated, so an interrupted measurement
goes on with the same command, and two processes may share the cells of one file.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measured import Table, median_speed, percent

from tvlars.lab import TrainConfig
from tvlars.lab.data import load_data
from tvlars.lab.run_folder.loaded_run import RunResult

ARMS: dict[str, dict[str, Any]] = {
    "tvlars": dict(optimizer="tvlars"),
    "lars, warm-up": dict(optimizer="lars"),
    "lamb, warm-up": dict(optimizer="lamb"),
}
SHAPES: dict[str, Any] = {
    "tvlars, half at 50 %": lambda steps: dict(delay=0.5 * steps, delay_factor=math.log(49) / (0.5 * steps)),
    "tvlars, half at 90 %": lambda steps: dict(delay=0.9 * steps, delay_factor=math.log(49) / (0.1 * steps)),
    "tvlars, floor 0.1": lambda steps: dict(gamma_min=0.1),
    "lars, no warm-up": lambda steps: dict(warmup_epochs=0.0),
}
"""TVLARS with φ falling earlier, later, and to a floor; and what warm-up is worth: LARS with a cosine alone."""
BIAS_NORM = 3e-4
"""Biases and norms take 16 * 3e-4 = 0.0048 raw under LARS and TVLARS; LAMB's take what the plan says."""
FACTORS = (1 / 3, 1.0, 3.0)
TUNING_SEED = 0
CELL = ["batch_size", "epochs", "arm"]
KEY = [*CELL, "lr_factor", "seed"]
COLUMNS = ("linear", "knn", "train_loss", "feature_rank", "embedding_std", "images_per_second")
Cell = tuple[int, int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[512, 4096, 512])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 4, 5], help="one for each batch size")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], help="those reported")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=[*ARMS, *SHAPES], metavar="ARM")
    parser.add_argument("--csv", type=Path, required=True, help="file of all runs, gone on with where it exists")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    arguments = parser.parse_args()
    if len(arguments.epochs) != len(arguments.batch_sizes):
        parser.error(f"--epochs must name one for each of {len(arguments.batch_sizes)} batch sizes")

    table = Table(arguments.csv, KEY, COLUMNS, representation)
    sizes = list(zip(arguments.batch_sizes, arguments.epochs, strict=True))
    if not arguments.table:
        data = load_data("fashion-mnist")
        for key in runs(table, sizes, arguments.arms, arguments.seeds):
            table.measure(key, config_of(key, len(data.train_labels)), data)
    print(report(table.rows()))


def runs(table: Table, sizes: list[tuple[int, int]], arms: list[str], seeds: list[int]) -> Iterator[tuple[Any, ...]]:
    """All runs as values of KEY: tuning first, then the best rate of each arm, seeds outermost."""
    for size in sizes:
        for factor in FACTORS:
            for arm in ARMS:
                if any(tuned_as(wanted) == arm for wanted in arms):
                    yield (*size, arm, round(factor, 4), TUNING_SEED)
        for seed in seeds:
            for arm in arms:
                yield (*size, arm, best_factor(table.rows(), (*size, tuned_as(arm))), seed)


def tuned_as(arm: str) -> str:
    """The arm whose tuning says the rate of ``arm``."""
    return arm if arm in ARMS else "lars, warm-up" if arm.startswith("lars") else "tvlars"


def best_factor(rows: pd.DataFrame, cell: Cell) -> float:
    """The factor whose tuning run was best; a run that diverged has accuracy 0."""
    tuned = rows[(rows[CELL] == list(cell)).all(axis=1) & (rows["seed"] == TUNING_SEED)]
    return float(tuned.loc[tuned["linear"].idxmax(), "lr_factor"])


def config_of(key: tuple[Any, ...], samples: int) -> TrainConfig:
    """The run that ``key`` names, over ``samples`` training images."""
    batch_size, epochs, arm, factor, seed = key
    options = ARMS[tuned_as(arm)]
    if arm in SHAPES:
        options = {**options, **SHAPES[arm](epochs * (samples // batch_size))}
    lamb = options["optimizer"] == "lamb"
    return TrainConfig(
        data="fashion-mnist",
        task="barlow-twins",
        projector="256-256-256",
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        lr=factor * (0.015 * math.sqrt(min(batch_size, 2048) / 256) if lamb else 16.0),
        micro_batch_size=512,
        bias_norm_lr_scale=None if lamb else BIAS_NORM,
        evaluations="linear,knn",
        **options,
    )


def representation(result: RunResult) -> dict[str, Any]:
    """COLUMNS of a run."""
    last = pd.read_csv(result.folder / "representation.csv").iloc[-1]
    return {
        "linear": round(result.evaluations["linear"].accuracy, 6),
        "knn": round(result.evaluations["knn"].accuracy, 6),
        "train_loss": round(result.epochs[-1].train_loss, 4),
        "feature_rank": round(float(last["feature_rank"]), 3),
        "embedding_std": round(float(last["embedding_std"]), 4),
        "images_per_second": median_speed(result),
    }


def report(rows: pd.DataFrame) -> str:
    """The table in Markdown: mean and 95 % interval over the reported seeds, and TVLARS less each arm, paired."""
    lines = [
        "| batch size | epochs | arm | tuning: 1/3, 1, 3 | lr | linear probe | each seed | kNN | rank "
        "| TVLARS less it: probe | kNN |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = [*ARMS, *SHAPES]
    for (batch_size, epochs), cell in rows.groupby(["batch_size", "epochs"]):
        reported = cell[cell["seed"] != TUNING_SEED]
        ours = reported[reported["arm"] == "tvlars"].set_index("seed")
        for arm in sorted(cell["arm"].unique(), key=order.index):
            tuning = cell[(cell["arm"] == arm) & (cell["seed"] == TUNING_SEED)].sort_values("lr_factor")
            mine = reported[reported["arm"] == arm].set_index("seed").sort_index()
            tried = " ".join(f"{100 * x:.2f}" for x in tuning["linear"])
            if mine.empty:
                lines.append(f"| {batch_size:,} | {epochs} | {arm} | {tried} | | | | | | | |")
                continue
            less = [percent((ours[name] - mine[name]).dropna()) for name in ("linear", "knn")]
            each = " ".join(f"{100 * x:.2f}" for x in mine["linear"])
            lines.append(
                f"| {batch_size:,} | {epochs} | {arm} | {tried} | {mine['lr'].iloc[0]:.3g} | "
                f"{percent(mine['linear'])} | {each} | {percent(mine['knn'])} | {mine['feature_rank'].mean():.1f} | "
                + (" | |" if arm == "tvlars" else f"{less[0]} | {less[1]} |")
            )
    return "\n".join(lines)


if __name__ == "__main__":
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main()
