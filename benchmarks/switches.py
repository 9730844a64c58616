"""Speed of training steps in bfloat16, with channels_last and compiled, one against the other.

    python benchmarks/switches.py

Forward, backward and a step of fused SGD on one batch that lies on the device. Gradients are those of the first batch;
their distance is relative to the norm of that in float32, contiguous, not compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from harness import asked, options, ratios, spread, timed
from throughput import MODELS, SIZES, workload_of
from torch import Tensor
from workloads import Workload

from tvlars.lab.bench.loops import CLASSES
from tvlars.lab.bench.measure import FUSED_SGD, OPTIMIZERS


def main() -> None:
    arguments = options(__doc__, list(MODELS), count=5).parse_args()
    for results, model in asked(arguments):
        batch_size, images = SIZES[arguments.device][model]
        steps = max(images // batch_size // 4, 1)
        table = results.table(model, batch_size=batch_size, steps=steps)
        workload = workload_of(model, images, batch_size, device=arguments.device)
        torch.compiler.reset()  # else the models before count against the number of variants that it compiles
        made = {
            str(chosen): TrainingSteps(workload, chosen, steps)
            for compiled in (False, True)
            for channels_last in (False, True)
            for bf16 in (False, True)
            for chosen in [Switches(bf16, channels_last, compiled)]
        }
        times, plain = results.measure(table, made), str(Switches())
        for name, seconds in times.items():
            cells = {
                "images/s": spread([batch_size / s for s in seconds]),
                "to float32": ratios(times[plain], seconds),
                "gradient differs by": made[name].differs_from(made[plain])[1],
                "first step, s": made[name].first_seconds,
            }
            results.row(table, name, **cells)


@dataclass(frozen=True)
class Switches:
    """Switches of a training step."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        names = ["bf16" if self.bf16 else "float32", "channels_last" if self.channels_last else "contiguous"]
        return ", ".join([*names, *(["compiled"] if self.compiled else [])])


class TrainingSteps:
    """A turn is some times forward, backward and a step of fused SGD, on one batch that lies on the device.

    Attribute: ``first_seconds``, what the first step took, compiling included.
    """

    def __init__(self, workload: Workload, switches: Switches, steps: int = 1) -> None:
        self.device, self.switches, self.steps = torch.device(workload.device), switches, steps
        memory_format = torch.channels_last if switches.channels_last else torch.contiguous_format
        self.bare = workload.build_model().to(self.device, memory_format=memory_format).train()
        self.model: Callable[[Tensor], Tensor] = torch.compile(self.bare) if switches.compiled else self.bare
        generator = torch.Generator().manual_seed(0)
        shape = (workload.batch_size, 3, workload.size, workload.size)
        images = torch.randn(shape, generator=generator, device="cpu")
        self.images = images.to(self.device).contiguous(memory_format=memory_format)
        self.labels = torch.randint(0, CLASSES, (workload.batch_size,), generator=generator, device="cpu").to(
            self.device
        )
        self.optimizer = OPTIMIZERS[FUSED_SGD](self.bare.parameters())
        start = time.perf_counter()
        self.logits = self._backward()
        self.gradient = torch.cat([p.grad.flatten().float() for p in self.bare.parameters() if p.grad is not None])
        self.optimizer.zero_grad()
        self.first_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        """Return the seconds of one step."""
        return timed(self._step, self.steps)

    def _step(self) -> None:
        self._backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _backward(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.switches.bf16):
            logits = self.model(self.images).float()
            loss = F.cross_entropy(logits, self.labels)
        loss.backward()
        return logits.detach()

    def differs_from(self, other: TrainingSteps) -> tuple[float, float]:
        """Return how far the first logits and gradient are from those of ``other``, relative to their norms."""
        pairs = ((self.logits, other.logits), (self.gradient, other.gradient))
        logits, gradient = (float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
        return logits, gradient


if __name__ == "__main__":
    main()
