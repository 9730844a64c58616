"""ZeroRedundancyOptimizer: each process updates some of the layers, and all have what the plain optimizer computes.

Gradients are those of the whole batch in every process here, so that the two can be compared bit for bit.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim.lr_scheduler import LambdaLR

from tests.conftest import OPTIMIZERS, PATHS
from tests.optim.distributed.harness import check
from tests.optim.distributed.problems import assert_same_weights, backward, batches, network, optimizer_for

Optimizer = torch.optim.Optimizer


def zero(name: str, model: nn.Module, **arguments: Any) -> Any:
    return optimizer_for(name, model, ZeroRedundancyOptimizer, **arguments)


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for t, batch in enumerate(batches(steps.stop)):
        if t in steps:
            backward(model, batch)
            optimizer.step()


def saved(optimizer: Any, rank: int) -> dict[str, Any]:
    """The state that ``rank`` has collected, as every process reads it from a file of its own."""
    optimizer.consolidate_state_dict(to=rank)
    box: list[Any] = [None]
    if dist.get_rank() == rank:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        box = [file.getvalue()]
    dist.broadcast_object_list(box, src=rank)
    state: dict[str, Any] = torch.load(io.BytesIO(box[0]), weights_only=True)
    return state


def options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


@check(2)
def is_the_plain_optimizer(name: str) -> None:
    """On every path and under a scheduler, group by group."""
    for kind, path in PATHS.items():
        plain, ours = network(), network()
        a, b = optimizer_for(name, plain, **path), zero(name, ours, parameters_as_bucket_view=kind == "foreach", **path)
        schedules = [LambdaLR(optimizer, lambda t: 0.8**t) for optimizer in (a, b)]
        for batch in batches(6):
            for model, optimizer, schedule in zip((plain, ours), (a, b), schedules, strict=True):
                backward(model, batch)
                optimizer.step()
                schedule.step()
        # Parameters that are views of a bucket begin at other addresses, which changes how kernels round.
        assert_same_weights(ours, plain, tolerance=1e-6 if kind == "foreach" else 0.0)
        assert [options(group) for group in b.param_groups] == [options(group) for group in a.param_groups]
        assert [group["layer_adaptation"] for group in b.optim.param_groups] == [True, False]


@check(2)
def resumes(name: str) -> None:
    """From a state that either process collected: in ZeRO again, and in the plain optimizer, which goes by names."""
    uninterrupted, ours = network(), network()
    train(uninterrupted, optimizer_for(name, uninterrupted), range(6))
    first = zero(name, ours)
    train(ours, first, range(3))
    for rank in range(dist.get_world_size()):
        state = saved(first, rank)
        for make in (zero, optimizer_for):
            model = network()
            model.load_state_dict(ours.state_dict())
            optimizer = make(name, model, lr=0.123, weight_decay=0.456)
            optimizer.load_state_dict(copy.deepcopy(state))
            train(model, optimizer, range(3, 6))
            assert_same_weights(model, uninterrupted, tolerance=0.0)


@check(2)
def goes_on_where_a_process_has_no_layer(name: str) -> None:
    """One layer for two processes: the second has none, collects the state all the same, and later gets a layer."""
    cls, arguments = OPTIMIZERS[name]
    ours, plain = (nn.ParameterList([torch.ones(3, 2), torch.full((2, 2), 2.0)]) for _ in range(2))
    a = cls([plain[0]], **arguments)
    b = ZeroRedundancyOptimizer([ours[0]], optimizer_class=cls, **arguments)
    for t in range(6):
        if t == 2:
            c = cls([plain[0]], **arguments)
            c.load_state_dict(saved(b, 1))
            a = c
        if t == 4:
            a.add_param_group({"params": [plain[1]]})
            b.add_param_group({"params": [ours[1]]})
        for params in (ours, plain):
            for i, p in enumerate(params):
                p.grad = torch.linspace(-1.0, t + i, p.numel()).view_as(p)
        a.step()
        b.step()
        assert len(b.optim.state) == (t >= 4 or dist.get_rank() == 0)
        for p, q in zip(ours, plain, strict=True):
            assert torch.equal(p, q), t


@check(2, ("tvlars", "tvlars-ratio"))
def leaves_the_clock_of_a_state_it_loads(name: str) -> None:
    """ZeRO hands the local optimizer what the given state holds, not a copy of it."""
    model, other = network(), network()
    first, second = zero(name, model), zero(name, other)
    train(model, first, range(3))
    state = saved(first, 0)
    second.load_state_dict(state)
    train(other, second, range(2))
    assert [group["clock"] for group in state["param_groups"]] == [3, 3]
    assert [group["clock"] for group in second.param_groups] == [5, 5]
    assert second.optim.phi() == [second.optim.phi()[0]] * 2 != first.optim.phi()
