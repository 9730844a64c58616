"""Stem of a model (its first convolution and max-pool): description, fit to channels, and small version."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvlars.lab.errors import UsageError
from tvlars.lab.models.head import put_head

STEMS = ("standard", "small")
POOLS = ("maxpool", "maxpool1", "features.pool0", "stem.pool")
"""Names of the max-pool of the stem in models of torchvision and timm."""


def fit_stem(model: nn.Module, channels: int, stem: str, name: str, keep: bool = False) -> str:
    """Fit the stem of a model to images of ``channels`` channels, and return a description of the stem.

    Args:
        model: changed in place; the first convolution is replaced if it does not fit.
        stem: "standard", or "small" for a first convolution of 3x3 with stride 1 and no max-pool after it.
        name: name of the model, for errors.
        keep: True if the weights of the first convolution are pretrained: each filter is spread evenly over the new
            channels, so that its output for a grey image stays the same. False: new weights are drawn.

    Returns:
        A description such as "standard stem (7x7, stride 2, max-pool)".

    Raises:
        UsageError: the model has no convolution, or its stem cannot be made small.
    """
    first = next(((path, one) for path, one in model.named_modules() if isinstance(one, nn.Conv2d)), None)
    small = stem == "small"
    if first is None:
        raise UsageError(f"model {name} has no convolution as its stem that could be fitted to the images")
    path, conv = first
    if small and (reason := _why_not_small(conv)):
        raise UsageError(f"stem must be standard for {name}, whose first convolution {reason}, got 'small'")
    if small or conv.in_channels != channels:
        kernel: Any
        stride: Any
        padding: Any
        kernel, stride, padding = (3, 1, 1) if small else (conv.kernel_size, conv.stride, conv.padding)
        made = nn.Conv2d(channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)
        nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
        if made.bias is not None:
            nn.init.zeros_(made.bias)
        if keep and not small:
            _spread(conv, made)
        put_head(model, path, made)
        conv = made
    pool = next((one for one in POOLS if _there(model, one)), None)
    if pool is not None and small:
        put_head(model, pool, nn.Identity())
    pooled = "" if pool is None else ", no max-pool" if small else ", max-pool"
    size = "x".join(map(str, conv.kernel_size))
    return f"{'small-image' if small else 'standard'} stem ({size}, stride {max(conv.stride)}{pooled})"


def _why_not_small(conv: nn.Conv2d) -> str:
    """Return the reason why a first convolution cannot be replaced by one of 3x3 with stride 1; "" if it can."""
    stride, kernel = max(conv.stride), max(conv.kernel_size)
    if type(conv) is not nn.Conv2d:
        return f"is a {type(conv).__name__}"
    if stride == 1:
        return "already has stride 1"
    return f"cuts images into patches of {kernel} x {kernel} pixels" if kernel <= stride else ""


def _spread(before: nn.Conv2d, after: nn.Conv2d) -> None:
    """Copy weights; each filter of ``after`` is the mean filter of ``before``, scaled by the ratio of channels."""
    with torch.no_grad():
        after.weight.copy_(before.weight.mean(1, keepdim=True) * (before.in_channels / after.in_channels))
        if before.bias is not None and after.bias is not None:
            after.bias.copy_(before.bias)


def _there(model: nn.Module, path: str) -> bool:
    """Return True if there is a module at ``path`` that is not an identity."""
    try:
        return not isinstance(model.get_submodule(path), nn.Identity)
    except AttributeError:
        return False
