"""From the size of a run to a learning rate and a schedule in steps, with the reasons in words."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tvlars._checks import check_choice, check_count, check_flag, check_number
from tvlars.schedule import SigmoidDecayLR, WarmupCosineLR, _sigmoid_decay, _sigmoid_over, scale_lr, warmup_cosine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULES = ("auto", "sigmoid", "warmup-cosine", "constant")
OWN = "own"
"""Schedule of an optimizer that comes with an LR scheduler of its own; its factors are not known before the run."""

WARMUP_SHARE = 0.2
"""Share of a run's epochs that the warm-up of the other optimizers takes."""
FEW_STEPS = 50
"""Below this many steps a run is too short for a schedule to act."""


class _Defaults(NamedTuple):
    base_lr: float  # at batch size 256
    rule: str
    largest_batch: float  # from here on lr no longer grows
    momentum: float | None
    weight_decay: float
    bias_norm_lr_scale: float  # at most
    layerwise: bool = True  # then the product of that with lr is kept at 1 or less


# Measured on Fashion-MNIST, see docs/results/plan.md and large-batch.md; sgd and adamw are the usual recipes.
DEFAULTS = {
    "tvlars": _Defaults(16.0, "sqrt", 512, 0.9, 1e-4, 0.03),
    "lars": _Defaults(16.0, "sqrt", 2048, 0.9, 1e-4, 0.03),
    "lamb": _Defaults(0.015, "sqrt", 2048, None, 0.01, 0.03),
    "sgd": _Defaults(0.1, "linear", math.inf, 0.9, 5e-4, 1.0, layerwise=False),
    "adamw": _Defaults(1e-3, "sqrt", math.inf, None, 0.01, 1.0, layerwise=False),
}
OTHER = _Defaults(math.nan, "", math.inf, None, math.nan, 1.0, layerwise=False)
"""Any other optimizer, by import path: it has its own learning rate and weight decay, which are not known here."""


