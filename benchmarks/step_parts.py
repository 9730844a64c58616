"""Time of the parts of a LARS step on a CPU, in units of torch's fused SGD on the same parameters.

    python benchmarks/step_parts.py --models resnet50 vit_b_16

The parts are those of ``tvlars.optim.cpu``, each by itself on the same tensors, in turn with the whole steps of
fused SGD and of LARS. They find less in the cache than within a step, so that they may sum to more than it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torchvision

from tvlars._machine import this_machine
from tvlars.lab.bench.measure import FUSED_SGD, OPTIMIZERS, parameters
from tvlars.lab.bench.result import interleave, ratio, timed
from tvlars.optim import cpu
from tvlars.optim._numerics.norms import host_norm, in_memory_order

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_b_16"])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(this_machine(CPU))
    for name in arguments.models:
        torch.manual_seed(0)
        shapes = [p.shape for p in getattr(torchvision.models, name)().parameters()]
        with torch.no_grad():
            times = interleave(parts(shapes), arguments.rounds)
        print(f"\n| {name} | to {FUSED_SGD} (quartiles) |\n|---|---|")
        for part, seconds in times.items():
            print(f"| {part} | {ratio(seconds, times[FUSED_SGD]).text()} |")


def parts(shapes: list[torch.Size]) -> dict[str, Callable[[], float]]:
    """Turns: whole steps first, then the parts of LARS."""
    params = parameters(shapes, CPU)
    large = [p for p in params if p.numel() > cpu.SMALL]
    small = [p for p in params if p.numel() <= cpu.SMALL]
    options = dict(lr=1e-6, momentum=0.9, weight_decay=1e-4, trust_coefficient=1e-3, nesterov=False)
    options |= dict(norm_clip=None, layer_adaptation=True, maximize=False)

    def arguments(chosen: list[torch.nn.Parameter]) -> list[list[torch.Tensor]]:
        return [list(chosen), [p.grad for p in chosen if p.grad is not None], [torch.zeros_like(p) for p in chosen]]

    of_large, of_small = arguments(large), arguments(small)
    flat = [[in_memory_order(x) for x in tensors] for tensors in of_large[:2]]
    work: dict[str, Callable[[], object]] = {
        FUSED_SGD: OPTIMIZERS[FUSED_SGD](parameters(shapes, CPU)).step,
        "LARS, a whole step": OPTIMIZERS["LARS"](parameters(shapes, CPU)).step,
        f"{len(large)} large layers: ‖w‖": lambda: [host_norm(w) for w in of_large[0]],
        f"{len(large)} large layers: ‖g‖": lambda: [host_norm(g) for g in of_large[1]],
        f"{len(large)} large layers: ⟨g, w⟩": lambda: [torch.dot(g, w) for w, g in zip(*flat, strict=True)],
        f"{len(large)} large layers: update": partial(cpu._sgd, *of_large, 1e-6, 1e-4, 0.9, dampening=0.5),
        f"{len(small)} small layers: all": partial(cpu.fused_lars, *of_small, **options),
    }
    return {name: partial(timed, step) for name, step in work.items()}


if __name__ == "__main__":
    main()
