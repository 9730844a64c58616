"""Choice of a learning rate and a schedule in steps from the size of a run, explained in words."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tvlars._checks import check_choice, check_count, check_flag, check_number, shown
from tvlars._notebook import Line, page, picture, pre
from tvlars._users_schedule import Simulated, UsersSchedule
from tvlars._words import counted
from tvlars.schedule import (
    TAILS,
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    PolynomialSchedule,
    Schedule,
    ScheduleLR,
    SigmoidSchedule,
    TrapezoidSchedule,
    _sigmoid_over,
    scale_lr,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES: dict[str, type[Schedule]] = {
    "sigmoid": SigmoidSchedule,
    "cosine": CosineSchedule,
    "linear": LinearSchedule,
    "polynomial": PolynomialSchedule,
    "trapezoid": TrapezoidSchedule,
    "constant": ConstantSchedule,
    "published-phi": SigmoidSchedule,
}
"""Schedules by name."""
SCHEDULES = ("auto", *CURVES)
OWN = "own"
"""Schedule of an optimizer with an LR scheduler of its own, whose factors are not known before the run."""
FALLING = ("cosine", "linear", "polynomial", "trapezoid")
"""Schedules that fall to ``final_factor`` at the end of the run, and warm up before by default."""
PUBLISHED_PHI = dict(delay_factor=1e-3, delay=0.0, alpha=0.1, gamma_min=0.0)
"""φ of the code published with the TVLARS paper, at its default λ."""

WARMUP_SHARE = 0.2
"""Share of a run that is warm-up by default, for schedules that fall to the end."""
HALF_SHARES = ((512, 0.5), (2048, 0.75), (8192, 0.9))
"""Batch sizes in samples, and the share of the steps after which φ is half way down, see docs/results/plan.md."""
MOST_STEPS = 200_000
"""Most steps of an LR scheduler that ``str()`` simulates (two seconds)."""
COLUMNS = 80
"""Width of the text of a plan, that of a narrow terminal."""
FEW_STEPS = 50
"""Below this many steps a run is too short for a schedule to act."""


class _Defaults(NamedTuple):
    base_lr: float  # at batch size 256
    rule: str
    largest_batch: float  # beyond it lr does not grow
    momentum: float | None
    weight_decay: float
    bias_norm_lr_scale: float  # at most
    schedule: str = "cosine"
    layerwise: bool = True  # if True, lr * bias_norm_lr_scale is kept at 1 or less


# Rates and schedules of tvlars and lars: docs/results/plan.md; sgd and adamw have the usual recipes.
DEFAULTS = {
    "tvlars": _Defaults(16.0, "sqrt", 512, 0.9, 1e-4, 0.03, "sigmoid"),
    "lars": _Defaults(16.0, "sqrt", 1024, 0.9, 1e-4, 0.03, "linear"),
    "lamb": _Defaults(0.015, "sqrt", 2048, None, 0.01, 0.03),
    "sgd": _Defaults(0.1, "linear", math.inf, 0.9, 5e-4, 1.0, layerwise=False),
    "adamw": _Defaults(1e-3, "sqrt", math.inf, None, 0.01, 1.0, layerwise=False),
}
OTHER = _Defaults(math.nan, "", math.inf, None, math.nan, 1.0, layerwise=False)
"""Any other optimizer, by import path: it has its own learning rate and weight decay, which are not known here."""


@dataclass(frozen=True)
class Plan:
    """A run in numbers, made by :func:`plan`. ``str()`` explains it, ``plot()`` draws its learning rate.

    ``total_steps``, ``steps_per_epoch``, ``warmup_steps`` and ``delay`` are in optimizer steps, ``delay_factor`` in
    1/step, ``batch_size`` and ``dataset_size`` in samples. ``epochs`` includes a last epoch that is not whole. A plan
    of streamed data has no ``dataset_size``, and counts as one epoch. ``momentum`` is None if the optimizer has none.
    ``schedule`` is the name of the schedule, and the fields of other schedules are None; ``users_schedule`` is a
    function or an LR scheduler of your own, or None. ``noise_scale`` is the measured B_simple in samples, or None.
    ``lr`` and ``weight_decay`` are NaN if an optimizer given by import path uses its own; ``lr_from`` names the source
    of lr if that is not the plan.
    """

    optimizer: str
    batch_size: int
    dataset_size: int | None
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
    power: float | None = None
    decay_share: float | None = None
    decay_tail: str | None = None
    users_schedule: UsersSchedule | None = None
    noise_scale: float | None = None
    lr_from: str = ""

    def optimizer_arguments(self) -> dict[str, Any]:
        """Return keyword arguments of the optimizer's constructor: ``TVLARS(params, **plan.optimizer_arguments())``."""
        arguments: dict[str, Any] = dict(lr=self.lr, weight_decay=self.weight_decay)
        arguments = {name: value for name, value in arguments.items() if not math.isnan(value)}
        if self.momentum is not None:
            arguments.update(momentum=self.momentum, nesterov=self.nesterov)
        if self.optimizer == "tvlars":
            arguments.update(
                delay_factor=self.delay_factor, delay=self.delay, alpha=self.alpha, gamma_min=self.gamma_min
            )
        return arguments

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, NaN as None; a schedule of your own is named with its arguments."""
        own = self.users_schedule and self.users_schedule.described(self)
        found = {one.name: getattr(self, one.name) for one in fields(self)} | {"users_schedule": own}
        unknown = ("lr", "weight_decay")
        return found | {name: None for name in unknown if math.isnan(found[name])}  # JSON has no NaN

    @property
    def curve(self) -> Schedule | None:
        """The schedule as a function of the step; None for a user-defined schedule."""
        return self._curve

    @cached_property
    def _curve(self) -> Schedule | None:
        kind = CURVES.get(self.schedule)
        if self.users_schedule is not None or kind is None:
            return None
        return kind(**{one.name: getattr(self, one.name) for one in fields(kind)})

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the LR scheduler to step after every optimizer step.

        None for TVLARS, which has φ built in, and for a learning rate that is constant without warm-up.

        Raises:
            ValueError: an argument of an LR scheduler of your own is invalid.
        """
        if self.users_schedule is not None:
            return self.users_schedule.build(optimizer, self)
        if self.optimizer == "tvlars" or self.curve is None or self.curve == ConstantSchedule():
            return None
        return ScheduleLR(optimizer, self.curve)

    def factor(self, step: float) -> float:
        """Return the factor of ``lr`` at optimizer step ``step`` (1 at the first): φ, or the schedule.

        NaN if the optimizer comes with an LR scheduler of its own.
        An LR scheduler of your own is simulated on an optimizer without gradients.
        """
        if self.users_schedule is not None:
            if self.users_schedule.is_scheduler:
                return self._simulated.factor(int(step))
            return self.users_schedule.factor(int(step), self)
        return math.nan if self.curve is None else self.curve(step)

    @cached_property
    def _simulated(self) -> Simulated:
        return Simulated(cast(UsersSchedule, self.users_schedule), self)

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
        steps = self._steps_drawn(1000)
        ax.plot(steps, [self.lr * self.factor(step) for step in steps], label=self.optimizer)
        ax.set(xlabel="optimizer step", ylabel="learning rate * factor", ylim=(0, None))
        ax.margins(x=0)
        if isinstance(self.curve, SigmoidSchedule) and 0 < self._half_way() <= self.total_steps:
            ax.axvline(self._half_way(), linestyle=":", linewidth=1, color="0.5")
        ax.legend(frameon=False)
        return ax

    def _steps_drawn(self, most: int) -> list[float]:
        """Return at most ``most`` steps from the first to the last, evenly spaced."""
        points = min(self.total_steps, most)
        steps = [1 + (self.total_steps - 1) * i / max(points - 1, 1) for i in range(points)]
        return steps if self.users_schedule is None else [round(step) for step in steps]

    def __repr__(self) -> str:
        names = ("optimizer", "batch_size", "epochs", "total_steps", "lr", "schedule")
        values = ((name, getattr(self, name)) for name in names)
        said = (f"{name}={format(value, '.4g') if isinstance(value, float) else repr(value)}" for name, value in values)
        return f"Plan({', '.join(said)})"

    def _repr_html_(self) -> str:
        """Return the text of ``str()`` with the curve of the learning rate, for notebooks."""
        slow = self.users_schedule is not None and self.users_schedule.is_scheduler and self.total_steps > MOST_STEPS
        steps, known = [] if slow else self._steps_drawn(300), not math.isnan(self.lr)
        values = [(self.lr if known else 1.0) * self.factor(step) for step in steps]
        title = "learning rate" if known else "factor of the learning rate"
        return page(pre(self), picture([Line(steps, values)], title, "optimizer step", zero=True))

    def __str__(self) -> str:
        length = self.total_steps / self.steps_per_epoch
        epochs = counted(self.epochs, "epoch") if length == self.epochs else f"{length:.3g} epochs"
        run = f"{epochs} of {counted(self.dataset_size, 'sample')}" if self.dataset_size else "a stream of samples"
        steps = f"{self.steps_per_epoch} per epoch, {self.total_steps} in total"
        if self.dataset_size is None:
            steps = f"{self.total_steps} in total, {self.total_steps * self.batch_size:,} samples"
        lines = [
            f"{self.optimizer}, batch size {self.batch_size:,}, {run}",
            f"  steps      {steps}",
            *self._dropped(),
            f"  lr         {self.lr:g}{f' ({self.lr_from})' if self.lr_from else ''}"
            if not math.isnan(self.lr)
            else f"  lr         that of {self.optimizer}",
        ]
        if self.bias_norm_lr_scale != 1.0:
            raw = self.lr * self.bias_norm_lr_scale
            lines.append(f"             {raw:g} for biases and norms (x {self.bias_norm_lr_scale:g}), not adapted")
        lines += self._schedule_lines()
        momentum = (
            "" if self.momentum is None else f", momentum {self.momentum:g}{' (nesterov)' if self.nesterov else ''}"
        )
        decay = f"that of {self.optimizer}" if math.isnan(self.weight_decay) else f"{self.weight_decay:g}"
        lines.append(f"  others     weight decay {decay}{momentum}")
        if self.noise_scale is not None:
            lines += self._noise()
        how: dict[str, Any] = dict(subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False)
        return "\n".join(textwrap.fill(line, COLUMNS, **how) for line in lines)

    def _noise(self) -> list[str]:
        """Explain what the noise scale means for this batch size (McCandlish et al. 2018, section 2.3)."""
        noise = cast(float, self.noise_scale)
        if not math.isfinite(noise):
            return ["  noise      B_simple is infinite: gradients are pure noise, twice the batch needs half the steps"]
        lines = [
            f"  noise      B_simple = {noise:,.0f} samples: this batch needs {1 + noise / self.batch_size:.3g} x the "
            f"fewest steps and {1 + self.batch_size / noise:.3g} x the fewest samples"
            if noise
            else "  noise      B_simple = 0: gradients have no noise, so a larger batch saves nothing"
        ]
        if 0 < 10 * noise < self.batch_size:
            lines.append(
                f"             {10 * noise:,.0f} samples per step would need at most 1.1 x the fewest steps too"
            )
        elif self.batch_size < 0.1 * noise:
            lines.append("             twice the batch needs about half of the steps, at no cost in samples")
        return lines

    def _schedule_lines(self) -> list[str]:
        warmup = f"linear warm-up over {counted(self.warmup_steps, 'step')}, then " if self.warmup_steps else ""
        if isinstance(self.curve, SigmoidSchedule):
            return [
                *([f"  schedule   {warmup}phi"] if warmup else []),
                f"  phi        {self.factor(self.warmup_steps or 1):.3g} at step {self.warmup_steps or 1}, "
                f"{self.factor(self.total_steps / 3):.3g} after a third, "
                f"{self.factor(self.total_steps):.2g} at the end",
                f"             {self._where_it_falls()}: delay = {self.delay:g} steps,",
                f"             delay_factor = {self.delay_factor:.4g} per step, gamma_min = {self.gamma_min:g}, "
                f"alpha = {self.alpha:g}",
            ]
        if self.schedule in FALLING and self.users_schedule is None:
            without = "" if self.warmup_steps else ", without warm-up"
            how = {"polynomial": f"polynomial of power {self.power:g}"} if self.power is not None else {}
            end = f"{100 * self.final_factor:g} % of lr" if self.final_factor else "0"
            if isinstance(self.curve, TrapezoidSchedule):
                tail = "linear" if self.decay_tail == "linear" else "1 - sqrt"
                decay = f"from step {self.curve.decay_start:g} on {tail} decay to {end}{without}"
                return [f"  schedule   {warmup}the full rate,", f"             {decay}"]
            return [f"  schedule   {warmup}{how.get(self.schedule, self.schedule)} to {end}{without}"]
        if self.users_schedule is None:
            return [f"  schedule   {f'that of {self.optimizer}' if self.schedule == OWN else f'{warmup}constant'}"]
        first, last = f"{self.factor(1):.3g} x lr at step 1", self.total_steps
        if last <= MOST_STEPS or not self.users_schedule.is_scheduler:
            first += f", {self.factor(max(last // 3, 1)):.3g} after a third, {self.factor(last):.3g} at the end"
        return [f"  schedule   {self.users_schedule.described(self)}", f"             {first}"]

    def _dropped(self) -> list[str]:
        rest = (self.dataset_size or 0) % self.batch_size
        nouns = (f"{one} per epoch, drawn anew each time, {do}" for one, do in (("sample", "does"), ("samples", "do")))
        return [f"             {counted(rest, *nouns)} not fill a batch"] if rest else []

    def _where_it_falls(self) -> str:
        place = self._half_way()
        return f"half way down at step {place:g}" if place > 0 else "falling from the first step on"

    def _half_way(self) -> float:
        """Return the step at which φ − γ_min is at half of its bound 1/α: α = exp(λ (t − d_e))."""
        curve = cast(SigmoidSchedule, self.curve)
        return curve.delay + math.log(curve.alpha) / curve.delay_factor if curve.delay_factor else curve.delay