@dataclass(frozen=True)
class Plan:
    """A run in numbers, made by :func:`plan`. ``str()`` explains it, ``plot()`` draws its learning rate.

    ``total_steps``, ``steps_per_epoch``, ``warmup_steps`` and ``delay`` are in optimizer steps,
    ``delay_factor`` in 1/step, ``batch_size`` and ``dataset_size`` in samples. ``momentum`` is None where the
    optimizer has none; ``schedule`` is "sigmoid", "warmup-cosine" or "constant", and the fields of the other
    schedules are None. ``noise_scale`` is the measured B_simple in samples, or None. ``lr`` and ``weight_decay`` are
    NaN where an optimizer by import path has its own; ``lr_from`` says where lr is from if not from the plan.
    """

    optimizer: str
    batch_size: int
    dataset_size: int
    epochs: int
    steps_per_epoch: int
    total_steps: int
    lr: float
    momentum: float | None
    nesterov: bool
    weight_decay: float
    bias_norm_lr_scale: float
    schedule: str
    delay_factor: float | None = None
    delay: float | None = None
    alpha: float | None = None
    gamma_min: float | None = None
    warmup_steps: int | None = None
    final_factor: float | None = None
    noise_scale: float | None = None
    lr_from: str = ""

    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the optimizer's constructor: ``TVLARS(params, **plan.optimizer_arguments())``."""
        arguments: dict[str, Any] = dict(lr=self.lr, weight_decay=self.weight_decay)
        arguments = {name: value for name, value in arguments.items() if not math.isnan(value)}
        if self.momentum is not None:
            arguments.update(momentum=self.momentum, nesterov=self.nesterov)
        if self.optimizer == "tvlars":
            arguments.update(
                delay_factor=self.delay_factor, delay=self.delay, alpha=self.alpha, gamma_min=self.gamma_min
            )
        return arguments

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The LR scheduler to step after every optimizer step; None for TVLARS, which has φ built in."""
        if self.schedule == "sigmoid" and self.optimizer != "tvlars":
            return SigmoidDecayLR(optimizer, *self._sigmoid())
        if self.schedule == "warmup-cosine":
            return WarmupCosineLR(optimizer, *self._warmup_cosine())
        return None

    def factor(self, step: float) -> float:
        """Factor of ``lr`` at optimizer step ``step`` (1 at the first): φ, or the schedule; NaN if it is "own"."""
        if self.schedule == "sigmoid":
            return _sigmoid_decay(float(step), *self._sigmoid())
        if self.schedule == "warmup-cosine":
            return warmup_cosine(step, *self._warmup_cosine())
        return math.nan if self.schedule == OWN else 1.0

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw lr · factor over the run's steps with matplotlib.

        Args:
            ax: axes to draw on; None (default) makes new ones.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError("Plan.plot needs matplotlib: pip install '.[lab]' in the source folder") from error
            ax = plt.figure(figsize=(7, 3.5), layout="constrained").add_subplot()
        points = min(self.total_steps, 1000)
        steps = [1 + (self.total_steps - 1) * i / max(points - 1, 1) for i in range(points)]
        ax.plot(steps, [self.lr * self.factor(step) for step in steps], label=self.optimizer)
        ax.set(xlabel="optimizer step", ylabel="learning rate * factor", ylim=(0, None))
        ax.margins(x=0)
        if self.schedule == "sigmoid" and 0 < self._half_way() <= self.total_steps:
            ax.axvline(self._half_way(), linestyle=":", linewidth=1, color="0.5")
        ax.legend(frameon=False)
        return ax

    def __str__(self) -> str:
        lines = [
            f"{self.optimizer}, batch size {self.batch_size:,}, {self.epochs} epochs of {self.dataset_size:,} samples",
            f"  steps      {self.steps_per_epoch} an epoch, {self.total_steps} in all" + self._dropped(),
            f"  lr         {self.lr:g}{f' ({self.lr_from})' if self.lr_from else ''}"
            if not math.isnan(self.lr)
            else f"  lr         that of {self.optimizer}",
        ]
        if self.bias_norm_lr_scale != 1.0:
            raw = self.lr * self.bias_norm_lr_scale
            lines.append(f"             {raw:g} for biases and norms (x {self.bias_norm_lr_scale:g}), not adapted")
        if self.schedule == "sigmoid":
            lines += [
                f"  phi        {self.factor(1):.3g} at step 1, {self.factor(self.total_steps / 3):.3g} after a third, "
                f"{self.factor(self.total_steps):.2g} at the end",
                f"             half way down at step {self._half_way():g}: delay = {self.delay:g} steps, "
                f"delay_factor = {self.delay_factor:.4g} per step,",
                f"             gamma_min = {self.gamma_min:g}, alpha = {self.alpha:g}",
            ]
        elif self.schedule == "warmup-cosine":
            lines.append(
                f"  schedule   linear warm-up over {self.warmup_steps} steps, then cosine to {self.final_factor:g}"
            )
        else:
            lines.append(f"  schedule   {f'that of {self.optimizer}' if self.schedule == OWN else 'constant'}")
        momentum = (
            "" if self.momentum is None else f", momentum {self.momentum:g}{' (nesterov)' if self.nesterov else ''}"
        )
        decay = f"that of {self.optimizer}" if math.isnan(self.weight_decay) else f"{self.weight_decay:g}"
        lines.append(f"  others     weight decay {decay}{momentum}")
        if self.noise_scale is not None:
            lines += self._noise()
        return "\n".join(lines)

    def _noise(self) -> list[str]:
        """Comment of the noise scale on this batch size (McCandlish et al. 2018, section 2.3)."""
        noise = cast(float, self.noise_scale)
        if not math.isfinite(noise):
            return ["  noise      B_simple is infinite: gradients are all noise, so larger batches save steps in full"]
        lines = [
            f"  noise      B_simple = {noise:,.0f} samples: this batch takes {1 + noise / self.batch_size:.3g} x the "
            f"fewest steps and {1 + self.batch_size / noise:.3g} x the fewest samples"
            if noise
            else "  noise      B_simple = 0: gradients have no noise, so a larger batch saves nothing"
        ]
        if 0 < 10 * noise < self.batch_size:
            lines.append(f"             {10 * noise:,.0f} samples a step would take at most 1.1 x the fewest steps too")
        elif self.batch_size < 0.1 * noise:
            lines.append("             twice the batch takes about half of the steps, at no cost in samples")
        return lines

    def _dropped(self) -> str:
        rest = self.dataset_size % self.batch_size
        return f" ({rest:,} samples an epoch, drawn anew each time, do not fill a batch)" if rest else ""

    def _half_way(self) -> float:
        """The step at which φ is at half of what it would start at, floor aside: α = exp(λ (t − d_e))."""
        delay_factor, delay, alpha, _ = self._sigmoid()
        return delay + math.log(alpha) / delay_factor if delay_factor else delay

    def _sigmoid(self) -> tuple[float, float, float, float]:
        return cast(tuple[float, float, float, float], (self.delay_factor, self.delay, self.alpha, self.gamma_min))

    def _warmup_cosine(self) -> tuple[int, int, float]:
        return cast(tuple[int, int, float], (self.warmup_steps, self.total_steps, self.final_factor))


def plan(
    batch_size: int,
    dataset_size: int,
    epochs: int,
    optimizer: str = "tvlars",
    *,
    lr: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    weight_decay: float | None = None,
    bias_norm_lr_scale: float | None = None,
    schedule: str = "auto",
    delay_factor: float | None = None,
    delay: float | None = None,
    alpha: float | None = None,
    gamma_min: float | None = None,
    warmup_epochs: float | None = None,
    final_factor: float | None = None,
    noise_scale: Any = None,
) -> Plan:
    """Learning rate and schedule, in steps, for a run of ``epochs`` over ``dataset_size`` samples.

    What is given is taken as it is; what is left at None is chosen. lr comes from a measured one at batch size
    256 by :func:`scale_lr`; that of the layer-wise optimizers grows with the square root up to 2,048 samples (TVLARS:
    512) and no further, since it says by what share of its norm a step moves a layer, and the batch size does not
    change what a layer bears. φ of TVLARS is at half its start at 75 % of the steps and at 2 % of it at the end;
    the others warm up linearly over a fifth of the epochs and follow half a cosine.

    Args:
        batch_size: samples per optimizer step over all processes, at most ``dataset_size``.
        dataset_size: samples in the training set. An epoch has dataset_size // batch_size steps; what does
            not fill a batch is left for the next shuffle.
        epochs: passes over the training set.
        optimizer: "tvlars" (default), "lars", "lamb", "sgd" or "adamw"; or the import path of any other optimizer, as
            "torch.optim.NAdam", of which nothing is chosen but the schedule.
        lr: learning rate > 0. Default for an import path: NaN, which leaves it to the optimizer.
        momentum: in [0, 1); wants an optimizer that has it, as does ``nesterov``.
        nesterov: True by default where there is momentum.
        weight_decay: >= 0. Default for an import path: NaN, which leaves it to the optimizer.
        bias_norm_lr_scale: >= 0, for :func:`layer_groups`. Chosen, it is 0.03 for the layer-wise optimizers, less
            where lr * 0.03 would be above 1, and 1 for sgd and adamw.
        schedule: "auto" (default: "sigmoid" for tvlars, "warmup-cosine" for the others), "sigmoid",
            "warmup-cosine" or "constant". tvlars has its own and takes no other.
        delay_factor: λ >= 0 (1/step), of the sigmoid schedule.
        delay: d_e >= 0 (steps), of the sigmoid schedule.
        alpha: α > 0, of the sigmoid schedule. Default 1.0.
        gamma_min: γ_min >= 0, of the sigmoid schedule. Default 0.0; the paper has B / B_base * 1e-3.
        warmup_epochs: >= 0 and < ``epochs``, of the warmup-cosine schedule; 0 is a cosine alone.
        final_factor: in [0, 1], where the cosine ends. Default 1e-3.
        noise_scale: B_simple > 0 in samples, or what :func:`tvlars.noise_scale.noise_scale` returns. It changes no
            number; ``str()`` of the plan says what it means for this batch size.

    Returns:
        A :class:`Plan`.

    Raises:
        ValueError: an argument is out of its range or does not go with the optimizer or schedule.

    Warns:
        UserWarning: the run has fewer than 50 steps, too few for any schedule to act.

    Example:
        >>> p = plan(batch_size=4096, dataset_size=60_000, epochs=15)
        >>> print(p)
        >>> groups = layer_groups(model, p)
        >>> optimizer = TVLARS(groups, **p.optimizer_arguments())
    """
    batch_size = check_count("batch_size", batch_size, unit="samples")
    dataset_size = check_count("dataset_size", dataset_size, unit="samples")
    epochs = check_count("epochs", epochs)
    if batch_size > dataset_size:
        raise ValueError(f"batch_size must be <= dataset_size ({dataset_size:,} samples), got {batch_size:,}")
    known = optimizer in tuple(DEFAULTS)
    if not (known or (isinstance(optimizer, str) and ("." in optimizer or ":" in optimizer))):
        check_choice("optimizer", optimizer, tuple(DEFAULTS))
    check_choice("schedule", schedule, SCHEDULES)
    if optimizer == "tvlars" and schedule not in ("auto", "sigmoid"):
        raise ValueError(f"schedule must be 'auto' for tvlars, which has its own, got {schedule!r}")
    if schedule == "auto":
        schedule = "sigmoid" if optimizer == "tvlars" else "warmup-cosine"

    default = DEFAULTS[optimizer] if known else OTHER
    if lr is not None:
        lr = _plain("lr", lr, open_low=True)
    if known and default.momentum is None and (momentum is not None or nesterov):
        raise ValueError(f"momentum and nesterov must not be given for {optimizer}, which has none")
    momentum = default.momentum if momentum is None else momentum
    if momentum is not None:
        momentum = _plain("momentum", momentum, high=1.0, open_high=True)
    nesterov = bool(known and momentum) if nesterov is None else nesterov
    check_flag("nesterov", nesterov)
    if known and nesterov and not momentum:
        raise ValueError(f"momentum must be > 0 where nesterov=True, got {momentum!r}")
    weight_decay = default.weight_decay if weight_decay is None else _plain("weight_decay", weight_decay)
    if lr is None:
        lr = default.base_lr
        lr = scale_lr(lr, int(min(batch_size, default.largest_batch)), rule=default.rule) if known else lr
    scale = bias_norm_lr_scale
    if scale is None:  # what is not adapted takes no more than 1, however large the batch
        limit = 1.0 / lr if default.layerwise else 1.0
        scale = min(default.bias_norm_lr_scale, limit)
    scale = _plain("bias_norm_lr_scale", scale)
    noise = None if noise_scale is None else getattr(noise_scale, "value", noise_scale)
    if noise is not None and noise != math.inf:  # infinite where a gradient cannot be told from noise
        noise = _plain("noise_scale", noise, unit="samples")

    steps_per_epoch = dataset_size // batch_size
    total_steps = steps_per_epoch * epochs
    if total_steps < FEW_STEPS:
        warnings.warn(
            f"the run has {total_steps} optimizer steps, too few for a schedule to act; "
            f"take more epochs or a smaller batch_size, for at least {FEW_STEPS} steps",
            stacklevel=2,
        )
    return Plan(
        optimizer=optimizer,
        batch_size=batch_size,
        dataset_size=dataset_size,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        bias_norm_lr_scale=scale,
        schedule=schedule,
        noise_scale=noise,
        **_sigmoid_fields(schedule, total_steps, delay_factor, delay, alpha, gamma_min),
        **_warmup_cosine_fields(schedule, steps_per_epoch, epochs, warmup_epochs, final_factor),
    )


def _plain(name: str, value: Any, **limits: Any) -> float:
    """``value``, checked, as a number of Python, of NumPy's and of tensors with one element."""
    check_number(name, value, **limits)
    return value if type(value) in (int, float) else float(value)


