"""A CSV of training runs that grows a row a run and repeats none, so that a long measurement can be gone on with."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab import DivergedError, Reporter, TrainConfig, train
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.data import ImageData
from tvlars.lab.run_folder.loaded_run import RunResult

RESULT = ("test_accuracy", "test_loss", "train_loss", "images_per_second")


def classification(result: RunResult) -> dict[str, Any]:
    """The columns of RESULT."""
    last = result.epochs[-1]
    return {
        "test_accuracy": last.test_accuracy,
        "test_loss": round(last.test_loss, 5),
        "train_loss": round(last.train_loss, 5),
        "images_per_second": median_speed(result),
    }


def median_speed(result: RunResult) -> int:
    """Images/s of the epoch in the middle."""
    return round(float(pd.Series([epoch.images_per_second for epoch in result.epochs]).median()))


@dataclass(frozen=True)
class Table:
    """All runs in ``file``, each known by its values of ``key``. ``columns`` are what ``read`` says of a run, the
    accuracy first. Rows are appended whole, so several processes may share a file that has its header."""

    file: Path
    key: list[str]
    columns: tuple[str, ...] = RESULT
    read: Callable[[RunResult], dict[str, Any]] = classification

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.file) if self.file.is_file() else pd.DataFrame(columns=[*self.key, *self.columns])

    def measure(self, key: tuple[Any, ...], config: TrainConfig, data: ImageData) -> None:
        """Train ``config`` and add its row, unless ``key`` is there."""
        if any(tuple(row) == key for row in self.rows()[self.key].itertuples(index=False)):
            return
        lr = config.plan(len(data.train_labels)).lr
        row = {**dict(zip(self.key, key, strict=True)), "lr": round(lr, 5), **dict.fromkeys(self.columns)}
        with tempfile.TemporaryDirectory() as folder:
            try:
                row.update(self.read(train(config, data=data, folder=Path(folder), reporter=Reporter())))
            except DivergedError:  # as bad as can be, and not left out
                row[self.columns[0]] = 0.0
        new = not self.file.is_file()
        with open(self.file, "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*row.values(), flush=True)


def percent(values: pd.Series) -> str:
    """Mean and half of the 95 % interval, in percent."""
    mean, half = mean_and_interval(values.tolist())
    return f"{100 * mean:.2f} ± {100 * half:.2f}"
