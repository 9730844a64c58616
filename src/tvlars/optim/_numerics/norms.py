"""Norms of layers, exact to rounding on every device, and the trust ratio made of them."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]
PLAIN = (Tensor, torch.nn.Parameter)
ROW = 1024


RANGES = {torch.float64: (1e-150, 1e150)}
"""By dtype, bounds between which the root of a sum of squares is accurate."""
RANGE = (1e-12, 1e18)
"""The same bounds for squares in float32: below, some squares vanish; above, their sum may be infinite."""
WIDE = ("cpu", "cuda", "meta")
"""Devices with float64, in which squares of float32 values neither vanish nor overflow."""


def norm(x: Tensor) -> float | Tensor:
    """Return ‖x‖, exact for elements of any size: a number if ``x`` is on the host, else a 0-d tensor on its device."""
    if on_host((x,)):
        return host_norm(x)
    if x.dtype == torch.float64:
        return _scaled_norm(x)
    result: Tensor = torch.linalg.vector_norm(x, dtype=torch.float64 if x.device.type in WIDE else torch.float32)
    return result


def norms(tensors: Tensors) -> Tensor:
    """Return ‖x‖ of every tensor as one vector; float64 norms on an accelerator must lie between 1e-150 and 1e150."""
    if on_host(tensors):
        return torch.tensor([host_norm(x) for x in tensors], dtype=torch.float64, device="cpu")
    if tensors[0].device.type == "cpu":
        return torch.stack([torch.as_tensor(norm(x)) for x in tensors])
    wide = tensors[0].device.type in WIDE or tensors[0].dtype == torch.float64
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64 if wide else torch.float32))


def on_host(tensors: Tensors) -> bool:
    """Return True if these tensors are plain ones on the CPU, and nothing is traced or differentiated."""
    return (
        all(type(x) in PLAIN and x.is_cpu for x in tensors)
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
    )


def host_norm(x: Tensor) -> float:
    """Return ‖x‖ of a tensor on the CPU, exact to rounding.

    torch sums all squares of a tensor in a row, which costs digits: at ten million elements the norm is off by 4e-4 of
    its value in float32. Rows of 1,024 and the norm of their norms are exact. In the rare case that squares
    vanish or overflow, which the result shows, the norm is computed again in float64.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.numel() <= 64 * ROW:
        result: float = torch.linalg.vector_norm(x, dtype=dtype).item()
    else:
        flat = in_memory_order(x)
        rest = flat.numel() % ROW
        rows = torch.linalg.vector_norm(flat[: flat.numel() - rest].view(-1, ROW), dim=1, dtype=dtype).double()
        square = torch.dot(rows, rows).item()
        if rest:
            last = torch.linalg.vector_norm(flat[-rest:], dtype=dtype).item()
            square += last * last
        result = math.sqrt(square)
    return result if in_range(result, dtype) else host_norm_of_any_size(x)


def in_range(value: float, dtype: torch.dtype) -> bool:
    """Return True if no squares of a norm taken in ``dtype`` have vanished or overflowed."""
    low, high = RANGES.get(dtype, RANGE)
    return low < value < high


def host_norm_of_any_size(x: Tensor) -> float:
    """Return ‖x‖ of a tensor on the CPU, in float64, for elements of any size."""
    if x.dtype == torch.float64:
        return float(_scaled_norm(x))
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def _scaled_norm(x: Tensor) -> Tensor:
    """Return ‖x‖ of a float64 tensor, which is divided by its largest element before squaring."""
    if not x.numel():
        return torch.linalg.vector_norm(x)  # type: ignore[no-any-return]
    largest = x.detach().abs().amax()
    largest = torch.where((largest > 0) & (largest < math.inf), largest, 1.0)
    return largest * torch.linalg.vector_norm(x / largest)  # type: ignore[no-any-return]


