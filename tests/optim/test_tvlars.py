"""What TVLARS is beside LARS: the factor φ, where it acts, and its clock."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import run, set_gradients, tensors
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


@pytest.mark.parametrize("scope", ["all", "ratio"])
def test_without_a_slope_is_lars_with_a_constant_factor(path: dict[str, Any], scope: str) -> None:
    params, others = tensors(dtype=torch.float64)[:3], tensors(dtype=torch.float64)[:3]
    tvlars = TVLARS(params, 2.0, delay_factor=0.0, alpha=1.5, gamma_min=0.1, phi_scope=scope, **path)
    lars = LARS(others, 2.0 * (1 / 2.5 + 0.1), **path)
    torch.testing.assert_close(run(tvlars, params, range(5)), run(lars, others, range(5)), rtol=1e-12, atol=1e-14)


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


def test_splitting_into_groups_changes_nothing(path: dict[str, Any]) -> None:
    together, split = tensors(), tensors()
    a = run(TVLARS(together, 1.0, **PHI, **path), together, range(6))
    b = run(TVLARS([{"params": split[:2]}, {"params": split[2:]}], 1.0, **PHI, **path), split, range(6))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("path", [dict(foreach=False), dict(foreach=True), {}], ids=["for-loop", "foreach", "default"])
def test_capturable_keeps_the_factor_a_tensor_and_agrees(path: dict[str, Any]) -> None:
    params, others = tensors(), tensors()
    a = run(TVLARS(params, torch.tensor(1.0), **PHI, capturable=True, **path), params, range(6))
    b = run(TVLARS(others, 1.0, **PHI, **path), others, range(6))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(c=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_a_lars_step_does_not_feel_the_scale_of_the_gradient(c: float, seed: int) -> None:
    results = []
    for scale in (1.0, c):
        params = tensors(seed, torch.float64)[:3]
        set_gradients(params, seed)
        for p in params:
            assert p.grad is not None
            p.grad *= scale
        LARS(params, 1.0, momentum=0.0).step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0)
