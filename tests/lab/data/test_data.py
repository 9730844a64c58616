"""Data sets: shapes and labels, files in their real format, and damaged ones."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tvlars.lab import UsageError
from tvlars.lab.data import load_data
from tvlars.lab.data.torchvision_sets import SYSTEM_DIR, read_idx

PARTS = {
    "train-images-idx3-ubyte": (6, 28, 28),
    "train-labels-idx1-ubyte": (6,),
    "t10k-images-idx3-ubyte": (3, 28, 28),
    "t10k-labels-idx1-ubyte": (3,),
}


def write_idx(file: Path, values: np.ndarray) -> None:
    raw = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    file.write_bytes(gzip.compress(raw) if file.suffix == ".gz" else raw)


def write_fashion_mnist(folder: Path, suffix: str = ".gz") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, shape in PARTS.items():
        high = 256 if len(shape) == 3 else 10
        written[part] = rng.integers(0, high, shape, dtype=np.uint8)
        write_idx(folder / (part + suffix), written[part])
    return written


def test_digits_are_real_and_split_by_class() -> None:
    data = load_data("digits")
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert data.train_images.dtype == torch.uint8
    assert data.train_images.max() == 255
    assert torch.bincount(data.test_labels).tolist() == pytest.approx([36] * 10, abs=2)
    assert "1,437 training and 360 test images of 1 x 8 x 8" in str(data)


def test_digits_are_those_of_scikit_learn_in_the_order_of_its_split() -> None:
    data, raw = load_data("digits"), load_digits()
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=0, stratify=raw.target)
    pixels = np.rint(raw.images * (255 / 16))[:, None]
    assert np.array_equal(data.train_images.numpy(), pixels[train])
    assert np.array_equal(data.test_images.numpy(), pixels[test])
    assert np.array_equal(data.train_labels.numpy(), raw.target[train])
    assert np.array_equal(data.test_labels.numpy(), raw.target[test])


@pytest.mark.parametrize(("suffix", "below"), [(".gz", ""), ("", ""), (".gz", "FashionMNIST/raw")])
def test_fashion_mnist_from_a_folder(tmp_path: Path, suffix: str, below: str) -> None:
    written = write_fashion_mnist(tmp_path / below, suffix)
    data = load_data("fashion-mnist", tmp_path)
    assert np.array_equal(data.train_images.squeeze(1).numpy(), written["train-images-idx3-ubyte"])
    assert data.train_labels.tolist() == written["train-labels-idx1-ubyte"].tolist()
    assert data.test_images.shape == (3, 1, 28, 28)
    assert data.test_labels.dtype == torch.int64


def test_fashion_mnist_from_the_system() -> None:
    if not SYSTEM_DIR.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    data = load_data("fashion-mnist")
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert torch.bincount(data.train_labels).tolist() == [6000] * 10
    mean, std = data.mean_and_std()
    assert (mean / 255).item() == pytest.approx(0.2860, abs=1e-4)  # the values everybody uses
    assert (std / 255).item() == pytest.approx(0.3530, abs=1e-4)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UsageError, match="lacks t10k-labels-idx1-ubyte"):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "not gzip", "cut inside", "other type", "a byte"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write_fashion_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    raw = gzip.decompress(file.read_bytes())
    damaged = {
        "cut": file.read_bytes()[:-20],
        "not gzip": b"<html>404</html>",
        "cut inside": gzip.compress(raw[:-5]),
        "a byte": file.read_bytes()[:100] + bytes([file.read_bytes()[100] ^ 255]) + file.read_bytes()[101:],
        "other type": gzip.compress(raw[:2] + b"\x0d" + raw[3:]),
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte.gz must be an idx file .*cannot be read"):
        load_data("fashion-mnist", tmp_path)


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(UsageError, match="as many training images as labels"):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 20, 20), r"training and test images of one shape \(C, H, W\), got \(1, 28, 28\) and \(1, 20, 20\)"),
        ((3, 0, 0), "images of one shape"),
        ((0, 28, 28), "as many test images as labels"),
        ((3, 28), r"must hold images and labels, got shapes \(3, 28\) and \(3,\)"),
        ((3, 28, 28, 1), "must hold images and labels"),
    ],
)
def test_images_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match=message):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0\0\x08\xff", b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x08\0"])
def test_headers_that_are_none_are_one_sentence(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(UsageError, match="x must be an idx file of unsigned bytes, but cannot be read"):
        read_idx(tmp_path / "x")


def test_a_failed_download_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(UsageError, match=r"neither in /usr/share.*could not be downloaded: Error downloading"):
        load_data("fashion-mnist", tmp_path)


def test_torchvisions_own_files_are_read_after_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision unpacks its download to FashionMNIST/raw; its loader is run on such files here."""
    from torchvision.datasets import FashionMNIST

    written = write_fashion_mnist(tmp_path / "elsewhere" / "FashionMNIST" / "raw", suffix="")
    seen = FashionMNIST(str(tmp_path / "elsewhere"), train=True, download=False)
    assert np.array_equal(seen.data.numpy(), written["train-images-idx3-ubyte"])
    monkeypatch.setattr("tvlars.lab.data.torchvision_sets.SYSTEM_DIR", tmp_path / "nowhere")
    monkeypatch.setattr("tvlars.lab.data.torchvision_sets.DOWNLOAD_DIR", tmp_path / "elsewhere")
    data = load_data("fashion-mnist")
    assert np.array_equal(data.train_images.squeeze(1).numpy(), written["train-images-idx3-ubyte"])


