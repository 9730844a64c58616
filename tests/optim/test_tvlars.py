"""What TVLARS is beside LARS: the factor φ, where it acts, and its clock."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import run, tensors
from tvlars import LARS, TVLARS, SigmoidDecayLR, sigmoid_decay

PHI = dict(delay_factor=0.4, delay=4.0, alpha=0.7, gamma_min=0.02)


@pytest.mark.parametrize("nesterov", [False, True])
def test_is_lars_under_the_schedule_phi(path: dict[str, Any], nesterov: bool) -> None:
    ours, theirs = tensors(dtype=torch.float64), tensors(dtype=torch.float64)
    tvlars = TVLARS(ours, 2.0, weight_decay=0.1, nesterov=nesterov, **PHI, **path)
    lars = LARS(theirs, 2.0, weight_decay=0.1, nesterov=nesterov, **path)
    schedule = SigmoidDecayLR(lars, **PHI)
    for step in range(12):
        a = run(tvlars, ours, range(step, step + 1))
        b = run(lars, theirs, range(step, step + 1))
        schedule.step()
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert tvlars.phi() == [sigmoid_decay(float(step + 1), **PHI)]


def test_scope_decides_whether_unadapted_parameters_feel_phi(path: dict[str, Any]) -> None:
    moved = {}
    for scope in ("all", "ratio"):
        w = nn.Parameter(torch.ones(3, dtype=torch.float64))
        w.grad = torch.ones(3, dtype=torch.float64)
        group = {"params": [w], "layer_adaptation": False}
        TVLARS([group], 0.5, momentum=0.0, delay_factor=0.0, alpha=3.0, phi_scope=scope, **path).step()
        moved[scope] = 1.0 - w[0].item()
    assert moved["ratio"] == pytest.approx(0.5)
    assert moved["all"] == pytest.approx(0.5 / 4)


def test_the_clock_is_the_runs(path: dict[str, Any]) -> None:
    """A layer that gets its first gradient late, or joins late, takes the φ that the others take."""
    early, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = TVLARS([early, late], 1.0, **PHI, **path)
    for _ in range(5):
        early.grad = torch.ones(3)
        optimizer.step()
    joined = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [joined]})
    for p in (early, late, joined):
        p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.phi() == [sigmoid_decay(6.0, **PHI)] * 2
    assert torch.equal(late, joined)
