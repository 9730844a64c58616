"""Folders of images: which files are read and as what, what is left out, and which pixels a file has."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tvlars.lab import ImageData, TrainConfig, UsageError, load_data, train
from tvlars.lab.data import decoded, image_folder
from tvlars.lab.data.account import BROKEN_LINKS, HIDDEN_FILES, Account
from tvlars.lab.data.image_folder import _split, _split_name
from tvlars.lab.data.pixels import BadImageError, image_suffixes, read_picture
from tvlars.lab.training.progress import Reporter


def write(file: Path, seed: int = 0, size: int = 8) -> np.ndarray:
    """A picture that no other seed has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *os.fsencode(file.name), *os.fsencode(file.parent.name)])
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, **({"format": "PNG"} if file.suffix not in image_suffixes() else {}))
    return pixels


def write_classes(folder: Path, labels: tuple[str, ...] = ("cat", "dog"), count: int = 2, seed: int = 0) -> None:
    for label in labels:
        for i in range(count):
            write(folder / label / f"{i}.png", seed)


def read(folder: Path, **options: Any) -> ImageData:
    return load_data(f"imagefolder:{folder}", **options)


def counts(data: ImageData) -> tuple[list[int], list[int]]:
    train, test = (torch.bincount(x, minlength=data.classes).tolist() for x in (data.train_labels, data.test_labels))
    return train, test


def said(data: ImageData) -> str:
    return "\n".join(data.account)


# -- splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [
        *(("Train", "Test"), ("TRAIN", "VAL"), ("training", "validation"), ("Training", "Testing"), ("train", "dev")),
        *(("train", "valid"), ("training_set", "test_set"), ("seg_train", "seg_test"), ("train2017", "val2017")),
        *(("trainset", "testset"), ("train-images", "test-images"), ("train", "eval"), ("Train Data", "Test Data")),
    ],
)
def test_folders_of_a_split_in_any_spelling(tmp_path: Path, train_name: str, test_name: str) -> None:
    write_classes(tmp_path / train_name, count=3)
    write_classes(tmp_path / test_name, seed=1)
    data = read(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert counts(data) == ([3, 3], [2, 2])
    assert data.origin == f"{train_name} and {test_name}"
    assert data.account == ()


@pytest.mark.parametrize("name", ["trains", "testtube", "test tube", "valley", "devil", "trainers", "cat", "2017", "_"])
def test_other_names_are_no_split(name: str) -> None:
    assert _split_name(name) is None


def test_train_val_and_test(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / part, count=2 + i, seed=i)
    data = read(tmp_path)
    assert counts(data) == ([2, 2], [4, 4])
    assert data.origin == "train and test"
    assert said(data) == (
        "note     val is not used (6 images): there is no validation while training, and what is reported is of the "
        "test images"
    )


def test_a_test_folder_without_labels_gives_way_to_val(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "val")):
        write_classes(tmp_path / part, seed=i)
    write(tmp_path / "test" / "0.png", 7)
    data = read(tmp_path)
    assert data.origin == "train and val"
    assert said(data) == "note     test is not used (1 images): its images have no labels"


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for part in ("train", "Train", "test"):
        write_classes(tmp_path / part)
    with pytest.raises(UsageError, match="must have one folder for train, got Train and train"):
        read(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_classes(tmp_path, ("bus", "train"), count=5)
    assert read(tmp_path).class_names == ("bus", "train")


def test_images_without_labels_may_be_split(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "test")):
        for j in range(3):
            write(tmp_path / part / f"{j}.png", i)
    data = read(tmp_path)
    assert (data.class_names, counts(data)) == (("unlabelled",), ([3], [3]))


