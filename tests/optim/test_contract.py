"""The contract of torch.optim, for every optimizer and every path."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys
import warnings
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import OPTIMIZERS, PATHS, Make, run, set_gradients, tensors
from tvlars import LAMB, LARS, TVLARS, layer_groups
from tvlars.optim import foreach
from tvlars.optim._numerics import norms
from tvlars.stats import LayerStats


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


# -- paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_every_path_agrees_with_the_for_loop(
    make: Make, name: str, dtype: torch.dtype, tolerance: float, maximize: bool, decay: float
) -> None:
    params, options = layers(dtype), dict(maximize=maximize, weight_decay=decay)
    found, expected = run(make(params, **options), params, range(12)), by_the_for_loop(name, dtype, maximize, decay)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)


@cache
def by_the_for_loop(name: str, dtype: torch.dtype, maximize: bool, decay: float) -> list[torch.Tensor]:
    """The parameters after twelve steps; the same for every path that is compared with them."""
    cls, arguments = OPTIMIZERS[name]
    params = layers(dtype)
    loop = cls(params, **{**arguments, "foreach": False, "maximize": maximize, "weight_decay": decay})
    return run(loop, params, range(12))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("adaptation", [False, True])
def test_every_path_agrees_without_momentum_or_adaptation(
    path: dict[str, Any], nesterov: bool, momentum: float, adaptation: bool
) -> None:
    if nesterov and not momentum:
        return  # refused
    reference, others = layers(torch.float64), layers(torch.float64)
    results = []
    for params, options in ((reference, dict(foreach=False)), (others, path)):
        group = {"params": params, "layer_adaptation": adaptation}
        optimizer = LARS([group], 0.1, momentum=momentum, weight_decay=0.05, nesterov=nesterov, **options)
        results.append(run(optimizer, params, range(5)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def layers(dtype: torch.dtype) -> list[nn.Parameter]:
    """The small tensors, and two large enough for the norms of large ones, one of them channels_last."""
    return [*tensors(dtype=dtype), *(nn.Parameter(value.to(dtype, copy=True)) for value in large_values())]


@cache
def large_values() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    large = torch.randn(70, 1000, generator=g, dtype=torch.float64)
    image = torch.randn(64, 128, 3, 3, generator=g, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    return [large, image]


def test_weight_decay_that_cancels_the_gradient(path: dict[str, Any]) -> None:
    """‖g + βw‖ by parts would have no digits left here."""
    value = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    w = nn.Parameter(value.clone())
    w.grad = -0.5 * value + 1e-4 * torch.randn(300_000, generator=torch.Generator().manual_seed(1))
    u = w.grad.double() + 0.5 * value.double()
    LARS([w], 1.0, momentum=0.0, weight_decay=0.5, trust_coefficient=0.1, **path).step()
    step = (value - w.detach()).double()
    assert step.norm().item() == pytest.approx(0.1 * value.double().norm().item(), rel=1e-3)
    assert torch.dot(step, u).item() > 0


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
def test_a_large_gradient_keeps_its_digits(
    path: dict[str, Any], dtype: torch.dtype, tolerance: float, scale: float, nesterov: bool
) -> None:
    """q is tiny then, and 1 - (1 - q) is not q."""
    value, gradient = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    buffers = []
    for options in (dict(foreach=False), path):
        w = nn.Parameter(value.clone())
        w.grad = gradient * scale
        optimizer = LARS([w], 1.0, weight_decay=0.01, nesterov=nesterov, **options)
        optimizer.step()
        buffers.append(optimizer.state[w]["momentum_buffer"])  # q u; in w most of its digits are gone
    largest = float(buffers[0].abs().max())
    torch.testing.assert_close(buffers[1], buffers[0], rtol=tolerance, atol=tolerance * largest)


def test_a_large_layer_of_zeros(path: dict[str, Any]) -> None:
    w = nn.Parameter(torch.zeros(20_000))
    w.grad = torch.full((20_000,), 0.5)
    LARS([w], 10.0, nesterov=True, weight_decay=0.1, trust_coefficient=0.01, **path).step()
    torch.testing.assert_close(w.detach(), torch.full((20_000,), -0.1 * 1.9 / math.sqrt(20_000)))


def test_fused_where_there_is_no_kernel_is_refused(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    with pytest.raises(RuntimeError, match=r"needs parameters on the CPU or a CUDA device, and .* got some on meta"):
        cls([nn.Parameter(torch.ones(2, device="meta"))], **arguments, fused=True)


def test_maximize_is_descent_on_the_negative_gradient(make: Make) -> None:
    up, down = tensors(), tensors()
    ascending, descending = make(up, maximize=True), make(down)
    for step in range(5):
        set_gradients(up, step)
        for p, q in zip(up, down, strict=True):
            assert p.grad is not None
            q.grad = -p.grad
        ascending.step()
        descending.step()
    assert_equal([p.detach() for p in up], [p.detach() for p in down])


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_memory_layout_does_not_matter(make: Make, layout: str) -> None:
    plain, other = nn.Parameter(torch.randn(4, 3, 5, 5)), None
    if layout == "channels_last":
        other = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    else:
        other = nn.Parameter(plain.detach().transpose(0, 1).contiguous().transpose(0, 1))
    a, b = run(make([plain]), [plain], range(3)), run(make([other]), [other], range(3))  # gradients contiguous
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# -- gradients --------------------------------------------------------------------------------------------


def test_gradients_are_never_modified(make: Make) -> None:
    for arguments in ({}, {"maximize": True}, {"weight_decay": 0.0}):
        params = tensors()
        optimizer = make(params, **arguments)
        for step in range(3):
            set_gradients(params, step)
            before = [p.grad.clone() for p in params if p.grad is not None]
            optimizer.step()
            assert_equal(before, [p.grad for p in params if p.grad is not None])


def test_parameters_without_gradient_stay(make: Make) -> None:
    params = tensors()
    optimizer = make(params)
    set_gradients(params, 0)
    params[1].grad = None
    before = params[1].detach().clone()
    optimizer.step()
    assert torch.equal(params[1], before)
    assert params[1] not in optimizer.state


def test_a_step_without_any_gradient_is_none(make: Make) -> None:
    params = tensors()
    optimizer = make(params)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    assert str(optimizer.state_dict()) == str(before)
    assert_equal([p.detach() for p in params], [p.detach() for p in tensors()])


def test_sparse_gradients_are_refused_before_anything_changes(make: Make) -> None:
    embedding = nn.Embedding(5, 3, sparse=True)
    dense = nn.Parameter(torch.ones(3))
    optimizer = make([dense, embedding.weight])
    (embedding(torch.tensor([1, 2])).sum() + dense.sum()).backward()
    with pytest.raises(RuntimeError, match=r"does not support sparse gradients.*\(5, 3\)"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(3))


def test_a_nonfinite_gradient_spoils_its_own_layer_alone(make: Make) -> None:
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    optimizer = make(params)
    params[0].grad, params[1].grad = torch.tensor([1.0, math.nan, 1.0]), torch.ones(3)
    optimizer.step()
    assert params[0].isnan().any()
    assert params[1].isfinite().all()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("zero", ["neither", "w", "g", "both"])
@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
@pytest.mark.parametrize("unit", [False, True])
def test_trust_ratio_with_zeros(
    cls: Any, zero: str, momentum: float, decay: float, unit: bool, path: dict[str, Any]
) -> None:
    """The ratio acts whether or not weight decay is 0. ‖w‖ = 0 counts as 1, or q is 1 there, as in LAMB."""
    if cls is LAMB and unit:
        pytest.skip("LAMB has no such option")
    w = nn.Parameter(torch.tensor([0.0, 0.0] if zero in ("w", "both") else [3.0, 4.0], dtype=torch.float64))
    g = torch.tensor([0.0, 0.0] if zero in ("g", "both") else [0.6, 0.8], dtype=torch.float64)
    w.grad = g.clone()
    before = w.detach().clone()
    if cls is LAMB:  # at the first step m̂ = g and v̂ = g²
        LAMB([w], 0.5, betas=(momentum, 0.99), weight_decay=decay, **path).step()
        u, coefficient = g / (g.abs() + 1e-6) + decay * before, 1.0
    else:
        shape = dict(delay=500, delay_factor=0.0, alpha=1.0, gamma_min=0.5) if cls is TVLARS else {}  # φ = 1
        options = dict(momentum=momentum, weight_decay=decay, trust_coefficient=0.01, unit_ratio_at_zero=unit)
        cls([w], 0.5, **options, **shape, **path).step()
        u, coefficient = g + decay * before, 0.01
    if u.norm() == 0:  # and nothing moves
        q = 1.0
    elif before.norm() == 0:
        q = 1.0 if cls is LAMB or unit else coefficient / float(u.norm())
    else:
        q = coefficient * float(before.norm() / u.norm())
    torch.testing.assert_close(w.detach(), before - 0.5 * q * u, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scope", ["all", "ratio"])
@pytest.mark.parametrize("unit", [False, True])
def test_phi_where_the_weights_are_zero(scope: str, unit: bool, path: dict[str, Any]) -> None:
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    w.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
    shape = dict(delay_factor=0.0, delay=0.0, alpha=1.0, gamma_min=0.0, phi_scope=scope)  # φ = 1/2
    TVLARS([w], 2.0, trust_coefficient=0.01, unit_ratio_at_zero=unit, **shape, **path).step()
    rate = 2.0 * (1.0 if unit else 0.01) * (1.0 if unit and scope == "ratio" else 0.5)
    torch.testing.assert_close(w.detach(), -rate * w.grad, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("cls", [LARS, TVLARS])
def test_a_network_with_a_zeroed_last_layer_trains_whatever_the_scale_of_the_loss(
    cls: Any, scale: float, path: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4, bias=False))
    nn.init.zeros_(model[2].weight)
    shape = dict(delay_factor=0.0, delay=0.0, gamma_min=0.5) if cls is TVLARS else {}  # φ = 1
    optimizer = cls([model[0].weight, model[2].weight], 32.0, weight_decay=1e-4, **shape, **path)
    x, losses = torch.randn(256, 16), []
    y = x[:, :4].argmax(1)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        (scale * loss).backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < losses[0] + 0.1
    assert losses[-1] < 0.5 * losses[0]


def test_layer_statistics_have_the_ratio_that_acts_where_the_weights_are_zero(path: dict[str, Any]) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = LARS(model.parameters(), 8.0, trust_coefficient=0.01, **path)
    model.weight.grad = torch.full((2, 3), 2.0)
    with LayerStats(optimizer, model) as stats:
        optimizer.step()
    frame = stats.frame().set_index("quantity")["value"]
    assert frame["trust_ratio"] == pytest.approx(0.01 / math.sqrt(24))
    assert frame["effective_lr"] == pytest.approx(8 * 0.01 / math.sqrt(24))


def test_a_state_from_before_this_option_is_loaded(make: Make, name: str) -> None:
    params, others = tensors(), tensors()
    optimizer, other = make(params), make(others)
    run(optimizer, params, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group.pop("unit_ratio_at_zero", None)
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    other.load_state_dict(state)
    assert other.param_groups[0].get("unit_ratio_at_zero", False) is False
    assert_equal(run(optimizer, params, range(2, 4)), run(other, others, range(2, 4)))


@pytest.mark.parametrize("zero", ["w", "g", "both"])
@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_derivatives_are_finite_where_a_norm_is_zero(cls: Any, zero: str) -> None:
    lr = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    start = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    if zero == "g":
        start = torch.ones(3, dtype=torch.float64, requires_grad=True)
    g = (torch.zeros if zero in ("g", "both") else torch.ones)(3, dtype=torch.float64).requires_grad_()
    w = start.clone()
    shape = dict(delay_factor=0.01, delay=10.0) if cls is TVLARS else {}
    optimizer = cls([w], lr, differentiable=True, **shape)
    w.grad = g
    optimizer.step()
    derivatives = torch.autograd.grad(w.sum(), [lr, start, g])
    assert all(x.isfinite().all() for x in derivatives)


# -- hyperparameters ---------------------------------------------------------------------------------------

NONSENSE = [-0.1, math.nan, math.inf, -math.inf, "0.1", True]
NUMBERS = {
    LARS: ["lr", "momentum", "weight_decay", "trust_coefficient", "norm_clip"],
    TVLARS: [
        *["lr", "momentum", "weight_decay", "trust_coefficient", "norm_clip"],
        *["delay_factor", "delay", "alpha", "gamma_min"],
    ],
    LAMB: ["lr", "eps", "weight_decay", "norm_clip"],
}
REQUIRED = {TVLARS: dict(delay=500, delay_factor=0.01)}


@pytest.mark.parametrize("bad", NONSENSE, ids=repr)
@pytest.mark.parametrize(("cls", "argument"), [(cls, a) for cls, names in NUMBERS.items() for a in names])
def test_bad_numbers_are_refused_by_name_and_value(cls: Any, argument: str, bad: Any) -> None:
    p, usual = nn.Parameter(torch.ones(2)), {"lr": 0.1, **REQUIRED.get(cls, {})}
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {bad!r}$"):
        cls([p], **{**usual, argument: bad})
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {bad!r}$"):
        cls([{"params": [p], argument: bad}], **usual)
    optimizer = cls([p], **usual)
    with pytest.raises(ValueError, match=rf"^{argument} must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], argument: bad})
    assert len(optimizer.param_groups) == 1


def test_every_number_is_checked(name: str) -> None:
    """Every option whose default is a number, also those of a rule that ``NUMBERS`` does not list."""
    cls, arguments = OPTIMIZERS[name]
    defaults = cls([nn.Parameter(torch.ones(2))], **arguments).defaults
    for option in [option for option, value in defaults.items() if type(value) in (int, float)]:
        with pytest.raises(ValueError, match=rf"^{option} must be .*got nan$"):
            cls([nn.Parameter(torch.ones(2))], **{**arguments, option: math.nan})


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (LARS, dict(momentum=1.0), "momentum must be >= 0 and < 1, got 1.0"),
        (LARS, dict(trust_coefficient=0), "trust_coefficient must be > 0, got 0"),
        (LARS, dict(momentum=0.0, nesterov=True), "momentum must be > 0 if nesterov=True, got 0"),
        (LARS, dict(nesterov=None), "nesterov must be True or False, got None"),
        (LARS, dict(foreach="yes"), "foreach must be None, True or False, got 'yes'"),
        (LARS, dict(lr=10**400), "lr must be >= 0, got 1000"),
        (LARS, dict(foreach=True, differentiable=True), "foreach must be None or False where differentiable=True"),
        (LARS, dict(fused=True, differentiable=True), "fused must be None or False where differentiable=True"),
        (LAMB, dict(fused=True, foreach=True), "foreach must not be True where fused=True"),
        (
            TVLARS,
            dict(fused=True, capturable=True),
            "capturable must not be True where fused=True, for parameters on the CPU",
        ),
        (TVLARS, dict(alpha=0), "alpha must be > 0, got 0"),
        (TVLARS, dict(delay_factor=-1), "delay_factor must be >= 0 (1/step), got -1"),
        (TVLARS, dict(phi_scope="some"), "phi_scope must be one of 'all', 'ratio', got 'some'"),
        (LAMB, dict(betas=(0.9, 1.0)), "betas[1] must be >= 0 and < 1, got 1.0"),
        (LAMB, dict(betas=0.9), "betas must be two numbers, got 0.9"),
        (LAMB, dict(eps=0), "eps must be > 0, got 0"),
    ],
)
def test_messages(cls: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        cls([nn.Parameter(torch.ones(2))], **{"lr": 0.1, **REQUIRED.get(cls, {}), **arguments})
    assert message in str(caught.value)


def test_options_that_cannot_differ_between_groups_or_devices(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    p, elsewhere = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))
    with pytest.raises(ValueError, match="differentiable must be the same in all groups, got True and False"):
        cls([{"params": [p], "differentiable": True}], **arguments)
    with pytest.raises(ValueError, match="params must be on one device in a group with capturable=True, got cpu, meta"):
        cls([p, elsewhere], **arguments, capturable=True)


def test_options_that_a_state_lacks_are_the_constructors(make: Make) -> None:
    params = tensors()
    optimizer = make(params)
    run(optimizer, params, range(2))
    older = copy.deepcopy(optimizer.state_dict())
    for option in ("layer_adaptation", "fused", "capturable", "norm_clip"):
        del older["param_groups"][0][option]
    others = [nn.Parameter(p.detach().clone()) for p in params]
    loaded = make(others)
    loaded.load_state_dict(older)
    assert_equal(run(optimizer, params, range(2, 4)), run(loaded, others, range(2, 4)))


def test_complex_parameters_are_refused(make: Make) -> None:
    for trained in (True, False):
        with pytest.raises(TypeError, match="real floating point"):
            make([nn.Parameter(torch.ones(2, dtype=torch.complex64), requires_grad=trained)])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_frozen_parameters_of_whole_numbers_are_taken_and_left(make: Make, dtype: torch.dtype) -> None:
    """As SGD takes those of quantized models."""
    frozen, trained = nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False), nn.Parameter(torch.ones(3))
    optimizer = make([frozen, trained])
    trained.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3, dtype=dtype))
    assert frozen not in optimizer.state
    make([frozen, nn.Parameter(torch.ones(3))]).load_state_dict(optimizer.state_dict())
    if dtype != torch.bool:
        frozen.grad = torch.ones(3, dtype=dtype)
        with pytest.raises(
            TypeError, match=f"real floating point tensors where they have a gradient, got one of {dtype}"
        ):
            optimizer.step()


@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_every_group_may_have_its_own_lr(cls: Any) -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    required = REQUIRED.get(cls, {})
    optimizer = cls([{"params": [p], "lr": 0.1}], **required)
    assert optimizer.param_groups[0]["lr"] == 0.1
    if cls is LAMB:
        return
    with pytest.raises(ValueError, match=f"^lr must be given, to {cls.__name__} or in every parameter group$"):
        cls([{"params": [p], "lr": 0.1}, {"params": [q]}], **required)
    with pytest.raises(ValueError, match=r"^lr must be given"):
        cls([p], **required)
    with pytest.raises(ValueError, match=r"^lr must be given"):
        optimizer.add_param_group({"params": [q]})
    optimizer.add_param_group({"params": [q], "lr": 0.2})
    run(optimizer, [p, q], range(1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([0.1, 0.2]), r"lr must be a number or a tensor of one element, got one of shape \(2,\)"),
        (torch.ones(0), r"lr must be a number or a tensor of one element, got one of shape \(0,\)"),
        (torch.ones(2, 1), r"lr must be a number or a tensor of one element, got one of shape \(2, 1\)"),
        (torch.tensor(1j), r"lr must be a real number, got a tensor of torch.complex64"),
        (torch.tensor(True), r"lr must be a real number, got a tensor of torch.bool"),
        (torch.tensor(-0.5), r"lr must be >= 0, got"),
        (torch.tensor(math.nan), r"lr must be >= 0, got"),
        (torch.tensor(math.inf), r"lr must be >= 0, got"),
        ([0.1], r"lr must be >= 0, got \[0.1\]"),
        ("0.1", r"lr must be >= 0, got '0.1'"),
        (1j, r"lr must be >= 0, got 1j"),
    ],
)
def test_what_is_no_lr(name: str, bad: Any, message: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        cls([nn.Parameter(torch.ones(2))], **{**arguments, "lr": bad})


def test_an_array_of_several_is_no_lr(name: str) -> None:
    numpy = pytest.importorskip("numpy")
    cls, arguments = OPTIMIZERS[name]
    with pytest.raises(ValueError, match=r"^lr must be a number or a tensor of one element, got one of shape \(2,\)"):
        cls([nn.Parameter(torch.ones(2))], **{**arguments, "lr": numpy.ones(2)})


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "array", "Fraction", "Decimal", "int"])
def test_numbers_of_other_kinds_become_pythons(path: dict[str, Any], kind: str) -> None:
    def made(value: float) -> Any:
        if kind == "Fraction":
            return Fraction(value)
        if kind in ("Decimal", "int"):
            return Decimal(value) if kind == "Decimal" else int(value)
        numpy = pytest.importorskip("numpy")
        return numpy.array(value) if kind == "array" else getattr(numpy, kind)(value)

    values = dict(lr=2.0, weight_decay=1.0, norm_clip=4.0)
    for cls, more in ((LARS, {}), (TVLARS, dict(delay=3.0, delay_factor=1.0, alpha=2.0)), (LAMB, dict(eps=1.0))):
        params, others = tensors(), tensors()
        expected = cls(params, **values, **more, **path)
        found = cls(others, **{name: made(x) for name, x in {**values, **more}.items()}, **path)
        for name in (*values, *more):
            assert type(found.param_groups[0][name]) in (int, float)
        a, b = run(found, others, range(2)), run(expected, params, range(2))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        torch.save(found.state_dict(), file := io.BytesIO())
        file.seek(0)
        torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (nn.Linear(2, 2), r"params must be parameters or groups of them, got a Linear: take its .parameters\(\), or"),
        (nn.Sequential(nn.Linear(2, 2)), r"params must be parameters or groups of them, got a Sequential"),
        (nn.ModuleList(), r"params must be parameters or groups of them, got a ModuleList"),
        ([{"params": nn.Linear(2, 2)}], r"params must be parameters or groups of them, got a Linear"),
        ({"params": []}, r"params must be parameters or a list of groups of them, got .*: put the group into a list"),
        (0.1, r"params must be parameters or a list of groups of them, got 0.1"),
        (None, r"params must be parameters or a list of groups of them, got None"),
        ("model", r"params must be parameters or a list of groups of them, got 'model'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_what_is_no_parameters(cls: Any, params: Any, message: str) -> None:
    for arguments in ({}, dict(lr=0.1, **REQUIRED.get(cls, {}))):  # whatever else is missing
        with pytest.raises(TypeError, match=message):
            cls(params, **arguments)


def test_a_group_without_parameters_is_none(make: Make) -> None:
    with pytest.raises(ValueError, match=r"a parameter group must have 'params', got lr"):
        make([{"lr": 0.1}])


def test_groups_with_and_without_names_go_together(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    more, third = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def named_first() -> Any:
        optimizer = cls(layer_groups(model, weight_decay=0.1), **arguments)
        optimizer.add_param_group({"params": more})
        optimizer.add_param_group({"params": iter([third])})
        return optimizer

    optimizer = named_first()
    assert [group["param_names"] for group in optimizer.param_groups] == [
        *[["0.weight"], ["0.bias", "1.weight", "1.bias"]],
        *[["param_groups.2.params.0"], ["param_groups.3.params.0"]],
    ]
    named_first().load_state_dict(optimizer.state_dict())
    unnamed = cls([more], **arguments)
    unnamed.add_param_group({"params": model.named_parameters()})
    assert unnamed.param_groups[0]["param_names"] == ["param_groups.0.params.0"]
    both = cls([{"params": [more]}, *layer_groups(model, weight_decay=0.1)], **arguments)
    assert all("param_names" in group for group in both.param_groups)
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        unnamed.add_param_group({"params": [more]})


def test_groups_have_options_of_their_own(make: Make) -> None:
    ours, alone = tensors(), tensors()
    optimizer = make([{"params": ours[:2], "lr": 0.1, "layer_adaptation": False}, {"params": ours[2:]}])
    separate = [make(alone[:2], lr=0.1), make(alone[2:])]
    separate[0].param_groups[0]["layer_adaptation"] = False
    run(optimizer, ours, range(4))
    for step in range(4):
        set_gradients(alone, step)
        for o in separate:
            o.step()
    assert_equal([p.detach() for p in ours], [p.detach() for p in alone])


def test_warns_once_of_unadapted_parameters_at_a_lars_scale_lr() -> None:
    def groups() -> list[dict[str, Any]]:
        return [
            {"params": [nn.Parameter(torch.ones(2, 2))]},
            {"params": [nn.Parameter(torch.ones(2))], "layer_adaptation": False},
            {"params": [nn.Parameter(torch.ones(2))], "layer_adaptation": False},
        ]

    with pytest.warns(UserWarning, match="1 parameters.*lr = 16.*bias_norm_lr_scale") as caught:
        LARS(groups(), lr=16.0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LARS(groups(), lr=1.0)
        LARS([{"params": [nn.Parameter(torch.ones(2))]}], lr=16.0)


# -- closures, hooks, schedulers, scaler -------------------------------------------------------------------


def test_closure_comes_first_and_its_value_is_returned(make: Make) -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make([w])

    def closure() -> torch.Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 5.0  # type: ignore[union-attr]
    assert (w**2).sum() < 5.0


def test_step_hooks_are_called(make: Make) -> None:
    params, calls = tensors(), []
    optimizer = make(params)
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    run(optimizer, params, range(2))
    assert calls == ["pre", "post"] * 2


def test_torch_schedulers_set_the_lr(make: Make) -> None:
    params, by_hand = tensors(), tensors()
    optimizer, manual = make(params, lr=0.4), make(by_hand, lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for step in range(4):
        run(optimizer, params, range(step, step + 1))
        scheduler.step()
        manual.param_groups[0]["lr"] = 0.4 * 0.5**step
        run(manual, by_hand, range(step, step + 1))
    assert_equal([p.detach() for p in params], [p.detach() for p in by_hand])


def test_a_tensor_lr_does_what_the_number_does(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    for shape in ((), (1,)):
        params, others = tensors(), tensors()
        a = run(cls(params, **{**arguments, "lr": torch.full(shape, 0.25)}), params, range(4))
        b = run(cls(others, **{**arguments, "lr": 0.25}), others, range(4))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("label", ["for-loop", "foreach", "default"])
def test_capturable_keeps_everything_tensors_and_agrees(name: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a capturable step must not wait for the device")

    cls, arguments = OPTIMIZERS[name]
    params, others = tensors(), tensors()
    lr = torch.tensor(arguments["lr"])
    optimizer = cls(params, **{**arguments, "lr": lr}, **PATHS[label], capturable=True)
    with monkeypatch.context() as patch:  # as on a device, from which nothing may be read
        for module in (norms, foreach):
            patch.setattr(module, "on_host", lambda tensors: False)
        for reading in ("item", "__float__", "__bool__", "tolist", "cpu"):
            patch.setattr(torch.Tensor, reading, refuse)
        a = run(optimizer, params, range(6))
    b = run(cls(others, **arguments, **PATHS[label]), others, range(6))
    torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_grad_scaler_unscales_and_a_skipped_step_does_not_count(make: Make) -> None:
    w, plain = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer, expected = make([w]), make([plain])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10_000)
    for factor in (1.0, math.inf, 2.0):
        optimizer.zero_grad()
        scaler.scale((w * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        if math.isfinite(factor):
            plain.grad = torch.full((2,), factor)
            expected.step()
    torch.testing.assert_close(w, plain, rtol=0, atol=0)
    assert str(optimizer.state_dict()) == str(expected.state_dict())


# -- state -------------------------------------------------------------------------------------------------


def test_deepcopy_and_pickle_go_on_bit_for_bit(make: Make) -> None:
    params = tensors()
    optimizer = make(params)
    run(optimizer, params, range(3))
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    expected = run(optimizer, params, range(3, 6))
    for other in copies:
        theirs = [p for group in other.param_groups for p in group["params"]]
        assert_equal(run(other, theirs, range(3, 6)), expected)


def test_a_loaded_state_goes_on_bit_for_bit(make: Make) -> None:
    params = tensors()
    optimizer = make(params)
    run(optimizer, params, range(3))
    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = make(others)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_equal(run(other, others, range(3, 6)), run(optimizer, params, range(3, 6)))


def test_resume_in_a_new_process_is_exact(tmp_path: Path) -> None:
    """Every optimizer, path and moment in one child, since starting a process takes longer than all of them."""
    cases = [(name, label, steps) for name in OPTIMIZERS for label in PATHS for steps in (0, 1, 5)]
    for name, label, steps in cases:
        cls, arguments = OPTIMIZERS[name]
        params = tensors()
        optimizer = cls(params, **arguments, **PATHS[label])
        run(optimizer, params, range(steps))
        file = tmp_path / f"{name}-{label}-{steps}"
        torch.save([[p.detach() for p in params], optimizer.state_dict()], f"{file}.pt")
        torch.save(run(optimizer, params, range(steps, steps + 4)), f"{file}-expected.pt")
    child = f"""
