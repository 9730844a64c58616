"""Statistics of batch norm estimated anew, and weights whose scale has no effect."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.sharpness import at_norms, fresh_statistics, hessian_eigenvalues, scale_invariant_weights


def network(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(4)] if norm else []
    layers = [nn.Conv2d(1, 4, 3), *between, nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 16, 3)]
    return nn.Sequential(*layers)


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 1, 6, 6, generator=generator), torch.randint(3, (16,), generator=generator))
        for _ in range(count)
    ]


def test_fresh_statistics_are_the_means_over_batches_and_leave_no_trace() -> None:
    model, data = network(), batches()
    model[1].momentum = 0.3
    model.eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    outputs = [model[0](x) for x, _ in data]
    mean = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variance = torch.stack([y.transpose(0, 1).flatten(1).var(1) for y in outputs]).mean(0)
    with fresh_statistics(model, iter(data)) as inside:
        assert inside is model
        assert not model[1].training
        torch.testing.assert_close(model[1].running_mean, mean)
        torch.testing.assert_close(model[1].running_var, variance)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.3
    assert torch.equal(torch.get_rng_state(), random)


def test_a_forward_pass_that_fails_leaves_no_trace_either() -> None:
    model = network().train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError), fresh_statistics(model, [torch.randn(2, 1, 6, 6), torch.randn(2, 5, 6, 6)]):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model[1].training, model[1].momentum) == (True, False, 0.1)


def test_without_batch_norm_nothing_happens_and_with_it_batches_are_needed() -> None:
    def unread() -> Tensor:
        raise AssertionError("read")
        yield

    with fresh_statistics(network(norm=False), unread()):
        pass
    with pytest.raises(ValueError, match="batches must hold at least one batch"), fresh_statistics(network(), []):
        pass


class Residual(nn.Module):
    """A branch that starts at zero, and a convolution with bias whose output meets another before batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.gamma = nn.Parameter(torch.zeros(4, 1, 1).flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head((x + self.gamma.view(4, 1, 1) * self.branch(x)).mean((2, 3)))


def test_weights_whose_scale_has_no_effect_are_found_by_trial() -> None:
    assert scale_invariant_weights(network(), batches()) == ["0.weight"]
    assert scale_invariant_weights(network(norm=False), batches()) == []
    assert scale_invariant_weights(Residual(), batches()) == ["stem.weight"]
    layer_norm = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8), nn.Linear(8, 3))
    assert scale_invariant_weights(layer_norm, [torch.randn(16, 6)]) == ["0.weight"]


def test_scaled_weights_have_the_same_loss_and_curvature_by_the_square_of_their_scale() -> None:
    pytest.importorskip("curvlinops")
    model, data = network().double().eval(), [(x.double(), y) for x, y in batches()]
    for p in [*model[1].parameters(), *model[-1].parameters()]:
        p.requires_grad_(False)  # the kernel is left, whose bias batch norm takes away
    model[0].bias.requires_grad_(False)
    model[1].eps = 1e-12
    before = model[0].weight.detach().clone()
    norm = float(before.norm())

    def measured(scale: float) -> tuple[float, float]:
        with at_norms(model, {"0.weight": norm * scale}), fresh_statistics(model, data):
            loss = sum(float(F.cross_entropy(model(x), y).detach()) for x, y in data) / len(data)
            top = hessian_eigenvalues(model, F.cross_entropy, data, tolerance=1e-8)
        return loss, float(top.values[0])

    (loss, top), (other_loss, other_top) = measured(1.0), measured(3.0)
    # Dropout acts while statistics are estimated, but after this batch norm.
    assert other_loss == pytest.approx(loss, rel=1e-9)
    assert other_top == pytest.approx(top / 9, rel=1e-6)
    assert torch.equal(model[0].weight, before)
    with (
        pytest.raises(ValueError, match=r"norms must name parameters of the model, got 'x'"),
        at_norms(model, {"x": 1}),
    ):
        pass
    with pytest.raises(ValueError, match=r"norms\['0.weight'\] must be > 0"), at_norms(model, {"0.weight": 0}):
        pass
