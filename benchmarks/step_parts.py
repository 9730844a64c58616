"""Time of the parts of a LARS step on a CPU, in units of torch's fused SGD on the same parameters.

    python benchmarks/step_parts.py

The parts are those of ``tvlars.optim.cpu``, each by itself on the same tensors, in turn with the whole steps of
fused SGD and of LARS. They find less in the cache than within a step, so that they may sum to more than it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torchvision
from harness import Turn, asked, options, ratios, timed

from tvlars.lab.bench.measure import FUSED_SGD, OPTIMIZERS, parameters
from tvlars.optim import cpu
from tvlars.optim._numerics.norms import host_norm, in_memory_order

CPU = torch.device("cpu")


def main() -> None:
    for results, name in asked(options(__doc__, ["resnet50", "vit_b_16"], count=15, devices=False).parse_args()):
        table = results.table(name)
        with torch.device("meta"):
            shapes = [p.shape for p in getattr(torchvision.models, name)().parameters()]
        with torch.no_grad():
            times = results.measure(table, parts(shapes))
        for part, seconds in times.items():
            results.row(table, part, **{f"to {FUSED_SGD}": ratios(seconds, times[FUSED_SGD])})


def parts(shapes: list[torch.Size]) -> dict[str, Turn]:
    """Return turns: whole steps first, then the parts of LARS."""
    params = parameters(shapes, CPU)
    large = [p for p in params if p.numel() > cpu.SMALL]
    small = [p for p in params if p.numel() <= cpu.SMALL]
    grads = [p.grad for p in large if p.grad is not None]
    of_large: list[list[torch.Tensor]] = [list(large), grads, [torch.zeros_like(p) for p in large]]
    flat = [[in_memory_order(x) for x in tensors] for tensors in of_large[:2]]
    work: dict[str, Callable[[], object]] = {
        FUSED_SGD: OPTIMIZERS[FUSED_SGD](parameters(shapes, CPU)).step,
        "LARS, a whole step": OPTIMIZERS["LARS"](parameters(shapes, CPU)).step,
        "large layers: ‖w‖": lambda: [host_norm(w) for w in of_large[0]],
        "large layers: ‖g‖": lambda: [host_norm(g) for g in of_large[1]],
        "large layers: ⟨g, w⟩": lambda: [torch.dot(g, w) for w, g in zip(*flat, strict=True)],
        "large layers: update": partial(cpu._sgd, *of_large, 1e-6, 1e-4, 0.9, dampening=0.5),
        "small layers: all": OPTIMIZERS["LARS"](small).step,
    }
    return {name: partial(timed, step) for name, step in work.items()}


if __name__ == "__main__":
    main()
