"""Time of one optimizer step, as a ratio to torch's fused SGD and AdamW measured in the same rounds.

    pip install '.[lab,bench]'
    python benchmarks/step_time.py

Every optimizer has parameters, gradients and state of its own, in the shapes of a torchvision model, and takes its
steps in rounds with fused SGD and fused AdamW. Other libraries are taken along where they are installed. For a GPU
there is step_time_cuda.py.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from harness import asked, options, ratios, spread, timed

from tvlars import LAMB, LARS, TVLARS
from tvlars.lab.bench.measure import parameters

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

BASELINE = "torch SGD fused"
ADAMW = "torch AdamW fused"
MOMENTUM: dict[str, Any] = dict(lr=1e-3, momentum=0.9, weight_decay=1e-4)
ADAM: dict[str, Any] = dict(lr=1e-3, weight_decay=0.01)
PATHS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
}
OURS: dict[str, Any] = {
    "LARS": partial(LARS, **MOMENTUM),
    "TVLARS": partial(TVLARS, **MOMENTUM, total_steps=1000),
    "LAMB": partial(LAMB, **ADAM),
}
LIBRARIES = (
    ("timm Lars", "timm.optim", "Lars", MOMENTUM),
    ("timm Lamb", "timm.optim", "Lamb", ADAM),
    ("lightly LARS", "lightly.utils.lars", "LARS", MOMENTUM),
    ("pytorch-optimizer LARS", "pytorch_optimizer", "LARS", MOMENTUM),
    ("pytorch-optimizer Lamb", "pytorch_optimizer", "Lamb", ADAM),
    ("apex FusedLAMB", "apex.optimizers", "FusedLAMB", ADAM),
)
"""Optimizers of other packages: name, module, class and arguments."""


def libraries() -> dict[str, Make]:
    """Return the optimizers of other packages by name; those that are missing are named on standard error."""
    found: dict[str, Make] = {}
    for label, module, name, arguments in LIBRARIES:
        try:
            make = partial(getattr(importlib.import_module(module), name), **arguments)
            make([torch.nn.Parameter(torch.ones(1))])  # apex says here that its kernels were not built
        except (ImportError, RuntimeError) as error:
            print(f"{label} is left out: {error}", file=sys.stderr)
            continue
        found[label] = make
    return found


def contestants() -> dict[str, Make]:
    """Return every optimizer by name."""
    return {
        BASELINE: partial(torch.optim.SGD, **MOMENTUM, fused=True),
        "torch SGD foreach": partial(torch.optim.SGD, **MOMENTUM, foreach=True),
        ADAMW: partial(torch.optim.AdamW, **ADAM, fused=True),
        "torch AdamW foreach": partial(torch.optim.AdamW, **ADAM, foreach=True),
        **{
            f"tvlars {name} {path}": partial(make, **chosen)
            for path, chosen in PATHS.items()
            for name, make in OURS.items()
        },
        "tvlars LARS nesterov fused": partial(LARS, **MOMENTUM, nesterov=True, fused=True),
        **libraries(),
    }


def main() -> None:
    arguments = options(__doc__, ["resnet18", "resnet50", "vit_b_16"], count=15, devices=False).parse_args()
    for results, model in asked(arguments):
        table = results.table(model)
        with torch.device("meta"):
            shapes = [p.shape for p in getattr(torchvision.models, model)().parameters()]
        makers = contestants()
        baselines = {name: makers[name](parameters(shapes, torch.device("cpu"))) for name in (BASELINE, ADAMW)}
        for name, make in makers.items():
            if results.late or not results.missing(table, name):
                continue
            own = make(parameters(shapes, torch.device("cpu")))
            turns = {key: partial(timed, o.step) for key, o in {"own": own, **baselines}.items()}
            times = results.measure(table, turns, name, warmup=2)
            cells = {"ms": spread([1e3 * s for s in times["own"]])[0]}
            cells |= {f"to {base}": ratios(times["own"], times[base]) for base in (BASELINE, ADAMW)}
            results.row(table, name, **cells)


if __name__ == "__main__":
    main()
