"""Parts of a training step by themselves: an optimizer's step, and forward and backward with this switch or that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars import LAMB, LARS, TVLARS
from tvlars.lab.bench.loops import CLASSES, Task
from tvlars.lab.bench.timing import timed

SGD, ADAMW = "torch SGD fused", "torch AdamW fused"
BESIDE = {"TVLARS": SGD, "LARS": SGD, "LAMB": ADAMW}
"""What each is to be read against: the torch optimizer with as much state, in its fastest form."""


def make_optimizer(name: str, params: Iterable[nn.Parameter]) -> Optimizer:
    """One of ``BESIDE``, or what stands beside it. The learning rate is so small that weights stay where they are."""
    params = list(params)
    if name == SGD:
        return torch.optim.SGD(params, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)
    if name == ADAMW:
        return torch.optim.AdamW(params, lr=1e-6, weight_decay=1e-2, fused=True)
    if name == "LAMB":
        return LAMB(params, lr=1e-6, weight_decay=1e-2)
    if name == "TVLARS":
        return TVLARS(params, lr=1e-6, momentum=0.9, weight_decay=1e-4, total_steps=1000)
    return LARS(params, lr=1e-6, momentum=0.9, weight_decay=1e-4)


def parameters(shapes: Iterable[torch.Size | tuple[int, ...]], device: torch.device) -> list[nn.Parameter]:
    """Parameters with gradients, small random numbers."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(tuple(shape), device=device).mul_(0.02)) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return made


@dataclass(frozen=True)
class OptimizerSteps:
    """A turn is some steps of an optimizer, with the gradients as they are."""

    optimizer: Optimizer
    device: torch.device
    steps: int = 1

    def __call__(self) -> float:
        """Seconds of one step."""
        return timed(self._all, self.device) / self.steps

    def _all(self) -> None:
        for _ in range(self.steps):
            self.optimizer.step()


@dataclass(frozen=True)
class Switches:
    """What a training step may be done with."""

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

    def __init__(self, task: Task, switches: Switches, steps: int = 1) -> None:
        self.device, self.switches, self.steps = torch.device(task.device), switches, steps
        memory_format = torch.channels_last if switches.channels_last else torch.contiguous_format
        self.bare = task.build_model().to(self.device, memory_format=memory_format).train()  # type: ignore[call-overload]
        self.model: Callable[[Tensor], Tensor] = torch.compile(self.bare) if switches.compiled else self.bare
        generator = torch.Generator().manual_seed(0)
        shape = (task.batch_size, 3, task.size, task.size)
        images = torch.randn(shape, generator=generator, device="cpu")
        self.images = images.to(self.device).contiguous(memory_format=memory_format)
        self.labels = torch.randint(0, CLASSES, (task.batch_size,), generator=generator, device="cpu").to(self.device)
        self.optimizer = make_optimizer(SGD, self.bare.parameters())
        start = time.perf_counter()
        self.logits = self._backward()
        self.gradient = torch.cat([p.grad.flatten().float() for p in self.bare.parameters() if p.grad is not None])
        self.optimizer.zero_grad()
        self.first_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        """Seconds of one step."""
        return timed(self._all, self.device) / self.steps

    def _all(self) -> None:
        for _ in range(self.steps):
            self._backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _backward(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.switches.bf16):
            logits = self.model(self.images).float()
            loss = F.cross_entropy(logits, self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return logits.detach()

    def differs_from(self, other: TrainingSteps) -> tuple[float, float]:
        """How far the first logits and gradient are from those of ``other``, relative to their norms."""
        pairs = ((self.logits, other.logits), (self.gradient, other.gradient))
        logits, gradient = (float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
        return logits, gradient
