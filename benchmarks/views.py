"""Speed of making two views: ours, kornia's and torchvision's, on 32 x 32 colour images, in one run.

    pip install '.[lab,bench]'
    python benchmarks/views.py

All make the views of Barlow Twins at this size: random resized crop, mirroring, colour jitter, grayscale; the
second solarizes a fifth besides. kornia takes a batch with parameters for each sample, torchvision v2 a sample at
a time (on a batch it would draw one set of parameters for all). A turn makes both views of a batch. kornia is left out
where it is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from harness import Turn, asked, options, ratios, spread, timed
from torch import Tensor
from workloads import pil_views

from tvlars.lab.ssl import ViewRecipe, draw_view, make_view, view_recipes

SIZE = 32
OURS = "tvlars"
Make = Callable[[Tensor], Any]


def ours(recipe: ViewRecipe) -> Make:
    """Return the laboratory's views."""
    generator = torch.Generator().manual_seed(0)
    return lambda images: make_view(images, draw_view(len(images), generator), recipe)


def kornias(recipe: ViewRecipe) -> Make:
    """Return kornia's views."""
    import kornia.augmentation as K

    made = torch.nn.Sequential(
        K.RandomResizedCrop((SIZE, SIZE), scale=(recipe.min_scale, 1.0)),
        K.RandomHorizontalFlip(recipe.flip),
        K.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue, p=recipe.jitter),
        K.RandomGrayscale(p=recipe.grayscale),
        K.RandomSolarize(0.0, 0.0, p=recipe.solarize),
    )
    return lambda images: made(images.float() / 255)


def torchvisions(recipe: ViewRecipe) -> Make:
    """Return torchvision's views."""
    made = pil_views(recipe, SIZE)
    return lambda images: torch.stack([made(image) for image in images])


MAKERS = {OURS: ours, "kornia": kornias, "torchvision v2": torchvisions}


def turns(images: Tensor) -> dict[str, Turn]:
    """Return a turn by library."""
    found: dict[str, Turn] = {}
    for name, maker in MAKERS.items():
        try:
            pair = [maker(recipe) for recipe in view_recipes(3, SIZE)]
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        found[name] = partial(timed, partial(both, pair, images))
    return found


def both(pair: Sequence[Make], images: Tensor) -> None:
    """Make both views."""
    for make in pair:
        make(images)


def main() -> None:
    parser = options(__doc__, ["views"], count=15, devices=False)
    parser.add_argument("--batch-size", type=int, default=1024)
    arguments = parser.parse_args()
    for results, name in asked(arguments):
        table = results.table(name, batch_size=arguments.batch_size)
        images = torch.randint(0, 256, (arguments.batch_size, 3, SIZE, SIZE), dtype=torch.uint8)
        times = results.measure(table, turns(images))
        for each, seconds in times.items():
            cells = {"views/s": spread([2 * len(images) / s for s in seconds])}
            results.row(table, each, **cells, **{"to ours": ratios(times[OURS], seconds)})


if __name__ == "__main__":
    main()
