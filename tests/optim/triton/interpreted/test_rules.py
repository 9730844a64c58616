"""The kernels compute what the for-loop form does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import OPTIMIZERS, run, tensors
from tvlars import LAMB, LARS, TVLARS


def layers(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """The small tensors, and some of several blocks and chunks; one has chunks of twice the length."""
    g = torch.Generator().manual_seed(7)
    large = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((9, 61), (3, 512), (5, 7, 3, 21))]
    return [*tensors(dtype=dtype), *(nn.Parameter(x.to(dtype)) for x in large)]


@pytest.mark.parametrize(("maximize", "decay"), [(False, 0.05), (True, 0.0)])
def test_every_optimizer(name: str, maximize: bool, decay: float) -> None:
    cls, arguments = OPTIMIZERS[name]
    options = {**arguments, "maximize": maximize, "weight_decay": decay}
    ours, others = layers(), layers()
    results = run(cls(ours, **options), ours, range(2)), run(cls(others, **options, foreach=False), others, range(2))
    torch.testing.assert_close(*results, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_without_momentum_or_adaptation(momentum: float, nesterov: bool) -> None:
    results = []
    for path in ({}, {"foreach": False}):
        a, b = layers()[2:8], layers()[3:]
        groups = [{"params": a}, {"params": b, "layer_adaptation": False, "lr": 0.05}]
        optimizer = LARS(
            groups, 0.5, momentum=momentum, nesterov=nesterov, weight_decay=0.05, trust_coefficient=0.1, **path
        )
        results.append(run(optimizer, [*a, *b], range(2)))
    torch.testing.assert_close(*results, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_norm_clip(cls: Any) -> None:
    results, arguments = [], dict(lr=0.1, weight_decay=0.1, norm_clip=0.5)
    if cls is TVLARS:
        arguments["total_steps"] = 9
    for path, options in (({}, arguments), ({"foreach": False}, arguments), ({}, {**arguments, "norm_clip": None})):
        params = layers()[1:4]
        results.append(run(cls(params, **options, **path), params, range(2)))
    torch.testing.assert_close(results[0], results[1], rtol=2e-6, atol=2e-6)
    assert not torch.allclose(results[0][0], results[2][0], rtol=1e-5)


@pytest.mark.parametrize("zero", ["w", "g", "both"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [(LARS, {}), (LARS, dict(unit_ratio_at_zero=True)), (LARS, dict(layer_adaptation=False)), (LAMB, {})],
    ids=["lars", "lars-unit", "lars-unadapted", "lamb"],
)
def test_the_ratio_where_a_norm_is_zero(cls: Any, options: dict[str, Any], zero: str) -> None:
    results = []
    for path in ({}, {"foreach": False}):
        w = nn.Parameter(torch.zeros(5) if zero in ("w", "both") else torch.arange(5.0))
        w.grad = torch.zeros(5) if zero in ("g", "both") else torch.ones(5)
        cls([{"params": [w], **options}], 0.5, weight_decay=0.0, **path).step()
        results.append(w.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)
    if cls is LARS and zero == "w":
        assert results[0].norm().item() == pytest.approx(0.5 * 5**0.5 if options else 0.5 * 1e-3)


def test_a_nonfinite_gradient_spoils_its_own_layer_alone(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(600))]
    for value, p in zip((float("nan"), 1.0), params, strict=True):
        p.grad = torch.full_like(p, value)
    cls(params, **{**arguments, "norm_clip": 1.0}).step()
    assert params[0].isnan().all()
    assert params[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [LARS, LAMB])
def test_half_precision_is_worked_out_in_float32_and_rounded_once(cls: Any, dtype: torch.dtype) -> None:
    """The interpreter cuts digits off in bfloat16; that a GPU rounds is seen in ``test_compiled.py``."""

    def rounded(x: Tensor) -> Tensor:
        return x.half().float() if dtype is torch.float16 else (x.view(torch.int32) & -(2**16)).view(torch.float32)

    generator = torch.Generator().manual_seed(1)
    value, gradient = (torch.randn(1300, generator=generator).to(dtype) for _ in range(2))
    p = nn.Parameter(value.clone())
    optimizer = cls([p], 0.25, weight_decay=0.1)
    w, m, v = value.float(), torch.zeros(1300), torch.zeros(1300)
    for t in (1, 2):
        p.grad = gradient.roll(t)
        before, g = w, p.grad.float()
        optimizer.step()
        if cls is LARS:
            u = g + 0.1 * w
            m = 0.9 * m + 1e-3 * w.norm() / u.norm() * u
            w = before - 0.25 * m
        else:  # r is of the moments as they are kept
            m, v = rounded(0.9 * m + 0.1 * g), rounded(0.999 * v + 0.001 * g * g)
            r = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-6) + 0.1 * w
            w = before - 0.25 * w.norm() / r.norm() * r
        w, m = rounded(w), rounded(m)
        error = (p.detach().float() - w).abs()
        assert (error <= torch.finfo(dtype).eps * w.abs() + 1e-4).all()
        assert (error == 0).float().mean() > 0.98  # others were between two numbers
        assert all(x.dtype == dtype for key, x in optimizer.state[p].items() if key != "step")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.full((4000,), 16.0, dtype=dtype))
    w.grad = torch.full((4000,), 1e-4, dtype=dtype)
    LARS([w], 1.0, momentum=0.0, trust_coefficient=0.25).step()
    torch.testing.assert_close(w.detach().float(), torch.full((4000,), 12.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999])
def test_bias_correction_has_its_digits_at_every_step(beta: float) -> None:
    """With m = 0, v = 0 and g = 1 for t - 1 steps r would be 1: here the moments are set to what they are then."""
    for t in (1, 3, 100, 12345):
        w = nn.Parameter(torch.ones(1))
        w.grad = torch.ones(1)
        optimizer = LAMB([w], 1.0, betas=(beta, beta), eps=1e-12, weight_decay=0.0)
        optimizer.param_groups[0]["layer_adaptation"] = False
        before = torch.tensor([1 - beta ** (t - 1)], dtype=torch.float64).float()
        optimizer.state[w].update(step=torch.tensor(t - 1.0), exp_avg=before.clone(), exp_avg_sq=before.clone())
        optimizer.step()
        assert w.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("scope", ["all", "ratio"])
def test_no_step_overflows_phi(scope: str) -> None:
    w = nn.Parameter(torch.ones(4))
    optimizer = TVLARS([w], 0.5, delay_factor=10.0, delay=3, gamma_min=0.25, phi_scope=scope, capturable=True)
    optimizer.param_groups[0]["clock"].fill_(10**6)
    w.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.phi() == [0.25]
    torch.testing.assert_close(w.detach(), torch.full((4,), 1 - 0.5 * 0.25 * 1e-3))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("far", [2**24 + 1, 2**31 + 5, 2**50 + 1])
def test_the_clock_does_not_stand_still(far: int, capturable: bool) -> None:
    """φ changes by a tenth of itself per step here, so that a count which is off by one shows."""
    w = nn.Parameter(torch.ones(3))
    optimizer = TVLARS(
        [w], 1.0, momentum=0.0, trust_coefficient=0.5, delay=far + 1.5, delay_factor=0.2, capturable=capturable
    )
    state = optimizer.state_dict()
    state["param_groups"][0]["clock"] = far
    optimizer.load_state_dict(state)
    for t in (far + 1, far + 2):
        before = w[0].item()
        w.grad = torch.full((3,), 7.0)
        optimizer.step()
        phi = 1 / (1 + math.exp(0.2 * (t - far - 1.5)))
        assert 1 - w[0].item() / before == pytest.approx(0.5 * phi, rel=1e-5)


@pytest.mark.parametrize("capturable", [False, True])
def test_lambs_steps_do_not_stand_still(capturable: bool) -> None:
    beta, far = 1 - 2.0**-24, 2**24 + 1
    w = nn.Parameter(torch.ones(3))
    group = {"params": [w], "layer_adaptation": False}
    optimizer = LAMB([group], 0.5, betas=(0.0, beta), weight_decay=0.0, eps=1e-30, capturable=capturable)
    state = optimizer.state_dict()
    state["state"][0] = dict(exp_avg=torch.zeros(3), exp_avg_sq=torch.ones(3), step=far)
    optimizer.load_state_dict(state)
    w.grad = torch.full((3,), 0.25)
    optimizer.step()
    assert int(optimizer.state[w]["step"]) == far + 1
    expected = 0.5 * 0.25 / math.sqrt(1 / -math.expm1((far + 1) * math.log(beta)))
    assert 1 - w[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(("w", "g"), [(-30, 25), (25, -30), (25, 25), (-25, -25), (0, -25), (0, 15), (30, 0)])
@pytest.mark.parametrize("cls", [LARS, LAMB])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_steps_have_their_length_whatever_the_size_of_weights_and_gradients(
    cls: Any, w: int, g: int, decay: float
) -> None:
    """Squares of them vanish or overflow in float32, and ‖w‖ / ‖u‖ may too."""
    g = min(g, 15) if cls is LAMB else g  # beyond 1e19 g² is infinite in LAMB's v, as in Adam's
    generator = torch.Generator().manual_seed(0)
    values, gradient = (torch.randn(700, generator=generator, dtype=torch.float64) for _ in range(2))
    p = nn.Parameter((values * 10.0**w).float())
    p.grad = (gradient * 10.0**g).float()
    arguments = dict(trust_coefficient=0.25, momentum=0.9) if cls is LARS else {}
    before, told = p.detach().double(), []
    optimizer = cls([p], 0.25 if cls is LAMB else 1.0, weight_decay=decay, **arguments)
    optimizer.observers = (lambda params, w_norms, q: told.extend([w_norms, q]),)
    optimizer.step()
    assert (p.detach().double() - before).norm().item() == pytest.approx(0.25 * before.norm().item(), rel=1e-5)
    assert float(told[0]) == pytest.approx(before.norm().item(), rel=1e-6)
    assert 0 < float(told[1]) < float("inf")
