"""The laboratory: trains and compares optimizers on real data. Needs the extra ``tvlars[lab]``."""

import tvlars.lab.processes.fabric  # noqa: F401  (before anything imports Fabric)
from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import DivergedError, LockedError, PreemptedError, UsageError
from tvlars.lab.experiments import Grid, SweepResult, TuneConfig, TuneResult, sweep, tune
from tvlars.lab.experiments.compare import compare
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.measure.accuracy import Evaluation, evaluate
from tvlars.lab.measure.landscape import run_landscape
from tvlars.lab.measure.probe_run import probe_run
from tvlars.lab.measure.sharpness import run_sharpness
from tvlars.lab.report import report
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult, load_run
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.train import train

__all__ = [
    "CompareConfig",
    "Comparison",
    "DivergedError",
    "Evaluation",
    "Grid",
    "ImageData",
    "LoadedRun",
    "LockedError",
    "PreemptedError",
    "Reporter",
    "RunResult",
    "SweepResult",
    "TrainConfig",
    "TuneConfig",
    "TuneResult",
    "UsageError",
    "compare",
    "evaluate",
    "load_data",
    "load_run",
    "probe_run",
    "report",
    "run_landscape",
    "run_sharpness",
    "sweep",
    "train",
    "tune",
]
