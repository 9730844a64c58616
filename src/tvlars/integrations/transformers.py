"""Callbacks for the Trainer of transformers: layer statistics, noise scale, and φ and learning rate of each step.

    from tvlars.integrations.transformers import LayerStatsCallback, NoiseScaleCallback, PhiCallback, add_first

    trainer = Trainer(model, arguments, train_dataset=train, optimizers=(optimizer, None))
    add_first(trainer, PhiCallback(), NoiseScaleCallback(), LayerStatsCallback())

``Trainer(callbacks=[...])`` accepts them too, but then W&B, TensorBoard and other reports, which the Trainer calls
before them, do not get their values. They need the package transformers, of the extra ``integrations``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from tvlars._checks import check_count
from tvlars.integrations._monitors import (
    LayerRecords,
    MicroBatches,
    StepRates,
    check_loop,
    check_noise_arguments,
    samples_of,
)
from tvlars.noise_scale import NoiseScale
from tvlars.stats import LayerStats, Writer

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(
        "tvlars.integrations.transformers needs the package transformers: pip install '.[integrations]' in the source "
        "folder"
    ) from error


def add_first(trainer: Trainer, *callbacks: TrainerCallback) -> None:
    """Add callbacks before all others, so that the Trainer's reports get the values that they add to the logs."""
    for callback in reversed(callbacks):
        trainer.callback_handler.callbacks.insert(0, callback)


class _Logs(TrainerCallback, ABC):
    """Adds values to the logs of training steps."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Return the values to add."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add values to the logs of a training step, and to the Trainer's history."""
        if logs is not None and "loss" in logs:
            found = self.values()
            logs.update(found)
            if state.log_history:
                state.log_history[-1].update(found)


class PhiCallback(_Logs):
    """Adds the learning rate and φ of the last step to the logs of training.

    ``lr`` is the learning rate of layers with a trust ratio, including φ, unlike the Trainer's ``learning_rate``.
    ``phi`` is φ of TVLARS, or with an LR scheduler the learning rate divided by the initial one.
    """

    def __init__(self) -> None:
        self._rates: StepRates | None = None

    def values(self) -> dict[str, float]:
        """Return ``lr`` and ``phi``."""
        return {} if self._rates is None else {name: float(value) for name, value in self._rates.values().items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Start to watch the optimizer."""
        self._rates = StepRates(_bare(optimizer))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the hook from the optimizer."""
        if self._rates is not None:
            self._rates.close()


class NoiseScaleCallback(_Logs):
    """Adds the gradient noise scale to the logs of training, measured from the micro-batches of accumulated gradients.

    The Trainer must have one process, ``gradient_accumulation_steps`` of 2 or more, and ``max_grad_norm=0``, since it
    clips gradients before it calls callbacks. Steps with micro-batches of different sizes are skipped. The loss must be
    a mean over samples: language models, whose losses are means over tokens, need batches with equal numbers of tokens.

    Args:
        every: number of optimizer steps from one measured step to the next. A measured step waits for the device.
            Default 10.
        smoothing: weight of the past, as for :class:`tvlars.noise_scale.NoiseScaleMeter`. Default 0.95.
        micro_batch_size: samples per batch. None (default): the length of the batch's tensors.

    Raises:
        ValueError: an argument is out of range; or, when training starts, there are several processes, no gradients
            are accumulated, or they are clipped.
    """

    def __init__(self, every: int = 10, smoothing: float = 0.95, micro_batch_size: int | None = None) -> None:
        check_noise_arguments(every, micro_batch_size)
        self.every, self.smoothing, self.micro_batch_size = every, smoothing, micro_batch_size
        self._batches: MicroBatches | None = None
        self._samples = 0
        self._hook: Any = None

    @property
    def result(self) -> NoiseScale | None:
        """Noise scale with its interval; None before the first measured step."""
        return None if self._batches is None else self._batches.result()

    def values(self) -> dict[str, float]:
        """Return ``noise_scale`` once a step has been measured."""
        found = self.result
        return {} if found is None else {"noise_scale": found.value}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Check that steps have micro-batches whose gradients can be seen."""
        check_loop(args.world_size, args.gradient_accumulation_steps, "gradient_accumulation_steps")
        if args.max_grad_norm:
            raise ValueError(
                f"max_grad_norm must be 0 for the noise scale, got {args.max_grad_norm:g}: gradients are clipped "
                "before callbacks see them"
            )
        self._batches = MicroBatches(model, args.gradient_accumulation_steps, self.every, self.smoothing)
        self._hook = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def _before_forward(self, model: Any, args: Any, kwargs: Any) -> None:
        if model.training:
            self._samples = self.micro_batch_size or samples_of([*args, *kwargs.values()])

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the gradient of a micro-batch that is not the last one of its step."""
        if self._batches is not None:
            self._batches.backward(self._samples)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Record the gradient of the last micro-batch, and measure the step."""
        if self._batches is not None:
            scaler = getattr(optimizer, "scaler", None)
            self._batches.backward(self._samples)
            self._batches.step(1.0 if scaler is None else scaler.get_scale())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the hook from the model."""
        if self._hook is not None:
            self._hook.remove()


class LayerStatsCallback(LayerRecords, TrainerCallback):
    """Records norms, trust ratios and learning rates of all layers, see :class:`tvlars.stats.LayerStats`.

    Args:
        every: number of optimizer steps from one record to the next. Default 10.
        path: folder of Parquet files, in which a resumed run continues. None (default) keeps records in memory.
        buffer: number of recorded steps that are fetched from the device together. Default 64.
        writer: TensorBoard's ``SummaryWriter``, which gets all values too. Default None.

    Raises:
        ValueError: an argument is out of range; or, when training starts, an error of ``LayerStats``.
    """

    def __init__(
        self, every: int = 10, path: str | Path | None = None, buffer: int = 64, writer: Writer | None = None
    ) -> None:
        check_count("every", every, unit="steps")
        check_count("buffer", buffer, unit="recorded steps")
        self.every, self.path, self.buffer, self.writer = every, path, buffer, writer

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Start to record."""
        options: Any = dict(every=self.every, path=self.path, buffer=self.buffer, writer=self.writer)
        self.stats = LayerStats(_bare(optimizer), model, start=state.global_step, **options)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the remaining records, and remove the hook from the optimizer."""
        if self.stats is not None:
            self.stats.close()


def _bare(optimizer: Any) -> Any:
    """Return the optimizer without the wrapper of Accelerate."""
    return getattr(optimizer, "optimizer", optimizer)
