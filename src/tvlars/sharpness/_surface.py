"""A model's loss on fixed data as a function of the model's parameters, which are restored afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tvlars.sharpness._batch_loss import BatchLoss, LossOfBatch, as_batch_loss, leaves, samples_of_batch, to_device
from tvlars.sharpness._denominator import (
    WAY_OUT,
    WAY_OUT_OF_BATCHES,
    Denominator,
    LossKind,
    Piece,
    all_have,
    own_denominator,
    samples_in,
    select,
)

Loss = Callable[[Any, Any], Any] | BatchLoss
Batches = Iterable[Any]


@dataclass(frozen=True)
class Estimate:
    """Value estimated from random draws, and its standard error (NaN from a single draw)."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, draws: list[float]) -> Estimate:
        """Return the mean of independent draws."""
        values = torch.tensor(draws, dtype=torch.float64, device="cpu")
        error = float(values.std() / len(draws) ** 0.5) if len(draws) > 1 else float("nan")
        return cls(float(values.mean()), error)

    def __str__(self) -> str:
        return f"{self.value:.4g} +/- {self.standard_error:.2g}"


@dataclass(frozen=True)
class Batch:
    """Input and target of some samples; for a loss of (model, batch) the whole batch, and no target."""

    x: Any
    y: Any
    samples: int
    count: float
    """Weight of its loss in the mean: the denominator of the loss, or the number of samples if the loss is a sum."""


