"""A state saved with names is matched by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import Make


def model(*order: str) -> nn.ModuleDict:
    sizes = {"a": 3, "b": 3, "c": 3}
    return nn.ModuleDict({name: nn.Linear(sizes[name], 3, bias=False) for name in order})


def step(optimizer: torch.optim.Optimizer, net: nn.ModuleDict, value: float) -> None:
    for i, name in enumerate(sorted(net)):
        weight: Any = net[name].weight
        weight.grad = torch.full((3, 3), value * (i + 1))
    optimizer.step()


def test_another_order_of_parameters_gets_its_own_state(make: Make) -> None:
    net, other = model("a", "b", "c"), model("c", "a", "b")
    other.load_state_dict(net.state_dict())
    first, second = make(net.named_parameters()), make(other.named_parameters())
    step(first, net, 1.0)
    other.load_state_dict(net.state_dict())
    saved = copy.deepcopy(first.state_dict())  # as from a file: torch loads without copying
    before = [list(group["params"]) for group in saved["param_groups"]]
    second.load_state_dict(saved)
    assert [group["params"] for group in saved["param_groups"]] == before
    step(first, net, -2.0)
    step(second, other, -2.0)
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_missing_and_extra_names_are_listed(make: Make) -> None:
    net, other = model("a", "b"), model("b", "c")
    first, second = make(net.named_parameters()), make(other.named_parameters())
    step(first, net, 1.0)
    with pytest.raises(ValueError, match=r"it lacks c\.weight; it has a\.weight, which the optimizer has not"):
        second.load_state_dict(first.state_dict())
    assert not second.state


def test_a_name_in_another_group_is_said(make: Make) -> None:
    net = model("a", "b")
    a, b = list(net.named_parameters())
    first = make([{"params": [a]}, {"params": [b]}])
    second = make([{"params": [b]}, {"params": [a]}])
    with pytest.raises(ValueError, match=r"b\.weight is in group 1 there and in group 0 here"):
        second.load_state_dict(first.state_dict())


def test_names_that_come_twice_are_no_names(make: Make) -> None:
    """As of two modules in one optimizer; position decides then."""
    nets = [nn.Linear(3, 3, bias=False) for _ in range(4)]
    first, second = (make([*a.named_parameters(), *b.named_parameters()]) for a, b in (nets[:2], nets[2:]))
    for net in nets[:2]:
        net.weight.grad = torch.ones(3, 3)
    first.step()
    second.load_state_dict(first.state_dict())
    assert set(second.state) == {net.weight for net in nets[2:]}


def test_hooks_may_repair_names_before(make: Make) -> None:
    net, other = model("a", "b"), model("b", "a")
    first, second = make(net.named_parameters()), make(other.named_parameters())
    step(first, net, 1.0)
    saved = copy.deepcopy(first.state_dict())
    group = saved["param_groups"][0]
    group["param_names"] = [f"module.{name}" for name in group["param_names"]]

    def strip(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        groups = [
            {**g, "param_names": [n.removeprefix("module.") for n in g["param_names"]]} for g in given["param_groups"]
        ]
        return {**given, "param_groups": groups}

    second.register_load_state_dict_pre_hook(strip)
    second.load_state_dict(saved)
    mine: Any = first.state[net["a"].weight]
    theirs = second.state[other["a"].weight]
    assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in mine)


def test_without_names_position_decides_as_in_torch(make: Make) -> None:
    net = model("a", "b")
    first, second = make(net.named_parameters()), make(net.parameters())
    step(first, net, 1.0)
    second.load_state_dict(first.state_dict())
    assert len(second.state) == 2
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make([{"params": list(net.parameters())[:1]}, {"params": list(net.parameters())[1:]}]).load_state_dict(
            second.state_dict()
        )
