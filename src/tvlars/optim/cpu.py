"""LARS and LAMB steps on torch's fused CPU kernels.

Norms are computed once, then torch's own fused SGD and Adam kernels do the update, called so that they compute exactly
our rule. The kernels ignore strides, so all tensors of a layer must have the same layout (``_paths.fusable``). Small
layers share kernel calls, since the calls dominate their cost; large layers are updated one by one, since the update
then finds in the cache what the norms have read.

LARS: fused SGD computes m ← μ m + (1 − dampening)(g + βw), w ← w − lr m. With dampening = 1 − q that is LARS. Where
that does not work (Nesterov, which would use u in place of q u; a q for which 1 − q keeps too few digits) the kernel is
given q g as the gradient, q β as the weight decay, and dampening 0. Small layers, each with its own q, are given q u.

LAMB: fused Adam with lr = −1 adds m̂ / (√v̂ + eps) to the tensor that it is given as the parameter, and advances both
moments. Given a copy of βw it leaves r there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from tvlars.optim._numerics.norms import (
    ROW,
    clip,
    foreach_times_,
    host_norm,
    host_norm_of_any_size,
    host_trust_ratio,
    in_memory_order,
    in_range,
    in_two,
    is_moderate,
)
from tvlars.optim._observers import Observe
from tvlars.optim._options import LambOptions, LarsOptions

SMALL = 16 * ROW
"""Most elements of a layer that shares a kernel call with others."""
CHUNK = 512 * ROW
"""Elements processed at a time, of a large layer or of small ones, so that they stay in the cache over passes."""


def fused_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    options: LarsOptions,
    observe: Observe | None = None,
) -> None:
    """Take one LARS or TVLARS step on tensors that are ``_paths.fusable``."""
    lr, eta = options.rates()
    momentum, nesterov, maximize = options.momentum, options.nesterov, options.maximize
    weight_decay, norm_clip = options.weight_decay, options.norm_clip
    if not options.layer_adaptation:
        _sgd(params, grads, momentum_buffers, lr, weight_decay, momentum, nesterov=nesterov, maximize=maximize)
        return

    def ratio(w_norm: float, u_norm: float) -> float:
        return host_trust_ratio(clip(w_norm, norm_clip), clip(u_norm, norm_clip), eta, options.unit_ratio_at_zero)

    beta = -weight_decay if maximize else weight_decay  # with maximize the kernel negates g + beta w
    small, large = _by_size(params)
    scratch = torch.empty(CHUNK, dtype=params[0].dtype, device=params[0].device)
    for some in _together(params, small):
        w, g, m = _cut(params, some), _cut(grads, some), _cut(momentum_buffers, some)
        u = _laid_out_like(w, scratch)
        torch._foreach_copy_(u, g)
        if beta:
            torch._foreach_add_(u, w, alpha=beta)
        norms = _norms_of_small(w, u)
        q = [ratio(w_norm, u_norm) for w_norm, u_norm in norms]
        foreach_times_(u, q)
        if observe is not None:
            observe(some, [w_norm for w_norm, _ in norms], q)
        _sgd(w, u, m, lr, 0.0, momentum, nesterov=nesterov, maximize=maximize)
    for i in large:
        w_norm = host_norm(params[i])
        q_i = ratio(w_norm, _norm_of_sum(params[i], w_norm, grads[i], beta))
        if observe is not None:
            observe([i], [w_norm], [q_i])
        usual = is_moderate(q_i)
        if not momentum and usual:
            _sgd([params[i]], [grads[i]], [], lr * q_i, weight_decay, maximize=maximize)
        elif not nesterov and momentum and usual and abs(1 - (1 - q_i) - q_i) <= torch.finfo(params[i].dtype).eps * q_i:
            buffers = [momentum_buffers[i]]
            _sgd([params[i]], [grads[i]], buffers, lr, weight_decay, momentum, dampening=1 - q_i, maximize=maximize)
        else:
            decay = q_i * weight_decay if usual and is_moderate(q_i * weight_decay) else 0.0
            for w_i, g_i, *m_i in _chunks(params[i], grads[i], *_cut(momentum_buffers, [i])):
                qu = scratch[: w_i.numel()]
                if decay or (usual and not beta):  # the kernel adds q βw to q g
                    torch.mul(g_i, q_i, out=qu)
                else:
                    torch.add(g_i, w_i, alpha=beta, out=qu)
                    for factor in (q_i,) if usual else in_two(q_i):
                        qu.mul_(factor)
                _sgd([w_i], [qu], m_i, lr, decay, momentum, nesterov=nesterov, maximize=maximize)


def fused_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float],
    options: LambOptions,
    observe: Observe | None = None,
) -> None:
    """Take one LAMB step on tensors that are ``_paths.fusable``."""
    lr, weight_decay, norm_clip = options.lr, options.weight_decay, options.norm_clip
    if not options.bias_correction:
        steps = [math.inf] * len(params)  # 1 - β^∞ = 1
    # The kernel reads a step in the parameters' dtype, which is exact enough for β^t; most layers share one.
    known = {t: torch.tensor(float(t), dtype=torch.float64, device="cpu") for t in set(steps)}
    counts = [known[t] for t in steps]

    def advance(r: list[Tensor], chosen: list[int]) -> None:
        """Advance the moments of some layers, and add their m̂ / (√v̂ + eps) to ``r``."""
        torch._fused_adam_(
            r,
            _cut(grads, chosen),
            _cut(exp_avgs, chosen),
            _cut(exp_avg_sqs, chosen),
            [],
            _cut(counts, chosen),
            lr=-1.0,
            beta1=options.betas[0],
            beta2=options.betas[1],
            weight_decay=0.0,
            eps=options.eps,
            amsgrad=False,
            maximize=options.maximize,
        )

    small, large = _by_size(params)
    size = max(CHUNK, *(w.numel() for w in params))
    scratch = torch.empty(size, dtype=params[0].dtype, device=params[0].device)
    for some in _together(params, small):
        w = _cut(params, some)
        r = _laid_out_like(w, scratch)
        torch._foreach_zero_(r)
        if weight_decay:
            torch._foreach_add_(r, w, alpha=weight_decay)
        advance(r, some)
        if options.layer_adaptation:
            norms = _norms_of_small(w, r)
            q = [host_trust_ratio(clip(w_norm, norm_clip), r_norm, 1.0, True) for w_norm, r_norm in norms]
            foreach_times_(r, q)
            if observe is not None:
                observe(some, [w_norm for w_norm, _ in norms], q)
        _sgd(w, r, [], lr)
    for i in large:
        w_i = in_memory_order(params[i])
        r_i = (
            torch.mul(w_i, weight_decay, out=scratch[: w_i.numel()]) if weight_decay else scratch[: w_i.numel()].zero_()
        )
        q_i = 1.0
        if options.layer_adaptation:
            # βw is in the cache just now, and w itself may not be; a tiny β would leave no digits in it.
            w_norm = host_norm(r_i) / weight_decay if weight_decay > 1e-12 else 0.0
            if not in_range(weight_decay * w_norm, r_i.dtype):
                w_norm = host_norm(w_i)
        advance([r_i], [i])
        if options.layer_adaptation:
            q_i = host_trust_ratio(clip(w_norm, norm_clip), host_norm(r_i), 1.0, True)
            if observe is not None:
                observe([i], [w_norm], [q_i])
        if not is_moderate(q_i):
            for factor in in_two(q_i):  # lr times one of them may be too huge for a float32
                r_i.mul_(factor)
            q_i = 1.0
        w_i.add_(r_i, alpha=-lr * q_i)


def _sgd(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> None:
    """Call torch's fused SGD: u = g + βw, m ← μ m + (1 − dampening) u, w ← w − lr m."""
    torch._fused_sgd_(
        params,
        grads,
        momentum_buffers,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        is_first_step=False,  # the buffers start as zeros
    )


