"""φ(t) of TVLARS, and the schedules of :mod:`tvlars.schedule`, as optax schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from tvlars._checks import shown
from tvlars.jax._types import Scalar, Schedule, check_number

if TYPE_CHECKING:
    import tvlars.schedule


def sigmoid_decay(
    delay_factor: Scalar, delay: Scalar, alpha: Scalar = 1.0, gamma_min: Scalar = 0.0, *, scale: Scalar = 1.0
) -> Schedule:
    r"""Return the factor φ of TVLARS: high from the first step until the delay, then decaying to a floor.

    .. math:: \varphi(t) = \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min}

    As a learning rate, it makes any optax optimizer time-varying: ``optax.sgd(sigmoid_decay(0.03, 98, scale=0.1))``.

    Args:
        delay_factor: λ >= 0 (1/step), the steepness of the decay. With 0 the factor is constant.
        delay: d_e >= 0 (steps). With ``alpha=1`` the factor has fallen to half its initial value at this step.
        alpha: α > 0; the factor is at most 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the floor. Default 0.0. The paper uses batch size / base batch size * 1e-3.
        scale: >= 0, multiplies φ, for example the peak learning rate. Default 1.0.

    Returns:
        A function from optax's count, which is 0 at the first step, to scale * φ(count + 1): t is 1 at the first step,
        as in :func:`tvlars.sigmoid_decay`. The count may be a number or an integer array of any shape; the value is a
        float32 array of the same shape (float64 if 64 bits are enabled in JAX).

    Raises:
        ValueError: a value is out of range, NaN or infinite.

    Source: Do et al., arXiv 2309.14053, the time-varying component of TVLARS.
    """
    check_number("delay_factor", delay_factor, unit="1/step")
    check_number("delay", delay, unit="steps")
    check_number("alpha", alpha, open_low=True)
    check_number("gamma_min", gamma_min)
    check_number("scale", scale)

    def schedule(count: Any) -> jax.Array:
        # 1 / (α + e^x) = σ(log α - x) / α, whose value and derivative do not overflow.
        phi = jax.nn.sigmoid(jnp.log(alpha) - delay_factor * _since(jnp.asarray(count), delay)) / alpha + gamma_min
        return scale * phi

    return schedule


def as_optax(schedule: tvlars.schedule.Schedule, *, scale: Scalar = 1.0) -> Schedule:
    """Convert a schedule of :mod:`tvlars.schedule` to an optax schedule.

    It works as the learning rate of any optax optimizer: ``lars(as_optax(CosineSchedule(1000, 50), scale=32.0))``.
    For a plan, use ``as_optax(p.curve, scale=p.lr)``.

    Args:
        schedule: a :class:`tvlars.CosineSchedule`, or another schedule of this package.
        scale: >= 0, multiplies the factor, for example the peak learning rate. Default 1.0.

    Returns:
        A function from optax's count, which is 0 at the first step, to scale * schedule(count + 1). The count may be a
        number or an integer array of any shape; the value is a float32 array of the same shape (float64 if 64 bits are
        enabled in JAX).

    Raises:
        ValueError: ``schedule`` is not a schedule of this package, or ``scale`` is out of range, NaN or infinite.
    """
    from tvlars.schedule import SigmoidSchedule, _Warmed  # imports torch, as the schedule's module did

    if not isinstance(schedule, _Warmed):
        raise ValueError(f"schedule must be one of tvlars's, such as CosineSchedule, got {shown(schedule)}")
    check_number("scale", scale)
    ours: Any = schedule

    def at(count: Any) -> jax.Array:
        count = jnp.asarray(count)
        step = count.astype(float) + 1.0
        if isinstance(schedule, SigmoidSchedule):
            shape = schedule.delay_factor, schedule.delay, schedule.alpha, schedule.gamma_min
            factor = sigmoid_decay(*shape)(count)
        else:
            factor = ours._after_warmup(step, _Arrays)
        if ours.warmup_steps:
            factor = jnp.where(step <= ours.warmup_steps, step / ours.warmup_steps * ours._at_peak(), factor)
        found: jax.Array = scale * factor
        return found

    return at


class _Arrays:
    """Operations of the schedules on JAX's arrays."""

    cos, sqrt = staticmethod(jnp.cos), staticmethod(jnp.sqrt)

    @staticmethod
    def clip(x: jax.Array) -> jax.Array:
        return jnp.clip(x, 0.0, 1.0)


def _since(count: jax.Array, delay: Scalar) -> jax.Array:
    """Return t - d_e with t = count + 1.

    The whole steps of d_e are subtracted from an integer count as integers, since float32 is exact only up to 2²⁴.
    """
    since: jax.Array
    if not jnp.issubdtype(count.dtype, jnp.integer):
        since = count.astype(float) + 1.0 - delay
        return since
    largest = 2 ** (8 * count.dtype.itemsize - 2)
    if isinstance(delay, (int, float)):
        whole = min(int(delay), largest)
        since = (count - whole).astype(float) + (1.0 - (delay - whole))
        return since
    bounded = jnp.minimum(jnp.floor(delay), 2.0**30)
    whole_steps = jax.lax.stop_gradient(bounded).astype(count.dtype)
    since = (count - whole_steps).astype(float) + (1.0 - (delay - jax.lax.stop_gradient(bounded)))
    return since
