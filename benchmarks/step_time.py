"""Time of one optimizer step, as a ratio to torch's fused SGD measured in the same run.

    python benchmarks/step_time.py --models resnet18 resnet50 vit_b_16 --rounds 9 --json step-time.json

Every optimizer has parameters, gradients and state of its own, in the shapes of a torchvision model. It takes its steps
in turn with fused SGD and fused AdamW, so that a change of the machine's speed meets all three; reported is the median
over the rounds of its time / theirs in the same round, with the quartiles. Other libraries are taken along where they
are installed (the extra ``bench``).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision

from tvlars import LAMB, LARS, TVLARS

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

BASELINE = "torch SGD fused"
ADAMW = "torch AdamW fused"


def contestants() -> dict[str, Make]:
    """Every optimizer by name; those of libraries that are not installed are left out."""
    momentum: dict[str, Any] = dict(lr=0.1, momentum=0.9, weight_decay=1e-4)
    adam: dict[str, Any] = dict(lr=1e-3, weight_decay=0.01)
    makers: dict[str, Make] = {
        BASELINE: lambda p: torch.optim.SGD(p, **momentum, fused=True),
        "torch SGD foreach": lambda p: torch.optim.SGD(p, **momentum, foreach=True),
        ADAMW: lambda p: torch.optim.AdamW(p, **adam, fused=True),
        "torch AdamW foreach": lambda p: torch.optim.AdamW(p, **adam, foreach=True),
    }
    paths: dict[str, dict[str, Any]] = {
        "fused": dict(fused=True),
        "for-loop": dict(foreach=False),
        "foreach": dict(foreach=True),
    }
    for label, path in paths.items():
        makers[f"tvlars LARS {label}"] = lambda p, path=path: LARS(p, **momentum, **path)
        makers[f"tvlars TVLARS {label}"] = lambda p, path=path: TVLARS(p, **momentum, **path, total_steps=1000)
        makers[f"tvlars LAMB {label}"] = lambda p, path=path: LAMB(p, **adam, **path)
    makers["tvlars LARS nesterov fused"] = lambda p: LARS(p, **momentum, nesterov=True, fused=True)
    for label, module, name, arguments in (
        ("timm Lars", "timm.optim", "Lars", momentum),
        ("timm Lamb", "timm.optim", "Lamb", adam),
        ("lightly LARS", "lightly.utils.lars", "LARS", momentum),
        ("pytorch-optimizer LARS", "pytorch_optimizer", "LARS", momentum),
        ("pytorch-optimizer Lamb", "pytorch_optimizer", "Lamb", adam),
    ):
        try:
            cls = getattr(importlib.import_module(module), name)
        except ImportError:
            print(f"{label} is not installed and left out", file=sys.stderr)
            continue
        makers[label] = lambda p, cls=cls, arguments=arguments: cls(p, **arguments)
    return makers


@dataclass
class Times:
    """Seconds of one step of an optimizer in each round, and of the two baselines in the same rounds."""

    own: list[float] = field(default_factory=list)
    sgd: list[float] = field(default_factory=list)
    adamw: list[float] = field(default_factory=list)

    def ratio(self, baseline: list[float]) -> tuple[float, float, float]:
        """Median and quartiles over rounds of the ratio to ``baseline`` in the same round."""
        low, middle, high = statistics.quantiles([t / b for t, b in zip(self.own, baseline, strict=True)], n=4)
        return middle, low, high


def measure(model: str, rounds: int) -> Iterator[tuple[str, Times]]:
    """Every optimizer beside the two baselines, after two rounds to warm up."""
    shapes = [p.shape for p in getattr(torchvision.models, model)(weights=None).parameters()]

    def build(make: Make) -> torch.optim.Optimizer:
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p) * 1e-3
        return make(params)

    makers = contestants()
    baselines = [build(makers[BASELINE]), build(makers[ADAMW])]
    for name, make in makers.items():
        times, optimizer = Times(), build(make)
        for turn in range(rounds + 2):
            for o, out in zip([*baselines, optimizer], [times.sgd, times.adamw, times.own], strict=True):
                start = time.perf_counter()
                o.step()
                if turn >= 2:
                    out.append(time.perf_counter() - start)
        yield name, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "vit_b_16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write all times here")
    arguments = parser.parse_args()

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    everything: dict[str, Any] = {}
    for model in arguments.models:
        print(f"| {model} | ms | to {BASELINE} (quartiles) | to {ADAMW} (quartiles) |")
        print("|---|---|---|---|")
        for name, times in measure(model, arguments.rounds):
            everything.setdefault(model, {})[name] = asdict(times)
            ratios = [
                f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in map(times.ratio, (times.sgd, times.adamw))
            ]
            print(f"| {name} | {1e3 * statistics.median(times.own):.1f} | {ratios[0]} | {ratios[1]} |", flush=True)
        print()
    if arguments.json:
        arguments.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
