"""The trust ratio as a link of an optax chain.

``optax.scale_by_trust_ratio`` computes the same ratio, but has no upper bound for the norms and no coefficient that
changes from step to step without acting where the ratio falls back to 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tvlars.jax._types import Scalar, Schedule


def scale_by_trust_ratio(
    coefficient: Scalar | Schedule, norm_clip: Scalar | None, *, clip_update: bool = True, unit_at_zero: bool
) -> optax.GradientTransformation:
    """u ← q u with q = coefficient ‖w‖ / ‖u‖, where ‖w‖ = 0 counts as 1.

    Args:
        coefficient: a number, or a schedule of the count of steps taken so far.
        norm_clip: norms are clamped to at most this; None leaves them.
        clip_update: whether that is so for ‖u‖ too, or for ‖w‖ alone.
        unit_at_zero: whether q = 1 where ‖w‖ or ‖u‖ is 0.
    """

    def init(params: Any) -> Any:
        del params
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)) if callable(coefficient) else optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        value = coefficient
        if callable(value):
            value = value(state.count)
            state = optax.ScaleByScheduleState(optax.safe_increment(state.count))

        def scaled(u: Any, w: Any) -> Any:
            if u is None:
                return None
            w_norm, u_norm = clip(norm(w), norm_clip), clip(norm(u), norm_clip if clip_update else None)
            return u * trust_ratio(w_norm, u_norm, value, unit_at_zero)

        return jax.tree.map(scaled, updates, params, is_leaf=lambda u: u is None), state

    return optax.GradientTransformation(init, update)


def norm(x: jax.Array) -> jax.Array:
    """‖x‖ over all elements; of a sharded array, the whole array's."""
    square = jnp.sum(jnp.square(x))
    # The root of 1 in place of that of 0 keeps its derivative finite.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), square)


def clip(norm: jax.Array, norm_clip: Scalar | None) -> jax.Array:
    """min(norm, norm_clip), or ``norm`` itself where there is no bound."""
    return norm if norm_clip is None else jnp.minimum(norm, norm_clip)


def trust_ratio(w_norm: jax.Array, u_norm: jax.Array, coefficient: Scalar, unit_at_zero: bool) -> jax.Array:
    """q = coefficient * ‖w‖ / ‖u‖, where ‖w‖ = 0 counts as 1, and q = coefficient where ‖u‖ = 0.

    With ``unit_at_zero``, as published, q = 1 where either is 0.
    """
    moves, at_zero = u_norm > 0, coefficient
    if unit_at_zero:
        moves, at_zero = moves & (w_norm > 0), 1.0
    else:
        w_norm = jnp.where(w_norm > 0, w_norm, 1.0)
    # Where ‖u‖ = 0 the quotient is not used; a divisor of 1 there keeps its derivative finite.
    return jnp.where(moves, coefficient * w_norm / jnp.where(moves, u_norm, 1.0), at_zero)
