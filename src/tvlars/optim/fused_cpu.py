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
from collections.abc import Iterator

import torch
from torch import Tensor

from tvlars.optim.base import ROW, in_memory_order, norm

SMALL = 64 * ROW
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
    pairs = _norms_of_sums(params, grads, -weight_decay if maximize else weight_decay)
    for i, (w, g) in enumerate(zip(params, grads, strict=True)):
        q = 1.0
        if layer_adaptation:
            w_norm, u_norm = next(pairs)
            q = _ratio(_clip(w_norm, norm_clip), _clip(u_norm, norm_clip), trust_coefficient)
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
    flat = [[in_memory_order(x) for x in tensors] for tensors in (params, grads, exp_avgs, exp_avg_sqs)]
    counts = [torch.tensor(t if bias_correction else math.inf) for t in steps]  # 1 - β^∞ = 1
    small = [i for i, w in enumerate(params) if w.numel() <= SMALL]
    large = [[i] for i, w in enumerate(params) if w.numel() > SMALL]
    scratch = torch.empty(max(w.numel() for w in params), dtype=params[0].dtype)
    for chosen in [small, *large] if small else large:  # the small ones at once, the large ones one by one
        w, g, m, v = ([tensors[i] for i in chosen] for tensors in flat)
        if len(chosen) == 1:
            r = [scratch[: w[0].numel()].zero_()]
        else:
            sizes = [x.numel() for x in w]
            r = list(torch.split(torch.zeros(sum(sizes), dtype=scratch.dtype), sizes))
        torch._fused_adam_(
            r,
            g,
            m,
            v,
            [],
            [counts[i] for i in chosen],
            lr=-1.0,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=eps,
            amsgrad=False,
            maximize=maximize,
        )
        ratios = [1.0] * len(chosen)
        if layer_adaptation:
            norms = _norms_of_sums(w, r, weight_decay)
            ratios = [_ratio(_clip(w_norm, norm_clip), r_norm, 1.0) for w_norm, r_norm in norms]
        for w_i, r_i, q in zip(w, r, ratios, strict=True):
            _descend(w_i, r_i, lr * q, weight_decay)


def _descend(w: Tensor, direction: Tensor, rate: float, weight_decay: float) -> None:
    """w ← w − rate (direction + βw)."""
    torch._fused_sgd_(
        [w],
        [direction],
        [],
        weight_decay=weight_decay,
        momentum=0.0,
        lr=rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def _norms_of_sums(params: list[Tensor], grads: list[Tensor], beta: float) -> Iterator[tuple[float, float]]:
    """‖w‖ and ‖g + βw‖ for each layer; those of a large layer are taken when it is its turn.

    So its update, which comes next, finds what was read in the cache.
    """
    small = [i for i, w in enumerate(params) if w.numel() <= SMALL]
    known: dict[int, tuple[float, float]] = {}
    if small:
        w, u = [params[i] for i in small], [grads[i] for i in small]
        if beta:
            u = list(torch._foreach_add(u, w, alpha=beta))
        values = torch.stack([*torch._foreach_norm(w), *torch._foreach_norm(u)]).tolist()
        known = dict(zip(small, zip(values, values[len(small) :], strict=False), strict=True))
    for i, (w_i, g_i) in enumerate(zip(params, grads, strict=True)):
        if i in known:
            yield known[i]
        else:
            w_norm = norm(w_i).item()
            yield w_norm, _norm_of_sum(w_i, w_norm, g_i, beta)


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
