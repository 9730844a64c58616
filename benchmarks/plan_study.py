"""Where φ should fall, and at which learning rate: the measurements behind the defaults of ``tvlars.plan``.

    python benchmarks/plan_study.py --batch-sizes 1024 4096 --epochs 6 --seeds 0 1 --csv docs/results/plan.csv

Trains TVLARS on Fashion-MNIST with the small ResNet. First the share of the steps at which φ is at half its start
is varied, φ ending at 2 % of its start each time, with the planned learning rate; then that rate is halved and
doubled for a share of 0.6. A row a run goes to the CSV as it ends.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tvlars.lab import Reporter, TrainConfig, train
from tvlars.lab.compare import mean_and_interval
from tvlars.lab.data import load_data

SHARES = (0.45, 0.6, 0.75)
LR_FACTORS = (0.5, 2.0)
SHARE_OF_LR = 0.6
COLUMNS = ("batch_size", "half_share", "lr", "seed", "test_accuracy", "test_loss", "train_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--csv", type=Path, required=True, help="file to write, a row a run")
    arguments = parser.parse_args()

    data = load_data("fashion-mnist")
    with open(arguments.csv, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for share, config in configs(arguments.batch_sizes, arguments.epochs, arguments.seeds):
            plan = config.plan(len(data.train_labels))
            config = replace(config, delay=round(share * plan.total_steps))
            with tempfile.TemporaryDirectory() as folder:
                result = train(config, data=data, folder=Path(folder), reporter=Reporter())
            last = result.epochs[-1]
            row = (config.batch_size, share, round(plan.lr, 3), config.seed, last.test_accuracy)
            writer.writerow([*row, round(last.test_loss, 5), round(last.train_loss, 5)])
            file.flush()
            print(*row, flush=True)

    for key, rows in pd.read_csv(arguments.csv).groupby(["batch_size", "half_share", "lr"]):
        mean, half = mean_and_interval(rows["test_accuracy"].tolist())
        print(f"| {' | '.join(f'{value:g}' for value in key)} | {100 * mean:.2f} | {100 * half:.2f} | {len(rows)} |")


def configs(batch_sizes: list[int], epochs: int, seeds: list[int]) -> Iterator[tuple[float, TrainConfig]]:
    """(share, run), without the delay that the share means in steps; seeds outermost."""
    base = TrainConfig(data="fashion-mnist", optimizer="tvlars", epochs=epochs)
    for seed in seeds:
        for batch_size in batch_sizes:
            run = replace(base, batch_size=batch_size, seed=seed)
            for share in SHARES:
                yield share, run
            lr = run.plan(60_000).lr
            for factor in LR_FACTORS:
                yield SHARE_OF_LR, replace(run, lr=factor * lr)


if __name__ == "__main__":
    main()
