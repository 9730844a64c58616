"""Images in folders: one folder per class, with or without a split, or the layout of Tiny ImageNet.

PATH/train/CLASS/*.png, PATH/val/CLASS/*.png    split by its folders
PATH/CLASS/*.png                                split 4:1 by class
PATH/*.png, PATH/train/*.png, PATH/val/*.png    no labels: one class, split in the same ways
PATH/train/CLASS/images/*.JPEG, PATH/val/images/*.JPEG, PATH/val/val_annotations.txt    Tiny ImageNet

Folders of a split may also have names such as Training, valid or TEST_set; if there is a folder test, val is for
validation. One more folder around all of them is ignored, and folders inside a class belong to the class.
``ImageData.account`` lists the files that are left out.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvlars._words import counted
from tvlars.lab.data.account import BAD, BESIDE, NO_IMAGES, NOT_NAMED, STRAYS, shown
from tvlars.lab.data.decoded import Digests, decode
from tvlars.lab.data.fingerprint import digest_files
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.pixels import BadImageError, Choose, decoder_version, read_picture
from tvlars.lab.data.streamed import Readers, Source, StreamedImages, default_processes
from tvlars.lab.data.walk import ANNOTATIONS, Folder, ImageFile
from tvlars.lab.errors import UsageError

UNLABELLED = "unlabelled"
"""Class of images that are not in the folder of a class."""
FEW = 0.1
"""Ratio of images beside class folders to images inside from which it is unclear which ones are meant."""
NAMED = 10
"""Most bad files that a message names."""
SPLITS = {"train": "train|training|trn", "val": "val|valid|validation|dev", "test": "test|testing|tst|eval|evaluation"}
FILLERS = "set|data|dataset|images?|imgs?|split|folder|seg"
"""Additional words in the names of split folders, as in seg_train and test-set."""

Labelled = list[tuple[ImageFile, str]]


def load_image_folder(
    folder: Path,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    encoded: bool = False,
    processes: int | None = None,
) -> ImageData:
    """Read all images below ``folder`` as RGB.

    Args:
        folder: folder with one of the layouts in the module's docstring.
        image_size: pixels; the shorter side is scaled to this size, and the central square is cropped. None (default):
            images are not changed, and must be squares of one size.
        skip_bad_images: leave out images that cannot be read, and count them in the account. False (default): raise
            an error that names them.
        encoded: leave the training images as files if ``image_size`` is given, and read them on demand. False
            (default): decode them once.
        processes: number of processes that read files. None (default): one per core.

    Raises:
        UsageError: the folder is missing, empty or has another layout, files are damaged, or sizes differ.
    """
    if not folder.is_dir():
        raise UsageError(f"imagefolder must be an existing folder, got {str(folder)!r}")
    layout = _Layout(Folder(folder))
    account, everything = layout.account, [*layout.train, *layout.validation, *layout.test]
    number = {name: i for i, name in enumerate(sorted(_classes(layout.train)))}
    _check_classes(folder, number, [*layout.validation, *layout.test])
    if encoded and skip_bad_images:
        raise UsageError("skip_bad_images must not be given with crop random-resized, since images are decoded later")
    first = len(layout.train) if encoded and image_size is not None else 0
    found = decode(folder, [file for file, _ in everything[first:]], image_size)
    found = replace(found, bad={first + i: reason for i, reason in found.bad.items()})
    bad = {**layout.missing, **{everything[i][0].place: reason for i, reason in found.bad.items()}}
    ends = [0, len(layout.train), len(layout.train) + len(layout.validation), len(everything)]
    good = [one for i, one in enumerate(everything) if i not in found.bad]
    ends = [end - sum(i < end for i in found.bad) for end in ends]
    places = [slice(*both) for both in itertools.pairwise(ends)]
    train, validation, test = (good[place] for place in places)
    if bad:
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        said = ", ".join(f"{place} ({reason})" for place, reason in list(bad.items())[:NAMED]) + more
        if not skip_bad_images:
            raise UsageError(
                f"{folder} must contain readable images, but {len(bad):,} of "
                f"{len(everything) + len(layout.missing):,} cannot be read: {said}. "
                "--skip-bad-images (skip_bad_images=True) continues without them."
            )
        account.leave(BAD, "{}: {}".format(*next(iter(bad.items()))), len(bad))
        if lost := sorted(number.keys() - _classes(train)):
            raise UsageError(
                f"{folder} must have training images of class {shown(lost[0])!r}, but none can be read: {said}"
            )
        for word, mine, wanted in (("test", test, True), ("validation", validation, layout.validation)):
            if wanted and not mine:
                raise UsageError(f"{folder} must have readable {word} images, but has none: {said}")
    account.remarks += found.remarks
    for word, mine in (("validation", validation), ("test", test)):
        if mine and (without := sorted(number.keys() - _classes(mine))):
            account.remarks.append(f"no {word} images of {_some('class', 'classes', without)}")
    labels = torch.tensor([number[label] for _, label in good], device="cpu")
    files = [file for file, _ in good]
    decoded: list[Any] = [found.images[max(place.start - first, 0) : max(place.stop - first, 0)] for place in places]
    if first:
        account.remarks.append("training images are read from their files on demand")
        readers = Readers(_Files([file for file, _ in train], image_size), default_processes(processes))
        decoded[0] = StreamedImages(readers, tuple(found.images.shape[1:]), torch.arange(len(train), device="cpu"))
    else:
        others = {"validation": places[1], "test": places[2]}
        account.remarks += _duplicates(found.digests, files, labels, places[0], others)
    held: Any = (decoded[1], labels[places[1]], _digest(validation)) if validation else (None, None, "")
    return ImageData(
        f"imagefolder:{folder}",
        layout.origin,
        decoded[0],
        labels[places[0]],
        decoded[2],
        labels[places[2]],
        classes=len(number),
        flip=True,
        class_names=tuple(number),
        mapped=found.mapped or first > 0,
        files=(_digest(train), _digest(test)),
        decoder=decoder_version(),
        account=account.lines(),
        validation_images=held[0],
        validation_labels=held[1],
        validation_files=held[2],
    )


class _Files(Source):
    """Files of images."""

    def __init__(self, files: Sequence[ImageFile], image_size: int | None) -> None:
        self.files, self.image_size = files, image_size

    def original(self, index: int) -> Callable[[Choose], torch.Tensor]:
        return partial(self.fixed, index)

    def fixed(self, index: int, choose: Choose | None = None) -> torch.Tensor:
        file = self.files[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of large images and EXIF data
                pixels = read_picture(file.path, self.image_size, choose).pixels
        except BadImageError as error:
            raise UsageError(f"{file.place} must be a readable image, but {error}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)


class _Layout:
    """Files for training, validation and test with their labels, and the origin of the split."""

    def __init__(self, top: Folder) -> None:
        self.top, self.account = top, top.account
        self._inner: dict[Folder, Folder] = {}
        self.missing: dict[str, str] = {}
        """Files that are named in annotations but missing, with the reason."""
        self.train: Labelled = []
        self.validation: Labelled = []
        """Files of val if there is also test; empty if one of them is missing or has no labels."""
        self.test: Labelled = []
        root = self._unwrapped(top)
        if not self._read_splits(root):
            everything = self._by_class(root, alone=True) or self._unlabelled(root)
            if not everything:
                raise UsageError(f"{top.path} must have a folder of images for each class, got none{self._left_out()}")
            self.train, self.test = _split(top.path, everything)
            self.origin = "split 4:1 by class with seed 0"
        if root is not top:
            self.origin += f", in {root.place}"

    # -- splits ---------------------------------------------------------------------------------------

    def _read_splits(self, root: Folder) -> bool:
        """Read the folders of a split; return False if there are none."""
        by_split: dict[str, list[Folder]] = {}
        for folder in root.folders:
            if split := _split_name(folder.name):
                by_split.setdefault(split, []).append(folder)
        named = [folder for folders in by_split.values() for folder in folders]
        others = [folder for folder in root.full if folder not in named]
        # in bus, car, train, the last folder is a class
        if not named or (others and not any(map(_has_structure, named))):
            return False
        for split, folders in by_split.items():
            if len(folders) > 1:
                names = " and ".join(shown(folder.name) for folder in folders)
                raise UsageError(f"{self.top.path} must have one folder for {split}, got {names}")
        there = {split: folders[0] for split, folders in by_split.items()}
        if "train" not in there or len(there) == 1:
            missing = "train" if "train" not in there else "val (or test)"
            raise UsageError(
                f"{self.top.path} must have the folders train and val (or test), or one folder per class; no {missing}"
            )
        for folder in others:
            self.account.leave(BESIDE, shown(f"{folder.name}/"), len(folder.below))
        for folder in root.empty:
            if folder not in named:
                self.account.leave(NO_IMAGES, shown(folder.name))
        self._read_each(there)
        return True

    def _read_each(self, there: dict[str, Folder]) -> None:
        train = self._unwrapped(there["train"], within_split=True)
        self.train = self._by_class(train) or self._unlabelled(train)
        if not self.train:
            raise UsageError(f"{train} must have a folder of images for each class, got none")
        names = _classes(self.train)
        labelled = {split: self._is_labelled(place, names) for split, place in there.items() if split != "train"}
        split = "test" if labelled.get("test") or "val" not in there else "val"
        self.origin = f"{shown(there['train'].name)} and {shown(there[split].name)}"
        if split == "test" and labelled.get("val"):
            self.origin = f"{shown(there['train'].name)}, {shown(there['val'].name)} and {shown(there['test'].name)}"
            self.validation, said = self._labelled(there["val"], names)
            self.origin += said
        for other in labelled:
            if other != split and not labelled[other]:
                unused = there[other]
                said = f"({len(unused.below):,} images): its images have no labels"
                self.account.remarks.append(f"{shown(unused.name)} is not used {said}")
        self.test, said = self._labelled(there[split], names)
        self.origin += said

    def _labelled(self, place: Folder, names: set[str]) -> tuple[Labelled, str]:
        """Return the images of a split folder with their labels, and an addition to the origin."""
        if place.annotations and not _folders_of(place, names):
            return self._annotated(place, place.annotations), f" with {ANNOTATIONS}"
        place = self._unwrapped(place, within_split=True)
        unlabelled = names == {UNLABELLED}
        found = self._unlabelled(place) if unlabelled else self._by_class(place, names)
        if not found:
            wanted = f"have a folder of images for each class, or {ANNOTATIONS}"
            raise UsageError(
                f"{place} must {'contain images directly, as the training folder does' if unlabelled else wanted}"
            )
        return found, ""

    def _is_labelled(self, place: Folder, names: set[str]) -> bool:
        """Return whether the images of a split folder have the labels of the training images."""
        if names == {UNLABELLED}:
            return bool(place.images)
        return bool(place.annotations or _folders_of(self._unwrapped(place, within_split=True), names))

    def _unwrapped(self, place: Folder, within_split: bool = False) -> Folder:
        """Return the folder below ``place``, reached through single folders, that has several folders of images."""
        if place in self._inner:
            return self._inner[place]
        around: list[Folder] = []
        inner = place
        while not inner.annotations:
            full = inner.full
            if len(full) > 1 or (not within_split and any(_split_name(folder.name) for folder in full)):
                break
            if not full or len(inner.images) >= len(full[0].below):
                inner, around = place, []
                break
            _check_strays(inner, full, FEW * len(full[0].below))
            around.append(inner)
            inner = full[0]
        for folder in around:  # count files outside of the folder that is read
            if folder.images:
                self.account.leave(STRAYS, folder.images[0].place, len(folder.images))
            for empty in folder.empty:
                empty.leave(NO_IMAGES)
        self._inner[place] = inner
        return inner

    # -- classes --------------------------------------------------------------------------------------

    def _by_class(self, place: Folder, known: set[str] | None = None, alone: bool = False) -> Labelled:
        """Return the images of each folder in ``place``, with the folder's name as class; [] if there are no folders.

        Folders of test images may lack some of the ``known`` classes. In a folder without a split (``alone``), images
        beside the class folders may be the ones that are meant.
        """
        full, strays = place.full, place.images
        sizes = [len(folder.below) for folder in full]
        if not full or (len(full) == 1 and len(strays) >= sizes[0]):
            return []
        if strays:
            _check_strays(place, full, min(sizes) if alone else sum(sizes))
            self.account.leave(STRAYS, strays[0].place, len(strays))
        for folder in place.empty:
            if known is None:
                raise UsageError(
                    f"{folder} must contain images, as the folder of a class, but has none: remove it if it is not a "
                    f"class{self._left_out()}"
                )
            if folder.name not in known:
                folder.leave(NO_IMAGES)
        if known is None:
            self._remark_on_names(full)
        return [(file, folder.name) for folder in full for file in folder.below]

    def _remark_on_names(self, classes: list[Folder]) -> None:
        alike: dict[str, list[str]] = {}
        for folder in classes:
            alike.setdefault(_folded(folder.name), []).append(f"{folder.name!a}")
        self.account.remarks += [
            f"classes whose names differ only in case or form of letters: {' and '.join(names)}"
            for names in alike.values()
            if len(names) > 1
        ]
        inside = {
            folder.name: {part for file in folder.below for part in file.parts[len(folder.parts) : -1]}
            for folder in classes
        }
        counts = Counter(part for parts in inside.values() for part in parts)
        if len(same := sorted(part for part, count in counts.items() if count > 1)) > 1:
            around = [name for name, parts in inside.items() if not parts.isdisjoint(same)]
            self.account.remarks.append(
                f"{_some('class', 'classes', around)} have the same {_some('folder', 'folders', same)} in them: if "
                "these are the classes, call the folders around them train and test"
            )

    def _unlabelled(self, place: Folder) -> Labelled:
        """Return the images directly in the folder as one class, which is enough for self-supervised learning."""
        for folder in place.folders if place.images else []:
            folder.leave(BESIDE if folder.below else NO_IMAGES, count=len(folder.below) or 1)
        return [(file, UNLABELLED) for file in place.images]

    def _annotated(self, place: Folder, annotations: Path) -> Labelled:
        """Return images of Tiny ImageNet's val: a file with columns of file name and class, and a folder ``images``."""
        there = {file.parts[len(place.parts) :]: file for file in place.below}
        found: Labelled = []
        for name, label in _read_annotations(annotations).items():
            file = there.pop(("images", name), None) or there.pop((name,), None)
            if file is None:
                self.missing[shown("/".join((*place.parts, "images", name)))] = "it is missing"
            else:
                found.append((file, label))
        if there:
            self.account.leave(NOT_NAMED, next(iter(there.values())).place, len(there))
        return found

    def _left_out(self) -> str:
        return f"; left out: {self.account}" if self.account.left_out else ""


