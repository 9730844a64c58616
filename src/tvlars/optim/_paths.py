"""Which form of the update rule a layer takes, and how the multi-tensor forms of a step are run together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tvlars.optim._norms import PLAIN, Layout, Tensors, laid_out_like, layout, norms, norms_of_whole

MultiTensor = Generator[tuple[Tensors, Tensors], tuple[Tensor, ...], None]
"""A multi-tensor form: it yields parameters and directions once, is sent their norms, and updates.

Where nothing is adapted it ends without a yield. So the norms of all groups of a step are taken together.
"""


Observer = Callable[[Sequence[Tensor], Sequence[Any] | Tensor, Sequence[Any] | Tensor], None]
"""Is told of adapted layers what a step has computed of them anyway: parameters, ‖w‖ and q of each.

The values are numbers, 0-d tensors, or one vector on the device. ``LayerwiseOptimizer.observers`` holds them.
"""
Observe = Callable[[Sequence[int], Sequence[Any] | Tensor, Sequence[Any] | Tensor], None]
"""The same for a form of the update rule, which knows its layers by their places."""


@dataclass
class Run:
    """Layers of one group that take one path: parameters, gradients and state cut to them."""

    path: str
    lists: list[list[Tensor]]
    indices: list[int] = field(default_factory=list)
    """Where the layers stand in the lists that were cut."""
    layouts: list[Layout] = field(default_factory=list)
    """Of sharded layers, whose ``lists`` hold the local parts; else empty."""

    def observe(self, observers: tuple[Observer, ...], params: list[Tensor]) -> Observe | None:
        """``observers`` for the form that updates this run, which was cut from ``params``."""
        if not observers:
            return None
        layers = [params[i] for i in self.indices]

        def tell(places: Sequence[int], w_norms: Any, q: Any) -> None:
            for observer in observers:
                observer([layers[i] for i in places], w_norms, q)

        return tell


def split_by_path(group: dict[str, Any], *lists: list[Tensor]) -> list[Run]:
    """Cut parallel lists (parameters, gradients, state) into runs that take one path and share device and dtypes."""
    may_fuse, may_group = _allowed(group)
    if may_fuse and len({w.dtype for w in lists[0]}) == 1 and all(map(fusable, zip(*lists, strict=True))):
        return [Run("fused", list(lists), list(range(len(lists[0]))))]  # the usual case, at little cost
    runs: dict[Any, Run] = {}
    for i, layer in enumerate(zip(*lists, strict=True)):
        w = layer[0]
        place = layout(w)
        if place is not None:
            layer = tuple(laid_out_like(x, w).to_local() for x in layer)
        if place is not None or group["foreach"]:
            path = "foreach"
        elif may_fuse and fusable(layer):
            path = "fused"
        else:
            path = "foreach" if may_group and _is_on_accelerator(w) else "for-loop"
        key = (path, place is None, w.device, *[x.dtype for x in layer])
        run = runs.get(key)
        if run is None:
            run = runs[key] = Run(path, [[] for _ in layer])
        for cut, x in zip(run.lists, layer, strict=True):
            cut.append(x)
        run.indices.append(i)
        if place is not None:
            run.layouts.append(place)
    return list(runs.values())


def _allowed(group: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a group's options allow the fused path, and the foreach path where that is faster."""
    foreach, fused = group["foreach"], group["fused"]
    # A compiler fuses the for-loop better than we could; autograd wants nothing done behind its back.
    eager = not (torch.compiler.is_compiling() or group["differentiable"])
    device_lr = _is_on_accelerator(group["lr"])
    may_fuse = eager and (fused or (fused is None and foreach is None)) and not (group["capturable"] or device_lr)
    may_group = eager and foreach is None and not fused and (group["capturable"] or not device_lr)
    return may_fuse, may_group


def _is_on_accelerator(x: Any) -> bool:
    """Whether ``x`` is a plain tensor where ``torch._foreach_*`` makes one launch of many; on a CPU it is a loop."""
    return type(x) in PLAIN and x.device.type in ("cuda", "xpu")


def fusable(layer: tuple[Tensor, ...]) -> bool:
    """Whether torch's fused CPU kernels may be given these tensors of one layer.

    The kernels walk through memory without a look at strides, so all have to be laid out alike.
    """
    first = layer[0]
    dtype = first.dtype
    if dtype not in (torch.float32, torch.float64):
        return False
    contiguous = True
    for x in layer:
        if type(x) not in PLAIN or x.dtype != dtype or not x.is_cpu:
            return False
        contiguous = contiguous and x.is_contiguous()
    return contiguous or (first.ndim == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in layer))


def run_together(pending: list[tuple[MultiTensor, list[Layout]]]) -> None:
    """Run multi-tensor forms up to their norms, take all norms, and let the forms end.

    Sharded layers of all of them share one collective a mesh dimension.
    """
    waiting = []
    for form, layouts in pending:
        request = next(form, None)
        if request is not None:
            params, directions = request
            waiting.append((form, norms([*params, *directions]), layouts * 2))
    sharded = [(parts, layouts) for _, parts, layouts in waiting if layouts]
    whole = iter(norms_of_whole(*map(list, zip(*sharded, strict=True))) if sharded else ())
    for form, parts, layouts in waiting:
        values = next(whole) if layouts else parts
        with suppress(StopIteration):
            form.send(values.chunk(2))
