"""Sharded layers: how a DTensor is laid out, and norms of whole layers from those of their shards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from tvlars.optim._numerics.norms import PLAIN


@dataclass(frozen=True)
class Layout:
    """Layout of a DTensor: its mesh, and the dimensions of the mesh along which it is sharded."""

    mesh: Any
    sharded: tuple[bool, ...]


def layout(x: Any) -> Layout | None:
    """Return the layout of a DTensor; None for any other tensor."""
    if type(x) in PLAIN or not hasattr(x, "placements"):
        return None
    if any(placement.is_partial() for placement in x.placements):
        raise RuntimeError(f"params must be sharded or replicated, got a DTensor with placements {x.placements}")
    return Layout(x.device_mesh, tuple(not placement.is_replicate() for placement in x.placements))


def laid_out_like(x: Any, like: Any) -> Any:
    """Return ``x`` in the layout of ``like``, copied if need be; ``x`` itself if ``like`` is no DTensor."""
    if not hasattr(like, "placements"):
        return x
    if not hasattr(x, "placements"):
        raise RuntimeError("a sharded parameter must have a sharded gradient and state, got a plain tensor")
    if x.placements == like.placements and x.device_mesh == like.device_mesh:
        return x
    return x.redistribute(like.device_mesh, like.placements)


def norms_of_whole(parts: list[Tensor], layouts: list[list[Layout]]) -> list[Tensor]:
    """Return norms of whole tensors from norms of their local parts: ‖x‖² is the sum of the parts' squares.

    Three sums are taken, of squares as they are and of parts made smaller and larger, so that at least one neither
    overflows nor vanishes.

    One collective runs for each dimension of a mesh along which anything is sharded, for any number of layers (and for
    each kind of device, if some parts of a mesh are offloaded). Every process runs the collectives in the same order,
    the order of the layers. A mesh without this process needs no sum here.

    Args:
        parts: vectors of local norms.
        layouts: layout of the tensor behind each of these norms.
    """
    places = [place for some in layouts for place in some]
    squares = [square for part in parts for square in (part.double().unsqueeze(1) * _scales(part)).square().unbind()]
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
    return [_root(torch.stack(list(islice(left, len(part)))), _scales(part)).to(part.dtype) for part in parts]


def _scales(part: Tensor) -> Tensor:
    return torch.tensor([2.0**-600, 1.0, 2.0**600], dtype=torch.float64, device=part.device)


def _root(squares: Tensor, scales: Tensor) -> Tensor:
    """Return, for each row, the norm from the sum of a moderate size."""
    roots = squares.sqrt() / scales
    small, usual, large = roots[:, 2], roots[:, 1], roots[:, 0]
    return torch.where(usual < 1e-145, small, torch.where(usual > 1e150, large, usual))
