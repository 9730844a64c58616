"""Where φ should fall, and at which learning rate: the measurements behind the defaults of ``tvlars.plan``.

    python benchmarks/plan_study.py --batch-sizes 1024 4096 --epochs 6 --lrs 16 32 --csv docs/results/plan.csv

Trains TVLARS on Fashion-MNIST with the small ResNet at every combination of what is given; φ ends at 2 % of its start
each time. A row a run goes to the CSV as it ends; runs that stand there already are not repeated. Ends with the
table of all rows.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

from measured import Table

from tvlars.lab import TrainConfig
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.data import load_data
from tvlars.schedule import HALF_SHARE

KEY = ["batch_size", "epochs", "half_share", "lr", "momentum", "seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--half-shares", nargs="+", type=float, default=[HALF_SHARE], help="of the steps, at half φ")
    parser.add_argument("--lrs", nargs="+", type=float, default=[None], help="default: the planned one")
    parser.add_argument("--momenta", nargs="+", type=float, default=[0.9])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--csv", type=Path, required=True, help="file of all runs, gone on with where it exists")
    arguments = parser.parse_args()

    table = Table(arguments.csv, KEY)
    data = load_data("fashion-mnist")
    grid = itertools.product(
        arguments.seeds, arguments.batch_sizes, arguments.half_shares, arguments.lrs, arguments.momenta
    )
    for seed, batch_size, share, lr, momentum in grid:
        config = TrainConfig("fashion-mnist", batch_size=batch_size, epochs=arguments.epochs, seed=seed)
        config = replace(config, lr=lr, momentum=momentum)
        plan = config.plan(len(data.train_labels))
        key = (batch_size, arguments.epochs, share, round(plan.lr, 5), momentum, seed)
        table.measure(key, replace(config, delay=round(share * plan.total_steps)), data)

    print("| batch size | epochs | half at | lr | momentum | accuracies | mean |\n|---|---|---|---|---|---|---|")
    for cell, rows in table.rows().groupby(KEY[:-1]):
        mean, half = mean_and_interval(rows["test_accuracy"].tolist())
        each = " ".join(f"{100 * accuracy:.2f}" for accuracy in rows.sort_values("seed")["test_accuracy"])
        print(f"| {' | '.join(f'{value:g}' for value in cell)} | {each} | {100 * mean:.2f} ± {100 * half:.2f} % |")


if __name__ == "__main__":
    main()
