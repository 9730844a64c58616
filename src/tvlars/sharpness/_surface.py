"""A model's loss on fixed data as a function of its parameters, which it lends and takes back unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

Loss = Callable[[Any, Any], Tensor]
Batches = Iterable[tuple[Any, Any]]


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
            cut into batches changes memory and nothing else. Inputs and targets may be tensors, or dicts, lists and
            tuples of tensors; the first tensor of a target tells how many samples there are.

    Raises:
        ValueError: no parameter needs a gradient, there is no data, or the loss is no finite differentiable scalar;
            parameters are sharded, or in half precision, where small moves of the weights round to nothing.
    """

    def __init__(self, model: nn.Module, loss: Loss, data: Batches) -> None:
        self.model, self.loss = model, loss
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("model must have a parameter with requires_grad=True, got none")
        self.names, self.params = [name for name, _ in named], [p for _, p in named]
        if any(hasattr(p, "placements") for p in self.params) or hasattr(model, "_fsdp_wrapped_module"):
            raise ValueError(
                "model must not be sharded (FSDP, tensor parallel): load its full state dict into a plain one"
            )
        half = {p.dtype for p in self.params} & {torch.float16, torch.bfloat16}
        if half:
            raise ValueError(
                f"model must be in float32 or float64, got {half.pop()}: take copy.deepcopy(model).float()"
            )
        self.sums = getattr(loss, "reduction", "mean") == "sum"
        device = self.params[0].device
        self.batches = []
        for batch in data:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise ValueError(f"data must be batches of (input, target), got a batch of type {type(batch).__name__}")
            self.batches.append((to_device(batch[0], device), to_device(batch[1], device)))
        if not self.batches:
            raise ValueError("data must have at least one batch, got none")
        self.samples = sum(samples_in(y) for _, y in self.batches)
        self._at_rest = True
        self._saved: list[Tensor] = []

    def __enter__(self) -> LossSurface:
        self._modes = [(module, module.training) for module in self.model.modules()]
        self._saved = [p.detach().clone() for p in self.params]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
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
        self._at_rest = True

    def put_back_buffers(self) -> None:
        """Give the buffers the values that they came with."""
        with torch.no_grad():
            for module, name, buffer, saved in self._buffers:
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                buffer.copy_(saved)

    @contextmanager
    def moved(self, shift: list[Tensor]) -> Iterator[None]:
        """Parameters at w + shift."""
        with torch.no_grad():
            for p, saved, d in zip(self.params, self._saved, shift, strict=True):
                p.copy_(saved + d)
        self._at_rest = False
        try:
            yield
        finally:
            self.put_back()

    @torch.no_grad()
    def value(self, batches: list[tuple[Any, Any]] | None = None) -> float:
        """The mean loss over ``batches`` (default: all)."""
        batches = self.batches if batches is None else batches
        total = sum(float(self._of_batch(x, y)) * (1 if self.sums else samples_in(y)) for x, y in batches)
        return self._finite(total / sum(samples_in(y) for _, y in batches))

    def gradient(self, batches: list[tuple[Any, Any]] | None = None) -> tuple[float, list[Tensor]]:
        """The mean loss over ``batches`` (default: all) and its gradient."""
        batches = self.batches if batches is None else batches
        count = sum(samples_in(y) for _, y in batches)
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
            if all(part is None for part in parts):
                raise ValueError("loss must depend on the model's parameters, but it depends on none of them")
            share = (1 if self.sums else samples_in(y)) / count
            total += float(loss.detach()) * share
            for sum_, part in zip(gradient, parts, strict=True):
                if part is not None:
                    sum_.add_(part, alpha=share)
        return self._finite(total), gradient

    def groups(self, size: int | None) -> Iterator[list[tuple[Any, Any]]]:
        """The data in groups of ``size`` samples (the last may be shorter), each in the batches' pieces."""
        if size is None:
            yield self.batches
            return
        group: list[tuple[Any, Any]] = []
        room = size
        for x, y in self.batches:
            while samples_in(y):
                group.append((cut(x, slice(room)), cut(y, slice(room))))
                x, y = cut(x, slice(room, None)), cut(y, slice(room, None))
                room -= samples_in(group[-1][1])
                if room == 0:
                    yield group
                    group, room = [], size
        if group:
            yield group

    def _finite(self, value: float) -> float:
        if self._at_rest and not math.isfinite(value):
            raise ValueError(f"loss must be finite at the model's weights, got {value}")
        return value

    def _of_batch(self, x: Any, y: Any) -> Tensor:
        torch.clear_autocast_cache()  # it holds casts of weights that have moved since
        loss = self.loss(self.model(x), y)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a scalar tensor, the mean over the batch, got {shape}")
        return loss.reshape(())


def to_device(x: Any, device: torch.device) -> Any:
    """``x`` with all tensors in it on ``device``."""
    if not isinstance(x, (Tensor, dict, list, tuple)) and hasattr(x, "to"):
        return x.to(device)
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), x)


def samples_in(target: Any) -> int:
    """How many samples a target is of: the length of its first tensor."""
    for leaf in tree_leaves(target):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise ValueError(f"a target must have a tensor with one entry a sample, got {type(target).__name__}")


def cut(x: Any, where: slice) -> Any:
    """Some samples of an input or target."""
    return tree_map_only(Tensor, lambda tensor: tensor[where], x)


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
