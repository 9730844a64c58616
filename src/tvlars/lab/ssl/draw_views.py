"""Picture of views for visual inspection: ``tvlars views``."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tvlars.lab.data import ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.files.marked import check_output, mark, write_output
from tvlars.lab.ssl.views import describe_views, draw_view, make_view, view_recipes

EACH = 4
"""Number of samples of each of the two views."""


def draw_views(data: ImageData, file: Path, count: int = 8, seed: int = 0) -> Path:
    """Write a PNG with ``count`` training images, each with some of its first and second views.

    Args:
        data: the data set.
        file: a new file, or an earlier picture of views. The name must end in .png; the folder is created if needed.
        count: number of different images, from 1 to 64. Default 8.
        seed: seed of the choice of images and of the views. Default 0.

    Raises:
        UsageError: ``count`` or ``seed`` is out of range, images have neither 1 nor 3 channels, or ``file`` is
            another file, has another suffix or cannot be written.
    """
    made_by = mark("views")
    check_output(file, "out", (".png",), (f"Software\0{made_by}".encode(),))
    write_output(file, picture_of_views(data, count, seed, made_by), "out")
    return file


def picture_of_views(data: ImageData, count: int = 8, seed: int = 0, made_by: str = mark("train")) -> bytes:
    """Return the picture of :func:`draw_views` as PNG with the mark ``made_by``; errors are as for this function."""
    from matplotlib.figure import Figure

    most = min(64, len(data.train_labels))
    if not 1 <= count <= most:
        raise UsageError(f"count must be an integer from 1 to {most} (images), got {count}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed must be an integer from 0 to 2**63 - 1, got {seed}")
    if data.channels not in (1, 3):
        raise UsageError(f"views need images of 1 or 3 channels, but {data.name} has {data.channels}")
    generator = torch.Generator().manual_seed(seed)
    images = data.train_images[torch.randperm(len(data.train_labels), generator=generator, device="cpu")[:count]]
    first, second = view_recipes(data.channels, data.image_size, data.flip)
    columns = [("image", images.float())]
    for name, recipe in (("first view", first), ("second view", second)):
        columns += [(name, make_view(images, draw_view(count, generator), recipe)) for _ in range(EACH)]
    gap = max(data.image_size // 16, 1)
    rows = torch.cat([_column(pictures, gap) for _, pictures in columns], dim=2)[:, :-gap, :-gap]
    figure = Figure(figsize=(len(columns), 1.02 * count + 0.7), layout="constrained")  # keeps the caller's backend
    axes = figure.subplots()
    figure.suptitle(f"{data.name}: {describe_views(data.channels, data.image_size, data.flip)}", fontsize=7, wrap=True)
    shown = rows.permute(1, 2, 0).squeeze(2) if data.channels == 1 else rows.permute(1, 2, 0)
    axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    centers = [j * (data.image_size + gap) + (data.image_size - 1) / 2 for j in range(len(columns))]
    axes.set_xticks(centers, [name for name, _ in columns], fontsize=8)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png", metadata={"Software": made_by})
    return content.getvalue()


def _column(pictures: Tensor, gap: int) -> Tensor:
    """Stack pictures (n, channels, height, width), each with ``gap`` white pixels below and beside the picture."""
    apart = F.pad(pictures.clamp(0, 255).to(torch.uint8), (0, gap, 0, gap), value=255)
    return torch.cat(list(apart), dim=1)