import torch
from tests.conftest import OPTIMIZERS, PATHS, run, tensors
for name, label, steps in {cases}:
    cls, arguments = OPTIMIZERS[name]
    file = r"{tmp_path}/" + f"{{name}}-{{label}}-{{steps}}"
    values, state = torch.load(file + ".pt", weights_only=True)
    params = tensors()
    for p, value in zip(params, values, strict=True):
        p.data.copy_(value)
    optimizer = cls(params, **arguments, **PATHS[label])
    optimizer.load_state_dict(state)
    expected = torch.load(file + "-expected.pt", weights_only=True)
    for a, b in zip(run(optimizer, params, range(steps, steps + 4)), expected, strict=True):
        assert torch.equal(a, b), (name, label, steps, a, b)
"""
    subprocess.run([sys.executable, "-c", child], check=True, cwd=Path(__file__).parents[2])


def test_named_parameters_are_taken(make: Make) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = make(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_no_buffer_is_kept_without_momentum(path: dict[str, Any]) -> None:
    params = tensors()
    optimizer = LARS(params, 0.1, momentum=0.0, **path)
    run(optimizer, params, range(2))
    assert not any(optimizer.state.values())


# -- dtypes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_parameters_are_taken_in_float32(path: dict[str, Any], dtype: torch.dtype) -> None:
    # ‖g‖² underflows in float16, ‖w‖² overflows; the trust ratio must be right all the same
    w = nn.Parameter(torch.full((4000,), 16.0, dtype=dtype))
    w.grad = torch.full((4000,), 1e-4, dtype=dtype)
    LARS([w], 1.0, momentum=0.0, trust_coefficient=0.25, **path).step()
    expected = torch.full((4000,), 16.0 - 0.25 * 16.0)  # q·g = η‖w‖ · g/‖g‖
    torch.testing.assert_close(w.detach().float(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lambs_norms_too(path: dict[str, Any], dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.full((4000,), 16.0, dtype=dtype))  # ‖w‖² overflows float16
    w.grad = torch.full((4000,), 0.5, dtype=dtype)
    LAMB([w], 0.25, betas=(0.5, 0.5), eps=1e-4, weight_decay=0.0, **path).step()
    torch.testing.assert_close(w.detach().float(), torch.full((4000,), 12.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_norms_of_large_layers_are_exact_to_rounding(path: dict[str, Any], layout: str) -> None:
    """torch's own float32 norm on a CPU is off by 1e-4 and more at this size, and depends on the threads."""
    values = torch.randn(1000, 6, 32, 33, generator=torch.Generator().manual_seed(0))
    if layout == "channels_last":
        values = values.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        values = values.transpose(0, 3)
    w = nn.Parameter(values.clone())
    w.grad = torch.full_like(w, 1e-3)
    LARS([w], 1.0, momentum=0.0, trust_coefficient=1.0, **path).step()
    step = (values - w.detach()).double()
    assert step.norm().item() == pytest.approx(values.double().norm().item(), rel=1e-6)


