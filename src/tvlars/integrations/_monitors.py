"""Measurements that callbacks share: rates of steps, the noise scale of micro-batches, and records of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from tvlars._checks import check_count
from tvlars.noise_scale import NoiseScale, NoiseScaleMeter
from tvlars.optim.layerwise import LayerwiseOptimizer
from tvlars.sharpness._batch_loss import lengths_of
from tvlars.stats import LayerStats
from tvlars.stats._record import Rates

if TYPE_CHECKING:
    import pandas as pd


class StepRates:
    """Learning rate and φ of each optimizer step, for the first group with a trust ratio.

    For optimizers without trust ratios, the values are from the first group.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._last: Rates | None = None
        self._hook = optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        groups = optimizer.param_groups
        group = next((one for one in groups if one.get("layer_adaptation")), groups[0])
        self._last = Rates.of(group, isinstance(optimizer, LayerwiseOptimizer))

    def values(self) -> dict[str, Any]:
        """Return ``lr``, which includes φ, and ``phi`` if it exists, of the last step, as numbers or tensors."""
        last = self._last
        if last is None:
            return {}
        lr = last.lr * last.phi if last.separate else last.lr
        return {"lr": lr} if last.phi is None else {"lr": lr, "phi": last.phi}

    def close(self) -> None:
        """Remove the hook from the optimizer."""
        self._hook.remove()


class MicroBatches:
    """Noise scale of a loop that accumulates gradients over ``accumulated`` micro-batches per step.

    Every ``every``-th step is measured. Steps with another number of micro-batches, or with micro-batches of different
    sizes, are skipped.
    """

    def __init__(self, model: nn.Module, accumulated: int, every: int, smoothing: float) -> None:
        self.model, self.accumulated, self.every, self.smoothing = model, accumulated, every, smoothing
        self.meter: NoiseScaleMeter | None = None
        self.taken = 0
        self._sizes: list[int] = []
        self._value: NoiseScale | None = None

    def backward(self, samples: int) -> None:
        """Record a micro-batch of ``samples`` samples, whose gradient has been added."""
        self._sizes.append(samples)
        if self.taken % self.every == 0:
            self.meter = self.meter or NoiseScaleMeter(self.model, samples, smoothing=self.smoothing)
            self.meter.micro_batch()

    def step(self, scale: float) -> None:
        """Record the gradient before a step; gradients are multiplied by ``scale``."""
        sizes, self._sizes = self._sizes, []
        self.taken += 1
        if self.meter is None or (self.taken - 1) % self.every:
            return
        if sizes != [self.meter.micro_batch_size] * self.accumulated:
            self.meter.leave_out()
            return
        self.meter.step(scale)
        self._value = None

    def result(self) -> NoiseScale | None:
        """Return the noise scale; None before the first measured step."""
        if self._value is None and self.meter is not None:
            try:
                self._value = self.meter.result()
            except ValueError:  # no step has been measured, or none was finite
                return None
        return self._value


def check_noise_arguments(every: int, micro_batch_size: int | None) -> None:
    """Raise ``ValueError`` if an argument of a callback is out of range."""
    check_count("every", every, unit="steps")
    if micro_batch_size is not None:
        check_count("micro_batch_size", micro_batch_size, unit="samples")


def check_loop(processes: int, accumulated: int, option: str) -> None:
    """Raise ``ValueError`` unless a loop has one process and steps of several micro-batches."""
    if processes > 1:
        raise ValueError(
            f"the noise scale must be measured in one process, got {processes}: gradients of other processes are not "
            "micro-batches"
        )
    if accumulated < 2:
        raise ValueError(f"{option} must be >= 2 for the noise scale, which compares micro-batches, got {accumulated}")


def samples_of(batch: Any) -> int:
    """Return the length of the tensors of a batch.

    Raises:
        ValueError: the batch has no tensors, or their lengths differ.
    """
    lengths = lengths_of(batch)
    if len(lengths) != 1:
        got = f"tensors of lengths {', '.join(map(str, lengths))}" if lengths else "no tensor"
        raise ValueError(f"micro_batch_size must be given if batches do not show their size, got a batch with {got}")
    return lengths[0]


class LayerRecords:
    """Layer records of a callback; ``stats`` is None until training has started."""

    stats: LayerStats | None = None

    def frame(self) -> pd.DataFrame:
        """Return all records: columns step, layer, quantity and value.

        Raises:
            ValueError: training has not started yet.
        """
        if self.stats is None:
            raise ValueError("the Trainer must have started training before there are records of layers")
        return self.stats.frame()
