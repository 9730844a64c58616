"""Slices of a loss: along random directions through the weights, and on the line between two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from tvlars._checks import check_count, check_number
from tvlars._notebook import Line, page, picture
from tvlars.sharpness._surface import Batches, Loss, LossSurface, draw, seeded


@dataclass(frozen=True)
class Slice:
    """``losses`` [points] or [points, points] at the ``positions`` [points] along each direction."""

    positions: Tensor
    losses: Tensor

    def __repr__(self) -> str:
        sizes, low, high = " x ".join(map(str, self.losses.shape)), self.losses.min().item(), self.losses.max().item()
        return f"Slice({sizes} points, losses from {low:.4g} to {high:.4g})"

    def _repr_html_(self) -> str | None:
        """Return the losses along one direction as a picture, for notebooks."""
        if self.losses.ndim > 1:
            return None
        return page(picture([Line(self.positions.tolist(), self.losses.tolist())], "loss", "position"))


def loss_slice(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    dimensions: int = 1,
    span: float = 1.0,
    points: int = 21,
    seed: int = 0,
) -> Slice:
    """Return the loss along one or two random, filter-normalized directions through the weights.

    A direction is drawn from a normal distribution, and each of its filters is scaled to the norm of the filter of the
    weights in its place (a filter is what makes one output: a row of a linear layer, an output channel of a
    convolution). Parameters of one dimension (biases, most norms) stay where they are. So slices of different models
    can be compared.

    Args:
        model, loss, data: as for :func:`hessian_eigenvalues`. The model is left as it was, bit for bit.
        dimensions: 1 (default) or 2.
        span: > 0; positions go from -span to span, in units of the weights' own norms. Default 1.0.
        points: points per direction, >= 2; odd numbers include the weights themselves. Default 21.
        seed: seed of the directions; the same seed and model shapes give the same directions.

    Raises:
        ValueError: an argument is out of its range, or no parameter needs a gradient.

    Source: Li et al., "Visualizing the Loss Landscape of Neural Nets", arXiv 1712.09913.
    """
    if dimensions not in (1, 2) or isinstance(dimensions, bool):
        raise ValueError(f"dimensions must be 1 or 2, got {dimensions!r}")
    check_number("span", span, open_low=True)
    check_count("points", points, low=2)
    positions = torch.linspace(-span, span, points, dtype=torch.float64, device="cpu")
    with LossSurface(model, loss, data) as surface:
        surface.value([surface.shares()[0][0]])  # raises if the loss at the weights is not finite
        generator = seeded(surface, seed)
        directions = [_filter_normalized(draw(surface, generator), surface.params) for _ in range(dimensions)]
        losses = torch.empty((points,) * dimensions, dtype=torch.float64, device="cpu")
        for place in product(range(points), repeat=dimensions):
            shifts = [[float(positions[i]) * d for d in ds] for i, ds in zip(place, directions, strict=True)]
            with surface.moved([sum(parts[1:], parts[0]) for parts in zip(*shifts, strict=True)]):
                losses[place] = surface.value()
    return Slice(positions, losses)


def loss_between(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    *,
    points: int = 21,
    margin: float = 0.0,
) -> Slice:
    """Return the loss on the straight line between two checkpoints of one model: at 0 the first, at 1 the second.

    Floating point buffers (the running statistics of batch norm) are interpolated too; other buffers are taken from the
    nearer end.

    Args:
        model, loss, data: as for :func:`hessian_eigenvalues`. The model is left as it was, bit for bit.
        start, end: state dicts of this model.
        points: >= 2, evenly spaced. Default 21.
        margin: >= 0, how far the line extends beyond both ends. Default 0.0.

    Raises:
        ValueError: an argument is out of its range, or a state dict is not this model's (what differs is named).
    """
    check_count("points", points, low=2)
    check_number("margin", margin)
    own = dict(model.state_dict())
    for name, state in (("start", start), ("end", end)):
        wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
        if wrong:
            raise ValueError(
                f"{name} must be a state dict of this model, got one that differs in {', '.join(wrong[:5])}"
            )
    # A model's own state dict is its parameters, which are about to move.
    start, end = ({key: value.detach().clone() for key, value in state.items()} for state in (start, end))
    positions = torch.linspace(-margin, 1.0 + margin, points, dtype=torch.float64, device="cpu")
    losses = torch.empty(points, dtype=torch.float64, device="cpu")
    frozen = {key: value.detach().clone() for key, value in own.items()}  # frozen parameters move as well
    with LossSurface(model, loss, data) as surface:
        surface._at_rest = False  # a loss that is not finite on the way is a result
        try:
            for i, t in enumerate(positions.tolist()):
                with torch.no_grad():
                    for key, value in own.items():
                        a, b = start[key].to(value.device), end[key].to(value.device)
                        value.copy_(torch.lerp(a, b, t) if value.is_floating_point() else (a if t < 0.5 else b))
                losses[i] = surface.value()
        finally:
            with torch.no_grad():
                for key, value in own.items():
                    value.copy_(frozen[key])
    return Slice(positions, losses)


def _filter_normalized(direction: list[Tensor], params: list[nn.Parameter] | list[Tensor]) -> list[Tensor]:
    result = []
    for d, p in zip(direction, params, strict=True):
        if p.ndim < 2:
            result.append(torch.zeros_like(d))
            continue
        rows, filters = d.flatten(1), p.detach().flatten(1)
        length = rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
        result.append((rows / length * filters.norm(dim=1, keepdim=True)).view_as(d))
    return result
