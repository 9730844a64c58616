"""Exact gradients of a loss over a whole batch, in the memory of one part.

Losses of self-supervised learning compare all samples of a batch, so the gradients of parts do not add up to the
gradient of the whole batch. Here each part is encoded twice: first without a graph, to collect the embeddings z of the
whole batch, from which the loss and ∂L/∂z are computed; then with a graph, to propagate ∂L/∂z to the parameters.

Source: Gao et al. 2021 (GradCache, arXiv 2101.06983), for any loss that is a function of embeddings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

Views = tuple[Tensor, Tensor]
"""First and second views of some samples."""


class Parts(Protocol):
    """Parts of a batch: a list, or an object that makes the parts in each iteration."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Views]: ...


def exact_backward(
    model: nn.Module,
    parts: Parts,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[None]] | None = None,
) -> Tensor:
    """Add the gradient of ``loss_function`` over the whole batch to the parameters' gradients.

    Up to rounding, the gradient is the same as if all samples were encoded at once, provided that the model encodes
    samples independently. Batch norm does not: in training it uses the statistics of a part, as with any
    micro-batching, and its running statistics change once per part and view. Dropout is the same both times.

    Under ``torch.distributed`` the batch spans all ranks: embeddings are gathered, every rank computes the same loss,
    and DDP averages gradients to the gradient of this loss. Ranks may have different numbers of samples.

    Args:
        model: maps (n, ...) to (n, D); called with the first views of a part, then with the second views.
        parts: parts of this process; iterated twice, and must return the same views both times.
        loss_function: maps the embeddings (N, D) of first and second views, in float32, to the mean loss.
        backward: called with a scalar for each part instead of ``Tensor.backward``, as Fabric and Accelerate require.
        no_sync: context of DDP, entered for all parts but the last.

    Returns:
        The loss, 0-d, without a graph.

    Raises:
        ValueError: there are no parts.
    """
    if not len(parts):
        raise ValueError("parts must hold at least one pair of views, got none")
    if len(parts) == 1:  # one graph has to fit into memory anyway
        with torch.enable_grad():
            encoded = [(model(first), model(second)) for first, second in parts]
        with_graph = iter(encoded)
    else:
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        # Random states are restored, so that the second encoding draws the same random numbers.
        with torch.random.fork_rng(devices), torch.no_grad(), _still_batch_norm(model):
            encoded = [(model(first), model(second)) for first, second in parts]
        with_graph = ((model(first), model(second)) for first, second in parts)
    loss, gradients = _loss_and_gradients(encoded, loss_function)
    for i, gradient in enumerate(gradients, 1):
        waits = no_sync if no_sync is not None and i < len(gradients) else contextlib.nullcontext
        with waits():
            backward(_inner_product(next(with_graph), gradient))
    return loss


def _inner_product(embeddings: Views, gradients: Views) -> Tensor:
    """Return ⟨z, ∂L/∂z⟩, a scalar whose gradient is the share of these embeddings in the gradient of the loss."""
    return sum((z.float() * g).sum() for z, g in zip(embeddings, gradients, strict=True))  # type: ignore[return-value]


def _loss_and_gradients(
    encoded: list[Views], loss_function: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, list[Views]]:
    """Return the loss over all samples of all ranks, and ∂L/∂z times the number of ranks for each part of this rank."""
    own = [torch.cat([pair[view].detach().float() for pair in encoded]) for view in (0, 1)]
    gathered = [gather(z) for z in own]
    ranks = len(gathered[0])
    start = sum(len(z) for z in gathered[0][: dist.get_rank()]) if ranks > 1 else 0
    whole = [torch.cat(z).requires_grad_() for z in gathered]
    with torch.enable_grad():
        loss = loss_function(*whole)
    gradients = torch.autograd.grad(loss, whole)
    lengths = [len(first) for first, _ in encoded]
    shares = [torch.split(gradient[start : start + sum(lengths)] * ranks, lengths) for gradient in gradients]
    return loss.detach(), list(zip(*shares, strict=True))


def gather(z: Tensor) -> list[Tensor]:
    """Return ``z`` of every rank; lengths may differ between ranks. ``[z]`` for a single rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [z]
    count = torch.tensor([len(z)], device=z.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    lengths = [int(n) for n in counts]
    padded = z.new_zeros(max(lengths), *z.shape[1:])
    padded[: len(z)] = z
    every = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(every, padded)
    return [part[:length] for part, length in zip(every, lengths, strict=True)]


@contextlib.contextmanager
def _still_batch_norm(model: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged in the first encoding, since the second encoding updates them."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    moving = [layer for layer in layers if layer.track_running_stats]
    for layer in moving:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in moving:
            layer.track_running_stats = True
