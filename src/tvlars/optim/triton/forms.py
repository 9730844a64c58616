"""LARS and LAMB steps for the Triton kernels: a form notes what its layers want, and ``launcher`` runs the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvlars.optim._observers import Observe
from tvlars.optim.phi import Factor


@dataclass
class Part:
    """Layers of one group that wait for the kernels."""

    rule: str
    lists: list[list[Tensor]]
    """w, g and the state, each a list; an empty one where there is no such state."""
    options: list[float]
    """Of the group, in the order that the kernels read."""
    lr: float | Tensor
    adapted: bool
    capturable: bool
    observe: Observe | None
    clock: Tensor | None = None
    """t of the group, where it is on the device, so that φ(t) is left to the kernel."""
    delay: int = 0
    """The whole steps of d_e, which the kernel takes from the clock before it is rounded to float32."""
    steps: list[float | Tensor] | None = None
    """t of each layer, where the rule has bias correction: numbers, and tensors on the device."""


def triton_lars(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    nesterov: bool,
    norm_clip: float | None,
    unit_ratio_at_zero: bool,
    layer_adaptation: bool,
    maximize: bool,
    factor: Factor | None,
    capturable: bool,
    observe: Observe | None = None,
) -> Part:
    """A LARS step for tensors that are ``_paths.kernels_fit``."""
    device = params[0].device
    clock, whole, shape, of_ratio = None, 0, (0.0, 0.0, 1.0, 0.0), False
    coefficient: Any = trust_coefficient
    if factor is not None and isinstance(factor.step, Tensor):
        clock, of_ratio = on_device(factor.step, device, torch.int64), factor.scope == "ratio"
        whole = int(min(factor.shape[1], 2.0**62))
        shape = (factor.shape[0], factor.shape[1] - whole, *factor.shape[2:])
    elif factor is not None:
        lr, coefficient = factor.act(lr, trust_coefficient)
    lr = _on_host_as_number(lr, device)
    options = [
        *_shared_options(lr, maximize, weight_decay, norm_clip, layer_adaptation),
        *(momentum, float(nesterov), coefficient, *shape, float(of_ratio), float(unit_ratio_at_zero)),
    ]
    lists = [params, grads, momentum_buffers]
    return Part("lars", lists, options, lr, layer_adaptation, capturable, observe, clock, whole)


def triton_lamb(
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
    capturable: bool,
    observe: Observe | None = None,
) -> Part:
    """A LAMB step for tensors that are ``_paths.kernels_fit``."""
    device = params[0].device
    lr = _on_host_as_number(lr, device)
    counts = [on_device(step, device, torch.int64) if isinstance(step, Tensor) else step for step in steps]
    options = _shared_options(lr, maximize, weight_decay, norm_clip, layer_adaptation)
    for beta in betas:  # in float32, 1 - beta has lost digits
        options += [beta, 1 - beta, math.log(beta) if beta and bias_correction else -math.inf]
    options.append(eps)
    lists = [params, grads, exp_avgs, exp_avg_sqs]
    return Part("lamb", lists, options, lr, layer_adaptation, capturable, observe, steps=counts)


def _shared_options(
    lr: float | Tensor, maximize: bool, weight_decay: float, norm_clip: float | None, adapted: bool
) -> list[float]:
    number = 0.0 if isinstance(lr, Tensor) else lr
    return [number, -1.0 if maximize else 1.0, weight_decay, math.inf if norm_clip is None else norm_clip, adapted]


def _on_host_as_number(lr: float | Tensor, device: torch.device) -> float | Tensor:
    if isinstance(lr, Tensor):
        return float(lr) if lr.device.type == "cpu" and device.type != "cpu" else on_device(lr, device)
    return lr


def on_device(x: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A scalar as ``dtype`` on ``device``, without a wait."""
    if not isinstance(x, Tensor):
        return torch.full((), x, dtype=dtype, device=device)
    return x if x.dtype == dtype and x.device == device else x.to(device, dtype, non_blocking=True)
