"""Samples of users' Datasets in any usual form: an image as uint8 pixels (C, H, W), and a label as an integer."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tvlars._checks import shown
from tvlars.lab.data.pixels import BadImageError, as_rgb, scaled
from tvlars.lab.errors import UsageError

IMAGES = ("image", "img", "pixel_values")
LABELS = ("label", "labels", "fine_label", "target")
"""Keys of dictionaries, as in Hugging Face's data sets; the first existing key is used."""
GREY = ("1", "L")
FEW = 4
"""Largest size by which a dimension is recognized as channels."""
FORMS = "a PIL image, or a tensor or array of uint8 values from 0 to 255, (C, H, W), (H, W, C) or (H, W)"


def first_key(names: Any, wanted: tuple[str, ...]) -> str | None:
    """Return the first of the ``wanted`` keys that exists."""
    return next((key for key in wanted if key in names), None)


def pair_of(sample: Any, at: str) -> tuple[Any, Any]:
    """Return the image and label of a sample; ``at`` names the sample, for example "training image 7".

    Raises:
        UsageError: the sample is neither a pair nor a dictionary with both.
    """
    if isinstance(sample, Mapping):
        image, label = first_key(sample, IMAGES), first_key(sample, LABELS)
        if image is None or label is None:
            raise UsageError(
                f"{at} must be a dictionary with an image ({', '.join(IMAGES)}) and a label ({', '.join(LABELS)}), got "
                f"the keys {', '.join(map(str, sample))}"
            )
        return sample[image], sample[label]
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    what = f"{len(sample)} values" if isinstance(sample, tuple | list) else shown(sample)
    raise UsageError(f"{at} must be a pair of image and label, or a dictionary of them, got {what}")


def image_of(image: Any, at: str) -> Image.Image | Tensor:
    """Return an image as PIL image of mode L or RGB, or as tensor uint8 (C, H, W).

    Raises:
        UsageError: the image has no defined pixels.
    """
    if isinstance(image, Image.Image):
        if image.mode in GREY and "transparency" not in image.info:
            return image.convert("L")
        try:
            return as_rgb(image, image.mode.startswith("I"))
        except BadImageError as error:
            raise UsageError(f"{at} cannot be used: {error}") from error
    if isinstance(image, list):  # Hugging Face's arrays
        try:
            values = np.asarray(image)
        except ValueError:
            values = np.zeros(0)
        if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() <= 255:
            image = values.astype(np.uint8)
    if not isinstance(image, Tensor | np.ndarray):
        raise UsageError(f"{at} must be {FORMS}, got {shown(image)}")
    is_array = isinstance(image, np.ndarray)
    if image.dtype not in (torch.uint8, np.uint8):
        way = "" if image.ndim not in (2, 3) or str(image.dtype)[-2:] == "64" else (
            ": leave ToTensor() and Normalize() out of the Dataset's transform, since images are normalized here, or "
            "give DataLoaders as loaders=, whose batches are used unchanged"
        )  # fmt: skip
        raise UsageError(f"{at} must be {FORMS}, got values of {image.dtype}{way}")
    shape = tuple(image.shape)
    tensor = (
        torch.from_numpy(np.ascontiguousarray(image))
        if isinstance(image, np.ndarray)
        else image.as_subclass(Tensor).cpu()
    )
    if len(shape) == 2 and 0 not in shape:
        return tensor[None]
    if len(shape) == 3 and 0 not in shape:
        last = _channels_are_last(shape, is_array)
        if last is not None:
            return tensor.permute(2, 0, 1) if last else tensor
    raise UsageError(f"{at} must be {FORMS}, got the shape {shape}")


def _channels_are_last(shape: tuple[int, ...], is_array: bool) -> bool | None:
    """Return whether the last of three dimensions has the channels; None if this is not clear."""
    first, last = shape[0] <= FEW, shape[2] <= FEW
    if first or last:
        return last and (is_array or not first)
    if (shape[1] == shape[2]) != (shape[0] == shape[1]):  # many channels of a square
        return shape[0] == shape[1]
    return None


def fixed(image: Image.Image | Tensor, image_size: int | None, channels: int | None = None) -> Tensor:
    """Return an image without augmentation: uint8 (C, H, W).

    Args:
        image: result of :func:`image_of`.
        image_size: the shorter side is scaled to this size, and the central square is cropped; None: no change.
        channels: 3 for grey images among images of three channels; None: as in the image.
    """
    if isinstance(image, Tensor):
        pixels = image
        if image_size is not None and tuple(image.shape[1:]) != (image_size, image_size):
            from torchvision.transforms.v2 import InterpolationMode
            from torchvision.transforms.v2 import functional as F

            pixels = F.resize(image, [image_size], InterpolationMode.BICUBIC, antialias=True)
            pixels = F.center_crop(pixels, [image_size, image_size])
    else:
        values = torch.from_numpy(np.array(image if image_size is None else scaled(image, image_size)))
        pixels = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return pixels.expand(3, -1, -1) if channels == 3 and len(pixels) == 1 else pixels


def label_of(label: Any, at: str) -> int:
    """Return a label as an integer.

    Raises:
        UsageError: the label is not an integer >= 0.
    """
    try:
        if isinstance(label, bool) or tuple(getattr(label, "shape", ())):
            raise TypeError
        number = operator.index(label)
    except TypeError:
        shape = tuple(getattr(label, "shape", ()))
        got = f"a {type(label).__name__} of shape {shape}" if shape else shown(label)
        raise UsageError(f"the label of {at} must be an integer >= 0, the number of its class, got {got}") from None
    if number < 0:
        raise UsageError(f"the label of {at} must be an integer >= 0, the number of its class, got {number}")
    return number
