"""Evidence: Barlow Twins under TVLARS, LARS and LAMB, each with a learning rate tuned as the others' is.

    python benchmarks/ssl_study.py --csv docs/results/ssl.csv

Fashion-MNIST without labels, the small ResNet with a projector of 256-256-256. For each batch size B and arm three
learning rates are tried with the tuning seed: a third, once and three times 16 for LARS and TVLARS and
0.015 √(B / 256) for LAMB, B at most 2,048. The best by linear-evaluation accuracy is trained with the other seeds, and
they alone are reported. Then TVLARS with φ in other shapes, at the rate that was best for it, with the same seeds.

A row a run goes to the CSV as it ends; runs that stand there already are not repeated, so an interrupted measurement
goes on with the same command. ``--batch-sizes`` lets two processes share the work, each with a CSV of its own.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tvlars.lab import DivergedError, Reporter, TrainConfig, train
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.summary import mean_and_interval

EPOCHS = {512: 1, 4096: 4}
ARMS: dict[str, dict[str, Any]] = {
    "tvlars": dict(optimizer="tvlars"),
    "lars, warm-up": dict(optimizer="lars"),
    "lamb, warm-up": dict(optimizer="lamb"),
}
SHAPES: dict[str, Any] = {
    "tvlars, half at 50 %": lambda steps: dict(delay=0.5 * steps, delay_factor=math.log(49) / (0.5 * steps)),
    "tvlars, half at 90 %": lambda steps: dict(delay=0.9 * steps, delay_factor=math.log(49) / (0.1 * steps)),
    "tvlars, floor 0.1": lambda steps: dict(gamma_min=0.1),
    "lars, no warm-up": lambda steps: dict(optimizer="lars", warmup_epochs=0.0),
    "tvlars, half at 90 %, lr 16": lambda steps: dict(delay=0.9 * steps, delay_factor=math.log(49) / (0.1 * steps)),
}
OWN_FACTOR = {"tvlars, half at 90 %, lr 16": 1.0}
"""Shapes at another rate than the one that was best for their optimizer."""
"""TVLARS with φ falling earlier, later, and to a floor; and what warm-up is worth: LARS with a cosine alone."""
BIAS_NORM = 3e-4
"""Biases and norms take 16 * 3e-4 = 0.0048 raw under LARS and TVLARS; LAMB's take what the plan says."""
FACTORS = (1 / 3, 1.0, 3.0)
TUNING_SEED = 0
KEY = ["arm", "batch_size", "lr_factor", "seed"]
RESULT = ["lr", "linear", "knn", "train_loss", "feature_rank", "embedding_std", "images_per_second", "seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="those reported")
    parser.add_argument("--arms", nargs="+", default=[*ARMS, *SHAPES])
    parser.add_argument(
        "--csv", type=Path, nargs="+", required=True, help="files of all runs; the first is gone on with"
    )
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        data = load_data("fashion-mnist")
        for batch_size in arguments.batch_sizes:
            study(arguments.csv, batch_size, arguments.arms, arguments.seeds, data)
    print(report(rows(arguments.csv)))


def study(files: list[Path], batch_size: int, arms: list[str], seeds: list[int], data: ImageData) -> None:
    """Tuning first, then the best rate of each arm, seeds outermost; then TVLARS's other shapes."""
    tuned = [arm for arm in arms if arm in ARMS]
    for factor in FACTORS:
        for arm in tuned:
            measure(files, (arm, batch_size, round(factor, 4), TUNING_SEED), data)
    for group in (tuned, [arm for arm in arms if arm in SHAPES]):
        for seed in seeds:
            for arm in group:
                of = arm if arm in ARMS else "lars, warm-up" if arm.startswith("lars") else "tvlars"
                factor = OWN_FACTOR.get(arm) or best_factor(rows(files), of, batch_size)
                measure(files, (arm, batch_size, factor, seed), data)


def measure(files: list[Path], key: tuple[str, int, float, int], data: ImageData) -> None:
    """Run what ``key`` names and add its row, unless it is there."""
    if any(tuple(row) == key for row in rows(files)[KEY].itertuples(index=False)):
        return
    arm, batch_size, factor, seed = key
    epochs, start = EPOCHS[batch_size], time.perf_counter()
    options = ARMS[arm] if arm in ARMS else SHAPES[arm](epochs * (len(data.train_labels) // batch_size))
    options = {"optimizer": "tvlars", **options}
    centre = 0.015 * math.sqrt(min(batch_size, 2048) / 256) if options["optimizer"] == "lamb" else 16.0
    config = TrainConfig(
        data="fashion-mnist",
        task="barlow-twins",
        projector="256-256-256",
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        lr=factor * centre,
        micro_batch_size=512,
        bias_norm_lr_scale=None if options["optimizer"] == "lamb" else BIAS_NORM,
        evaluations="linear,knn",
        **options,
    )
    row: dict[str, Any] = {**dict(zip(KEY, key, strict=True)), **dict.fromkeys(RESULT), "lr": round(factor * centre, 5)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = train(config, data=data, folder=Path(folder), reporter=Reporter())
        except DivergedError:  # as bad as can be, and not left out
            row.update(linear=0.0, knn=0.0)
        else:
            last = pd.read_csv(Path(folder) / "representation.csv").iloc[-1]
            row.update(
                linear=round(result.evaluations["linear"].accuracy, 6),
                knn=round(result.evaluations["knn"].accuracy, 6),
                train_loss=round(result.epochs[-1].train_loss, 4),
                feature_rank=round(float(last["feature_rank"]), 3),
                embedding_std=round(float(last["embedding_std"]), 4),
                images_per_second=round(result.epochs[-1].images_per_second),
            )
    row["seconds"] = round(time.perf_counter() - start)
    new = not files[0].is_file()
    with open(files[0], "a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(*row.values(), flush=True)


def rows(files: list[Path]) -> pd.DataFrame:
    """All runs of all files."""
    found = [pd.read_csv(file) for file in files if file.is_file()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*KEY, *RESULT])


def best_factor(found: pd.DataFrame, arm: str, batch_size: int) -> float:
    """The factor whose tuning run was best; a run that diverged has accuracy 0."""
    tuned = found[(found["arm"] == arm) & (found["batch_size"] == batch_size) & (found["seed"] == TUNING_SEED)]
    return float(tuned.loc[tuned["linear"].idxmax(), "lr_factor"])


def report(found: pd.DataFrame) -> str:
    """The table in Markdown: mean and 95 % interval over the reported seeds, and TVLARS less each arm, paired."""
    lines = [
        "| batch size | arm | tuning: 1/3, 1, 3 | lr | linear probe | each seed | kNN | rank | TVLARS less it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = [*ARMS, *SHAPES]
    for batch_size, cell in found.groupby("batch_size"):
        reported = cell[cell["seed"] != TUNING_SEED]
        ours = reported[reported["arm"] == "tvlars"].set_index("seed")["linear"]
        for arm in sorted(cell["arm"].unique(), key=order.index):
            tuning = cell[(cell["arm"] == arm) & (cell["seed"] == TUNING_SEED)].sort_values("lr_factor")
            mine = reported[reported["arm"] == arm].set_index("seed")
            tried = " ".join(f"{100 * x:.2f}" for x in tuning["linear"])
            if mine.empty:
                lines.append(f"| {batch_size:,} | {arm} | {tried} | | | | | | |")
                continue
            less = "" if arm == "tvlars" else percent((ours - mine["linear"]).dropna())
            each = " ".join(f"{100 * x:.2f}" for x in mine["linear"])
            lines.append(
                f"| {batch_size:,} | {arm} | {tried} | {mine['lr'].iloc[0]:.3g} | {percent(mine['linear'])} | {each} | "
                f"{percent(mine['knn'])} | {mine['feature_rank'].mean():.1f} | {less} |"
            )
    return "\n".join(lines)


def percent(values: pd.Series) -> str:
    """Mean and interval in percent."""
    mean, half = mean_and_interval(values.tolist())
    return f"{100 * mean:.2f} ± {100 * half:.2f}"


if __name__ == "__main__":
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main()
