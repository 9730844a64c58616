"""TVLARS as an optax gradient transformation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from tvlars._checks import check_choice
from tvlars.jax._lars import check_lars, lars_chain
from tvlars.jax._masks import check_mask
from tvlars.jax._schedule import sigmoid_decay
from tvlars.jax._types import Mask, Scalar, Schedule, check_number
from tvlars.schedule import _slope_and_delay


def tvlars(
    learning_rate: Scalar | Schedule,
    *,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0.0,
    trust_coefficient: Scalar = 1e-3,
    nesterov: bool = False,
    norm_clip: Scalar | None = None,
    unit_ratio_at_zero: bool = False,
    total_steps: int | None = None,
    delay: Scalar | None = None,
    delay_factor: Scalar | None = None,
    alpha: Scalar = 1.0,
    gamma_min: Scalar = 0.0,
    phi_scope: str = "all",
    mask: Mask | None = None,
    weight_decay_mask: Mask | None = None,
    bias_norm_lr_scale: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Time-varying LARS; the same update as :class:`tvlars.TVLARS`.

    At step t (1 at the first), for each array w ("layer") with gradient g:

    .. math::
        \varphi(t) &= \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min} \\
        u &= g + \beta w \\
        q &= \eta \, \lVert w \rVert / \lVert u \rVert \\
        m &\leftarrow \mu m + q u \\
        w &\leftarrow w - lr \; \varphi(t) \; m

    If ‖w‖ = 0, it counts as 1 and q = η / ‖u‖. If ‖u‖ = 0, q = η. If the mask is False, q = 1. With ``nesterov``,
    w ← w − lr φ(t) (q u + μ m). t is optax's count plus 1; the count is part of the state, and so of checkpoints.
    Dtypes, sharded arrays and leaves without a gradient are handled as in :func:`tvlars.jax.lars`.

    Args:
        learning_rate, momentum, weight_decay, trust_coefficient, nesterov, norm_clip,
            unit_ratio_at_zero, mask, weight_decay_mask, bias_norm_lr_scale: as for :func:`tvlars.jax.lars`.
        total_steps: optimizer steps of the run, >= 1. d_e and λ follow from it: φ - γ_min falls to half at 75 % of the
            steps, as in :func:`tvlars.plan` at a batch size of 2,048, and to 2 % of its initial value at the last step.
            ``optax.inject_hyperparams`` needs it among its ``static_args``.
        delay: d_e >= 0 (steps); if alpha is 1, φ - γ_min is at half of its upper bound at this step.
        delay_factor: λ >= 0 (1/step), the steepness of the decay.
        alpha: α > 0; φ is at most 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the final value of φ. Default 0.0.
        phi_scope: ``"all"`` (default): φ multiplies the learning rate of every parameter, as above. ``"ratio"``, like
            the authors' code: φ multiplies the trust ratio, q = η φ(t) ‖w‖ / ‖u‖, so it enters the momentum, and has
            no effect if q is 1 (without a trust ratio, or with ``unit_ratio_at_zero`` if a norm is 0).

    φ depends on the length of the run, so either ``total_steps``, or ``delay`` and ``delay_factor`` must be given.
    :func:`tvlars.plan` returns the learning rate and the four numbers of φ for a run, see docs/jax.md.

    Returns:
        A gradient transformation. ``update(gradients, state, params)`` needs ``params``.

    Raises:
        ValueError: an argument is out of range, NaN or infinite, or two arguments contradict; the length of the run is
            not given, or is given twice; in ``update``, ``params`` is missing.
        TypeError: in ``init``, a parameter is complex.

    Source: Do et al., "Revisiting LARS for Large Batch Training Generalization of Neural Networks", arXiv 2309.14053.
    The published code uses ``momentum=0.9, weight_decay=5e-4, delay=0, alpha=0.1, gamma_min=0.0, norm_clip=10.0,
    unit_ratio_at_zero=True, phi_scope="ratio"``.

    Example:
        >>> optimizer = tvlars(32.0, delay_factor=0.03, delay=98, mask=layer_mask, bias_norm_lr_scale=0.03)
    """
    check_lars(learning_rate, momentum, weight_decay, trust_coefficient, nesterov, norm_clip, unit_ratio_at_zero)
    check_choice("phi_scope", phi_scope, ("all", "ratio"))
    check_mask(mask, weight_decay_mask, bias_norm_lr_scale, learning_rate)
    if isinstance(total_steps, jax.Array):
        raise ValueError(
            "total_steps must be a Python integer, got an array: optax.inject_hyperparams needs it in its static_args"
        )
    slope, center = _slope_and_delay("tvlars", total_steps, delay, delay_factor)
    if total_steps is not None:  # α may be traced, so its part is computed by JAX
        check_number("alpha", alpha, open_low=True)
        center = jnp.maximum(center - jnp.log(alpha) / slope, 0.0)
    phi = sigmoid_decay(slope, center, alpha, gamma_min)
    on_rate = phi_scope == "all"
    return lars_chain(
        _product(learning_rate, phi) if on_rate else learning_rate,
        trust_coefficient if on_rate else _product(trust_coefficient, phi),
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        norm_clip=norm_clip,
        unit_ratio_at_zero=unit_ratio_at_zero,
        mask=mask,
        weight_decay_mask=weight_decay_mask,
        bias_norm_lr_scale=bias_norm_lr_scale,
    )


def _product(value: Scalar | Schedule, phi: Schedule) -> Schedule:
    return lambda count: (value(count) if callable(value) else value) * phi(count)
