"""Properties that hold for all numbers. Properties of φ itself are in ``tests/test_schedule.py``."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import OPTIMIZERS, PATHS, run, set_gradients, tensors
from tvlars import LAMB, LARS, TVLARS
from tvlars.optim._numerics.norms import host_norm, norms
from tvlars.optim._numerics.sharded import Layout, norms_of_whole

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
    """With an active trust ratio, φ may stand before the momentum or after it."""
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


# -- norms whose squares a dtype does not hold ---------------------------------------------------------------

POWERS = st.integers(-30, 30)
"""Of ten, by which weights and gradients are multiplied."""
PATHS_TO_COMPARE = dict(
    [*PATHS.items(), ("capturable", dict(capturable=True)), ("differentiable", dict(differentiable=True))]
)
SIZES = [40, 9_000, 70_000]
"""One by one, in one call with others, and large enough for torch's fused kernels to take it alone."""


def scaled_layer(size: int, w: int, g: int, dtype: torch.dtype) -> tuple[nn.Parameter, torch.Tensor, torch.Tensor]:
    """A parameter with a gradient, and both in float64."""
    generator = torch.Generator().manual_seed(size)
    values, gradient = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
    p = nn.Parameter((values * 10.0**w).to(dtype))
    p.grad = (gradient * 10.0**g).to(dtype)
    return p, p.detach().double().clone(), p.grad.double().clone()


def step_of(p: torch.Tensor, cls: Any, arguments: dict[str, Any]) -> None:
    if arguments.get("differentiable"):  # a leaf must not be changed in place then
        copy = p.detach().clone()
        copy.grad = p.grad
        cls([copy], **arguments).step()
        p.data.copy_(copy.detach())
    else:
        cls([p], **arguments).step()


def exact_norm(x: torch.Tensor) -> float:
    largest = float(x.abs().max())
    return largest * float((x / largest).norm()) if largest else 0.0


@many
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", PATHS_TO_COMPARE)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@given(w=POWERS, g=POWERS, decay=st.sampled_from([0.0, 1e-4, 0.1]), nesterov=st.booleans())
def test_a_lars_step_has_its_length_whatever_the_size_of_weights_and_gradients(
    size: int, path: str, momentum: float, w: int, g: int, decay: float, nesterov: bool
) -> None:
    nesterov = nesterov and momentum > 0
    p, before, gradient = scaled_layer(size, w, g, torch.float32)
    arguments = dict(momentum=momentum, weight_decay=decay, trust_coefficient=0.25, nesterov=nesterov)
    step_of(p, LARS, dict(lr=0.5, **arguments, **PATHS_TO_COMPARE[path]))
    u = gradient + decay * before
    length = 0.5 * 0.25 * exact_norm(before) * (1 + momentum if nesterov else 1.0)
    expected = before - length * (u / exact_norm(u))
    assert exact_norm(p.detach().double() - expected) < 2e-6 * exact_norm(before)


@many
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", PATHS_TO_COMPARE)
@given(w=POWERS, g=st.integers(-30, 15), decay=st.sampled_from([0.0, 0.01]))
def test_a_lamb_step_has_its_length_whatever_the_size_of_weights_and_gradients(
    size: int, path: str, w: int, g: int, decay: float
) -> None:
    """Beyond 1e19 g² is infinite in float32, in LAMB's v as in Adam's."""
    p, before, _ = scaled_layer(size, w, g, torch.float32)
    step_of(p, LAMB, dict(lr=0.25, weight_decay=decay, **PATHS_TO_COMPARE[path]))
    moved = exact_norm(p.detach().double() - before)
    assert moved == pytest.approx(0.25 * exact_norm(before), rel=1e-5)


