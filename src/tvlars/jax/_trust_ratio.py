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
    """‖x‖ over all elements of each array; of a sharded array, the whole array's.

    Where squares of any of them have vanished or overflowed, which their sums tell, all are taken again, of arrays that
    are divided by their largest elements. That is one branch of a step, so that the usual step pays nothing for it.
    """
    if not arrays:
        return []
    squares = [jnp.sum(jnp.square(x)) for x in arrays]
    right = jnp.all(jnp.stack([_is_in_range(square) for square in squares]))
    if not isinstance(right, jax.core.Tracer):  # outside jit a branch would be compiled in every step
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
    """The root, whose derivative at 0 is 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), square)


def clip(norm: jax.Array, norm_clip: Scalar | None) -> jax.Array:
    """min(norm, norm_clip), or ``norm`` itself where there is no bound."""
    return norm if norm_clip is None else jnp.minimum(norm, norm_clip)


def trust_ratio(
    w_norm: jax.Array, u_norm: jax.Array, coefficient: Scalar, unit_at_zero: bool
) -> tuple[jax.Array, jax.Array]:
    """q = coefficient * ‖w‖ / ‖u‖, where ‖w‖ = 0 counts as 1, and q = coefficient where ‖u‖ = 0.

    With ``unit_at_zero``, as published, q = 1 where either is 0. It comes in two factors, to be applied in this order,
    since float32 may hold q u and not q.
    """
    moves, at_zero = u_norm > 0, coefficient
    if unit_at_zero:
        moves, at_zero = moves & (w_norm > 0), 1.0
    else:
        w_norm = jnp.where(w_norm > 0, w_norm, 1.0)
    # Where ‖u‖ = 0 the quotient is not used; a divisor of 1 there keeps its derivative finite.
    return 1.0 / jnp.where(moves, u_norm, 1.0), jnp.where(moves, coefficient * w_norm, at_zero)
