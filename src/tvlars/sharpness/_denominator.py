"""Denominator of a loss over a batch: with it, losses of batches add up to the loss of all samples at once.

For losses of ``torch.nn`` and ``torch.nn.functional`` it is known: the sum of the weights of the targets that are not
ignored, or the number of elements. Any other loss has to be a mean over samples or a sum, which is detected by
comparing its values on whole batches, parts of them and pairs of them.
"""

from __future__ import annotations

import functools
import inspect
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tvlars.sharpness._batch_loss import leaves, map_tensors, rebuilt

OF_CLASSES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
}
"""Losses that divide by the sum of the weights of the targets that are not ignored."""
OF_ELEMENTS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.KLDivLoss: F.kl_div,
    nn.PoissonNLLLoss: F.poisson_nll_loss,
    nn.SoftMarginLoss: F.soft_margin_loss,
    nn.HingeEmbeddingLoss: F.hinge_embedding_loss,
}
"""Losses that divide by the number of elements, also if elements have weights."""

CALLS = ("forward", "__call__", "_wrapped_call_impl")
"""Names of the methods that compute a module."""


@dataclass(frozen=True)
class Denominator:
    """Denominator of a loss: ``of`` (output, target), the number of samples if the loss is a sum."""

    of: Callable[[Any, Any], float]
    sums: bool = False
    wants_output: bool = False
    """True if ``of`` needs the output, which must have the target's shape; else the output may be None."""


