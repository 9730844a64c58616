"""LARS: stochastic gradient descent with momentum and a trust ratio for each layer.

formula       docstring of ``LARS``
reference     for-loop form, in the letters of the formula: ``_single_tensor_lars``
fast paths    multi-tensor form: ``_multi_tensor_lars``
              torch's fused CPU kernels: ``cpu.fused_lars``
              Triton kernels: ``triton.forms.triton_lars``, which ``triton/lars_kernels.py`` runs
options       ``_options.LarsOptions``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from tvlars._checks import check_flag, check_number
from tvlars.optim._loading import Kind
from tvlars.optim._numerics.arithmetic import accumulate, descend, foreach_descend, is_off, plus, readable
from tvlars.optim._numerics.norms import Tensors, clip, foreach_times, norm, times, trust_ratio, trust_ratios
from tvlars.optim._observers import Observe
from tvlars.optim._options import LarsOptions
from tvlars.optim.cpu import fused_lars
from tvlars.optim.foreach import MultiTensor
from tvlars.optim.layerwise import Form, LayerwiseOptimizer
from tvlars.optim.triton.forms import triton_lars


class LARS(LayerwiseOptimizer):
    r"""Layer-wise adaptive rate scaling, in the form that Barlow Twins and the TVLARS authors run.

    For each parameter tensor w ("layer") with gradient g, at every step:

    .. math::
        u &= g + \beta w \\
        q &= \eta \, \lVert w \rVert / \lVert u \rVert \\
        m &\leftarrow \mu m + q u \\
        w &\leftarrow w - lr \; m

    Where ‖w‖ = 0 it counts as 1, q = η / ‖u‖: a layer that starts at zero (a zeroed last layer, LoRA's B) first
    moves by lr η, whatever the scale of its gradient, and follows the rule from then on. Where ‖u‖ = 0, q = η, and
    q u is 0. In groups with ``layer_adaptation=False`` q = 1. The first step has m = q u and there is no dampening.
    With ``nesterov``, w ← w − lr (q u + μ m). Norms are exact to float32 or better, for elements of any size; norms of
    a sharded layer (DTensor: FSDP2, tensor parallel) are the whole tensor's, at one collective per step and mesh
    dimension. Every argument but ``params`` can also be set per parameter group.

    Args:
        {params}
        {lr, momentum, weight_decay, trust_coefficient, nesterov, norm_clip, unit_ratio_at_zero}
        {maximize, foreach, fused, capturable, differentiable}
        {layer_adaptation}

    Raises:
        {ValueError, TypeError, RuntimeError}

    A gradient is never modified. Non-finite gradients are not handled, as in ``torch.optim``: each makes its own layer
    non-finite, and no other.

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888.

    Example:
        >>> optimizer = LARS(layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03), lr=16.0)
        >>> loss_fn(model(x), y).backward()
        >>> optimizer.step()
    """

    _kind = Kind(
        "a LARS",
        frozenset(("trust_coefficient",)),
        ("momentum_buffer",),
        foreign=frozenset(("phi_scope",)),
        akin=frozenset(("trust_coefficient", "trust_coeff", "eta")),
    )
    _options = LarsOptions

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        nesterov: bool = False,
        norm_clip: float | None = None,
        unit_ratio_at_zero: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            nesterov=nesterov,
            norm_clip=norm_clip,
            unit_ratio_at_zero=unit_ratio_at_zero,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)

    def _forms(self) -> Mapping[str, Form]:
        return FORMS

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lars_group(group)

    def _kept(self, group: dict[str, Any]) -> tuple[str, ...]:
        return kept_by_lars(group)


def _single_tensor_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    options: LarsOptions,
    observe: Observe | None = None,
) -> None:
    lr, eta = options.rates()
    beta, mu, norm_clip = options.weight_decay, options.momentum, options.norm_clip
    for i, w in enumerate(params):
        g = -grads[i] if options.maximize else grads[i]
        u = g if is_off(beta) else plus(g, w, beta)
        if options.layer_adaptation:
            w_norm = norm(readable(w))
            q = trust_ratio(clip(w_norm, norm_clip), clip(norm(u), norm_clip), eta, options.unit_ratio_at_zero)
            u = times(u, q)
            if observe is not None:
                observe([i], [w_norm], [q])
        if not is_off(mu):
            m = momentum_buffers[i]
            accumulate(m, mu, u)
            u = plus(u, m, mu) if options.nesterov else readable(m)
        descend(w, u, lr)


def _multi_tensor_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    options: LarsOptions,
    observe: Observe | None = None,
) -> MultiTensor:
    lr, eta = options.rates()
    beta, mu, norm_clip = options.weight_decay, options.momentum, options.norm_clip
    u: Tensors = torch._foreach_neg(grads) if options.maximize else grads
    if beta:
        u = torch._foreach_add(u, params, alpha=beta)
    if options.layer_adaptation:
        w_norms, u_norms = yield params, u
        q = trust_ratios(w_norms, u_norms, eta, options.unit_ratio_at_zero, clip_w=norm_clip, clip_u=norm_clip)
        u = foreach_times(u, q)
        if observe is not None:
            observe(range(len(params)), w_norms, q)
    if mu:
        torch._foreach_mul_(momentum_buffers, mu)
        torch._foreach_add_(momentum_buffers, u)
        u = torch._foreach_add(u, momentum_buffers, alpha=mu) if options.nesterov else momentum_buffers
    foreach_descend(params, u, lr)


FORMS: dict[str, Form] = {
    "for-loop": _single_tensor_lars,
    "foreach": _multi_tensor_lars,
    "fused": fused_lars,
    "triton": triton_lars,
}


def kept_by_lars(group: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the state tensors that LARS and TVLARS keep: none without momentum."""
    return () if is_off(group["momentum"]) else ("momentum_buffer",)


def check_lars_group(group: dict[str, Any]) -> None:
    """Raise ValueError if an option that LARS and TVLARS share is out of its range."""
    check_number("momentum", group["momentum"], high=1.0, open_high=True)
    check_number("weight_decay", group["weight_decay"])
    check_number("trust_coefficient", group["trust_coefficient"], open_low=True)
    for flag in ("nesterov", "unit_ratio_at_zero"):
        check_flag(flag, group[flag])
    if group["norm_clip"] is not None:
        check_number("norm_clip", group["norm_clip"], open_low=True)
    if group["nesterov"] and is_off(group["momentum"]):
        raise ValueError("momentum must be > 0 if nesterov=True, got 0")
