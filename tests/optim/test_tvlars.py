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


def test_the_clock_counts_on_under_any_default_dtype_and_device() -> None:
    torch.set_default_dtype(torch.bfloat16)  # its 256 + 1 is 256
    try:
        with torch.device("meta"):
            w = nn.Parameter(torch.ones(2, device="cpu", dtype=torch.float32))
            optimizer = TVLARS([w], 1e-3, **PHI)
    finally:
        torch.set_default_dtype(torch.float32)
    w.grad = torch.ones(2)
    for _ in range(300):
        optimizer.step()
    assert optimizer.param_groups[0]["step"].item() == 300


def test_every_optimizer_has_a_clock_of_its_own() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(3))]}]
    first = TVLARS(groups, 1.0, **PHI)
    run(first, first.param_groups[0]["params"], range(3))
    second = TVLARS([dict(first.param_groups[0])], 1.0, **PHI)
    assert second.param_groups[0]["step"].item() == 0
    run(second, second.param_groups[0]["params"], range(1))
    assert first.param_groups[0]["step"].item() == 3
    assert TVLARS(groups, 1.0).param_groups[0]["step"].item() == 0


def test_a_distributed_checkpoint_takes_no_step() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(2, 2)
    optimizer = TVLARS(model.named_parameters(), 0.1, momentum=0.0)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.param_groups[0]["step"].item() == 1


def test_a_state_without_a_clock_is_refused() -> None:
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="state_dict must be of a TVLARS, but it has no step count"):
        TVLARS([w], 0.1).load_state_dict(LARS([w], 0.1).state_dict())


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
