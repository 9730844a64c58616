"""LARS and LAMB steps for the Triton kernels: a form describes its layers' work, and ``launcher`` runs the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvlars.optim._observers import Observe
from tvlars.optim._options import LambOptions, LarsOptions


@dataclass
class Part:
    """Layers of one group that wait for the kernels."""

    rule: str
    lists: list[list[Tensor]]
    """w, g and the state, each a list, which is empty for a state that is not kept."""
    options: list[float]
    """Options of the group, in the order in which the kernels read them."""
    lr: float | Tensor
    adapted: bool
    capturable: bool
    observe: Observe | None
    clock: Tensor | None = None
    """t of the group if it is on the device, so that the kernel computes φ(t)."""
    delay: int = 0
    """The whole steps of d_e, which the kernel takes from the clock before it is rounded to float32."""
    steps: list[float | Tensor] | None = None
    """t of each layer if the rule has bias correction: numbers, or tensors on the device."""
    moments: bool = False
    """True if the first launch updates moments, also of layers that are not adapted."""


def triton_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    options: LarsOptions,
    observe: Observe | None = None,
) -> Part:
    """Describe a LARS or TVLARS step on tensors that are ``_paths.kernels_fit``."""
    device, phi = params[0].device, options.phi
    clock, whole, shape, of_ratio = None, 0, (0.0, 0.0, 1.0, 0.0), False
    lr, eta = options.lr, options.trust_coefficient
    if phi is not None and isinstance(phi.t, Tensor):  # φ(t) costs no launch if the kernel computes it
        clock, of_ratio = on_device(phi.t, device, torch.int64), phi.phi_scope == "ratio"
        whole = int(min(phi.delay, 2.0**62))
        shape = (phi.delay_factor, phi.delay - whole, phi.alpha, phi.gamma_min)
    else:
        lr, eta = options.rates()
    lr = _on_host_as_number(lr, device)
    row = [
        *_shared_options(lr, options),
        *(options.momentum, float(options.nesterov), eta, *shape, float(of_ratio), float(options.unit_ratio_at_zero)),
    ]
    lists = [params, grads, momentum_buffers]
    return Part("lars", lists, row, lr, options.layer_adaptation, options.capturable, observe, clock, whole)


def triton_lamb(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float | Tensor],
    options: LambOptions,
    observe: Observe | None = None,
) -> Part:
    """Describe a LAMB step on tensors that are ``_paths.kernels_fit``."""
    device = params[0].device
    lr = _on_host_as_number(options.lr, device)
    counts = [on_device(step, device, torch.int64) if isinstance(step, Tensor) else step for step in steps]
    row = _shared_options(lr, options)
    for beta in options.betas:  # in float32, 1 - beta has lost digits
        row += [beta, 1 - beta, math.log(beta) if beta and options.bias_correction else -math.inf]
    row.append(options.eps)
    lists = [params, grads, exp_avgs, exp_avg_sqs]
    adapted, capturable = options.layer_adaptation, options.capturable
    return Part("lamb", lists, row, lr, adapted, capturable, observe, steps=counts, moments=True)


def _shared_options(lr: float | Tensor, options: LarsOptions | LambOptions) -> list[float]:
    number = 0.0 if isinstance(lr, Tensor) else lr
    sign, clip = -1.0 if options.maximize else 1.0, math.inf if options.norm_clip is None else options.norm_clip
    return [number, sign, options.weight_decay, clip, options.layer_adaptation]


def _on_host_as_number(lr: float | Tensor, device: torch.device) -> float | Tensor:
    if isinstance(lr, Tensor):
        return float(lr) if lr.device.type == "cpu" and device.type != "cpu" else on_device(lr, device)
    return lr


def on_device(x: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a scalar as ``dtype`` on ``device``, without a wait."""
    if not isinstance(x, Tensor):
        return torch.full((), x, dtype=dtype, device=device)
    return x if x.dtype == dtype and x.device == device else x.to(device, dtype, non_blocking=True)
