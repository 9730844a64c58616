"""DeepSpeed's ZeRO changes an optimizer's groups; these are told from right ones, without DeepSpeed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.conftest import OPTIMIZERS
from tvlars import layer_groups


def made(name: str) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    cls, arguments = OPTIMIZERS[name]
    optimizer = cls(layer_groups(model, weight_decay=0.01), **arguments)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    return optimizer


def test_flat_tensors_in_place_of_layers_are_refused(name: str) -> None:
    optimizer = made(name)
    flat = []
    for group in optimizer.param_groups:  # as DeepSpeedZeroOptimizer does, after the optimizer has been made
        p = torch.cat([p.detach().flatten() for p in group["params"]]).requires_grad_()
        p.grad = torch.ones_like(p)
        group["params"] = [p]
        flat.append(p.detach().clone())
    with pytest.raises(ValueError, match=r"needs whole layers, and 0\.weight, 1\.weight have become one flat tensor"):
        optimizer.step()
    assert all(torch.equal(group["params"][0], p) for group, p in zip(optimizer.param_groups, flat, strict=True))


def test_copies_of_whole_layers_and_a_part_of_the_layers_are_not(name: str) -> None:
    optimizer = made(name)
    copies, part = optimizer.param_groups
    copies["params"] = [p.detach().clone().requires_grad_() for p in copies["params"]]  # its bf16 and fp16 do this
    for p in copies["params"]:
        p.grad = torch.ones_like(p)
    part["params"] = part["params"][:1]  # and ZeroRedundancyOptimizer this
    optimizer.step()
