"""Learning-rate schedules in closed form: functions of the step, and one LR scheduler for all of them.

Steps are optimizer steps and are counted from 1: the first call of ``optimizer.step()`` is step 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tvlars._checks import check_choice, check_count, check_number, shown

Step = TypeVar("Step", float, Tensor, float | Tensor)

HALF_SHARE = 0.75
"""Share of a run's steps at which φ is at half its start."""
END_FRACTION = 0.02
"""Share of φ's start that is left at the last step, without the floor."""


def sigmoid_decay(step: Step, delay_factor: float, delay: float, alpha: float = 1.0, gamma_min: float = 0.0) -> Step:
    r"""Return the factor of TVLARS: high from the first step, held until the delay, then decaying to a floor.

    .. math:: \varphi(t) = \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min}

    It never increases with t and lies in [gamma_min, 1/alpha + gamma_min]. The exponent is bounded before
    ``exp``, so that no t overflows.

    Args:
        step: t, in steps, 1 at the first one. A number, or a tensor of any shape.
        delay_factor: λ >= 0 (1/step), how steep the decay is. At 0 the factor is constant.
        delay: d_e >= 0 (steps). With ``alpha=1`` the factor is at half its start here.
        alpha: α > 0, bounds the factor above by 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the floor. Default 0.0. The paper uses batch size / base batch size * 1e-3.

    Returns:
        φ(t), of the type, shape and dtype of ``step``; float64 for integer tensors (float32 on MPS).

    Raises:
        ValueError: a value is out of its range, NaN or infinite.
        TypeError: ``step`` is a tensor of booleans or complex numbers.

    Source: Do et al., arXiv 2309.14053, the time-varying component of TVLARS; the published code is the
    case alpha=0.1, delay=0, gamma_min=0.
    """
    _check_sigmoid_decay(delay_factor, delay, alpha, gamma_min)
    if not isinstance(step, Tensor):
        check_number("step", step, low=-math.inf, unit="steps")
    elif step.is_complex() or step.dtype == torch.bool:
        raise TypeError(f"step must be a tensor of integers or floating point numbers, got one of {step.dtype}")
    phi: Step = _sigmoid_decay(step, delay_factor, delay, alpha, gamma_min)
    return phi


def _check_sigmoid_decay(delay_factor: Any, delay: Any, alpha: Any, gamma_min: Any) -> None:
    check_number("delay_factor", delay_factor, unit="1/step")
    check_number("delay", delay, unit="steps")
    check_number("alpha", alpha, open_low=True)
    check_number("gamma_min", gamma_min)


@overload
def _sigmoid_decay(step: float, delay_factor: float, delay: float, alpha: float, gamma_min: float) -> float: ...


@overload
def _sigmoid_decay(step: Any, delay_factor: Any, delay: Any, alpha: Any, gamma_min: Any) -> Any: ...


def _sigmoid_decay(step: Any, delay_factor: Any, delay: Any, alpha: Any, gamma_min: Any) -> Any:
    """``sigmoid_decay`` without the checks, for an optimizer that has checked its group once.

    Derivatives flow to arguments that are tensors.
    """
    exponent = delay_factor * _since(step, delay)
    if isinstance(exponent, Tensor):
        growth: Any = exponent.clamp(max=math.log(torch.finfo(exponent.dtype).max)).exp()
    else:
        growth = math.exp(min(exponent, 709.0))
    return 1.0 / (alpha + growth) + gamma_min


def _since(step: Any, delay: Any) -> Any:
    """Return t − d_e, exact to rounding for any size of both: t stays an integer until d_e is subtracted."""
    if isinstance(step, Tensor) and not step.is_floating_point():
        whole = 0 if isinstance(delay, Tensor) else int(min(delay, 2.0**62))
        return _as_float(step - whole) - (delay - whole)
    if isinstance(delay, Tensor) and not isinstance(step, Tensor):
        return torch.full((), step, dtype=_wide(delay), device=delay.device) - delay
    return step - delay


def _as_float(count: Tensor) -> Tensor:
    """Return an integer tensor as floating point, without loss of digits if the device has float64."""
    return count.to(_wide(count))


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _sigmoid_over(
    total_steps: int,
    alpha: float = 1.0,
    delay_factor: float | None = None,
    delay: float | None = None,
    half_share: float = HALF_SHARE,
) -> tuple[float, float]:
    """Return λ and d_e of a φ that falls over ``total_steps`` optimizer steps; given values are kept.

    φ = 1/α / (1 + exp(λ (t − d_e) − ln α)) + γ_min: half way down where the exponent is 0, after ``half_share`` of the
    steps, and at ``END_FRACTION`` of its start where it is ``fall``.
    """
    fall, shift = math.log(1 / END_FRACTION - 1), math.log(alpha)
    if delay is None:
        half_way = min(round(half_share * total_steps), total_steps - 1)
        if delay_factor is None:
            delay_factor = fall / (total_steps - half_way)
        delay = max(half_way - shift / delay_factor, 0.0) if delay_factor else half_way
    elif delay_factor is None:  # a delay beyond 90 % of the run gets the slope of a delay at 90 %
        delay_factor = max(fall + shift, 0.0) / max(total_steps - delay, 0.1 * total_steps)
    return delay_factor, delay


