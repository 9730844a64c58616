"""LARS: stochastic gradient descent with momentum and a trust ratio for each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from tvlars._checks import check_flag, check_number
from tvlars.optim._loading import Kind
from tvlars.optim._numerics.arithmetic import accumulate, descend, foreach_descend, is_off, plus, readable, scalar
from tvlars.optim._numerics.norms import Tensors, clip, foreach_times, norm, times, trust_ratio, trust_ratios
from tvlars.optim._observers import Observe, Observer
from tvlars.optim._paths import split_by_path
from tvlars.optim.cpu import fused_lars
from tvlars.optim.foreach import MultiTensor
from tvlars.optim.layerwise import LayerwiseOptimizer, Pending
from tvlars.optim.phi import Factor
from tvlars.optim.triton.forms import Part, triton_lars


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
    With ``nesterov``, w ← w − lr (q u + μ m). Norms are exact to float32 or better, whatever the size of elements;
    those of a sharded layer (DTensor: FSDP2, tensor parallel) are the whole tensor's, at one collective a step and mesh
    dimension. Every argument but ``params`` is an option of a parameter group too.

    Args:
        params: parameters, named parameters, or groups. :func:`tvlars.layer_groups` makes groups that leave
            biases and norms neither adapted nor decayed, and can give them an lr of their own.
        lr: learning rate >= 0, a number or a one-element tensor. 1 to 64 are usual, since the trust ratio is
            about 1e-3. Needed unless every group has its own.
        momentum: μ in [0, 1). Default 0.9. At 0 no buffer is kept.
        weight_decay: β >= 0, added to the gradient before the trust ratio. Default 0.0. The ratio acts with
            or without it.
        trust_coefficient: η > 0. Default 1e-3.
        nesterov: look ahead along the momentum; wants momentum > 0. Default False.
        norm_clip: both norms are clamped to at most this (> 0) before the ratio; None (default) leaves them.
        unit_ratio_at_zero: take q = 1 where ‖w‖ or ‖u‖ is 0, as the published code does. That is the learning rate
            raw, which with lr of 1 and more blows up layers that start at zero. Default False.
        maximize: ascend instead of descend. Default False.
        foreach: True takes the multi-tensor path, False the for-loop; None (default) the faster one. Sharded
            layers always take the multi-tensor path, on their local parts.
        fused: True takes fused kernels. On a CPU these are torch's, which want float32 or float64 and one layout of
            parameter, gradient and state; other layers take the for-loop. On a CUDA device they are Triton's, two
            launches for all layers of one dtype (float32, bfloat16 or float16; arithmetic in float32); other layers
            take the multi-tensor path, and all do, with a warning that says why, where Triton cannot run. Every
            path computes the same. None (default) takes the kernels where they fit, False never. With True for all
            layers, all on CUDA devices, a ``GradScaler`` leaves it to the step to unscale and to skip, with no wait.
        capturable: lr and every factor stay tensors on the device, so that a CUDA graph can capture the
            step. Default False.
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

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888.

    Example:
        >>> optimizer = LARS(layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03), lr=16.0)
        >>> loss_fn(model(x), y).backward()
        >>> optimizer.step()
    """

    _kind = Kind("a LARS", frozenset(("trust_coefficient",)), ("momentum_buffer",))

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

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lars_group(group)

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> Pending:
        return lars(
            params,
            grads,
            self._buffers(params, *([] if is_off(group["momentum"]) else ["momentum_buffer"])),
            group,
            lr=scalar(group["lr"], group["capturable"] or group["differentiable"]),
            observers=self.observers,
        )


def check_lars_group(group: dict[str, Any]) -> None:
    """Raise ValueError where an option that LARS and TVLARS share is out of its range."""
    check_number("momentum", group["momentum"], high=1.0, open_high=True)
    check_number("weight_decay", group["weight_decay"])
    check_number("trust_coefficient", group["trust_coefficient"], open_low=True)
    for flag in ("nesterov", "unit_ratio_at_zero"):
        check_flag(flag, group[flag])
    if group["norm_clip"] is not None:
        check_number("norm_clip", group["norm_clip"], open_low=True)
    if group["nesterov"] and is_off(group["momentum"]):
        raise ValueError("momentum must be > 0 where nesterov=True, got 0")