@pytest.mark.parametrize("around", ["data", "a/b/c", "Downloads/set"])
def test_one_more_level_plays_no_part(tmp_path: Path, around: str) -> None:
    for i, part in enumerate(("train", "test")):
        write_classes(tmp_path / "split" / around / part, seed=i)
        write_classes(tmp_path / "inside" / part / around, seed=i)
    write_classes(tmp_path / "plain" / around, count=5)
    (tmp_path / "plain" / "README.md").write_text("pictures")
    for name, found in (("split", ([2, 2], [2, 2])), ("inside", ([2, 2], [2, 2])), ("plain", ([4, 4], [1, 1]))):
        data = read(tmp_path / name)
        assert (data.class_names, counts(data)) == (("cat", "dog"), found)
    assert read(tmp_path / "split").origin == f"train and test, in {around}"
    assert said(read(tmp_path / "plain")) == "left out 1 file of another kind (README.md)"


def test_folders_in_a_class_belong_to_it(tmp_path: Path) -> None:
    write_classes(tmp_path, ("cat", "dog"), count=3)
    for i in range(2):
        write(tmp_path / "cat" / "by night" / f"{i}.png", i)
    write(tmp_path / "cat" / "session.jpg" / "a.png", 5)
    data = read(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert [sum(x) for x in zip(*counts(data), strict=True)] == [6, 3]
    assert data.account == ()


def test_a_folder_beside_those_of_the_split_is_left_out(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "test", "thumbs")):
        write_classes(tmp_path / part, seed=i)
    (tmp_path / "notes").mkdir()
    data = read(tmp_path)
    assert counts(data) == ([2, 2], [2, 2])
    assert said(data) == (
        "left out 4 images in folders beside those that are read (thumbs/), 1 folder without images (notes)"
    )


def test_a_flat_folder_with_another_in_it(tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / f"{i}.png", i)
    for i in range(6):
        write(tmp_path / "thumbs" / f"{i}.png", i)
    data = read(tmp_path)
    assert (data.class_names, counts(data)) == (("unlabelled",), ([16], [4]))
    assert said(data) == "left out 6 images in folders beside those that are read (thumbs)"
    for i in range(6, 60):
        write(tmp_path / "thumbs" / f"{i}.png", i)
    with pytest.raises(
        UsageError, match=r"holds 20 images beside 1 folder \(thumbs\) of images: move either elsewhere"
    ):
        read(tmp_path)
    for i in range(6):
        write(tmp_path / "small" / f"{i}.png", i)
    with pytest.raises(UsageError, match=r"holds 20 images beside 2 folders \(small, thumbs\) of images"):
        read(tmp_path)


def test_a_few_images_beside_the_only_folder(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", count=20)
    write(tmp_path / "preview.png")
    data = read(tmp_path)
    assert (data.class_names, data.origin) == (("cat", "dog"), "split 4:1 by class with seed 0, in data")
    assert said(data) == "left out 1 image beside the folders (preview.png)"


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"dog must be a folder that can be read, but is not: Permission denied"):
        read(tmp_path, skip_bad_images=True)


def test_folders_of_an_unknown_split_are_told(tmp_path: Path) -> None:
    for i, part in enumerate(("fold1", "fold2")):
        write_classes(tmp_path / part, seed=i)
    data = read(tmp_path)
    assert data.class_names == ("fold1", "fold2")
    assert said(data) == (
        "note     2 classes (fold1, fold2) have the same 2 folders (cat, dog) in them: if these are the classes, call "
        "the folders around them train and test"
    )


@pytest.mark.parametrize("around", ["", "images"])
def test_folders_of_an_unknown_split_are_told_where_one_lacks_a_class_or_has_a_folder_around(
    tmp_path: Path, around: str
) -> None:
    for i, part in enumerate(("entrenamiento", "prueba")):
        write_classes(tmp_path / part / around, seed=i)
    write(tmp_path / "entrenamiento" / around / "owl" / "0.png")
    assert "2 classes (entrenamiento, prueba) have the same" in said(read(tmp_path))


def test_test_images_none_of_which_can_be_read_are_named(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "val")):
        write_classes(tmp_path / part, seed=i)
    for file in (tmp_path / "val").rglob("*.png"):
        file.write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"must have test images that can be read, but has none: val/cat/0\.png"):
        read(tmp_path, skip_bad_images=True)


