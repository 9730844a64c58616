"""Noise scale of a model."""

from __future__ import annotations

import pytest
import torch

from tvlars.lab import UsageError
from tvlars.lab.measure.noise import measure_noise


def test_few_images_make_small_micro_batches() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.randn(10, 1, 2, 2), torch.randint(0, 3, (10,))
    assert measure_noise(model, images, labels).noise_scale > 0
    with pytest.raises(UsageError, match="at least 4 training images"):
        measure_noise(model, images[:3], labels[:3])
