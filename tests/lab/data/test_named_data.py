"""Data by import path and by class name of torchvision, read from files in the real format."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, UsageError, load_data, train
from tvlars.lab.config import OPTIONS

FILE = """
from pathlib import Path
from PIL import Image
import torch
from tvlars.lab import load_data

class Stripes:
    classes = ["across", "down"]
    def __init__(self, count, size=8): self.count, self.size = count, size
    def __len__(self): return self.count
    def __getitem__(self, i):
        x = torch.arange(self.size).remainder(2).mul(255).to(torch.uint8).expand(self.size, -1)
        return Image.fromarray((x if i % 2 else x.T).contiguous().numpy()), i % 2

def load(): return Stripes(64), Stripes(20)
def three(image_size=8): return tuple(Stripes(count, image_size) for count in (64, 20, 10))
def of_folder(data_dir): return Stripes(int(Path(data_dir, "count").read_text())), Stripes(20)
def anything(**options): return {"train": Stripes(64), "test": Stripes(20, 9)}
def image_data(): return load_data("digits")
def needs(root): return load()
def fails(): raise RuntimeError("no such server")
def none(): pass
both = load()
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("data.py").write_text(FILE)
    return "./data.py"


def test_a_function_is_called_with_what_its_signature_takes(file: str) -> None:
    data = load_data(f"{file}:load")
    assert (data.name, data.class_names, data.channels) == (str(Path("data.py:load").resolve()), ("across", "down"), 1)
    assert (len(data.train_labels), len(data.test_labels), data.validated) == (64, 20, False)
    assert load_data(f"{file}:both").fingerprint == data.fingerprint
    assert load_data(f"{file}:load", image_size=16).image_size == 16
    three = load_data(f"{file}:three", image_size=12)
    assert (three.image_size, three.validated, len(three.test_labels)) == (12, True, 10)
    assert load_data(f"{file}:three", image_size=8).image_size == 8
    Path("files").mkdir()
    Path("files/count").write_text("30")
    assert len(load_data(f"{file}:of_folder", Path("files")).train_labels) == 30
    assert load_data(f"{file}:image_data").fingerprint == load_data("digits").fingerprint


@pytest.mark.parametrize(
    ("name", "image_size", "said"),
    [
        ("laod", None, "unknown data in .*: did you mean 'load'"),
        (
            "needs",
            None,
            r"data '\S+data.py:needs' must need no arguments other than data_dir and image_size, but needs root",
        ),
        ("none", None, r"data '\S+data.py:none': data must be \(train, test\) or .* got None"),
        ("anything", None, r"data '\S+data.py:anything': images must be squares of one size"),
        ("image_data", 16, "image_size must not be given for .* whose images have a size, got 16"),
    ],
)
def test_what_an_import_path_must_not_give(file: str, name: str, image_size: int | None, said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}"):
        load_data(f"{file}:{name}", image_size=image_size)


def test_an_error_of_the_function_is_theirs(file: str) -> None:
    with pytest.raises(RuntimeError, match="no such server"):
        load_data(f"{file}:fails")