def test_a_few_images_beside_the_classes_are_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, count=5)
    write(tmp_path / "overview.png")
    assert said(read(tmp_path)) == "left out 1 image beside the folders (overview.png)"


# -- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["nothing", ".gitkeep", "x.heic"])
@pytest.mark.parametrize("split", [True, False])
def test_an_empty_class_does_not_vanish(tmp_path: Path, content: str, split: bool) -> None:
    for i, part in enumerate(("train", "val") if split else ("",)):
        write_classes(tmp_path / part, ("cat", "owl"), seed=i)
        (tmp_path / part / "dog").mkdir()
        if content != "nothing":
            (tmp_path / part / "dog" / content).touch()
    with pytest.raises(UsageError, match="dog must hold images, as the folder of a class, but holds none") as error:
        read(tmp_path)
    assert ("in formats that Pillow" in str(error.value).replace("a format", "formats")) == (content == "x.heic")


def test_classes_of_one_part_alone(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("cat", "dog", "owl"))
    write_classes(tmp_path / "test", ("cat", "owl"), seed=1)
    (tmp_path / "test" / "dog").mkdir()
    (tmp_path / "test" / "misc").mkdir()
    data = read(tmp_path)
    assert counts(data) == ([2, 2, 2], [2, 0, 2])
    assert said(data) == ("left out 1 folder without images (test/misc)\nnote     no test images of 1 class (dog)")
    write_classes(tmp_path / "test", ("bat", "emu"))
    with pytest.raises(
        UsageError, match=r"bat.0.png is of class 'bat', which has no training images .*, nor have 1 other classes"
    ):
        read(tmp_path)


def test_names_of_classes_are_in_torchvisions_order(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    names = ("10", "9", "Z", "a", "ä", "_x", "two words", "line\nbreak", "x" * 200, "é")
    write_classes(tmp_path, names)
    data = read(tmp_path)
    assert list(data.class_names) == ImageFolder(str(tmp_path)).classes


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    for raw in (b"caf\xe9", b"\xff\xfe", b"plain"):
        folder = os.path.join(os.fsencode(tmp_path), raw)
        try:
            os.mkdir(folder)
        except OSError:
            pytest.skip("this file system takes no such names")
        for i in range(3):
            write(Path(os.fsdecode(folder)) / os.fsdecode(b"%d\xe9.png" % i))
        Path(os.fsdecode(folder), os.fsdecode(b"\xe9.txt")).touch()
    data = read(tmp_path)
    assert counts(data) == ([2, 2, 2], [1, 1, 1])
    said(data).encode()  # it can be printed
    json.dumps(data.fingerprint.as_json()).encode()
    assert "3 files of other kinds (caf" in said(data)


def test_names_that_differ_in_case_alone(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("Cat", "cat"))
    if len(os.listdir(tmp_path / "train")) < 2:
        pytest.skip("this file system does not tell case")
    write_classes(tmp_path / "test", ("Cat", "cat"), seed=1)
    assert said(read(tmp_path)) == (
        "note     classes whose names differ in case or form of letters alone: 'Cat' and 'cat'"
    )
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "CAT")
    with pytest.raises(UsageError, match=r"'CAT', which has no training images .*; 'Cat' differs in case or form"):
        read(tmp_path)


def test_the_split_by_class_takes_time_for_each_image_alone() -> None:
    class Counted(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    everything = [(Path(f"{c}/{i}"), Counted(c)) for c in range(500) for i in range(4)]
    train, test = _split(Path("x"), everything)
    assert (len(train), len(test)) == (1500, 500)
    assert Counted.compared <= 4 * len(everything)


def test_many_classes_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        for c in range(40):
            write(tmp_path / part / f"{c}" / "0.png", c)

    class Counted(str):
        looked_up = 0

        def __hash__(self) -> int:
            Counted.looked_up += 1
            return str.__hash__(self)

    by_class = image_folder._Layout._by_class

    def counted(*arguments: Any, **options: Any) -> Any:
        return [(file, Counted(label)) for file, label in by_class(*arguments, **options)]

    monkeypatch.setattr(image_folder._Layout, "_by_class", counted)
    read(tmp_path)
    assert Counted.looked_up <= 40 * 15


def test_classes_that_are_too_small_to_be_split_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path, ("cat", "dog"), count=1)
    write_classes(tmp_path, ("owl",), count=2)
    with pytest.raises(UsageError, match=r"at least two images of each class .* got one of 2 classes \(cat, dog\)"):
        read(tmp_path)


