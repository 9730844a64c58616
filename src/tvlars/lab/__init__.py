"""The laboratory: trains and compares optimizers on real data. Needs the extra ``tvlars[lab]``."""

from typing import TYPE_CHECKING

from tvlars._lazy import import_when_asked

if TYPE_CHECKING:
    from tvlars.lab.comparison.best_of import BestOfTrials, best_of_trials, expected_best, gain_by_luck
    from tvlars.lab.comparison.comparison import Comparison
    from tvlars.lab.comparison.paired import seeds_needed
    from tvlars.lab.config import TrainConfig
    from tvlars.lab.data import ImageData, load_data
    from tvlars.lab.errors import DivergedError, LockedError, PreemptedError, UsageError
    from tvlars.lab.experiments.arms import Arm
    from tvlars.lab.experiments.compare import compare
    from tvlars.lab.experiments.compare_config import CompareConfig
    from tvlars.lab.experiments.grid import Grid
    from tvlars.lab.experiments.results import SweepResult
    from tvlars.lab.experiments.robustness.robustness import RobustnessConfig, RobustnessResult, robustness
    from tvlars.lab.experiments.scaling.scaling import ScalingConfig, ScalingResult, scaling
    from tvlars.lab.experiments.sweep import sweep
    from tvlars.lab.experiments.tuning.config import TuneConfig
    from tvlars.lab.experiments.tuning.tune import TuneResult, tune
    from tvlars.lab.history.difference import RunsDiff, diff_runs
    from tvlars.lab.history.listing import list_runs
    from tvlars.lab.measure.accuracy import Evaluation, evaluate
    from tvlars.lab.measure.landscape import run_landscape
    from tvlars.lab.measure.probe_run import probe_run
    from tvlars.lab.measure.sharpness import run_sharpness
    from tvlars.lab.protocol import Protocol
    from tvlars.lab.report import report
    from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult, load_run
    from tvlars.lab.tasks import Task
    from tvlars.lab.training.progress import Reporter
    from tvlars.lab.training.train import train

__all__ = [
    "Arm",
    "BestOfTrials",
    "CompareConfig",
    "Comparison",
    "DivergedError",
    "Evaluation",
    "Grid",
    "ImageData",
    "LoadedRun",
    "LockedError",
    "PreemptedError",
    "Protocol",
    "Reporter",
    "RobustnessConfig",
    "RobustnessResult",
    "RunResult",
    "RunsDiff",
    "ScalingConfig",
    "ScalingResult",
    "SweepResult",
    "Task",
    "TrainConfig",
    "TuneConfig",
    "TuneResult",
    "UsageError",
    "best_of_trials",
    "compare",
    "diff_runs",
    "evaluate",
    "expected_best",
    "gain_by_luck",
    "list_runs",
    "load_data",
    "load_run",
    "probe_run",
    "report",
    "robustness",
    "run_landscape",
    "run_sharpness",
    "scaling",
    "seeds_needed",
    "sweep",
    "train",
    "tune",
]

import_when_asked(
    __name__,
    {
        "tvlars.lab.comparison.best_of": ["BestOfTrials", "best_of_trials", "expected_best", "gain_by_luck"],
        "tvlars.lab.comparison.comparison": ["Comparison"],
        "tvlars.lab.comparison.paired": ["seeds_needed"],
        "tvlars.lab.config": ["TrainConfig"],
        "tvlars.lab.data": ["ImageData", "load_data"],
        "tvlars.lab.errors": ["DivergedError", "LockedError", "PreemptedError", "UsageError"],
        "tvlars.lab.experiments.arms": ["Arm"],
        "tvlars.lab.experiments.compare": ["compare"],
        "tvlars.lab.experiments.compare_config": ["CompareConfig"],
        "tvlars.lab.experiments.grid": ["Grid"],
        "tvlars.lab.experiments.results": ["SweepResult"],
        "tvlars.lab.experiments.robustness.robustness": ["RobustnessConfig", "RobustnessResult", "robustness"],
        "tvlars.lab.experiments.scaling.scaling": ["ScalingConfig", "ScalingResult", "scaling"],
        "tvlars.lab.experiments.sweep": ["sweep"],
        "tvlars.lab.experiments.tuning.config": ["TuneConfig"],
        "tvlars.lab.experiments.tuning.tune": ["TuneResult", "tune"],
        "tvlars.lab.history.difference": ["RunsDiff", "diff_runs"],
        "tvlars.lab.history.listing": ["list_runs"],
        "tvlars.lab.measure.accuracy": ["Evaluation", "evaluate"],
        "tvlars.lab.measure.landscape": ["run_landscape"],
        "tvlars.lab.measure.probe_run": ["probe_run"],
        "tvlars.lab.measure.sharpness": ["run_sharpness"],
        "tvlars.lab.protocol": ["Protocol"],
        "tvlars.lab.report": ["report"],
        "tvlars.lab.run_folder.loaded_run": ["LoadedRun", "RunResult", "load_run"],
        "tvlars.lab.tasks": ["Task"],
        "tvlars.lab.training.progress": ["Reporter"],
        "tvlars.lab.training.train": ["train"],
    },
    modules=["bench", "models", "ssl"],
    extra="lab",
)
