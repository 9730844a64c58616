"""Pixels of one image file, whatever its format, mode and orientation."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.lab.data.folders import read, said, write
from tvlars.lab.data.augment.recipe import Recipe
from tvlars.lab.data.pixels import BadImageError, Choose, read_picture


def one(tmp_path: Path, content: bytes | Image.Image, suffix: str = ".png", **options: Any) -> list[Any]:
    """The pixels of a file, as rows of [R, G, B]."""
    file = tmp_path / f"x{suffix}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content.save(file, **options)
    return read_picture(file, None).pixels.tolist()


QUARTERS = np.zeros((16, 16, 3), np.uint8)
QUARTERS[:8, :8], QUARTERS[:8, 8:], QUARTERS[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
"""Red and green above blue and black, in blocks that JPEG keeps."""


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    undone = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = undone
    turned = Image.fromarray(QUARTERS)
    turned.info["exif"] = exif.tobytes()
    turned = ImageOps.exif_transpose(turned)  # so that the orientation turns it back
    exif[0x0112] = orientation
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    found = np.array(one(tmp_path, turned, suffix, exif=exif, **options))
    assert np.abs(found - QUARTERS.astype(int)).max() <= (8 if suffix == ".jpg" else 0)


def exif_of(kind: int, count: int, value: bytes) -> bytes:
    """One entry, the orientation, whose value stands behind it."""
    return struct.pack("<HIHHHIII", 42, 8, 1, 0x0112, kind, count, 26, 0) + value


@pytest.mark.parametrize(
    "exif",
    [b"\x2a\0" + b"\xff" * 20, exif_of(2, 5, b"abcde"), exif_of(5, 1, struct.pack("<II", 1, 0)), b""],
    ids=["bytes", "text", "NaN", "none"],
)
def test_damaged_exif_data_say_nothing(tmp_path: Path, exif: bytes) -> None:
    content = io.BytesIO()
    exif = b"Exif\0\0II" + exif
    Image.fromarray(QUARTERS).save(content, "JPEG", exif=exif, quality=95, subsampling=0)
    for label in ("cat", "dog"):
        for i in range(2):
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / label / f"{i}.jpg").write_bytes(content.getvalue())
    found = read(tmp_path).train_images[0].permute(1, 2, 0).numpy()
    assert np.abs(found - QUARTERS.astype(int)).max() <= 8


def palette(transparency: Any) -> tuple[Image.Image, dict[str, Any]]:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return image, {"transparency": transparency}


def pixels_of(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(list(values))
    return image


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (pixels_of("RGBA", (9, 8, 7, 0), (9, 8, 7, 255), (0, 0, 0, 51)), {}, [[255] * 3, [9, 8, 7], [204] * 3]),
        (pixels_of("LA", (9, 0), (9, 255)), {}, [[255] * 3, [9] * 3]),
        (*palette(1), [[10, 20, 30], [255] * 3, [70, 80, 90]]),
        (*palette(bytes([255, 0, 255])), [[10, 20, 30], [255] * 3, [70, 80, 90]]),
        (pixels_of("RGB", (1, 2, 3), (4, 5, 6)), {"transparency": (1, 2, 3)}, [[255] * 3, [4, 5, 6]]),
        (pixels_of("L", 7, 8), {"transparency": 7}, [[255] * 3, [8] * 3]),
        (pixels_of("1", 0, 255), {}, [[0] * 3, [255] * 3]),
        (pixels_of("1", 0, 255), {"transparency": 0}, [[255] * 3, [255] * 3]),
        (pixels_of("L", 0, 200), {}, [[0] * 3, [200] * 3]),
    ],
    ids=["RGBA", "LA", "a palette's colour", "a palette's alphas", "a colour", "a grey", "1 bit", "a bit", "grey"],
)
def test_modes_and_transparency(tmp_path: Path, image: Image.Image, options: dict[str, Any], expected: Any) -> None:
    assert one(tmp_path, image, ".png", **options) == [expected]


def test_cmyk_and_premultiplied_alpha(tmp_path: Path) -> None:
    assert one(tmp_path, pixels_of("CMYK", (255, 0, 0, 0), (0, 0, 0, 255)), ".tif") == [[[0, 255, 255], [0, 0, 0]]]
    assert one(tmp_path, pixels_of("RGBA", (9, 8, 7, 0), (9, 8, 7, 255)), ".webp", lossless=True, exact=True) == [
        [[255, 255, 255], [9, 8, 7]]
    ]
    content = io.BytesIO()
    pixels_of("RGBA", (50, 25, 0, 128), (9, 8, 7, 255)).save(content, "TIFF")
    straight, associated = (struct.pack("<HHII", 338, 3, 1, kind) for kind in (2, 1))
    assert content.getvalue().count(straight) == 1
    (tmp_path / "associated.tif").write_bytes(content.getvalue().replace(straight, associated))
    found = read_picture(tmp_path / "associated.tif", None).pixels.astype(int)
    assert np.abs(found - [[[50 + 127, 25 + 127, 127], [9, 8, 7]]]).max() <= 1


def deep_png(values: np.ndarray, kind: int, transparent: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *([(b"tRNS", transparent)] if transparent else []), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


DEEP = np.array([[[65535, 32768, 256], [1000, 4096, 0]]], np.uint16)


@pytest.mark.parametrize(
    ("content", "suffix", "expected"),
    [
        (deep_png(DEEP[..., 0], 0), ".png", [[255] * 3, [3] * 3]),
        (deep_png(DEEP, 2), ".png", [[255, 128, 1], [3, 16, 0]]),
        (deep_png(np.dstack([DEEP, np.array([[0, 65535]])]), 6), ".png", [[255] * 3, [3, 16, 0]]),
        (deep_png(DEEP[..., :2] * 0 + np.array([40000, 65535]), 4), ".png", [[156] * 3, [156] * 3]),
        (deep_png(DEEP, 2, struct.pack(">HHH", 1000, 4096, 0)), ".png", [[255, 128, 1], [255] * 3]),
        (deep_png(DEEP[..., 0], 0, struct.pack(">H", 1000)), ".png", [[255] * 3, [255] * 3]),
        (b"P5 2 1 65535\n" + DEEP[..., 0].astype(">u2").tobytes(), ".pgm", [[255] * 3, [3] * 3]),
        (b"P5 2 1 4095\n" + np.array([4095, 2048], ">u2").tobytes(), ".pgm", [[255] * 3, [128] * 3]),
    ],
    ids=["grey", "colour", "alpha", "grey and alpha", "a colour", "a grey", "PGM", "PGM of 12 bits"],
)
def test_16_bits_a_channel(tmp_path: Path, content: bytes, suffix: str, expected: Any) -> None:
    assert one(tmp_path, content, suffix) == [expected]


def test_16_bits_a_channel_in_tiff(tmp_path: Path) -> None:
    image = Image.fromarray(DEEP[..., 0])
    assert image.mode == "I;16"
    assert one(tmp_path, image, ".tif") == [[[255] * 3, [3] * 3]]


@pytest.mark.parametrize("kind", [0, 2])
def test_12_bits_in_16_are_not_read_as_black(tmp_path: Path, kind: int) -> None:
    dark = DEEP // 17
    with pytest.raises(BadImageError, match="no value above 4095, so it would be almost black"):
        one(tmp_path, deep_png(dark[..., 0] if kind == 0 else dark, kind))
    black = np.zeros((1, 1, 3), np.uint16)
    assert one(tmp_path, deep_png(black[..., 0] if kind == 0 else black, kind)) == [[[0, 0, 0]]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(BadImageError, match=f"32 bits per channel .mode {mode}., whose range is not defined"):
        one(tmp_path, Image.new(mode, (2, 2), 7), ".tif")


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_of_several_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for label in ("cat", "dog"):
        for i in range(2):
            write(tmp_path / label / f"{i}.png")
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / "cat" / f"2{suffix}", save_all=True, append_images=frames[1:], **options)
    data = read(tmp_path)
    images = torch.cat([data.train_images, data.test_images])
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert sum(bool((image == red).all()) for image in images) == 1
    assert f"1 image has several frames, of which the first is read (cat/2{suffix})" in said(data)


def test_a_very_long_image_is_cut_before_it_is_scaled(tmp_path: Path) -> None:
    image = Image.new("RGB", (40_000, 2), "red")
    image.paste("blue", (19_999, 0, 20_001, 2))
    image.save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png", 64).pixels.reshape(-1, 3).tolist() == [[0, 0, 255]] * 64**2


# -- parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("side", [30, 203])
def test_random_crops_of_a_file_are_those_of_its_pixels(tmp_path: Path, turn: int, side: int) -> None:
    """The JPEG is decoded at the scale that a crop needs; of a small crop, at its own."""
    rows, columns = np.mgrid[:side, : side + 60]
    ramp = np.stack([rows * 255 // side, columns * 255 // (side + 60), (rows + columns) * 255 // (2 * side + 60)], 2)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "x.jpg", quality=95, exif=exif)
    whole = torch.from_numpy(read_picture(tmp_path / "x.jpg", None).pixels).permute(2, 0, 1)
    recipe = Recipe(12, "random-resized", 0.08, 0, True, None)

    def part(choose: Choose) -> torch.Tensor:
        return torch.from_numpy(read_picture(tmp_path / "x.jpg", 12, choose).pixels).permute(2, 0, 1)

    scales = set()
    for key in range(20):
        ours, theirs = recipe(part, key), recipe(whole, key)
        torch.default_generator.manual_seed(key)
        box = recipe._choose(*whole.shape[1:])
        scale = round(box[2] / part(lambda height, width, box=box: box).shape[1])
        assert scale == 1 or min(box[2:]) / scale > 23
        scales.add(scale)
        if scale == 1:
            assert torch.equal(ours, theirs)
        assert (ours.int() - theirs.int()).abs().max() <= 12
    assert scales == {1} if side == 30 else max(scales) >= 4


def test_a_part_of_a_png_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(3 * 40 * 60, dtype=np.uint8).reshape(40, 60, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    found = read_picture(tmp_path / "x.png", 8, lambda height, width: (height - 50, width - 39, 45, 30)).pixels
    assert np.array_equal(found, read_picture(tmp_path / "x.png", None).pixels[10:55, 1:31])
