"""Which path a layer takes: what was asked for, else the fastest that is right for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tvlars.optim._paths import split_by_path

DEFAULTS: dict[str, Any] = dict(lr=0.1, foreach=None, fused=None, capturable=False, differentiable=False)

IMAGE = torch.ones(2, 3, 4, 4)
LAYERS: dict[str, tuple[Tensor, Tensor]] = {
    "contiguous": (torch.ones(3, 4), torch.ones(3, 4)),
    "channels_last": tuple(IMAGE.contiguous(memory_format=torch.channels_last) for _ in range(2)),  # type: ignore[dict-item]
    "mixed layouts": (IMAGE, IMAGE.contiguous(memory_format=torch.channels_last)),
    "transposed": (torch.ones(3, 4).t(), torch.ones(3, 4).t()),
    "bfloat16": (torch.ones(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)),
    "mixed dtypes": (torch.ones(3), torch.ones(3, dtype=torch.float64)),
}
FUSABLE = ("contiguous", "channels_last")


def paths(layers: list[tuple[Tensor, Tensor]], **options: Any) -> list[str]:
    """The path of each layer."""
    runs = split_by_path({**DEFAULTS, **options}, *map(list, zip(*layers, strict=True)))
    found = {i: run.path for run in runs for i in run.indices}
    for run in runs:
        for i, w, g in zip(run.indices, *run.lists, strict=True):
            assert w is layers[i][0]
            assert g is layers[i][1]
    return [found[i] for i in range(len(layers))]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"fused": True, "foreach": False}])
def test_fused_where_it_is_right(name: str, options: dict[str, Any]) -> None:
    assert paths([LAYERS[name]], **options) == ["fused" if name in FUSABLE else "for-loop"]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"foreach": True}, "foreach"),
        ({"foreach": False}, "for-loop"),
        ({"fused": False}, "for-loop"),
        ({"capturable": True}, "for-loop"),
        ({"differentiable": True}, "for-loop"),
        ({"lr": torch.tensor(0.1)}, "fused"),
    ],
)
def test_options_decide(options: dict[str, Any], path: str) -> None:
    assert paths([LAYERS["contiguous"]], **options) == [path]


def test_one_group_may_take_several() -> None:
    expected = ["fused" if name in FUSABLE else "for-loop" for name in LAYERS]
    assert paths(list(LAYERS.values())) == expected
    assert paths(list(LAYERS.values())[:2]) == ["fused", "fused"]
