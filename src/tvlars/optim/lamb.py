"""LAMB: Adam's direction with a trust ratio for each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from tvlars._checks import check_flag, check_number
from tvlars.optim._loading import Kind
from tvlars.optim._numerics.arithmetic import (
    Count,
    accumulate,
    descend,
    foreach_descend,
    is_off,
    plus,
    readable,
    scalar,
)
from tvlars.optim._numerics.norms import Tensors, clip, foreach_times_, norm, times, trust_ratio, trust_ratios
from tvlars.optim._observers import Observe
from tvlars.optim._paths import split_by_path
from tvlars.optim.cpu import fused_lamb
from tvlars.optim.foreach import MultiTensor
from tvlars.optim.layerwise import LayerwiseOptimizer, Pending
from tvlars.optim.triton.forms import Part, triton_lamb
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
    takes Adam's step at rate lr, and then grows by at most lr of its norm per step: after a warm-up has made that first
    step tiny it may stay small for long, and without a warm-up the first step of a wide layer is large. A group with
    ``layer_adaptation=False`` and an lr of about 5e-4 trains such layers well. Where g² is infinite or 0 in the dtype
    (gradients beyond 1e19 or below 1e-23 in float32), v and so r are as in Adam: such elements stand still for good, or
    follow m̂ / eps. There is no clipping of the global gradient norm: call ``torch.nn.utils.clip_grad_norm_`` for that.
    Norms are exact to float32 or better, whatever the size of elements; those of a sharded layer (DTensor: FSDP2,
    tensor parallel) are the whole tensor's, at one collective a step and mesh dimension. Every argument but ``params``
    is an option of a parameter group too.

    Args:
        params: parameters, named parameters, or groups. :func:`tvlars.layer_groups` makes groups that leave
            biases and norms neither adapted nor decayed.
        lr: learning rate >= 0, a number or a one-element tensor. Default 1e-3.
        betas: β₁ and β₂ in [0, 1). Default (0.9, 0.999).
        eps: added to √v̂, > 0. Default 1e-6.
        weight_decay: β >= 0, added to the direction before the trust ratio. Default 0.01.
        bias_correction: divide the moments by 1 − β^t. Default True.
        norm_clip: ‖w‖ alone is clamped to at most this (> 0); None (default) leaves it.
        maximize: ascend instead of descend. Default False.
        foreach: True takes the multi-tensor path, False the for-loop; None (default) the faster one. Sharded
            layers always take the multi-tensor path, on their local parts.
        fused: True takes fused kernels. On a CPU these are torch's, which want float32 or float64 and one layout of
            parameter, gradient and state; other layers take the for-loop. On a CUDA device they are Triton's, two
            launches for all layers of one dtype (float32, bfloat16 or float16; arithmetic in float32); other layers
            take the multi-tensor path, and all do, with a warning that says why, where Triton cannot run. Every
            path computes the same. None (default) takes the kernels where they fit, False never. With True for all
            layers, all on CUDA devices, a ``GradScaler`` leaves it to the step to unscale and to skip, with no wait.
        capturable: lr and step counts stay tensors on the device, so that a CUDA graph can capture the step.
            Default False.
        differentiable: gradients flow through the step, to parameters, gradients and options that are tensors of one
            element. Default False, where options other than lr are to be numbers.
        layer_adaptation (group option): whether the trust ratio acts. Default True.

    Raises:
        ValueError: an argument is out of its range, NaN or infinite, or two contradict; a parameter is one of
            ``FullyShardedDataParallel`` (FSDP1), whose flat shards are no layers: ``fully_shard`` (FSDP2) is right.
        TypeError: a parameter is complex, or not of floating point though it is to be trained; params is a module.
        RuntimeError: ``fused=True`` for a parameter that is neither on the CPU nor on a CUDA device; in ``step``, where
            a gradient is sparse, or a sharded parameter has one that is not, or a CUDA graph captures it in spite of
            ``capturable=False``.

    A gradient is never modified. A non-finite one is the caller's business, as in ``torch.optim``: it makes
    the layer it belongs to non-finite, and no other.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arXiv 1904.00962. The code published with TVLARS is ``bias_correction=False, norm_clip=10.0``.

    Example:
        >>> optimizer = LAMB(layer_groups(model, weight_decay=0.01), lr=0.03)
        >>> loss_fn(model(x), y).backward()
        >>> optimizer.step()
    """

    _kind = Kind("a LAMB", frozenset(("betas", "bias_correction")), ("exp_avg", "exp_avg_sq"), counts=True)

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

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> Pending:
        lr = scalar(group["lr"], group["capturable"] or group["differentiable"])
        steps = self._advance(params, group["capturable"])
        pending: Pending = []
        for run in split_by_path(group, params, grads, *self._buffers(params, "exp_avg", "exp_avg_sq")):
            form = PATHS[run.path](
                *run.lists,
                [scalar(steps[i], group["capturable"]) for i in run.indices],
                lr=lr,
                betas=group["betas"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                bias_correction=group["bias_correction"],
                norm_clip=group["norm_clip"],
                layer_adaptation=group["layer_adaptation"],
                maximize=group["maximize"],
                observe=run.observe(self.observers, params),
                **({"capturable": group["capturable"]} if run.path == "triton" else {}),
            )
            if form is not None:
                pending.append((form, run.layouts))
        return pending

    def _advance(self, params: list[Tensor], capturable: bool) -> list[Count]:
        """Count this step for each parameter; its own count, since bias correction is about its moments."""
        states = [self.state[p] for p in params]
        steps = self._advanced([x.get("step", 0) for x in states], [p.device for p in params], capturable)
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        return steps


def _correction(beta: float, t: float | Tensor, w: Tensor) -> Any:
    """1 - β^t, which loses no digits: of a tensor in float64, then in the dtype of ``w``, or float32."""
    if not isinstance(t, Tensor):
        return 1 - beta**t
    return (1 - beta ** _as_float(t)).to(torch.promote_types(w.dtype, torch.float32))


def _single_tensor_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float | Tensor],
    *,
    lr: float | Tensor,
    betas: tuple[Any, Any],
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    norm_clip: float | None,
    layer_adaptation: bool,
    maximize: bool,
    observe: Observe | None = None,
) -> None:
    beta1, beta2 = betas
    for i, w in enumerate(params):
        g = -grads[i] if maximize else grads[i]
        m, v, t = exp_avgs[i], exp_avg_sqs[i], steps[i]
        if isinstance(beta1, Tensor) or isinstance(beta2, Tensor):
            accumulate(m, beta1, g * (1 - beta1))
            accumulate(v, beta2, g * g * (1 - beta2))
            m, v = readable(m), readable(v)
        else:
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if bias_correction:
            r = (m / _correction(beta1, t, w)) / (_root(v) / _correction(beta2, t, w) ** 0.5 + eps)
        else:
            r = readable(m) / (_root(readable(v)) + eps)
        if not is_off(weight_decay):
            r = plus(r, w, weight_decay)
        if layer_adaptation:
            w_norm = norm(readable(w))
            q = trust_ratio(clip(w_norm, norm_clip), norm(r), 1.0, unit_at_zero=True)
            r = times(r, q)
            if observe is not None:
                observe([i], [w_norm], [q])
        descend(w, r, lr)