def plan(
    batch_size: int,
    dataset_size: int | None = None,
    epochs: int | None = None,
    optimizer: str = "tvlars",
    *,
    total_steps: int | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    weight_decay: float | None = None,
    bias_norm_lr_scale: float | None = None,
    schedule: str | Callable[..., Any] = "auto",
    schedule_options: Mapping[str, Any] | None = None,
    delay_factor: float | None = None,
    delay: float | None = None,
    alpha: float | None = None,
    gamma_min: float | None = None,
    warmup_epochs: float | None = None,
    warmup_steps: int | None = None,
    final_factor: float | None = None,
    power: float | None = None,
    decay_share: float | None = None,
    decay_tail: str | None = None,
    noise_scale: Any = None,
) -> Plan:
    """Choose learning rate and schedule in steps for ``epochs`` over ``dataset_size`` samples, or for ``total_steps``.

    Given arguments are kept; None means chosen by the plan. lr is scaled by :func:`scale_lr` from
    a rate measured at batch size 256. For the layer-wise optimizers it grows with the square root of the batch size up
    to a limit (512 samples for TVLARS, 1,024 for LARS, 2,048 for LAMB): it determines the share of its norm by which a
    step moves a layer, and the share that a layer tolerates does not depend on the batch size.

    φ of TVLARS is half way down after 50 % of the steps up to a batch size of 512, 75 % at 2,048 and 90 % from 8,192 on
    (linear in the logarithm between them), and at 2 % of its start at the last step. LARS falls linearly from the first
    step on. These had the smallest regrets of the candidates that were measured (docs/results/plan.md). The others warm
    up linearly over a fifth of the run and then follow half a cosine.

    Args:
        batch_size: samples per optimizer step over all processes, at most ``dataset_size``.
        dataset_size: samples in the training set. There are dataset_size // batch_size steps per epoch;
            samples that do not fill a batch are left for the next shuffle.
        epochs: passes over the training set.
        total_steps: optimizer steps of the run, in place of ``epochs``: the last epoch may be a part of one. Without
            ``dataset_size`` the data are streamed.
        optimizer: "tvlars" (default), "lars", "lamb", "sgd" or "adamw"; or the import path of any other optimizer, as
            "torch.optim.NAdam", of which nothing is chosen but the schedule.
        lr: learning rate > 0. Default for an import path: NaN, which leaves it to the optimizer.
        momentum: in [0, 1); only for an optimizer with momentum, as is ``nesterov``.
        nesterov: True by default if there is momentum.
        weight_decay: >= 0. Default for an import path: NaN, which leaves it to the optimizer.
        bias_norm_lr_scale: >= 0, for :func:`layer_groups`. Chosen, it is 0.03 for the layer-wise optimizers, less
            where lr * 0.03 would be above 1, and 1 for sgd and adamw.
        schedule: "auto" (default: "sigmoid" for tvlars, "linear" for lars, "cosine" for the others), "sigmoid",
            "cosine", "linear", "polynomial", "trapezoid", "constant" or "published-phi"; tvlars uses its own φ alone.
            Or one of your own: a function ``(step, plan) -> factor``, or a torch LR scheduler such as
            ``torch.optim.lr_scheduler.OneCycleLR``, stepped after every optimizer step.
        schedule_options: further arguments of a schedule of your own, by name. Arguments of a scheduler called
            total_steps, T_max, total_iters or num_training_steps are the steps of the run, and max_lr is the learning
            rate of each group, unless they are given; a number given as max_lr or base_lr is that of the first group,
            and the others keep their ratio to it.
        delay_factor: λ >= 0 (1/step), of the sigmoid schedule, and of published-phi, where it is 1e-3 by default.
        delay: d_e >= 0 (steps), of the sigmoid schedule.
        alpha: α > 0, of the sigmoid schedule. Default 1.0.
        gamma_min: γ_min >= 0, of the sigmoid schedule. Default 0.0; the paper uses B / B_base * 1e-3.
        warmup_epochs: epochs of linear warm-up, >= 0 and < ``epochs``. Default a fifth for cosine, linear, polynomial
            and trapezoid, 0 for sigmoid, constant, published-phi and the linear schedule of lars.
        warmup_steps: the same in optimizer steps, in place of ``warmup_epochs``.
        final_factor: in [0, 1], where cosine, linear, polynomial and trapezoid end. Default 1e-3.
        power: > 0, of the polynomial schedule. Default 2.0.
        decay_share: in (0, 1], the share of the steps in which the trapezoid schedule decays. Default 0.2.
        decay_tail: "linear" (default) or "sqrt" (1 - sqrt), the decay of the trapezoid schedule.
        noise_scale: B_simple > 0 in samples, or a result of :func:`tvlars.noise_scale.noise_scale`. It changes no
            number; ``str()`` of the plan explains its meaning for this batch size.

    Returns:
        A :class:`Plan`.

    Raises:
        ValueError: an argument is out of its range, or does not apply to the optimizer or schedule.

    Warns:
        UserWarning: the run has fewer than 50 steps, too few for any schedule to act.

    Example:
        >>> p = plan(batch_size=4096, dataset_size=60_000, epochs=15)
        >>> print(p)
        >>> groups = layer_groups(model, p)
        >>> optimizer = TVLARS(groups, **p.optimizer_arguments())
    """
    batch_size = check_count("batch_size", batch_size, unit="samples")
    length = _length(batch_size, dataset_size, epochs, total_steps)
    known = optimizer in tuple(DEFAULTS)
    if not (known or (isinstance(optimizer, str) and ("." in optimizer or ":" in optimizer))):
        check_choice("optimizer", optimizer, tuple(DEFAULTS))
    default = DEFAULTS[optimizer] if known else OTHER
    if isinstance(schedule, str):
        check_choice("schedule", schedule, SCHEDULES)
    if optimizer == "tvlars" and schedule not in ("auto", "sigmoid"):
        raise ValueError(f"schedule must be 'auto' for tvlars, which has its own, got {shown(schedule)}")
    if schedule == "auto":
        schedule = default.schedule
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
        raise ValueError(f"momentum must be > 0 if nesterov=True, got {momentum!r}")
    weight_decay = default.weight_decay if weight_decay is None else _plain("weight_decay", weight_decay)
    if lr is None:
        lr = default.base_lr
        lr = scale_lr(lr, int(min(batch_size, default.largest_batch)), rule=default.rule) if known else lr
    scale = bias_norm_lr_scale
    if scale is None:  # layers that are not adapted get an lr of at most 1, however large the batch
        limit = 1.0 / lr if default.layerwise else 1.0
        scale = min(default.bias_norm_lr_scale, limit)
    scale = _plain("bias_norm_lr_scale", scale)
    noise = None if noise_scale is None else getattr(noise_scale, "value", noise_scale)
    if noise is not None and noise != math.inf:  # infinite where a gradient cannot be told from noise
        noise = _plain("noise_scale", noise, unit="samples")

    if length.total_steps < FEW_STEPS:
        evidence, remedy = few_steps(length.total_steps)
        warnings.warn(f"few steps: {evidence}; {remedy}", stacklevel=2)
    options = dict(
        **dict(delay_factor=delay_factor, delay=delay, alpha=alpha, gamma_min=gamma_min),
        **dict(warmup_epochs=warmup_epochs, warmup_steps=warmup_steps, final_factor=final_factor),
        **dict(power=power, decay_share=decay_share, decay_tail=decay_tail),
    )
    made = Plan(
        optimizer=optimizer,
        batch_size=batch_size,
        **length._asdict(),
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        bias_norm_lr_scale=scale,
        noise_scale=noise,
        **_schedule_fields(optimizer, schedule, schedule_options, length, options, batch_size),
    )
    if made.users_schedule is not None:  # errors are raised now, not during the run
        made.factor(1)
        if not made.users_schedule.is_scheduler:
            made.factor(made.total_steps)
    return made


