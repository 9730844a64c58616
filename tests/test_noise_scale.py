"""The gradient noise scale: on linear models whose Σ and G are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvlars import plan
from tvlars.noise_scale import NoiseScale, NoiseScaleMeter, _student, from_two_batch_sizes, noise_scale

G = torch.tensor([0.3, -0.2, 0.1, 0.05], dtype=torch.float64)
SIGMA = torch.tensor([1.0, 2.0, 0.5, 0.1], dtype=torch.float64)
"""Standard deviations of a sample's gradient in each direction."""
TRUE = float(SIGMA.square().sum() / G.square().sum())


class Linear(nn.Module):
    """Output w·x; with the mean output as the loss a sample's gradient is its x: N(G, diag σ²), at any w."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] @ self.first + x[:, 2:] @ self.second


def mean(output: Tensor, target: Tensor) -> Tensor:
    return output.mean()


def draw(seed: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return G + SIGMA * torch.randn(samples, 4, generator=generator, dtype=torch.float64)


def micro_batches(seed: int, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.zeros(size)) for x in draw(seed, count * size).split(size)]


def measured(seed: int, count: int = 32) -> NoiseScale:
    """A loss of torch.nn spares the search for its denominator; at w = 0 the gradient of (w·x + ½)² is x too."""
    return noise_scale(Linear(), nn.MSELoss(), [(x, y - 0.5) for x, y in micro_batches(seed, count, 8)])


def metered(seed: int, steps: int = 40, smoothing: float = 0.97) -> NoiseScale:
    model = Linear()
    meter = NoiseScaleMeter(model, 8, smoothing=smoothing)
    for step in range(steps):
        model.zero_grad()
        for x, y in micro_batches(1000 * seed + step, 4, 8):
            (mean(model(x), y) / 4).backward()
            meter.micro_batch()
        meter.step()
    return meter.result()


@pytest.mark.slow
@pytest.mark.parametrize("estimate", [measured, metered])
def test_intervals_hold_the_truth_as_often_as_they_say(estimate: Callable[[int], NoiseScale]) -> None:
    """95 %: of 200 intervals 190 are to be expected, and fewer than 180 are not to be seen by chance."""
    found = [estimate(seed) for seed in range(200)]
    assert sum(n.low <= TRUE <= n.high for n in found) >= 180
    assert all(n.low <= n.value <= n.high for n in found)
    trace, square = (sum(getattr(n, name) for n in found) / 200 for name in ("trace", "gradient_square"))
    assert trace == pytest.approx(float(SIGMA.square().sum()), rel=0.02)
    assert square == pytest.approx(float(G.square().sum()), rel=0.1)


def test_layers_are_measured_alone_and_add_up() -> None:
    found = measured(0, 2000)
    assert found.value == pytest.approx(TRUE, rel=0.1)
    for name, part in (("first", slice(0, 2)), ("second", slice(2, 4))):
        expected = float(SIGMA[part].square().sum() / G[part].square().sum())
        assert found.layers[name].value == pytest.approx(expected, rel=0.2)
    for quantity in ("trace", "gradient_square"):
        parts = sum(getattr(layer, quantity) for layer in found.layers.values())
        assert getattr(found, quantity) == pytest.approx(parts)


def test_is_the_formula() -> None:
    batches = micro_batches(3, 6, 5)
    g = torch.stack([x.mean(0) for x, _ in batches])
    inner = g @ g.T
    square = float(inner.sum() - inner.trace()) / 30
    trace = 5 * float((g - g.mean(0)).square().sum()) / 5
    found = noise_scale(Linear(), mean, [*batches, (draw(9, 2), torch.zeros(2))])  # the short one is skipped
    assert found.gradient_square == pytest.approx(square)
    assert found.trace == pytest.approx(trace)
    meter = NoiseScaleMeter(model := Linear(), 5)
    for x, y in batches:
        (mean(model(x), y) / 6).backward()
        meter.micro_batch()
    meter.step()
    assert meter.result().gradient_square == pytest.approx(square)
    assert meter.result().trace == pytest.approx(trace)
    assert math.isnan(meter.result().low)
    big, small = float(g.mean(0).square().sum()), float(g.square().sum(1).mean())
    assert from_two_batch_sizes(small, 5, big, 30) == pytest.approx((trace, square))


def test_a_gradient_that_cannot_be_told_from_noise_has_no_upper_bound() -> None:
    batches = [(x - G, y) for x, y in micro_batches(1, 32, 8)]
    found = noise_scale(Linear(), mean, batches)
    assert found.high == math.inf
    assert "infinitely many" in str(found)
    still = noise_scale(Linear(), mean, [(G.repeat(4, 1), torch.zeros(4))] * 4)
    assert still.value == pytest.approx(0.0, abs=1e-12)
    assert still.high == pytest.approx(0.0, abs=1e-12)


def test_steps_that_overflow_are_left_out_and_scaled_ones_are_unscaled() -> None:
    model = Linear()
    plain, scaled = NoiseScaleMeter(model, 8), NoiseScaleMeter(model, 8)
    for step in range(4):
        for meter, scale in ((plain, 1.0), (scaled, 2.0 ** (step + 3))):
            model.zero_grad()
            for x, y in micro_batches(step, 4, 8):
                loss = mean(model(x), y) / 4 * scale
                (loss * (float("inf") if step == 1 else 1.0)).backward()
                meter.micro_batch()
            meter.step(scale=scale)
    assert scaled.result().value == pytest.approx(plain.result().value)
    assert math.isfinite(plain.result().low)


def test_dropout_draws_the_same_in_both_passes() -> None:
    class Dropped(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x, 0.5, self.training))

    random = torch.get_rng_state()
    found = noise_scale(Dropped(), mean, micro_batches(4, 64, 8), training=True)
    assert torch.equal(torch.get_rng_state(), random)
    # A mask that keeps half and doubles it leaves G as it is, and adds its own variance: σ² + (σ² + G²).
    expected = float((2 * SIGMA.square() + G.square()).sum() / G.square().sum())
    assert found.low < expected < found.high


def test_a_summed_loss_and_batch_norm_in_training_mode() -> None:
    class Sum:
        reduction = "sum"

        def __call__(self, output: Tensor, target: Tensor) -> Tensor:
            return output.sum()

    batches = micro_batches(2, 8, 5)
    assert noise_scale(Linear(), Sum(), batches).trace == pytest.approx(noise_scale(Linear(), mean, batches).trace)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = [(x.float(), torch.randint(0, 2, (5,))) for x, _ in batches]
    results = [noise_scale(model, nn.CrossEntropyLoss(), data, training=mode) for mode in (False, True)]
    assert results[0].value != results[1].value
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_scale(Linear(), mean, micro_batches(0, 3, 8)), "data must be at least 4 micro-batches"),
        (lambda: noise_scale(Linear(), mean, [*micro_batches(0, 4, 8), *micro_batches(0, 4, 4)]), "got 8, 8, 8, 8, 4"),
        (lambda: noise_scale(Linear().requires_grad_(False), mean, micro_batches(0, 4, 8)), "requires_grad=True"),
        (lambda: from_two_batch_sizes(1.0, 8, 1.0, 8), r"small must be < big \(8\)"),
        (lambda: NoiseScaleMeter(Linear(), 0), "micro_batch_size must be an integer >= 1"),
        (lambda: NoiseScaleMeter(Linear(), 8, smoothing=1.0), "smoothing must be >= 0 and < 1"),
        (lambda: NoiseScaleMeter(Linear(), 8).step(), "at least 2 micro-batches"),
        (lambda: NoiseScaleMeter(Linear(), 8).result(), "no step has been measured"),
        (lambda: plan(512, 5120, 20, noise_scale=-1.0), "noise_scale must be >= 0"),
    ],
)
def test_says_what_is_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_student() -> None:
    for degrees, expected in ((4, 2.776), (10, 2.228), (31, 2.040), (1000, 1.962)):
        assert _student(degrees) == pytest.approx(expected, rel=0.01)


def test_the_plan_says_what_it_means() -> None:
    noise = NoiseScale(512.0, 400.0, 700.0, 1.0, 1.0)
    assert (noise.steps_factor(8192), noise.samples_factor(8192)) == (1.0625, 17.0)
    large = " ".join(str(plan(8192, 60_000, 15, noise_scale=noise)).split())
    assert "B_simple = 512 samples: this batch needs 1.06 x the fewest steps and 17 x the fewest samples" in large
    assert "5,120 samples per step would need at most 1.1 x the fewest steps too" in large
    small = str(plan(512, 60_000, 15, noise_scale=10_000))
    assert "twice the batch needs about half of the steps" in small
    assert "noise" not in str(plan(512, 60_000, 15))
    assert plan(512, 60_000, 15, noise_scale=10_000).lr == plan(512, 60_000, 15).lr
    assert "pure noise" in str(plan(512, 60_000, 15, noise_scale=math.inf))
