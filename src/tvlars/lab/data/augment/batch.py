"""Augmentation of a whole batch at once, with separate draws for each sample, on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_crops(count: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return draws for :func:`crop_and_flip` of ``count`` samples: (count, 3), on the generator's device.

    Args:
        count: number of samples of a whole batch, so that crops do not depend on how the batch is split.
        padding: pixels >= 0 added on every side.
        flip: whether half of the samples are mirrored.
        generator: source of the draws.
    """

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=generator.device)

    columns = [draw(2 * padding + 1), draw(2 * padding + 1)]
    return torch.cat([*columns, draw(2) if flip else torch.zeros_like(columns[0])], 1)


def crop_and_flip(images: Tensor, padding: int, draws: Tensor) -> Tensor:
    """Return crops of zero-padded images, some of them mirrored left to right.

    Args:
        images: (N, C, H, W), any dtype; not modified.
        padding: pixels >= 0 added on every side before a crop of H x W is taken.
        draws: (N, 3), the rows of these samples from :func:`draw_crops` with the same padding.

    Returns:
        A tensor with the shape and dtype of ``images``.
    """
    n, _, height, width = images.shape
    device = images.device
    down, right, mirror = draws[:, :1], draws[:, 1:2], draws[:, 2:]
    rows = down + torch.arange(height, device=device)
    columns = right + torch.arange(width, device=device)
    columns = torch.where(mirror == 1, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    samples = torch.arange(n, device=device)
    # One gather; the result is (N, H, W, C), since the channel index is between the other indices.
    cropped = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def rotate(images: Tensor, degrees: float, draws: Tensor) -> Tensor:
    """Return images rotated about their centres by angles that are uniform between -degrees and degrees.

    Args:
        images: (N, C, H, W), any dtype; not modified.
        degrees: >= 0.
        draws: (N,), uniform in [0, 1).

    Returns:
        A float32 tensor with the shape of ``images``, interpolated bilinearly, 0 outside an image.
    """
    height, width = images.shape[2:]
    angles = torch.deg2rad((2 * draws - 1) * degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # affine_grid's coordinates go from -1 to 1 along both sides, whatever their lengths.
    rows = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images.float(), grid, align_corners=False)
