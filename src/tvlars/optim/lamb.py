"""LAMB: Adam's direction with a trust ratio for each layer.

formula       docstring of ``LAMB``
reference     for-loop form, in the letters of the formula: ``_single_tensor_lamb``
fast paths    multi-tensor form: ``_multi_tensor_lamb``
              torch's fused CPU kernels: ``cpu.fused_lamb``
              Triton kernels: ``triton.forms.triton_lamb``, which ``triton/lamb_kernels.py`` runs
options       ``_options.LambOptions``
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
from tvlars.optim._numerics.norms import Tensors, clip, foreach_times_, norm, times, trust_ratio, trust_ratios
from tvlars.optim._observers import Observe
from tvlars.optim._options import LambOptions
from tvlars.optim.cpu import fused_lamb
from tvlars.optim.foreach import MultiTensor
from tvlars.optim.layerwise import Form, LayerwiseOptimizer
from tvlars.optim.triton.forms import triton_lamb
from tvlars.schedule import _as_float


class LAMB(LayerwiseOptimizer):
    r"""Layer-wise adaptive moments for batch training.

    For each parameter tensor w ("layer") with gradient g, at its step t (1 at the first):

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        r &= \hat m / (\sqrt{\hat v} + eps) + \beta w \\
        q &= \lVert w \rVert / \lVert r \rVert \\
        w &\leftarrow w - lr \; q \; r

    q = 1 where ‖w‖ = 0 or ‖r‖ = 0, and in groups with ``layer_adaptation=False``. So a layer that starts at zero first
    takes Adam's step at rate lr, and then grows by at most lr of its norm per step: with a warm-up, whose first step is
    tiny, it may stay small for long, and without a warm-up the first step of a wide layer is large. A group with
    ``layer_adaptation=False`` and an lr of about 5e-4 trains such layers well. Where g² is infinite or 0 in the dtype
    (gradients beyond 1e19 or below 1e-23 in float32), v and so r are as in Adam: such elements never move again, or
    follow m̂ / eps. There is no clipping of the global gradient norm: call ``torch.nn.utils.clip_grad_norm_`` for that.
    Norms are exact to float32 or better, for elements of any size; norms of a sharded layer (DTensor: FSDP2, tensor
    parallel) are the whole tensor's, at one collective per step and mesh dimension. Every argument but ``params`` can
    also be set per parameter group.

    Args:
        {params}
        lr: learning rate >= 0, a number or a one-element tensor. Default 1e-3.
        betas: β₁ and β₂ in [0, 1). Default (0.9, 0.999).
        eps: added to √v̂, > 0. Default 1e-6.
        weight_decay: β >= 0, added to the direction before the trust ratio. Default 0.01.
        bias_correction: divide the moments by 1 − β^t. Default True.
        norm_clip: upper bound (> 0) on ‖w‖ alone; None (default) for no bound.
        {maximize, foreach, fused, capturable, differentiable}
        {layer_adaptation}

    Raises:
        {ValueError, TypeError, RuntimeError}

    A gradient is never modified. Non-finite gradients are not handled, as in ``torch.optim``: each makes its own layer
    non-finite, and no other.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arXiv 1904.00962. The code published with TVLARS is ``bias_correction=False, norm_clip=10.0``.

    Example:
        >>> optimizer = LAMB(layer_groups(model, weight_decay=0.01), lr=0.03)
        >>> loss_fn(model(x), y).backward()
        >>> optimizer.step()
    """

    _kind = Kind(
        "a LAMB",
        frozenset(("betas", "bias_correction")),
        ("exp_avg", "exp_avg_sq"),
        counts=True,
        akin=frozenset(("betas",)),
    )
    _options = LambOptions

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        norm_clip: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            norm_clip=norm_clip,
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
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        for i, beta in enumerate(betas):
            check_number(f"betas[{i}]", beta, high=1.0, open_high=True)
        check_number("eps", group["eps"], open_low=True)
        check_number("weight_decay", group["weight_decay"])
        check_flag("bias_correction", group["bias_correction"])
        if group["norm_clip"] is not None:
            check_number("norm_clip", group["norm_clip"], open_low=True)


def _single_tensor_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float | Tensor],
    options: LambOptions,
    observe: Observe | None = None,
) -> None:
    lr, beta, (beta1, beta2) = options.lr, options.weight_decay, options.betas
    for i, w in enumerate(params):
        g = -grads[i] if options.maximize else grads[i]
        m, v, t = exp_avgs[i], exp_avg_sqs[i], steps[i]
        if isinstance(beta1, Tensor) or isinstance(beta2, Tensor):
            accumulate(m, beta1, g * (1 - beta1))
            accumulate(v, beta2, g * g * (1 - beta2))
            m, v = readable(m), readable(v)
        else:
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if options.bias_correction:
            r = (m / _correction(beta1, t, w)) / (_root(v) / _correction(beta2, t, w) ** 0.5 + options.eps)
        else:
            r = readable(m) / (_root(readable(v)) + options.eps)
        if not is_off(beta):
            r = plus(r, w, beta)
        if options.layer_adaptation:
            w_norm = norm(readable(w))
            q = trust_ratio(clip(w_norm, options.norm_clip), norm(r), 1.0, unit_at_zero=True)
            r = times(r, q)
            if observe is not None:
                observe([i], [w_norm], [q])
        descend(w, r, lr)


def _multi_tensor_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float | Tensor],
    options: LambOptions,
    observe: Observe | None = None,
) -> MultiTensor:
    lr, beta, (beta1, beta2) = options.lr, options.weight_decay, options.betas
    if options.maximize:
        grads = list(torch._foreach_neg(grads))
    torch._foreach_mul_(exp_avgs, beta1)
    torch._foreach_add_(exp_avgs, grads, alpha=1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, value=1 - beta2)
    m: Tensors = exp_avgs
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    if options.bias_correction:
        m = torch._foreach_div(m, [_correction(beta1, t, w) for t, w in zip(steps, params, strict=True)])
        # √v̂ from √v, since v̂ = v / (1 - β₂^t) may overflow where v does not
        torch._foreach_div_(denominators, [_correction(beta2, t, w) ** 0.5 for t, w in zip(steps, params, strict=True)])
    torch._foreach_add_(denominators, options.eps)
    r = torch._foreach_div(m, denominators)
    if beta:
        torch._foreach_add_(r, params, alpha=beta)
    if options.layer_adaptation:
        w_norms, r_norms = yield params, r
        q = trust_ratios(w_norms, r_norms, 1.0, unit_at_zero=True, clip_w=options.norm_clip, clip_u=None)
        foreach_times_(r, q)
        if observe is not None:
            observe(range(len(params)), w_norms, q)
    foreach_descend(params, r, lr)


def _correction(beta: float, t: float | Tensor, w: Tensor) -> Any:
    """Return 1 - β^t without loss of digits; for a tensor t in float64, then rounded to w's dtype or float32."""
    if not isinstance(t, Tensor):
        return 1 - beta**t
    return (1 - beta ** _as_float(t)).to(torch.promote_types(w.dtype, torch.float32))


def _root(x: Tensor) -> Tensor:
    """Return √x; its derivative at 0 is 0."""
    if not torch.is_grad_enabled():
        return x.sqrt()
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), x.detach())


FORMS: dict[str, Form] = {
    "for-loop": _single_tensor_lamb,
    "foreach": _multi_tensor_lamb,
    "fused": fused_lamb,
    "triton": triton_lamb,
}