def test_mixed_dtypes_in_one_optimizer(make: Make) -> None:
    mixed = [p for dtype in (torch.float32, torch.float64, torch.bfloat16) for p in tensors(dtype=dtype)]
    optimizer, count = make(mixed), len(tensors())
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    alone = {dtype: tensors(dtype=dtype) for dtype in dtypes}
    separate = {dtype: make(alone[dtype]) for dtype in dtypes}
    for step in range(3):
        for i, dtype in enumerate(dtypes):
            set_gradients(mixed[i * count : (i + 1) * count], step)
            set_gradients(alone[dtype], step)
            separate[dtype].step()
        optimizer.step()
    assert_equal([p.detach() for p in mixed], [p.detach() for dtype in dtypes for p in alone[dtype]])


@pytest.mark.parametrize("label", ["for-loop", "foreach", "default"])
def test_mixed_devices_in_one_optimizer(name: str, label: str) -> None:
    """The meta device stands for a second one: it has shapes, and refuses to meet a tensor of the first."""
    cls, arguments = OPTIMIZERS[name]
    params, alone = tensors(), tensors()
    elsewhere = [nn.Parameter(torch.ones(p.shape, device="meta")) for p in params]
    optimizer = cls([p for pair in zip(params, elsewhere, strict=True) for p in pair], **arguments, **PATHS[label])
    for step in range(3):
        for p in elsewhere:
            p.grad = torch.ones_like(p)
        run(optimizer, params, range(step, step + 1))
    assert_equal([p.detach() for p in params], run(cls(alone, **arguments, **PATHS[label]), alone, range(3)))


