"""Two views of each image: the augmentation of Barlow Twins on a whole batch, with separate draws for each sample.

:func:`draw_view` draws for a whole batch, and :func:`make_view` applies the draws to any part of the batch, so that
views do not depend on how the batch is split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grayscale (ITU-R BT.601)."""
MIN_BLURRED = 64
"""Smallest size of images that are blurred, in pixels, as in SimCLR on CIFAR-10 (Chen et al. 2020, appendix B.9)."""
DRAWS = 14
"""Draws per sample, used or not, so that a change of one probability does not change other draws."""


@dataclass(frozen=True)
class ViewRecipe:
    """Recipe of one of the two views.

    Defaults follow Barlow Twins (Zbontar et al. 2021, section 2.2), which uses those of BYOL (Grill et al. 2020,
    appendix B). The two views differ in ``blur`` and ``solarize``.
    """

    min_scale: float = 0.08
    """Smallest share of the image's area in a crop; the largest is 1. The aspect ratio is from 3:4 to 4:3."""
    flip: float = 0.5
    """Probability of mirroring left to right."""
    jitter: float = 0.8
    """Probability of colour jitter."""
    brightness: float = 0.4
    """Half width of the range of factors: from 1 - brightness to 1 + brightness; contrast and saturation likewise."""
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    """Largest rotation of the colour wheel in either direction, in turns."""
    grayscale: float = 0.2
    """Probability of grayscale."""
    blur: float = 1.0
    """Probability of a Gaussian blur with a standard deviation from 0.1 to 2 pixels at size 224."""
    solarize: float = 0.0
    """Probability of inverting values in the upper half of the range."""


def view_recipes(channels: int, image_size: int, flip: bool = True) -> tuple[ViewRecipe, ViewRecipe]:
    """Return the recipes of the two views, reduced for small or gray images.

    Args:
        channels: 1 or 3; with one channel, colours are not changed.
        image_size: pixels per side. Below 64, images are not blurred, and crops keep at least a fifth of the area; up
            to 16, at least half.
        flip: whether mirrored images belong to the same class.
    """
    changes = {k: v for less, _ in _reductions(channels, image_size, flip) for k, v in less.items()}
    first = replace(ViewRecipe(), **changes)
    return first, replace(first, blur=min(first.blur, 0.1), solarize=0.2)


def _reductions(channels: int, image_size: int, flip: bool) -> list[tuple[dict[str, float], str]]:
    """Return changes to the recipe for these images, each with words for the steps that it leaves out."""
    size = {"blur": 0.0, "min_scale": 0.2 if image_size > 16 else 0.5}
    table: list[tuple[bool, dict[str, float], str]] = [
        (channels == 1, dict(saturation=0.0, hue=0.0, grayscale=0.0), "saturation, hue and grayscale (one channel)"),
        (image_size < MIN_BLURRED, size, f"blur (images below {MIN_BLURRED} pixels)"),
        (not flip, dict(flip=0.0), "mirroring (it would change what is shown)"),
    ]
    return [(changes, words) for applies, changes, words in table if applies]


def describe_views(channels: int, image_size: int, flip: bool = True) -> str:
    """Return a line on the steps of the views, and on steps left out for these images.

    Args:
        channels: channels of the images.
        image_size: pixels per side.
        flip: whether images may be mirrored. Default True.
    """
    first, second = view_recipes(channels, image_size, flip)
    parts = [
        f"crops of {first.min_scale:.0%} to 100% of the area",
        "mirroring" if first.flip else "",
        "colour jitter, grayscale" if channels == 3 else "brightness and contrast",
        f"blur ({first.blur:.0%} and {second.blur:.0%})" if first.blur else "",
        f"solarizing (second view, {second.solarize:.0%})",
    ]
    left_out = ", ".join(words for _, words in _reductions(channels, image_size, flip))
    return ", ".join(filter(None, parts)) + (f"; left out: {left_out}" if left_out else "")


def draw_view(count: int, generator: torch.Generator) -> Tensor:
    """Return draws for a view of ``count`` samples: (count, 14), uniform in [0, 1), on the generator's device."""
    return torch.rand(count, DRAWS, generator=generator, device=generator.device)