# -- CIFAR -----------------------------------------------------------------------------------------------


def write_cifar(folder: Path, classes: int, monkeypatch: pytest.MonkeyPatch, images: int = 4) -> dict[str, np.ndarray]:
    """Small files in CIFAR's own format; torchvision is told their checksums, which it knows of the real ones."""
    import torchvision.datasets

    cls = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100
    rng, written = np.random.default_rng(classes), {}
    below = folder / cls.base_folder
    below.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        raw = pickle.dumps(content)
        (below / name).write_bytes(raw)
        return [name, hashlib.md5(raw).hexdigest()]

    def split(entries: Any) -> list[list[str]]:
        out = []
        for name, _ in entries:
            data = rng.integers(0, 256, (images, 3072), dtype=np.uint8)
            labels = (np.arange(images) % classes).tolist()
            key = "labels" if classes == 10 else "fine_labels"
            out.append(write(name, {"data": data, key: labels}))
            written[name] = data
        return out

    monkeypatch.setattr(cls, "train_list", split(cls.train_list))
    monkeypatch.setattr(cls, "test_list", split(cls.test_list))
    key = "label_names" if classes == 10 else "fine_label_names"
    name, md5 = write(cls.meta["filename"], {key: [f"class {i}" for i in range(classes)]})
    monkeypatch.setattr(cls, "meta", {**cls.meta, "filename": name, "md5": md5})
    return written


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    written = write_cifar(tmp_path, classes, monkeypatch)
    data = load_data(f"cifar{classes}", tmp_path)
    first, *_, last = written.values()
    assert data.train_images.shape == ((20 if classes == 10 else 4), 3, 32, 32)
    assert np.array_equal(data.train_images[0].numpy(), first[0].reshape(3, 32, 32))
    assert np.array_equal(data.test_images[3].numpy(), last[3].reshape(3, 32, 32))
    assert (data.classes, data.flip, data.class_names[1]) == (classes, True, "class 1")
    assert data.train_labels.dtype == torch.int64


def test_damaged_cifar_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    write_cifar(tmp_path, 10, monkeypatch)
    below = tmp_path / "cifar-10-batches-py"
    (below / "data_batch_3").write_bytes(b"cut")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(UsageError, match=r"cifar-10-batches-py are incomplete, and it could not be downloaded: "):
        load_data("cifar10", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"cifar10 is not in .*empty, and it could not be downloaded"):
        load_data("cifar10", tmp_path / "empty")


# -- folders ----------------------------------------------------------------------------------------------


def write_image(file: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)
    return pixels


def write_folders(folder: Path, parts: tuple[str, ...], suffix: str = ".png") -> None:
    for p, part in enumerate(parts):
        for c, label in enumerate(("cat", "dog", "emu")):
            for i in range(5):
                write_image(folder / part / label / f"{i}{suffix}", 100 * p + 10 * c + i)


@pytest.mark.parametrize("test_part", ["val", "test"])
def test_a_folder_with_a_split(tmp_path: Path, test_part: str) -> None:
    write_folders(tmp_path, ("train", test_part))
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.train_images.shape == data.test_images.shape == (15, 3, 8, 8)
    assert data.train_labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.class_names == ("cat", "dog", "emu")
    expected = write_image(tmp_path / "again.png", 113)  # of part 1, class 1, number 3
    assert np.array_equal(data.test_images[8].permute(1, 2, 0).numpy(), expected)