def test_ten_thousand_tensors(make: Make) -> None:
    values, *gradients = ten_thousand()
    few = [0, 1, 5_000, 9_999]
    params, chosen = [nn.Parameter(v.clone()) for v in values], [nn.Parameter(values[i].clone()) for i in few]
    optimizer, small = make(params), make(chosen)
    for g in gradients:
        for p, gradient in zip(params, g, strict=True):
            p.grad = gradient
        for p, i in zip(chosen, few, strict=True):
            p.grad = g[i]
        optimizer.step()
        small.step()
    assert_equal([params[i].detach() for i in few], [p.detach() for p in chosen])


@cache
def ten_thousand() -> list[list[torch.Tensor]]:
    """Values, and gradients of two steps, which no optimizer changes."""
    draws = (torch.Generator().manual_seed(seed) for seed in range(3))
    return [list(torch.randn(10_000, 2, 3, generator=g, dtype=torch.float64).unbind()) for g in draws]


def test_empty_and_single_element_parameters_beside_a_large_one(make: Make) -> None:
    params = [nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(1_000_000))]
    results = run(make(params), params, range(2))
    assert all(x.isfinite().all() for x in results)


def test_gradients_flow_through_differentiable_steps(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    start = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    lr = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def three_steps(value: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        w = value.clone()
        optimizer = cls([w], **{**arguments, "lr": lr}, differentiable=True)
        for gradient in ([0.3, -0.2], [-0.1, 0.5], [0.2, 0.2]):
            w.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
        return w

    assert torch.autograd.gradcheck(three_steps, (start, lr))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("far", [2**24 + 1, 2**31 + 3])
def test_lambs_steps_do_not_stand_still(path: dict[str, Any], far: int, capturable: bool) -> None:
    """Its bias correction is that of the count, however large: β₂ is so close to 1 that 1 - β₂^t is far from it."""
    if capturable and path.get("fused"):
        return  # refused on a CPU
    beta = 1 - 2.0**-30
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = LAMB([w], 0.5, betas=(0.0, beta), weight_decay=0.0, eps=1e-30, capturable=capturable, **path)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "layer_adaptation": False})
    optimizer.param_groups[0]["layer_adaptation"] = False
    state = optimizer.state_dict()
    state["state"][0] = dict(exp_avg=torch.zeros(3), exp_avg_sq=torch.ones(3, dtype=torch.float64), step=far)
    optimizer.load_state_dict(state)
    for t in (far + 1, far + 2):
        before, v = w[0].item(), optimizer.state[w]["exp_avg_sq"][0].item()
        w.grad = torch.full((3,), 0.25, dtype=torch.float64)
        optimizer.step()
        assert int(optimizer.state[w]["step"]) == t
        v = beta * v + (1 - beta) * 0.0625
        expected = 0.5 * 0.25 / math.sqrt(v / -math.expm1(t * math.log(beta)))
        assert before - w[0].item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("foreach", [False, True])
