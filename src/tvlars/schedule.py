"""Learning-rate schedules in closed form: plain functions of the step, and the same as torch LR schedulers.

Steps are optimizer steps and are counted from 1: the first call of ``optimizer.step()`` is step 1.
"""

from __future__ import annotations

import math
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
"""Share of φ's start that is left at the last step, floor aside."""


def sigmoid_decay(step: Step, delay_factor: float, delay: float, alpha: float = 1.0, gamma_min: float = 0.0) -> Step:
    r"""The factor of TVLARS: high from the first step, held until the delay, then decaying to a floor.

    .. math:: \varphi(t) = \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min}

    It never increases with t and lies in [gamma_min, 1/alpha + gamma_min]. The exponent is bounded before
    ``exp``, so that no t overflows.

    Args:
        step: t, in steps, 1 at the first one. A number, or a tensor of any shape.
        delay_factor: λ >= 0 (1/step), how steep the decay is. At 0 the factor is constant.
        delay: d_e >= 0 (steps). With ``alpha=1`` the factor is at half its start here.
        alpha: α > 0, bounds the factor above by 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the floor. Default 0.0. The paper takes batch size / base batch size * 1e-3.

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

    Tensors among the numbers have their derivatives.
    """
    exponent = delay_factor * _since(step, delay)
    if isinstance(exponent, Tensor):
        growth: Any = exponent.clamp(max=math.log(torch.finfo(exponent.dtype).max)).exp()
    else:
        growth = math.exp(min(exponent, 709.0))
    return 1.0 / (alpha + growth) + gamma_min


def _since(step: Any, delay: Any) -> Any:
    """t − d_e, exact to rounding however large both are: a count is an integer until d_e has been taken from it."""
    if isinstance(step, Tensor) and not step.is_floating_point():
        whole = 0 if isinstance(delay, Tensor) else int(min(delay, 2.0**62))
        return _as_float(step - whole) - (delay - whole)
    if isinstance(delay, Tensor) and not isinstance(step, Tensor):
        return torch.full((), step, dtype=_wide(delay), device=delay.device) - delay
    return step - delay


def _as_float(count: Tensor) -> Tensor:
    """An integer tensor as floating point, without a loss of digits where the device has float64."""
    return count.to(_wide(count))


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _sigmoid_over(
    total_steps: int, alpha: float = 1.0, delay_factor: float | None = None, delay: float | None = None
) -> tuple[float, float]:
    """λ and d_e of a φ that falls over ``total_steps`` optimizer steps; what is given is kept as it is.

    φ = 1/α / (1 + exp(λ (t − d_e) − ln α)) + γ_min: half way down where the exponent is 0, and at ``END_FRACTION`` of
    its start where it is ``fall``.
    """
    fall, shift = math.log(1 / END_FRACTION - 1), math.log(alpha)
    if delay is None:
        half_way = min(round(HALF_SHARE * total_steps), total_steps - 1)
        if delay_factor is None:
            delay_factor = fall / (total_steps - half_way)
        delay = max(half_way - shift / delay_factor, 0.0) if delay_factor else half_way
    elif delay_factor is None:  # a delay near or behind the end gets the slope of one at 90 % of the run
        delay_factor = max(fall + shift, 0.0) / max(total_steps - delay, 0.1 * total_steps)
    return delay_factor, delay


