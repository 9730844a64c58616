"""Losses of (model, batch), for batches of any form: dictionaries, tuples, tensors."""

from __future__ import annotations

import copy
import inspect
import math
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only


@dataclass(frozen=True)
class BatchLoss:
    """Loss of a model on a batch of any form: a dictionary, a tuple, a tensor.

    A plain function whose first argument is named ``model`` is treated as such a loss without this class, which is for
    functions with other arguments, and for batches whose number of samples cannot be read from their tensors.

    Args:
        function: (model, batch) to a scalar, the mean over the samples of the batch (or their sum, which is detected);
            or to a pair of a mean and its denominator, such as the number of tokens that are not ignored.
        samples: batch to its number of samples. None (default): the length of its tensors, which must have one.

    Example:
        >>> loss = BatchLoss(lambda net, graph: F.mse_loss(net(graph), graph.y), samples=lambda graph: graph.num_graphs)
    """

    function: Callable[[Any, Any], Any]
    samples: Callable[[Any], int] | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function must be a function of (model, batch), got {type(self.function).__name__}")


def as_batch_loss(loss: Any) -> BatchLoss | None:
    """Return ``loss`` as a loss of (model, batch), None if it is one of (output, target)."""
    if isinstance(loss, BatchLoss):
        return loss
    try:
        names = list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters)
    except (TypeError, ValueError):  # builtins have no signature
        return None
    return BatchLoss(loss) if names[:1] == ["model"] else None


def samples_of_batch(loss: BatchLoss, batch: Any) -> int:
    """Return the number of samples of a batch."""
    if loss.samples is not None:
        found = loss.samples(batch)
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise ValueError(f"samples must return the number of samples of a batch, got {found!r}")
        return found
    lengths = lengths_of(batch)
    if len(lengths) != 1:
        got = f"tensors of lengths {', '.join(map(str, lengths))}" if lengths else "none"
        raise ValueError(
            f"data must be batches of tensors with one entry per sample, got {got}: give the number of samples by "
            "BatchLoss(function, samples=...)"
        )
    return lengths[0]


class LossOfBatch(nn.Module):
    """Module from a batch to its loss: a model and the function of a :class:`BatchLoss`."""

    def __init__(self, model: nn.Module, loss: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self._function = [loss.function]  # in a list, so that a module in it is not registered as a part of this one

    def forward(self, batch: Any) -> Any:
        return self.with_denominator(batch)[0]

    def with_denominator(self, batch: Any) -> tuple[Any, float | None]:
        """Return the loss of a batch and its denominator, None if the function does not return one."""
        found = self._function[0](self.model, batch)
        if not isinstance(found, (tuple, list)):
            return found, None
        if len(found) == 2:
            count = found[1]
            if isinstance(count, Tensor) and count.numel() == 1:
                count = count.detach().item()
            if isinstance(count, (int, float)) and not isinstance(count, bool) and 0 <= count < math.inf:
                return found[0], float(count)
        raise ValueError(
            "loss must return a scalar tensor, or a pair of one and the number >= 0 that it divides by, got "
            f"({', '.join(_said(part) for part in found)})"
        )


def _said(x: Any) -> str:
    if isinstance(x, Tensor) and x.numel() != 1:
        return f"tensor of shape {tuple(x.shape)}"
    return f"{float(x):g}" if isinstance(x, (int, float, Tensor)) else type(x).__name__


# -- tensors in anything ---------------------------------------------------------------------------------------------


def leaves(x: Any) -> list[Any]:
    """Return the leaves of nested dicts, lists and tuples, and of dictionaries of transformers."""
    return tree_flatten(x.data if isinstance(x, UserDict) else x)[0]


def lengths_of(batch: Any) -> list[int]:
    """Return the distinct lengths of a batch's tensors, without scalars: one if all have an entry for each sample."""
    return sorted({len(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim})


def map_tensors(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Return ``x`` with ``function`` applied to all tensors in it."""
    if isinstance(x, UserDict):
        return rebuilt(x, tree_map_only(Tensor, function, x.data))
    return tree_map_only(Tensor, function, x)


def rebuilt(x: UserDict[Any, Any], data: dict[Any, Any]) -> Any:
    """Return a copy of ``x`` with other ``data``."""
    made = copy.copy(x)
    made.data = data
    return made


def to_device(x: Any, device: torch.device) -> Any:
    """Return ``x`` with all tensors in it on ``device``."""
    if not isinstance(x, (Tensor, dict, list, tuple, UserDict)) and hasattr(x, "to"):
        return x.to(device)
    return map_tensors(lambda tensor: tensor.to(device), x)
