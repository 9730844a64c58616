"""Results of a scaling study: steps to a target over the batch size, and the critical batch size of each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tvlars.lab.config import MOST, TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.scaling.target import FEWEST_SIZES, Fit, Reached, fit_critical, steps_to_target
from tvlars.lab.experiments.studies.config import StudyConfig, parse_lists
from tvlars.lab.experiments.studies.runs import StudyResult, accuracies, mean, middle, resampled
from tvlars.lab.options import option

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
MOST_STEPS = 10**9


@dataclass(frozen=True)
class ScalingConfig(StudyConfig):
    """Options of a scaling study: every arm at every batch size, horizon and learning rate with every seed.

    Raises:
        UsageError: a value is unknown or out of its range, or two have the same name.
    """

    batch_sizes: tuple[int, ...] = option((128, 256, 512), "samples per optimizer step, two or more", within=(2, MOST))
    target: float = option(0.9, "target accuracy, as a fraction", above=True, below=True, within=(0, 1))
    horizons: tuple[str, ...] = option(
        (),
        "lengths of runs in optimizer steps, each with a schedule over the whole run: for all batch sizes (20 40 80) "
        "or for one (128=80,160)",
    )

    def __post_init__(self) -> None:
        horizons: Any = self.horizons
        if isinstance(horizons, (list, tuple)):
            object.__setattr__(self, "horizons", tuple(map(str, horizons)))
        super().__post_init__()
        base = self.base
        if not self.horizons:
            raise UsageError("horizons must name at least one number of steps, as in 20 40 80, got none")
        if base.steps is not None or base.epochs != TrainConfig().epochs:
            raise UsageError(f"horizons must be given for scaling in place of epochs and steps, got {base.length}")
        if base.keep_best:
            raise UsageError("keep_best must not be given for scaling, which uses the accuracy at the end of each run")
        sizes = tuple(sorted(self.batch_sizes))
        if len(sizes) < 2 or len(set(sizes)) < len(sizes):
            raise UsageError(f"batch_sizes must be two or more different ones, got {' '.join(map(str, sizes))}")
        object.__setattr__(self, "batch_sizes", sizes)
        for size in sizes:
            if not self.horizons_of(size):
                raise UsageError(f"horizons must have steps for batch size {size} too, got {' '.join(self.horizons)}")

    def lengths(self, run: TrainConfig) -> list[TrainConfig]:
        return [replace(run, epochs=None, steps=steps) for steps in self.horizons_of(run.batch_size)]

    def horizons_of(self, batch_size: int) -> tuple[int, ...]:
        """Return the steps of the runs at a batch size, in ascending order."""
        sizes = {str(size): str(size) for size in self.batch_sizes}
        found = parse_lists("horizons", self.horizons, sizes, int)
        for steps in (one for some in found.values() for one in some):
            if not 1 <= steps <= MOST_STEPS:
                raise UsageError(f"horizons must be >= 1 and <= {MOST_STEPS} (optimizer steps), got {steps}")
        return found.get(str(batch_size), found.get("", ()))


@dataclass(frozen=True)
class Cell:
    """Runs of one arm at one batch size. ``values`` are accuracies (horizons, rates, seeds)."""

    horizons: tuple[int, ...]
    rates: list[list[float]]
    """Learning rates at each horizon in ascending order; NaN for an arm that chooses its own."""
    values: np.ndarray[Any, Any]
    seconds: np.ndarray[Any, Any]
    """Mean training time in seconds (horizons, rates)."""

    @cached_property
    def best(self) -> list[int | None]:
        """Index of the rate with the highest mean at each horizon, None if no run has a result; of several rates with
        the same mean, the one nearest to the middle of the grid."""
        found: list[int | None] = []
        for row in mean(self.values):
            highest = [] if np.isnan(row).all() else np.flatnonzero(row == np.nanmax(row)).tolist()
            found.append(min(highest, key=lambda at: abs(2 * at + 1 - len(row)), default=None))
        return found

    @property
    def means(self) -> list[float]:
        """Highest mean over seeds at each horizon; NaN if there is no result."""
        means = mean(self.values)
        return [math.nan if at is None else float(row[at]) for row, at in zip(means, self.best, strict=True)]

    def edge(self, horizon: int) -> str:
        """Return "lowest" or "highest" if that one of several rates is the best at a horizon, else ""."""
        at, rates = self.best[horizon], self.rates[horizon]
        if at is None or len(rates) < 2:
            return ""
        return "lowest" if at == 0 else "highest" if at == len(rates) - 1 else ""

    def reached(self, target: float) -> Reached:
        """Return the steps to ``target``, with the best rate at each horizon."""
        return steps_to_target(self.horizons, self.means, target)

    def seeds_reaching(self, target: float) -> int:
        """Return the number of seeds whose accuracy reaches ``target`` at any horizon, at its best rate."""
        runs = [self.values[i, at] for i, at in enumerate(self.best) if at is not None]
        return int((np.array(runs) >= target).any(0).sum()) if runs else 0

    def drawn(self, target: float) -> list[float]:
        """Return the steps to ``target`` for seeds drawn with replacement, with rates chosen anew for each draw."""
        means = resampled(self.values, RESAMPLES)
        best = np.where(np.isnan(means), -np.inf, means).max(1)
        return [steps_to_target(self.horizons, one, target).steps for one in best.T.tolist()]


@dataclass(repr=False)
class ScalingResult(StudyResult):
    """Results of a scaling study, whose files are in ``folder``."""

    config: ScalingConfig

    @cached_property
    def _cells(self) -> dict[tuple[str, int], Cell]:
        """Runs by arm and batch size."""
        found = {}
        for arm in self.arms:
            for size in self.config.batch_sizes:
                mine = self.runs[(self.runs["arm"] == arm) & (self.runs["batch_size"] == size)]
                horizons = self.config.horizons_of(size)
                rates, values, seconds = [], [], []
                for horizon in horizons:
                    by_rate = list(mine[mine["horizon"] == horizon].groupby("lr", dropna=False, sort=True))
                    rates.append([float(str(lr)) for lr, _ in by_rate])
                    values.append([accuracies(rows, self.ran.guess, self.config.seeds) for _, rows in by_rate])
                    seconds.append([float(rows["seconds"].mean()) for _, rows in by_rate])
                found[arm, size] = Cell(horizons, rates, np.array(values), np.array(seconds))
        return found

    def horizons(self) -> pd.DataFrame:
        """Return one row per arm, batch size and horizon, at the best rate.

        Columns: arm, batch_size, horizon (steps), lr, accuracy (mean over seeds; a diverged run counts with
        chance-level accuracy), interval (half width of its 95 % interval, Student's t), seconds (of training), rates
        (number of rates tried), edge ("lowest" or "highest" if that rate is the best of several, else "").
        """
        import pandas as pd

        from tvlars.lab.comparison.statistics import mean_and_interval

        rows = []
        for (arm, size), cell in self._cells.items():
            for i, horizon in enumerate(cell.horizons):
                at = cell.best[i]
                known = [] if at is None else [float(x) for x in cell.values[i, at] if not math.isnan(x)]
                result = mean_and_interval(known) if known else (math.nan, math.nan)
                lr = math.nan if at is None else cell.rates[i][at]
                seconds = math.nan if at is None else float(cell.seconds[i, at])
                rows.append((arm, size, horizon, lr, *result, seconds, len(cell.rates[i]), cell.edge(i)))
        names = ("arm", "batch_size", "horizon", "lr", "accuracy", "interval", "seconds", "rates", "edge")
        return pd.DataFrame(rows, columns=list(names))

    def targets(self) -> pd.DataFrame:
        """Return one row per arm and batch size.

        Columns: arm, batch_size, steps (to the target; infinite if it is not reached), low and high (95 % interval,
        bootstrap over seeds; NaN for one seed), at_most (True if the shortest horizon reaches the target), samples
        (steps times batch size), seconds (training time of the shortest run that reaches the target), lr (of that
        run), longest (horizon), seeds (number of those that reach the target on their own).
        """
        import pandas as pd

        rows = []
        for (arm, size), cell in self._cells.items():
            found, ends = cell.reached(self.config.target), (math.nan, math.nan)
            if len(self.config.seeds) > 1:
                ends = middle(self._drawn[arm, size])
            seconds = lr = math.nan
            if (i := found.horizon) is not None and (at := cell.best[i]) is not None:
                seconds, lr = float(cell.seconds[i, at]), cell.rates[i][at]
            steps = found.steps
            head = (arm, size, steps, *ends, found.at_most, steps * size, seconds, lr, cell.horizons[-1])
            rows.append((*head, cell.seeds_reaching(self.config.target)))
        names = ("arm", "batch_size", "steps", "low", "high", "at_most", "samples", "seconds", "lr", "longest", "seeds")
        return pd.DataFrame(rows, columns=list(names))

    @cached_property
    def _drawn(self) -> dict[tuple[str, int], list[float]]:
        """Steps to the target for drawn seeds; the same seeds are drawn for all cells."""
        return {key: cell.drawn(self.config.target) for key, cell in self._cells.items()}

    def fits(self) -> pd.DataFrame:
        """Return one row per arm: the fit of steps(B) = S_min (1 + B_crit / B).

        Columns: arm, sizes (number of batch sizes in the fit), least (S_min, steps), critical (B_crit, samples), low
        and high (its 95 % interval, bootstrap over seeds; 0 or infinite if fits are beyond), beyond ("below" or "above"
        if the best fit is at that end of the searched range), extrapolated (range of the fitted batch sizes if B_crit
        is outside, else ""), why (reason why there is no fit, else "").
        """
        import pandas as pd

        rows = []
        for arm in self.arms:
            reached = {size: self._cells[arm, size].reached(self.config.target) for size in self.config.batch_sizes}
            sizes = [size for size, one in reached.items() if one.steps < math.inf and not one.at_most]
            nan = math.nan
            if len(sizes) < FEWEST_SIZES:
                why = (
                    f"the critical batch size needs {FEWEST_SIZES} batch sizes that reach the target, but not at their "
                    f"shortest horizon, and {arm} has {len(sizes)}"
                )
                rows.append((arm, len(sizes), nan, nan, nan, nan, "", "", why))
                continue
            found, ends = fit_critical(sizes, [reached[size].steps for size in sizes]), (nan, nan)
            if len(self.config.seeds) > 1:
                known = {"below": 0.0, "above": math.inf}  # instead of the ends of the searched range
                ends = middle(known.get(one.beyond, one.critical) for one in self._fits_drawn(arm, sizes))
            outside = f"{sizes[0]:,} to {sizes[-1]:,}" * (not sizes[0] <= found.critical <= sizes[-1])
            rows.append((arm, len(sizes), found.least, found.critical, *ends, found.beyond, outside, ""))
        names = ("arm", "sizes", "least", "critical", "low", "high", "beyond", "extrapolated", "why")
        return pd.DataFrame(rows, columns=list(names))

    def _fits_drawn(self, arm: str, sizes: list[int]) -> list[Fit]:
        """Return fits for drawn seeds, each to the batch sizes that reach the target with these seeds."""
        found = []
        for steps in zip(*(self._drawn[arm, size] for size in sizes), strict=True):
            known = [(size, one) for size, one in zip(sizes, steps, strict=True) if one < math.inf]
            if len(known) >= FEWEST_SIZES:
                found.append(fit_critical(*zip(*known, strict=True)))
        return found

    def answers(self) -> list[str]:
        """Return the results, one sentence per arm."""
        said, targets = [], self.targets()
        for row in self.fits().to_dict("records"):
            mine = targets[(targets["arm"] == row["arm"]) & (targets["steps"] < math.inf)]
            if not len(mine):
                said.append(f"{row['arm']}: {self.config.target:.4g} is not reached at any batch size.")
                continue
            first, last = mine.iloc[0], mine.iloc[-1]
            least = "at most " if first["at_most"] else ""
            text = f"{row['arm']}: {least}{first['steps']:,.0f} steps to {self.config.target:.4g} "
            text += f"at batch size {first['batch_size']:,}"
            if len(mine) > 1:
                least = "at most " if last["at_most"] else ""
                text += f", {least}{last['steps']:,.0f} at {last['batch_size']:,}"
            said.append(f"{text}; {_critical(row, self.spread)}.")
        return said

    def notes(self) -> list[str]:
        """Return sentences on best rates at an edge, on untuned rates, and on missing results."""
        rows, said = self.horizons(), []
        for (arm, edge), mine in rows[rows["edge"] != ""].groupby(["arm", "edge"], sort=False):
            where = ", ".join(f"{row.batch_size:,} x {row.horizon:,} steps" for row in mine.itertuples())
            said.append(
                f"{arm}: the best rate is the {edge} one tried at {where}. With "
                f"{'lower' if edge == 'lowest' else 'higher'} rates fewer steps may suffice."
            )
        if (rows["rates"] == 1).all():
            said.append("Each arm had one rate at each batch size, the planned or the given one: rates were not tuned.")
        for row in self.targets().to_dict("records"):
            arm, size, target = row["arm"], f"batch size {row['batch_size']:,}", f"{self.config.target:.4g}"
            if row["steps"] == math.inf:
                said.append(f"{arm}: {target} is not reached at {size} within {row['longest']:,} steps.")
            elif row["at_most"]:
                said.append(f"{arm}: the shortest horizon reaches the target at {size}, so fewer steps may suffice.")
        return said + super().notes()


def said_ends(low: float, high: float) -> str:
    """Return an interval in words; its ends may be infinite, or both NaN, if there is none."""
    if math.isinf(low) or math.isnan(low):
        return "not reached" if math.isinf(low) else "-"
    return f"{low:,.0f} or more" if math.isinf(high) else f"{low:,.0f} to {high:,.0f}"


def _critical(row: Mapping[Any, Any], spread: str) -> str:
    """Return the critical batch size in a row of :meth:`ScalingResult.fits` in words."""
    if row["why"]:
        return str(row["why"])
    if row["beyond"] == "above":
        return "steps fall in proportion to the batch size, so the critical batch size is above all batch sizes tried"
    if row["beyond"] == "below":
        return "steps do not fall with the batch size, so the critical batch size is below all batch sizes tried"
    ends = "" if math.isnan(row["low"]) else f" ({spread}: {said_ends(row['low'], row['high'])})"
    ends += f", extrapolated from batch sizes of {row['extrapolated']}" * bool(row["extrapolated"])
    return f"critical batch size {row['critical']:,.0f} samples{ends}, fewest steps {row['least']:,.0f}"
