"""Trials of a tuning, and the budget spent on an arm. This module does not import Optuna, so that reports need not."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tvlars._words import counted
from tvlars.lab.experiments.tuning.objective import ACCURACY, Objective
from tvlars.lab.experiments.tuning.stages import Edge
from tvlars.lab.imported import said_path
from tvlars.lab.run_folder.status import Status


@dataclass(frozen=True)
class Rerun:
    """Rerun of a trial with another tuning seed; ``value`` is the worst value if it diverged."""

    seed: int
    status: Status
    value: float
    epochs: int
    folder: str


@dataclass(frozen=True)
class Trial:
    """One trial, with the ``value`` of its objective on validation data.

    ``status`` is finished, pruned or diverged (with the worst value), or interrupted or refused; the last two do not
    count for the budget. ``reruns`` are runs of the same options with other tuning seeds.
    """

    number: int
    status: Status
    params: dict[str, Any]
    value: float | None
    epochs: int
    folder: str
    objective: Objective
    reruns: tuple[Rerun, ...] = ()

    @property
    def counts(self) -> bool:
        """Return whether the trial counts for the budget."""
        return self.status in (Status.FINISHED, Status.PRUNED, Status.DIVERGED)

    @property
    def mean(self) -> float | None:
        """Mean of the value over all tuning seeds of the trial."""
        if self.value is None:
            return None
        values = [self.value, *(one.value for one in self.reruns)]
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else self.objective.worst

    def has_seeds(self, seeds: Collection[int]) -> bool:
        """Return whether the trial has reruns with all these ``seeds``."""
        return set(seeds) <= {one.seed for one in self.reruns}

    def __str__(self) -> str:
        value = self.objective.text(self.value)
        pruned = f"pruned after epoch {self.epochs} at {value}"
        worst = "the worst" if math.isinf(self.objective.worst) else "0 %"
        end = {Status.PRUNED: pruned, Status.DIVERGED: f"diverged, which counts as {worst}"}
        return f"{said(self.params)}: {end.get(self.status, value)}"

    def as_json(self) -> dict[str, Any]:
        """Return the trial for tune.json, with its value as accuracy, or under the name of its column.

        With reruns, their values by seed and the mean that ranks the trial are included.
        """
        key = ACCURACY if self.objective.measure == ACCURACY else self.objective.column
        entries: dict[str, Any] = {"number": self.number, "status": self.status, "params": self.params}
        entries |= {key: self.value, "epochs": self.epochs, "folder": self.folder}
        if self.reruns:
            entries |= {"reruns": {str(one.seed): one.value for one in self.reruns}, "mean": self.mean}
        return entries


@dataclass(frozen=True)
class Tuned:
    """Budget spent on an arm, and its best trial; ``best`` is None if no trial finished.

    Args:
        arm: name of the arm, or of the optimizer.
        trials: number of trials of the search that count.
        reruns: number of runs of the best trials with other tuning seeds.
        before: number of earlier trials outside of this folder.
        pruned, diverged: number of these among trials and reruns.
        epochs: epochs of all trials and reruns.
        best: the trial with the best mean over all tuning seeds, among the trials run with all of them.
        edges: options of ``best`` at an end of the searched space.
    """

    arm: str
    trials: int
    reruns: int
    before: int
    pruned: int
    diverged: int
    epochs: int
    best: Trial | None
    edges: tuple[Edge, ...] = field(default=())

    @classmethod
    def of(
        cls, arm: str, trials: Sequence[Trial], again: Collection[int] = (), before: int = 0, edges: Sequence[Edge] = ()
    ) -> Tuned:
        """Return the budget spent on all ``trials`` of an arm; ``again`` are the tuning seeds other than the first."""
        trials = [trial for trial in trials if trial.counts]
        reruns = [one for trial in trials for one in trial.reruns]
        every: list[Trial | Rerun] = [*trials, *reruns]
        count = [one.status for one in every].count
        epochs = sum(one.epochs for one in every)
        best = best_of([trial for trial in trials if again and trial.has_seeds(again)] or trials)
        pruned, diverged = count(Status.PRUNED), count(Status.DIVERGED)
        return cls(arm, len(trials), len(reruns), before, pruned, diverged, epochs, best, tuple(edges))

    @property
    def budget(self) -> int:
        """Number of runs spent: trials, reruns, and earlier trials outside of this folder."""
        return self.trials + self.reruns + self.before

    def alarms(self) -> list[str]:
        """Return a sentence on each option whose chosen value lies at an end of the searched space."""
        return [f"the best trial of {said_path(self.arm)} is at an edge: {edge}" for edge in self.edges]

    def __str__(self) -> str:
        name = said_path(self.arm)
        again = f", {counted(self.reruns, 'rerun')}" * bool(self.reruns)
        more = again + f", {self.before} before" * bool(self.before)
        counts = f"{counted(self.trials, 'trial')}{more} ({self.pruned} pruned, {self.diverged} diverged)"
        spent = f"{name:<8} {counts}, {counted(self.epochs, 'epoch')}"
        if self.best is None:
            return f"{spent}; none finished, so there is nothing to run with fresh seeds"
        best = self.best.objective.text(self.best.mean)
        seeds = f" (mean of {len(self.best.reruns) + 1} tuning seeds)" if self.best.reruns else ""
        return f"{spent}; best on validation {best}{seeds} with {said(self.best.params)}"


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial with the best mean, the first one of several; None if none finished."""
    return next(iter(in_order(trials)), None)


def in_order(trials: Sequence[Trial]) -> list[Trial]:
    """Return the finished trials, best mean first."""
    finished = [trial for trial in trials if trial.status == Status.FINISHED]
    return sorted(finished, key=lambda one: one.objective.rank(one.mean), reverse=True)


def without_reruns(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials without the results of other tuning seeds than the first."""
    return [replace(trial, reruns=()) for trial in trials]


def said(params: dict[str, Any]) -> str:
    """Return options as text."""
    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
    return ", ".join(f"{name} {value}" for name, value in short.items())
