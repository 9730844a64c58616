"""The laboratory: trains and compares optimizers on real data. Needs the extra ``tvlars[lab]``."""

from tvlars.lab.compare import Comparison, compare
from tvlars.lab.config import CompareConfig, TrainConfig
from tvlars.lab.engine import RunResult, train
from tvlars.lab.errors import DivergedError, UsageError

__all__ = [
    "CompareConfig",
    "Comparison",
    "DivergedError",
    "RunResult",
    "TrainConfig",
    "UsageError",
    "compare",
    "train",
]