# -- files ------------------------------------------------------------------------------------------------


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
    with pytest.raises(UsageError, match=r"cat/1\.png \(it is no image that Pillow opens\)"):
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


# -- annotations ------------------------------------------------------------------------------------------


def write_annotated(folder: Path, content: bytes) -> None:
    for label in ("n01", "n02"):
        for i in range(2):
            write(folder / "train" / label / "images" / f"{label}_{i}.png")
    for i in range(2):
        write(folder / "val" / "images" / f"v{i}.png", 1)
    write(folder / "val" / "images" / "with blank.png", 1)
    (folder / "val" / "val_annotations.txt").write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"v0.png\tn02\t0\t0\t1\t1\nv1.png\tn01\nwith blank.png\tn01\n",
        b"\xef\xbb\xbfv0.png\tn02\r\nv1.png\tn01\r\nwith blank.png\tn01\r\n",
        b"v0.png \t n02\n\n  \nv1.png\t n01\nwith blank.png\tn01",
        b"v0.png\tn02\rv1.png\tn01\rwith blank.png\tn01\r",
        "v0.png\tn02\r\nv1.png\tn01\r\nwith blank.png\tn01\r\n".encode("utf-16"),
        b"v0.png  n02 0 0\nv1.png n01\nwith blank.png\tn01\n",
        b"v0.png\tn02\nv1.png\tn01\nv0.png\tn02\nwith blank.png\tn01\n",
    ],
    ids=["as published", "Notepad", "blank lines", "old Mac", "UTF-16", "blanks", "a line twice"],
)
def test_annotations_as_editors_save_them(tmp_path: Path, content: bytes) -> None:
    write_annotated(tmp_path, content)
    data = read(tmp_path)
    assert data.test_labels.tolist() == [1, 0, 0]
    assert data.account == ()


def test_annotations_that_do_not_fit_the_files(tmp_path: Path) -> None:
    write_annotated(tmp_path, b"v0.png\tn02\ngone.png\tn01\n../../train/n01/images/n01_0.png\tn01\nlost.png\tn02\n")
    with pytest.raises(UsageError, match=r"but 3 of 8 cannot: val/images/gone.png \(it is missing\), val/images/\.\./"):
        read(tmp_path)
    data = read(tmp_path, skip_bad_images=True)
    assert data.test_labels.tolist() == [1]
    assert said(data) == (
        "left out 2 images that val_annotations.txt does not name (val/images/v1.png), "
        "3 images that cannot be read (val/images/gone.png: it is missing)\nnote     no test images of 1 class (n01)"
    )
    (tmp_path / "val" / "val_annotations.txt").write_text("v0.png\tn01\nv1.png\tn01\nv0.png\tn02\n")
    with pytest.raises(
        UsageError, match=r"must give each file one class, but 'v0.png' is of 'n01', and in line 3 of 'n02'"
    ):
        read(tmp_path)


def test_annotations_beside_folders_of_classes_play_no_part(tmp_path: Path) -> None:
    write_annotated(tmp_path, b"v0.png\tn02\nv1.png\tn01\n")
    for i, label in enumerate(("n02", "n01")):  # as scripts sort them
        (tmp_path / "val" / label).mkdir()
        (tmp_path / "val" / "images" / f"v{i}.png").rename(tmp_path / "val" / label / f"v{i}.png")
    (tmp_path / "val" / "images" / "with blank.png").unlink()
    data = read(tmp_path)
    assert data.test_labels.tolist() == [0, 1]
    assert said(data) == "left out 1 folder without images (val/images)"


