"""Sharded parameters: two processes follow the unsharded run, with one collective for the norms of a step."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tests.conftest import OPTIMIZERS, PATHS
from tvlars.optim._numerics.sharded import Layout, norms_of_whole

reason = "torch counts collectives with numpy, which is not installed"
debug = pytest.importorskip("torch.distributed.tensor.debug", reason=reason)

WORLD = 2


def network() -> nn.Sequential:
    """Odd sizes, so that the two shards of a layer differ, and a layer that lies on one process alone."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 1), nn.Tanh(), nn.Linear(1, 5))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups that are adapted and one that is not."""
    named = list(model.named_parameters())
    return [
        {"params": named[:3]},
        {"params": named[3:6], "weight_decay": 0.02},
        {"params": named[6:], "layer_adaptation": False},
    ]


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def under_fsdp(name: str, path: dict[str, Any]) -> None:
    """Each process has half of each batch; FSDP2 averages their gradients."""
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
            with debug.CommDebugMode() as collectives:
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


def placements(name: str) -> None:
    """Row-wise, column-wise and replicated layers of a two-dimensional mesh, gradients laid out otherwise too."""
    cls, arguments = OPTIMIZERS[name]
    mesh = init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("replicas", "shards"))
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


def child(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    for name in OPTIMIZERS:
        for path in PATHS.values():
            under_fsdp(name, path)
        placements(name)
    time.sleep(0.1)  # a thread of gloo that lets go of its last work while the interpreter ends would abort it
    dist.destroy_process_group()


def test_two_processes_are_the_unsharded_run(tmp_path: Path) -> None:
    code = "import sys; from tests.optim.test_sharded import child; child(int(sys.argv[1]), sys.argv[2])"
    children = [
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", code, str(rank), str(tmp_path)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    errors = [process.communicate(timeout=300)[1] for process in children]
    assert [process.returncode for process in children] == [0] * WORLD, "\n".join(errors)


def test_offloaded_layers_have_their_norms_where_they_are() -> None:
    """One mesh, two kinds of device: a collective each. "meta" stands for the accelerator, and two shards are equal."""
    place = Layout(mock.Mock(ndim=1), (True,))
    parts = [torch.tensor([3.0, 4.0]), torch.ones(1, device="meta"), torch.tensor([5.0])]
    with mock.patch("torch.distributed.all_reduce", side_effect=lambda sums, group: sums.mul_(2.0)) as collective:
        norms = norms_of_whole(parts, [[place] * 2, [place], [place]])
    assert [call.args[0].device.type for call in collective.call_args_list] == ["cpu", "meta"]
    assert [x.device for x in norms] == [x.device for x in parts]
    torch.testing.assert_close([norms[0], norms[2]], [2**0.5 * parts[0], 2**0.5 * parts[2]])