def few_steps(total_steps: int) -> tuple[str, str]:
    """Return the evidence and the remedy of a run of fewer than ``FEW_STEPS`` steps."""
    evidence = f"{counted(total_steps, 'optimizer step is', 'optimizer steps are')} too few for a schedule to act"
    return evidence, f"more epochs or a smaller batch size give more, take at least {FEW_STEPS}"


class _Length(NamedTuple):
    """Length of a run in samples, epochs (a part of one counts) and optimizer steps."""

    dataset_size: int | None
    epochs: int
    steps_per_epoch: int
    total_steps: int

    @property
    def exact_epochs(self) -> float:
        """Passes over the training set, a fraction where the last one is not whole."""
        whole = self.total_steps == self.epochs * self.steps_per_epoch
        return self.epochs if whole else self.total_steps / self.steps_per_epoch


def _length(batch_size: int, dataset_size: Any, epochs: Any, total_steps: Any) -> _Length:
    """Return the length of a run that is given in epochs or in steps."""
    steps = None
    if total_steps is not None:
        if epochs is not None:
            raise ValueError(f"epochs must not be given with total_steps, got {shown(epochs)}")
        steps = check_count("total_steps", total_steps, unit="optimizer steps")
        if dataset_size is None:
            return _Length(None, 1, steps, steps)
    elif dataset_size is None or epochs is None:
        missing = "dataset_size" if dataset_size is None else "epochs"
        raise ValueError(f"{missing} must be given: dataset_size and epochs, or total_steps")
    dataset_size = check_count("dataset_size", dataset_size, unit="samples")
    if batch_size > dataset_size:
        raise ValueError(f"batch_size must be <= dataset_size ({dataset_size:,} samples), got {batch_size:,}")
    steps_per_epoch = dataset_size // batch_size
    if steps is not None:
        return _Length(dataset_size, -(-steps // steps_per_epoch), steps_per_epoch, steps)
    epochs = check_count("epochs", epochs)
    return _Length(dataset_size, epochs, steps_per_epoch, steps_per_epoch * epochs)


def _plain(name: str, value: Any, **limits: Any) -> float:
    """Check ``value`` and return it as a Python number, also from NumPy or a tensor of one element."""
    check_number(name, value, **limits)
    return value if type(value) in (int, float) else float(value)


_OWN = {
    "sigmoid": ("delay_factor", "delay", "alpha", "gamma_min"),
    "published-phi": ("delay_factor",),
    "polynomial": ("power",),
    "trapezoid": ("decay_share", "decay_tail"),
}
"""Options that schedules have besides warm-up and ``final_factor``."""


def options_of_schedule(schedule: str) -> tuple[str, ...]:
    """Return the names of the arguments of :func:`plan` that the schedule ``schedule`` has."""
    if schedule not in CURVES:
        return ("schedule_options",)
    last = ("final_factor",) if schedule in FALLING else ()
    return "warmup_epochs", "warmup_steps", *last, *_OWN.get(schedule, ())


def _schedule_fields(
    optimizer: str,
    schedule: str | Callable[..., Any],
    schedule_options: Mapping[str, Any] | None,
    length: _Length,
    options: dict[str, Any],
    batch_size: int,
) -> dict[str, Any]:
    """Return the fields of a plan that describe its schedule, from the given ``options``."""
    given = {name: value for name, value in options.items() if value is not None}
    own = None if isinstance(schedule, str) else UsersSchedule(schedule, dict(schedule_options or {}))
    name = schedule if isinstance(schedule, str) else cast(UsersSchedule, own).name
    known = options_of_schedule(schedule if isinstance(schedule, str) else "")
    if own is None and schedule_options:
        raise ValueError(f"schedule_options must not be given for the {name} schedule, got {shown(schedule_options)}")
    for option, value in given.items():
        if option not in known:
            raise ValueError(f"{option} must not be given for the {name} schedule, got {shown(value)}")
        if optimizer == "tvlars" and option.startswith("warmup"):
            raise ValueError(f"{option} must not be given for tvlars, which has no warm-up, got {shown(value)}")
    if own is not None:
        return dict(schedule=name, users_schedule=own)
    found: dict[str, Any] = {"schedule": name}
    if optimizer != "tvlars":
        share = WARMUP_SHARE if name in FALLING and (optimizer, name) != ("lars", "linear") else 0
        found["warmup_steps"] = _warmup_steps(share, length, given)
    elif schedule == "sigmoid":
        found["warmup_steps"] = 0
    if name in FALLING:
        found["final_factor"] = _plain("final_factor", given.get("final_factor", 1e-3), high=1.0)
    if name == "polynomial":
        found["power"] = _plain("power", given.get("power", 2.0), open_low=True)
    if name == "trapezoid":
        found["decay_share"] = _plain("decay_share", given.get("decay_share", 0.2), high=1.0, open_low=True)
        found["decay_tail"] = given.get("decay_tail", "linear")
        check_choice("decay_tail", found["decay_tail"], TAILS)
    if name in ("sigmoid", "published-phi"):
        given = {**(PUBLISHED_PHI if name != "sigmoid" else {}), **given}
        found |= _sigmoid_fields(length.total_steps, given, batch_size)
    return found


def half_share(batch_size: int) -> float:
    """Return the share of the steps after which a planned φ is half way down, for a batch size in samples."""
    place = math.log2(batch_size)
    (low, share), *more = ((math.log2(size), share) for size, share in HALF_SHARES)
    for high, next_share in more:
        if place <= high:
            return share + (next_share - share) * max(place - low, 0.0) / (high - low)
        low, share = high, next_share
    return share


def _sigmoid_fields(total_steps: int, given: dict[str, Any], batch_size: int) -> dict[str, Any]:
    alpha = _plain("alpha", given.get("alpha", 1.0), open_low=True)
    gamma_min = _plain("gamma_min", given.get("gamma_min", 0.0))
    delay_factor, delay = given.get("delay_factor"), given.get("delay")
    if delay_factor is not None:
        delay_factor = _plain("delay_factor", delay_factor, unit="1/step")
    if delay is not None:
        delay = _plain("delay", delay, unit="steps")
    delay_factor, delay = _sigmoid_over(total_steps, alpha, delay_factor, delay, half_share(batch_size))
    check_number("delay", delay, unit="steps")  # infinite where a delay_factor next to 0 meets an alpha
    return dict(delay_factor=delay_factor, delay=delay, alpha=alpha, gamma_min=gamma_min)


def _warmup_steps(share: float, length: _Length, given: dict[str, Any]) -> int:
    """Return the number of warm-up steps, less than the steps of the run; ``share`` of them by default."""
    if "warmup_steps" in given:
        if "warmup_epochs" in given:
            raise ValueError(
                f"warmup_steps must not be given with warmup_epochs, got {shown(given['warmup_steps'])} and "
                f"{shown(given['warmup_epochs'])}"
            )
        steps = check_count("warmup_steps", given["warmup_steps"], low=0, unit="optimizer steps")
        if steps >= length.total_steps:
            raise ValueError(f"warmup_steps must be < {length.total_steps}, the steps of the run, got {steps}")
        return steps
    if "warmup_epochs" in given and length.dataset_size is None:
        said = shown(given["warmup_epochs"])
        raise ValueError(f"warmup_steps must be given in place of warmup_epochs with total_steps, got {said}")
    whole = length.exact_epochs
    epochs = given.get("warmup_epochs", share * whole)
    epochs = _plain("warmup_epochs", epochs, high=whole, open_high=True, unit="epochs")
    return min(round(epochs * length.steps_per_epoch), length.total_steps - 1)
