"""Images in folders: a folder a class, with or without a split, or Tiny ImageNet's own layout.

PATH/train/CLASS/*.png, PATH/val/CLASS/*.png    split by its folders
PATH/CLASS/*.png                                split 4:1 by class
PATH/*.png, PATH/train/*.png, PATH/val/*.png    no labels: one class, split in the same ways
PATH/train/CLASS/images/*.JPEG, PATH/val/images/*.JPEG, PATH/val/val_annotations.txt    Tiny ImageNet

Folders of a split may be called Training, valid, TEST_set and so on; where there are val and test, test is what is
reported. One more folder around all of it plays no part, and folders within a class belong to it. Whatever is left
out stands in ``ImageData.account``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvlars.lab.data.account import BAD, BESIDE, NO_IMAGES, NOT_NAMED, STRAYS, shown
from tvlars.lab.data.decoded import Decoded, decode
from tvlars.lab.data.fingerprint import digest_files
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.pixels import Picture, decoder_version, read_picture
from tvlars.lab.data.walk import ANNOTATIONS, ImageFile, Parts, Walk
from tvlars.lab.errors import UsageError

UNLABELLED = "unlabelled"
"""The class of images that lie in no folder of a class."""
FEW = 0.1
"""Images beside the only folder, by those in it, from which on there is no telling which are meant."""
NAMED = 10
"""Bad files that a message names."""
SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
FILLERS = "set|data|dataset|images?|imgs?|split|folder|seg"
"""Words that names of folders of a split may have besides, as in seg_train and test-set."""

Labelled = list[tuple[ImageFile, str]]


def load_image_folder(folder: Path, image_size: int | None = None, skip_bad_images: bool = False) -> ImageData:
    """Read all images below ``folder`` as RGB.

    Args:
        folder: laid out as the module's docstring says.
        image_size: pixels; the shorter side is scaled to it and the middle square taken. None (default) leaves
            images as they are, and wants all of them squares of one size.
        skip_bad_images: leave out images that cannot be read, and say how many in the account; False (default)
            refuses them, all at once.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise, files are damaged, or sizes differ.
    """
    if not folder.is_dir():
        raise UsageError(f"imagefolder must be an existing folder, got {str(folder)!r}")
    walk = Walk(folder)
    layout = _Layout(walk)
    train, test = layout.train, layout.test
    number = {name: i for i, name in enumerate(sorted({label for _, label in train}))}
    _check_classes(walk, number, test)
    found = decode(folder, [file for file, _ in [*train, *test]], image_size, _decode_one)
    bad = {**layout.missing, **{found.all_files[i].place: reason for i, reason in found.bad.items()}}
    if bad:
        said = _listed(bad)
        if not skip_bad_images:
            raise UsageError(
                f"{folder} must hold images that can be read, but {len(bad):,} of "
                f"{len(train) + len(test) + len(layout.missing):,} cannot: {said}. "
                "--skip-bad-images (skip_bad_images=True) goes on without them."
            )
        place, reason = next(iter(bad.items()))
        walk.account.leave(BAD, f"{place}: {reason}", len(bad))
        here = {file.path for file in found.files}
        train, test = ([one for one in some if one[0].path in here] for some in (train, test))
        readable = {label for _, label in train}
        if lost := [name for name in number if name not in readable]:
            raise UsageError(
                f"{folder} must have training images of class {shown(lost[0])!r}, but none can be read: {said}"
            )
        if not test:
            raise UsageError(f"{folder} must have test images that can be read, but has none: {said}")
    account = walk.account
    account.remarks += found.remarks
    tested = {label for _, label in test}
    without = [name for name in number if name not in tested]
    if without and test:
        account.remarks.append(f"no test images of {_some('class', 'classes', without)}")
    labels = torch.tensor([number[label] for _, label in [*train, *test]], device="cpu")
    account.remarks += _duplicates(found, labels, len(train))
    count = len(train)
    return ImageData(
        f"imagefolder:{folder}",
        layout.origin,
        found.images[:count],
        labels[:count],
        found.images[count:],
        labels[count:],
        classes=len(number),
        flip=True,
        class_names=tuple(number),
        mapped=found.mapped,
        files=(_digest(train), _digest(test)),
        decoder=decoder_version(),
        account=account.lines(),
    )


def _decode_one(file: ImageFile, image_size: int | None) -> Picture:
    return read_picture(file.path, image_size)


class _Layout:
    """Training files and test files with their labels, and how they were told apart."""

    def __init__(self, walk: Walk) -> None:
        self.walk, self.account = walk, walk.account
        self._inner: dict[Parts, Parts] = {}
        self.missing: dict[str, str] = {}
        """Files that annotations name and that are not there, with the reason."""
        self.train: Labelled = []
        self.test: Labelled = []
        root = self._unwrapped(())
        inside = f", in {shown('/'.join(root))}" if root else ""
        if not self._read_splits(root):
            everything = self._by_class(root, alone=True) or self._unlabelled(root)
            if not everything:
                left_out = f"; left out: {self.account}" if str(self.account) else ""
                raise UsageError(f"{walk.folder} must have a folder of images for each class, got none{left_out}")
            self.train, self.test = _split(walk.folder, everything)
            self.origin = "split 4:1 by class with seed 0"
        self.origin += inside

    # -- splits ---------------------------------------------------------------------------------------

    def _read_splits(self, root: Parts) -> bool:
        """Read the folders of a split, where there are any."""
        walk, folders = self.walk, self.walk.folders(root)
        by_split: dict[str, list[str]] = {}
        for name in folders:
            if split := _split_name(name):
                by_split.setdefault(split, []).append(name)
        if not by_split:
            return False
        structured = [name for names in by_split.values() for name in names if self._has_structure((*root, name))]
        others = [name for name in folders if not _split_name(name) and walk.below((*root, name))]
        if others and not structured:  # bus, car, train: a class may be called so
            return False
        for split, names in by_split.items():
            if len(names) > 1:
                raise UsageError(
                    f"{walk.folder} must have one folder for {split}, got {' and '.join(map(shown, names))}"
                )
        there = {split: names[0] for split, names in by_split.items()}
        if "train" not in there or len(there) == 1:
            missing = "train" if "train" not in there else "val (or test)"
            raise UsageError(
                f"{walk.folder} must have the folders train and val (or test), or a folder a class; no {missing}"
            )
        for name in others:
            self.account.leave(BESIDE, shown(f"{name}/"), len(walk.below((*root, name))))
        for name in folders:
            if name not in others and name not in there.values():
                self.account.leave(NO_IMAGES, shown(name))
        self._train_and_test({split: (*root, name) for split, name in there.items()})
        return True

    def _train_and_test(self, there: dict[str, Parts]) -> None:
        walk = self.walk
        train = self._unwrapped(there["train"], within_split=True)
        self.train = self._by_class(train)
        if not self.train:
            self.train = self._unlabelled(train)
            if not self.train:
                raise UsageError(f"{self._where(train)} must have a folder of images for each class, got none")
        names = {label for _, label in self.train}
        labelled = {s: self._is_labelled(p, names) for s, p in there.items() if s != "train"}
        split = "test" if labelled.get("test") or "val" not in there else "val"
        for other in labelled:
            if other != split:
                count, name = len(walk.below(there[other])), shown(there[other][-1])
                why = (
                    "its images have no labels"
                    if not labelled[other]
                    else "there is no validation while training, and what is reported is of the test images"
                )
                self.account.remarks.append(f"{name} is not used ({count:,} images): {why}")
        place = there[split]
        self.origin = f"{shown(there['train'][-1])} and {shown(place[-1])}"
        annotations = walk.annotations(place)
        if annotations is not None and not self._folders_of(place, names):
            self.test = self._annotated(place, annotations)
            self.origin += f" with {ANNOTATIONS}"
            return
        place = self._unwrapped(place, within_split=True)
        if names == {UNLABELLED}:
            self.test = self._unlabelled(place)
        else:
            self.test = self._by_class(place, names)
        if not self.test:
            wanted = f"have a folder of images for each class, or {ANNOTATIONS}"
            wanted = "hold images itself, as the training folder does" if names == {UNLABELLED} else wanted
            raise UsageError(f"{self._where(place)} must {wanted}")

    def _is_labelled(self, place: Parts, names: set[str]) -> bool:
        """Whether the images of a folder of a split have labels that the training images have."""
        if names == {UNLABELLED}:
            return bool(self.walk.images(place))
        if self.walk.annotations(place) is not None:
            return True
        return bool(self._folders_of(self._unwrapped(place, within_split=True), names))

    def _folders_of(self, place: Parts, names: set[str]) -> list[str]:
        return [name for name in self.walk.folders(place) if name in names and self.walk.below((*place, name))]

    def _has_structure(self, place: Parts) -> bool:
        """Whether a folder holds folders of images, or annotations, as that of a split does."""
        walk = self.walk
        if walk.annotations(place) is not None:
            return True
        inside = sum(len(walk.below((*place, name))) for name in walk.folders(place))
        return inside > len(walk.images(place))

    def _unwrapped(self, place: Parts, within_split: bool = False) -> Parts:
        """The only folder inside a folder, and so on, where that is what holds several folders of images."""
        if place not in self._inner:
            inner = self._inner[place] = self._find_inner(place, within_split)
            self._say_around(place, inner)
        return self._inner[place]

    def _find_inner(self, place: Parts, within_split: bool) -> Parts:
        walk, inner = self.walk, place
        if not any(walk.below((*place, name)) for name in walk.folders(place)):
            return place
        while walk.annotations(inner) is None:
            full = [name for name in walk.folders(inner) if walk.below((*inner, name))]
            if len(full) > 1 or (not within_split and any(map(_split_name, full))):
                return inner
            if not full or len(walk.images(inner)) >= len(walk.below((*inner, full[0]))):
                return place
            self._check_strays(inner, full, FEW * len(walk.below((*inner, full[0]))))
            inner = (*inner, full[0])
        return inner

    def _say_around(self, place: Parts, inner: Parts) -> None:
        """Give an account of what lies around the folder that is read."""
        for depth in range(len(place), len(inner)):
            around = inner[:depth]
            if images := self.walk.images(around):
                self.account.leave(STRAYS, images[0].place, len(images))
            for name in self.walk.folders(around):
                if name != inner[depth]:
                    self.account.leave(NO_IMAGES, shown("/".join((*around, name))))

    # -- classes --------------------------------------------------------------------------------------

    def _by_class(self, place: Parts, known: set[str] | None = None, alone: bool = False) -> Labelled:
        """The images of each folder in ``place``, which is its class; empty where images lie in ``place`` alone.

        Args:
            place: the folder.
            known: the classes of the training images, for test images: those need not have all of them.
            alone: whether the folder has no split, so that images in it may be all that is meant.
        """
        walk, folders = self.walk, self.walk.folders(place)
        full = {name: files for name in folders if (files := walk.below((*place, name)))}
        empty = [name for name in folders if name not in full]
        strays = walk.images(place)
        if not full or (len(full) == 1 and len(strays) >= len(next(iter(full.values())))):
            return []
        if strays:
            least = min(map(len, full.values())) if alone else sum(map(len, full.values()))
            self._check_strays(place, list(full), least)
            self.account.leave(STRAYS, strays[0].place, len(strays))
        for name in empty:
            if known is None:
                left_out = f"; left out: {self.account}" if str(self.account) else ""
                raise UsageError(
                    f"{self._where((*place, name))} must hold images, as the folder of a class, but holds none: remove "
                    f"it where it is no class{left_out}"
                )
            if name not in known:
                self.account.leave(NO_IMAGES, shown("/".join((*place, name))))
        alike: dict[str, list[str]] = {}
        for name in full:
            alike.setdefault(_folded(name), []).append(name)
        for names in alike.values():
            if len(names) > 1 and known is None:
                text = " and ".join(f"{name!a}" for name in names)
                self.account.remarks.append(f"classes whose names differ in case or form of letters alone: {text}")
        depth = len(place) + 1
        inside = {name: {part for file in files for part in file.parts[depth:-1]} for name, files in full.items()}
        counts = Counter(part for parts in inside.values() for part in parts)
        if known is None and len(same := sorted(part for part, count in counts.items() if count > 1)) > 1:
            around = [name for name in full if not inside[name].isdisjoint(same)]
            self.account.remarks.append(
                f"{_some('class', 'classes', around)} have the same {_some('folder', 'folders', same)} in them: if "
                "these are the classes, call the folders around them train and test"
            )
        return [(file, name) for name in sorted(full) for file in full[name]]

    def _check_strays(self, place: Parts, folders: list[str], too_many: float) -> None:
        """Raise ``UsageError`` where so many images lie beside folders of images that they may be what is meant."""
        if (count := len(self.walk.images(place))) >= too_many:
            raise UsageError(
                f"{self._where(place)} must hold folders of images, one for each class, or images alone, but holds "
                f"{count:,} images beside {_some('folder', 'folders', folders)} of images: move either elsewhere"
            )

    def _unlabelled(self, place: Parts) -> Labelled:
        """Images that lie in the folder itself, as one class: enough for self-supervised learning."""
        files = self.walk.images(place)
        for name in self.walk.folders(place) if files else []:
            below = self.walk.below((*place, name))
            self.account.leave(BESIDE if below else NO_IMAGES, shown("/".join((*place, name))), len(below) or 1)
        return [(file, UNLABELLED) for file in files]

    def _annotated(self, place: Parts, annotations: str) -> Labelled:
        """Tiny ImageNet's val: file name and class in the first two columns, images beside in a folder ``images``."""
        there = {file.parts[len(place) :]: file for file in self.walk.below(place)}
        lines = _read_annotations(Path(annotations))
        found: Labelled = []
        for name, label in lines.items():
            file = there.pop(("images", name), None) or there.pop((name,), None)
            if file is None:
                self.missing[shown("/".join((*place, "images", name)))] = "it is missing"
            else:
                found.append((file, label))
        if there:
            self.account.leave(NOT_NAMED, next(iter(there.values())).place, len(there))
        return found

    def _where(self, place: Parts) -> str:
        return shown(str(self.walk.folder.joinpath(*place)), 400)


