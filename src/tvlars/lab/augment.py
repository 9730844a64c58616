"""Augmentation of a whole batch at once, with a draw of its own for every sample, on the device it lies on."""

from __future__ import annotations

import torch
from torch import Tensor


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crops of zero-padded images, each mirrored with probability 1/2 where ``flip``.

    Args:
        images: (N, C, H, W), any dtype; not modified.
        padding: pixels >= 0 added on every side before a crop of H x W is taken.
        flip: whether samples are mirrored left to right.
        generator: source of the draws; on the device of ``images``.

    Returns:
        A tensor of the shape and dtype of ``images``.
    """
    n, _, height, width = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=device)

    rows = draw(2 * padding + 1) + torch.arange(height, device=device)
    columns = draw(2 * padding + 1) + torch.arange(width, device=device)
    if flip:
        columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    samples = torch.arange(n, device=device)
    # One gather; with the channel index between, the result comes as (N, H, W, C).
    cropped = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def rotate(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Each image turned about its middle by an angle of its own, drawn evenly between -degrees and degrees.

    Args:
        images: (N, C, H, W), any dtype; not modified.
        degrees: >= 0.
        generator: source of the draws; on the device of ``images``.

    Returns:
        A float32 tensor of the shape of ``images``, interpolated bilinearly, 0 where an image does not reach.
    """
    n, _, height, width = images.shape
    draws = torch.rand(n, generator=generator, device=images.device)
    angles = torch.deg2rad((2 * draws - 1) * degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # affine_grid's coordinates run from -1 to 1 along both sides, whatever their length.
    rows = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images.float(), grid, align_corners=False)
