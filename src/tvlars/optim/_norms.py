"""Norms of layers, exact to rounding on every device and over shards, and the trust ratio made of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]
PLAIN = (Tensor, torch.nn.Parameter)
ROW = 1024


def norm(x: Tensor) -> Tensor:
    """‖x‖ as a 0-d tensor on the device of ``x``, accumulated in at least float32.

    On a CPU torch sums all squares of a tensor in a row, which costs digits: at ten million elements the norm
    is off by 4e-4 of its value in float32. Rows of 1,024 and the norm of their norms are exact to rounding.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    result: Tensor
    plain = type(x) in PLAIN and x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or x.numel() <= 64 * ROW:
        result = torch.linalg.vector_norm(x, dtype=dtype)
        return result
    flat = in_memory_order(x)
    rest = flat.numel() % ROW
    parts = torch.linalg.vector_norm(flat[: flat.numel() - rest].view(-1, ROW), dim=1, dtype=dtype)
    if rest:
        parts = torch.cat([parts, torch.linalg.vector_norm(flat[-rest:], dtype=dtype).view(1)])
    result = torch.linalg.vector_norm(parts, dtype=torch.float64).to(dtype)
    return result


def norms(tensors: Tensors) -> Tensor:
    """‖x‖ of every tensor as one vector, accumulated in at least float32."""
    if tensors[0].device.type == "cpu":
        return torch.stack([norm(x) for x in tensors])
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))


def in_memory_order(x: Tensor) -> Tensor:
    """The elements of ``x`` in one dimension, a view where its layout is contiguous or channels_last."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


def clip(norm: Tensor, norm_clip: float | None) -> Tensor:
    """min(norm, norm_clip), or ``norm`` itself where there is no bound."""
    return norm if norm_clip is None else norm.clamp(max=norm_clip)


def trust_ratio(w_norm: Tensor, u_norm: Tensor, coefficient: float | Tensor, unit_at_zero: bool) -> Tensor:
    """q = coefficient * ‖w‖ / ‖u‖, elementwise, where ‖w‖ = 0 counts as 1, and q = coefficient where ‖u‖ = 0.

    With ``unit_at_zero``, as published, q = 1 where either is 0. Never waits for the device.
    """
    moves = u_norm > 0
    at_zero: float | Tensor = coefficient
    if unit_at_zero:
        moves, at_zero = moves & (w_norm > 0), 1.0
    else:
        w_norm = torch.where(w_norm > 0, w_norm, 1.0)
    # Where ‖u‖ = 0 the quotient is not used; a divisor of 1 there keeps its derivative finite.
    return torch.where(moves, coefficient * w_norm / torch.where(moves, u_norm, 1.0), at_zero)


# -- sharded layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where a DTensor lies: over which mesh, and along which dimensions of the mesh its parts are different."""

    mesh: Any
    sharded: tuple[bool, ...]


def layout(x: Any) -> Layout | None:
    """The layout of a DTensor; None for any other tensor."""
    if type(x) in PLAIN or not hasattr(x, "placements"):
        return None
    if any(placement.is_partial() for placement in x.placements):
        raise RuntimeError(f"params must be sharded or replicated, got a DTensor with placements {x.placements}")
    return Layout(x.device_mesh, tuple(not placement.is_replicate() for placement in x.placements))


def laid_out_like(x: Any, like: Any) -> Any:
    """``x`` itself where it lies as ``like`` does, else a copy that does; any ``x`` where ``like`` is no DTensor."""
    if not hasattr(like, "placements"):
        return x
    if not hasattr(x, "placements"):
        raise RuntimeError("a sharded parameter must have a sharded gradient and state, got a plain tensor")
    if x.placements == like.placements and x.device_mesh == like.device_mesh:
        return x
    return x.redistribute(like.device_mesh, like.placements)


def norms_of_whole(parts: list[Tensor], layouts: list[list[Layout]]) -> list[Tensor]:
    """Norms of whole tensors from those of their local parts: ‖x‖² is the sum of its parts' squares.

    One collective for each dimension of a mesh along which anything is sharded, whatever the number of layers (and one
    for each kind of device, where some parts of a mesh are offloaded). Every process takes them in the same order, that
    of the layers; of a mesh that does not hold this process there is nothing to sum here.

    Args:
        parts: vectors of local norms.
        layouts: the layout behind each of these norms.
    """
    places = [place for some in layouts for place in some]
    squares = [square for part in parts for square in part.double().square().unbind()]
    pools: dict[tuple[Any, torch.device], list[int]] = {}
    for i, (place, square) in enumerate(zip(places, squares, strict=True)):
        pools.setdefault((place.mesh, square.device), []).append(i)
    for (mesh, _), pool in pools.items():
        if mesh.get_coordinate() is None:
            continue
        for dim in range(mesh.ndim):
            chosen = [i for i in pool if places[i].sharded[dim]]
            if chosen:
                sums = torch.stack([squares[i] for i in chosen])
                torch.distributed.all_reduce(sums, group=mesh.get_group(dim))
                for i, value in zip(chosen, sums.unbind(), strict=True):
                    squares[i] = value
    left = iter(squares)
    return [torch.stack(list(islice(left, len(part)))).sqrt().to(part.dtype) for part in parts]
