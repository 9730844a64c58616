"""A run's rows as TensorBoard scalars, in the folder ``tensorboard`` of the run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tvlars.lab.errors import UsageError
from tvlars.lab.record import EpochRow, StepRow


class TensorBoardLog:
    """Writes steps/* and epochs/* over the optimizer step, from step ``start`` + 1 on.

    Raises:
        UsageError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("tensorboard=True needs the package tensorboard: pip install 'tvlars[lab]'") from error
        purge = {"purge_step": start + 1} if start else {}  # of steps that are taken again
        self.writer = SummaryWriter(str(folder / "tensorboard"), **purge)

    def add(self, steps: list[StepRow], epoch: EpochRow | None = None) -> None:
        """Write the rows of some steps, and of the epoch that they complete."""
        for group, rows in (("steps", steps), ("epochs", [epoch] if epoch is not None else [])):
            for row in rows:
                for name, value in asdict(row).items():
                    if name != "step":
                        self.writer.add_scalar(f"{group}/{name}", value, row.step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
