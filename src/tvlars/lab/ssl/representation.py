"""Measures of collapse and of features on the unit sphere, logged after each epoch of pretraining."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(x: Tensor) -> float:
    """Return √d times the mean standard deviation of the coordinates of x / ‖x‖: 1 if directions are uniform, 0 if
    all are equal (Chen and He 2021, section 4.1).

    Args:
        x: (n, d).
    """
    return float(F.normalize(x, dim=1).std(0, correction=0).mean()) * math.sqrt(x.shape[1])


def effective_rank(x: Tensor) -> float:
    """Return exp of the entropy of the normalized singular values of centred x (Roy and Vetterli 2007).

    The result is from 1 to d; 0 if all rows are equal, NaN if a value is not finite.

    Args:
        x: (n, d).
    """
    if not torch.isfinite(x).all():
        return math.nan
    wide = x.cpu().double()  # some accelerators have no float64
    values = torch.linalg.svdvals(wide - wide.mean(0))
    if values.sum() <= 1e-9 * wide.norm():
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of two views on the unit sphere; 0 is best (Wang and Isola 2020, eq. 1)."""
    return float((F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).mean())


def uniformity(x: Tensor) -> float:
    """Return log of the mean of exp(−2 ‖x_i − x_j‖²) over pairs on the unit sphere; lower is more uniform (eq. 2)."""
    if len(x) < 2:
        return math.nan
    return float(torch.pdist(F.normalize(x.cpu(), dim=1)).square().mul(-2).exp().mean().log())