def _slope_and_delay(who: str, total_steps: Any, delay: Any, delay_factor: Any, alpha: float = 1.0) -> tuple[Any, Any]:
    """λ and d_e, which are given themselves or follow from the length of the run.

    Raises:
        ValueError: neither is given, or both are, or one of λ and d_e alone; total_steps is no number of steps.
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
            "or the optimizer_arguments() of plan(batch_size, dataset_size, epochs)"
        )
    if delay is None or delay_factor is None:
        raise ValueError(
            "delay and delay_factor must be given together, or total_steps in place of both; "
            f"got delay={delay!r}, delay_factor={delay_factor!r}"
        )
    return delay_factor, delay


def warmup_cosine(step: float, warmup_steps: int, total_steps: int, final_factor: float = 1e-3) -> float:
    r"""Linear warm-up, then half a cosine: the schedule that LARS and LAMB are usually run with.

    .. math:: t/w \text{ for } t \le w, \qquad f + (1 - f)\,\tfrac12\bigl(1 + \cos\pi\tfrac{t - w}{T - w}\bigr)
        \text{ for } w < t \le T, \qquad f \text{ after } T

    Args:
        step: t, in steps, 1 at the first one.
        warmup_steps: w >= 0 (steps), less than ``total_steps``; the factor reaches 1 there.
        total_steps: T >= 1 (steps), where the factor reaches ``final_factor``.
        final_factor: f in [0, 1]. Default 1e-3, as in the paper's baselines.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.
    """
    _check_warmup_cosine(warmup_steps, total_steps, final_factor)
    if step <= warmup_steps:
        return step / warmup_steps if warmup_steps else 1.0
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _check_warmup_cosine(warmup_steps: Any, total_steps: Any, final_factor: Any) -> None:
    check_count("warmup_steps", warmup_steps, low=0, unit="steps")
    check_count("total_steps", total_steps, unit="steps")
    if warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps must be < total_steps ({total_steps}), got {warmup_steps!r}")
    check_number("final_factor", final_factor, high=1.0)


class _ClosedFormLR(LRScheduler):
    """lr = initial lr * factor(t) in every group, from the step count alone, so that a resume is exact."""

    def factor(self, step: int) -> float:
        """The factor at optimizer step ``step`` (1 at the first)."""
        raise TypeError(f"{type(self).__name__} has no factor")

    def get_lr(self) -> list[float | Tensor]:
        # last_epoch counts from 0: it is 0 while optimizer step 1 is being taken.
        return [base_lr * self.factor(self.last_epoch + 1) for base_lr in self.base_lrs]


def _number(name: str, value: Any) -> float:
    """``value`` as a float: a scheduler's state holds no NumPy number, and its learning rates have no derivatives."""
    if isinstance(value, Tensor):
        raise ValueError(f"{name} must be a number, got a tensor: take its .item()")
    return float(value)


class SigmoidDecayLR(_ClosedFormLR):
    """:func:`sigmoid_decay` for any torch optimizer: lr(t) = lr * φ(t) in every parameter group.

    Call ``scheduler.step()`` after every ``optimizer.step()``. LARS under this schedule is TVLARS with
    ``phi_scope="all"``; SGD, AdamW and LAMB can be run time-varying with it too.

    Args:
        optimizer: the optimizer whose groups' ``lr`` is set.
        delay_factor, delay, alpha, gamma_min: as for :func:`sigmoid_decay` (1/step, steps, -, -).
        last_epoch: index of the last step, -1 (default) to start.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        delay_factor: float,
        delay: float,
        alpha: float = 1.0,
        gamma_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        _check_sigmoid_decay(delay_factor, delay, alpha, gamma_min)
        self.delay_factor, self.delay = _number("delay_factor", delay_factor), _number("delay", delay)
        self.alpha, self.gamma_min = _number("alpha", alpha), _number("gamma_min", gamma_min)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return _sigmoid_decay(float(step), self.delay_factor, self.delay, self.alpha, self.gamma_min)


class WarmupCosineLR(_ClosedFormLR):
    """:func:`warmup_cosine` for any torch optimizer: lr(t) = lr * factor(t) in every parameter group.

    Call ``scheduler.step()`` after every ``optimizer.step()``.

    Args:
        optimizer: the optimizer whose groups' ``lr`` is set.
        warmup_steps, total_steps, final_factor: as for :func:`warmup_cosine` (steps, steps, -).
        last_epoch: index of the last step, -1 (default) to start.

    Raises:
        ValueError: a value is out of its range, NaN or infinite.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        final_factor: float = 1e-3,
        last_epoch: int = -1,
    ) -> None:
        _check_warmup_cosine(warmup_steps, total_steps, final_factor)
        self.warmup_steps, self.total_steps, self.final_factor = (
            int(warmup_steps),
            int(total_steps),
            _number("final_factor", final_factor),
        )
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return warmup_cosine(step, self.warmup_steps, self.total_steps, self.final_factor)


def scale_lr(base_lr: float, batch_size: int, base_batch_size: int = 256, rule: str = "linear") -> float:
    """The learning rate for ``batch_size``, given one that is good at ``base_batch_size``.

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
