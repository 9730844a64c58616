"""Schedules: their range and shape, at extreme arguments too, and as LR schedulers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tvlars import SigmoidDecayLR, WarmupCosineLR, scale_lr, sigmoid_decay, warmup_cosine

ARGUMENTS = dict(
    delay_factor=st.floats(0, 1e3),
    delay=st.floats(0, 1e6),
    alpha=st.floats(1e-3, 1e3),
    gamma_min=st.floats(0, 1),
)


@given(step=st.integers(1, 10**7), later=st.integers(0, 10**7), **ARGUMENTS)
def test_phi_stays_in_its_range_and_never_increases(
    step: int, later: int, delay_factor: float, delay: float, alpha: float, gamma_min: float
) -> None:
    first = sigmoid_decay(float(step), delay_factor, delay, alpha, gamma_min)
    second = sigmoid_decay(float(step + later), delay_factor, delay, alpha, gamma_min)
    assert gamma_min <= second <= first <= 1 / alpha + gamma_min


@given(step=st.integers(1, 10**6), **ARGUMENTS)
def test_phi_of_a_tensor_is_phi_of_the_number(
    step: int, delay_factor: float, delay: float, alpha: float, gamma_min: float
) -> None:
    number = sigmoid_decay(float(step), delay_factor, delay, alpha, gamma_min)
    tensor = sigmoid_decay(torch.tensor([float(step)] * 2, dtype=torch.float64), delay_factor, delay, alpha, gamma_min)
    assert tensor.shape == (2,)
    assert tensor[0].item() == pytest.approx(number, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_phi_of_late_steps_is_the_floor_in_every_dtype(dtype: torch.dtype) -> None:
    phi = sigmoid_decay(torch.tensor([1.0, 60000.0], dtype=dtype), 5.0, 10.0, 1.0, 0.25)
    assert phi.dtype == dtype
    assert phi.tolist() == pytest.approx([1.25, 0.25], rel=1e-2)


def test_phi_by_hand() -> None:
    assert sigmoid_decay(1.0, 0.5, 3.0, 2.0, 0.1) == pytest.approx(1 / (2 + math.exp(-1.0)) + 0.1)
    assert sigmoid_decay(3, 0.5, 3, 1.0, 0.0) == 0.5  # half way at the delay
    assert sigmoid_decay(10**9, 1.0, 0.0) == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(delay_factor=-0.1, delay=0), "delay_factor must be >= 0 (1/step), got -0.1"),
        (dict(delay_factor=0.1, delay=-1), "delay must be >= 0 (steps), got -1"),
        (dict(delay_factor=0.1, delay=0, alpha=0.0), "alpha must be > 0, got 0.0"),
        (dict(delay_factor=0.1, delay=0, gamma_min=math.nan), "gamma_min must be >= 0, got nan"),
        (dict(delay_factor=math.inf, delay=0), "delay_factor must be >= 0 (1/step), got inf"),
    ],
)
def test_bad_arguments_of_phi(arguments: dict[str, Any], message: str) -> None:
    for call in (lambda: sigmoid_decay(1.0, **arguments), lambda: SigmoidDecayLR(sgd(), **arguments)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
            call()
        assert str(caught.value) == message


def test_warmup_cosine_by_hand() -> None:
    factors = [warmup_cosine(t, 4, 12, 0.1) for t in range(1, 14)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[7] == pytest.approx(0.1 + 0.9 * 0.5)  # half of the cosine
    assert factors[11] == factors[12] == pytest.approx(0.1)
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert warmup_cosine(1, 0, 10) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10), "warmup_steps must be an integer >= 0"),
        ((10, 10), r"warmup_steps must be < total_steps \(10\), got 10"),
        ((1.5, 10), "warmup_steps must be an integer >= 0"),
        ((1, 10, 2.0), "final_factor must be >= 0 and <= 1, got 2.0"),
    ],
)
def test_bad_arguments_of_warmup_cosine(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warmup_cosine(1, *arguments)
    with pytest.raises(ValueError, match=message):
        WarmupCosineLR(sgd(), *arguments)


def sgd() -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (2.0, 0.5)]
    return torch.optim.SGD(groups, lr=1.0)


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (lambda o: SigmoidDecayLR(o, 0.3, 5.0, 0.5, 0.01), lambda t: sigmoid_decay(float(t), 0.3, 5.0, 0.5, 0.01)),
        (lambda o: WarmupCosineLR(o, 3, 10, 0.2), lambda t: warmup_cosine(t, 3, 10, 0.2)),
    ],
    ids=["sigmoid", "warmup-cosine"],
)
def test_schedulers_follow_the_function_and_resume(make: Any, factor: Any) -> None:
    optimizer = sgd()
    scheduler = make(optimizer)
    for t in range(1, 13):
        assert [group["lr"] for group in optimizer.param_groups] == [2.0 * factor(t), 0.5 * factor(t)]
        optimizer.step()
        scheduler.step()
        if t == 6:  # go on in a new pair
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer = sgd()
            scheduler = make(optimizer)
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])


def test_scale_lr() -> None:
    assert scale_lr(0.1, 1024) == pytest.approx(0.4)
    assert scale_lr(0.1, 1024, rule="sqrt") == pytest.approx(0.2)
    assert scale_lr(0.1, 64, base_batch_size=128) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="rule must be one of 'linear', 'sqrt', got 'cubic'"):
        scale_lr(0.1, 64, rule="cubic")
    with pytest.raises(ValueError, match=r"batch_size must be an integer >= 1 \(samples\), got 0"):
        scale_lr(0.1, 0)
    with pytest.raises(ValueError, match="base_lr must be > 0, got nan"):
        scale_lr(math.nan, 64)


@pytest.mark.parametrize("far", [2**24 + 1, 2**31 + 5, 2**50 + 1])
def test_a_count_beyond_float32_is_taken_as_it_is(far: int) -> None:
    expected = sigmoid_decay(3.0, 0.2, 1.5)
    assert sigmoid_decay(far + 3, 0.2, far + 1.5) == pytest.approx(expected, rel=1e-12)
    for dtype in (torch.int64, *((torch.int32,) if far < 2**31 - 3 else ())):
        phi = sigmoid_decay(torch.tensor([far + 3, far + 3], dtype=dtype), 0.2, far + 1.5)
        assert phi.dtype == torch.float64
        assert phi.tolist() == [pytest.approx(expected, rel=1e-12)] * 2


def test_a_step_that_is_no_number_is_refused() -> None:
    for bad in (math.nan, math.inf, "3", True, None):
        with pytest.raises(ValueError, match=r"step must be finite \(steps\), got"):
            sigmoid_decay(bad, 0.1, 5)  # type: ignore[type-var]
    for tensor in (torch.tensor(True), torch.tensor(1j)):
        with pytest.raises(TypeError, match="step must be a tensor of integers or floating point numbers, got one of"):
            sigmoid_decay(tensor, 0.1, 5)


def test_a_shape_of_tensors_has_derivatives() -> None:
    def shape(requires: bool = True) -> list[torch.Tensor]:
        return [torch.tensor(x, dtype=torch.float64, requires_grad=requires) for x in (0.3, 2.5, 0.7, 0.05)]

    for step in (4, 4.0, torch.tensor(4), torch.tensor([1.0, 4.0], dtype=torch.float64)):
        assert torch.autograd.gradcheck(lambda *values, step=step: sigmoid_decay(step, *values), shape())


def test_schedulers_want_numbers() -> None:
    """A learning rate has no derivatives there, and would turn into a tensor behind the optimizer's back."""
    for i, name in enumerate(("delay_factor", "delay", "alpha", "gamma_min")):
        values: list[Any] = [0.1, 5.0, 1.0, 0.0]
        values[i] = torch.tensor(0.5)
        with pytest.raises(ValueError, match=f"^{name} must be a number, got a tensor"):
            SigmoidDecayLR(sgd(), *values)
    with pytest.raises(ValueError, match=r"^final_factor must be a number, got a tensor"):
        WarmupCosineLR(sgd(), 3, 10, torch.tensor(0.5))  # type: ignore[arg-type]
    scheduler = SigmoidDecayLR(sgd(), Fraction(1, 2), 3, 1, 0)  # type: ignore[arg-type]
    assert type(scheduler.delay_factor) is float
    assert type(scheduler.get_last_lr()[0]) is float
