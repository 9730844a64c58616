"""LARS as an optax gradient transformation."""

from __future__ import annotations

from typing import Any

import optax

from tvlars._checks import check_flag
from tvlars.jax._masks import check_mask, masked, scale_unadapted
from tvlars.jax._precision import in_float32
from tvlars.jax._trust_ratio import scale_by_trust_ratio
from tvlars.jax._types import Mask, Scalar, Schedule, check_number, check_rate


def lars(
    learning_rate: Scalar | Schedule,
    *,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0.0,
    trust_coefficient: Scalar = 1e-3,
    nesterov: bool = False,
    norm_clip: Scalar | None = None,
    unit_ratio_at_zero: bool = False,
    mask: Mask | None = None,
    weight_decay_mask: Mask | None = None,
    bias_norm_lr_scale: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Layer-wise adaptive rate scaling; the same update as :class:`tvlars.LARS`.

    For each array w ("layer") with gradient g, at every step:

    .. math::
        u &= g + \beta w \\
        q &= \eta \, \lVert w \rVert / \lVert u \rVert \\
        m &\leftarrow \mu m + q u \\
        w &\leftarrow w - lr \; m

    If ‖w‖ = 0, it counts as 1 and q = η / ‖u‖: an array that starts at zero first moves by lr η. If ‖u‖ = 0, q = η.
    If the mask is False, q = 1. In the first step m = q u; there is no dampening.
    With ``nesterov``, w ← w − lr (q u + μ m). Unlike in ``optax.lars``, m does not contain lr. For bfloat16 and float16
    parameters, the state has their dtype, and all arithmetic, including norms, is in float32. The norm of a sharded
    array is the norm of the whole array.

    Args:
        learning_rate: lr >= 0, a number or an optax schedule (its count is 0 at the first step). Usual values are 1 to
            64, since the trust ratio is about 1e-3.
        momentum: μ in [0, 1). Default 0.9. At 0 no buffer is kept.
        weight_decay: β >= 0, added to the gradient before the trust ratio. Default 0.0.
        trust_coefficient: η > 0. Default 1e-3.
        nesterov: look ahead along the momentum; requires momentum > 0. Default False.
        norm_clip: upper bound (> 0) for both norms in the ratio; None (default): no bound.
        unit_ratio_at_zero: use q = 1 if ‖w‖ or ‖u‖ is 0, like the published code. Default False.
        mask: leaves that have a trust ratio and weight decay: :func:`tvlars.jax.layer_mask`, another function from the
            parameters to a tree of bools, or a tree of bools. None (default): all leaves.
        weight_decay_mask: leaves with weight decay, if they differ from ``mask``. None (default): as ``mask``.
        bias_norm_lr_scale: >= 0; leaves where ``mask`` is False use lr * bias_norm_lr_scale. Default 1.0. These leaves
            have no trust ratio, so with lr >= 1 they need a smaller learning rate; 0.03 works well. Values other than
            1 require ``mask``.

    Returns:
        A gradient transformation. ``update(gradients, state, params)`` needs ``params``. A leaf whose gradient is None
        keeps its value and its momentum.

    Raises:
        ValueError: an argument is out of range, NaN or infinite, or two arguments contradict; in ``update``,
            ``params`` is missing.
        TypeError: in ``init``, a parameter is complex.

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888.

    Example:
        >>> optimizer = lars(16.0, weight_decay=1e-4, mask=layer_mask, bias_norm_lr_scale=0.03)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(gradients, state, params)
        >>> params = optax.apply_updates(params, updates)
    """
    check_lars(learning_rate, momentum, weight_decay, trust_coefficient, nesterov, norm_clip, unit_ratio_at_zero)
    check_mask(mask, weight_decay_mask, bias_norm_lr_scale, learning_rate)
    return lars_chain(
        learning_rate,
        trust_coefficient,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        norm_clip=norm_clip,
        unit_ratio_at_zero=unit_ratio_at_zero,
        mask=mask,
        weight_decay_mask=weight_decay_mask,
        bias_norm_lr_scale=bias_norm_lr_scale,
    )


def check_lars(
    learning_rate: Any,
    momentum: Any,
    weight_decay: Any,
    trust_coefficient: Any,
    nesterov: Any,
    norm_clip: Any,
    unit_ratio_at_zero: Any,
) -> None:
    """Raise ``ValueError`` if an option that LARS and TVLARS share is out of range."""
    check_rate(learning_rate)
    check_number("momentum", momentum, high=1.0, open_high=True)
    check_number("weight_decay", weight_decay)
    check_number("trust_coefficient", trust_coefficient, open_low=True)
    check_flag("nesterov", nesterov)
    check_flag("unit_ratio_at_zero", unit_ratio_at_zero)
    if norm_clip is not None:
        check_number("norm_clip", norm_clip, open_low=True)
    if nesterov and _is_zero(momentum):
        raise ValueError("momentum must be > 0 if nesterov=True, got 0")


def lars_chain(
    rate: Scalar | Schedule,
    coefficient: Scalar | Schedule,
    *,
    momentum: Scalar,
    weight_decay: Scalar,
    nesterov: bool,
    norm_clip: Scalar | None,
    unit_ratio_at_zero: bool,
    mask: Mask | None,
    weight_decay_mask: Mask | None,
    bias_norm_lr_scale: Scalar,
) -> optax.GradientTransformationExtraArgs:
    """Return the rule of LARS as a chain in the order of the formula; ``rate`` and ``coefficient`` may be schedules."""
    decayed = mask if weight_decay_mask is None else weight_decay_mask
    return in_float32(
        optax.chain(
            optax.add_decayed_weights(weight_decay, decayed),
            masked(scale_by_trust_ratio(coefficient, norm_clip, unit_at_zero=unit_ratio_at_zero), mask),
            optax.identity() if _is_zero(momentum) else optax.trace(momentum, nesterov),
            optax.scale_by_learning_rate(rate),
            scale_unadapted(mask, bias_norm_lr_scale),
        )
    )


def _is_zero(momentum: Any) -> bool:
    """Return whether momentum is the number 0. An injected hyperparameter may change, but the state must not."""
    return isinstance(momentum, (int, float)) and momentum == 0
