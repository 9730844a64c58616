"""Sweeps: the runs of a grid, on this machine's devices or on a Ray cluster; and tuning with equal budgets."""

from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.grid import Grid
from tvlars.lab.experiments.results import SweepResult, SweepRun
from tvlars.lab.experiments.sweep import sweep
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.trial import Tuned
from tvlars.lab.experiments.tuning.tune import TuneResult, tune

__all__ = ["Board", "Grid", "SweepResult", "SweepRun", "TuneConfig", "TuneResult", "Tuned", "sweep", "tune"]
