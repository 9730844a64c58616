"""The laboratory: trains and compares optimizers on real data. Needs the extra ``tvlars[lab]``."""

from tvlars.lab.compare import Comparison, compare
from tvlars.lab.config import CompareConfig, TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.engine import RunResult, train
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.evaluate import Evaluation, evaluate
from tvlars.lab.progress import Reporter
from tvlars.lab.report import report
from tvlars.lab.run_folder import LoadedRun, load_run
from tvlars.lab.ssl.probe_run import probe_run
from tvlars.lab.surface import run_landscape, run_sharpness

__all__ = [
    "CompareConfig",
    "Comparison",
    "DivergedError",
    "Evaluation",
    "ImageData",
    "LoadedRun",
    "Reporter",
    "RunResult",
    "TrainConfig",
    "UsageError",
    "compare",
    "evaluate",
    "load_data",
    "load_run",
    "probe_run",
    "report",
    "run_landscape",
    "run_sharpness",
    "train",
]