def _folders_of(place: Folder, names: set[str]) -> list[Folder]:
    return [folder for folder in place.full if folder.name in names]


def _has_structure(place: Folder) -> bool:
    """Return whether a folder contains folders of images, or annotations, like a split folder."""
    return bool(place.annotations) or sum(len(folder.below) for folder in place.folders) > len(place.images)


def _check_strays(place: Folder, folders: list[Folder], too_many: float) -> None:
    """Raise ``UsageError`` if there are so many images beside the class folders that they may be the ones meant."""
    if len(place.images) >= too_many:
        names = _some("folder", "folders", [folder.name for folder in folders])
        raise UsageError(
            f"{place} must contain folders of images, one for each class, or only images, but contains "
            f"{len(place.images):,} images beside {names} of images: move one of them elsewhere"
        )


def _split_name(name: str) -> str | None:
    """Return the split that a folder's name means; None if it means no split."""
    words = " ".join(re.split(r"[\W_\d]+", name.casefold())).strip()
    for split, names in SPLITS.items():
        if re.fullmatch(rf"(({FILLERS}) )*({names})({FILLERS})?( ({FILLERS}))*", words):
            return split
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _some(one: str, many: str, names: Sequence[str]) -> str:
    """Return a number with names, as in "2 classes (cat, dog)"."""
    more = ", ..." if len(names) > 5 else ""
    return f"{counted(len(names), one, many)} ({', '.join(map(shown, names[:5]))}{more})"


