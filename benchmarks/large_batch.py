"""Evidence: TVLARS beside LARS and LAMB, with and without warm-up, each with a learning rate tuned as the others' is.

    python benchmarks/large_batch.py --csv docs/results/large-batch.csv

On Fashion-MNIST with the small ResNet, for each batch size B and each arm three learning rates are tried with the
tuning seed: half, once and twice 8 √(B / 256) for LARS and TVLARS and 0.015 √(B / 256) for LAMB, B at most 2,048. The
best by test accuracy after the last epoch is trained with the other seeds, and they alone are reported. A row a run
goes to the CSV as it ends; runs that stand there already are not repeated, so an interrupted measurement goes on with
the same command. Large batches get more epochs: what they lack is steps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from measured import Table, percent

from tvlars.lab import TrainConfig
from tvlars.lab.comparison.statistics import differences
from tvlars.lab.data import load_data

ARMS: dict[str, dict[str, Any]] = {
    "tvlars": dict(optimizer="tvlars"),
    "lars, warm-up": dict(optimizer="lars"),
    "lars, no warm-up": dict(optimizer="lars", warmup_epochs=0.0),
    "lamb, warm-up": dict(optimizer="lamb"),
    "lamb, no warm-up": dict(optimizer="lamb", warmup_epochs=0.0),
}
FACTORS = (0.5, 1.0, 2.0)
TUNING_SEED = 0
TEST_IMAGES = 10_000
KEY = ["arm", "batch_size", "epochs", "lr_factor", "seed"]


def centre(arm: str, batch_size: int) -> float:
    """The rate in the middle of those tried."""
    return (0.015 if arm.startswith("lamb") else 8.0) * math.sqrt(min(batch_size, 2048) / 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8192, 2048, 512])
    parser.add_argument("--epochs", nargs="+", type=int, default=[10, 4, 2], help="one for each batch size")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="those reported")
    parser.add_argument("--csv", type=Path, required=True, help="file of all runs, gone on with where it exists")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    arguments = parser.parse_args()
    if len(arguments.epochs) != len(arguments.batch_sizes):
        parser.error(f"--epochs must name one for each of {len(arguments.batch_sizes)} batch sizes")

    table = Table(arguments.csv, KEY)
    sizes = list(zip(arguments.batch_sizes, arguments.epochs, strict=True))
    if not arguments.table:
        data = load_data("fashion-mnist")
        for key in runs(table, sizes, arguments.seeds):
            arm, batch_size, epochs, factor, seed = key
            config = TrainConfig(data="fashion-mnist", batch_size=batch_size, epochs=epochs, seed=seed, **ARMS[arm])
            table.measure(key, replace(config, lr=factor * centre(arm, batch_size)), data)
    print(report(table.rows()))


def runs(table: Table, sizes: list[tuple[int, int]], seeds: list[int]) -> Iterator[tuple[Any, ...]]:
    """All runs as values of KEY: tuning first, then the best rate of each arm, seeds outermost."""
    cells = [(arm, *size) for size in sizes for arm in ARMS]
    for cell in cells:
        for factor in FACTORS:
            yield (*cell, factor, TUNING_SEED)
    for seed in seeds:
        for cell in cells:
            yield (*cell, best_factor(table.rows(), cell), seed)


def best_factor(rows: pd.DataFrame, cell: tuple[Any, ...]) -> float:
    """The factor whose tuning run was best; a run that diverged has accuracy 0."""
    tuned = rows[(rows[KEY[:3]] == list(cell)).all(axis=1) & (rows["seed"] == TUNING_SEED)]
    return float(tuned.loc[tuned["test_accuracy"].idxmax(), "lr_factor"])


def report(rows: pd.DataFrame) -> str:
    """Return the table in Markdown: mean and 95 % interval over the reported seeds, and TVLARS less each arm, paired.

    Its last column has p-values by the rule of comparisons, adjusted for all comparisons with TVLARS in the table.
    """
    lines = [
        "| batch size | epochs | arm | tuning: half, once, twice | lr | test accuracy | seeds | TVLARS less it | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    p_of = p_values(rows)
    for (batch_size, epochs, arm), cell in rows.groupby(["batch_size", "epochs", "arm"], sort=False):
        tuning = cell[cell["seed"] == TUNING_SEED].sort_values("lr_factor")
        tried = " ".join(f"{100 * accuracy:.2f}" for accuracy in tuning["test_accuracy"])
        reported = cell[cell["seed"] != TUNING_SEED].set_index("seed")["test_accuracy"]
        if reported.empty:
            lines.append(f"| {batch_size:,} | {epochs} | {arm} | {tried} | | | | | |")
            continue
        lr = cell[cell["seed"] != TUNING_SEED]["lr"].iloc[0]
        each = " ".join(f"{100 * accuracy:.2f}" for accuracy in reported)
        same = (rows["arm"] == "tvlars") & (rows["batch_size"] == batch_size) & (rows["epochs"] == epochs)
        ours = rows[same & (rows["seed"] != TUNING_SEED)].set_index("seed")["test_accuracy"]
        less = "" if arm == "tvlars" else percent((ours - reported).dropna())
        p = p_of.get((batch_size, epochs, arm))
        cells = [f"{batch_size:,}", epochs, arm, tried, f"{lr:.3g}", percent(reported), each, less]
        lines.append(f"| {' | '.join(map(str, cells))} | {'' if p is None or p != p else f'{p:.2g}'} |")
    return "\n".join(lines)


def p_values(rows: pd.DataFrame) -> dict[tuple[int, int, str], float]:
    """Return p of the difference from TVLARS by batch size, epochs and arm, NaN with fewer than six seeds."""
    reported = rows[rows["seed"] != TUNING_SEED].assign(status="finished", test_images=TEST_IMAGES)
    pairs = differences(reported.assign(part=reported["epochs"]), family="tvlars")
    ours = pairs[pairs["in_family"]]
    others = [row.worse if row.better == "tvlars" else row.better for row in ours.itertuples()]
    keys = zip(ours["batch_size"].astype(int), ours["part"].astype(int), others, strict=True)
    return dict(zip(keys, ours["p_adjusted"].tolist(), strict=True))


if __name__ == "__main__":
    main()