def _slope_and_delay(who: str, total_steps: Any, delay: Any, delay_factor: Any, alpha: float = 1.0) -> tuple[Any, Any]:
    """Return λ and d_e, as given or derived from the length of the run.

    Raises:
        ValueError: neither these nor the length are given, or both, or only one of λ and d_e; the length is invalid.
    """
    if total_steps is not None:
        if delay is not None or delay_factor is not None:
            raise ValueError(
                "total_steps must not be given with delay or delay_factor, which follow from it; "
                f"got total_steps={total_steps!r}, delay={delay!r}, delay_factor={delay_factor!r}"
            )
        total_steps = check_count("total_steps", total_steps, unit="optimizer steps")
        if total_steps >= 2**63:
            raise ValueError(f"total_steps must be < 2**63 (optimizer steps), got {shown(total_steps)}")
        return _sigmoid_over(total_steps, alpha)
    if delay is None and delay_factor is None:
        raise ValueError(
            f"{who} needs the length of the run, over which phi decays: give total_steps, or delay and delay_factor, "
            "or the optimizer_arguments() of plan(batch_size, dataset_size, epochs); a plan for another optimizer, "
            "such as LARS, has no phi: make it with optimizer='tvlars'"
        )
    if delay is None or delay_factor is None:
        raise ValueError(
            "delay and delay_factor must be given together, or total_steps in place of both; "
            f"got delay={delay!r}, delay_factor={delay_factor!r}"
        )
    return delay_factor, delay


@dataclass(frozen=True)
class Schedule(ABC):
    """Factor of the learning rate as a function of the step: ``schedule(t)``, with t = 1 at the first step.

    The subclasses are frozen dataclasses of checked plain numbers. :class:`ScheduleLR` applies a schedule to a torch
    optimizer, ``tvlars.jax.as_optax`` converts it to an optax schedule.
    """

    @abstractmethod
    def __call__(self, step: float) -> float:
        """Return the factor at optimizer step ``step``, 1 at the first one."""

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class _Warmed(Schedule):
    """Linear warm-up, then a factor of its own."""

    @abstractmethod
    def _after_warmup(self, step: Any, ops: Any) -> Any:
        """Return the factor at ``step`` > warm-up; ``ops`` has ``cos`` and ``sqrt``, and ``clip`` to [0, 1]."""

    def _at_peak(self) -> float:
        """Return the factor at the end of the warm-up."""
        return 1.0

    def __call__(self, step: float) -> float:
        warmup: int = self.warmup_steps  # type: ignore[attr-defined]
        if step <= warmup and warmup:
            return step / warmup * self._at_peak()
        factor: float = self._after_warmup(step, _Numbers)
        return factor


class _Numbers:
    """Operations on Python's numbers; ``tvlars.jax`` has the same on arrays."""

    cos, sqrt = math.cos, math.sqrt

    @staticmethod
    def clip(x: float) -> float:
        return min(max(x, 0.0), 1.0)


@dataclass(frozen=True)
class _Decay(_Warmed):
    """Linear warm-up, then a fall from 1 to ``final_factor`` at ``total_steps``, where it stays."""

    total_steps: int
    warmup_steps: int = 0
    final_factor: float = 1e-3

    def __post_init__(self) -> None:
        total = check_count("total_steps", self.total_steps, unit="steps")
        warmup = check_count("warmup_steps", self.warmup_steps, low=0, unit="steps")
        if warmup >= total:
            raise ValueError(f"warmup_steps must be < total_steps ({total}), got {warmup}")
        check_number("final_factor", self.final_factor, high=1.0)
        self._set(total_steps=total, warmup_steps=warmup, final_factor=_number("final_factor", self.final_factor))

    @property
    def decay_start(self) -> float:
        """Step at which the fall begins."""
        return self.warmup_steps

    @abstractmethod
    def _shape(self, progress: Any, ops: Any) -> Any:
        """Return 1 at ``progress`` = 0, falling to 0 at 1."""

    def _after_warmup(self, step: Any, ops: Any) -> Any:
        start = self.decay_start
        progress = ops.clip((step - start) / (self.total_steps - start))
        return self.final_factor + (1.0 - self.final_factor) * self._shape(progress, ops)


