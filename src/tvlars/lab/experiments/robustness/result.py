"""Results of a robustness study: accuracy of each arm over the learning rate, its plateau, and failed runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvlars.lab.experiments.robustness.plateau import Plateau, plateau
from tvlars.lab.experiments.studies.config import StudyConfig
from tvlars.lab.experiments.studies.runs import StudyResult, accuracies, mean, middle, resampled
from tvlars.lab.options import option
from tvlars.plan import FEW_STEPS, few_steps

if TYPE_CHECKING:
    import pandas as pd

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the planned learning rate that are studied by default."""
RESAMPLES = 2000


@dataclass(frozen=True)
class RobustnessConfig(StudyConfig):
    """Options of a robustness study: every arm at every learning rate with every seed.

    Raises:
        UsageError: a value is unknown or out of its range, or two have the same name.
    """

    within: float = option(1.0, "margin of the plateau, in points of accuracy below the best rate", within=(0, 100))

    def __post_init__(self) -> None:
        if not self.lrs and not self.lr_scales:
            object.__setattr__(self, "lr_scales", SCALES)
        super().__post_init__()


@dataclass(repr=False)
class RobustnessResult(StudyResult):
    """Results of a robustness study, whose files are in ``folder``."""

    config: RobustnessConfig

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run: arm, batch_size, lr, scale, seed, status, accuracy, failed, steps, seconds, folder, note."""
        return self.ran.rows.drop(columns="horizon")

    def rates(self) -> pd.DataFrame:
        """Return one row per arm and rate.

        Columns: arm, lr, seeds (with a result), of (all seeds), accuracy (mean; a diverged run counts with chance-level
        accuracy), interval (half width of its 95 % interval, Student's t; NaN for fewer than three), failed (share).
        """
        import pandas as pd

        from tvlars.lab.comparison.statistics import mean_and_interval

        rows = []
        for arm in self.arms:
            mine = self.runs[self.runs["arm"] == arm]
            for lr, cell in mine.groupby("lr", dropna=False, sort=True):
                found = accuracies(cell, self.ran.guess, self.config.seeds)
                known = [float(one) for one in found if not math.isnan(one)]
                failed = cell["failed"].dropna().astype(float)
                middle_and_half = mean_and_interval(known) if known else (math.nan, math.nan)
                share = float(failed.mean()) if len(failed) else math.nan
                rows.append((arm, lr, len(known), len(cell), *middle_and_half, share))
        return pd.DataFrame(rows, columns=["arm", "lr", "seeds", "of", "accuracy", "interval", "failed"])

    def table(self) -> pd.DataFrame:
        """Return one row per arm.

        Columns: arm, best_lr, accuracy and interval at best_lr, low and high (ends of the plateau), octaves (its
        width), at_least ("", "low", "high" or "both": ends at which the plateau reaches the end of the grid),
        octaves_low and octaves_high (95 % interval, bootstrap over seeds; NaN for one seed), failed (share), runs.
        """
        import pandas as pd

        rows, means = [], self.rates()
        for arm in self.arms:
            mine = means[means["arm"] == arm]
            found = self.plateau(arm)
            failed = self.runs.loc[self.runs["arm"] == arm, "failed"].dropna().astype(float)
            share = float(failed.mean()) if len(failed) else math.nan
            if found is None:
                rows.append((arm, *[math.nan] * 6, "", math.nan, math.nan, share, len(failed)))
                continue
            best = mine.sort_values("accuracy", ascending=False, kind="stable").iloc[0]
            ends = {(False, False): "", (True, False): "low", (False, True): "high", (True, True): "both"}
            head = (arm, best["lr"], best["accuracy"], best["interval"], found.low, found.high, found.octaves)
            rows.append((*head, ends[found.open_low, found.open_high], *self._interval(arm), share, len(failed)))
        columns = ["arm", "best_lr", "accuracy", "interval", "low", "high", "octaves", "at_least"]
        return pd.DataFrame(rows, columns=[*columns, "octaves_low", "octaves_high", "failed", "runs"])

    def plateau(self, arm: str) -> Plateau | None:
        """Return the plateau of an arm; None if no run has a result."""
        rates, values = self._values(arm)
        return plateau(rates, mean(values).tolist(), self.config.within / 100)

    def _values(self, arm: str) -> tuple[list[float], Any]:
        """Return the rates of an arm in ascending order, and the accuracies (rates, seeds)."""
        import numpy as np

        mine = self.runs[self.runs["arm"] == arm]
        cells = {float(str(lr)): cell for lr, cell in mine.groupby("lr", sort=True)}
        found = [accuracies(cell, self.ran.guess, self.config.seeds) for cell in cells.values()]
        return list(cells), np.array(found) if found else np.empty((0, len(self.config.seeds)))

    def _interval(self, arm: str) -> tuple[float, float]:
        rates, values = self._values(arm)
        if len(self.config.seeds) < 2:
            return math.nan, math.nan
        drawn = resampled(values, RESAMPLES).T.tolist()
        found = (plateau(rates, one, self.config.within / 100) for one in drawn)
        return middle(one.octaves for one in found if one is not None)

    def answers(self) -> list[str]:
        """Return the results, one sentence per arm."""
        said = []
        for row in self.table().to_dict("records"):
            if math.isnan(row["octaves"]):
                said.append(f"{row['arm']}: no run has a result.")
                continue
            width = f"{'at least ' if row['at_least'] else ''}{row['octaves']:.2g} octaves"
            if not math.isnan(row["octaves_low"]):
                width += f" ({self.spread}: {row['octaves_low']:.2g} to {row['octaves_high']:.2g})"
            said.append(
                f"{row['arm']}: within {self.config.within:g} point{'s' * (self.config.within != 1)} of its best "
                f"{self.ran.measure}, {row['accuracy']:.2%} at lr {row['best_lr']:.4g}, over {width}, from lr "
                f"{row['low']:.4g} to {row['high']:.4g}; {row['failed']:.0%} of {row['runs']} runs failed."
            )
        return said

    def notes(self) -> list[str]:
        """Return sentences on few steps, plateaus that reach the end of the grid, and missing results."""
        steps = self.runs["steps"].max()
        said = [f"{'; '.join(few_steps(int(steps)))}."] if steps < FEW_STEPS else []
        for row in self.table().to_dict("records"):
            if where := {"low": "lowest", "high": "highest", "both": "lowest and highest"}.get(row["at_least"]):
                said.append(f"{row['arm']}: the plateau reaches the {where} rate tried, so its width is a lower bound.")
        return said + super().notes()
