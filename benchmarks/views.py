"""Speed of making two views: ours, kornia's and torchvision's, on 32 x 32 colour images, in one run.

    pip install '.[lab,bench]'
    python benchmarks/views.py

All make the views of Barlow Twins at this size: random resized crop, mirroring, colour jitter, grayscale; the
second solarizes a fifth besides. kornia takes a batch with parameters for each sample, torchvision v2 a sample at
a time (on a batch it would draw one set of parameters for all). Each round times all three, in turn; printed are
medians over rounds and quartiles of views per second, and of ratios to ours within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision.transforms import v2

from tvlars.lab.ssl import ViewRecipe, draw_view, make_view, view_recipes


def ours(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda images: make_view(images, draw_view(len(images), generator), recipe)


def kornias(recipe: ViewRecipe, size: int) -> Callable[[Tensor], Tensor]:
    made = torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(recipe.min_scale, 1.0)),
        K.RandomHorizontalFlip(recipe.flip),
        K.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue, p=recipe.jitter),
        K.RandomGrayscale(p=recipe.grayscale),
        K.RandomSolarize(0.0, 0.0, p=recipe.solarize),
    )
    return lambda images: made(images.float() / 255)


def torchvisions(recipe: ViewRecipe, size: int) -> Callable[[Tensor], Tensor]:
    jitter = v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    made = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(recipe.min_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(recipe.flip),
            v2.RandomApply([jitter], recipe.jitter),
            v2.RandomGrayscale(recipe.grayscale),
            v2.RandomSolarize(128, recipe.solarize),
        ]
    )
    return lambda images: torch.stack([made(image) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=1024)
    arguments = parser.parse_args()
    images = torch.randint(0, 256, (arguments.batch_size, 3, 32, 32), dtype=torch.uint8)
    recipes = view_recipes(3, 32)
    makers = {
        "tvlars": [ours(recipe) for recipe in recipes],
        "kornia": [kornias(recipe, 32) for recipe in recipes],
        "torchvision v2": [torchvisions(recipe, 32) for recipe in recipes],
    }
    speeds: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(arguments.rounds + 1):
        for name, pair in makers.items():
            start = time.perf_counter()
            for make in pair:
                make(images)
            if turn:  # the first round warms up
                speeds[name].append(2 * len(images) / (time.perf_counter() - start))
    print("| | views/s | to ours |\n|---|---|---|")
    for name, found in speeds.items():
        ratios = [one / other for one, other in zip(found, speeds["tvlars"], strict=True)]
        print(f"| {name} | {spread(found, ',.0f')} | {spread(ratios, '.2f')} |")


def spread(values: list[float], form: str) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