def _root(x: Tensor) -> Tensor:
    """√x, whose derivative at 0 is 0 where autograd asks for it."""
    if not torch.is_grad_enabled():
        return x.sqrt()
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), x.detach())


def _multi_tensor_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float | Tensor],
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    norm_clip: float | None,
    layer_adaptation: bool,
    maximize: bool,
    observe: Observe | None = None,
) -> MultiTensor:
    beta1, beta2 = betas
    if maximize:
        grads = list(torch._foreach_neg(grads))
    torch._foreach_mul_(exp_avgs, beta1)
    torch._foreach_add_(exp_avgs, grads, alpha=1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, value=1 - beta2)
    m: Tensors = exp_avgs
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    if bias_correction:
        m = torch._foreach_div(m, [_correction(beta1, t, w) for t, w in zip(steps, params, strict=True)])
        # of v̂ = v / (1 - β₂^t), which may overflow where v does not
        torch._foreach_div_(denominators, [_correction(beta2, t, w) ** 0.5 for t, w in zip(steps, params, strict=True)])
    torch._foreach_add_(denominators, eps)
    r = torch._foreach_div(m, denominators)
    if weight_decay:
        torch._foreach_add_(r, params, alpha=weight_decay)
    if layer_adaptation:
        w_norms, r_norms = yield params, r
        q = trust_ratios(w_norms, r_norms, 1.0, unit_at_zero=True, clip_w=norm_clip, clip_u=None)
        foreach_times_(r, q)
        if observe is not None:
            observe(range(len(params)), w_norms, q)
    foreach_descend(params, r, lr)


PATHS: dict[str, Callable[..., MultiTensor | Part | None]] = {
    "for-loop": _single_tensor_lamb,
    "foreach": _multi_tensor_lamb,
    "fused": fused_lamb,
    "triton": triton_lamb,
}
