"""Best of several trials: results in the form of publications, and the part of them that is luck.

Trials are runs of one arm with different settings or seeds. The best of more trials is larger by chance alone, and so
is the best of several epochs. This module computes the effect, to compare arms with unequal numbers of trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvlars._notebook import page, paragraph
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.loaded_run import LoadedRun, load_run
from tvlars.lab.run_folder.rows import TEST_SHARE
from tvlars.lab.run_folder.status import Status

EPOCHS = ("best", "last")


@dataclass(frozen=True)
class BestOfTrials:
    """Best of the trials of an arm by a measure, returned by :func:`best_of_trials`; values are fractions."""

    measure: str
    epochs: str
    """"best" if the best epoch of each trial counts, "last" if the last epoch counts."""
    trials: int
    """Number of trials, including diverged ones."""
    failed: int
    """Trials without a result, which count as 0."""
    best: float
    """Value of the best trial."""
    run: Path
    """Folder of the best trial."""
    epoch: int
    """Epoch of the best trial that counts."""
    n: int
    """Number of trials drawn for ``expected``."""
    expected: float
    """Mean of the best of ``n`` trials, over all ways to draw ``n`` of the trials."""
    values: tuple[float, ...]
    """Value of each trial, in the order of the runs."""

    @property
    def luck(self) -> float:
        """Gain of the best of all trials over the mean best of ``n`` trials, ``best - expected``."""
        return self.best - self.expected

    def __str__(self) -> str:
        failed = f", {self.failed} of them failed" if self.failed else ""
        best = f"{self.best:.2%} at epoch {self.epoch} of {self.run}, the best of {self.trials} trials{failed}"
        return f"{self.measure}, {self.epochs} epoch of each trial: {best}; mean best of {self.n}: {self.expected:.2%}"

    def _repr_html_(self) -> str:
        """Return the result in a sentence as HTML, for notebooks."""
        return page(paragraph(self))


def expected_best(values: Sequence[float], n: int, by: Sequence[float] | None = None) -> float:
    """Return the mean of the best of ``n`` values that are drawn without replacement, over all draws.

    With the values in ascending order v_1 ... v_N, the mean is sum_i v_i (C(i, n) - C(i - 1, n)) / C(N, n), since v_i
    is the best in all draws from the first i values that are not draws from the first i - 1. It is an unbiased estimate
    of the mean best of ``n`` further trials (Tang et al. 2020, "Showing Your Work Doesn't Always Work").

    Args:
        values: reported value of each trial, for example its test accuracy.
        n: number of drawn trials.
        by: values that decide which trial is the best, for example validation accuracies; if several are equal, the
            mean of their ``values`` counts. None (default): ``values``.

    Raises:
        UsageError: a value is not finite, ``n`` is not from 1 to the number of values, or ``by`` has another length.
    """
    count, chosen_by = len(values), values if by is None else by
    if len(chosen_by) != count:
        raise UsageError(f"by must have a value for each of {count} trials, got {len(chosen_by)}")
    if not all(map(math.isfinite, (*values, *chosen_by))):
        raise UsageError("values must be finite: count a failed trial as 0")
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= count:
        raise UsageError(f"n must be an integer from 1 to the number of trials, {count}, got {n!r}")
    draws = math.comb(count, n)
    alike: dict[float, list[float]] = {}
    for key, value in zip(chosen_by, values, strict=True):
        alike.setdefault(key, []).append(value)
    found, below = 0.0, 0
    for key in sorted(alike):
        reached = below + len(alike[key])
        share = (math.comb(reached, n) - math.comb(below, n)) / draws  # of the draws whose best has this key
        found += share * sum(alike[key]) / len(alike[key])
        below = reached
    return found


def gain_by_luck(more: int, fewer: int, spread: float) -> float:
    """Return the mean lead of the best of ``more`` trials over the best of ``fewer`` if all trials are equally good.

    Trials are assumed to be independent and normal with the standard deviation ``spread``. The lead, in the same unit,
    is spread * (E max of ``more`` - E max of ``fewer``) of standard normal values.

    Raises:
        UsageError: a number of trials is not at least 1, or ``spread`` is negative or not finite.
    """
    for name, count in (("more", more), ("fewer", fewer)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UsageError(f"{name} must be an integer >= 1, got {count!r}")
    if not (math.isfinite(spread) and spread >= 0):
        raise UsageError(f"spread must be a finite number >= 0, got {spread!r}")
    return spread * (_mean_maximum(more) - _mean_maximum(fewer))


def _mean_maximum(count: int) -> float:
    """Return the mean of the largest of ``count`` standard normal values: the integral of x d(Phi(x)^count)."""
    from scipy.integrate import quad
    from scipy.stats import norm

    def density(x: float) -> float:
        return float(x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1))

    return float(quad(density, -12.0, 12.0, points=[0.0], limit=200)[0])


def best_of_trials(
    runs: Iterable[LoadedRun | Path | str] | Path | str,
    n: int | None = None,
    *,
    measure: str | None = None,
    epochs: str = "best",
) -> BestOfTrials:
    """Return the best of all trials, as publications report it, with the mean best of ``n`` trials.

    Args:
        runs: run folders or loaded runs of one arm; or a folder of run folders, such as a sweep's.
        n: number of trials of the other arm; None (default): all trials, so that ``luck`` is 0.
        measure: column of epochs, for example "test_random_share_accuracy" (of ``test_share``), "test_accuracy" or
            "validation_accuracy". None (default): the first of these that all runs have.
        epochs: "best" (default) uses the best epoch of each trial on the same images, as the published comparison may
            do; "last" uses the last epoch.

    Diverged trials, and others without a finite value, count as 0. Runs with validation images have an accuracy on the
    whole test set only at their end, which "last" uses.

    Raises:
        UsageError: there is no run, a run has not ended, or it has no such measure.
    """
    if epochs not in EPOCHS:
        raise UsageError(f"epochs must be {' or '.join(EPOCHS)}, got {epochs!r}")
    found = _loaded(runs)
    name = measure or _common(found)
    chosen = [_value(run, name, epochs) for run in found]
    values = tuple(0.0 if one is None else one[0] for one in chosen)
    at = int(np.argmax(values))
    count = len(values) if n is None else n
    best = chosen[at]
    return BestOfTrials(
        measure=name,
        epochs=epochs,
        trials=len(values),
        failed=sum(one is None for one in chosen),
        best=values[at],
        run=found[at].folder,
        epoch=0 if best is None else best[1],
        n=count,
        expected=expected_best(values, count),
        values=values,
    )


def _loaded(runs: Iterable[LoadedRun | Path | str] | Path | str) -> list[LoadedRun]:
    if isinstance(runs, (str, Path)):
        folder = Path(runs)
        if not folder.is_dir():
            raise UsageError(f"runs must be an existing folder, got {str(folder)!r}")
        runs = sorted(path.parent for path in folder.glob("*/config.json"))
        if not runs:
            raise UsageError(f"{folder} must contain run folders, but has none")
    found = [run if isinstance(run, LoadedRun) else load_run(run) for run in runs]
    if not found:
        raise UsageError("runs must name at least one run, got none")
    for run in found:
        if run.status not in (Status.FINISHED, Status.DIVERGED):
            raise UsageError(f"{run.folder} must have ended to count as a trial, but is {run.status}")
    return found


def _common(runs: list[LoadedRun]) -> str:
    for name in (TEST_SHARE, "test_accuracy", "validation_accuracy"):
        known = [run for run in runs if run.status == Status.FINISHED]
        if known and all(name in run.epochs and run.epochs[name].notna().any() for run in known):
            return name
    raise UsageError("runs must have an accuracy in common, but have none")


def _value(run: LoadedRun, name: str, epochs: str) -> tuple[float, int] | None:
    """Return the value and epoch of a trial; None if it diverged or has no finite value."""
    if run.status == Status.DIVERGED:
        return None
    rows = run.epochs
    if epochs == "last" and name == "test_accuracy":
        value = run.test_accuracy  # with images for validation it is not among the rows
        return None if value is None or not math.isfinite(value) else (value, int(rows["epoch"].iloc[-1]))
    if name not in rows or not (known := rows[["epoch", name]].dropna()).shape[0]:
        raise UsageError(f"{run.folder} must have {name} in its epochs, but does not")
    at = int(known[name].to_numpy().argmax()) if epochs == "best" else -1
    value, epoch = float(known[name].iloc[at]), int(known["epoch"].iloc[at])
    return (value, epoch) if math.isfinite(value) else None