def _sigmoid_fields(
    schedule: str,
    total_steps: int,
    delay_factor: float | None,
    delay: float | None,
    alpha: float | None,
    gamma_min: float | None,
) -> dict[str, Any]:
    if schedule != "sigmoid":
        if any(value is not None for value in (delay_factor, delay, alpha, gamma_min)):
            raise ValueError(f"delay_factor, delay, alpha and gamma_min must not be given for the {schedule} schedule")
        return {}
    alpha = 1.0 if alpha is None else alpha
    gamma_min = 0.0 if gamma_min is None else gamma_min
    alpha = _plain("alpha", alpha, open_low=True)
    gamma_min = _plain("gamma_min", gamma_min)
    if delay_factor is not None:
        delay_factor = _plain("delay_factor", delay_factor, unit="1/step")
    if delay is not None:
        delay = _plain("delay", delay, unit="steps")
    delay_factor, delay = _sigmoid_over(total_steps, alpha, delay_factor, delay)
    check_number("delay", delay, unit="steps")  # infinite where a delay_factor next to 0 meets an alpha
    return dict(delay_factor=delay_factor, delay=delay, alpha=alpha, gamma_min=gamma_min)


def _warmup_cosine_fields(
    schedule: str, steps_per_epoch: int, epochs: int, warmup_epochs: float | None, final_factor: float | None
) -> dict[str, Any]:
    if schedule != "warmup-cosine":
        for name, value in (("warmup_epochs", warmup_epochs), ("final_factor", final_factor)):
            if value is not None:
                raise ValueError(f"{name} must not be given for the {schedule} schedule, got {value!r}")
        return {}
    final_factor = 1e-3 if final_factor is None else final_factor
    if warmup_epochs is None:
        warmup_epochs = WARMUP_SHARE * epochs
    warmup_epochs = _plain("warmup_epochs", warmup_epochs, high=epochs, open_high=True, unit="epochs")
    final_factor = _plain("final_factor", final_factor, high=1.0)
    total_steps = steps_per_epoch * epochs
    warmup_steps = min(round(warmup_epochs * steps_per_epoch), total_steps - 1)
    return dict(warmup_steps=warmup_steps, final_factor=final_factor)
