"""Cost of layer statistics: time of an optimizer step with LayerStats over the time without, in the same rounds.

    python benchmarks/stats_overhead.py

A turn is some steps without, with every step recorded, or with every 10th, the flush of what was recorded included.
Gradients are random and stay as they are. Nothing is written: flushes go to memory.
"""

from __future__ import annotations

from functools import partial

import torch
from harness import asked, options, ratios, spread, timed
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
EVERY = {"none": 0, "every step": 1, "every 10th": 10}


def main() -> None:
    for results, model_name in asked(options(__doc__, ["resnet18", "resnet50"]).parse_args()):
        table = results.table(model_name, steps=STEPS)
        device = "cuda" if results.machine["device"] != "cpu" else "cpu"
        for name, make in OPTIMIZERS.items():
            if results.late or not results.missing(table, name):
                continue
            torch.manual_seed(0)
            model = getattr(models, model_name)().to(device)
            for p in model.parameters():
                p.grad = torch.randn_like(p) * 1e-3
            optimizer = make(model)
            turns = {key: partial(turn, optimizer, model, every) for key, every in EVERY.items()}
            times = results.measure(table, turns, name)
            cells = {"step, ms": spread([1e3 * s / STEPS for s in times["none"]])[0]}
            results.row(table, name, **cells, **{key: ratios(times[key], times["none"]) for key in list(EVERY)[1:]})


def turn(optimizer: torch.optim.Optimizer, model: torch.nn.Module, every: int) -> float:
    """Return the seconds of some steps; statistics of ``every`` so many are recorded, 0: of none."""
    stats = LayerStats(optimizer, model, every=every) if every else None

    def work() -> None:
        for _ in range(STEPS):
            optimizer.step()
        if stats is not None:
            stats.flush()

    seconds = timed(work)
    if stats is not None:
        stats.close()
    return seconds


if __name__ == "__main__":
    main()
