"""Augmentation: every sample gets a crop of its own, and nothing but a crop."""

from __future__ import annotations

import pytest
import torch

from tvlars.lab.data.augment.batch import crop_and_flip, draw_crops, rotate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_padding_or_flip_it_is_the_identity() -> None:
    images = torch.randint(256, (5, 3, 6, 7), dtype=torch.uint8)
    assert torch.equal(crop_and_flip(images, 0, draw_crops(5, 0, False, generator())), images)


@pytest.mark.parametrize("flip", [False, True])
def test_every_result_is_a_crop_of_its_own_image(flip: bool) -> None:
    images = torch.randint(1, 256, (64, 2, 5, 6), dtype=torch.uint8)
    before = images.clone()
    out = crop_and_flip(images, 2, draw_crops(64, 2, flip, generator()))
    assert torch.equal(images, before)
    assert out.dtype == torch.uint8
    seen = set()
    for image, result in zip(images, out, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        found = None
        for dy in range(5):
            for dx in range(5):
                crop = padded[:, dy : dy + 5, dx : dx + 6]
                for mirrored in (False, True):
                    if torch.equal(result, crop.flip(2) if mirrored else crop):
                        found = (dy, dx, mirrored)
        assert found is not None
        seen.add(found)
    assert len(seen) > 15  # a draw a sample
    assert {mirrored for *_, mirrored in seen} == ({False, True} if flip else {False})


def test_the_generator_alone_decides() -> None:
    first, same, other = (draw_crops(8, 2, True, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_batch_is_augmented_the_same_however_it_is_split() -> None:
    images = torch.randint(256, (10, 1, 8, 8), dtype=torch.uint8)
    draws = draw_crops(10, 2, True, generator())
    parts = [crop_and_flip(images[i : i + 3], 2, draws[i : i + 3]) for i in range(0, 10, 3)]
    assert torch.equal(torch.cat(parts), crop_and_flip(images, 2, draws))


def test_rotation_by_nothing_is_the_identity() -> None:
    images = torch.randint(256, (5, 3, 6, 7), dtype=torch.uint8)
    torch.testing.assert_close(
        rotate(images, 0.0, torch.rand(5, generator=generator())), images.float(), rtol=0, atol=1e-2
    )


def test_rotation_turns_each_image_by_its_own_angle() -> None:
    """A bar through the middle: where its ends come to lie tells the angle, on oblong images too."""
    images = torch.zeros(200, 1, 41, 61)
    images[:, :, 20, 10:51] = 255.0
    out = rotate(images, 20.0, torch.rand(200, generator=generator()))
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(61.0) - 30, indexing="ij")
    moments = [(out[:, 0] * m).sum((1, 2)) for m in (x * x, x * y, y * y)]
    angles = torch.rad2deg(0.5 * torch.atan2(2 * moments[1], moments[0] - moments[2]))
    assert angles.abs().max() <= 20.1
    assert angles.min() < -15
    assert angles.max() > 15
    assert angles.std().item() == pytest.approx(20 / 3**0.5, rel=0.15)
    lengths = ((moments[0] + moments[2]) / out.sum((1, 2, 3))).sqrt()
    torch.testing.assert_close(lengths, lengths.mean().expand(200), rtol=0.05, atol=0)
