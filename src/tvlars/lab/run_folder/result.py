"""What a run comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tvlars.lab.config import TrainConfig
from tvlars.lab.run_folder.record import EpochRow
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.plan import Plan


@dataclass(frozen=True)
class RunResult:
    """What came out of a run that finished."""

    folder: Path
    config: TrainConfig
    plan: Plan
    epochs: list[EpochRow]
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    """What was found out about the features of self-supervised learning, by name: "linear", "knn" and others."""

    @property
    def test_accuracy(self) -> float:
        """Fraction of test images classified right after the last epoch; with self-supervised learning that of the
        linear evaluation, or of the online probe where there was none."""
        return self.evaluations["linear"].accuracy if "linear" in self.evaluations else self.epochs[-1].test_accuracy
