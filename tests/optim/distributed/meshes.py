"""Several meshes, and plain tensors, in one optimizer."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tests.conftest import OPTIMIZERS, PATHS
from tests.optim.distributed.harness import check
from tests.optim.distributed.problems import assert_same_weights, backward, batches, optimizer_for, whole
from tests.optim.distributed.tensor_parallel import Mlp, cut

ONE_OF_EACH = ("lars", "tvlars", "lamb")
"""Four processes are slow on few cores, and what they are for has nothing to do with an optimizer's options."""
Place = tuple[DeviceMesh, list[Any]] | None


@cache
def squares() -> DeviceMesh:
    """Four processes, two by two; making one takes long."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))


def laid_out(values: list[Tensor], places: list[Place]) -> list[Tensor]:
    return [
        value.clone() if place is None else distribute_tensor(value, *place)
        for value, place in zip(values, places, strict=True)
    ]


def follow(name: str, path: dict[str, Any], places: list[Place]) -> None:
    """Layers that lie at ``places``, in two groups, go where plain ones go."""
    cls, arguments = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(5, 4, generator=generator) for _ in places]
    ours = [nn.Parameter(value) for value in laid_out(values, [None] * len(places))]
    theirs = [nn.Parameter(value) for value in laid_out(values, places)]
    a, b = (
        cls([{"params": params[::2]}, {"params": params[1::2], "weight_decay": 0.3}], **{**arguments, **path})
        for params in (ours, theirs)
    )
    for _ in range(5):
        gradients = [torch.randn(5, 4, generator=generator) for _ in places]
        for params, grads in ((ours, gradients), (theirs, laid_out(gradients, places))):
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
        a.step()
        b.step()
    for i, (p, q, place) in enumerate(zip(ours, theirs, places, strict=True)):
        if place is None or place[0].get_coordinate() is not None:  # elsewhere there is nothing of it
            torch.testing.assert_close(
                whole(q.detach()), p.detach(), rtol=1e-5, atol=1e-6, msg=lambda m, i=i: f"layer {i}: {m}"
            )


@check(2)
def side_by_side(name: str) -> None:
    """Meshes of one and two dimensions, of both processes and of either alone, and no mesh."""
    line = init_device_mesh("cpu", (2,), mesh_dim_names=("line",))
    row = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicas", "shards"))
    column = init_device_mesh("cpu", (2, 1), mesh_dim_names=("shards", "replicas"))
    first, second = DeviceMesh("cpu", [0]), DeviceMesh("cpu", [1])
    places: list[Place] = [
        (first, [Shard(0)]),
        (row, [Replicate(), Shard(1)]),
        None,
        (line, [Shard(0)]),
        (line, [Replicate()]),
        (column, [Shard(0), Shard(0)]),
        (second, [Shard(1)]),
        (column["shards"], [Shard(1)]),
    ]
    for path in PATHS.values():
        follow(name, path, places)


@check(4, ONE_OF_EACH)
def pairs(name: str) -> None:
    """Meshes of two processes each beside the mesh of all: every process knows its own pair alone."""
    mesh = squares()
    places: list[Place] = [
        (mesh["tensor"], [Shard(0)]),
        (mesh, [Shard(0), Shard(1)]),
        (mesh["data"], [Shard(1)]),
        None,
        (mesh, [Replicate(), Shard(0)]),
        (mesh, [Shard(0), Replicate()]),
        (mesh["data"], [Replicate()]),
    ]
    follow(name, {}, places)


@check(4, ONE_OF_EACH)
def fsdp2_over_tensor_parallel(name: str) -> None:
    """Layers that tensor parallel cuts lie on the mesh of two dimensions, the others on that of the data alone."""
    mesh = squares()
    alone, ours = Mlp(), Mlp()
    cut(ours, mesh["tensor"])
    for layer in (ours[1], ours[3], ours):
        fully_shard(layer, mesh=mesh["data"])  # type: ignore[arg-type]
    assert {p.device_mesh.ndim for p in ours.parameters() if isinstance(p, DTensor)} == {1, 2}
    train_beside(name, alone, ours, mesh.get_local_rank("data"), 2)


@check(4, ONE_OF_EACH)
def hsdp_beside_fsdp2(name: str) -> None:
    """One layer sharded in pairs that are replicas, the rest over all processes."""
    alone, ours = Mlp(), Mlp()
    fully_shard(ours[1], mesh=squares())
    fully_shard(ours, mesh=init_device_mesh("cpu", (4,)))
    train_beside(name, alone, ours, dist.get_rank(), 4)


def train_beside(name: str, alone: nn.Module, ours: nn.Module, part: int, parts: int) -> None:
    """``alone`` has all of each batch and ``ours`` a part of it in each process; they stay the same."""
    rows = slice(8 // parts * part, 8 // parts * (part + 1))
    a, b = optimizer_for(name, alone), optimizer_for(name, ours)
    for batch in batches(6):
        backward(alone, batch)
        a.step()
        backward(ours, batch, rows)
        b.step()
    assert_same_weights(ours, alone)
