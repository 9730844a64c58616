"""Trust ratio as an optax gradient transformation.

``optax.scale_by_trust_ratio`` computes the same ratio, but has no upper bound for the norms, and no coefficient that
varies with the step and is not applied when the ratio falls back to 1.
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
    """Return the transformation u ← q u with q = coefficient ‖w‖ / ‖u‖; ‖w‖ = 0 counts as 1.

    Args:
        coefficient: a number, or a schedule of the number of steps taken so far.
        norm_clip: upper bound for the norms; None: no bound.
        clip_update: whether the bound applies to ‖u‖ too, or only to ‖w‖.
        unit_at_zero: whether q = 1 if ‖w‖ or ‖u‖ is 0.
    """

    def init(params: Any) -> Any:
        del params
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)) if callable(coefficient) else optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        value = coefficient
        if callable(value):
            value = value(state.count)
            state = optax.ScaleByScheduleState(optax.safe_increment(state.count))

        us, structure = jax.tree.flatten(updates)
        ws = jax.tree.leaves(jax.tree.map(lambda _, w: w, updates, params))
        values = norms([*ws, *us])

        def scaled(u: jax.Array, w_norm: jax.Array, u_norm: jax.Array) -> jax.Array:
            first, second = trust_ratio(
                clip(w_norm, norm_clip), clip(u_norm, norm_clip if clip_update else None), value, unit_at_zero
            )
            return u * first * second

        return jax.tree.unflatten(structure, map(scaled, us, values[: len(us)], values[len(us) :])), state

    return optax.GradientTransformation(init, update)


def norms(arrays: list[jax.Array]) -> list[jax.Array]:
    """Return ‖x‖ over all elements of each array; for a sharded array, over the whole array.

    If the sum of squares of an array has underflowed or overflowed, all norms are computed again, from arrays divided
    by their largest elements. This is a conditional branch, so that usual steps have no extra cost.
    """
    if not arrays:
        return []
    squares = [jnp.sum(jnp.square(x)) for x in arrays]
    right = jnp.all(jnp.stack([_is_in_range(square) for square in squares]))
    if not isinstance(right, jax.core.Tracer):  # outside of jit, lax.cond would be compiled in every step
        return _roots(squares, arrays) if right else _scaled_norms(squares, arrays)
    result: list[jax.Array] = jax.lax.cond(right, _roots, _scaled_norms, squares, arrays)
    return result


def _roots(squares: list[jax.Array], _: list[jax.Array]) -> list[jax.Array]:
    return [_root(square) for square in squares]


def _scaled_norms(_: list[jax.Array], arrays: list[jax.Array]) -> list[jax.Array]:
    return [_scaled_norm(x) for x in arrays]


def _is_in_range(square: jax.Array) -> jax.Array:
    limits = jnp.finfo(square.dtype)  # type: ignore[no-untyped-call]
    return (square > 1e14 * float(limits.tiny)) & (square < 1e-2 * float(limits.max))


def _scaled_norm(x: jax.Array) -> jax.Array:
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0.0))
    largest = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1.0)
    return largest * _root(jnp.sum(jnp.square(x / largest)))


def _root(square: jax.Array) -> jax.Array:
    """Return the square root, with derivative 0 at 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), square)


def clip(norm: jax.Array, norm_clip: Scalar | None) -> jax.Array:
    """Return min(norm, norm_clip), or ``norm`` if there is no bound."""
    return norm if norm_clip is None else jnp.minimum(norm, norm_clip)


def trust_ratio(
    w_norm: jax.Array, u_norm: jax.Array, coefficient: Scalar, unit_at_zero: bool
) -> tuple[jax.Array, jax.Array]:
    """Return q = coefficient * ‖w‖ / ‖u‖ as two factors; ‖w‖ = 0 counts as 1, and q = coefficient if ‖u‖ = 0.

    With ``unit_at_zero``, as published, q = 1 if either norm is 0. Apply the factors in order, since q may be out of
    float32's range even if q u is not.
    """
    moves, at_zero = u_norm > 0, coefficient
    if unit_at_zero:
        moves, at_zero = moves & (w_norm > 0), 1.0
    else:
        w_norm = jnp.where(w_norm > 0, w_norm, 1.0)
    # If ‖u‖ = 0 the quotient is not used; a divisor of 1 then keeps its derivative finite.
    return 1.0 / jnp.where(moves, u_norm, 1.0), jnp.where(moves, coefficient * w_norm, at_zero)