def make_view(images: Tensor, draws: Tensor, recipe: ViewRecipe) -> Tensor:
    """Return one view of each image.

    Steps in this order, each with its probability: crop (of a random area and ratio of sides, scaled to the image's
    size bilinearly) and mirroring; brightness, contrast, saturation, hue (rotated in YIQ); grayscale; blur; solarizing.

    Args:
        images: (N, C, H, W) with C = 1 or 3, values 0 to 255, any dtype; not modified.
        draws: (N, 14), the rows of these samples from :func:`draw_view`.
        recipe: steps and their probabilities.

    Returns:
        float32 (N, C, H, W), values 0 to 255; each sample depends only on its image and draws.

    Raises:
        ValueError: the shapes do not match, or there are neither 1 nor 3 channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (N, 1 or 3, H, W), got {tuple(images.shape)}")
    if draws.shape != (len(images), DRAWS):
        raise ValueError(f"draws must be ({len(images)}, {DRAWS}) for these images, got {tuple(draws.shape)}")
    area, ratio, top, left, mirror, jitter, brightness, contrast, saturation, hue, gray, blur, sigma, solarize = (
        draws.unbind(1)
    )
    x = _crop(images.float() / 255, area, ratio, top, left, mirror < recipe.flip, recipe.min_scale)
    x = _jitter(x, jitter < recipe.jitter, (brightness, contrast, saturation, hue), recipe)
    if recipe.grayscale and x.shape[1] == 3:
        x = torch.where(_each(gray < recipe.grayscale), _gray(x), x)
    if recipe.blur:
        chosen = (blur < recipe.blur).nonzero().squeeze(1)
        x = x.index_copy(0, chosen, _blur(x[chosen], sigma[chosen])) if len(chosen) else x
    if recipe.solarize:
        x = torch.where(_each(solarize < recipe.solarize) & (x >= 0.5), 1 - x, x)
    return x.clamp(0, 1) * 255  # against rounding of interpolation and blur


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _crop(
    x: Tensor, area: Tensor, ratio: Tensor, top: Tensor, left: Tensor, mirror: Tensor, min_scale: float
) -> Tensor:
    """Return crops scaled to the size of ``x``; sides are at most those of the image."""
    share = min_scale + (1 - min_scale) * area
    sides = torch.exp((2 * ratio - 1) * math.log(4 / 3))
    width, height = (share * sides).sqrt().clamp(max=1.0), (share / sides).sqrt().clamp(max=1.0)
    # affine_grid's coordinates go from -1 to 1: the centre of a crop of width w is at least w away from the ends.
    across, down = (2 * left - 1) * (1 - width), (2 * top - 1) * (1 - height)
    zero = torch.zeros_like(width)
    rows = [torch.stack([torch.where(mirror, -width, width), zero, across], 1), torch.stack([zero, height, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _gray(x: Tensor) -> Tensor:
    """Return gray values, (N, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    gray: Tensor = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return gray


def _jitter(x: Tensor, chosen: Tensor, draws: tuple[Tensor, ...], recipe: ViewRecipe) -> Tensor:
    spread = (recipe.brightness, recipe.contrast, recipe.saturation)
    # Without jitter, factors are 1 and the turn is 0.
    factors = [torch.where(chosen, 1 + (2 * u - 1) * by, 1.0) for u, by in zip(draws, spread, strict=False)]
    brightness, contrast, saturation = (_each(factor) for factor in factors)
    x = (x * brightness).clamp(0, 1)
    x = torch.lerp(_gray(x).mean((2, 3), keepdim=True), x, contrast).clamp(0, 1)
    if x.shape[1] == 1 or not (recipe.saturation or recipe.hue):
        return x
    x = torch.lerp(_gray(x), x, saturation).clamp(0, 1)
    turn = 2 * math.pi * torch.where(chosen, (2 * draws[3] - 1) * recipe.hue, 0.0)
    return torch.einsum("nij,njhw->nihw", _hue_turns(turn), x).clamp(0, 1)


def _hue_turns(angles: Tensor) -> Tensor:
    """Return matrices (N, 3, 3) that rotate colours about the gray axis of YIQ, which leaves gray unchanged."""
    to_yiq = angles.new_tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    cos, sin, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    rows = [torch.stack(row, 1) for row in ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos))]
    turns: Tensor = torch.linalg.inv(to_yiq) @ torch.stack(rows, 1) @ to_yiq
    return turns


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Return ``x`` after a separable Gaussian blur with one standard deviation per sample."""
    n, channels, height, width = x.shape
    scale = width / 224
    sigmas = (0.1 + 1.9 * sigma) * scale
    reach = max(math.ceil(3 * 2.0 * scale), 1)
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernels = torch.softmax(-(offsets**2) / (2 * sigmas[:, None] ** 2), 1).repeat_interleave(channels, 0)
    flat = x.reshape(1, n * channels, height, width)
    flat = F.pad(flat, (reach, reach, reach, reach), mode="reflect")
    flat = F.conv2d(flat, kernels[:, None, None, :], groups=n * channels)
    return F.conv2d(flat, kernels[:, None, :, None], groups=n * channels).reshape(x.shape)
