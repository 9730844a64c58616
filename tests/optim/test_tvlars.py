"""Differences of TVLARS from LARS: the factor φ, where it acts, and its clock."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import run, tensors
from tvlars import LARS, TVLARS, ScheduleLR, SigmoidSchedule, plan, sigmoid_decay

PHI = dict(delay_factor=0.4, delay=4.0, alpha=0.7, gamma_min=0.02)


@pytest.mark.parametrize("nesterov", [False, True])
def test_is_lars_under_the_schedule_phi(path: dict[str, Any], nesterov: bool) -> None:
    ours, theirs = tensors(dtype=torch.float64), tensors(dtype=torch.float64)
    tvlars = TVLARS(ours, 2.0, weight_decay=0.1, nesterov=nesterov, **PHI, **path)
    lars = LARS(theirs, 2.0, weight_decay=0.1, nesterov=nesterov, **path)
    schedule = ScheduleLR(lars, SigmoidSchedule(**PHI))
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
        TVLARS([group], 0.5, momentum=0.0, delay=500, delay_factor=0.0, alpha=3.0, phi_scope=scope, **path).step()
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
    assert optimizer.param_groups[0]["clock"] == 300


def test_every_optimizer_has_a_clock_of_its_own() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(3))]}]
    first = TVLARS(groups, 1.0, **PHI)
    run(first, first.param_groups[0]["params"], range(3))
    second = TVLARS([dict(first.param_groups[0])], 1.0, **PHI)
    assert second.param_groups[0]["clock"] == 0
    run(second, second.param_groups[0]["params"], range(1))
    assert first.param_groups[0]["clock"] == 3
    assert TVLARS(groups, 1.0, **PHI).param_groups[0]["clock"] == 0


FAR = [2**24 - 1, 2**24 + 1, 2**24 + 3, 2**31 + 5, 2**40 + 7, 2**50 + 1]
"""Steps near and beyond what float32 and int32 count to."""


@pytest.mark.parametrize("far", FAR)
def test_the_clock_does_not_stand_still(path: dict[str, Any], far: int) -> None:
    """φ changes by a tenth of itself per step here, so that a count which is off by one shows."""
    for capturable in (False, True):
        if capturable and path.get("fused"):
            continue  # refused on a CPU
        for scope in ("all", "ratio"):
            shape = dict(delay=far + 1.5, delay_factor=0.2, phi_scope=scope)
            w = nn.Parameter(torch.ones(3, dtype=torch.float64))
            optimizer = TVLARS([w], 1.0, momentum=0.0, trust_coefficient=0.5, capturable=capturable, **shape, **path)
            state = optimizer.state_dict()
            state["param_groups"][0]["clock"] = far
            optimizer.load_state_dict(state)
            for t in (far + 1, far + 2, far + 3):
                before = float(w[0].detach())
                w.grad = torch.full((3,), 7.0, dtype=torch.float64)
                optimizer.step()
                assert int(optimizer.param_groups[0]["clock"]) == t
                phi = 1 / (1 + math.exp(0.2 * (t - far - 1.5)))
                assert optimizer.phi() == [pytest.approx(phi, rel=1e-12)]
                assert 1 - float(w[0].detach()) / before == pytest.approx(0.5 * phi, rel=1e-6 if capturable else 1e-12)


def test_a_capturable_clock_is_on_the_device_before_the_first_step() -> None:
    """A CUDA graph that captures the first step would else set it to the same count in every replay."""
    w, more = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = TVLARS([w], 1.0, **PHI, capturable=True)
    clock = optimizer.param_groups[0]["clock"]
    assert (clock.dtype, clock.device, clock.shape) == (torch.int64, w.device, ())
    w.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[0]["clock"] is clock
    optimizer.add_param_group({"params": more})
    assert optimizer.param_groups[1]["clock"] is not clock
    assert [int(group["clock"]) for group in optimizer.param_groups] == [1, 1]


# -- the length of the run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("total_steps", [1, 3, 50, 7_020, 100_000])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 2.5])
def test_total_steps_gives_the_phi_of_a_plan(total_steps: int, alpha: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few steps
        p = plan(2048, 2048 * total_steps, 1, alpha=alpha)
    group = TVLARS([nn.Parameter(torch.ones(2))], 0.1, total_steps=total_steps, alpha=alpha).param_groups[0]
    assert (group["delay"], group["delay_factor"]) == (p.delay, p.delay_factor)
    if total_steps > 1:
        start, half, end = (
            sigmoid_decay(t, p.delay_factor, p.delay, alpha) for t in (1.0, round(0.75 * total_steps), total_steps)
        )
        if p.delay > 0 and total_steps > 3:
            assert half == pytest.approx(0.5 / alpha, rel=0.01)
        assert end == pytest.approx(0.02 / alpha, rel=0.01)
        assert start > end


def test_the_length_of_the_run_has_to_be_known() -> None:
    params = [nn.Parameter(torch.ones(2))]
    with pytest.raises(
        ValueError, match=r"^TVLARS needs the length of the run.*total_steps, or delay and delay_factor"
    ) as e:
        TVLARS(params, 0.1)
    assert "plan(" in str(e.value)
    assert "optimizer_arguments()" in str(e.value)
    with pytest.raises(ValueError, match=r"^TVLARS needs the length of the run"):  # one group says, the other does not
        TVLARS([{"params": params, "total_steps": 9}, {"params": [nn.Parameter(torch.ones(2))]}], 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(total_steps=9, delay=3),
            "total_steps must not be given with delay or delay_factor, .* got total_steps=9",
        ),
        (dict(total_steps=9, delay_factor=0.1), "total_steps must not be given with delay or delay_factor"),
        (dict(total_steps=9, delay=3, delay_factor=0.1), "total_steps must not be given with delay or delay_factor"),
        (dict(delay=3), "delay and delay_factor must be given together, .* got delay=3, delay_factor=None"),
        (dict(delay_factor=0.1), "delay and delay_factor must be given together, .* got delay=None, delay_factor=0.1"),
        (dict(total_steps=0), r"total_steps must be an integer >= 1 \(optimizer steps\), got 0"),
        (dict(total_steps=-3), "total_steps must be an integer >= 1"),
        (dict(total_steps=True), "total_steps must be an integer >= 1"),
        (dict(total_steps=1e4), "total_steps must be an integer >= 1"),
        (dict(total_steps=float("nan")), "total_steps must be an integer >= 1"),
        (dict(total_steps="100"), "total_steps must be an integer >= 1"),
        (dict(total_steps=2**63), r"total_steps must be < 2\*\*63"),
        (dict(total_steps=10**400), r"total_steps must be < 2\*\*63"),
    ],
)
def test_lengths_that_contradict_or_are_none(arguments: dict[str, Any], message: str) -> None:
    params, more = [nn.Parameter(torch.ones(2))], [nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match=message):
        TVLARS(params, 0.1, **arguments)
    with pytest.raises(ValueError, match=message):  # what no group takes is checked too
        TVLARS([{"params": params, **PHI}], 0.1, **arguments)
    with pytest.raises(ValueError, match=message):
        TVLARS([{"params": params, **arguments}], 0.1)
    optimizer = TVLARS(params, 0.1, total_steps=100)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": more, **arguments})
    assert len(optimizer.param_groups) == 1


def test_groups_have_lengths_of_their_own() -> None:
    p = [nn.Parameter(torch.ones(2)) for _ in range(6)]
    groups = [
        {"params": p[0]},
        {"params": p[1], "total_steps": 100},
        {"params": p[2], "delay": 7.0, "delay_factor": 0.25},
        {"params": p[3], "alpha": 0.1},  # the shape is α's too
    ]
    optimizer = TVLARS(groups, 0.1, total_steps=1000)
    optimizer = copy.deepcopy(optimizer)  # remembers the constructor's
    optimizer.add_param_group({"params": p[4]})
    optimizer.add_param_group({"params": p[5], "total_steps": 10})
    found = [(group["delay"], group["delay_factor"]) for group in optimizer.param_groups]
    slope = math.log(49)
    shifted = (750 - math.log(0.1) / (slope / 250), slope / 250)
    expected = [(750, slope / 250), (75, slope / 25), (7.0, 0.25), shifted, (750, slope / 250), (8, slope / 2)]
    assert [pytest.approx(pair) for pair in found] == expected
    assert not any("total_steps" in group for group in optimizer.param_groups)
    one = TVLARS([{"params": p[:1], "delay": 3}], 0.1, delay=5, delay_factor=0.5).param_groups[0]
    assert (one["delay"], one["delay_factor"]) == (3, 0.5)


def test_a_distributed_checkpoint_takes_no_step() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(2, 2)
    optimizer = TVLARS(model.named_parameters(), 0.1, momentum=0.0, **PHI)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.param_groups[0]["clock"] == 1


def test_a_state_without_a_clock_is_refused() -> None:
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="state_dict must be of a TVLARS, but it has no step count"):
        TVLARS([w], 0.1, **PHI).load_state_dict(LARS([w], 0.1).state_dict())


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


# -- plans of other optimizers, and LR schedulers ------------------------------------------------------------


@pytest.mark.parametrize("planned", ["lars", "lamb"])
def test_a_plan_without_phi_is_named(planned: str) -> None:
    p = plan(batch_size=256, dataset_size=10_000, epochs=10, optimizer=planned)
    with pytest.raises(
        ValueError, match=r"^TVLARS needs .* such as LARS, has no phi: make it with optimizer='tvlars'$"
    ):
        TVLARS([torch.ones(2, requires_grad=True)], **p.optimizer_arguments())


def test_an_lr_scheduler_multiplies_phi() -> None:
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    group = {"params": [w], "layer_adaptation": False}
    optimizer = TVLARS([group], lr=0.5, momentum=0.0, delay=3, delay_factor=0.7)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for t in range(1, 7):
        before, w.grad = w.item(), torch.ones_like(w)
        optimizer.step()
        scheduler.step()
        cosine, phi = (1 + math.cos(math.pi * (t - 1) / 6)) / 2, 1 / (1 + math.exp(0.7 * (t - 3)))
        assert before - w.item() == pytest.approx(0.5 * cosine * phi, rel=1e-12)