@dataclass(frozen=True)
class CosineSchedule(_Decay):
    r"""Linear warm-up, then half a cosine: the usual schedule of LARS and LAMB.

    .. math:: t/w \text{ for } t \le w, \qquad f + (1 - f)\,\tfrac12\bigl(1 + \cos\pi p\bigr), \quad
        p = \tfrac{t - w}{T - w} \text{ for } w < t \le T, \qquad f \text{ after } T

    Args:
        total_steps: T >= 1 (steps), where the factor reaches ``final_factor``.
        warmup_steps: w >= 0 (steps), less than ``total_steps``; the factor reaches 1 there. Default 0.
        final_factor: f in [0, 1]. Default 1e-3, as in the baselines of the TVLARS paper.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.

    Source: Loshchilov and Hutter, arXiv 1608.03983, without restarts.
    """

    def _shape(self, progress: Any, ops: Any) -> Any:
        return 0.5 * (1.0 + ops.cos(math.pi * progress))


@dataclass(frozen=True)
class LinearSchedule(_Decay):
    r"""Linear warm-up, then a straight line down.

    .. math:: t/w \text{ for } t \le w, \qquad f + (1 - f)(1 - p), \quad p = \tfrac{t - w}{T - w}

    Args:
        total_steps, warmup_steps, final_factor: T, w and f, as for :class:`CosineSchedule`.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.
    """

    def _shape(self, progress: Any, ops: Any) -> Any:
        return 1.0 - progress


@dataclass(frozen=True)
class PolynomialSchedule(_Decay):
    r"""Linear warm-up, then a power of the share of steps that remain; MLPerf uses power 2 with LARS.

    .. math:: t/w \text{ for } t \le w, \qquad f + (1 - f)(1 - p)^k, \quad p = \tfrac{t - w}{T - w}

    Args:
        total_steps, warmup_steps, final_factor: T, w and f, as for :class:`CosineSchedule`.
        power: k > 0. Default 2.0; 1 is :class:`LinearSchedule`.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.

    Source: You, Gitman and Ginsburg, arXiv 1708.03888; MLPerf Training's rules for ResNet.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("power", self.power, open_low=True)
        self._set(power=_number("power", self.power))

    def _shape(self, progress: Any, ops: Any) -> Any:
        return (1.0 - progress) ** self.power


TAILS = ("linear", "sqrt")


@dataclass(frozen=True)
class TrapezoidSchedule(_Decay):
    r"""Linear warm-up, then the full rate, then a decay over the last steps ("warmup-stable-decay").

    .. math:: t/w \text{ for } t \le w, \qquad f + (1 - f)(1 - p) \text{ or } f + (1 - f)(1 - \sqrt p), \quad
        p = \max\bigl(0, \tfrac{t - s}{T - s}\bigr), \quad s = \max\bigl(w, (1 - d)\,T\bigr)

    Args:
        total_steps, warmup_steps, final_factor: T, w and f, as for :class:`CosineSchedule`.
        decay_share: d in (0, 1], the share of all steps in which the factor decays, at most all steps after the
            warm-up. Default 0.2.
        decay_tail: "linear" (default), or "sqrt" for 1 - sqrt(p), which falls faster at first.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.

    Source: Zhai et al., arXiv 2106.04560; for the tails Hägele et al., arXiv 2405.18392.
    """

    decay_share: float = 0.2
    decay_tail: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay_share", self.decay_share, high=1.0, open_low=True)
        check_choice("decay_tail", self.decay_tail, TAILS)
        self._set(decay_share=_number("decay_share", self.decay_share))

    @property
    def decay_start(self) -> float:
        """Step at which the decay begins."""
        return max(self.warmup_steps, (1.0 - self.decay_share) * self.total_steps)

    def _shape(self, progress: Any, ops: Any) -> Any:
        return 1.0 - (ops.sqrt(progress) if self.decay_tail == "sqrt" else progress)


@dataclass(frozen=True)
class ConstantSchedule(_Warmed):
    r"""Linear warm-up, then the full rate to the end: :math:`\min(t/w, 1)`.

    Args:
        warmup_steps: w >= 0 (steps). Default 0.

    Raises:
        ValueError: the value is out of its range.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        self._set(warmup_steps=check_count("warmup_steps", self.warmup_steps, low=0, unit="steps"))

    def _after_warmup(self, step: Any, ops: Any) -> Any:
        return 1.0 + 0.0 * step


