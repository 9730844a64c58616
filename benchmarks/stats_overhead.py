"""Cost of layer statistics: time of an optimizer step with LayerStats over the time without, in one run.

    python benchmarks/stats_overhead.py

Each round times some steps without, with every step recorded and with every 10th, in turn, the flush of what was
recorded included; medians over rounds and their quartiles are printed. Gradients are random and stay as they are.
Nothing is written: flushes go to memory.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torchvision import models

from tvlars import LAMB, LARS, TVLARS, layer_groups
from tvlars.stats import LayerStats

OPTIMIZERS = {
    "tvlars": lambda m: TVLARS(
        layer_groups(m, weight_decay=1e-4, lr=8.0, bias_norm_lr_scale=0.03), 8.0, total_steps=1000
    ),
    "lars": lambda m: LARS(layer_groups(m, weight_decay=1e-4, lr=8.0, bias_norm_lr_scale=0.03), 8.0),
    "lamb": lambda m: LAMB(layer_groups(m, weight_decay=1e-2, lr=1e-3), 1e-3),
    "torch sgd": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, fused=True),
}
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], help="of torchvision")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    print("| model | optimizer | step, ms | every step | every 10th |\n|---|---|---|---|---|")
    for name in arguments.models:
        for optimizer in OPTIMIZERS:
            print(f"| {name} | {optimizer} | {row(name, optimizer, arguments.rounds, arguments.device)} |", flush=True)


def row(name: str, optimizer_name: str, rounds: int, device: str) -> str:
    """The cells of one model and optimizer."""
    torch.manual_seed(0)
    model = getattr(models, name)().to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    optimizer = OPTIMIZERS[optimizer_name](model)
    times: dict[int, list[float]] = {0: [], 1: [], 10: []}
    for number in range(rounds + 1):
        for every, found in times.items():
            stats = LayerStats(optimizer, model, every=every) if every else None
            seconds = timed(optimizer, device, stats)
            if stats is not None:
                stats.close()
            if number:  # the first round warms up
                found.append(seconds)
    base = statistics.median(times[0])
    return f"{1e3 * base / STEPS:.2f} | " + " | ".join(ratio(times[every], times[0]) for every in (1, 10))


def timed(optimizer: torch.optim.Optimizer, device: str, stats: LayerStats | None) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        optimizer.step()
    if stats is not None:
        stats.flush()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(some: list[float], base: list[float]) -> str:
    """Median of the rounds' ratios with their quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(some, base, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
