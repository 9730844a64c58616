"""Parameter groups by the rules of other libraries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.convert.beside import (
    apart,
    model,
    same,
    theirs_of,
    trajectory,
)
from tvlars import convert

pytestmark = pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning")


class Block(nn.Module):
    """Has a table that timm is asked to leave without decay, and a two-dimensional parameter called bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.randn(4, 3), requires_grad=False)
        self.attention = nn.Module()
        self.attention.bias = nn.Parameter(torch.randn(2, 2, dtype=torch.float64))
        self.linear = nn.Linear(3, 2).double()

    def no_weight_decay(self) -> set[str]:
        return {"tab*"}


@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize("opt", ["lars", "nlars", "lamb"])
def test_groups_of_timm_create_optimizer(opt: str, filters: bool) -> None:
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    arguments: dict[str, Any] = dict(opt=opt, lr=0.1, weight_decay=0.2, filter_bias_and_bn=filters)
    arguments |= dict(max_grad_norm=None) if opt == "lamb" else {}
    net, other = Block(), Block()
    conversion = convert("timm", params=net, **arguments)
    theirs = optim.create_optimizer_v2(other, **arguments)
    decay = {p: group["weight_decay"] for group in theirs.param_groups for p in group["params"]}
    named = dict(other.named_parameters())
    assert other.frozen not in decay
    count = 0
    for group in conversion.groups():
        for name, p in zip(group["param_names"], group["params"], strict=True):
            assert p is dict(net.named_parameters())[name]
            assert group["weight_decay"] == decay[named[name]]
            assert group["layer_adaptation"] == (group["weight_decay"] > 0)
            count += 1
    assert count == len(decay) == 4
    assert conversion.groups() == convert("timm", **arguments).groups(net)
    assert conversion.exact == (opt == "lamb")


def test_groups_of_a_function_for_timm() -> None:
    make = lambda net: [dict(params=[net.table], weight_decay=0.3, lr=0.2), dict(params=[net.linear.weight], eps=0.0)]  # noqa: E731
    conversion = convert("timm", opt="lars", lr=0.1, model_or_params=(net := Block()), param_group_fn=make)
    first, second = conversion.groups()
    assert (first["lr"] if "lr" in first else conversion.arguments["lr"]) == 0.2
    assert (first["weight_decay"], first["layer_adaptation"]) == (0.3, True)
    assert (second["weight_decay"], second["layer_adaptation"]) == (0.0, False)
    assert second["params"] == [net.linear.weight]


@pytest.mark.parametrize("by_function", [False, True])
def test_timm_filters_a_model_alone(by_function: bool) -> None:
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    arguments: dict[str, Any] = dict(opt="lamb", lr=0.01, weight_decay=0.5, max_grad_norm=None)
    if by_function:
        arguments["param_group_fn"] = lambda net: net.named_parameters()
    given = (lambda net: net) if by_function else (lambda net: list(net.named_parameters()))
    conversion = convert("timm", params=given(model()), **arguments)
    assert conversion.exact
    assert conversion.biases == {"layer_adaptation": True, "weight_decay": 0.5}
    theirs = trajectory(lambda net: optim.create_optimizer_v2(given(net), **arguments))
    same(trajectory(lambda net: convert("timm", params=given(net), **arguments).build()), theirs)
    del arguments["opt"]
    arguments.pop("param_group_fn", None)
    assert apart(trajectory(convert("timm", opt="lamb", **arguments).build), theirs) > 0.1  # on the model


def test_groups_takes_names_as_timm_does() -> None:
    conversion = convert("timm", opt="lamb", weight_decay=0.5)
    assert conversion.biases["layer_adaptation"] is False
    net = model()
    assert len(conversion.groups(net)) == 2
    (group,) = conversion.groups(net.named_parameters())
    assert group["layer_adaptation"]


