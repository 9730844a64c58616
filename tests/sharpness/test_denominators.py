"""Losses that do not divide by the number of samples: however the same samples are cut, the value is the right one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian

pytest.importorskip("curvlinops", reason="the extra 'sharpness' (curvlinops-for-pytorch) is not installed")

from tvlars.noise_scale import NoiseScaleMeter, noise_scale
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
from tvlars.sharpness._surface import LossSurface

CUTS = {"whole": [20], "even": [4] * 5, "uneven": [7, 7, 6], "single": [1] * 20, "empty": [0, 9, 0, 11]}
WEIGHT = torch.tensor([1.0, 9.0, 0.3], dtype=torch.float64)


def inputs() -> Tensor:
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Sequential:
    """Few enough parameters for a dense Hessian, with a batch norm whose statistics are not those of the data."""
    torch.manual_seed(0)
    layers = nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Dropout(0.5), nn.Linear(2, 3)
    model = nn.Sequential(*layers).double()
    model(3 * torch.randn(50, 4, dtype=torch.float64) + 1)
    return model


CLASSES = torch.arange(20) // 8  # sorted, so that most batches are of one class
IGNORING = CLASSES.clone()
IGNORING[:11] = -100  # whole batches
ZERO_WEIGHT = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
PROBABILITIES = torch.softmax(torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 1)
BITS = (PROBABILITIES > 0.4).double()


def log_softmax_nll(output: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(output, 1), target)


class Around(nn.Module):
    """A loss in another one, without an attribute that says what it does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.inner(output, target)


