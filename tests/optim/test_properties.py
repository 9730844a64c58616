"""What holds whatever the numbers are. Properties of φ itself are in ``tests/test_schedule.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import OPTIMIZERS, run, set_gradients, tensors
from tvlars import LARS, TVLARS

many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 1000)


@many
@given(c=st.floats(1e-6, 1e6), seed=SEEDS)
def test_a_lars_step_does_not_feel_the_scale_of_the_gradient(path: dict[str, Any], c: float, seed: int) -> None:
    results = []
    for scale in (1.0, c):
        params = tensors(seed, torch.float64)[:5]  # the last one is of zeros, and so not adapted
        set_gradients(params, seed)
        for p in params:
            assert p.grad is not None
            p.grad *= scale
        LARS(params, 1.0, momentum=0.0, **path).step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0)


@many
@pytest.mark.parametrize("scope", ["all", "ratio"])
@given(
    lr=st.floats(1e-3, 30), alpha=st.floats(0.05, 10), gamma_min=st.floats(0, 1), delay=st.floats(0, 1e6), seed=SEEDS
)
def test_without_a_slope_tvlars_is_lars_with_a_constant_factor(
    path: dict[str, Any], scope: str, lr: float, alpha: float, gamma_min: float, delay: float, seed: int
) -> None:
    """Where the ratio acts φ may stand before the momentum or after it."""
    params, others = (tensors(seed, torch.float64)[:5] for _ in range(2))
    phi = 1 / (alpha + 1) + gamma_min
    shape = dict(delay_factor=0.0, delay=delay, alpha=alpha, gamma_min=gamma_min, phi_scope=scope)
    tvlars, lars = TVLARS(params, lr, **shape, **path), LARS(others, lr * phi, **path)
    torch.testing.assert_close(run(tvlars, params, range(4)), run(lars, others, range(4)), rtol=1e-9, atol=1e-12)


@many
@given(owner=st.lists(st.integers(0, 2), min_size=6, max_size=6), seed=SEEDS)
def test_splitting_parameters_over_groups_changes_nothing(
    name: str, path: dict[str, Any], owner: list[int], seed: int
) -> None:
    cls, arguments = OPTIMIZERS[name]
    together, split = tensors(seed), tensors(seed)
    groups = [{"params": [p for p, i in zip(split, owner, strict=True) if i == g]} for g in range(3)]
    a = run(cls(together, **arguments, **path), together, range(4))
    b = run(cls([g for g in groups if g["params"]], **arguments, **path), split, range(4))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
