"""What a run measures besides loss and accuracy: layer statistics, sharpness and noise scale, into its folder.

    layer-stats/       Parquet files, see tvlars.stats
    sharpness.csv      a row a measurement
    noise.csv          a row an epoch

All of it is measured without touching what training sees: its random numbers, weights and statistics stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars import noise_scale as noise
from tvlars import sharpness
from tvlars._reading import is_inside
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.rows import NoiseRow, SharpnessRow
from tvlars.sharpness._surface import LossSurface
from tvlars.sharpness.hessian import _needed
from tvlars.stats import LayerStats
from tvlars.stats._files import _needed as needed_for_stats

RHO, RHO_AVERAGE = 0.5, 0.1
"""Radii of the adaptive sharpness, relative to the weights."""
NOISE_MICRO_BATCHES, NOISE_MICRO_BATCH = 32, 64
NOISE_SAMPLES = NOISE_MICRO_BATCHES * NOISE_MICRO_BATCH


def check_extra() -> None:
    """Say before a run what would be missing after its first epoch.

    Raises:
        UsageError: the extra ``sharpness`` is not installed.
    """
    for name in ("curvlinops", "scipy"):
        try:
            _needed(name)
        except ImportError as error:
            raise UsageError(f"sharpness cannot be measured: {error}") from error


def check_layer_stats() -> None:
    """Say before a run what would be missing in it.

    Raises:
        UsageError: pandas or pyarrow is not installed.
    """
    for name in ("pandas", "pyarrow"):
        try:
            needed_for_stats(name)
        except ImportError as error:
            raise UsageError(str(error)) from error


def measure_sharpness(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, epoch: int = 0, step: int = 0
) -> SharpnessRow:
    """Everything that a row has, of the mean cross-entropy over ``batches`` of normalized images and labels.

    Raises:
        UsageError: the extra ``sharpness`` is not installed.
    """
    check_extra()
    start = time.perf_counter()
    data = list(batches)
    arguments = (model, F.cross_entropy, data)
    top = sharpness.hessian_eigenvalues(*arguments, tolerance=0.02)
    trace = sharpness.hessian_trace(*arguments, samples=8)
    average = sharpness.average_case_sharpness(*arguments, rho=RHO_AVERAGE, samples=8, adaptive=True)
    with LossSurface(*arguments) as surface:
        loss = surface.value()
    return SharpnessRow(
        epoch=epoch,
        step=step,
        samples=sum(len(y) for _, y in data),
        loss=loss,
        hessian_max=float(top.values[0]),
        hessian_trace=trace.value,
        hessian_trace_error=trace.standard_error,
        worst_case=sharpness.worst_case_sharpness(*arguments, rho=RHO, steps=5, adaptive=True),
        average_case=average.value,
        average_case_error=average.standard_error,
        keskar=sharpness.keskar_sharpness(*arguments),
        seconds=round(time.perf_counter() - start, 3),
    )


def measure_noise(model: nn.Module, images: Tensor, labels: Tensor, *, epoch: int = 0, step: int = 0) -> NoiseRow:
    """The noise scale of the cross-entropy from 32 micro-batches of 64 normalized images, fewer where there are fewer.

    Raises:
        UsageError: there are fewer than 4 images.
    """
    size = min(NOISE_MICRO_BATCH, len(labels) // 4)
    if size < 1:
        raise UsageError(f"noise_scale needs at least 4 training images, got {len(labels)}")
    count = min(NOISE_MICRO_BATCHES, len(labels) // size) * size
    batches = list(zip(torch.split(images[:count], size), torch.split(labels[:count], size), strict=True))
    found = noise.noise_scale(model, F.cross_entropy, batches)
    return NoiseRow(epoch, step, found.value, found.low, found.high, found.trace, found.gradient_square)


class RunStats(LayerStats):
    """Layer statistics that wait for room where the disk is full, as rows do: a run never ends for their sake.

    ``tell`` hears of it. ``check_place`` is called before each write: it raises ``MovedFolderError`` where the run
    folder is another one.
    """

    tell: Callable[[str], None] = print
    check_place: Callable[[], None] = staticmethod(lambda: None)
    _said = False

    def flush(self) -> None:
        self.check_place()
        if self.path is not None and not self._discards:
            self.path.mkdir(exist_ok=True)  # somebody may have taken it away
        super().flush()

    def try_flush(self) -> None:
        """Flush, or keep for the next flush what cannot be written."""
        self._try(self.flush, "they wait, and the run goes on")

    def close(self) -> None:
        self._try(super().close, "those of the last steps are lost")

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._try(lambda: super(RunStats, self)._after_step(optimizer, args, kwargs), "they wait, and the run goes on")

    def _try(self, work: Callable[[], object], then: str) -> None:
        try:
            work()
        except OSError as error:  # what was to be written is kept
            if not self._said or "lost" in then:
                self.tell(f"cannot write layer statistics: {error.strerror or error}; {then}")
            self._said = True


def layer_stats(
    optimizer: Optimizer, model: nn.Module, every: int, folder: Path, writer: object, start: int
) -> RunStats:
    """Layer statistics into ``folder``, from optimizer step ``start`` + 1 on.

    Raises:
        UsageError: pandas or pyarrow is not installed, or what a run that goes on has written cannot be read.
    """
    path = folder / "layer-stats"
    if not is_inside(path, folder):  # records of steps that come again are taken out of it
        raise UsageError(f"layer_stats must go on in {str(path)!r}, which is a link that leaves the run folder")
    try:
        return RunStats(optimizer, model, every=every, path=path, writer=writer, start=start)  # type: ignore[arg-type]
    except ImportError as error:
        raise UsageError(str(error)) from error
    except (OSError, ValueError) as error:  # pyarrow's for a damaged file are both
        raise UsageError(
            f"layer_stats must go on in {str(path)!r}, which cannot be read: {str(error).splitlines()[0]}"
        ) from error