def test_bias_correction_on_the_device_loses_no_digits(foreach: bool) -> None:
    """1 - 0.999 in float32 would be off by 1e-5 of its value."""
    w = nn.Parameter(torch.zeros(3))
    w.grad = torch.tensor([1.0, -2.0, 3.0])
    group = {"params": [w], "layer_adaptation": False}
    LAMB([group], 1.0, eps=1e-12, weight_decay=0.0, capturable=True, foreach=foreach).step()
    assert w.tolist() == pytest.approx([-1.0, 1.0, -1.0], rel=2e-6)


# -- options that are tensors -------------------------------------------------------------------------------

TENSOR_OPTIONS: dict[Any, dict[str, Any]] = {
    LARS: dict(lr=0.3, momentum=0.8, weight_decay=0.05, trust_coefficient=0.1, norm_clip=1.5),
    TVLARS: dict(
        **dict(lr=0.3, momentum=0.8, weight_decay=0.05, trust_coefficient=0.1, norm_clip=1.5),
        **dict(delay=2.5, delay_factor=0.4, alpha=0.7, gamma_min=0.05),
    ),
    LAMB: dict(lr=0.3, betas=(0.8, 0.9), eps=0.01, weight_decay=0.05, norm_clip=1.5),
}
VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    *[(LARS, {}), (LARS, dict(nesterov=True)), (LARS, dict(maximize=True)), (LARS, dict(layer_adaptation=False))],
    *[(TVLARS, {}), (TVLARS, dict(phi_scope="ratio", nesterov=True)), (TVLARS, dict(capturable=True))],
    *[(LAMB, {}), (LAMB, dict(bias_correction=False)), (LAMB, dict(maximize=True)), (LAMB, dict(capturable=True))],
]


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(("cls", "variant"), VARIANTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_gradients_flow_to_every_option(cls: Any, variant: dict[str, Any], shape: tuple[int, ...]) -> None:
    """All of them at once, and the first parameters and gradients, against finite differences."""
    options = {k: x for k, x in TENSOR_OPTIONS[cls].items() if k != "betas"}
    betas = TENSOR_OPTIONS[cls].get("betas", ())

    def steps(start: torch.Tensor, gradient: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        w = start.clone()
        given = dict(zip(options, values, strict=False))
        if betas:
            given["betas"] = tuple(values[len(options) :])
        adapted = {k: x for k, x in variant.items() if k == "layer_adaptation"}
        others = {k: x for k, x in variant.items() if k != "layer_adaptation"}
        optimizer = cls([{"params": [w], **adapted}], **given, **others, differentiable=True)
        for t in range(3):
            w.grad = gradient * (1 + 0.5 * t) + 0.1 * t
            optimizer.step()
        return w

    def leaf(value: Any) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64).reshape(shape).requires_grad_()

    vectors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, -0.7], [0.3, 0.2])]
    assert torch.autograd.gradcheck(steps, (*vectors, *map(leaf, options.values()), *map(leaf, betas)))


