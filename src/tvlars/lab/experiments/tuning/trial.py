"""Trials of a tuning, and the budget spent on an optimizer; without Optuna, which is imported for tuning alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvlars.lab.imported import said_path
from tvlars.lab.run_folder.status import Status


@dataclass(frozen=True)
class Trial:
    """One trial, with its accuracy on validation images.

    ``status`` is finished, pruned or diverged (accuracy 0); interrupted and refused trials do not count for the budget.
    """

    number: int
    status: Status
    params: dict[str, Any]
    accuracy: float | None
    epochs: int
    folder: str

    @property
    def counts(self) -> bool:
        """Return whether it counts for the budget."""
        return self.status in (Status.FINISHED, Status.PRUNED, Status.DIVERGED)

    def __str__(self) -> str:
        accuracy = f"{self.accuracy:.2%}" if self.accuracy is not None else "-"
        pruned = f"pruned after epoch {self.epochs} at {accuracy}"
        end = {Status.PRUNED: pruned, Status.DIVERGED: "diverged, which counts as 0 %"}
        return f"{said(self.params)}: {end.get(self.status, accuracy)}"


@dataclass(frozen=True)
class Tuned:
    """Budget spent on an optimizer, and its best trial; ``best`` is None if no trial finished."""

    optimizer: str
    trials: int
    pruned: int
    diverged: int
    epochs: int
    best: Trial | None

    @classmethod
    def of(cls, optimizer: str, trials: Sequence[Trial]) -> Tuned:
        """Return the budget spent on all ``trials`` of an optimizer; the best has the highest final accuracy."""
        trials = [trial for trial in trials if trial.counts]
        count = [trial.status for trial in trials].count
        finished = [trial for trial in trials if trial.status == Status.FINISHED]
        best = max(finished, key=lambda one: one.accuracy or 0.0, default=None)
        epochs = sum(trial.epochs for trial in trials)
        return cls(optimizer, len(trials), count(Status.PRUNED), count(Status.DIVERGED), epochs, best)

    def __str__(self) -> str:
        name = said_path(self.optimizer)
        spent = f"{name:<8} {self.trials} trials ({self.pruned} pruned, {self.diverged} diverged), {self.epochs} epochs"
        if self.best is None:
            return f"{spent}; none finished, so there is nothing to run with fresh seeds"
        return f"{spent}; best on validation {self.best.accuracy:.2%} with {said(self.best.params)}"


def said(params: dict[str, Any]) -> str:
    """Return options as text for people."""
    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
    return ", ".join(f"{name} {value}" for name, value in short.items())