@pytest.mark.parametrize("path", PATHS_TO_COMPARE)
@pytest.mark.parametrize(
    ("dtype", "w", "g", "tolerance"),
    [
        (torch.float64, 160, 160, 1e-12),
        (torch.float64, -160, 0, 1e-12),
        (torch.float64, 0, 160, 1e-12),
        (torch.float64, 0, -160, 1e-12),
        (torch.bfloat16, 25, 25, 2e-2),
        (torch.bfloat16, 0, -25, 2e-2),
        (torch.float16, 0, -6, 2e-2),
    ],
    ids=str,
)
def test_lengths_in_other_dtypes(path: str, dtype: torch.dtype, w: int, g: int, tolerance: float) -> None:
    for size in SIZES:
        p, before, gradient = scaled_layer(size, w, g, dtype)
        step_of(p, LARS, dict(lr=0.5, momentum=0.0, trust_coefficient=0.5, **PATHS_TO_COMPARE[path]))
        expected = before - 0.25 * exact_norm(before) * (gradient / exact_norm(gradient))
        assert exact_norm(p.detach().double() - expected) < tolerance * exact_norm(before)


@pytest.mark.parametrize("path", PATHS_TO_COMPARE)
@pytest.mark.parametrize(("w", "g"), [(160, -160), (-160, 160)])
def test_a_ratio_that_no_number_can_hold_keeps_weights_finite(path: str, w: int, g: int) -> None:
    p, before, _ = scaled_layer(40, w, g, torch.float64)
    step_of(p, LARS, dict(lr=0.5, momentum=0.9, **PATHS_TO_COMPARE[path]))
    assert p.isfinite().all()
    assert exact_norm(p.detach() - before) <= 0.5e-3 * exact_norm(before) * 1.001


def test_a_small_term_of_a_sum_is_not_lost_where_products_vanish() -> None:
    """‖g + βw‖² has 2β⟨g, w⟩ in it, whose products are below what float32 holds while the result is not."""
    for size in SIZES:
        w = nn.Parameter(torch.full((size,), 1e-24))
        w.grad = torch.full((size,), -0.9e-24)
        LARS([w], 1.0, momentum=0.0, weight_decay=0.5, trust_coefficient=0.5).step()
        torch.testing.assert_close(w.detach(), torch.full((size,), 1.5e-24), rtol=1e-5, atol=0)


def test_norms_of_what_is_empty_zero_or_not_finite(path: dict[str, Any]) -> None:
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            values = [torch.zeros(0, dtype=dtype), torch.zeros(3, dtype=dtype), torch.ones(4, dtype=dtype)]
            assert norms(values).tolist() == [0.0, 0.0, 2.0]
            assert host_norm(torch.tensor([1.0, float("inf")], dtype=dtype)) == float("inf")
            assert host_norm(torch.tensor([1.0, float("nan")], dtype=dtype)) != host_norm(torch.ones(1))
    params = [nn.Parameter(torch.zeros(0)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    for p in params:
        p.grad = torch.ones_like(p)
    LARS(params, 1.0, **path).step()
    assert params[1].isfinite().all()


def test_a_sum_over_shards_neither_overflows_nor_vanishes() -> None:
    """Of float64 parts, ‖x‖² is 1e320 or 1e-320."""
    place = Layout(mock.Mock(ndim=1), (True,))
    parts = [torch.tensor([3e160, 3e-160, 3.0, 0.0, float("inf")], dtype=torch.float64)]
    with mock.patch("torch.distributed.all_reduce", side_effect=lambda sums, group: sums.mul_(4.0)):
        whole = norms_of_whole(parts, [[place] * 5])[0]
    torch.testing.assert_close(whole, 2 * parts[0], rtol=1e-14, atol=0)


def test_offloaded_layers_have_their_norms_where_they_are() -> None:
    """One mesh, two kinds of device: a collective each. "meta" stands for the accelerator, and two shards are equal."""
    place = Layout(mock.Mock(ndim=1), (True,))
    parts = [torch.tensor([3.0, 4.0]), torch.ones(1, device="meta"), torch.tensor([5.0])]
    with mock.patch("torch.distributed.all_reduce", side_effect=lambda sums, group: sums.mul_(2.0)) as collective:
        norms = norms_of_whole(parts, [[place] * 2, [place], [place]])
    assert [call.args[0].device.type for call in collective.call_args_list] == ["cpu", "meta"]
    assert [x.device for x in norms] == [x.device for x in parts]
    torch.testing.assert_close([norms[0], norms[2]], [2**0.5 * parts[0], 2**0.5 * parts[2]])
