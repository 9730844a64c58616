"""A model's loss on fixed data as a function of its parameters, which it lends and takes back unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Any, Tensor], Tensor]
Batches = Iterable[tuple[Any, Tensor]]


@dataclass(frozen=True)
class Estimate:
    """A value that was estimated from random draws, and its standard error (NaN from a single draw)."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, draws: list[float]) -> Estimate:
        """The mean of independent draws."""
        values = torch.tensor(draws, dtype=torch.float64)
        error = float(values.std() / len(draws) ** 0.5) if len(draws) > 1 else float("nan")
        return cls(float(values.mean()), error)

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


class LossSurface:
    """The mean loss over ``data`` at the parameters of ``model`` that need gradients, and around them.

    Everything happens inside ``with surface:``, where the model is in evaluation mode; afterwards parameters, buffers,
    gradients and the modes of its modules are what they were, bit for bit.

    Args:
        model: any module.
        loss: (output, target) to a scalar, the mean over the samples of a batch, or their sum where it has
            ``reduction == "sum"``; the mean over all samples is taken of either.
        data: batches (input, target). They are kept, so that each evaluation sees the same; how samples are
            cut into batches changes memory and nothing else.

    Raises:
        ValueError: no parameter needs a gradient, there is no data, or the loss is no differentiable scalar.
    """

    def __init__(self, model: nn.Module, loss: Loss, data: Batches) -> None:
        self.model, self.loss = model, loss
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("model must have a parameter with requires_grad=True, got none")
        self.names, self.params = [name for name, _ in named], [p for _, p in named]
        self.sums = getattr(loss, "reduction", "mean") == "sum"
        device = self.params[0].device
        try:
            self.batches = [
                (x.to(device) if isinstance(x, Tensor) else x, y.to(device) if isinstance(y, Tensor) else y)
                for x, y in data
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"data must be batches of (input, target), got {type(data).__name__}: {error}") from error
        if not self.batches:
            raise ValueError("data must have at least one batch, got none")
        self.samples = sum(len(y) for _, y in self.batches)
        self._saved: list[Tensor] = []

    def __enter__(self) -> LossSurface:
        self._modes = [(module, module.training) for module in self.model.modules()]
        self._saved = [p.detach().clone() for p in self.params]
        self._buffers = [(b, b.detach().clone()) for b in self.model.buffers()]
        self.model.eval()
        return self

    def __exit__(self, *_: object) -> None:
        self.put_back()
        self.put_back_buffers()
        for module, training in self._modes:
            module.training = training

    def put_back(self) -> None:
        """Give the parameters the values that they came with."""
        with torch.no_grad():
            for p, saved in zip(self.params, self._saved, strict=True):
                p.copy_(saved)

    def put_back_buffers(self) -> None:
        """Give the buffers the values that they came with."""
        with torch.no_grad():
            for buffer, saved in self._buffers:
                buffer.copy_(saved)

    @contextmanager
    def moved(self, shift: list[Tensor]) -> Iterator[None]:
        """Parameters at w + shift."""
        with torch.no_grad():
            for p, saved, d in zip(self.params, self._saved, shift, strict=True):
                p.copy_(saved + d)
        try:
            yield
        finally:
            self.put_back()

    @torch.no_grad()
    def value(self, batches: list[tuple[Any, Tensor]] | None = None) -> float:
        """The mean loss over ``batches`` (default: all)."""
        batches = self.batches if batches is None else batches
        total = sum(float(self._of_batch(x, y)) * (1 if self.sums else len(y)) for x, y in batches)
        return total / sum(len(y) for _, y in batches)

    def gradient(self, batches: list[tuple[Any, Tensor]] | None = None) -> tuple[float, list[Tensor]]:
        """The mean loss over ``batches`` (default: all) and its gradient."""
        batches = self.batches if batches is None else batches
        count = sum(len(y) for _, y in batches)
        total, gradient = 0.0, [torch.zeros_like(p) for p in self.params]
        for x, y in batches:
            with torch.enable_grad():
                loss = self._of_batch(x, y)
                if not loss.requires_grad:
                    raise ValueError(
                        "loss must be differentiable with respect to the model's parameters, got a value "
                        "without a gradient (is something detached, or an argmax?)"
                    )
                parts = torch.autograd.grad(loss, self.params, allow_unused=True)
            share = (1 if self.sums else len(y)) / count
            total += float(loss.detach()) * share
            for sum_, part in zip(gradient, parts, strict=True):
                if part is not None:
                    sum_.add_(part, alpha=share)
        return total, gradient

    def groups(self, size: int | None) -> Iterator[list[tuple[Any, Tensor]]]:
        """The data in groups of ``size`` samples (the last may be shorter), each in the batches' pieces."""
        if size is None:
            yield self.batches
            return
        group: list[tuple[Any, Tensor]] = []
        room = size
        for x, y in self.batches:
            while len(y):
                group.append((x[:room], y[:room]))
                x, y, room = x[room:], y[room:], room - len(group[-1][1])
                if room == 0:
                    yield group
                    group, room = [], size
        if group:
            yield group

    def _of_batch(self, x: Any, y: Tensor) -> Tensor:
        loss = self.loss(self.model(x), y)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a scalar tensor, the mean over the batch, got {shape}")
        return loss.reshape(())


def seeded(surface: LossSurface, seed: int) -> torch.Generator:
    """A generator on the device of the parameters."""
    return torch.Generator(surface.params[0].device).manual_seed(seed)


def draw(surface: LossSurface, generator: torch.Generator) -> list[Tensor]:
    """Standard normal numbers in the parameters' shapes."""
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device) for p in surface.params]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """One vector of all elements."""
    return torch.cat([x.reshape(-1) for x in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """``vector`` cut into tensors of the shapes of ``like``."""
    parts = torch.split(vector, [x.numel() for x in like])
    return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]
