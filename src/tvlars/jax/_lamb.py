"""LAMB as an optax gradient transformation."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tvlars._checks import check_flag
from tvlars.jax._masks import check_mask, masked, scale_unadapted
from tvlars.jax._precision import in_float32
from tvlars.jax._trust_ratio import scale_by_trust_ratio
from tvlars.jax._types import Mask, Scalar, Schedule, check_number, check_rate


def lamb(
    learning_rate: Scalar | Schedule = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.01,
    bias_correction: bool = True,
    norm_clip: Scalar | None = None,
    mask: Mask | None = None,
    weight_decay_mask: Mask | None = None,
    bias_norm_lr_scale: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Layer-wise adaptive moments for batch training; the same update as :class:`tvlars.LAMB`.

    At step t (1 at the first), for each array w ("layer") with gradient g:

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        r &= \hat m / (\sqrt{\hat v} + eps) + \beta w \\
        q &= \lVert w \rVert / \lVert r \rVert \\
        w &\leftarrow w - lr \; q \; r

    q = 1 if ‖w‖ = 0 or ‖r‖ = 0 (see :class:`tvlars.LAMB` for arrays that start at zero), and if the mask is False. The
    global gradient norm is not clipped: chain with ``optax.clip_by_global_norm`` to clip it. t is one count for all
    leaves, kept in the state. Dtypes, sharded arrays and leaves without a gradient are handled as in
    :func:`tvlars.jax.lars`.

    Args:
        learning_rate: lr >= 0, a number or an optax schedule (its count is 0 at the first step). Default 1e-3.
        betas: β₁ and β₂ in [0, 1), two Python numbers. Default (0.9, 0.999).
        eps: added to √v̂, > 0. Default 1e-6.
        weight_decay: β >= 0, added to the direction before the trust ratio. Default 0.01.
        bias_correction: divide the moments by 1 − β^t. Default True.
        norm_clip: upper bound (> 0) for ‖w‖, but not for ‖r‖; None (default): no bound.
        mask, weight_decay_mask, bias_norm_lr_scale: as for :func:`tvlars.jax.lars`.

    Returns:
        A gradient transformation. ``update(gradients, state, params)`` needs ``params``.

    Raises:
        ValueError: an argument is out of range, NaN or infinite, or two arguments contradict; in ``update``,
            ``params`` is missing.
        TypeError: in ``init``, a parameter is complex.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv 1904.00962.
    The code published with TVLARS uses ``bias_correction=False, norm_clip=10.0``.

    Example:
        >>> optimizer = lamb(0.03, mask=layer_mask)
    """
    check_rate(learning_rate)
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be two numbers, got {betas!r}")
    for i, beta in enumerate(betas):
        check_number(f"betas[{i}]", beta, high=1.0, open_high=True)
    check_number("eps", eps, open_low=True)
    check_number("weight_decay", weight_decay)
    check_flag("bias_correction", bias_correction)
    if norm_clip is not None:
        check_number("norm_clip", norm_clip, open_low=True)
    check_mask(mask, weight_decay_mask, bias_norm_lr_scale, learning_rate)

    decayed = mask if weight_decay_mask is None else weight_decay_mask
    return in_float32(
        optax.chain(
            _scale_by_moments((float(betas[0]), float(betas[1])), eps, bias_correction),
            optax.add_decayed_weights(weight_decay, decayed),
            masked(scale_by_trust_ratio(1.0, norm_clip, clip_update=False, unit_at_zero=True), mask),
            optax.scale_by_learning_rate(learning_rate),
            scale_unadapted(mask, bias_norm_lr_scale),
        )
    )


def _scale_by_moments(betas: tuple[float, float], eps: Scalar, bias_correction: bool) -> optax.GradientTransformation:
    """g ← m̂ / (√v̂ + eps), with the state of ``optax.scale_by_adam``.

    ``optax.scale_by_adam`` has no switch for the bias correction, and its 1 − β^t loses digits in float32: at
    β₂ = 0.999 and t = 1 the relative error is 1.3e-5, which is visible unless a trust ratio cancels it.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        m = optax.tree_utils.tree_update_moment(updates, state.mu, betas[0], 1)
        v = optax.tree_utils.tree_update_moment_per_elem_norm(updates, state.nu, betas[1], 2)
        c1, c2 = (_one_minus_power(beta, count) if bias_correction else 1.0 for beta in betas)
        r = jax.tree.map(lambda m, v: (m / c1) / (jnp.sqrt(v / c2) + eps), m, v)
        return r, optax.ScaleByAdamState(count, m, v)

    return optax.GradientTransformation(init, update)


def _one_minus_power(beta: float, t: jax.Array) -> jax.Array:
    """Return 1 − β^t without cancellation if β^t is close to 1."""
    return -jnp.expm1(t * (math.log(beta) if beta else -math.inf))