class LossSurface:
    """The loss of all samples in ``data`` at the parameters of ``model`` that need gradients, and around them.

    It is the loss of all samples in one batch, for any split into batches: each batch is weighted by its denominator
    (class weights and ignored targets of cross-entropy, elements of a squared error). Everything happens inside ``with
    surface:``, where model and loss are in evaluation mode; afterwards parameters, buffers, gradients and the modes of
    their modules are what they were, bit for bit.

    Args:
        model: any module with real parameters.
        loss: (output, target) to a scalar: a loss of ``torch.nn`` or ``torch.nn.functional`` (or ``functools.partial``
            of one), or any other that is the mean over the samples of a batch, or their sum, which is detected. A sum
            is divided by the number of samples, with or without weights. A function whose first argument is named
            ``model`` is a loss of (model, batch), see :class:`BatchLoss`.
        data: batches (input, target), or batches for a loss of (model, batch). They are kept, so that each evaluation
            sees the same data; the size of batches only changes the memory used. Inputs and targets may be tensors, or
            dicts, lists and tuples of tensors; the length of a target's first tensor is the number of samples. Batches
            in which all targets are ignored do not count.

    Raises:
        ValueError: no parameter needs a gradient, or one is complex; there is no data, or no target that counts; the
            loss is no finite differentiable scalar, or neither a mean nor a sum over samples (contrastive losses
            depend on the whole batch); parameters are sharded, or in half precision, where small moves of the weights
            round to nothing.
    """

    def __init__(self, model: nn.Module, loss: Loss, data: Batches) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not callable(loss) and not isinstance(loss, BatchLoss):
            raise ValueError(
                f"loss must be a function of (output, target) or (model, batch), got {type(loss).__name__}"
            )
        self.model = model
        self.of_batch = as_batch_loss(loss)
        """The loss, if it is a loss of (model, batch)."""
        self.loss: Callable[[Any, Any], Any] = _itself if isinstance(loss, BatchLoss) or self.of_batch else loss
        """(output, target) to the loss, for the output of ``module``."""
        self.module: nn.Module = model if self.of_batch is None else LossOfBatch(model, self.of_batch)
        """Module from the input of a batch to its output."""
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
        for name, p in named:
            if p.is_complex():
                raise ValueError(
                    f"model must have real parameters, got {name!r} in {p.dtype}: keep its real and imaginary part in "
                    "one real parameter, and compute with torch.view_as_complex of it"
                )
        self.sums = False
        self.own: Denominator | None = None
        """Denominator of the loss, if the loss is one of torch's."""
        self.says_denominator = False
        """True if a loss of (model, batch) returns its denominator."""
        device = self.params[0].device
        if self.of_batch is None:
            self._data = [(x, y, samples_in(y)) for x, y in _pairs(data, device)]
        else:
            self._data = [(x, (), samples_of_batch(self.of_batch, x)) for x in _listed(data, device)]
        self.batches: list[Batch] = []
        self.samples = sum(samples for *_, samples in self._data)
        self._at_rest = True
        self._saved: list[Tensor] = []

    def __enter__(self) -> LossSurface:
        modules = list(self.model.modules())
        if self._loss_module is not None:  # the loss may have its own dropout or running statistics
            modules += [module for module in self._loss_module.modules() if module not in set(modules)]
        self._modes = [(module, module.training) for module in modules]
        self._saved = [p.detach().clone() for p in self.params]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        try:
            self.train(False)
            self._count()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.put_back()
        self.put_back_buffers()
        for module, training in self._modes:
            module.training = training

    def train(self, mode: bool = True) -> None:
        """Put model and loss in training or evaluation mode, until the surface is left."""
        self.model.train(mode)
        if self._loss_module is not None:
            self._loss_module.train(mode)

    @property
    def _loss_module(self) -> nn.Module | None:
        loss = self.loss if self.of_batch is None else self.of_batch.function
        return loss if isinstance(loss, nn.Module) else None

    @torch.no_grad()
    def _count(self) -> None:
        """Find the denominator of the loss in each batch, and check it."""
        data = [batch for batch in self._data if batch[2]]  # a last batch may have none
        if len(data) > 1:
            self._check_samples_are_apart()
        self.own = None if self.of_batch else own_denominator(self.loss)
        batches = None
        if self.own is not None:
            batches = self._counted(data, self.own)
        elif isinstance(self.module, LossOfBatch):
            batches = self._with_denominators(data, self.module)
        if batches is None:
            self.own, self.says_denominator, self.sums = None, False, self._is_sum(data)
            batches = [Batch(x, y, samples, float(samples)) for x, y, samples in data]
        else:
            self.sums = self.own is not None and self.own.sums
        self.batches = batches
        if not sum(batch.count for batch in self.batches) > 0:
            raise ValueError(
                f"data must have a target that counts, but of {self.samples} all are ignored or of weight 0"
            )

    def _counted(self, data: list[tuple[Any, Any, int]], own: Denominator) -> list[Batch] | None:
        """Return all batches with the denominators of a loss of torch; None if outputs and targets differ in shape, so
        that broadcasting may mix samples."""
        batches = []
        for x, y, samples in data:
            output = self.model(x) if own.wants_output else None
            if own.wants_output and not _alike(output, y):
                return None
            batches.append(Batch(x, y, samples, own.of(output, y)))
        return batches

    def _with_denominators(self, data: list[tuple[Any, Any, int]], module: LossOfBatch) -> list[Batch] | None:
        """Return all batches with the denominators that a loss of (model, batch) returns; None if it returns none.

        Raises:
            ValueError: it returns none, and batches cannot be cut to find them.
        """
        batches = []
        for x, y, samples in data:
            count = module.with_denominator(x)[1]
            if count is None:
                if not cuttable(x, samples):
                    raise ValueError(
                        "loss must return a pair, the mean and the number that it divides by, since batches with "
                        f"tensors that do not have one entry for each of {samples} samples cannot be cut"
                    )
                return None
            batches.append(Batch(x, y, samples, count))
        self.says_denominator = True
        return batches

    def _is_sum(self, data: list[tuple[Any, Any, int]]) -> bool:
        """Return whether a loss with an unknown denominator sums over samples; else it is a mean."""
        if sum(samples for *_, samples in data) == 1:
            return False

        def evaluate(piece: Piece) -> Tensor:
            return self._scalar(piece.x if piece.is_output else self.module(piece.x), piece.y)

        def look() -> set[str]:
            kind = LossKind(evaluate, WAY_OUT if self.of_batch is None else WAY_OUT_OF_BATCHES)
            for x, y, samples in data:
                torch.clear_autocast_cache()
                output = self.module(x)
                whole = all_have(output, samples) and all_have(y, samples)
                found = kind.look_at(Piece(output if whole else x, y, samples, whole))
                self._finite(found)
            return kind.possible

        possible = look()
        if len(possible) > 1:  # a loss that is 0 everywhere, as at a perfect fit
            generator = seeded(self, 0)
            with self.moved(
                [0.1 * (1 + p.detach().abs()) * z for p, z in zip(self.params, draw(self, generator), strict=True)]
            ):
                possible = look()
        if len(possible) > 1:
            raise ValueError(
                "loss must not be 0 for every sample, at the weights and near them: it cannot be told whether it is a "
                "mean or a sum"
            )
        return possible == {"sum"}

    def _check_samples_are_apart(self) -> None:
        """Refuse models whose output for one sample depends on other samples of the batch."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
                raise ValueError(
                    f"model must compute each sample alone in evaluation mode, but {name or 'it'} has no running "
                    "statistics: give all samples in one batch, or take track_running_stats=True"
                )

    def put_back(self) -> None:
        """Restore the original values of the parameters."""
        with torch.no_grad():
            for p, saved in zip(self.params, self._saved, strict=True):
                p.copy_(saved)
        self._at_rest = True

    def put_back_buffers(self) -> None:
        """Restore the original values of the buffers."""
        with torch.no_grad():
            for module, name, buffer, saved in self._buffers:
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                buffer.copy_(saved)

    @contextmanager
    def moved(self, shift: list[Tensor]) -> Iterator[None]:
        """Move the parameters to w + shift, within the context."""
        with torch.no_grad():
            for p, saved, d in zip(self.params, self._saved, shift, strict=True):
                p.copy_(saved + d)
        self._at_rest = False
        try:
            yield
        finally:
            self.put_back()

    @torch.no_grad()
    def value(self, batches: list[Batch] | None = None) -> float:
        """Return the loss of all samples in ``batches`` (default: all batches)."""
        total = sum(float(self._of_batch(batch)) * share for batch, share in self.shares(batches))
        return self._finite(total)

    def gradient(self, batches: list[Batch] | None = None) -> tuple[float, list[Tensor]]:
        """Return the loss of all samples in ``batches`` (default: all batches) and its gradient."""
        total, gradient = 0.0, [torch.zeros_like(p) for p in self.params]
        for batch, share in self.shares(batches):
            with torch.enable_grad():
                loss = self._of_batch(batch)
                if not loss.requires_grad:
                    raise ValueError(
                        "loss must be differentiable with respect to the model's parameters, got a value "
                        "without a gradient (is something detached, or an argmax?)"
                    )
                parts = torch.autograd.grad(loss, self.params, allow_unused=True)
            if all(part is None for part in parts):
                raise ValueError("loss must depend on the model's parameters, but it depends on none of them")
            total += float(loss.detach()) * share
            for sum_, part in zip(gradient, parts, strict=True):
                if part is not None:
                    sum_.add_(part, alpha=share)
        return self._finite(total), gradient

    def shares(self, batches: list[Batch] | None = None) -> list[tuple[Batch, float]]:
        """Return the batches that count, with factors by which their losses add up to the loss of all samples."""
        batches = [batch for batch in (self.batches if batches is None else batches) if batch.count]
        total = sum(batch.count for batch in batches)
        return [(batch, (1.0 if self.sums else batch.count) / total) for batch in batches]

    def groups(self, size: int | None) -> Iterator[list[Batch]]:
        """Yield the data in groups of ``size`` samples (the last may be shorter), each as pieces of batches."""
        if size is None:
            yield self.batches
            return
        group: list[Batch] = []
        room = size
        for batch in self.batches:
            start = 0
            while start < batch.samples:
                end = min(start + room, batch.samples)
                group.append(self._part(batch, slice(start, end), end - start))
                room, start = room - (end - start), end
                if room == 0:
                    yield group
                    group, room = [], size
        if group:
            yield group

    def _part(self, batch: Batch, where: slice, samples: int) -> Batch:
        if isinstance(self.module, LossOfBatch) and not cuttable(batch.x, batch.samples) and samples < batch.samples:
            raise ValueError(
                "m must be None, or such that batches are not cut, where they have tensors that do not have one entry "
                f"for each of their {batch.samples} samples"
            )
        x, y = (select(z, where, batch.samples) for z in (batch.x, batch.y))
        if self.says_denominator and isinstance(self.module, LossOfBatch):
            with torch.no_grad():
                return Batch(x, y, samples, self.module.with_denominator(x)[1] or 0.0)
        own = self.own
        if own is None or own.wants_output:  # as many elements in every sample
            return Batch(x, y, samples, batch.count * samples / batch.samples)
        return Batch(x, y, samples, own.of(None, y))

    def _finite(self, value: float) -> float:
        if self._at_rest and not math.isfinite(value):
            raise ValueError(f"loss must be finite at the model's weights, got {value}")
        return value

    def _of_batch(self, batch: Batch) -> Tensor:
        torch.clear_autocast_cache()  # it may hold casts of old weights
        return self._scalar(self.module(batch.x), batch.y)

    def _scalar(self, output: Any, target: Any) -> Tensor:
        loss = self.loss(output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
            shape = f"{tuple(loss.shape)} of {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a real scalar tensor, the mean over the batch, got {shape}")
        return loss.reshape(())


def _alike(output: Any, target: Any) -> bool:
    return isinstance(output, Tensor) and isinstance(target, Tensor) and output.shape == target.shape


def _itself(output: Any, target: Any) -> Any:
    return output


def cuttable(x: Any, samples: int) -> bool:
    """Return True if all tensors of a batch but scalars have one entry for each of its samples."""
    return all(len(leaf) == samples for leaf in leaves(x) if isinstance(leaf, Tensor) and leaf.ndim)


def _listed(data: Any, device: torch.device, kind: str = "") -> list[Any]:
    """Return all batches, on ``device``."""
    if isinstance(data, (Tensor, Mapping, str)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise ValueError(f"data must be batches{kind}, got {type(data).__name__}")
    batches = [to_device(batch, device) for batch in data]
    if not batches:
        raise ValueError("data must have at least one batch, got none (an iterator can be used once)")
    return batches


def _pairs(data: Any, device: torch.device) -> list[tuple[Any, Any]]:
    """Return all batches (input, target), on ``device``."""
    batches = []
    for batch in _listed(data, device, " of (input, target)"):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            got = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else f"type {type(batch).__name__}"
            raise ValueError(
                f"data must be batches of (input, target), got a batch of {got}; a loss whose first argument is named "
                "model is called with (model, batch), for batches of any form"
            )
        batches.append((batch[0], batch[1]))
    return batches


def seeded(surface: LossSurface, seed: int) -> torch.Generator:
    """Return a generator on the device of the parameters."""
    return torch.Generator(surface.params[0].device).manual_seed(seed)


def draw(surface: LossSurface, generator: torch.Generator) -> list[Tensor]:
    """Return standard normal numbers in the parameters' shapes."""
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device) for p in surface.params]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Return one vector of all elements."""
    return torch.cat([x.reshape(-1) for x in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return ``vector`` cut into tensors of the shapes of ``like``."""
    parts = torch.split(vector, [x.numel() for x in like])
    return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]
