"""Values that only the device knows: a tensor lr, clocks, and a GradScaler's. Here the CPU is the device."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import OPTIMIZERS, run, set_gradients, tensors
from tests.optim.triton.interpreted.conftest import Launches
from tvlars import LAMB, LARS, TVLARS
from tvlars.stats import LayerStats


def two_groups(name: str, **options: Any) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    cls, arguments = OPTIMIZERS[name]
    params = tensors()
    groups = [{"params": params[:4]}, {"params": params[4:], "layer_adaptation": False, "lr": 0.05}]
    return params, cls(groups, **{**arguments, **options})


def clocks(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [x[k] for x in (*optimizer.param_groups, *optimizer.state.values()) for k in ("clock", "step") if k in x]


def counts(optimizer: torch.optim.Optimizer) -> set[float]:
    return {float(clock) for clock in clocks(optimizer)}


def everything(params: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = [x for state in optimizer.state.values() for x in state.values()]
    return copy.deepcopy([*(p.detach() for p in params), *state, *clocks(optimizer)])


def test_a_capturable_step_reads_nothing_from_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a capturable step must not wait for the device")

    params, optimizer = two_groups(name, lr=torch.tensor(OPTIMIZERS[name][1]["lr"]), capturable=True)
    others, plain = two_groups(name, foreach=False)
    with monkeypatch.context() as patch:
        for reading in ("item", "__float__", "__bool__", "tolist", "cpu"):
            patch.setattr(torch.Tensor, reading, refuse)
        for step in range(4):
            set_gradients(params, step)
            optimizer.param_groups[0]["lr"].mul_(0.9)
            optimizer.step()
    before = clocks(optimizer)
    for step in range(4):
        plain.param_groups[0]["lr"] *= 0.9
        run(plain, others, range(step, step + 1))
    torch.testing.assert_close([*params], [*others], rtol=3e-6, atol=3e-6)
    run(optimizer, params, range(1))
    assert all(a is b for a, b in zip(clocks(optimizer), before, strict=True))  # a graph reads them where they are


@pytest.mark.parametrize("lr", [0.25, torch.tensor(0.25), torch.tensor([0.25]), torch.tensor(0.25).double()])
@pytest.mark.parametrize("capturable", [False, True])
def test_any_lr(lr: Any, capturable: bool) -> None:
    params, others = tensors(), tensors()
    a = run(LARS(params, lr, capturable=capturable), params, range(2))
    b = run(LARS(others, 0.25, foreach=False), others, range(2))
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_grad_scaler_leaves_it_to_the_step(name: str, capturable: bool) -> None:
    """To unscale, without a change of the gradients, and to skip, clocks included."""
    params, optimizer = two_groups(name, fused=True, capturable=capturable)
    others, plain = two_groups(name, foreach=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10_000)
    for step, factor in enumerate((1.0, math.inf, 2.0, math.nan, 3.0)):
        optimizer.zero_grad()
        set_gradients(others, step)
        loss = sum((p * q.grad * factor).sum() for p, q in zip(params, others, strict=True))  # type: ignore[operator]
        scaler.scale(loss).backward()
        gradients, before = [p.grad.clone() for p in params], everything(params, optimizer)  # type: ignore[union-attr]
        scaler.step(optimizer)
        scaled = scaler.get_scale()
        scaler.update()
        for p, g in zip(params, gradients, strict=True):
            assert torch.equal(p.grad, g) or not math.isfinite(factor)  # type: ignore[arg-type]
        if math.isfinite(factor):
            for q in others:
                q.grad = q.grad * factor  # type: ignore[operator]
            plain.step()
            torch.testing.assert_close(params[0].grad, others[0].grad * scaled, rtol=1e-6, atol=0)  # type: ignore[operator]
        elif before[len(params) :]:
            after = everything(params, optimizer)[: len(before)]
            assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    torch.testing.assert_close([*params], [*others], rtol=3e-6, atol=3e-6)
    assert counts(optimizer) == counts(plain)


def test_a_first_step_that_is_skipped(name: str) -> None:
    params, optimizer = two_groups(name, fused=True)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    run(optimizer, params, range(1))
    del optimizer.found_inf  # type: ignore[attr-defined]
    assert all(torch.equal(p, q) for p, q in zip(params, tensors(), strict=True))
    others, plain = two_groups(name, foreach=False)
    a, b = run(optimizer, params, range(2)), run(plain, others, range(2))
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)
    assert counts(optimizer) == counts(plain)


@pytest.mark.parametrize("found", [None, 0.0])
def test_a_scale_alone_or_with_nothing_found(name: str, found: float | None) -> None:
    params, optimizer = two_groups(name, fused=True)
    others, plain = two_groups(name, foreach=False)
    optimizer.grad_scale = torch.tensor([4.0])  # type: ignore[attr-defined]
    optimizer.found_inf = None if found is None else torch.tensor(found)  # type: ignore[attr-defined]
    for step in range(2):
        set_gradients(params, step)
        for p in params:
            p.grad *= 4.0  # type: ignore[operator]
        optimizer.step()
    torch.testing.assert_close([*params], run(plain, others, range(2)), rtol=2e-6, atol=2e-6)


def test_found_inf_of_two_devices_is_a_sum(name: str) -> None:
    params, optimizer = two_groups(name, fused=True)
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    run(optimizer, params, range(1))
    before = everything(params, optimizer)
    optimizer.found_inf = torch.tensor(2.0)  # type: ignore[attr-defined]
    run(optimizer, params, range(1))
    assert all(torch.equal(a, b) for a, b in zip(everything(params, optimizer), before, strict=True))


def test_resume_after_scaled_steps_is_exact(name: str) -> None:
    params, optimizer = two_groups(name, fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    run(optimizer, params, range(2))
    others, loaded = two_groups(name, fused=True)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    loaded.grad_scale, loaded.found_inf = torch.tensor(2.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    a, b = run(optimizer, params, range(2, 4)), run(loaded, others, range(2, 4))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"foreach": False}])
def test_without_fused_true_a_scaler_unscales_itself(options: dict[str, Any], launches: Launches) -> None:
    launches.wanted = not options
    w, plain = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = TVLARS([w], 0.5, total_steps=9, **options)
    assert not optimizer._step_supports_amp_scaling
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((3 * w).sum()).backward()
    scaler.step(optimizer)
    plain.grad = torch.full((2,), 3.0)
    TVLARS([plain], 0.5, total_steps=9, foreach=False).step()
    torch.testing.assert_close(w, plain)


def test_scaled_gradients_are_refused_where_not_everything_is_fused(launches: Launches) -> None:
    launches.wanted = False
    for options, dtype, state in (
        ({}, "float32", {}),
        ({"fused": True}, "float64", {}),
        ({"fused": True}, "half", {"x"}),
    ):
        w = nn.Parameter(torch.ones(2).to(getattr(torch, dtype)))
        w.grad = torch.ones_like(w)
        optimizer = LAMB([w], 0.1, **options)
        optimizer.state[w].update({key: torch.ones(2) for key in state})
        optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
        with pytest.raises(
            RuntimeError, match="grad_scale and found_inf are for optimizers whose groups all have fused=True"
        ):
            optimizer.step()
        assert torch.equal(w.detach(), torch.ones_like(w))


@pytest.mark.skipif(find_spec("pandas") is None, reason="layer statistics in a frame need pandas")
def test_layer_stats_of_scaled_steps() -> None:
    model = nn.Linear(4, 3)
    optimizer = LARS(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10_000)
    norms = []
    with LayerStats(optimizer, model, every=1) as stats:
        for factor in (1.0, math.inf, 2.0):
            optimizer.zero_grad()
            norms.append(model.weight.norm().item())
            scaler.scale((model(torch.ones(4)) * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    frame = stats.frame().set_index(["step", "layer", "quantity"]).value
    assert sorted({step for step, _, _ in frame.index}) == [1, 3]
    for step, factor in ((1, 1.0), (3, 2.0)):
        assert frame[step, "weight", "LWN"] == pytest.approx(norms[step - 1], rel=1e-6)
        assert frame[step, "weight", "LGN"] == pytest.approx(factor * 12**0.5, rel=1e-6)
        ratio = 1e-3 * frame[step, "weight", "LWN"] / frame[step, "weight", "LGN"]
        assert frame[step, "weight", "trust_ratio"] == pytest.approx(ratio, rel=1e-5)
