"""LARS and LAMB steps on torch's fused CPU kernels.

The norms are taken once, then torch's own fused SGD and Adam kernels do the update where they compute exactly our
rule. They walk through memory without a look at strides, so they are given nothing but tensors of one layout
(``base.fusable``).

LARS: fused SGD computes m ← μ m + (1 − dampening)(g + βw), w ← w − lr m. With dampening = 1 − q that is LARS.

Nesterov, w ← w − lr (q u + μ m'), where m' = μ m + q u: fused SGD would put u for q u. But q u = m' − μ m, so w' =
(w + lr μ m) − lr (1 + μ) m'. Moving w by lr μ m first makes the kernel decay the moved w; momentum μ (1 − q β lr)
takes that back.

LAMB: fused Adam with lr = −1 on zeros leaves m̂ / (√v̂ + eps) there and advances both moments; fused SGD without
momentum, with that as gradient and lr q as rate, adds βw and descends.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tvlars.optim.base import ROW, in_memory_order, norm

SMALL = 16 * ROW
"""Elements up to which many tensors' norms are taken in one call; larger ones are worth a call each."""


def fused_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    nesterov: bool,
    norm_clip: float | None,
    layer_adaptation: bool,
    maximize: bool,
) -> None:
    """One LARS step on tensors that are ``base.fusable``."""
    sign = -1.0 if maximize else 1.0
    ratios = [1.0] * len(params)
    if layer_adaptation:
        ratios = [
            _ratio(_clip(w_norm, norm_clip), _clip(u_norm, norm_clip), trust_coefficient)
            for w_norm, u_norm in _norms_of_sums(params, grads, weight_decay, sign)
        ]
    for i, (w, g, q) in enumerate(zip(params, grads, ratios, strict=True)):
        rate, decay_momentum, buffers = lr * q, 0.0, []
        if momentum:
            rate, decay_momentum, buffers = lr, momentum, [momentum_buffers[i]]
        if nesterov:
            w.add_(buffers[0], alpha=lr * momentum)
            rate, decay_momentum = lr * (1 + momentum), momentum * (1 - q * weight_decay * lr)
        torch._fused_sgd_(
            [w],
            [g],
            buffers,
            weight_decay=weight_decay,
            momentum=decay_momentum,
            lr=rate,
            dampening=1 - q if momentum else 0.0,
            nesterov=False,
            maximize=maximize,
            is_first_step=False,
        )


def fused_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    norm_clip: float | None,
    layer_adaptation: bool,
    maximize: bool,
) -> None:
    """One LAMB step on tensors that are ``base.fusable``."""
    scratch = torch.empty(max(w.numel() for w in params), dtype=params[0].dtype)
    for w, g, m, v, t in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        flat, r = in_memory_order(w), scratch[: w.numel()].zero_()
        torch._fused_adam_(
            [r],
            [in_memory_order(g)],
            [in_memory_order(m)],
            [in_memory_order(v)],
            [],
            [torch.tensor(t if bias_correction else math.inf)],  # 1 - β^∞ = 1
            lr=-1.0,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=eps,
            amsgrad=False,
            maximize=maximize,
        )
        q = 1.0
        if layer_adaptation:
            ((w_norm, r_norm),) = _norms_of_sums([flat], [r], weight_decay, 1.0)
            q = _ratio(_clip(w_norm, norm_clip), r_norm, 1.0)
        torch._fused_sgd_(
            [flat],
            [r],
            [],
            weight_decay=weight_decay,
            momentum=0.0,
            lr=lr * q,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


def _norms_of_sums(
    params: list[Tensor], grads: list[Tensor], weight_decay: float, sign: float
) -> list[tuple[float, float]]:
    """‖w‖ and ‖sign · g + βw‖ for each layer."""
    result = [(0.0, 0.0)] * len(params)
    small = [i for i, w in enumerate(params) if w.numel() <= SMALL]
    if small:
        w, u = [params[i] for i in small], [grads[i] for i in small]
        if weight_decay:
            u = list(torch._foreach_add(u, w, alpha=sign * weight_decay))
        values = torch.stack([*torch._foreach_norm(w), *torch._foreach_norm(u)]).tolist()
        for i, w_norm, u_norm in zip(small, values, values[len(small) :], strict=False):
            result[i] = (w_norm, u_norm)
    for i, (w_i, g_i) in enumerate(zip(params, grads, strict=True)):
        if w_i.numel() > SMALL:
            w_norm = norm(w_i).item()
            result[i] = (w_norm, _norm_of_sum(w_i, w_norm, g_i, sign * weight_decay))
    return result


def _norm_of_sum(w: Tensor, w_norm: float, g: Tensor, beta: float) -> float:
    """‖g + βw‖ from ‖g‖² + 2β⟨g, w⟩ + β²‖w‖², without forming the sum.

    A long dot product in float32 is off by some 1e-5 of ‖g‖‖w‖, so where its term is more than a tenth of the
    others the sum is formed.
    """
    g_norm = norm(g).item()
    if beta == 0.0:
        return g_norm
    decay_norm = beta * w_norm
    squares = g_norm * g_norm + decay_norm * decay_norm
    cross = 2 * beta * torch.dot(in_memory_order(g), in_memory_order(w)).item()
    if not abs(cross) <= 0.1 * squares:
        return norm(g.add(w, alpha=beta)).item()
    return math.sqrt(squares + cross)


def _clip(value: float, norm_clip: float | None) -> float:
    return value if norm_clip is None else min(value, norm_clip)


def _ratio(w_norm: float, u_norm: float, coefficient: float) -> float:
    return coefficient * w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0