class Focal(nn.CrossEntropyLoss):
    """A subclass that divides by something else than its parent."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(output, target, self.weight, reduction="none")
        return ((1 - torch.exp(-each)) ** 2 * each).mean()


def changed(how: str) -> nn.Module:
    """A loss of torch that computes another one."""
    loss, other = nn.CrossEntropyLoss(WEIGHT), Focal(weight=WEIGHT)
    if how == "instance":
        loss.forward = other.forward  # type: ignore[method-assign]
    else:
        loss.register_forward_hook(lambda module, arguments, output: other(*arguments))
    return loss


class Lying:
    """A mean that is called a sum."""

    reduction = "sum"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)


class LogSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.inner(x), 1)


LOSSES: dict[str, tuple[Any, Tensor]] = {
    "mean": (nn.CrossEntropyLoss(), CLASSES),
    "weight": (nn.CrossEntropyLoss(weight=WEIGHT), CLASSES),
    "weight 0": (nn.CrossEntropyLoss(weight=ZERO_WEIGHT), CLASSES),
    "ignored": (nn.CrossEntropyLoss(), IGNORING),
    "ignored class": (nn.CrossEntropyLoss(ignore_index=0), CLASSES),
    "all of it": (nn.CrossEntropyLoss(WEIGHT, ignore_index=1, label_smoothing=0.2), CLASSES),
    "probabilities": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), PROBABILITIES),
    "the function": (F.cross_entropy, IGNORING),
    "partial": (functools.partial(F.cross_entropy, weight=WEIGHT), CLASSES),
    "partial of partial": (
        functools.partial(functools.partial(F.cross_entropy, weight=WEIGHT), ignore_index=2),
        CLASSES,
    ),
    "bits": (nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=2 * WEIGHT), BITS),
    "partial of bits": (functools.partial(F.binary_cross_entropy_with_logits, pos_weight=WEIGHT), BITS),
    "squares": (nn.MSELoss(), PROBABILITIES),
    "squares by a function": (F.mse_loss, PROBABILITIES),
    "batch mean": (nn.KLDivLoss(reduction="batchmean"), PROBABILITIES),
    "several labels": (nn.MultiLabelSoftMarginLoss(weight=WEIGHT), BITS),
    "own mean": (log_softmax_nll, CLASSES),
    "module around": (Around(nn.CrossEntropyLoss()), CLASSES),
    "subclass": (Focal(weight=WEIGHT), CLASSES),
    "changed instance": (changed("instance"), CLASSES),
    "hook": (changed("hook"), CLASSES),
    "mean called a sum": (Lying(), CLASSES),
}
SUMS: dict[str, tuple[Any, Tensor]] = {
    "sum": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "weighted sum": (nn.CrossEntropyLoss(WEIGHT, reduction="sum"), CLASSES),
    "sum of squares": (nn.MSELoss(reduction="sum"), PROBABILITIES),
    "partial sum": (functools.partial(F.cross_entropy, reduction="sum"), IGNORING),
    "old partial sum": (functools.partial(F.cross_entropy, size_average=False), CLASSES),
    "lambda sum": (lambda output, target: F.cross_entropy(output, target, reduction="sum"), CLASSES),
    "lambda weighted sum": (lambda output, target: F.cross_entropy(output, target, WEIGHT, reduction="sum"), CLASSES),
    "module around a sum": (Around(nn.CrossEntropyLoss(reduction="sum")), CLASSES),
    "partial of a module": (functools.partial(nn.CrossEntropyLoss(reduction="sum")), CLASSES),
}
BOTH = {**LOSSES, **SUMS}


def cut(name: str, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs().split(CUTS[name]), y.split(CUTS[name]), strict=True))


def truth(name: str) -> Callable[[Tensor], Tensor]:
    """The loss of all samples in one batch as a function of all parameters; a sum is divided by their number."""
    loss, y = BOTH[name]
    model, x = network().eval(), inputs()
    names, values = zip(*model.named_parameters(), strict=True)

    def of(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [v.numel() for v in values])
        params = {n: part.view_as(v) for n, part, v in zip(names, parts, values, strict=True)}
        return loss(functional_call(model, params, (x,)), y) / (20 if name in SUMS else 1)

    return of


def weights() -> Tensor:
    return torch.cat([p.detach().flatten() for p in network().parameters()])


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize("name", BOTH)
def test_value_gradient_and_curvature_are_those_of_all_samples_in_one_batch(name: str) -> None:
    loss, y = BOTH[name]
    of, at = truth(name), weights()
    value, slope, dense = of(at), torch.func.grad(of)(at), hessian(of)(at)
    for cutting in CUTS:
        with LossSurface(network(), loss, cut(cutting, y)) as surface:
            found, gradient = surface.gradient()
            assert surface.value() == pytest.approx(float(value), rel=1e-12)
        assert found == pytest.approx(float(value), rel=1e-12)
        torch.testing.assert_close(torch.cat([g.flatten() for g in gradient]), slope, rtol=1e-9, atol=1e-12)
    top = hessian_eigenvalues(network(), loss, cut("uneven", y), k=2).values
    torch.testing.assert_close(top, torch.linalg.eigvalsh(dense).flip(0)[:2], rtol=1e-8, atol=1e-10)


MEASURES: dict[str, Callable[..., Any]] = {
    "trace": lambda *a: hessian_trace(*a, samples=2).value,
    "differences": lambda *a: hessian_eigenvalues(*a, differences=True).values,
    "density": lambda *a: spectral_density(*a, lanczos_steps=6, runs=2, points=8).density,
    "keskar": lambda *a: keskar_sharpness(*a, epsilon=0.01, iterations=20),
    "worst": lambda *a: worst_case_sharpness(*a, rho=0.1, steps=3),
    "worst in groups": lambda *a: worst_case_sharpness(*a, rho=0.1, m=6, steps=2),
    "average": lambda *a: average_case_sharpness(*a, rho=0.1, samples=2).value,
    "slice": lambda *a: loss_slice(*a, points=3).losses,
    "between": lambda *a: loss_between(*a, a[0].state_dict(), other_state(), points=3).losses,
}


def other_state() -> dict[str, Tensor]:
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    return model.state_dict()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["weight", "ignored", "weighted sum", "own mean"])
def test_no_measure_depends_on_the_cut(measure: str, name: str) -> None:
    if measure == "density" and name != "weight":
        pytest.skip("slow, and the same operator as the trace's")
    loss, y = BOTH[name]
    whole, other = (MEASURES[measure](network(), loss, cut(cutting, y)) for cutting in ("whole", "empty"))
    torch.testing.assert_close(other, whole, rtol=1e-6, atol=1e-8)


def test_elements_of_samples_of_several_sizes_count_alike() -> None:
    model = nn.Conv1d(1, 1, 3, padding=1).double()
    data = [(torch.randn(2, 1, n, dtype=torch.float64), torch.randn(2, 1, n, dtype=torch.float64)) for n in (4, 9)]
    squares = sum((model(x) - y).square().sum().item() for x, y in data)
    with LossSurface(model, nn.MSELoss(), data) as surface:
        assert surface.value() == pytest.approx(squares / (2 * 4 + 2 * 9), rel=1e-12)


def test_probabilities_of_samples_of_several_sizes_count_by_places() -> None:
    model = nn.Conv1d(1, 3, 3, padding=1).double()
    data = [(torch.randn(2, 1, n).double(), torch.softmax(torch.randn(2, 3, n).double(), 1)) for n in (4, 9)]
    losses = [F.cross_entropy(model(x), y).item() for x, y in data]
    with LossSurface(model, nn.CrossEntropyLoss(), data) as surface:
        assert surface.value() == pytest.approx((4 * losses[0] + 9 * losses[1]) / 13, rel=1e-12)


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, weight=WEIGHT)


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    z = F.normalize(output)
    return F.cross_entropy(5 * z @ z.T, torch.arange(len(z)))


def masked(output: Tensor, target: Tensor) -> Tensor:
    return (F.cross_entropy(output, target, reduction="none") * (target > 0)).sum() / (target > 0).sum().clamp(min=1)


def unbiased(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum") / (len(target) - 1)


def neighbours(output: Tensor, target: Tensor) -> Tensor:
    return (output - output.roll(1, 0)).square().mean()


@pytest.mark.parametrize("loss", [weighted, contrastive, masked, unbiased, neighbours])
@pytest.mark.parametrize("cutting", ["whole", "even", "single"])
@pytest.mark.parametrize("measure", ["differences", "worst", "noise"])
def test_what_is_neither_a_mean_nor_a_sum_is_refused(loss: Any, cutting: str, measure: str) -> None:
    if loss is unbiased and cutting == "single":
        pytest.skip("it is not finite for one sample")
    measured = noise_scale if measure == "noise" else MEASURES[measure]
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="loss must be a mean over the samples of a batch, or their sum") as caught:
        measured(model, loss, cut(cutting, CLASSES))
    assert "\n" not in str(caught.value)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_outputs_and_targets_that_are_spread_over_each_other_are_refused(reduction: str) -> None:
    """(n, 1) and (n,) meet as (n, n): each sample with every other one of its batch."""
    x, y = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    model = nn.Linear(2, 1).double()
    for cutting in (9, 4):
        with pytest.raises(ValueError, match="loss must be a mean over the samples"):
            worst_case_sharpness(
                model, nn.MSELoss(reduction=reduction), list(zip(x.split(cutting), y.split(cutting), strict=True))
            )
    wide = nn.Linear(2, 3).double()  # one target for three outputs of the same sample
    values = [
        worst_case_sharpness(wide, nn.MSELoss(), list(zip(x.split(size), y[:, None].split(size), strict=True)))
        for size in (9, 4)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_a_method_of_a_loss_is_that_loss() -> None:
    loss = nn.CrossEntropyLoss(weight=WEIGHT)
    for method in (loss.forward, loss.__call__):
        found = worst_case_sharpness(network(), method, cut("uneven", CLASSES))
        assert found == pytest.approx(worst_case_sharpness(network(), loss, cut("whole", CLASSES)), rel=1e-9)


def test_keskars_metric_wants_a_loss_above_minus_1() -> None:
    with pytest.raises(ValueError, match="loss must be > -1 for this metric"):
        keskar_sharpness(network(), lambda o, t: F.cross_entropy(o, t) - 9, cut("even", CLASSES))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_noise_of_huge_and_tiny_gradients(scale: float) -> None:
    data = [(x.float(), y) for x, y in draws(0)]
    plain = noise_scale(Mean().float(), CE, data)
    assert noise_scale(Mean().float(), lambda o, t: scale * CE(o, t), data).value == pytest.approx(
        plain.value, rel=1e-3
    )


def test_a_loss_that_masks_whole_batches_alike_is_refused_too() -> None:
    """Within each batch it looks like a mean over samples: all have as many elements that count."""

    def of_tokens(output: Tensor, target: Tensor) -> Tensor:
        return (output * target).sum() / target.sum()

    masks = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.float64).repeat_interleave(4, 0)
    x = torch.randn(8, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="loss must be a mean"):
        worst_case_sharpness(nn.Linear(4, 4).double(), of_tokens, list(zip(x.split(4), masks.split(4), strict=True)))
    data = [(torch.randn(2, n, 4), torch.randn(2, n, 4)) for n in (3, 5)]
    with pytest.raises(ValueError, match=r"cannot be joined: samples of shapes \(3, 4\) and \(5, 4\)"):
        worst_case_sharpness(nn.Linear(4, 4), lambda output, target: (output - target).square().mean(), data)


class Model(nn.Module):
    """A model that computes its loss itself, as those of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self.inner(batch["x"])
        return {"output": output, "loss": F.cross_entropy(output, batch["y"])}


