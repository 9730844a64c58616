"""Data sets: shapes and labels, files in their real format, and damaged ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tvlars.lab import UsageError
from tvlars.lab.data import FASHION_MNIST_SYSTEM_DIR, load_data, read_idx

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


@pytest.mark.parametrize(("suffix", "below"), [(".gz", ""), ("", ""), (".gz", "FashionMNIST/raw")])
def test_fashion_mnist_from_a_folder(tmp_path: Path, suffix: str, below: str) -> None:
    written = write_fashion_mnist(tmp_path / below, suffix)
    data = load_data("fashion-mnist", tmp_path)
    assert np.array_equal(data.train_images.squeeze(1).numpy(), written["train-images-idx3-ubyte"])
    assert data.train_labels.tolist() == written["train-labels-idx1-ubyte"].tolist()
    assert data.test_images.shape == (3, 1, 28, 28)
    assert data.test_labels.dtype == torch.int64


def test_fashion_mnist_from_the_system() -> None:
    if not FASHION_MNIST_SYSTEM_DIR.is_dir():
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


@pytest.mark.parametrize("damage", ["cut", "not gzip", "cut inside", "other type"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write_fashion_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    raw = gzip.decompress(file.read_bytes())
    damaged = {
        "cut": file.read_bytes()[:-20],
        "not gzip": b"<html>404</html>",
        "cut inside": gzip.compress(raw[:-5]),
        "other type": gzip.compress(raw[:2] + b"\x0d" + raw[3:]),
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte.gz must be an idx file .*cannot be read"):
        load_data("fashion-mnist", tmp_path)


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(UsageError, match="as many images as labels"):
        load_data("fashion-mnist", tmp_path)


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
    monkeypatch.setattr("tvlars.lab.data.FASHION_MNIST_SYSTEM_DIR", tmp_path / "nowhere")
    monkeypatch.setattr("tvlars.lab.data.DOWNLOAD_DIR", tmp_path / "elsewhere")
    data = load_data("fashion-mnist")
    assert np.array_equal(data.train_images.squeeze(1).numpy(), written["train-images-idx3-ubyte"])


def test_unknown_names_and_folders() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'fashion': did you mean 'fashion-mnist'\?"):
        load_data("fashion")
    with pytest.raises(UsageError, match="data_dir must be an existing folder, got 'nowhere'"):
        load_data("digits", Path("nowhere"))


def test_read_idx_of_plain_bytes(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_idx(tmp_path / "x", values)
    assert read_idx(tmp_path / "x").tolist() == values.tolist()
