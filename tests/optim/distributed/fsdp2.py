"""FSDP2 and sharded layers: two processes follow the unsharded run, with one collective for the norms of a step."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from tests.conftest import OPTIMIZERS, PATHS
from tests.optim.distributed.harness import check
from tests.optim.distributed.problems import network, whole


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups that are adapted and one that is not."""
    named = list(model.named_parameters())
    return [
        {"params": named[:3]},
        {"params": named[3:6], "weight_decay": 0.02},
        {"params": named[6:], "layer_adaptation": False},
    ]


@check(2)
def is_the_unsharded_run(name: str) -> None:
    """Each process has half of each batch, on every path; FSDP2 averages their gradients."""
    for path in PATHS.values():
        under_fsdp(name, path)


def under_fsdp(name: str, path: dict[str, Any]) -> None:
    cls, arguments = OPTIMIZERS[name]
    alone, sharded = network(), network()
    for layer in (sharded[0], sharded[3], sharded):
        fully_shard(layer)  # type: ignore[arg-type]
    mine, theirs = cls(groups(alone), **arguments), cls(groups(sharded), **arguments, **path)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)
        half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        for model, optimizer, rows in ((alone, mine, slice(None)), (sharded, theirs, half)):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
            before = [whole(p.grad).clone() for p in model.parameters()]  # type: ignore[arg-type]
            with CommDebugMode() as collectives:
                optimizer.step()
            assert collectives.get_total_counts() == (model is sharded), collectives.get_comm_counts()
            for p, gradient in zip(model.parameters(), before, strict=True):
                assert torch.equal(whole(p.grad), gradient)  # type: ignore[arg-type]
    for (key, a), b in zip(alone.named_parameters(), sharded.parameters(), strict=True):
        assert isinstance(b, DTensor)
        torch.testing.assert_close(whole(b), a, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{name} {key}: {m}")
    assert all(
        isinstance(value, DTensor) for state in theirs.state.values() for key, value in state.items() if key != "step"
    )


@check(2)
def follows_placements(name: str) -> None:
    """Row-wise, column-wise and replicated layers of a two-dimensional mesh, gradients laid out otherwise too."""
    cls, arguments = OPTIMIZERS[name]
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicas", "shards"))
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(5, 4, generator=generator) for _ in range(4)]
    layouts = [[Replicate(), Shard(0)], [Replicate(), Shard(1)], [Replicate(), Replicate()], [Shard(0), Shard(0)]]
    ours = [nn.Parameter(v.clone()) for v in values]
    theirs = [nn.Parameter(distribute_tensor(v, mesh, p)) for v, p in zip(values, layouts, strict=True)]
    a, b = cls(ours, **arguments), cls(theirs, **arguments)
    for step in range(4):
        if step == 2:  # as loaded from a checkpoint that was laid out otherwise
            for q, layout in zip(theirs, [*layouts[2:], *layouts[:2]], strict=True):
                state = b.state[q]
                for key in sorted(set(state) - {"step"}):  # in one order on all processes
                    state[key] = state[key].redistribute(mesh, layout)
        for p, q, layout in zip(ours, theirs, [*layouts[1:], layouts[0]], strict=True):
            p.grad = torch.randn(5, 4, generator=generator)
            q.grad = distribute_tensor(p.grad, mesh, layout)
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(whole(q.detach()), p.detach(), rtol=1e-5, atol=1e-6)
