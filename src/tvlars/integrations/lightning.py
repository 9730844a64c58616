"""Callbacks for Lightning's Trainer: layer statistics, noise scale, and φ and learning rate of each step.

    from tvlars.integrations.lightning import LayerStatsMonitor, NoiseScaleMonitor, PhiMonitor

    trainer = L.Trainer(accumulate_grad_batches=8, callbacks=[PhiMonitor(), NoiseScaleMonitor(), LayerStatsMonitor()])

They need the package lightning, of the extra ``integrations``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvlars._checks import check_count, check_flag
from tvlars.integrations._monitors import (
    LayerRecords,
    MicroBatches,
    StepRates,
    check_loop,
    check_noise_arguments,
    samples_of,
)
from tvlars.noise_scale import NoiseScale
from tvlars.stats import LayerStats

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError(
        "tvlars.integrations.lightning needs the package lightning: pip install '.[integrations]' in the source folder"
    ) from error


class PhiMonitor(Callback):
    """Shows the learning rate and φ of each step in the progress bar, and sends them to the loggers.

    ``lr`` is the learning rate of layers with a trust ratio, including φ. ``phi`` is φ of TVLARS, or with an LR
    scheduler the learning rate divided by the initial one. Both are values of the last step.

    Args:
        prog_bar: show the values in the progress bar. Default True.
    """

    def __init__(self, prog_bar: bool = True) -> None:
        check_flag("prog_bar", prog_bar)
        self.prog_bar = prog_bar
        self._rates: StepRates | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to watch the optimizer."""
        self._rates = StepRates(_optimizer(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the values of the last step."""
        if self._rates is not None:
            for name, value in self._rates.values().items():
                pl_module.log(name, value, prog_bar=self.prog_bar, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook from the optimizer."""
        if self._rates is not None:
            self._rates.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hook from the optimizer."""
        self.on_train_end(trainer, pl_module)


class NoiseScaleMonitor(Callback):
    """Measures the gradient noise scale from the micro-batches of accumulated gradients, and logs ``noise_scale``.

    The Trainer must have one process and ``accumulate_grad_batches`` of 2 or more. Steps with micro-batches of
    different sizes, such as the last step of an epoch, are skipped.

    Args:
        every: number of optimizer steps from one measured step to the next. A measured step waits for the device.
            Default 10.
        smoothing: weight of the past, as for :class:`tvlars.noise_scale.NoiseScaleMeter`. Default 0.95.
        micro_batch_size: samples per batch. None (default): the length of the batch's tensors.
        prog_bar: show the noise scale in the progress bar. Default True.

    Raises:
        ValueError: an argument is out of range; or, when training starts, there are several processes, no gradients
            are accumulated, or optimization is manual.
    """

    def __init__(
        self, every: int = 10, smoothing: float = 0.95, micro_batch_size: int | None = None, prog_bar: bool = True
    ) -> None:
        check_noise_arguments(every, micro_batch_size)
        check_flag("prog_bar", prog_bar)
        self.every, self.smoothing, self.micro_batch_size, self.prog_bar = every, smoothing, micro_batch_size, prog_bar
        self._batches: MicroBatches | None = None
        self._samples = 0

    @property
    def result(self) -> NoiseScale | None:
        """Noise scale with its interval; None before the first measured step."""
        return None if self._batches is None else self._batches.result()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that steps have micro-batches."""
        if not pl_module.automatic_optimization:
            raise ValueError("the noise scale must be measured in automatic optimization: use NoiseScaleMeter directly")
        check_loop(trainer.world_size, trainer.accumulate_grad_batches, "accumulate_grad_batches")
        self._batches = MicroBatches(pl_module, trainer.accumulate_grad_batches, self.every, self.smoothing)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the size of a micro-batch."""
        self._samples = self.micro_batch_size or samples_of(batch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the gradient of a micro-batch."""
        if self._batches is not None:
            self._batches.backward(self._samples)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Measure a step, before gradients are clipped."""
        if self._batches is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self._batches.step(1.0 if scaler is None else scaler.get_scale())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the noise scale."""
        if (found := self.result) is not None:
            pl_module.log("noise_scale", found.value, prog_bar=self.prog_bar, on_step=True, on_epoch=False)


class LayerStatsMonitor(LayerRecords, Callback):
    """Records norms, trust ratios and learning rates of all layers, see :class:`tvlars.stats.LayerStats`.

    Steps are counted by the Trainer, so that a resumed run continues in the same files.

    Args:
        every: number of optimizer steps from one record to the next. Default 10.
        path: folder of Parquet files. None (default) keeps records in memory.
        log: send records to the Trainer's loggers too, as ``LWN/<layer>`` and so on. Default True.
        buffer: number of recorded steps that are fetched from the device together. Default 64.

    Raises:
        ValueError: an argument is out of range; or, when training starts, an error of ``LayerStats``.
    """

    def __init__(self, every: int = 10, path: str | Path | None = None, log: bool = True, buffer: int = 64) -> None:
        check_count("every", every, unit="steps")
        check_count("buffer", buffer, unit="recorded steps")
        check_flag("log", log)
        self.every, self.path, self.to_loggers, self.buffer = every, path, log, buffer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to record."""
        writer = _ToLoggers(trainer) if self.to_loggers and trainer.loggers else None
        options: Any = dict(every=self.every, path=self.path, buffer=self.buffer, writer=writer)
        self.stats = _Stats(_optimizer(trainer), pl_module, start=trainer.global_step, **options)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the remaining records, and remove the hook from the optimizer."""
        if self.stats is not None:
            self.stats.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the remaining records, and remove the hook from the optimizer."""
        self.on_train_end(trainer, pl_module)


class _ToLoggers:
    """Collects values of a step, and sends them to the loggers together."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.steps: dict[int, dict[str, float]] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.steps.setdefault(global_step, {})[tag] = scalar_value

    def flush(self) -> None:
        steps, self.steps = self.steps, {}
        for step, values in steps.items():
            for logger in self.trainer.loggers:
                logger.log_metrics(values, step - 1)  # Lightning logs a step under the number of steps before it


class _Stats(LayerStats):
    def flush(self) -> None:
        super().flush()
        if isinstance(self.writer, _ToLoggers):
            self.writer.flush()


def _optimizer(trainer: Trainer) -> Any:
    if len(trainer.optimizers) != 1:
        raise ValueError(
            f"the Trainer must have exactly one optimizer for callbacks of tvlars, got {len(trainer.optimizers)}"
        )
    return trainer.optimizers[0]