def _by_size(params: list[Tensor]) -> tuple[list[int], list[int]]:
    """Return the indices of the small layers and of the large layers."""
    small: list[int] = []
    large: list[int] = []
    for i, w in enumerate(params):
        (small if w.numel() <= SMALL else large).append(i)
    return small, large


def _together(params: list[Tensor], small: list[int]) -> Iterator[list[int]]:
    """Yield runs of small layers that have at most CHUNK elements together."""
    some: list[int] = []
    size = 0
    for i in small:
        if size + params[i].numel() > CHUNK:
            yield some
            some, size = [], 0
        some.append(i)
        size += params[i].numel()
    if some:
        yield some


def _laid_out_like(params: list[Tensor], scratch: Tensor) -> list[Tensor]:
    """Return parts of ``scratch`` in the shapes of ``params``; new memory in each step would cost page faults."""
    ends = accumulate(w.numel() for w in params)
    return [scratch.as_strided(w.shape, w.stride(), end - w.numel()) for w, end in zip(params, ends, strict=True)]


def _cut(tensors: list[Tensor], indices: list[int]) -> list[Tensor]:
    return [tensors[i] for i in indices] if tensors else []


def _chunks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The same CHUNK elements of each tensor at a time, as views in memory order."""
    return zip(*[torch.split(in_memory_order(x), CHUNK) for x in tensors], strict=True)


def _norms_of_small(params: list[Tensor], directions: list[Tensor]) -> list[tuple[float, float]]:
    """Return ‖w‖ and ‖u‖ for each layer."""
    layers = [*params, *directions]
    values = torch.stack(torch._foreach_norm(layers)).tolist()
    for i, x in enumerate(layers):
        if not in_range(values[i], x.dtype):
            values[i] = host_norm_of_any_size(x)
    return list(zip(values, values[len(params) :], strict=False))


def _norm_of_sum(w: Tensor, w_norm: float, g: Tensor, beta: float) -> float:
    """Return ‖g + βw‖ from ‖g‖² + 2β⟨g, w⟩ + β²‖w‖², without forming the sum.

    A long dot product in float32 is off by some 1e-5 of ‖g‖‖w‖, so the sum is formed if the term with it is more than a
    tenth of the others.
    """
    g_norm = host_norm(g)
    if beta == 0.0:
        return g_norm
    decay_norm = beta * w_norm
    squares = g_norm * g_norm + decay_norm * decay_norm
    cross = 2 * beta * torch.dot(in_memory_order(g), in_memory_order(w)).item()
    vanished = 2 * abs(beta) * w.numel() * torch.finfo(w.dtype).tiny  # at most, products of g and w
    if not abs(cross) + 1e9 * vanished <= 0.1 * squares < math.inf:
        return host_norm(g.add(w, alpha=beta))
    return math.sqrt(squares + cross)
