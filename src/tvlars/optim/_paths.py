"""The path of each layer: the form of the update rule that updates it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tvlars.optim._numerics.norms import PLAIN
from tvlars.optim._numerics.sharded import Layout, laid_out_like, layout
from tvlars.optim.triton import availability

FUSABLE_DTYPES = (torch.float32, torch.float64)
"""Dtypes of torch's fused CPU kernels."""


@dataclass
class Route:
    """Layers of one group that use the same path, with their parameters, gradients and state."""

    path: str
    lists: list[list[Tensor]]
    indices: list[int] = field(default_factory=list)
    """Places of the layers in the lists before they were cut."""
    layouts: list[Layout] = field(default_factory=list)
    """Layouts of sharded layers, whose ``lists`` hold the local parts; else empty."""


def routes(group: dict[str, Any], forms: Collection[str], *lists: list[Tensor]) -> list[Route]:
    """Cut parallel lists (parameters, gradients, state) into routes that take one path and share device and dtypes.

    ``forms`` are the paths that the rule has a form for. Layers on the Triton path are all laid out as their parameters
    are: a gradient with another layout is copied, and a state with another layout is converted in place.
    """
    allowed = _allowed(group, forms)
    usual = _usual_path(group, allowed, lists)
    if usual is not None:
        return [Route(usual, list(lists), list(range(len(lists[0]))))]
    found: dict[Any, Route] = {}
    for i, layer in enumerate(zip(*lists, strict=True)):
        w = layer[0]
        place = layout(w)
        if place is not None:
            layer = tuple(laid_out_like(x, w).to_local() for x in layer)
        if place is not None or group["foreach"]:
            path = "foreach"
        elif allowed.triton and kernels_fit(layer):
            path, layer = "triton", laid_out_as_parameter(layer)
        elif allowed.cpu and fusable(layer):
            path = "fused"
        else:
            path = "foreach" if allowed.foreach and _is_on_accelerator(w) else "for-loop"
        key = (path, place is None, w.device, *[x.dtype for x in layer])
        route = found.get(key)
        if route is None:
            route = found[key] = Route(path, [[] for _ in layer])
        for cut, x in zip(route.lists, layer, strict=True):
            cut.append(x)
        route.indices.append(i)
        if place is not None:
            route.layouts.append(place)
    return list(found.values())


class Allowed(NamedTuple):
    """Paths that the options of a group allow beside the for-loop."""

    triton: bool
    cpu: bool
    foreach: bool
    """True where multi-tensor launches are faster and nothing else was asked for."""


def _allowed(group: dict[str, Any], forms: Collection[str]) -> Allowed:
    foreach, fused = group["foreach"], group["fused"]
    # A compiler fuses the for-loop better than we could; autograd has to see every operation.
    eager = not (torch.compiler.is_compiling() or group["differentiable"])
    device_lr = _is_on_accelerator(group["lr"])
    may_fuse = eager and (fused or (fused is None and foreach is None))
    on_cpu = may_fuse and not (group["capturable"] or device_lr)
    may_group = eager and foreach is None and (group["capturable"] or not device_lr)
    return Allowed(may_fuse and "triton" in forms, on_cpu and "fused" in forms, may_group)


def _usual_path(group: dict[str, Any], allowed: Allowed, lists: tuple[list[Tensor], ...]) -> str | None:
    """Return the one path that all layers take, if that is cheap to find out; else None."""
    if not any(allowed):
        plain = set(map(type, lists[0])).issubset(PLAIN)
        alike = plain and len({(x.device, x.dtype) for x in chain(*lists)}) == 1
        return ("foreach" if group["foreach"] else "for-loop") if alike else None
    if allowed.triton and kernels_fit(next(zip(*lists, strict=True))):
        alike = all(
            len({x.dtype for x in tensors}) == len({x.device for x in tensors}) == 1
            and set(map(type, tensors)).issubset(PLAIN)
            for tensors in lists
        )
        contiguous = alike and all(all(map(Tensor.is_contiguous, tensors)) for tensors in lists)
        return "triton" if contiguous or (alike and all(map(_laid_out_alike, zip(*lists, strict=True)))) else None
    if allowed.cpu:
        if fusable(tuple(chain(*lists))):  # one look instead of one for each layer, enough where all are contiguous
            return "fused"
        if len({w.dtype for w in lists[0]}) == 1 and all(map(fusable, zip(*lists, strict=True))):
            return "fused"
    return None


def _is_on_accelerator(x: Any) -> bool:
    """Return True if ``x`` is a plain tensor on a device where ``torch._foreach_*`` is one launch, not a loop."""
    return type(x) in PLAIN and x.device.type in ("cuda", "xpu")


def fusable(layer: tuple[Tensor, ...]) -> bool:
    """Return True if torch's fused CPU kernels may be given these tensors, of one layer or of several.

    The kernels ignore strides, so all tensors must have the same layout.
    """
    first = layer[0]
    dtype = first.dtype
    if dtype not in FUSABLE_DTYPES:
        return False
    contiguous = True
    for x in layer:
        if type(x) not in PLAIN or x.dtype != dtype or not x.is_cpu:
            return False
        contiguous = contiguous and x.is_contiguous()
    return contiguous or (first.ndim == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in layer))


def kernels_fit(layer: tuple[Tensor, ...]) -> bool:
    """Return True if the Triton kernels may be given these tensors of one layer, once they have the same layout."""
    w = layer[0]
    if w.device.type not in availability.DEVICE_TYPES or w.dtype not in availability.DTYPES or not _is_dense(w):
        return False
    if not all(type(x) in PLAIN and x.dtype == w.dtype and x.device == w.device for x in layer):
        return False
    return availability.why_not(w.device) is None


def laid_out_as_parameter(layer: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the layer with its gradient in the parameter's layout, copied if need be; convert its state in place."""
    w, g, *state = layer
    for x in state:
        if not _laid_out_alike((w, x)):
            x.set_(torch.empty_like(w).copy_(x))  # type: ignore[call-overload]
    return (w, g if _laid_out_alike((w, g)) else torch.empty_like(w).copy_(g), *state)


def _laid_out_alike(layer: tuple[Tensor, ...]) -> bool:
    """Return True if the tensors are dense and have their elements in the same order in memory."""
    w, *others = layer
    if w.is_contiguous():
        return all(x.is_contiguous() for x in others)
    return _is_dense(w) and all(x.stride() == w.stride() for x in others)


def _is_dense(x: Tensor) -> bool:
    """Return True if ``x`` fills its memory without gaps, in any order of dimensions."""
    if x.is_contiguous():
        return True
    filled = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != filled:
            return False
        filled *= size
    return True