def test_groups_with_options_of_their_own_count_for_what_differs() -> None:
    pytest.importorskip("lightly.utils.lars", reason="lightly is not installed")
    from lightly.utils.lars import LARS as Lightly

    def groups(net: nn.Module) -> list[dict[str, Any]]:
        named = list(net.named_parameters())
        return [
            dict(name="weights", params=[p for _, p in named if p.ndim > 1]),
            dict(name="rest", params=[p for _, p in named if p.ndim == 1], weight_decay=0.0, lr=0.01),
        ]

    arguments = dict(lr=2.0, momentum=0.9, weight_decay=0.1, eps=0.0)
    conversion = convert("lightly", params=groups(net := model()), **arguments)
    weights, rest = conversion.groups()
    assert (weights["name"], weights["layer_adaptation"], weights["weight_decay"]) == ("weights", True, 0.1)
    assert (rest["name"], rest["layer_adaptation"], rest["weight_decay"], rest["lr"]) == ("rest", False, 0.0, 0.01)
    assert conversion.biases == {"layer_adaptation": False, "weight_decay": 0.0, "lr": 0.01}
    assert not conversion.exact
    assert conversion.build().param_groups[0]["params"][0] is next(net.parameters())

    plain = dict(lr=0.1, momentum=0.9)
    assert convert("lightly", **plain).exact
    mixed = [dict(params=[next(net.parameters())]), dict(params=list(net.parameters())[1:], weight_decay=0.1)]
    assert not convert("lightly", params=mixed, **plain).exact
    same(
        trajectory(
            lambda net: convert("lightly", params=[{**g, "weight_decay": 0} for g in groups(net)], **plain).build()
        ),
        trajectory(lambda net: Lightly([{**g, "weight_decay": 0} for g in groups(net)], **plain)),
    )


def test_the_sgd_that_larc_wraps() -> None:
    net = model()
    inner = torch.optim.SGD(
        [dict(params=[net[0].weight], lr=0.3), dict(params=[net[2].weight], maximize=True)],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        foreach=False,
    )
    conversion = convert("apex-larc", optimizer=inner, clip=False, eps=0.0, trust_coefficient=0.01)
    assert conversion.exact
    optimizer = conversion.build()
    seen = [
        (g["lr"], g["maximize"], g["nesterov"], g["foreach"], g["trust_coefficient"]) for g in optimizer.param_groups
    ]
    assert seen == [(0.3, False, True, False, 0.01), (0.1, True, True, False, 0.01)]
    assert optimizer.param_groups[1]["params"] == [net[2].weight]


def test_masks_of_optax() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    by_shape = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)  # noqa: E731
    names = {name: not name.startswith("2.") for name, _ in model().named_parameters()}
    arguments: dict[str, Any] = dict(
        learning_rate=0.5, weight_decay=0.1, weight_decay_mask=by_shape, trust_ratio_mask=names
    )
    conversion = convert("optax", params=model(), **arguments)
    assert conversion.exact
    assert conversion.weights == {"layer_adaptation": True, "weight_decay": 0.1}
    assert conversion.biases == {"layer_adaptation": True, "weight_decay": 0.0}
    assert len(conversion.groups()) == 4
    ours = trajectory(lambda net: conversion.build(net))
    same(ours, trajectory(theirs_of("optax", arguments)))


def test_groups_of_parameters_without_names() -> None:
    params = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    groups = convert("solo-learn", lr=0.1, exclude_bias_n_norm=True).groups(iter(params))
    assert groups == [
        dict(params=[params[0]], layer_adaptation=True, weight_decay=0),
        dict(params=[params[1]], layer_adaptation=False, weight_decay=0.0),
    ]
    assert [g["param_names"] for g in convert("solo-learn", lr=0.1).groups(zip("ab", params, strict=True))] == [
        ["a", "b"]
    ]
    assert len(convert("timm", opt="lars", weight_decay=0.1).groups(params)) == 1  # its filter wants a model
