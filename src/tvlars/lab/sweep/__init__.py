"""Sweeps: the runs of a grid, on this machine's devices or on a Ray cluster; and tuning with equal budgets."""

from tvlars.lab.sweep.board import Board
from tvlars.lab.sweep.grid import Grid
from tvlars.lab.sweep.results import SweepResult, SweepRun
from tvlars.lab.sweep.sweeping import sweep
from tvlars.lab.sweep.tune_config import TuneConfig
from tvlars.lab.sweep.tuning import Tuned, TuneResult, tune

__all__ = ["Board", "Grid", "SweepResult", "SweepRun", "TuneConfig", "TuneResult", "Tuned", "sweep", "tune"]
