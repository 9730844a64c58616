"""Schedules: their range and shape, at extreme arguments too, and as LR schedulers."""

from __future__ import annotations

import io
import math
import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tvlars import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    PolynomialSchedule,
    ScheduleLR,
    SigmoidSchedule,
    TrapezoidSchedule,
    scale_lr,
    sigmoid_decay,
)

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
    for call in (lambda: sigmoid_decay(1.0, **arguments), lambda: SigmoidSchedule(**arguments)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
            call()
        assert str(caught.value) == message


def test_schedules_by_hand() -> None:
    cosine = [CosineSchedule(12, 4, 0.1)(t) for t in range(1, 14)]
    assert cosine[:4] == [0.25, 0.5, 0.75, 1.0]
    assert cosine[7] == pytest.approx(0.1 + 0.9 * 0.5)  # half of the cosine
    assert cosine[11] == cosine[12] == pytest.approx(0.1)
    assert cosine[3:] == sorted(cosine[3:], reverse=True)
    assert LinearSchedule(12, 4, 0.0)(8) == 0.5
    assert PolynomialSchedule(12, 4, 0.0)(8) == 0.25
    assert PolynomialSchedule(12, 4, 0.0, power=3)(8) == 0.125
    trapezoid = TrapezoidSchedule(100, 10, 0.0, decay_share=0.4)
    assert [trapezoid(t) for t in (5, 10, 60, 80, 100)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])
    assert TrapezoidSchedule(100, 10, 0.0, decay_share=0.4, decay_tail="sqrt")(70) == pytest.approx(0.5)
    assert [ConstantSchedule(4)(t) for t in (1, 4, 99)] == [0.25, 1.0, 1.0]
    warmed = SigmoidSchedule(0.5, 3.0, 2.0, 0.1, warmup_steps=2)
    assert warmed(1) == pytest.approx(0.5 * sigmoid_decay(2.0, 0.5, 3.0, 2.0, 0.1))
    assert warmed(7) == sigmoid_decay(7.0, 0.5, 3.0, 2.0, 0.1)


@pytest.mark.parametrize("kind", [CosineSchedule, LinearSchedule, PolynomialSchedule, TrapezoidSchedule])
@given(data=st.data())
def test_schedules_rise_to_one_then_fall_to_their_end_without_a_jump(kind: Any, data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 3000))
    warmup = data.draw(st.integers(0, total - 1))
    final = data.draw(st.floats(0, 1))
    more: dict[str, Any] = {}
    if kind is PolynomialSchedule:
        more = dict(power=data.draw(st.floats(0.25, 4)))
    if kind is TrapezoidSchedule:
        tail = data.draw(st.sampled_from(["linear", "sqrt"]))
        more = dict(decay_share=data.draw(st.floats(0.01, 1)), decay_tail=tail)
    schedule = kind(total, warmup, final, **more)
    t = data.draw(st.integers(1, total))
    assert schedule(t) >= 0
    assert schedule(t) <= 1 + 1e-12
    if t <= warmup:
        assert schedule(t) == pytest.approx(t / warmup)
    else:
        assert final - 1e-12 <= schedule(t + 1) <= schedule(t) + 1e-12
    assert schedule(total) == schedule(total + 5) == pytest.approx(final, abs=1e-12)
    assert schedule(max(warmup, 1e-9)) == pytest.approx(1.0, abs=1e-2)
    # Continuous where the parts meet.
    for joint in (schedule.warmup_steps, schedule.decay_start, total):
        if joint:
            near = 1e-12 * total  # a power of 0.25 makes 1e-3 of it
            assert schedule(joint + near) == pytest.approx(schedule(joint - near), abs=2e-2)