# -- pixels -----------------------------------------------------------------------------------------------


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
    with pytest.raises(BadImageError, match="no value above 4095, so that it would be almost black"):
        one(tmp_path, deep_png(dark[..., 0] if kind == 0 else dark, kind))
    black = np.zeros((1, 1, 3), np.uint16)
    assert one(tmp_path, deep_png(black[..., 0] if kind == 0 else black, kind)) == [[[0, 0, 0]]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(BadImageError, match=f"32 bits a channel .mode {mode}., whose range is not defined"):
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


# -- bad files --------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
    file.write_text("<html>404</html>")


BAD: list[tuple[str, Callable[[Path], None], str]] = [
    ("cut.png", cut, "truncated"),
    ("cut.jpg", cut, "truncated"),
    ("cut.gif", cut, ""),
    ("cut.bmp", cut, "truncated"),
    ("empty.jpg", empty, "it is empty"),
    ("text.jpg", text, "it is no image that Pillow opens"),
    ("text.webp", text, "it is no image that Pillow opens"),
]


def write_bad(folder: Path, count: int = 6) -> None:
    for i, part in enumerate(("train", "test")):
        write_classes(folder / part, count=count, seed=i)
    for name, damage, _ in BAD:
        write(folder / "train" / "cat" / name)
        damage(folder / "train" / "cat" / name)
    text(folder / "test" / "dog" / "0.png")


@pytest.mark.parametrize("mapped", [False, True])
def test_all_bad_files_are_named_at_once_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    write_bad(tmp_path / "good")
    for name, _, _ in BAD:
        (tmp_path / "good" / "train" / "cat" / name).unlink()
    (tmp_path / "good" / "test" / "dog" / "0.png").unlink()
    write_bad(tmp_path / "bad")
    good = read(tmp_path / "good")
    if mapped:
        monkeypatch.setattr(decoded, "SHARE", 0.0)
        monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError) as error:
        read(tmp_path / "bad")
    assert f"but {len(BAD) + 1} of 31 cannot: train/cat/cut.bmp (" in str(error.value)
    for name, _, reason in BAD:
        place = str(error.value).index(f"train/cat/{name} (")
        assert reason in str(error.value)[place : place + 200]
    assert "--skip-bad-images (skip_bad_images=True) goes on without them" in str(error.value)
    for _ in range(2):  # the second time from the mapped file
        data = read(tmp_path / "bad", skip_bad_images=True)
        assert data.mapped == mapped
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            assert torch.equal(getattr(data, name), getattr(good, name))
        assert said(data).startswith(f"left out {len(BAD) + 1} images that cannot be read (train/cat/cut.bmp: ")
    with pytest.raises(UsageError, match="8 of 31 cannot"):
        read(tmp_path / "bad")


