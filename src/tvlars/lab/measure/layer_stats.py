"""Layer statistics of a run, written as Parquet files into its folder layer-stats (see tvlars.stats)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tvlars._reading import is_inside
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.record import Record
from tvlars.stats import LayerStats
from tvlars.stats._files import _needed


def check_layer_stats() -> None:
    """Raise ``UsageError`` if pandas or pyarrow is not installed."""
    try:
        for name in ("pandas", "pyarrow"):
            _needed(name)
    except ImportError as error:
        raise UsageError(str(error)) from error


class RunStats(LayerStats):
    """Layer statistics in the folder of ``record``, with the arguments of ``LayerStats``.

    While the disk is full, records stay in memory and ``record`` informs the user, so that a run never ends for them.

    Raises:
        UsageError: existing statistics of the run cannot be read.
    """

    _said = False

    def __init__(self, record: Record, optimizer: Optimizer, model: nn.Module, **options: Any) -> None:
        self.record, path = record, record.folder / "layer-stats"
        if not is_inside(path, record.folder):  # records of repeated steps are removed from this folder
            raise UsageError(f"layer_stats must continue in {str(path)!r}, which is a link that leaves the run folder")
        try:
            super().__init__(optimizer, model, path=path, **options)
        except (OSError, ValueError) as error:  # pyarrow raises one of these for a damaged file
            raise UsageError(
                f"layer_stats must continue in {str(path)!r}, which cannot be read: {str(error).splitlines()[0]}"
            ) from error

    def flush(self) -> None:
        self.record.check_place()
        if self.path is not None and not self._discards:
            self.path.mkdir(exist_ok=True)  # it may have been removed
        super().flush()

    def try_flush(self) -> None:
        """Flush; records that cannot be written are kept for the next flush."""
        self._try(self.flush)

    def close(self) -> None:
        self._try(super().close, last=True)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._try(lambda: super(RunStats, self)._after_step(optimizer, args, kwargs))

    def _try(self, work: Callable[[], object], last: bool = False) -> None:
        try:
            work()
        except OSError as error:  # records are kept
            then = "those of the last steps are lost" if last else "they wait in memory, and the run continues"
            if last or not self._said:
                self.record.tell(f"cannot write layer statistics: {error.strerror or error}; {then}")
            self._said = True
