"""Training of a layer that starts at zero, by the rule for ‖w‖ = 0 and by the scale of its gradients.

    python benchmarks/zero_layers.py

A network on digits, the weights of whose last layer are 0, takes 200 steps of 256 samples at the rate and schedule that
``tvlars.plan`` gives for batches of 4,096, without weight decay, once for each rule and factor on the gradients of
adapted layers (which leaves LARS as it is, but for the step in which ‖w‖ = 0).
Rules: ‖w‖ counts as 1 (ours), q = η (SGD's step at lr η), and q = 1 (as published). Prints a table in Markdown of
the highest and the last training loss, which is log 10 = 2.30 in the beginning; seed 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tvlars import LARS, TVLARS, layer_groups, plan

STEPS, BATCH_SIZE, ETA = 200, 256, 1e-3
RULES = ("‖w‖ counts as 1", "q = η", "q = 1")


def losses(name: str, rule: str, factor: float, images: Tensor, labels: Tensor) -> list[float]:
    """Return the training loss of every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    nn.init.zeros_(model[4].weight)
    run = plan(4096, 4096 * 10, STEPS // 10, name, weight_decay=0.0)
    groups: list[dict[str, Any]] = layer_groups(model, run)
    if rule == "q = η":  # the head is not adapted in its first step, with lr η
        rest = [p for p in groups[0]["params"] if p is not model[4].weight]
        groups[0] = {"params": rest, "weight_decay": run.weight_decay, "lr": run.lr, "layer_adaptation": True}
        groups = [{key: group[key] for key in group if key != "param_names"} for group in groups]
        head = {"params": [model[4].weight], "weight_decay": run.weight_decay, "lr": run.lr * ETA}
        groups.append({**head, "layer_adaptation": False})
    cls = {"lars": LARS, "tvlars": TVLARS}[name]
    optimizer = cls(groups, **run.optimizer_arguments(), unit_ratio_at_zero=rule == "q = 1")
    scheduler = run.scheduler(optimizer)
    generator, found = torch.Generator().manual_seed(0), []
    for step in range(STEPS):
        rows = torch.randint(len(labels), (BATCH_SIZE,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        for layer in model:
            if isinstance(layer, nn.Linear) and layer.weight.grad is not None:
                layer.weight.grad.mul_(factor)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if step == 0 and rule == "q = η":
            group = optimizer.param_groups[2]
            group["layer_adaptation"] = True
            for key in ("lr", "initial_lr"):
                if key in group:
                    group[key] /= ETA
            if scheduler is not None:
                scheduler.base_lrs[2] /= ETA
            for state in optimizer.state[model[4].weight].values():  # the momentum of a step with lr η
                state.mul_(ETA)
        found.append(loss.item())
        if not math.isfinite(found[-1]):
            break
    return found


def main() -> None:
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    print("| optimizer | gradients times | " + " | ".join(f"{rule}: highest, last" for rule in RULES) + " |")
    print("|---|---|" + "---|" * len(RULES))
    for name in ("lars", "tvlars"):
        for factor in (1e-3, 1.0, 1e2, 1e3):
            cells = []
            for rule in RULES:
                found = losses(name, rule, factor, images, labels)
                cells.append(f"{max(found):,.3g}, {found[-1]:.3g}")
            print(f"| {name} | {factor:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
