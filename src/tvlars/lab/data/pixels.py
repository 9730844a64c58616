"""RGB pixels of an image file as a viewer shows them, for any format, mode and orientation.

orientation          of EXIF, applied
transparency         over white: alpha channels, palettes, and single transparent colours
16 bits per channel  the upper 8; refused if all values are below 4096, since 12 bits in 16 would be almost black
32 bits, floats      refused, since their range is not defined
several frames       the first: GIF, APNG, WebP, TIFF
colour profiles      not applied
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL import __version__ as pillow_version

from tvlars.lab import memory
from tvlars.lab.errors import UsageError

EXTERNAL = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"})
"""Formats without pixels, and formats that Pillow reads with other programs such as Ghostscript."""
ROUNDING = ("libjpeg_turbo", "jpg_2000", "webp", "avif")
"""Libraries whose versions round differently."""
T = TypeVar("T")
Choose = Callable[[int, int], tuple[int, int, int, int]]
"""Chooses a part of an image of a height and a width: top, left, height and width."""
WHITE = (255, 255, 255, 255)
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions by EXIF orientation; ``ImageOps.exif_transpose`` fails if other EXIF data are damaged."""
DARK = 4096
OF_THE_DISK = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENXIO)
"""Errors of the system, not of the file; other errors, such as EINVAL, also occur for damaged files."""
LONGEST = 64
"""Ratio of the sides from which an image is cropped before it is scaled, to save memory."""
FRAMES = "several frames, of which the first is read"
DEEP = "16 bits per channel, of which the upper 8 are read"


class BadImageError(ValueError):
    """Error for an image file that cannot be read; the message gives the reason."""


class Picture(NamedTuple):
    """Pixels uint8 (H, W, 3), and remarks on parts of the file that are not used: ``FRAMES`` and ``DEEP``."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    remarks: list[str]


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of all formats that the installed Pillow opens."""
    return frozenset({".mpo", *(end for end, format in Image.registered_extensions().items() if format in _formats())})


@cache
def decoder_version() -> str:
    """Return the versions of Pillow and of the libraries whose versions round differently."""
    versions = ", ".join(f"{name} {features.version(name)}" for name in ROUNDING if features.check(name))
    return f"Pillow {pillow_version} ({versions})"


@cache
def _formats() -> tuple[str, ...]:
    Image.preinit()  # the usual formats are tried first
    Image.init()
    return tuple(name for name in Image.OPEN if name not in EXTERNAL)


def read_picture(file: str | os.PathLike[str], image_size: int | None, choose: Choose | None = None) -> Picture:
    """Read an image file.

    Args:
        file: path of the file.
        image_size: pixels; the shorter side is scaled to this size, and the central square is cropped. None: unchanged.
        choose: chooses the part to return instead, of which each side keeps 2 * ``image_size`` pixels, or all it has.

    Raises:
        BadImageError: the file is not an image, damaged, truncated, too large, or has no defined pixels.
        UsageError: the system cannot read the file.
    """
    try:
        with Image.open(file, formats=_formats()) as opened:
            if image_size is not None and choose is None:  # decodes a JPEG at a half or less if that suffices
                opened.draft("RGB", (2 * image_size, 2 * image_size))
            deep = opened.mode.startswith("I") or ";16" in str(getattr(opened, "tile", ""))
            frames = _unless_damaged(lambda: bool(getattr(opened, "is_animated", False)), False)
            remarks = [FRAMES] * frames + [DEEP] * deep
            if opened.format not in ("JPEG", "MPO"):  # in others, EXIF data may follow the pixels
                opened.load()
            orientation = _unless_damaged(lambda: int(opened.getexif().get(ORIENTATION, 1)), 1)
            full, box = opened.size, (0, 0, 0, 0)
            if choose is not None and image_size is not None:
                box = choose(*(full if orientation in range(5, 9) else full[::-1]))
                share = 2 * image_size / min(box[2:])
                opened.draft("RGB", (math.ceil(full[0] * share), math.ceil(full[1] * share)))
            image = as_rgb(opened, deep)
            if orientation in TURNS:
                image = image.transpose(TURNS[orientation])
            if choose is not None:
                by = round(full[0] / opened.width)
                top, left, bottom, right = (round(x / by) for x in (*box[:2], box[0] + box[2], box[1] + box[3]))
                return Picture(np.array(image.crop((left, top, right, bottom))), remarks)
            return Picture(np.array(image if image_size is None else scaled(image, image_size)), remarks)
    except FileNotFoundError as error:
        raise BadImageError("it is missing") from error
    except UnidentifiedImageError as error:
        empty = os.stat(file).st_size == 0
        raise BadImageError("it is empty" if empty else "it is not an image that Pillow can open") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from error
    except Exception as error:  # Pillow's decoders raise errors of many types for damaged files
        if memory.has_ended(error):
            raise
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from error
        said = error.strerror if isinstance(error, PermissionError) else str(error)
        raise BadImageError(" ".join(str(said or type(error).__name__).split())[:120]) from error


def as_rgb(image: Image.Image, deep: bool) -> Image.Image:
    """Return an opened image as RGB, see the module's docstring; ``deep`` means more than 8 bits per channel.

    Raises:
        BadImageError: the values have no defined range.
    """
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        _check_light(int(values.max()))
        upper = (values.clip(0, 65535) >> 8).astype(np.uint8)
        if isinstance(key, int):
            upper[values == key] = 255
        return Image.fromarray(upper).convert("RGB")
    if mode[0] in "IF":
        raise BadImageError(f"it has 32 bits per channel (mode {mode}), whose range is not defined; 8 and 16 are read")
    if deep and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if key is None and mode[-1] not in "Aa":
        rgb = image if mode == "RGB" else image.convert("RGB")
    else:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), straight).convert("RGB")
    if deep:
        _check_light(max(high for _, high in rgb.getextrema()) << 8)  # type: ignore[misc]
    return rgb


def _check_light(highest: int) -> None:
    if 0 < highest < DARK:
        raise BadImageError(
            f"it has 16 bits per channel, but no value above {DARK - 1}, so it would be almost black: scale it to 8 "
            "bits, or to the whole range"
        )


def _unless_damaged(look: Callable[[], T], default: T) -> T:
    """Return the result of ``look``, which reads EXIF data or later frames; ``default`` if these are damaged."""
    try:
        return look()
    except Exception:
        return default


def scaled(image: Image.Image, size: int) -> Image.Image:
    """Return the central square of an image whose shorter side is scaled to ``size`` pixels."""
    width, height = image.size
    short = min(width, height)
    if max(width, height) > LONGEST * short:
        left, top = (width - short) // 2, (height - short) // 2
        image = image.crop((left, top, left + short, top + short))
        width = height = short
    scale = size / short
    sides = (max(round(width * scale), size), max(round(height * scale), size))
    left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
    return image.resize(sides, Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
