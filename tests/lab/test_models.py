"""Models: what they are for which images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tvlars.lab import UsageError
from tvlars.lab.models import INITS, MODELS, build_model, head_of, put_head
from tvlars.lab.models.stem import fit_stem


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


def test_efficientnet_has_the_stem_that_it_says() -> None:
    for size, stride, words in ((32, 1, "small-image stem (3x3, stride 1)"), (224, 2, "standard stem")):
        model, text = build_model("efficientnet_b0", 3, size, 10)
        assert model.features[0][0].stride == (stride, stride)
        assert words in text


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "efficientnet_b0"])
@pytest.mark.parametrize("init", [name for name in INITS if name != "default"])
def test_init_draws_every_weight_from_its_own_distribution(name: str, init: str) -> None:
    torch.manual_seed(0)
    model, text = build_model(name, 3, 32, 10, init)
    assert text.endswith(f"{init} weights")
    checked = 0
    for module in model.modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        std = math.sqrt(2 / (fan_in + fan_out)) if init.startswith("xavier") else math.sqrt(2 / fan_in)
        w = module.weight.detach()
        if w.numel() > 2000:
            assert w.std().item() == pytest.approx(std, rel=0.1)
            # a uniform draw ends at √3 standard deviations
            assert (w.abs().max().item() <= 1.001 * std * math.sqrt(3)) == init.endswith("uniform")
            checked += 1
        if module.bias is not None:
            assert not module.bias.any()
    assert checked > 3


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'resnet81': did you mean 'resnet18'"):
        build_model("resnet81", 1, 8, 10)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_up_its_head(name: str) -> None:
    model, _ = build_model(name, 1, 28, 7)
    path, head = head_of(model)
    assert head.out_features == 7
    put_head(model, path, nn.Identity())
    assert model.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, head.in_features)
    assert set(model.state_dict()) | {f"{path}.weight", f"{path}.bias"} == set(
        build_model(name, 1, 28, 7)[0].state_dict()
    )


@pytest.mark.parametrize("channels", [1, 6])
def test_pretrained_filters_have_the_same_output_for_grey_images(channels: int) -> None:
    model, grey = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 1, 8, 8)
    before = model(grey.expand(-1, 3, -1, -1))
    assert fit_stem(model, channels, "standard", "model", keep=True).startswith("standard stem")
    torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1)), before)
