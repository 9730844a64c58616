"""Views: each step does what it says, per sample, and the same however a batch is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tvlars.cli import main
from tvlars.lab.ssl import ViewRecipe, describe_views, draw_view, make_view, view_recipes

NOTHING = ViewRecipe(min_scale=1.0, flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)


def pictures(count: int = 64, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    return (255 * torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")).to(torch.uint8)


def draws(count: int = 64, seed: int = 1) -> Tensor:
    return draw_view(count, torch.Generator().manual_seed(seed))


def whole(count: int = 64) -> Tensor:
    """Draws whose crop is the whole image: the full area in the image's own ratio."""
    table = draws(count)
    table[:, 0], table[:, 1] = 1.0, 0.5
    return table


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8), (3, 96)])
@pytest.mark.parametrize("which", [0, 1])
def test_views_do_not_depend_on_how_a_batch_is_split(channels: int, size: int, which: int) -> None:
    images, table = pictures(24, channels, size), draws(24)
    recipe = view_recipes(channels, size)[which]
    at_once = make_view(images, table, recipe)
    parts = zip(torch.split(images, 7), torch.split(table, 7), strict=True)
    assert torch.equal(torch.cat([make_view(x, u, recipe) for x, u in parts]), at_once)
    assert at_once.shape == images.shape
    assert at_once.dtype == torch.float32
    assert 0 <= at_once.min() < at_once.max() <= 255


def test_seeds_give_identical_views_and_other_seeds_others() -> None:
    images, recipe = pictures(), view_recipes(3, 32)[1]
    assert torch.equal(make_view(images, draws(seed=3), recipe), make_view(images, draws(seed=3), recipe))
    assert not torch.equal(make_view(images, draws(seed=3), recipe), make_view(images, draws(seed=4), recipe))


def test_nothing_asked_for_changes_nothing() -> None:
    images = pictures()
    before = images.clone()
    torch.testing.assert_close(make_view(images, whole(), NOTHING), images.float(), rtol=0, atol=2e-3)
    assert torch.equal(images, before)


def test_mirrors_some_samples_and_not_others() -> None:
    images = pictures()
    view = make_view(images, whole(), replace(NOTHING, flip=0.5))
    same = (view - images).abs().amax((1, 2, 3)) < 0.01
    mirrored = (view - images.flip(3)).abs().amax((1, 2, 3)) < 0.01
    assert bool((same ^ mirrored).all())
    assert 16 < int(mirrored.sum()) < 48


def test_a_crop_is_a_part_of_its_own_image() -> None:
    """Of a ramp from left to right a crop is a ramp again, over as much of it as the crop is wide."""
    ramp = torch.linspace(0, 255, 64).expand(256, 1, 64, 64)
    view = make_view(ramp, draws(256), replace(NOTHING, min_scale=0.08))
    row = view[:, 0, 32]
    width = (row[:, -1] - row[:, 0]) / 255
    assert bool((row.diff(dim=1) >= -1e-3).all())
    torch.testing.assert_close(view, view[:, :, :1].expand_as(view), rtol=0, atol=1e-2)
    assert width.min() > (0.08 * 3 / 4) ** 0.5 - 0.04
    assert width.min() < 0.5 < 0.9 < width.max() <= 1
    starts = row[:, 0]
    assert starts.max() - starts.min() > 60


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "hue"])
def test_each_part_of_the_jitter_acts_on_its_own(part: str) -> None:
    recipe = replace(NOTHING, jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    images = pictures()
    torch.testing.assert_close(make_view(images, whole(), recipe), images.float(), rtol=0, atol=0.3)
    view = make_view(images, whole(), replace(recipe, **{part: 0.3}))
    assert (view - images).abs().amax((1, 2, 3)).median() > 3
    if part in ("saturation", "hue"):  # gray values have neither
        gray = pictures(channels=1).expand(-1, 3, -1, -1)
        torch.testing.assert_close(
            make_view(gray, whole(), replace(recipe, **{part: 0.3})), gray.float(), rtol=0, atol=0.3
        )


def test_grayscale_leaves_one_value_in_three_channels() -> None:
    view = make_view(pictures(), whole(), replace(NOTHING, grayscale=0.5))
    gray = (view.amax(1) - view.amin(1)).amax((1, 2)) < 0.01
    assert 16 < int(gray.sum()) < 48


def test_blur_smooths_keeps_the_mean_and_reaches_only_those_drawn() -> None:
    noise = torch.randint(0, 256, (32, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = make_view(noise, whole(32), replace(NOTHING, blur=0.5))
    smoothed = view.std((1, 2, 3)) < 0.97 * noise.float().std((1, 2, 3))
    assert 6 < int(smoothed.sum()) < 26
    torch.testing.assert_close(view.mean((1, 2, 3)), noise.float().mean((1, 2, 3)), rtol=0, atol=1.0)


def test_solarize_inverts_bright_values() -> None:
    images = pictures()
    view = make_view(images, whole(), replace(NOTHING, solarize=1.0))
    expected = torch.where(images >= 128, 255 - images.float(), images.float())
    torch.testing.assert_close(view, expected, rtol=0, atol=0.01)


def test_recipes_are_asymmetric_and_reduced_where_images_are_small_or_gray() -> None:
    first, second = view_recipes(3, 224)
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    assert (first.min_scale, first.jitter, first.hue, first.grayscale) == (0.08, 0.8, 0.1, 0.2)
    for recipe in view_recipes(1, 8, flip=False):
        assert (recipe.blur, recipe.hue, recipe.saturation, recipe.grayscale, recipe.flip) == (0, 0, 0, 0, 0)
    text = describe_views(1, 8, flip=False)
    assert "left out: saturation, hue and grayscale (one channel), blur (images below 64 pixels), mirroring" in text
    assert "left out" not in describe_views(3, 224)


def test_the_command_draws_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["views", "digits", "--count", "2", "-o", "out/views.png"]) == 0
    with Image.open("out/views.png") as picture:
        assert picture.width > 800 > picture.height > 100
        assert len(picture.convert("L").getcolors(maxcolors=256) or []) > 50
    out = capsys.readouterr().out
    assert "left out: saturation, hue and grayscale (one channel)" in out
    assert out.endswith("picture: out/views.png\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("digits --seed -1", "seed must be an integer from 0 to 2**63 - 1, got -1"),
        ("digits --count 0", "count must be an integer from 1 to 64 (images), got 0"),
        ("diggits", "unknown data set 'diggits': did you mean 'digits'"),
        ("", "the following arguments are required: DATASET"),
    ],
)
def test_bad_input_of_the_command(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["views", *arguments.split()]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "table", "sentence"),
    [
        (torch.zeros(4, 2, 8, 8), draws(4), r"images must be \(N, 1 or 3, H, W\), got \(4, 2, 8, 8\)"),
        (torch.zeros(4, 8, 8), draws(4), r"images must be .*, got \(4, 8, 8\)"),
        (torch.zeros(4, 1, 8, 8), draws(3), r"draws must be \(4, 14\) for these images, got \(3, 14\)"),
    ],
)
def test_what_does_not_go_together_is_refused(images: Tensor, table: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_view(images, table, ViewRecipe())
