"""Gradient noise scale of a model in training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.rows import NoiseRow
from tvlars.noise_scale import noise_scale

NOISE_MICRO_BATCHES, NOISE_MICRO_BATCH = 32, 64
NOISE_SAMPLES = NOISE_MICRO_BATCHES * NOISE_MICRO_BATCH


def measure_noise(model: nn.Module, images: Tensor, labels: Tensor, *, epoch: int = 0, step: int = 0) -> NoiseRow:
    """Measure the noise scale of the cross-entropy on up to 32 micro-batches of up to 64 normalized images.

    Raises:
        UsageError: there are fewer than 4 images.
    """
    size = min(NOISE_MICRO_BATCH, len(labels) // 4)
    if size < 1:
        raise UsageError(f"noise_scale needs at least 4 training images, got {len(labels)}")
    count = min(NOISE_MICRO_BATCHES, len(labels) // size) * size
    batches = list(zip(torch.split(images[:count], size), torch.split(labels[:count], size), strict=True))
    found = noise_scale(model, F.cross_entropy, batches)
    return NoiseRow(epoch, step, found.value, found.low, found.high, found.trace, found.gradient_square)