def lars(
    params: list[Tensor],
    grads: list[Tensor],
    state: list[list[Tensor]],
    group: dict[str, Any],
    *,
    lr: float | Tensor,
    observers: tuple[Observer, ...],
    factor: Factor | None = None,
) -> Pending:
    """One LARS step for ``params``, in place; ``state`` is [momentum buffers], or [] where momentum is 0.

    Returns what is left to be run with the layers of other groups.
    """
    pending: Pending = []
    for run in split_by_path(group, params, grads, *state):
        w, g, *m = run.lists
        rate: float | Tensor
        coefficient: float | Tensor
        rate, coefficient, extra = lr, group["trust_coefficient"], {}
        if run.path == "triton":  # t may be on the device, and φ(t) costs no launch where the kernel works it out
            extra = {"factor": factor, "capturable": group["capturable"]}
        elif factor is not None:
            rate, coefficient = factor.act(lr, group["trust_coefficient"])
        form = PATHS[run.path](
            w,
            g,
            m[0] if m else [],
            lr=rate,
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            trust_coefficient=coefficient,
            nesterov=group["nesterov"],
            norm_clip=group["norm_clip"],
            unit_ratio_at_zero=group["unit_ratio_at_zero"],
            layer_adaptation=group["layer_adaptation"],
            maximize=group["maximize"],
            observe=run.observe(observers, params),
            **extra,
        )
        if form is not None:
            pending.append((form, run.layouts))
    return pending


def _single_tensor_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float | Tensor,
    nesterov: bool,
    norm_clip: float | None,
    unit_ratio_at_zero: bool,
    layer_adaptation: bool,
    maximize: bool,
    observe: Observe | None = None,
) -> None:
    for i, w in enumerate(params):
        g = -grads[i] if maximize else grads[i]
        u = g if is_off(weight_decay) else plus(g, w, weight_decay)
        if layer_adaptation:
            w_norm = norm(readable(w))
            q = trust_ratio(clip(w_norm, norm_clip), clip(norm(u), norm_clip), trust_coefficient, unit_ratio_at_zero)
            u = times(u, q)
            if observe is not None:
                observe([i], [w_norm], [q])
        if not is_off(momentum):
            m = momentum_buffers[i]
            accumulate(m, momentum, u)
            u = plus(u, m, momentum) if nesterov else readable(m)
        descend(w, u, lr)


def _multi_tensor_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float | Tensor,
    nesterov: bool,
    norm_clip: float | None,
    unit_ratio_at_zero: bool,
    layer_adaptation: bool,
    maximize: bool,
    observe: Observe | None = None,
) -> MultiTensor:
    u: Tensors = torch._foreach_neg(grads) if maximize else grads
    if weight_decay:
        u = torch._foreach_add(u, params, alpha=weight_decay)
    if layer_adaptation:
        w_norms, u_norms = yield params, u
        q = trust_ratios(w_norms, u_norms, trust_coefficient, unit_ratio_at_zero, clip_w=norm_clip, clip_u=norm_clip)
        u = foreach_times(u, q)
        if observe is not None:
            observe(range(len(params)), w_norms, q)
    if momentum:
        torch._foreach_mul_(momentum_buffers, momentum)
        torch._foreach_add_(momentum_buffers, u)
        u = torch._foreach_add(u, momentum_buffers, alpha=momentum) if nesterov else momentum_buffers
    foreach_descend(params, u, lr)


PATHS: dict[str, Callable[..., MultiTensor | Part | None]] = {
    "for-loop": _single_tensor_lars,
    "foreach": _multi_tensor_lars,
    "fused": fused_lars,
    "triton": triton_lars,
}
