"""sigmoid_decay, and the schedules of the core, as optax schedules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tvlars
from tvlars.jax import as_optax, sigmoid_decay


@pytest.mark.parametrize(
    "shape", [(0.03, 98.0, 1.0, 0.0), (0.4, 4, 0.1, 0.05), (0.0, 0, 2.0, 0.0), (5.0, 20.5, 1.0, 0.01)]
)
def test_is_phi_of_the_count_plus_one(shape: tuple[float, float, float, float]) -> None:
    schedule = sigmoid_decay(*shape)
    for count in (0, 1, 3, 20, 97, 150):
        assert float(schedule(count)) == pytest.approx(tvlars.sigmoid_decay(float(count + 1), *shape), rel=2e-6)


def test_no_count_overflows_and_counts_may_be_traced_or_many() -> None:
    schedule = sigmoid_decay(10.0, 5, gamma_min=0.001)
    counts = jnp.array([0, 10, 10**6, 2**31 - 1])
    values = jax.jit(schedule)(counts)
    assert values.shape == (4,)
    np.testing.assert_allclose(values[2:], 0.001)
    assert float(jax.grad(lambda c: schedule(c))(1e6)) == 0.0


def test_scale_makes_it_the_learning_rate_of_any_optax_optimizer() -> None:
    optimizer = optax.sgd(sigmoid_decay(0.5, 3, scale=0.1))
    state = optimizer.init(jnp.ones(2))
    for t in (1, 2, 3):
        update, state = optimizer.update(jnp.ones(2), state)
        np.testing.assert_allclose(update, -0.1 * tvlars.sigmoid_decay(float(t), 0.5, 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(delay_factor=-0.1), r"delay_factor must be >= 0 \(1/step\), got -0.1"),
        (dict(delay=float("nan")), r"delay must be >= 0 \(steps\), got nan"),
        (dict(alpha=0.0), r"alpha must be > 0, got 0.0"),
        (dict(gamma_min=-1), r"gamma_min must be >= 0, got -1"),
        (dict(scale=float("inf")), r"scale must be >= 0, got inf"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigmoid_decay(**{**dict(delay_factor=0.1, delay=5), **changes})


@pytest.mark.parametrize("far", [2**24 + 1, 2**30 + 127])
@pytest.mark.parametrize("traced", [False, True])
def test_a_count_beyond_float32_is_taken_as_it_is(far: int, traced: bool) -> None:
    """Of the count; a traced delay is float32 itself, and so even here."""
    delay = far + 1 if traced else far + 1.5
    phi = tvlars.sigmoid_decay(3.0, 0.2, delay - far)

    def at(count: jax.Array, delay: Any) -> jax.Array:
        return sigmoid_decay(0.2, delay)(count)

    count = jnp.asarray(far + 2, jnp.int32)
    value = jax.jit(at)(count, jnp.float32(delay)) if traced else at(count, delay)
    assert float(value) == pytest.approx(phi, rel=1e-6)


def test_a_traced_delay_has_its_derivative() -> None:
    slope = jax.grad(lambda delay: sigmoid_decay(0.2, delay)(jnp.asarray(4)))(3.5)
    phi = tvlars.sigmoid_decay(5.0, 0.2, 3.5)
    assert float(slope) == pytest.approx(0.2 * phi * (1 - phi), rel=1e-5)


SCHEDULES = [
    tvlars.SigmoidSchedule(0.1, 40.0, 0.5, 0.01, warmup_steps=7),
    tvlars.CosineSchedule(100, 20),
    tvlars.LinearSchedule(100),
    tvlars.PolynomialSchedule(100, 20, power=1.5),
    tvlars.TrapezoidSchedule(100, 10),
    tvlars.TrapezoidSchedule(100, 10, decay_share=1.0, decay_tail="sqrt"),
    tvlars.ConstantSchedule(10),
    tvlars.ConstantSchedule(),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_schedules_of_the_core_are_the_same_here(schedule: tvlars.Schedule) -> None:
    counts = jnp.arange(120)
    values = jax.jit(as_optax(schedule, scale=3.0))(counts)
    expected = [3.0 * schedule(t) for t in range(1, 121)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=3e-6)
    assert float(as_optax(schedule)(0)) == pytest.approx(schedule(1), rel=1e-5)


def test_a_plan_goes_to_optax_and_what_is_no_schedule_does_not() -> None:
    p = tvlars.plan(64, 6400, 3, "lars", schedule="polynomial")
    assert p.curve is not None
    rates = as_optax(p.curve, scale=p.lr)
    assert float(rates(59)) == pytest.approx(p.lr * p.factor(60), rel=1e-5)
    with pytest.raises(ValueError, match="schedule must be one of tvlars's, such as CosineSchedule, got 'cosine'"):
        as_optax("cosine")  # type: ignore[arg-type]