def _split_name(name: str) -> str | None:
    """The split that a folder's name stands for; None where it stands for none."""
    words = [word for word in re.split(r"[\W_\d]+", name.casefold()) if word]
    for split, names in SPLITS.items():
        wanted = re.compile(f"({'|'.join(names)})({FILLERS})?")
        if sum(bool(wanted.fullmatch(word)) for word in words) == 1 and all(
            wanted.fullmatch(word) or re.fullmatch(FILLERS, word) for word in words
        ):
            return split
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _some(one: str, many: str, names: Sequence[str]) -> str:
    """ "2 classes (cat, dog)"."""
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names):,} {one if len(names) == 1 else many} ({', '.join(map(shown, names[:5]))}{more})"


def _listed(bad: dict[str, str]) -> str:
    more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    return ", ".join(f"{place} ({reason})" for place, reason in list(bad.items())[:NAMED]) + more


def _split(folder: Path, everything: list[tuple[Any, str]]) -> tuple[list[tuple[Any, str]], list[tuple[Any, str]]]:
    """A fifth of each class, at least one image, for test."""
    rng = np.random.default_rng(0)
    train: list[tuple[Any, str]] = []
    test: list[tuple[Any, str]] = []
    by_class: dict[str, list[tuple[Any, str]]] = {}
    for image in everything:
        by_class.setdefault(image[1], []).append(image)
    if single := [name for name, images in by_class.items() if len(images) < 2]:
        raise UsageError(
            f"{folder} must hold at least two images of each class to be split, got one of "
            f"{_some('class', 'classes', single)}"
        )
    for images in by_class.values():
        chosen = set(rng.permutation(len(images))[: max(len(images) // 5, 1)].tolist())
        for i, image in enumerate(images):
            (test if i in chosen else train).append(image)
    return train, test


def _check_classes(walk: Walk, number: dict[str, int], test: Labelled) -> None:
    """Raise ``UsageError`` unless there are training images of the class of every test image."""
    for file, label in test:
        if label not in number:
            alike = [name for name in number if _folded(name) == _folded(label)]
            hint = f"; {alike[0]!a} differs in case or form of letters alone" if alike else ""
            others = {name for _, name in test if name not in number}
            more = f", nor have {len(others) - 1:,} other classes" if len(others) > 1 else ""
            raise UsageError(
                f"{shown(file.path, 400)} is of class {label!a}, which has no training images in {walk.folder}"
                f"{more}{hint}"
            )


def _read_annotations(file: Path) -> dict[str, str]:
    """The class of each file: columns between tabs, or blanks where there is no tab, in any encoding of Unicode."""
    raw = file.read_bytes()
    utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = raw.decode("utf-16", "replace") if utf16 else raw.decode("utf-8-sig", "surrogateescape")
    found: dict[str, str] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
        if len(columns) < 2 or not columns[0] or not columns[1]:
            raise UsageError(f"{file} must have a file name and a class in each line, line {number} has not")
        if found.setdefault(columns[0], columns[1]) != columns[1]:
            raise UsageError(
                f"{file} must give each file one class, but {columns[0]!a} is of {found[columns[0]]!a}, and in line "
                f"{number} of {columns[1]!a}"
            )
    if not found:
        raise UsageError(f"{file} must name at least one image, got none")
    return found


def _digest(files: Labelled) -> str:
    return digest_files([("/".join(file.parts).encode("utf-8", "surrogateescape"), file.size) for file, _ in files])


def _duplicates(found: Decoded, labels: torch.Tensor, train: int) -> list[str]:
    """Remarks on images with the same pixels: some for training and some for test, or in several classes."""
    if not len(found.digests):
        return []
    _, first, group = np.unique(found.digests, return_index=True, return_inverse=True)
    remarks = []
    group = group.ravel()
    in_train = np.zeros(len(first), bool)
    in_train[group[:train]] = True
    if shared := np.flatnonzero(in_train[group[train:]]).tolist():
        there = found.files[int(first[group[train + shared[0]]])]
        remarks.append(
            f"{len(shared):,} test {'image has' if len(shared) == 1 else 'images have'} the pixels of a training image "
            f"({found.files[train + shared[0]].place}, {there.place})"
        )
    pairs = Counter(group_of for group_of, _ in {*zip(group[:train].tolist(), labels[:train].tolist(), strict=True)})
    if several := [group_of for group_of, classes in pairs.items() if classes > 1]:
        remarks.append(
            f"{len(several):,} training {'image is' if len(several) == 1 else 'images are'} in more than one class "
            f"({found.files[int(first[several[0]])].place})"
        )
    return remarks
