"""Objective that ranks and prunes trials: validation accuracy, or for a user's task a validation loss or measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.rows import METRICS, EpochRow, MetricsRow, read_rows
from tvlars.lab.tasks import Task, chosen_by

ACCURACY, LOSS = "accuracy", "loss"
MAXIMIZE, MINIMIZE = "maximize", "minimize"


@dataclass(frozen=True)
class Objective:
    """Value on the validation part after an epoch, and the direction in which it is better.

    Args:
        name: name for messages, such as "validation loss".
        measure: "accuracy", "loss", or a measure of a user's task.
        direction: "maximize" or "minimize".
    """

    name: str = "validation accuracy"
    measure: str = ACCURACY
    direction: str = MAXIMIZE

    @classmethod
    def of(cls, config: TrainConfig, task: Task | None) -> Objective:
        """Return the objective of trials with ``config``, which do not read the test set.

        Raises:
            UsageError: a user's ``task`` does not say if higher or lower values of its measure are better.
        """
        if task is None:
            return cls(config.accuracy_name())
        measure, better = chosen_by(task)
        return cls(f"validation {measure}", measure, MINIMIZE if better == "min" else MAXIMIZE)

    @property
    def column(self) -> str:
        """Column of the value in the files of a run and in trials.csv."""
        return f"validation_{self.measure}"

    @property
    def worst(self) -> float:
        """Value of a diverged trial: 0 for accuracy, else infinity of the worse sign."""
        if self.measure == ACCURACY:
            return 0.0
        return math.inf if self.direction == MINIMIZE else -math.inf

    def rank(self, value: float | None) -> float:
        """Return a number that is larger for better values."""
        value = self.worst if value is None else value
        return -value if self.direction == MINIMIZE else value

    def is_valid(self, value: object) -> bool:
        """Return whether a trial may have this value after an epoch."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return 0 <= value <= 1 if self.measure == ACCURACY else math.isfinite(value)

    def text(self, value: float | None) -> str:
        """Return a value as text: accuracy as a percentage, other measures as "loss 0.4321"."""
        if value is None:
            return "-"
        return f"{value:.2%}" if self.measure == ACCURACY else f"{self.measure} {value:.4g}"

    def __str__(self) -> str:
        return f"{self.name}, {'lower' if self.direction == MINIMIZE else 'higher'} is better"

    def after_epochs(self, folder: Path) -> dict[int, float]:
        """Return the value by epoch for the epochs in the files of a run."""
        if self.measure in (ACCURACY, LOSS):
            rows = read_rows(folder / "epochs.csv", EpochRow, [])
        else:
            rows = read_rows(folder / METRICS, MetricsRow, [], optional=True)
        if self.column not in rows:
            return {}
        return dict(zip(rows["epoch"].astype(int), rows[self.column].astype(float), strict=True))

    def final(self, folder: Path) -> float | None:
        """Return the value of a finished run.

        Raises:
            UsageError: a user's task did not measure the value after the last epoch.
        """
        run = load_run(folder)
        if self.measure == ACCURACY:
            return run.accuracy
        last = int(run.epochs["epoch"].iloc[-1]) if len(run.epochs) else 0
        found = self.after_epochs(folder)
        if last not in found:
            raise UsageError(
                f"chosen_by of a task must name a value that it measures after every epoch, got {self.measure!r}, "
                f"which {folder} does not have after epoch {last}"
            )
        return found[last]