def test_many_bad_files_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, count=30)
    for i in range(25):
        empty(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(UsageError, match=r"but 25 of 60 cannot: .*\) and 15 more\. --skip-bad"):
        read(tmp_path)
    for i in range(25, 30):
        empty(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(UsageError, match="must have training images of class 'cat', but none can be read"):
        read(tmp_path, skip_bad_images=True)


def test_an_image_that_would_fill_the_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    write(tmp_path / "cat" / "large.png", size=32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UsageError, match=r"1 of 5 cannot: cat/large.png \(it has more than 1,000 pixels\)"):
        read(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # which Pillow warns of, and that is all
    assert read(tmp_path, image_size=8).train_images.shape == (3, 3, 8, 8)


def test_what_pillow_asks_the_system_for_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.png")

    def fail(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")  # of a place before the beginning, as damaged JPEG 2000 files name it

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImageError, match="Invalid argument"):
        read_picture(tmp_path / "x.png", None)


def test_a_disk_that_fails_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UsageError, match=r"\.png cannot be read: Input/output error$"):
        read(tmp_path, image_size=8, skip_bad_images=True)


def test_a_run_says_what_it_leaves_out(tmp_path: Path) -> None:
    write_bad(tmp_path / "data", count=8)
    (tmp_path / "data" / "train" / "dog" / "notes.txt").touch()
    lines: list[str] = []

    class Listens(Reporter):
        def start(self, config: Any, plan: Any, described: list[str], folder: Path, step: int = 0) -> None:
            lines.extend(described)

    options: dict[str, Any] = dict(data=f"imagefolder:{tmp_path / 'data'}", epochs=1, batch_size=4, accelerator="cpu")
    with pytest.raises(UsageError, match="8 of 39 cannot"):
        train(TrainConfig(**options), reporter=Reporter())
    train(TrainConfig(**options, skip_bad_images=True, out=tmp_path / "run"), reporter=Listens())
    stored = json.loads((tmp_path / "run" / "environment.json").read_text())["account"]
    assert stored[0].startswith("left out 1 file of another kind (train/dog/notes.txt), 8 images that cannot be read")
    assert stored[0] in lines


def test_it_goes_with_folders_of_images_alone() -> None:
    with pytest.raises(UsageError, match="skip_bad_images must not be given for digits, which is no folder of images"):
        TrainConfig(skip_bad_images=True)


def test_an_account_has_the_number_of_each_kind_and_its_first_example() -> None:
    account = Account()
    assert (str(account), account.lines()) == ("", ())
    for name in ("a", "b", "c"):
        account.leave(HIDDEN_FILES, name)
    account.leave(BROKEN_LINKS, "none", 0)
    account.leave(BROKEN_LINKS, "x", 1000)
    account.leave(BROKEN_LINKS, "y", 234)
    account.remarks.append("more")
    assert str(account) == "3 hidden files (a), 1,234 broken links (x)"
    assert account.lines() == (f"left out {account}", "note     more")


# -- the mapped file --------------------------------------------------------------------------------------


PROCESS = """
import sys, time
from pathlib import Path
from tvlars.lab.data import decoded, load_data
decoded.SHARE = 0.0
one, here = decoded.read_picture, Path(sys.argv[2])
def slow(file, size):
    (here / sys.argv[3]).touch()
    time.sleep(0.02)
    return one(file, size)
decoded.read_picture = slow
data = load_data(f"imagefolder:{sys.argv[1]}", image_size=8)
print(data.fingerprint.train.pixels, data.fingerprint.test.pixels)
"""


@pytest.mark.slow
def test_two_processes_decode_a_folder_once(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", count=20)
    expected = read(tmp_path / "data", image_size=8).fingerprint
    environment = {**os.environ, "TVLARS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "data"), str(tmp_path)]
    both = [
        subprocess.Popen([*command, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert out.split() == [expected.train.pixels, expected.test.pixels], err
    assert (tmp_path / "first").exists() + (tmp_path / "second").exists() == 1
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 1
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.fixture
def mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that everything goes to."""
    monkeypatch.setattr(decoded, "SHARE", 0.0)
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_threads_wait_for_each_other(tmp_path: Path, mapping: Path) -> None:
    write_classes(tmp_path / "data", count=20)
    found: list[ImageData] = []
    threads = [threading.Thread(target=lambda: found.append(read(tmp_path / "data"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({data.fingerprint for data in found}) == 1
    assert len(list(mapping.glob("*.u8"))) == 1


def test_a_file_system_without_locks(tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    write_classes(tmp_path / "data", count=4)
    monkeypatch.setattr(decoded.FileLock, "acquire", none)
    data = read(tmp_path / "data")
    assert data.mapped
    (file,) = mapping.glob("*.u8")
    other = file.with_name(f"{file.stem}.12345678.part")  # of another process, which may be at work
    file.unlink()
    other.touch()
    assert read(tmp_path / "data").fingerprint == data.fingerprint
    assert other.exists()


def test_without_locks_each_process_writes_a_file_of_its_own(
    tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one begins, and ends, while this one is at its first image."""
    write_classes(tmp_path / "data", count=4)
    one, begun = decoded.read_picture, threading.Lock()
    found = []

    def none(*_: object, **__: object) -> None:
        raise NotImplementedError

    def meanwhile(*arguments: Any) -> Any:
        if begun.acquire(blocking=False):
            found.append(read(tmp_path / "data", image_size=8).fingerprint)
        return one(*arguments)

    monkeypatch.setattr(decoded.FileLock, "acquire", none)
    monkeypatch.setattr(decoded, "read_picture", meanwhile)
    found.append(read(tmp_path / "data", image_size=8).fingerprint)
    assert len(found) == 2
    assert len(set(found)) == 1
    assert len(list(mapping.iterdir())) == 1


def test_what_a_killed_process_leaves_is_not_believed(
    tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "data", count=6)
    expected = read(tmp_path / "data").fingerprint
    (file,) = mapping.glob("*.u8")
    whole = file.read_bytes()
    for left in (b"", b"\0" * len(whole), whole[:-1], whole[:-40], whole[40:], whole + b"\0", b"\0" + whole):
        file.write_bytes(left)
        file.with_name(f"{file.stem}.12345678.part").write_bytes(b"\0" * 100)
        data = read(tmp_path / "data")
        assert data.mapped
        assert data.fingerprint == expected
        assert not list(mapping.glob("*.part"))
    for stem in ("free", "held"):
        (mapping / f"{stem}.12345678.part").touch()
    file.unlink()
    with decoded.FileLock(mapping / "held.lock", is_singleton=False):
        read(tmp_path / "data")
    assert [path.name for path in mapping.glob("*.part")] == ["held.12345678.part"]
    (mapping / "held.12345678.part").unlink()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    file.unlink()
    monkeypatch.setattr(decoded, "read_picture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "data", image_size=8)
    assert not list(mapping.glob("*.u8"))
    assert not list(mapping.glob("*.part"))


@pytest.mark.parametrize("change", ["contents", "name", "another folder", "size"])
def test_another_folder_is_another_file(tmp_path: Path, mapping: Path, change: str) -> None:
    folder, size = tmp_path / "a" / "data", 8
    for i in range(4):
        for label in ("cat", "dog"):
            write(folder / label / f"{i}.bmp")
    read(folder, image_size=8)
    file = folder / "cat" / "0.bmp"
    before = file.stat()
    if change == "contents":
        write(file, seed=9)
    elif change == "name":
        file.rename(folder / "cat" / "9.bmp")
    elif change == "another folder":
        folder = folder.rename(tmp_path / "data")
    else:
        size = 16
    if file.exists():
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size
    data = read(folder, image_size=size)
    assert len(list(mapping.glob("*.u8"))) == 2
    decoded.SHARE = 0.5
    assert data.fingerprint == read(folder, image_size=size).fingerprint


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "data")
    mapping.write_text("a file")
    with pytest.raises(UsageError, match=r"TVLARS_CACHE must be a folder that can be written, and .*cache is none"):
        read(tmp_path / "data")
    mapping.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"TVLARS_CACHE must be a folder with room for .*: No space left on device$"):
        read(tmp_path / "data")
    assert not list(mapping.glob("*.part"))
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"TVLARS_CACHE must be a folder with room for .*: No space left on device$"):
        read(tmp_path / "data")
    assert not list(mapping.glob("*.part"))


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imgs", "./imgs", "imgs/", "folder:imgs", "ImageFolder:imgs", "imagefolder=imgs"])
def test_a_folder_without_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "imgs").mkdir()
    path = name.rpartition(":")[2].rpartition("=")[2]
    expected = f"unknown data set '{name}': a folder of images is given as imagefolder:{path}$"
    with pytest.raises(UsageError, match=expected):
        TrainConfig(data=name, data_dir=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=expected):
        load_data(name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-at-all/x", "", ":"])
def test_a_name_that_is_no_path_either(name: str) -> None:
    with pytest.raises(UsageError, match="unknown data set"):
        TrainConfig(data=name)