def own_denominator(loss: Any) -> Denominator | None:
    """Return the denominator of a loss of torch, or of ``functools.partial`` of one; None for any other loss."""
    found = _torch_loss(loss)
    if found is None:
        return None
    function, settings = found
    reduction = settings.get("reduction", "mean")
    if reduction == "sum":
        elements = function in OF_ELEMENTS.values()
        return Denominator(lambda output, target: float(samples_in(target)), sums=True, wants_output=elements)
    if reduction != "mean":
        return None
    weighted = (*OF_CLASSES.values(), F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
    if settings.get("weight") is not None and function not in weighted:
        return None  # weights of elements, which change the denominator too
    if function in OF_CLASSES.values():
        weight, ignored = settings.get("weight"), settings.get("ignore_index", -100)
        return Denominator(lambda output, target: _weight_of_targets(target, weight, ignored))
    return Denominator(_elements, wants_output=True)


def _torch_loss(loss: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return the function that a loss calls and its settings; None if it is not one of the losses above."""
    if isinstance(loss, functools.partial):
        inner = loss.func
        if loss.args:
            return None
        if isinstance(inner, nn.Module):
            return None if loss.keywords else _torch_loss(inner)
        if inner not in (*OF_CLASSES.values(), *OF_ELEMENTS.values()):
            return None
        legacy = [name for name in ("size_average", "reduce") if loss.keywords.get(name) is not None]
        unknown = loss.keywords.keys() - inspect.signature(inner).parameters.keys()
        return None if legacy or unknown or {"input", "target"} & loss.keywords.keys() else (inner, loss.keywords)
    if isinstance(loss, nn.Module):
        for kind, function in {**OF_CLASSES, **OF_ELEMENTS}.items():
            if isinstance(loss, kind):
                # A subclass, an instance or a hook may compute something else.
                own = type(loss).forward is kind.forward and "forward" not in vars(loss)
                hooked = loss._forward_hooks or loss._forward_pre_hooks or type(loss).__call__ is not nn.Module.__call__
                names = ("reduction", "weight", "ignore_index")
                settings = {name: getattr(loss, name) for name in names if hasattr(loss, name)}
                return (function, settings) if own and not hooked else None
        return None
    if inspect.ismethod(loss) and isinstance(loss.__self__, nn.Module) and loss.__name__ in CALLS:
        return _torch_loss(loss.__self__)
    plain = inspect.isfunction(loss) or inspect.isbuiltin(loss)
    return (loss, {}) if plain and loss in (*OF_CLASSES.values(), *OF_ELEMENTS.values()) else None


def _weight_of_targets(target: Any, weight: Tensor | None, ignored: int) -> float:
    if not isinstance(target, Tensor):
        return float(samples_in(target))  # the loss itself will raise the error
    if target.is_floating_point():  # probabilities of classes: a mean over all other dimensions
        return target.numel() / (target.shape[1] if target.ndim > 1 else max(len(target), 1))
    counted = target[target != ignored].cpu().long()
    if weight is None:
        return float(counted.numel())
    return float(weight.detach().cpu().double()[counted].sum())


def _elements(output: Any, target: Any) -> float:
    return float(output.numel())


# -- samples of a batch ----------------------------------------------------------------------------------------------


def samples_in(target: Any) -> int:
    """Return the number of samples of a target: the length of its first tensor."""
    for leaf in leaves(target):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise ValueError(
        f"a target must have a tensor with one entry per sample, got {type(target).__name__}: data are "
        "batches, such as those of a DataLoader"
    )


def select(x: Any, where: Any, count: int) -> Any:
    """Return the samples ``where`` (a slice or indices) of tensors with ``count`` entries; others stay whole."""
    return map_tensors(lambda t: t[where] if t.ndim and len(t) == count else t, x)


def all_have(x: Any, count: int) -> bool:
    """Return whether ``x`` holds only tensors with one entry for each of ``count`` samples."""
    return all(isinstance(t, Tensor) and t.ndim > 0 and len(t) == count for t in leaves(x))


def joined(a: Any, b: Any, counts: tuple[int, int]) -> Any:
    """Join two inputs, outputs or targets to one with all their samples.

    Raises:
        ValueError: they are not of one structure, or their samples not of one shape.
    """
    if isinstance(a, UserDict) and isinstance(b, UserDict):
        return rebuilt(a, joined(a.data, b.data, counts))
    (left, spec), (right, other) = tree_flatten(a), tree_flatten(b)
    if spec != other:
        raise ValueError("they do not have the same parts")
    leaves = []
    for p, q in zip(left, right, strict=True):
        if isinstance(p, Tensor) and isinstance(q, Tensor):
            if p.ndim and q.ndim and (len(p), len(q)) == counts:
                if p.shape[1:] != q.shape[1:]:
                    raise ValueError(f"samples of shapes {tuple(p.shape[1:])} and {tuple(q.shape[1:])}")
                leaves.append(torch.cat([p, q]))
                continue
            if p.shape != q.shape or not torch.equal(p, q):
                raise ValueError("a tensor that does not have one entry per sample differs between them")
        leaves.append(p)
    return tree_unflatten(leaves, spec)


# -- a loss with an unknown denominator --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Some samples: their output if it can be cut like the target, else their input."""

    x: Any
    y: Any
    count: int
    is_output: bool

    def part(self, where: Any, count: int) -> Piece:
        """Return some of its samples."""
        return Piece(select(self.x, where, self.count), select(self.y, where, self.count), count, self.is_output)

    def cuts(self) -> list[tuple[Piece, Piece]]:
        """Return the piece cut in two in two ways: at a third, and into every third sample and the rest."""
        if self.count < 2:
            return []
        at, order = max(self.count // 3, 1), torch.arange(self.count, device="cpu")
        every = order % 3 == 0 if self.count > 2 else order == 0
        few, many = order[every], order[~every]
        found = [(self.part(slice(at), at), self.part(slice(at, None), self.count - at))]
        if self.count > 3:
            found.append((self.part(few, len(few)), self.part(many, len(many))))
        return found

    def with_(self, other: Piece) -> Piece:
        """Return all samples of two pieces as one."""
        counts = self.count, other.count
        x, y = joined(self.x, other.x, counts), joined(self.y, other.y, counts)
        return Piece(x, y, sum(counts), self.is_output)


NEITHER = (
    "loss must be a mean over the samples of a batch, or their sum, so that the way in which samples are cut into "
    "batches does not matter; "
)
WAY_OUT = (
    "; with class weights, ignored targets or samples of several sizes pass the loss of torch.nn itself, such as "
    "nn.CrossEntropyLoss(weight=...), which says what it divides by"
)


WAY_OUT_OF_BATCHES = (
    "; where samples weigh differently, as with tokens that are ignored, return a pair: the mean, and the number that "
    "it divides by"
)


class LossKind:
    """Reduction of a loss, mean or sum, detected piece by piece; ``evaluate`` returns the loss of a piece, and errors
    end in ``way_out``.

    Raises:
        ValueError: the loss is neither.
    """

    def __init__(self, evaluate: Callable[[Piece], Tensor], way_out: str = WAY_OUT) -> None:
        self.evaluate, self.way_out = evaluate, way_out
        self.possible = {"mean", "sum"}
        self._before: tuple[Piece, Tensor] | None = None

    def look_at(self, piece: Piece) -> float:
        """Compare the loss of the next batch with its parts' losses, and with the batch before; return the loss."""
        whole = self.evaluate(piece)
        if not bool(torch.isfinite(whole)):
            return float(whole)
        for a, b in piece.cuts():
            self._compare(piece, whole, (a, self._of_part(a)), (b, self._of_part(b)))
        if self._before is not None:
            try:
                both = self._before[0].with_(piece)
            except ValueError as error:
                raise ValueError(
                    f"{NEITHER}it cannot be told, since batches cannot be joined: {error}{self.way_out}"
                ) from error
            self._compare(both, self._of_part(both), self._before, (piece, whole))
        self._before = piece, whole
        return float(whole)

    def _of_part(self, piece: Piece) -> Tensor:
        try:
            return self.evaluate(piece)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{NEITHER}it cannot be computed for {piece.count} of them ({first})") from error

    def _compare(self, all_: Piece, whole: Tensor, *parts: tuple[Piece, Tensor]) -> None:
        values = [float(loss) for _, loss in parts]
        counts = [piece.count for piece, _ in parts]
        total, found = sum(counts), float(whole)
        mean = sum(value * count for value, count in zip(values, counts, strict=True)) / total
        size = max(abs(found), *map(abs, values))
        bound = _tolerance(all_, whole) * size
        holds = {kind for kind, value in (("mean", mean), ("sum", sum(values))) if abs(found - value) <= bound}
        if not self.possible & holds:
            again = float(self.evaluate(all_))
            if again != found and not abs(again - found) <= bound:
                raise ValueError(f"loss must be deterministic, got {found:.6g} and {again:.6g} for the same samples")
            raise ValueError(
                f"{NEITHER}of {total} samples it is {found:.6g}, of the {counts[0]} and {counts[1]} in them "
                f"{values[0]:.6g} and {values[1]:.6g}{self.way_out}"
            )
        self.possible &= holds


def _tolerance(piece: Piece, loss: Tensor) -> float:
    """Return the relative tolerance between two ways to compute one loss."""
    eps = torch.finfo(loss.dtype).eps if loss.is_floating_point() else 0.0
    if not piece.is_output:  # matrix products of several sizes are rounded in several ways
        device = loss.device.type
        fast = torch.finfo(torch.get_autocast_dtype(device)).eps if torch.is_autocast_enabled(device) else 0.0
        eps = max(eps, fast, 1e-5 if loss.dtype != torch.float64 else eps)
    return float(eps**0.6)
