"""Evidence: TVLARS beside LARS and LAMB, with and without warm-up, each with a learning rate tuned as the others' is.

    python benchmarks/large_batch.py --csv docs/results/large-batch.csv

On Fashion-MNIST with the small ResNet, for each batch size and each arm: the planned learning rate, half and twice
of it are tried with the tuning seed; the best by test accuracy after the last epoch is trained with the other seeds,
and they alone are reported. A row a run goes to the CSV as it ends; runs that stand there already are not repeated,
so an interrupted measurement goes on with the same command.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab import DivergedError, Reporter, TrainConfig, train
from tvlars.lab.compare import mean_and_interval
from tvlars.lab.data import ImageData, load_data

ARMS: dict[str, dict[str, Any]] = {
    "tvlars": dict(optimizer="tvlars"),
    "lars, warm-up": dict(optimizer="lars"),
    "lars, no warm-up": dict(optimizer="lars", warmup_epochs=0.0),
    "lamb, warm-up": dict(optimizer="lamb"),
    "lamb, no warm-up": dict(optimizer="lamb", warmup_epochs=0.0),
}
LR_FACTORS = (0.5, 1.0, 2.0)
TUNING_SEED = 0
KEY = ["arm", "batch_size", "epochs", "lr_factor", "seed"]


@dataclass(frozen=True)
class Table:
    """The CSV of all runs: what has been measured, and where more is written."""

    file: Path

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.file) if self.file.is_file() else pd.DataFrame(columns=[*KEY, "lr", "test_accuracy"])

    def measured(self, key: tuple[Any, ...]) -> bool:
        return any(tuple(row) == key for row in self.rows()[KEY].itertuples(index=False))

    def add(self, row: dict[str, Any]) -> None:
        new = not self.file.is_file()
        with open(self.file, "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="those reported")
    parser.add_argument("--csv", type=Path, required=True, help="file of all runs, gone on with where it exists")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    arguments = parser.parse_args()

    table = Table(arguments.csv)
    if not arguments.table:
        data = load_data("fashion-mnist")
        for key in runs(table, arguments.batch_sizes, arguments.epochs, arguments.seeds):
            if not table.measured(key):
                table.add(measure(key, data))
                print(*table.rows().iloc[-1].tolist(), flush=True)
    print(report(table, arguments.epochs))


def runs(table: Table, batch_sizes: list[int], epochs: int, seeds: list[int]) -> Iterator[tuple[Any, ...]]:
    """All runs as values of KEY: tuning first, then the best rate of each arm, seeds outermost."""
    cells = [(arm, batch_size, epochs) for batch_size in reversed(batch_sizes) for arm in ARMS]
    for cell in cells:
        for factor in LR_FACTORS:
            yield (*cell, factor, TUNING_SEED)
    for seed in seeds:
        for cell in cells:
            yield (*cell, best_factor(table.rows(), cell), seed)


def best_factor(rows: pd.DataFrame, cell: tuple[Any, ...]) -> float:
    """The factor whose tuning run was best; a run that diverged has accuracy 0."""
    tuned = rows[(rows[KEY[:3]] == list(cell)).all(axis=1) & (rows["seed"] == TUNING_SEED)]
    return float(tuned.loc[tuned["test_accuracy"].idxmax(), "lr_factor"])


def measure(key: tuple[Any, ...], data: ImageData) -> dict[str, Any]:
    """Train one run, and return its row."""
    arm, batch_size, epochs, factor, seed = key
    config = TrainConfig(data="fashion-mnist", batch_size=batch_size, epochs=epochs, seed=seed, **ARMS[arm])
    lr = factor * config.plan(len(data.train_labels)).lr
    row = {**dict(zip(KEY, key, strict=True)), "lr": round(lr, 5)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            last = train(replace(config, lr=lr), data=data, folder=Path(folder), reporter=Reporter()).epochs[-1]
        except DivergedError:
            return {**row, "test_accuracy": 0.0, "test_loss": None, "train_loss": None}
    return {
        **row,
        "test_accuracy": last.test_accuracy,
        "test_loss": round(last.test_loss, 5),
        "train_loss": round(last.train_loss, 5),
    }


def report(table: Table, epochs: int) -> str:
    """The table in Markdown: the chosen rate, and mean with 95 % interval over the reported seeds."""
    rows = table.rows()
    rows = rows[rows["epochs"] == epochs]
    lines = ["| batch size | arm | lr | tuning accuracies | test accuracy | seeds |", "|---|---|---|---|---|---|"]
    for (batch_size, arm), group in rows.groupby(["batch_size", "arm"], sort=False):
        tuning = group[group["seed"] == TUNING_SEED].sort_values("lr")
        reported = group[group["seed"] != TUNING_SEED]
        mean, half = mean_and_interval(reported["test_accuracy"].tolist())
        tried = " ".join(f"{100 * accuracy:.2f}" for accuracy in tuning["test_accuracy"])
        lr = f"{reported['lr'].iloc[0]:.4g}" if len(reported) else "-"
        result = f"{100 * mean:.2f} ± {100 * half:.2f} %" if len(reported) > 1 else "-"
        lines.append(f"| {batch_size:,} | {arm} | {lr} | {tried} | {result} | {len(reported)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