def test_a_loss_that_the_model_computes_is_checked_by_its_inputs() -> None:
    def its_own(output: dict[str, Tensor], target: Tensor) -> Tensor:
        return output["loss"]

    values = []
    for cutting in ("whole", "uneven"):
        data = [({"x": x, "y": y}, y) for x, y in cut(cutting, CLASSES)]
        values.append(worst_case_sharpness(Model(), its_own, data))
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    ignoring = [({"x": x, "y": y}, y) for x, y in cut("whole", IGNORING.clone().roll(3))]
    with pytest.raises(ValueError, match="loss must be a mean"):
        worst_case_sharpness(Model(), its_own, ignoring)


def test_a_loss_of_0_is_told_to_be_a_sum_beside_the_weights() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    x = torch.randn(12, 2, dtype=torch.float64)
    y = model(x).detach()
    exact = 2 * torch.linalg.eigvalsh(x.T @ x / 12)[-1]
    for loss in (nn.MSELoss(), lambda o, t: (o - t).square().sum(), lambda o, t: (o - t).square().mean()):
        found = hessian_eigenvalues(model, loss, list(zip(x.split(5), y.split(5), strict=True))).values[0]
        torch.testing.assert_close(found, exact)
    with pytest.raises(ValueError, match="loss must not be 0 for every sample"):
        worst_case_sharpness(model, lambda o, t: (0 * o).sum(), [(x, y)])


