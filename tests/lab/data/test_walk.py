"""Walks: files that are read, what is left out and why, and links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.lab.data.folders import counts, read, said, write, write_classes
from tvlars.lab import ImageData, UsageError
from tvlars.lab.data.pixels import image_suffixes

LEFTOVERS = [
    *(
        ".ipynb_checkpoints/0-checkpoint.png",
        "__MACOSX/._0.png",
        "@eaDir/0.png",
        ".thumbnails/0.png",
        "lost+found/0.png",
    ),
    *("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg"),
]


@pytest.mark.parametrize("where", ["", "cat", "cat/deep"])
def test_what_systems_and_programs_leave_behind(tmp_path: Path, where: str) -> None:
    write_classes(tmp_path, count=3)
    write(tmp_path / "cat" / "deep" / "0.png", 9)
    clean = read(tmp_path)
    for name in LEFTOVERS:
        write(tmp_path / where / name, 3)
    data = read(tmp_path)
    assert torch.equal(data.train_images, clean.train_images)
    assert torch.equal(data.test_images, clean.test_images)
    assert said(data).startswith("left out 5 hidden f")
    assert "5 hidden files" in said(data)
    assert "5 hidden folders" in said(data)


def test_every_format_that_pillow_opens(tmp_path: Path) -> None:
    endings = [
        ".PNG",
        ".JPeG",
        ".jfif",
        ".bmp",
        ".pgm",
        ".ppm",
        ".tif",
        ".gif",
        ".webp",
        ".avif",
        ".jp2",
        ".tga",
        ".ico",
    ]
    endings = [ending for ending in endings if ending.lower() in image_suffixes()]
    assert len(endings) >= 10
    for i, ending in enumerate(endings):
        rgb = Image.fromarray(write(tmp_path / "cat" / "0.png", i, size=16))
        (rgb.convert("L") if ending == ".pgm" else rgb).save(tmp_path / "cat" / f"x{i}{ending}")
    write_classes(tmp_path, ("dog",))
    for label in ("cat", "dog"):
        for i in range(2):
            write(tmp_path / label / f"{i}.png", size=16)
    for name in ("a.heic", "b.svg", "c.txt", "d", "e.png.bak"):
        (tmp_path / "cat" / name).write_text("x")
    data = read(tmp_path)
    assert [sum(x) for x in zip(*counts(data), strict=True)] == [2 + len(endings), 2]
    assert data.account[0] == (
        "left out 2 images in formats that Pillow here cannot open (cat/a.heic), 3 files of other kinds (cat/c.txt)"
    )


def test_no_other_program_is_started_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def ghostscript(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    write_classes(tmp_path)
    rgb = Image.new("RGB", (8, 8))
    rgb.save(tmp_path / "cat" / "a.eps")
    (tmp_path / "cat" / "1.png").write_bytes((tmp_path / "cat" / "a.eps").read_bytes())
    with pytest.raises(UsageError, match=r"cat/1\.png \(it is not an image that Pillow can open\)"):
        read(tmp_path)


def test_links_are_followed_once(tmp_path: Path) -> None:
    data, real = tmp_path / "data", tmp_path / "real"
    write_classes(real, ("cat", "dog", "part"), count=3)
    (data / "mix").mkdir(parents=True)
    for label in ("cat", "dog"):
        (data / label).symlink_to(real / label)
    write(data / "mix" / "0.png")
    (data / "mix" / "part").symlink_to(real / "part")  # 3 more
    (data / "mix" / "again").symlink_to(data / "mix" / "part")
    (data / "mix" / "self").symlink_to(data / "mix")
    (data / "mix" / "up").symlink_to(data)
    (data / "mix" / "root").symlink_to("/")
    (data / "mix" / "twice.png").symlink_to(data / "mix" / "0.png")
    (data / "mix" / "single.png").symlink_to(real / "dog" / "0.png")  # 1 more
    (data / "mix" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    found = read(data)
    assert [sum(x) for x in zip(*counts(found), strict=True)] == [3, 3, 5]
    assert "5 links to what is read already (mix/root)" in said(found)
    assert "1 broken link (mix/broken.png: No such file or directory)" in said(found)


def test_links_to_what_is_around_are_no_classes(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "test")):
        write_classes(tmp_path / part, seed=i)
        (tmp_path / part / "up").symlink_to(tmp_path / part)
        (tmp_path / part / "cat" / "up").symlink_to(tmp_path / part)
        (tmp_path / part / "cat" / "top").symlink_to(tmp_path)
    data = read(tmp_path)
    assert (data.class_names, counts(data)) == (("cat", "dog"), ([2, 2], [2, 2]))
    assert said(data) == "left out 6 links to what is read already (test/up)"


def test_links_in_circles_end(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(9)]
    write_classes(tmp_path, tuple(names))
    for a in names:
        for b in names:
            if a != b:
                (tmp_path / a / f"to-{b}").symlink_to(tmp_path / b)
    data = read(tmp_path)
    assert sum(map(sum, counts(data))) == 9 * 9 * 2
    assert "are in more than one class" in said(data)


def test_val_may_be_a_link_to_train(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    data = read(tmp_path)
    assert counts(data) == ([2, 2], [2, 2])
    assert said(data) == ("note     4 test images have the pixels of a training image (val/cat/0.png, train/cat/0.png)")


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    write_classes(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "zero.png").symlink_to("/dev/zero")
    assert said(read(tmp_path)) == "left out 2 pipes, sockets or devices (cat/pipe.png)"
    os.mkfifo(tmp_path / "val_annotations.txt")
    assert counts(read(tmp_path)) == ([1, 1], [1, 1])


def test_the_same_pixels_in_both_parts_are_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", seed=1)
    pixels = Image.open(tmp_path / "train" / "dog" / "1.png")
    pixels.save(tmp_path / "test" / "dog" / "copy.bmp")
    pixels.save(tmp_path / "train" / "cat" / "copy.png", compress_level=0)
    assert data_notes(read(tmp_path)) == [
        "1 test image has the pixels of a training image (test/dog/copy.bmp, train/cat/copy.png)",
        "1 training image is in more than one class (train/cat/copy.png)",
    ]


def data_notes(data: ImageData) -> list[str]:
    return [line.removeprefix("note     ") for line in data.account if line.startswith("note")]
