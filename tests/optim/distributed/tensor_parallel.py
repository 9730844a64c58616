"""``parallelize_module``: an MLP cut column-wise and row-wise follows the whole one."""

from __future__ import annotations

from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from tests.conftest import PATHS
from tests.optim.distributed.harness import check
from tests.optim.distributed.problems import assert_same_weights, backward, batches, optimizer_for


class Mlp(nn.Sequential):
    """A norm, two layers that are cut, and two that are not; the same at every call."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.LayerNorm(6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.LayerNorm(5), nn.Linear(5, 5))


def cut(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(model, mesh, {"1": ColwiseParallel(), "3": RowwiseParallel()})


def placements(model: nn.Module) -> dict[str, tuple[object, ...] | None]:
    return {
        name: tuple(p.placements) if isinstance(p, DTensor) else None  # type: ignore[unreachable]
        for name, p in model.named_parameters()
        if name[0] in "013"
    }


@check(2)
def mlp(name: str) -> None:
    """Beside layers that are plain tensors, on every path; the norms of a step take one collective."""
    mesh = init_device_mesh("cpu", (2,))
    for path in PATHS.values():
        alone, ours = Mlp(), Mlp()
        cut(ours, mesh)
        assert placements(ours) == {
            **{"0.weight": None, "0.bias": None, "1.weight": (Shard(0),), "1.bias": (Shard(0),)},
            **{"3.weight": (Shard(1),), "3.bias": (Replicate(),)},
        }
        a, b = optimizer_for(name, alone), optimizer_for(name, ours, **path)
        for batch in batches(6):
            backward(alone, batch)
            a.step()
            backward(ours, batch)
            with mock.patch("torch.distributed.all_reduce", wraps=dist.all_reduce) as sums:
                b.step()
            assert sums.call_count == 1
        assert_same_weights(ours, alone)


@check(2)
def adapted_biases(name: str) -> None:
    """Cut and replicated 1-d layers have norms as any other: with one group everything is adapted."""
    alone, ours = Mlp(), cut(Mlp(), init_device_mesh("cpu", (2,)))
    a, b = (optimizer_for(name, model) for model in (alone, ours))
    for optimizer in (a, b):
        optimizer.param_groups[1]["layer_adaptation"] = True
    for batch in batches(6):
        for model, optimizer in ((alone, a), (ours, b)):
            backward(model, batch)
            optimizer.step()
    assert_same_weights(ours, alone)


@check(2)
def sequence_parallel(name: str) -> None:
    """Each process has half of the samples in the norm, whose gradient comes as a sum that is still to be taken."""
    mesh = init_device_mesh("cpu", (2,))
    alone, ours = Mlp(), Mlp()
    plan = {
        "": PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(0),)),
        "0": SequenceParallel(sequence_dim=0),
        "1": ColwiseParallel(input_layouts=Shard(0)),
        "3": RowwiseParallel(),
    }
    parallelize_module(ours, mesh, plan)
    a, b = optimizer_for(name, alone), optimizer_for(name, ours)
    for batch in batches(6):
        backward(alone, batch)
        a.step()
        backward(ours, batch)
        b.step()
    assert_same_weights(ours, alone)