@given(step=st.integers(1, 10**6), warmup=st.integers(0, 1000), **ARGUMENTS)
def test_warm_ups_before_phi_and_a_constant_rate(
    step: int, warmup: int, delay_factor: float, delay: float, alpha: float, gamma_min: float
) -> None:
    schedule = SigmoidSchedule(delay_factor, delay, alpha, gamma_min, warmup)
    assert 0 <= schedule(step) <= 1 / alpha + gamma_min
    if step > warmup:
        assert schedule(step) == sigmoid_decay(float(step), delay_factor, delay, alpha, gamma_min)
    else:
        assert schedule(step) == pytest.approx(step / warmup * schedule(warmup))
    assert ConstantSchedule(warmup)(step) == (min(step / warmup, 1.0) if warmup else 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineSchedule(10, -1), "warmup_steps must be an integer >= 0 (steps), got -1"),
        (lambda: LinearSchedule(10, 10), "warmup_steps must be < total_steps (10), got 10"),
        (lambda: CosineSchedule(10, 1.5), "warmup_steps must be an integer >= 0 (steps), got 1.5"),
        (lambda: PolynomialSchedule(10, 1, 2.0), "final_factor must be >= 0 and <= 1, got 2.0"),
        (lambda: PolynomialSchedule(10, power=0), "power must be > 0, got 0"),
        (lambda: TrapezoidSchedule(10, decay_share=0.0), "decay_share must be > 0 and <= 1, got 0.0"),
        (lambda: TrapezoidSchedule(10, decay_tail="exp"), "decay_tail must be one of 'linear', 'sqrt', got 'exp'"),
        (lambda: ConstantSchedule(-1), "warmup_steps must be an integer >= 0 (steps), got -1"),
        (lambda: CosineSchedule(10, 3, torch.tensor(0.5)), "final_factor must be a number, got a tensor: take its"),
        (lambda: ScheduleLR(sgd(), "cosine"), "schedule must be a Schedule or a function of the step, got 'cosine'"),
    ],
)
def test_bad_arguments_of_schedules(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def sgd() -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (2.0, 0.5)]
    return torch.optim.SGD(groups, lr=1.0)


SCHEDULES = {
    "sigmoid": SigmoidSchedule(0.3, 5.0, 0.5, 0.01),
    "sigmoid after a warm-up": SigmoidSchedule(0.3, 5.0, 0.5, 0.01, 3),
    "cosine": CosineSchedule(10, 3, 0.2),
    "linear": LinearSchedule(10, 3),
    "polynomial": PolynomialSchedule(10, 3),
    "trapezoid": TrapezoidSchedule(10, 3, decay_tail="sqrt"),
    "constant": ConstantSchedule(3),
    "a function": lambda step: 1 / step,
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedulers_follow_the_function_and_resume(schedule: Any) -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, schedule)
    for t in range(1, 13):
        assert [group["lr"] for group in optimizer.param_groups] == [2.0 * schedule(t), 0.5 * schedule(t)]
        optimizer.step()
        scheduler.step()
        if t == 6:  # go on in a new pair
            file = io.BytesIO()
            torch.save((optimizer.state_dict(), scheduler.state_dict()), file)
            file.seek(0)
            states = torch.load(file, weights_only=True)
            optimizer = sgd()
            scheduler = ScheduleLR(optimizer, schedule)
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])


def test_a_state_brings_its_numbers_and_is_of_one_kind() -> None:
    state = ScheduleLR(sgd(), CosineSchedule(10, 3)).state_dict()
    assert {name: state[name] for name in ("total_steps", "warmup_steps", "final_factor")} == dict(
        total_steps=10, warmup_steps=3, final_factor=1e-3
    )
    other = ScheduleLR(sgd(), CosineSchedule(99))
    other.load_state_dict(state)
    assert other.schedule == CosineSchedule(10, 3)
    with pytest.raises(ValueError, match="state must be one of PolynomialSchedule, but has no power"):
        ScheduleLR(sgd(), PolynomialSchedule(10)).load_state_dict(state)


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
            SigmoidSchedule(*values)
    schedule = SigmoidSchedule(Fraction(1, 2), 3, 1, 0)  # type: ignore[arg-type]
    scheduler = ScheduleLR(sgd(), schedule)
    assert type(schedule.delay_factor) is float
    assert type(scheduler.get_last_lr()[0]) is float
