"""A small problem that every framework can train, and what a plain loop makes of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tvlars import LARS, TVLARS, ScheduleLR, SigmoidSchedule, layer_groups, sigmoid_decay
from tvlars.noise_scale import NoiseScaleMeter
from tvlars.stats import LayerStats

SHAPE = dict(delay_factor=0.4, delay=4)
"""φ of the runs here: steep enough that a clock which counts something else shows at once."""


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def data() -> TensorDataset:
    """64 samples in a fixed order: 8 batches of 8."""
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(64, 8, generator=generator), torch.randint(0, 3, (64,), generator=generator))


def tvlars(module: nn.Module) -> TVLARS:
    return TVLARS(
        layer_groups(module, weight_decay=1e-3, lr=2.0, bias_norm_lr_scale=0.05), 2.0, trust_coefficient=0.02, **SHAPE
    )


def lars(module: nn.Module) -> tuple[LARS, ScheduleLR]:
    """TVLARS again, its φ in a scheduler."""
    optimizer = LARS(
        layer_groups(module, weight_decay=1e-3, lr=2.0, bias_norm_lr_scale=0.05), 2.0, trust_coefficient=0.02
    )
    return optimizer, ScheduleLR(optimizer, SigmoidSchedule(**SHAPE))


def plain_run(
    epochs: int, accumulated: int = 1, change: Callable[[nn.Module], object] = lambda module: None
) -> nn.Module:
    """A loop without any framework; ``change`` is called before each step."""
    module, (x, y) = model(), data().tensors
    optimizer = tvlars(module)
    for _ in range(epochs):
        for i in range(0, 64, 8 * accumulated):
            for j in range(i, i + 8 * accumulated, 8):
                (nn.functional.cross_entropy(module(x[j : j + 8]), y[j : j + 8]) / accumulated).backward()
            change(module)
            optimizer.step()
            optimizer.zero_grad()
    return module


def clock(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["clock"]) for group in optimizer.param_groups]


def assert_close(a: nn.Module, b: nn.Module, tolerance: float = 1e-5) -> None:
    ours: list[Tensor] = list(a.parameters())
    for x, y in zip(ours, b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def measured_run(epochs: int, accumulated: int, every: int = 1) -> tuple[LayerStats, NoiseScaleMeter, list[float]]:
    """A loop without any framework: its layer statistics, its noise scale, and φ of each step."""
    module, (x, y) = model(), data().tensors
    optimizer = tvlars(module)
    stats, meter = LayerStats(optimizer, module, every=every), NoiseScaleMeter(module, 8)
    phi: list[float] = []
    for _ in range(epochs):
        for i in range(0, 64, 8 * accumulated):
            for j in range(i, i + 8 * accumulated, 8):
                (nn.functional.cross_entropy(module(x[j : j + 8]), y[j : j + 8]) / accumulated).backward()
                meter.micro_batch()
            if accumulated > 1 and len(phi) % every == 0:
                meter.step()
            else:
                meter.leave_out()
            optimizer.step()
            optimizer.zero_grad()
            phi.append(sigmoid_decay(len(phi) + 1, **SHAPE))
    return stats, meter, phi
