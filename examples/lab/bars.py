"""Data of one's own for ``tvlars train --data examples/lab/bars.py:load``: bars that lie or stand, as PIL images."""

import numpy as np
from PIL import Image


class Bars:
    classes = ("lying", "standing")

    def __init__(self, seed: int, count: int, size: int) -> None:
        self.places = np.random.default_rng(seed).integers(0, size, count)
        self.size = size

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = np.zeros((self.size, self.size), np.uint8)
        pixels[self.places[index]] = 255
        label = index % 2
        return Image.fromarray(pixels.T.copy() if label else pixels), label


def load(image_size: int = 12) -> tuple[Bars, Bars]:
    return Bars(0, 512, image_size), Bars(1, 128, image_size)