def test_a_folder_without_a_split_is_split_by_class(tmp_path: Path) -> None:
    write_folders(tmp_path / "pictures", ("",))
    data = load_data("imagefolder:pictures", tmp_path)
    assert torch.bincount(data.train_labels).tolist() == [4, 4, 4]
    assert torch.bincount(data.test_labels).tolist() == [1, 1, 1]
    assert "split 4:1 by class" in str(data)
    again = load_data("imagefolder:pictures", tmp_path)
    assert torch.equal(data.test_images, again.test_images)


def write_tiny_imagenet(folder: Path) -> None:
    for c, wnid in enumerate(("n01443537", "n01629819")):
        for i in range(3):
            mode = "L" if i == 2 else "RGB"  # some of its images are grey
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * c + i, (64, 64), mode)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    (folder / "test" / "images").mkdir(parents=True)  # the real data set has no labels there: ignored
    write_image(folder / "test" / "images" / "test_0.JPEG", 99, (64, 64))
    lines = []
    for i, wnid in enumerate(("n01629819", "n01443537", "n01629819")):
        write_image(folder / "val" / "images" / f"val_{i}.JPEG", 50 + i, (64, 64))
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def test_tiny_imagenet_with_its_annotations(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.train_images.shape == (6, 3, 64, 64)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [1, 0, 1]
    assert data.class_names == ("n01443537", "n01629819")
    grey = data.train_images[2]
    assert torch.equal(grey[0], grey[1])


def test_images_are_scaled_where_a_size_is_given(tmp_path: Path) -> None:
    for label in ("a", "b"):
        write_image(tmp_path / label / "0.png", 0, (30, 20))
        write_image(tmp_path / label / "1.png", 1, (12, 40))
    data = load_data(f"imagefolder:{tmp_path}", image_size=16)
    assert data.train_images.shape[1:] == (3, 16, 16)
    with pytest.raises(
        UsageError, match=r"images must be squares of one size unless image_size is given: .* is \d+ x \d+ pixels"
    ):
        load_data(f"imagefolder:{tmp_path}")


def damage(folder: Path, kind: str) -> None:
    image = folder / "train" / "n01443537" / "images" / "n01443537_1.JPEG"
    if kind == "cut":
        image.write_bytes(image.read_bytes()[:200])
    elif kind == "not an image":
        image.write_text("<html>404</html>")
    elif kind == "missing":
        (folder / "val" / "images" / "val_1.JPEG").unlink()
    elif kind == "unknown class":
        (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\t0\t0\t1\t1\n")
    elif kind == "bad line":
        (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01443537\nval_1.JPEG\n")
    elif kind == "no val":
        shutil.rmtree(folder / "val")
        shutil.rmtree(folder / "test")
    elif kind == "one class":
        shutil.rmtree(folder / "train" / "n01443537")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"1 of 9 cannot be read: train/n01443537/images/n01443537_1.JPEG \("),
        (
            "not an image",
            r"1 of 9 cannot be read: train/n01443537/images/n01443537_1.JPEG \(it is not an image that Pillow can "
            r"open\)",
        ),
        ("missing", r"1 of 9 cannot be read: val/images/val_1.JPEG \(it is missing\)"),
        ("unknown class", r"val_0.JPEG is of class 'n99', which has no training images"),
        ("bad line", r"val_annotations.txt must have a file name and a class in each line, but line 2 does not"),
        ("no val", r"must have the folders train and val \(or test\), or one folder per class; no val"),
        ("one class", r"val_1.JPEG is of class 'n01443537', which has no training images"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, kind: str, message: str) -> None:
    write_tiny_imagenet(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(UsageError, match=message):
        load_data(f"imagefolder:{tmp_path}")


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"imagefolder must be an existing folder, got '.*nowhere'"):
        load_data(f"imagefolder:{tmp_path}/nowhere")
    with pytest.raises(UsageError, match="must have a folder of images for each class, got none"):
        load_data(f"imagefolder:{tmp_path}")
    with pytest.raises(UsageError, match="image_size must not be given for digits"):
        load_data("digits", image_size=8)


def test_mean_and_std_are_the_images_own(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    data = load_data(f"imagefolder:{tmp_path}")
    mean, std = data.mean_and_std()
    pixels = data.train_images.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(mean, pixels.mean(1).float())
    torch.testing.assert_close(std, pixels.std(1).float())


def test_unknown_names_and_folders() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'fashion': did you mean 'fashion-mnist'\?"):
        load_data("fashion")
    with pytest.raises(UsageError, match="data_dir must be an existing folder, got 'nowhere'"):
        load_data("digits", Path("nowhere"))


def test_read_idx_of_plain_bytes(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_idx(tmp_path / "x", values)
    assert read_idx(tmp_path / "x").tolist() == values.tolist()
