"""Sharpness: against dense Hessians, exact answers on quadratics, invariances, and models left as they were."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

pytest.importorskip("curvlinops", reason="the extra 'sharpness' (curvlinops-for-pytorch) is not installed")

from tvlars.sharpness import (
    average_case_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    keskar_sharpness,
    loss_between,
    loss_slice,
    spectral_density,
    worst_case_sharpness,
)

Batches = list[tuple[Tensor, Tensor]]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Tiny, with everything that evaluation mode matters for, its batch norm's statistics not the initial ones."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5, dtype=dtype),
        nn.BatchNorm1d(5, dtype=dtype),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(5, 3, dtype=dtype),
    )
    model(torch.randn(50, 4, dtype=dtype) * 3 + 1)
    return model


def batches(size: int = 24, dtype: torch.dtype = torch.float64) -> Batches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 4, generator=generator, dtype=dtype)
    y = torch.randint(0, 3, (24,), generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


def dense_hessian(model: nn.Module, data: Batches) -> Tensor:
    model = copy.deepcopy(model).eval()
    names, values = zip(*model.named_parameters(), strict=True)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [v.numel() for v in values])
        params = {n: part.view_as(v) for n, part, v in zip(names, parts, values, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, params, (x,)), y)

    return hessian(loss)(torch.cat([v.detach().flatten() for v in values]))


class Quadratic(nn.Module):
    """L(w) = ½ Σ a_i (w_i − c_i)² with the curvatures 'a', whatever the data."""

    def __init__(self, a: list[float], w: list[float]) -> None:
        super().__init__()
        self.register_buffer("a", torch.tensor(a, dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.a * self.w**2).sum() + 0 * x.sum()


def itself(output: Tensor, target: Tensor) -> Tensor:
    return output


QUADRATIC: Batches = [
    (torch.zeros(2, dtype=torch.float64), torch.zeros(2)),
    (torch.zeros(1, dtype=torch.float64), torch.zeros(1)),
]
CE = nn.CrossEntropyLoss()

MEASURES: dict[str, Callable[[nn.Module, Any, Batches], Any]] = {
    "eigenvalues": lambda *a: hessian_eigenvalues(*a, k=2, tolerance=1e-8).values,
    "trace": lambda *a: hessian_trace(*a, samples=4).value,
    "density": lambda *a: spectral_density(*a, lanczos_steps=8, runs=2, points=16).density,
    "keskar": lambda *a: keskar_sharpness(*a, epsilon=0.01, iterations=200),
    "worst": lambda *a: worst_case_sharpness(*a, rho=0.1, m=5, steps=4),
    "average": lambda *a: average_case_sharpness(*a, rho=0.1, samples=3).value,
    "slice": lambda *a: loss_slice(*a, points=3).losses,
    "plane": lambda *a: loss_slice(*a, dimensions=2, points=3).losses,
}


@pytest.fixture(params=list(MEASURES))
def measure(request: pytest.FixtureRequest) -> Callable[[nn.Module, Any, Batches], Any]:
    return MEASURES[request.param]


@cache
def usual(measure: Callable[..., Any], size: int) -> Any:
    """The measure of the tiny network with a mean loss: what several tests compare with."""
    return measure(network(), CE, batches(size))


# -- what holds for every measure ---------------------------------------------------------------------------


def test_leaves_the_model_as_it_was(measure: Callable[..., Any]) -> None:
    model = network(torch.float32).train()
    model[1].eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before, modes = copy.deepcopy(model), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    measure(model, CE, batches(dtype=torch.float32))
    assert [m.training for m in model.modules()] == modes
    for (name, value), (_, wanted) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(value, wanted), name
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_leaves_the_model_as_it_was_when_it_fails(measure: Callable[..., Any]) -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    calls = iter(range(100))

    def fails_late(output: Tensor, target: Tensor) -> Tensor:
        if next(calls) >= 2:
            raise KeyError("late")
        return CE(output, target)

    with pytest.raises(KeyError, match="late"):
        measure(model, fails_late, batches())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_is_the_same_however_the_data_is_cut(measure: Callable[..., Any]) -> None:
    torch.testing.assert_close(usual(measure, 10), usual(measure, 24), rtol=1e-6, atol=1e-8)


def test_takes_a_loss_that_sums(measure: Callable[..., Any]) -> None:
    summed = measure(network(), nn.CrossEntropyLoss(reduction="sum"), batches(10))
    torch.testing.assert_close(summed, usual(measure, 10), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("model", "loss", "data", "message"),
    [
        (network().requires_grad_(False), CE, batches(), "model must have a parameter with requires_grad=True"),
        (network(), nn.CrossEntropyLoss(reduction="none"), batches(), "loss must return a real scalar tensor"),
        (network(), CE, [], "data must have at least one batch"),
        (network(), CE, [torch.ones(3)], "data must be batches of"),
        (network(), CE, [(torch.ones(3, 4), 5)], "a target must have a tensor"),
        (network(torch.bfloat16), CE, batches(dtype=torch.bfloat16), "model must be in float32 or float64"),
        (network(), lambda output, target: CE(output, target) * float("nan"), batches(), "loss must be finite"),
    ],
)
def test_says_what_is_wrong(
    measure: Callable[..., Any], model: nn.Module, loss: Any, data: Batches, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(model, loss, data)


@pytest.mark.parametrize("name", ["eigenvalues", "trace", "density", "keskar", "worst"])
def test_says_that_a_loss_is_not_differentiable(name: str) -> None:
    with pytest.raises(ValueError, match="loss must be differentiable"):
        MEASURES[name](network(), lambda output, target: (output.argmax(1) != target).double().mean(), batches())


class Named(nn.Module):
    """A model of dicts: inputs by name, a loss of two targets, and a buffer that forward replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        self.calls = self.calls + 1
        return self.inner(batch["x"] * batch["mask"])