@dataclass(frozen=True)
class SigmoidSchedule(_Warmed):
    r"""The factor φ of TVLARS, :func:`sigmoid_decay`, for any optimizer; a warm-up is linear up to φ(w).

    .. math:: \tfrac tw\,\varphi(w) \text{ for } t \le w, \qquad
        \varphi(t) = \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min} \text{ for } t > w

    LARS under this schedule, without warm-up, is TVLARS with ``phi_scope="all"``.

    Args:
        delay_factor, delay, alpha, gamma_min: as for :func:`sigmoid_decay` (1/step, steps, -, -).
        warmup_steps: w >= 0 (steps). Default 0: TVLARS has no warm-up.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.
    """

    delay_factor: float
    delay: float
    alpha: float = 1.0
    gamma_min: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_sigmoid_decay(self.delay_factor, self.delay, self.alpha, self.gamma_min)
        numbers = {name: _number(name, getattr(self, name)) for name in ("delay_factor", "delay", "alpha", "gamma_min")}
        warmup = check_count("warmup_steps", self.warmup_steps, low=0, unit="steps")
        self._set(**numbers, warmup_steps=warmup)

    def _at_peak(self) -> float:
        return _sigmoid_decay(float(self.warmup_steps), self.delay_factor, self.delay, self.alpha, self.gamma_min)

    def _after_warmup(self, step: Any, ops: Any) -> Any:
        return _sigmoid_decay(float(step), self.delay_factor, self.delay, self.alpha, self.gamma_min)


def _number(name: str, value: Any) -> float:
    """Return ``value`` as a float: a scheduler's state holds no NumPy numbers, and its rates have no derivatives."""
    if isinstance(value, Tensor):
        raise ValueError(f"{name} must be a number, got a tensor: take its .item()")
    return float(value)


class ScheduleLR(LRScheduler):
    """Set lr(t) = lr * schedule(t) in every parameter group, from the step count alone, so that a resume is exact.

    Call ``scheduler.step()`` after every ``optimizer.step()``.

    Args:
        optimizer: the optimizer whose groups' ``lr`` is set.
        schedule: a :class:`Schedule` such as ``CosineSchedule(total_steps=1000, warmup_steps=50)``, or any function
            from the step (1 at the first) to the factor.
        last_epoch: index of the last step, -1 (default) to start.

    ``state_dict()`` holds the step count and the fields of a :class:`Schedule`; ``load_state_dict`` restores both,
    and raises ``ValueError`` for the state of another kind of schedule. A function is not part of the state.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[int], float], last_epoch: int = -1) -> None:
        self.schedule: Any = schedule
        if not callable(self.schedule):
            raise ValueError(f"schedule must be a Schedule or a function of the step, got {shown(schedule)}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        # last_epoch counts from 0: it is 0 while optimizer step 1 is being taken.
        return [base_lr * self.schedule(self.last_epoch + 1) for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's schedulers and the fields of the schedule."""
        state = dict(super().state_dict())
        return {**self._fields(), **{name: value for name, value in state.items() if name != "schedule"}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from :meth:`state_dict`.

        Raises:
            ValueError: the state is of another kind of schedule.
        """
        state, own = dict(state_dict), self._fields()
        if missing := [name for name in own if name not in state]:
            raise ValueError(f"state must be one of {type(self.schedule).__name__}, but has no {', '.join(missing)}")
        there = {name: state.pop(name) for name in own}
        if isinstance(self.schedule, Schedule):
            self.schedule = type(self.schedule)(**there)
        super().load_state_dict(state)

    def _fields(self) -> dict[str, Any]:
        return asdict(self.schedule) if isinstance(self.schedule, Schedule) else {}


def scale_lr(base_lr: float, batch_size: int, base_batch_size: int = 256, rule: str = "linear") -> float:
    """Return the learning rate for ``batch_size``, given one that is good at ``base_batch_size``.

    ``"linear"``: base_lr * B / B_base (Goyal et al. 2017). ``"sqrt"``: base_lr * sqrt(B / B_base), which
    is usual for Adam and LAMB.

    Args:
        base_lr: learning rate > 0 at the base batch size.
        batch_size: B, samples per optimizer step over all processes.
        base_batch_size: B_base in samples. Default 256.
        rule: ``"linear"`` (default) or ``"sqrt"``.

    Raises:
        ValueError: a value is out of its range, or the rule is unknown.
    """
    check_number("base_lr", base_lr, open_low=True)
    check_count("batch_size", batch_size, unit="samples")
    check_count("base_batch_size", base_batch_size, unit="samples")
    check_choice("rule", rule, ("linear", "sqrt"))
    ratio = batch_size / base_batch_size
    return base_lr * (ratio if rule == "linear" else math.sqrt(ratio))
