"""Folders of images: their splits and classes, annotations and bad files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.lab.data.folders import counts, read, said, write, write_classes
from tvlars.lab import TrainConfig, UsageError, load_data, train
from tvlars.lab.data import decoded, image_folder
from tvlars.lab.data.account import BROKEN_LINKS, HIDDEN_FILES, Account
from tvlars.lab.data.image_folder import _split, _split_name
from tvlars.lab.data.pixels import BadImageError, read_picture
from tvlars.lab.training.progress import Reporter

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
        UsageError, match=r"contains 20 images beside 1 folder \(thumbs\) of images: move one of them elsewhere"
    ):
        read(tmp_path)
    for i in range(6):
        write(tmp_path / "small" / f"{i}.png", i)
    with pytest.raises(UsageError, match=r"contains 20 images beside 2 folders \(small, thumbs\) of images"):
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
    with pytest.raises(UsageError, match=r"dog must be a readable folder, but is not: Permission denied"):
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
    with pytest.raises(UsageError, match=r"must have readable test images, but has none: val/cat/0\.png"):
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
    with pytest.raises(UsageError, match="dog must contain images, as the folder of a class, but has none") as error:
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
        "note     classes whose names differ only in case or form of letters: 'Cat' and 'cat'"
    )
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "CAT")
    with pytest.raises(UsageError, match=r"'CAT', which has no training images .*; 'Cat' differs only in case or form"):
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
    with pytest.raises(
        UsageError, match=r"but 3 of 8 cannot be read: val/images/gone.png \(it is missing\), val/images/\.\./"
    ):
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
    ("text.jpg", text, "it is not an image that Pillow can open"),
    ("text.webp", text, "it is not an image that Pillow can open"),
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
    assert f"but {len(BAD) + 1} of 31 cannot be read: train/cat/cut.bmp (" in str(error.value)
    for name, _, reason in BAD:
        place = str(error.value).index(f"train/cat/{name} (")
        assert reason in str(error.value)[place : place + 200]
    assert "--skip-bad-images (skip_bad_images=True) continues without them" in str(error.value)
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
    with pytest.raises(UsageError, match=r"but 25 of 60 cannot be read: .*\) and 15 more\. --skip-bad"):
        read(tmp_path)
    for i in range(25, 30):
        empty(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(UsageError, match="must have training images of class 'cat', but none can be read"):
        read(tmp_path, skip_bad_images=True)


def test_an_image_that_would_fill_the_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    write(tmp_path / "cat" / "large.png", size=32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UsageError, match=r"1 of 5 cannot be read: cat/large.png \(it has more than 1,000 pixels\)"):
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
    with pytest.raises(UsageError, match="skip_bad_images must not be given for digits, which is not a folder of im"):
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