def test_float32_losses_of_many_samples_are_no_false_alarm() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3000, 4), torch.randint(0, 3, (3000,))
    model = network().float()
    for loss in (log_softmax_nll, SUMS["lambda sum"][0]):
        with LossSurface(model, loss, list(zip(x.split(700), y.split(700), strict=True))) as surface:
            assert surface.value() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


def test_a_loss_with_dropout_and_statistics_of_its_own_is_in_evaluation_mode_and_left_as_it_was() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(3).double(), nn.Dropout(0.5)

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(self.drop(self.norm(output)), target)

    loss = Centred()
    first, second = (average_case_sharpness(network(), loss, cut(c, CLASSES)).value for c in ("whole", "uneven"))
    assert first == pytest.approx(second, rel=1e-9)
    assert loss.drop.training
    assert loss.norm.num_batches_tracked == 0


def noisy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output + torch.randn_like(output), target)


def complex_model() -> nn.Module:
    return nn.Linear(4, 3, dtype=torch.complex128)


def unnormalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()


CE = nn.CrossEntropyLoss()
DATA = cut("even", CLASSES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (network(), noisy, DATA), "loss must be deterministic"),
        (lambda: (complex_model(), CE, DATA), "model must have real parameters, got 'weight' in torch.complex128"),
        (lambda: (unnormalized(), CE, DATA), "model must compute each sample alone in evaluation mode, but 1 has no"),
        (lambda: (network(), CE, [(x, y.fill_(-100)) for x, y in cut("even", CLASSES.clone())]), "of 20 all are ign"),
        (lambda: (network(), CE, cut("empty", CLASSES)[:1]), "of 0 all are ignored"),
        (lambda: (CE, network(), DATA), "model must have a parameter"),
        (lambda: (lambda x: x, CE, DATA), "model must be a torch.nn.Module, got function"),
        (lambda: (network(), None, DATA), "loss must be a function of"),
        (lambda: (network(), CE, 5), "data must be batches of .*, got int"),
        (lambda: (network(), CE, {"x": inputs()}), "data must be batches of .*, got dict"),
        (lambda: (network(), CE, DATA[0]), "data must be batches of .* a batch of type Tensor"),
        (lambda: (network(), CE, [(*DATA[0], 1)]), "data must be batches of .* a batch of 3 parts"),
        (lambda: (network(), CE, [{"x": 1, "y": 2}]), "data must be batches of .* a batch of type dict"),
        (lambda: (network(), CE, [(inputs()[0], 1)]), "a target must have a tensor with one entry per sample, got int"),
        (lambda: (network(), CE, iter(())), "data must have at least one batch"),
        (lambda: (network(), lambda o, t: o.sum().to(torch.complex64), DATA), "loss must return a real scalar tensor"),
    ],
)
@pytest.mark.parametrize("measure", ["worst", "noise"])
def test_bad_input_is_one_sentence(arguments: Callable[[], Any], message: str, measure: str) -> None:
    with pytest.raises(ValueError, match=message):
        (noise_scale if measure == "noise" else MEASURES[measure])(*arguments())


