"""Models: what they are for which images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tvlars.lab import UsageError
from tvlars.lab.models import MODELS, build_model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_every_model_takes_every_image(name: str, channels: int, size: int) -> None:
    model, description = build_model(name, channels, size, 7)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)
    assert description.startswith(name)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in description


def test_resnet18_has_the_stem_that_it_says() -> None:
    small, text = build_model("resnet18", 3, 32, 10)
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(small.maxpool, nn.Identity)
    assert "small-image stem (3x3, stride 1, no max-pool)" in text
    large, text = build_model("resnet18", 1, 224, 10)
    assert (large.conv1.kernel_size, large.conv1.stride, large.conv1.in_channels) == ((7, 7), (2, 2), 1)
    assert "standard stem (7x7, stride 2, max-pool)" in text


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'resnet': did you mean 'resnet18'"):
        build_model("resnet", 1, 8, 10)