def in_memory_order(x: Tensor) -> Tensor:
    """Return the elements of ``x`` in one dimension, as a view if the layout is contiguous or channels_last."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


def clip(norm: Any, norm_clip: float | None) -> Any:
    """Return min(norm, norm_clip), or ``norm`` itself if there is no bound."""
    if norm_clip is None:
        return norm
    return norm.clamp(max=norm_clip) if isinstance(norm, Tensor) else min(norm, norm_clip)


def trust_ratio(w_norm: Any, u_norm: Any, coefficient: float | Tensor, unit_at_zero: bool) -> Any:
    """q = coefficient * ‖w‖ / ‖u‖, elementwise, where ‖w‖ = 0 counts as 1, and q = coefficient where ‖u‖ = 0.

    With ``unit_at_zero``, as published, q = 1 where either is 0. q is a number if the norms are numbers, else a tensor,
    without a wait for the device.
    """
    if not isinstance(w_norm, Tensor):
        return host_trust_ratio(w_norm, u_norm, float(coefficient), unit_at_zero)
    moves, at_zero = u_norm > 0, coefficient
    if unit_at_zero:
        moves, at_zero = moves & (w_norm > 0), 1.0
    else:
        w_norm = torch.where(w_norm > 0, w_norm, 1.0)
    if torch.is_grad_enabled():  # the quotient by 0 is not used, but a divisor of 1 there keeps its derivative finite
        u_norm = torch.where(moves, u_norm, 1.0)
    return torch.where(moves, coefficient * w_norm / u_norm, at_zero)


def host_trust_ratio(w_norm: float, u_norm: float, coefficient: float, unit_at_zero: bool) -> float:
    if unit_at_zero and not (w_norm > 0 and u_norm > 0):
        return 1.0
    return coefficient * (w_norm if w_norm > 0 else 1.0) / u_norm if u_norm > 0 else coefficient


def trust_ratios(
    w_norms: list[float] | Tensor,
    u_norms: list[float] | Tensor,
    coefficient: float | Tensor,
    unit_at_zero: bool,
    *,
    clip_w: float | None,
    clip_u: float | None,
) -> Any:
    """Return q of several layers, whose norms are numbers on the host or a vector on a device."""
    if isinstance(w_norms, Tensor):
        return trust_ratio(clip(w_norms, clip_w), clip(u_norms, clip_u), coefficient, unit_at_zero)
    coefficient = float(coefficient)
    return [
        host_trust_ratio(clip(w_norm, clip_w), clip(u_norm, clip_u), coefficient, unit_at_zero)
        for w_norm, u_norm in zip(w_norms, u_norms, strict=True)
    ]


# -- q u, where the dtype can hold q u but perhaps not q --------------------------------------------------

MODERATE = (2.0**-100, 2.0**100)


def is_moderate(q: float) -> bool:
    """Return True if q and 1 - q can be passed to a kernel as float32."""
    return MODERATE[0] <= q <= MODERATE[1]


def in_two(q: float) -> tuple[float, float]:
    """Return two factors of q that float32 can hold, for q between 1e-60 and 1e60."""
    q = min(q, sys.float_info.max)  # of float64 layers whose norms lie 308 powers of ten apart, it may be infinite
    first = min(max(q, MODERATE[0]), MODERATE[1])
    return first, q / first


def times(u: Tensor, q: float | Tensor) -> Tensor:
    """Return q u. On an accelerator q is rounded to float32 (float64 for float64 layers), with huge values clamped."""
    if not isinstance(q, Tensor):
        if is_moderate(q):
            return u * q
        first, second = in_two(q)
        return u * first * second
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        q = q.clamp(max=sys.float_info.max)
        part = q.detach().clamp(*MODERATE)
        return u * part * (q / part)
    return u * _fitting(q, u.dtype)


def foreach_times(u: Tensors, q: list[float] | Tensor) -> Tensors:
    """Return q u of every layer, as ``times``."""
    first, second = _factors(q, u[0].dtype)
    result = torch._foreach_mul(u, first)
    if second is not None:
        torch._foreach_mul_(result, second)
    return result


def foreach_times_(u: Tensors, q: list[float] | Tensor) -> None:
    """u ← q u for every layer, as ``times``."""
    for factor in _factors(q, u[0].dtype):
        if factor is not None:
            torch._foreach_mul_(u, factor)


def _factors(q: list[float] | Tensor, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return q of several layers as one factor, or as two if one could be too huge or tiny."""
    if not isinstance(q, Tensor):
        if all(map(is_moderate, q)):
            return q, None
        first, second = zip(*map(in_two, q), strict=True)
        return list(first), list(second)
    if torch.compiler.is_compiling():
        part = q.clamp(*MODERATE)
        return list(part.unbind()), list((q / part).unbind())
    return list(_fitting(q, dtype).unbind()), None


def _fitting(q: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        return q.clamp(max=sys.float_info.max)
    return q.clamp(max=torch.finfo(torch.float32).max).float()
