"""Trials of a tuning, and the budget spent on an optimizer; without Optuna, which is imported for tuning alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from tvlars.lab.experiments.tuning.objective import ACCURACY, Objective
from tvlars.lab.imported import said_path
from tvlars.lab.run_folder.status import Status


@dataclass(frozen=True)
class Trial:
    """One trial, with its ``value`` of the objective on validation data.

    ``status`` is finished, pruned or diverged (the worst value); interrupted and refused trials do not count for the
    budget.
    """

    number: int
    status: Status
    params: dict[str, Any]
    value: float | None
    epochs: int
    folder: str
    objective: Objective

    @property
    def counts(self) -> bool:
        """Return whether it counts for the budget."""
        return self.status in (Status.FINISHED, Status.PRUNED, Status.DIVERGED)

    def __str__(self) -> str:
        value = self.objective.text(self.value)
        pruned = f"pruned after epoch {self.epochs} at {value}"
        worst = "the worst" if math.isinf(self.objective.worst) else "0 %"
        end = {Status.PRUNED: pruned, Status.DIVERGED: f"diverged, which counts as {worst}"}
        return f"{said(self.params)}: {end.get(self.status, value)}"

    def as_json(self) -> dict[str, Any]:
        """Return the trial for tune.json, with its value as accuracy, or under the name of its column."""
        key = ACCURACY if self.objective.measure == ACCURACY else self.objective.column
        entries = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "objective"}
        return {key if name == "value" else name: value for name, value in entries.items()}


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
        """Return the budget spent on all ``trials`` of an optimizer; the best has the best final value."""
        trials = [trial for trial in trials if trial.counts]
        count = [trial.status for trial in trials].count
        finished = [trial for trial in trials if trial.status == Status.FINISHED]
        best = max(finished, key=lambda one: one.objective.rank(one.value), default=None)
        epochs = sum(trial.epochs for trial in trials)
        return cls(optimizer, len(trials), count(Status.PRUNED), count(Status.DIVERGED), epochs, best)

    def __str__(self) -> str:
        name = said_path(self.optimizer)
        spent = f"{name:<8} {self.trials} trials ({self.pruned} pruned, {self.diverged} diverged), {self.epochs} epochs"
        if self.best is None:
            return f"{spent}; none finished, so there is nothing to run with fresh seeds"
        best = self.best.objective.text(self.best.value)
        return f"{spent}; best on validation {best} with {said(self.best.params)}"


def said(params: dict[str, Any]) -> str:
    """Return options as text for people."""
    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
    return ", ".join(f"{name} {value}" for name, value in short.items())