@pytest.mark.parametrize(
    ("cls", "option"), [(cls, k) for cls, options in TENSOR_OPTIONS.items() for k in options if k != "lr"]
)
def test_a_tensor_option_wants_a_differentiable_step(cls: Any, option: str) -> None:
    """It would be read at an unknown time, or break the fused kernels."""
    value = TENSOR_OPTIONS[cls][option]
    tensor = tuple(map(torch.tensor, value)) if option == "betas" else torch.tensor(value)
    name = r"betas\[0\]" if option == "betas" else option
    usual = {"lr": 0.1, **REQUIRED.get(cls, {})}
    p = nn.Parameter(torch.ones(2))
    message = rf"^{name} must be a number where differentiable=False, got a tensor"
    with pytest.raises(ValueError, match=message):
        cls([p], **{**usual, option: tensor})
    with pytest.raises(ValueError, match=message):
        cls([{"params": p, option: tensor}], **usual)
    optimizer = cls([p], **usual)
    state = optimizer.state_dict()
    state["param_groups"][0][option] = tensor
    with pytest.raises(ValueError, match=message[1:]):
        optimizer.load_state_dict(state)


def test_total_steps_and_a_tensor_alpha_contradict() -> None:
    with pytest.raises(ValueError, match="alpha must be a number where total_steps is given"):
        TVLARS([torch.ones(2)], 0.1, total_steps=9, alpha=torch.tensor(0.5), differentiable=True)


def test_state_dict_survives_a_file(make: Make) -> None:
    params = tensors()
    optimizer = make(params)
    run(optimizer, params, range(2))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert str(loaded) == str(optimizer.state_dict())