def two_targets(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    return CE(output, target[0]) + 0 * target[1].sum()


@pytest.mark.parametrize("size", [24, 10])
def test_inputs_and_targets_may_have_parts(measure: Callable[..., Any], size: int) -> None:
    model = Named()
    data = [({"x": x, "mask": torch.ones(len(x), 1)}, (y, torch.zeros(len(y)))) for x, y in batches(size)]
    torch.testing.assert_close(measure(model, two_targets, data), usual(measure, size), rtol=1e-6, atol=1e-8)
    assert model.calls == 0


def test_autocast_sees_the_weights_that_move() -> None:
    model, data = network(torch.float32), batches(dtype=torch.float32)
    plain = loss_slice(model, CE, data, points=3).losses
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_slice(model, CE, data, points=3).losses
        assert worst_case_sharpness(model, CE, data, rho=0.5) > 0.1
    torch.testing.assert_close(cast, plain, rtol=0.05, atol=0)


def test_sharded_models_are_refused(tmp_path: Any) -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = network(torch.float32)
        fully_shard(model)
        with pytest.raises(ValueError, match="model must not be sharded"):
            worst_case_sharpness(model, CE, batches(dtype=torch.float32))
    finally:
        dist.destroy_process_group()


def test_a_loss_that_blows_up_nearby_is_not_called_flat() -> None:
    class Cliff(Quadratic):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * (1.0 - self.w.abs().max()).log()

    assert math.isnan(worst_case_sharpness(Cliff([1.0], [0.5]), itself, QUADRATIC, rho=1.0))


# -- the Hessian ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenpairs_are_those_of_the_dense_hessian(dtype: torch.dtype, tolerance: float, which: str) -> None:
    model, data = network(dtype), batches(17, dtype)
    dense = dense_hessian(model, data).double()
    found = hessian_eigenvalues(model, CE, data, 3, which=which, tolerance=tolerance / 10)
    values = torch.linalg.eigvalsh(dense).flip(0)
    chosen = {"largest": values[:3], "smallest": values[-3:], "magnitude": values[values.abs().argsort()[-3:]]}[which]
    torch.testing.assert_close(
        found.values.double(), chosen.sort(descending=True).values, rtol=tolerance, atol=tolerance
    )
    for value, vector in zip(found.values.double(), found.vectors.double(), strict=True):
        torch.testing.assert_close(dense @ vector, value * vector, rtol=0, atol=30 * tolerance)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert {name: x.shape for name, x in found.vector(0).items()} == shapes


def test_differences_of_gradients_do_too() -> None:
    model, data = network(), batches(7)
    exact = torch.linalg.eigvalsh(dense_hessian(model, data))[-1]
    found = hessian_eigenvalues(model, CE, data, differences=True, tolerance=1e-6)
    torch.testing.assert_close(found.values[0], exact, rtol=1e-4, atol=0)


def test_trace_is_within_its_error_and_exact_on_a_diagonal() -> None:
    model, data = network(), batches()
    exact = float(dense_hessian(model, data).trace())
    found = hessian_trace(model, CE, data, samples=400)
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.standard_error < 0.1 * abs(exact)
    diagonal = hessian_trace(Quadratic([3.0, 1.0, 0.5], [1.0, 2.0, 3.0]), itself, QUADRATIC, samples=2)
    assert diagonal.value == pytest.approx(4.5)
    assert diagonal.standard_error == pytest.approx(0.0, abs=1e-12)


def test_density_integrates_to_one_and_lies_where_the_eigenvalues_do() -> None:
    model, data = network(), batches()
    values = torch.linalg.eigvalsh(dense_hessian(model, data))
    found = spectral_density(model, CE, data, lanczos_steps=16, runs=8)
    assert torch.trapezoid(found.density, found.grid) == pytest.approx(1.0, abs=0.03)
    mean = torch.trapezoid(found.density * found.grid, found.grid)
    assert mean == pytest.approx(float(values.mean()), abs=0.1 * float(values.max()))
    assert found.grid[0] < values[0]
    assert found.grid[-1] > values[-1]
    assert (found.standard_error >= 0).all()


class Once(torch.autograd.Function):
    """An operator with a gradient and no second one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class UsesOnce(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 40, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(self.layer(x))


def test_an_operator_without_a_second_derivative_is_named_with_the_way_out() -> None:
    model, data = UsesOnce(), [(x, x.sum(1)) for x, _ in batches()]
    mse = lambda output, target: output.sum(1).sub(target).square().mean()  # noqa: E731
    with pytest.raises(RuntimeError, match=r"no second derivative .*differences=True"):
        hessian_eigenvalues(model, mse, data)
    assert hessian_eigenvalues(model, mse, data, differences=True).values[0] > 0


@pytest.mark.parametrize("layer", ["attention", "lstm"])
def test_attention_and_recurrence_have_a_way_out(layer: str) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = (
                nn.LSTM(4, 4, batch_first=True)
                if layer == "lstm"
                else nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            )

        def forward(self, x: Tensor) -> Tensor:
            out = self.body(x)
            return (out[0] if layer == "lstm" else out).mean(1)

    data = [(torch.randn(6, 3, 4), torch.randint(0, 4, (6,)))]
    try:
        hessian_eigenvalues(Sequence(), CE, data)
    except RuntimeError as error:
        assert "differences=True" in str(error)  # noqa: PT017
    assert hessian_eigenvalues(Sequence(), CE, data, differences=True, tolerance=1e-2).values.isfinite().all()


def test_the_same_seed_gives_the_same_density() -> None:
    one, two = (spectral_density(network(), CE, batches(), lanczos_steps=8, runs=2) for _ in range(2))
    assert torch.equal(one.density, two.density)
    assert torch.equal(one.grid, two.grid)


def test_refuses_what_cannot_be() -> None:
    arguments = (network(), CE, batches())
    for call, message in (
        (lambda: hessian_eigenvalues(*arguments, k=99), "k must be <= 53"),
        (lambda: hessian_eigenvalues(*arguments, which="middle"), "which must be one of"),
        (lambda: hessian_eigenvalues(*arguments, tolerance=0.0), "tolerance must be > 0"),
        (lambda: hessian_trace(*arguments, samples=1), "samples must be an integer >= 2"),
        (lambda: spectral_density(*arguments, lanczos_steps=53), "lanczos_steps must be < 53"),
        (lambda: keskar_sharpness(*arguments, epsilon=-1.0), "epsilon must be > 0"),
        (lambda: worst_case_sharpness(*arguments, rho=0.0), "rho must be > 0"),
        (lambda: worst_case_sharpness(*arguments, m=0), "m must be an integer >= 1"),
        (lambda: loss_slice(*arguments, dimensions=3), "dimensions must be 1 or 2"),
        (lambda: loss_between(*arguments, {}, {}), "start must be a state dict of this model"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# -- neighbourhoods -------------------------------------------------------------------------------------------


def test_worst_case_on_a_quadratic_is_the_largest_curvature() -> None:
    """At the minimum max ½ δᵀAδ = ½ ρ² λ_max, though the gradient there is 0."""
    model = Quadratic([4.0, 1.0, 0.25], [0.0, 0.0, 0.0])
    found = worst_case_sharpness(model, itself, QUADRATIC, rho=0.3, steps=40)
    assert found == pytest.approx(0.5 * 0.3**2 * 4.0, rel=1e-4)


def test_one_step_is_sams() -> None:
    model, data = network(), batches()
    found = worst_case_sharpness(model, CE, data, rho=0.1, steps=1)
    other = copy.deepcopy(model).eval()
    (x, y) = data[0]
    loss = CE(other(x), y)
    gradient = torch.autograd.grad(loss, list(other.parameters()))
    length = torch.sqrt(sum(g.square().sum() for g in gradient))
    with torch.no_grad():
        for p, g in zip(other.parameters(), gradient, strict=True):
            p.add_(0.1 * g / length)
        assert found == pytest.approx((CE(other(x), y) - loss).item(), rel=1e-9)


def test_m_sharpness_is_a_mean_over_groups() -> None:
    model, data = network(), batches()
    (x, y) = data[0]
    parts = [worst_case_sharpness(model, CE, [(x[i : i + 10], y[i : i + 10])]) for i in (0, 10, 20)]
    expected = (10 * parts[0] + 10 * parts[1] + 4 * parts[2]) / 24
    assert worst_case_sharpness(model, CE, data, m=10) == pytest.approx(expected, rel=1e-9)
    assert worst_case_sharpness(model, CE, data, m=2) > worst_case_sharpness(model, CE, data)


def test_average_case_on_a_quadratic_is_the_trace() -> None:
    """E ½ (w+δ)ᵀA(w+δ) − ½ wᵀAw = ½ ρ² tr A, at any w."""
    model = Quadratic([4.0, 1.0, 0.25], [1.0, -2.0, 3.0])
    found = average_case_sharpness(model, itself, QUADRATIC, rho=0.3, samples=2000)
    assert abs(found.value - 0.5 * 0.09 * 5.25) < 4 * found.standard_error
    assert found.standard_error < 0.01


def test_keskar_on_a_quadratic_is_the_corner_of_the_box() -> None:
    w, a, epsilon = [1.0, -2.0], [4.0, 1.0], 0.05
    found = keskar_sharpness(Quadratic(a, w), itself, QUADRATIC, epsilon=epsilon)
    value = lambda ws: sum(0.5 * k * v * v for k, v in zip(a, ws, strict=True))  # noqa: E731
    corner = [v + (1 if v > 0 else -1) * epsilon * (abs(v) + 1) for v in w]
    assert found == pytest.approx(100 * (value(corner) - value(w)) / (1 + value(w)), rel=1e-6)


@pytest.mark.parametrize(("a", "w"), [(1000.0, 1e-9), (1e-9, 3.0), (1.0, 0.0)])
def test_keskar_does_not_stop_where_numbers_are_small(a: float, w: float) -> None:
    found = keskar_sharpness(Quadratic([a], [w]), itself, QUADRATIC, epsilon=0.01)
    value = 0.5 * a * w * w
    corner = 0.5 * a * (w + 0.01 * (w + 1)) ** 2
    assert found == pytest.approx(100 * (corner - value) / (1 + value), rel=1e-3)


def rescaled(model: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: the rectifier between the two layers passes a factor on."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other[0].parameters():
            p.mul_(factor)
        other[2].weight.div_(factor)
    return other


@pytest.mark.parametrize(
    ("measured", "invariant"),
    [
        (lambda *a, **k: worst_case_sharpness(*a, rho=0.1, **k), 1e-6),
        (lambda *a, **k: average_case_sharpness(*a, rho=0.1, **k).value, 1e-6),
        (lambda *a, **k: keskar_sharpness(*a, epsilon=0.01, iterations=50, **k), 0.02),
    ],
    ids=["worst", "average", "keskar"],
)
def test_adaptive_forms_do_not_see_a_rescaling(measured: Any, invariant: float) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    other, data = rescaled(model, 10.0), batches(7)
    assert measured(other, CE, data, adaptive=True) == pytest.approx(
        measured(model, CE, data, adaptive=True), rel=invariant
    )
    plain = measured(model, CE, data)
    assert abs(measured(other, CE, data) - plain) > 0.2 * plain


# -- slices -----------------------------------------------------------------------------------------------------


def test_a_slice_goes_through_the_weights_and_its_directions_are_filter_normalized() -> None:
    model, data = network(), batches(7)
    one = loss_slice(model, CE, data, span=0.5, points=5)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    assert float(one.losses[2]) == pytest.approx(CE(model.eval()(x), y).item(), rel=1e-9)
    assert one.positions.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]
    # Filter normalization: a network whose filters are twice as long, before a batch norm, has the same slice.
    twice = copy.deepcopy(model)
    with torch.no_grad():
        for p in twice[0].parameters():
            p.mul_(2)
        twice[1].running_mean.mul_(2)
        twice[1].running_var.mul_(4).add_(3 * twice[1].eps)
    torch.testing.assert_close(loss_slice(twice, CE, data, span=0.5, points=5).losses, one.losses, rtol=1e-6, atol=0)
    two = loss_slice(model, CE, data, dimensions=2, span=0.5, points=5)
    torch.testing.assert_close(two.losses[:, 2], one.losses, rtol=1e-9, atol=0)


def test_the_line_between_checkpoints_meets_both() -> None:
    torch.manual_seed(5)
    start = network().state_dict()
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
        model(torch.randn(9, 4, dtype=torch.float64))
    end = copy.deepcopy(model.state_dict())
    line = loss_between(model, CE, batches(7), start, model.state_dict(), points=5, margin=0.5)
    torch.testing.assert_close(
        loss_between(model, CE, batches(7), model.state_dict(), start, points=5, margin=0.5).losses, line.losses.flip(0)
    )
    x, y = (torch.cat(parts) for parts in zip(*batches(7), strict=True))
    assert line.positions.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    for i, state in ((1, start), (3, end)):
        other = network().eval()
        other.load_state_dict(state)
        assert float(line.losses[i]) == pytest.approx(CE(other(x), y).item(), rel=1e-9)
    assert all(torch.equal(value, end[name]) for name, value in model.state_dict().items())


def test_a_convolutional_network_of_the_laboratory() -> None:
    pytest.importorskip("sklearn", reason="the extra 'lab' is not installed")
    from tvlars.lab.models import build_model

    torch.manual_seed(0)
    model, _ = build_model("small_resnet", 1, 8, 10)
    data = [(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,))) for _ in range(2)]
    model = model.double()
    data = [(x.double(), y) for x, y in data]
    top = hessian_eigenvalues(model, CE, data, tolerance=1e-4)
    value, vector = float(top.values[0]), list(top.vector(0).values())
    params = list(model.eval().parameters())
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    gradient = torch.autograd.grad(CE(model(x), y), params, create_graph=True)
    product = torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, vector, strict=True)), params)
    for left, right in zip(product, vector, strict=True):
        torch.testing.assert_close(left, value * right, rtol=0, atol=0.02 * value)
