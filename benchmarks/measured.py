"""A CSV of training runs that grows a row a run and repeats none, so that a long measurement can be gone on with."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab import DivergedError, Reporter, TrainConfig, train
from tvlars.lab.data import ImageData

RESULT = ["test_accuracy", "test_loss", "train_loss", "images_per_second"]


@dataclass(frozen=True)
class Table:
    """All runs in ``file``, each known by its values of ``key``."""

    file: Path
    key: list[str]

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.file) if self.file.is_file() else pd.DataFrame(columns=[*self.key, *RESULT])

    def measure(self, key: tuple[Any, ...], config: TrainConfig, data: ImageData) -> None:
        """Train ``config`` and add its row, unless ``key`` is there."""
        if any(tuple(row) == key for row in self.rows()[self.key].itertuples(index=False)):
            return
        lr = config.plan(len(data.train_labels)).lr
        row = {**dict(zip(self.key, key, strict=True)), "lr": round(lr, 5), **dict.fromkeys(RESULT)}
        with tempfile.TemporaryDirectory() as folder:
            try:
                epochs = train(config, data=data, folder=Path(folder), reporter=Reporter()).epochs
            except DivergedError:  # as bad as can be, and not left out
                row["test_accuracy"] = 0.0
            else:
                row["test_accuracy"] = epochs[-1].test_accuracy
                row["test_loss"] = round(epochs[-1].test_loss, 5)
                row["train_loss"] = round(epochs[-1].train_loss, 5)
                speeds = pd.Series([epoch.images_per_second for epoch in epochs])
                row["images_per_second"] = round(float(speeds.median()))
        new = not self.file.is_file()
        with open(self.file, "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*row.values(), flush=True)
