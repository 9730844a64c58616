"""TensorBoard scalars of a run's rows, in the folder ``tensorboard`` of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from tvlars._reading import is_inside
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import EpochRow, StepRow

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_tensorboard() -> None:
    """Raise ``UsageError`` if the package tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "tensorboard=True needs the package tensorboard: pip install '.[lab]' in the source folder"
        ) from error


class TensorBoardLog:
    """Writer of the scalars steps/* and epochs/* by optimizer step, from step ``start`` + 1 on.

    TensorBoard's writer cannot be used after an error of the disk: ``record`` tells the user, and the run continues
    without it, since its rows are in CSV files too.
    """

    def __init__(self, record: Record, start: int = 0) -> None:
        self.record, self.folder = record, record.folder / "tensorboard"
        if not is_inside(self.folder, record.folder):
            raise UsageError(f"{self.folder} must be a folder, but is a link that leaves the run folder")
        self.purge_step = start + 1 if start else None  # removes steps that are repeated
        self.failed = False
        self._writer: SummaryWriter | None = None

    def add(self, steps: list[StepRow], epoch: EpochRow | None = None) -> None:
        """Write rows of steps, and the row of the epoch that they complete."""
        for group, rows in (("steps", steps), ("epochs", [epoch] if epoch is not None else [])):
            for row in rows:
                for name, value in asdict(row).items():
                    if name != "step" and value == value:  # NaN: results on a split that was not tested
                        self.add_scalar(f"{group}/{name}", value, row.step)
        self._try(lambda writer: writer.flush())

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one value."""
        self._try(lambda writer: writer.add_scalar(tag, value, step))

    def close(self) -> None:
        """Write remaining scalars and close the file."""
        if self._writer is not None:
            self._try(lambda writer: writer.close())

    def _try(self, work: Callable[[SummaryWriter], object]) -> None:
        if self.failed:
            return
        self.record.check_place()
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = self._writer or SummaryWriter(str(self.folder), purge_step=self.purge_step)
            work(self._writer)
        except OSError as error:
            self.failed = True
            self.record.tell(f"TensorBoard logs end here, they cannot be written: {error.strerror or error}")