def test_a_run_knows_its_data_by_the_absolute_path(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(data=f"{file}:load", epochs=1, batch_size=32, accelerator="cpu", out=tmp_path / "run")
    assert config.data == f"{tmp_path.resolve()}/data.py:load"
    assert config.label().startswith("load-tvlars")
    result = train(config, reporter=Reporter())
    monkeypatch.chdir("/")
    from tvlars.lab import evaluate

    assert evaluate(result.folder).accuracy == result.test_accuracy


def svhn(folder: Path) -> dict[str, list[str]]:
    """Write small files of SVHN; return its split list with their checksums."""
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 40), ("test", 20)):
        file = folder / f"{split}_32x32.mat"
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 is the digit 0
        savemat(file, {"X": rng.integers(0, 255, (32, 32, 3, count), dtype=np.uint8), "y": labels})
        found[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    return found


def test_svhn_by_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    monkeypatch.setattr(SVHN, "split_list", svhn(tmp_path))
    data = load_data("torchvision:SVHN", tmp_path)
    assert data.train_images.shape == (40, 3, 32, 32)
    assert data.train_labels[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert (data.name, data.flip, data.classes) == ("torchvision:SVHN", False, 10)


def test_gtsrb_by_its_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "gtsrb"
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(2):
        place = folder / "GTSRB" / "Training" / f"{label:05}"
        place.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)).save(place / f"{i:05}.ppm")
    images = folder / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (25, 25, 3), dtype=np.uint8)).save(images / f"{i:05}.ppm")
        lines.append(f"{i:05}.ppm;25;25;0;0;1;1;{i % 2}")
    (folder / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    data = load_data("torchvision:GTSRB", tmp_path, image_size=16)
    assert data.train_images.shape == (12, 3, 16, 16)
    assert data.test_labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(UsageError, match=r"^data torchvision:GTSRB: images must be squares of one size unless image_s"):
        load_data("torchvision:GTSRB", tmp_path)


def test_stl10_has_its_checksums_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    def offline(self: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(STL10, "download", offline)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng, names = np.random.default_rng(0), [f"class{i}" for i in range(10)]
    for split, count in (("train", 20), ("test", 10)):
        rng.integers(0, 255, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{split}_X.bin")
        (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(names))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"^data torchvision:STL10 cannot be read in .*; and it could not be downloaded: "
    ):
        load_data("torchvision:STL10", tmp_path)
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    data = load_data("torchvision:STL10", tmp_path)
    assert (data.class_names, data.image_size) == (tuple(names), 96)
    assert data.test_labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SVHM", "unknown data set of torchvision 'SVHM': did you mean 'SVHN'"),
        ("EMNIST", "data torchvision:EMNIST has no splits for training and test: write a function that returns"),
        ("ImageFolder", "data torchvision:ImageFolder has no splits"),
        ("Flowers102", "data torchvision:Flowers102 cannot be read in"),
    ],
)
def test_what_torchvision_must_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    from torchvision.datasets import Flowers102

    def offline(self: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(Flowers102, "download", offline)
    with pytest.raises(UsageError, match=f"^{said}"):
        load_data(f"torchvision:{name}", tmp_path)


def test_options_that_decide_what_is_loaded_are_checked_when_it_is() -> None:
    with pytest.raises(UsageError, match="image_size must not be given for digits, whose images have a size, got 9"):
        load_data("digits", image_size=9)
    with pytest.raises(UsageError, match=r"skip_bad_images must not be given for ./a.py:load, which is not a folder"):
        TrainConfig(data="./a.py:load", skip_bad_images=True)
    with pytest.raises(UsageError, match="unknown data set 'digit': did you mean 'digits'"):
        TrainConfig(data="digit")
    assert "torchvision:CLASS" in OPTIONS["data"].text
    assert torch.equal(load_data("digits").train_labels, load_data("digits").train_labels)


def test_commands_take_data_of_a_file(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--batch-size", "32", "--epochs", "1", "--accelerator", "cpu", "--precision", "32-true"]
    assert main(["train", "--data", f"{file}:three", "--image-size", "10", *quick, "--out", "run"]) == 0
    assert "64 training, 20 validation and 10 test images of 1 x 10 x 10" in capsys.readouterr().out
    assert main(["evaluate", "run"]) == 0
    assert main(["evaluate", "run", "--data", f"{file}:load", "--image-size", "10"]) == 0
    assert main(["compare", "--data", f"{file}:load", "--optimizers", "lars", "sgd", *quick, "--out", "both"]) == 0
    capsys.readouterr()
    assert main(["train", "--data", f"{file}:laod", *quick]) == 2
    assert "did you mean 'load'" in capsys.readouterr().err
    assert main(["train", "--data", "./dtaa.py:load", *quick]) == 2
    assert "Python files there: data.py" in capsys.readouterr().err
    assert main(["train", "--data", f"{file}:fails", *quick]) == 1
    said = capsys.readouterr().err
    assert "RuntimeError: no such server" in said
    assert "tvlars/lab" not in said


def test_an_error_in_a_sample_is_theirs(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.py").write_text(
        FILE.replace("x = torch.arange", "if i == 30: raise KeyError('no 30')\n        x = torch.arange")
    )
    assert main(["train", "--data", f"{file}:load", "--data-workers", "2"]) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'no 30'" in said
    assert 'data.py", line 12' in said
    assert "tvlars/lab" not in said