# -- the noise scale ----------------------------------------------------------------------------------------------


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def draws(seed: int, samples: int = 1024) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, generator=generator, dtype=torch.float64) + 0.4
    y = torch.randint(0, 3, (samples,), generator=generator)
    return list(zip(x.split(32), y.split(32), strict=True))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(weight=WEIGHT), nn.CrossEntropyLoss(ignore_index=1)])
def test_the_noise_of_a_weighted_loss_is_that_of_its_batches(loss: Any) -> None:
    """tr(Σ) / B is how far the gradient of a batch of B samples lies from the true one, on average."""
    found = [noise_scale(Mean(), loss, draws(seed)) for seed in range(30)]
    model, squares = Mean(), []
    x, y = (torch.cat(parts) for parts in zip(*draws(999, 40_000), strict=True))
    truth = torch.autograd.grad(loss(model(x), y), model.w)[0]
    for i in range(0, 40_000, 100):
        gradient = torch.autograd.grad(loss(model(x[i : i + 100]), y[i : i + 100]), model.w)[0]
        squares.append(float((gradient - truth).square().sum()))
    assert sum(n.trace for n in found) / 30 == pytest.approx(100 * sum(squares) / len(squares), rel=0.1)
    mean = sum(n.gradient_square for n in found) / 30
    assert mean == pytest.approx(float(truth.square().sum()), rel=0.25, abs=0.01)


def test_the_noise_of_sums_and_of_batches_without_targets() -> None:
    data = draws(0)
    mean = noise_scale(Mean(), nn.CrossEntropyLoss(), data)
    for loss in (functools.partial(F.cross_entropy, reduction="sum"), SUMS["lambda sum"][0], Around(CE)):
        assert noise_scale(Mean(), loss, data).trace == pytest.approx(mean.trace, rel=1e-9)
    ignoring = [(x, torch.full_like(y, -100) if i % 4 == 0 else y) for i, (x, y) in enumerate(data)]
    assert 0 < noise_scale(Mean(), nn.CrossEntropyLoss(), ignoring).trace < 10 * mean.trace
    with pytest.raises(ValueError, match="data must have a target that counts"):
        noise_scale(Mean(), CE, [(x, torch.full_like(y, -100)) for x, y in data])


def test_the_meter_counts_real_and_imaginary_part() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False, dtype=torch.complex64)
    meter = NoiseScaleMeter(model, 4)
    gradients = torch.randn(3, 1, 3, dtype=torch.complex64)
    for gradient in gradients:
        model.weight.grad = gradient.clone() if model.weight.grad is None else model.weight.grad + gradient
        meter.micro_batch()
    meter.step()
    plain = nn.Linear(6, 1, bias=False)
    other = NoiseScaleMeter(plain, 4)
    for gradient in torch.view_as_real(gradients).reshape(3, 1, 6):
        plain.weight.grad = gradient.clone() if plain.weight.grad is None else plain.weight.grad + gradient
        other.micro_batch()
    other.step()
    meters = [meter.result().trace, meter.result().gradient_square]
    assert meters == pytest.approx([other.result().trace, other.result().gradient_square], rel=1e-5)