def _split(folder: Path, everything: list[tuple[Any, str]]) -> tuple[list[tuple[Any, str]], list[tuple[Any, str]]]:
    """Split off a fifth of each class, at least one image, as test set."""
    rng = np.random.default_rng(0)
    by_class: dict[str, list[tuple[Any, str]]] = {}
    for image in everything:
        by_class.setdefault(image[1], []).append(image)
    if single := [name for name, images in by_class.items() if len(images) < 2]:
        raise UsageError(
            f"{folder} must contain at least two images of each class to be split, got one of "
            f"{_some('class', 'classes', single)}"
        )
    parts: tuple[list[tuple[Any, str]], list[tuple[Any, str]]] = ([], [])
    for images in by_class.values():
        chosen = set(rng.permutation(len(images))[: max(len(images) // 5, 1)].tolist())
        for i, image in enumerate(images):
            parts[i in chosen].append(image)
    return parts


def _check_classes(folder: Path, number: Collection[str], test: Labelled) -> None:
    """Raise ``UsageError`` unless there are training images of the class of every test image."""
    unknown = [(file, label) for file, label in test if label not in number]
    if unknown:
        file, label = unknown[0]
        alike = [name for name in number if _folded(name) == _folded(label)]
        hint = f"; {alike[0]!a} differs only in case or form of letters" if alike else ""
        others = len({label for _, label in unknown}) - 1
        more = f", nor have {others:,} other classes" if others else ""
        raise UsageError(
            f"{shown(file.path, 400)} is of class {label!a}, which has no training images in {folder}{more}{hint}"
        )


def _read_annotations(file: Path) -> dict[str, str]:
    """Return the class of each file; columns are separated by tabs, or else by blanks, in any Unicode encoding."""
    raw = file.read_bytes()
    utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = raw.decode("utf-16", "replace") if utf16 else raw.decode("utf-8-sig", "surrogateescape")
    found: dict[str, str] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        name, label, *_ = (*(column.strip() for column in (line.split("\t") if "\t" in line else line.split())), "")
        if not name or not label:
            raise UsageError(f"{file} must have a file name and a class in each line, but line {number} does not")
        if found.setdefault(name, label) != label:
            raise UsageError(
                f"{file} must give each file one class, but {name!a} is of {found[name]!a}, and in line {number} of "
                f"{label!a}"
            )
    if not found:
        raise UsageError(f"{file} must name at least one image, got none")
    return found


def _classes(images: Labelled) -> set[str]:
    return {label for _, label in images}


def _digest(files: Labelled) -> str:
    return digest_files([("/".join(file.parts).encode("utf-8", "surrogateescape"), file.size) for file, _ in files])


def _duplicates(
    digests: Digests, files: list[ImageFile], labels: torch.Tensor, train: slice, others: dict[str, slice]
) -> list[str]:
    """Return remarks on images with equal pixels in training and another split, or in several classes."""
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    remarks = []
    in_train = np.zeros(len(first), bool)
    in_train[group[train]] = True
    for word, place in others.items():
        if shared := np.flatnonzero(in_train[group[place]]).tolist():
            there = files[int(first[group[place.start + shared[0]]])]
            remarks.append(
                f"{counted(len(shared), f'{word} image has', f'{word} images have')} the pixels of a training image "
                f"({files[place.start + shared[0]].place}, {there.place})"
            )
    pairs = Counter(group_of for group_of, _ in {*zip(group[train].tolist(), labels[train].tolist(), strict=True)})
    if several := [group_of for group_of, classes in pairs.items() if classes > 1]:
        remarks.append(
            f"{counted(len(several), 'training image is', 'training images are')} in more than one class "
            f"({files[int(first[several[0]])].place})"
        )
    return remarks
