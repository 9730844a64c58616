"""layer_groups: who is adapted and decayed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvlars import LARS, layer_groups, plan


class Custom(nn.Module):
    """Parameters of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.deep = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((2, 2)), nn.GroupNorm(2, 4), nn.RMSNorm(4))
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.recurrent = nn.GRU(4, 4)
        self.embedding = nn.Embedding(5, 4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.layer_scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_by_module_type() -> None:
    adapted, other = layer_groups(Custom(), weight_decay=0.1)
    assert adapted["param_names"] == [
        "class_token",
        "conv.weight",
        "deep.0.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "embedding.weight",  # tied with the head: once
    ]
    assert other["param_names"] == [
        "layer_scale",
        "conv.bias",
        "bn.weight",
        "bn.bias",
        "deep.0.bias",
        "deep.1.weight",  # a LayerNorm's is 2-d here, and still a norm's
        "deep.1.bias",
        "deep.2.weight",
        "deep.2.bias",
        "deep.3.weight",
        "attention.in_proj_bias",
        "attention.bias_k",
        "attention.bias_v",
        "attention.out_proj.bias",
        "recurrent.bias_ih_l0",
        "recurrent.bias_hh_l0",
    ]
    assert (adapted["weight_decay"], adapted["layer_adaptation"]) == (0.1, True)
    assert (other["weight_decay"], other["layer_adaptation"]) == (0.0, False)
    assert "lr" not in adapted


def test_lr_and_scale() -> None:
    model = nn.Linear(2, 2)
    adapted, other = layer_groups(model, weight_decay=0.1, lr=16.0, bias_norm_lr_scale=0.03)
    assert (adapted["lr"], other["lr"]) == (16.0, pytest.approx(0.48))
    optimizer = LARS(layer_groups(model, weight_decay=0.1, lr=16.0, bias_norm_lr_scale=0.03), lr=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [16.0, pytest.approx(0.48)]
    assert [group["layer_adaptation"] for group in optimizer.param_groups] == [True, False]


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
def test_any_torch_optimizer_takes_the_groups(cls: type[torch.optim.Optimizer]) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))  # the second group is empty
    optimizer = cls(layer_groups(model, weight_decay=0.1), lr=0.1)  # type: ignore[call-arg]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_str_says_who_went_where() -> None:
    text = str(
        layer_groups(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), weight_decay=0.1, lr=8.0, bias_norm_lr_scale=0.5
        )
    )
    assert text.splitlines() == [
        "adapted and decayed: 1 layers, 18 parameters, weight decay 0.1, lr 8",
        "  0.weight  (2, 1, 3, 3)",
        "neither (biases, norms): 3 layers, 6 parameters, weight decay 0, lr 4",
        "  0.bias    (2,)",
        "  1.weight  (2,)",
        "  1.bias    (2,)",
    ]


def test_a_parameter_in_two_modules_is_taken_once() -> None:
    groups = layer_groups(Custom(), weight_decay=0.0)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))


class Scale(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(value)


@pytest.mark.parametrize(("shape", "adapted"), [((3, 3), True), ((3,), False), ((), False)])
def test_a_bare_parameter_goes_by_ndim_whatever_its_name(shape: tuple[int, ...], adapted: bool) -> None:
    groups = layer_groups(Scale(torch.ones(shape)), weight_decay=0.0)
    assert len(groups[0]["params"]) == int(adapted)
    assert len(groups[1]["params"]) == int(not adapted)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Linear(2, 2), dict(weight_decay=-1.0), "weight_decay must be >= 0, got -1.0"),
        (nn.Linear(2, 2), dict(weight_decay=0.0, lr=-2), "lr must be >= 0, got -2"),
        (
            nn.Linear(2, 2),
            dict(weight_decay=0.0, bias_norm_lr_scale=0.1),
            "lr must be given where bias_norm_lr_scale is 0.1, got None",
        ),
        (nn.ReLU(), dict(weight_decay=0.0), "model must have a parameter with requires_grad=True, got none in ReLU"),
        (nn.LazyLinear(3), dict(weight_decay=0.0), "model must have seen an input, but weight is not initialized yet"),
    ],
)
def test_bad_arguments(model: nn.Module, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        layer_groups(model, **arguments)


def test_a_plan_gives_the_numbers() -> None:
    p = plan(512, 50_000, 90, lr=8.0, weight_decay=0.02, bias_norm_lr_scale=0.25)
    adapted, other = layer_groups(nn.Linear(2, 2), p)
    assert (adapted["weight_decay"], adapted["lr"], other["weight_decay"], other["lr"]) == (0.02, 8.0, 0.0, 2.0)


def test_patterns_decide_about_names() -> None:
    adapted, other = layer_groups(Custom(), weight_decay=0.1, adapt="layer_scale", exclude=["conv.*", "*_ih_l0"])
    assert "layer_scale" in adapted["param_names"]
    assert {"conv.weight", "conv.bias", "recurrent.weight_ih_l0"} <= set(other["param_names"])
    assert "recurrent.weight_hh_l0" in adapted["param_names"]


@pytest.mark.parametrize("numbers", [(1e-4,), (1e-4, 16.0), (1e-4, 16.0, 0.03), (16.0, 1e-4), (None, 1e-4)])
def test_numbers_by_position_are_refused_with_the_keyword_form(numbers: tuple[Any, ...]) -> None:
    with pytest.raises(
        TypeError, match=r"got .*1.*; write layer_groups\(model, plan\), or .*weight_decay=1e-4, lr=16.0"
    ):
        layer_groups(nn.Linear(2, 2), *numbers)


P = plan(512, 50_000, 90)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((P, nn.Linear(2, 2)), {}, TypeError, "model must be a torch.nn.Module, got Plan"),
        ((nn.Linear(2, 2).parameters(), P), {}, TypeError, "model must be a torch.nn.Module, got generator"),
        ((nn.Linear(2, 2),), {}, TypeError, "layer_groups needs a plan or weight_decay, got neither"),
        ((nn.Linear(2, 2), P), dict(lr=3.0), TypeError, "got both (plan and lr=3.0): plan(..., lr=3.0) makes"),
        ((nn.Linear(2, 2), P), dict(adapt=3), TypeError, "adapt must be one pattern of parameter names or several"),
        ((nn.Linear(2, 2), P), dict(exclude=[3]), TypeError, "exclude must be one pattern of parameter names or sev"),
        (
            (nn.Linear(2, 2), P),
            dict(exclude="weights"),
            ValueError,
            "got 'weights', which matches none of weight, bias",
        ),
        (
            (nn.Linear(2, 2), P),
            dict(adapt="w*", exclude="*t"),
            ValueError,
            "must not match the same parameter, got weight",
        ),
    ],
)
def test_what_is_no_plan_and_no_pattern(
    arguments: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        layer_groups(*arguments, **keywords)
