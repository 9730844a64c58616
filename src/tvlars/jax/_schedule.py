"""φ(t) of TVLARS, and the schedules of the core, as optax schedules."""

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
    r"""The factor of TVLARS: high from the first step, held until the delay, then decaying to a floor.

    .. math:: \varphi(t) = \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min}

    As a learning rate it makes any optax optimizer time-varying: ``optax.sgd(sigmoid_decay(0.03, 98, scale=0.1))``.

    Args:
        delay_factor: λ >= 0 (1/step), how steep the decay is. At 0 the factor is constant.
        delay: d_e >= 0 (steps). With ``alpha=1`` the factor is at half its start here.
        alpha: α > 0, bounds the factor above by 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the floor. Default 0.0. The paper takes batch size / base batch size * 1e-3.
        scale: >= 0, multiplies φ; the peak learning rate, say. Default 1.0.

    Returns:
        A function from optax's count, which is 0 at the first step, to scale * φ(count + 1): t is 1 at the first step,
        as in :func:`tvlars.sigmoid_decay`. The count may be a number or an integer array of any shape; the value is a
        float32 array of that shape (float64 where JAX has 64 bits enabled).

    Raises:
        ValueError: a value is out of its range, NaN or infinite.

    Source: Do et al., arXiv 2309.14053, the time-varying component of TVLARS.
    """
    check_number("delay_factor", delay_factor, unit="1/step")
    check_number("delay", delay, unit="steps")
    check_number("alpha", alpha, open_low=True)
    check_number("gamma_min", gamma_min)
    check_number("scale", scale)

    def schedule(count: Any) -> jax.Array:
        # 1 / (α + e^x) = σ(log α - x) / α, which overflows neither itself nor in its derivative.
        phi = jax.nn.sigmoid(jnp.log(alpha) - delay_factor * _since(jnp.asarray(count), delay)) / alpha + gamma_min
        return scale * phi

    return schedule


def as_optax(schedule: tvlars.schedule.Schedule, *, scale: Scalar = 1.0) -> Schedule:
    """Return a schedule of the core as an optax schedule.

    As a learning rate it goes into any optax optimizer: ``lars(as_optax(CosineSchedule(1000, 50), scale=32.0))``.
    The schedule of a plan is ``as_optax(p.curve, scale=p.lr)``.

    Args:
        schedule: a :class:`tvlars.CosineSchedule`, or another one of these classes.
        scale: >= 0, multiplies the factor; the peak learning rate, say. Default 1.0.

    Returns:
        A function from optax's count, which is 0 at the first step, to scale * schedule(count + 1). The count may be a
        number or an integer array of any shape; the value is a float32 array of that shape (float64 where JAX has 64
        bits enabled).

    Raises:
        ValueError: ``schedule`` is none of the core's, or ``scale`` is out of its range, NaN or infinite.
    """
    from tvlars.schedule import SigmoidSchedule, _Warmed  # torch, which a caller with such a schedule has imported

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
    """Operations of the core's schedules on JAX's arrays."""

    cos, sqrt = staticmethod(jnp.cos), staticmethod(jnp.sqrt)

    @staticmethod
    def clip(x: jax.Array) -> jax.Array:
        return jnp.clip(x, 0.0, 1.0)


def _since(count: jax.Array, delay: Scalar) -> jax.Array:
    """t - d_e with t = count + 1.

    An integer count stays one until the whole steps of d_e have been taken from it: float32 counts to 2²⁴.
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
