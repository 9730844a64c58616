"""Datasets of users: decoded once or read on demand, in every usual form, with a sentence for all other forms."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from tests.lab.first import first
from tvlars.lab import CompareConfig, ImageData, Reporter, TrainConfig, UsageError, compare, evaluate, load_run, train
from tvlars.lab.data import decoded, from_datasets
from tvlars.lab.data.own.datasets import _Set
from tvlars.lab.data.own.samples import image_of
from tvlars.lab.data.streamed import StreamedImages

QUICK: dict[str, Any] = dict(batch_size=64, epochs=1, precision="32-true", accelerator="cpu", optimizer="sgd")


class Pictures(Dataset[Any]):
    """Squares of one colour, in the form that ``make`` gives them."""

    def __init__(self, make: Callable[[Any], Any], count: int = 40, size: int = 8, label: Any = int) -> None:
        self.make, self.count, self.size, self.label = make, count, size, label

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        pixels = np.full((self.size, self.size, 3), index % 4 * 60, np.uint8)
        pixels[0, 0] = index
        return self.make(pixels), self.label(index % 4)


FORMS: dict[str, Callable[[Any], Any]] = {
    "pil": Image.fromarray,
    "palette": lambda x: Image.fromarray(x).quantize(256),
    "array": lambda x: x,
    "channels first": lambda x: torch.from_numpy(x).permute(2, 0, 1),
    "tensor, channels last": torch.from_numpy,
    "lists": lambda x: x.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("label", [int, np.int64, torch.tensor], ids=["int", "numpy", "tensor"])
def test_images_of_every_usual_form_are_the_same(form: str, label: Any) -> None:
    data = from_datasets((Pictures(FORMS[form], label=label), Pictures(FORMS[form], 12)))
    assert data.train_images.shape == (40, 3, 8, 8)
    assert data.train_images[5, :, 0, 0].tolist() == [5, 5, 5]
    assert data.train_images[5, :, 1, 1].tolist() == [60, 60, 60]
    assert data.train_labels.tolist() == [i % 4 for i in range(40)]
    assert (data.classes, data.name, len(data.test_labels)) == (4, "Pictures", 12)


def test_channels_of_tiny_tensors_come_first() -> None:
    assert image_of(torch.zeros(3, 4, 4, dtype=torch.uint8), "").shape == (3, 4, 4)
    assert image_of(np.zeros((3, 4, 4), np.uint8), "").shape == (4, 3, 4)


def test_a_label_is_the_same_each_time() -> None:
    one = _Set("train", Pictures(Image.fromarray), None)
    one.labels = [3] * 40
    with pytest.raises(UsageError, match="training image 0 must have the same label each time, but it was 3, and is 0"):
        one.original(0)


def test_grey_images_have_one_channel_and_are_spread_among_coloured_ones() -> None:
    grey = Pictures(lambda x: Image.fromarray(x).convert("L"))
    assert from_datasets((grey, grey)).channels == 1
    assert from_datasets((Pictures(lambda x: x[:, :, 0]), grey)).channels == 1
    mixed = Pictures(lambda x: Image.fromarray(x).convert("L" if x[0, 0, 0] % 2 else "RGB"))
    data = from_datasets((mixed, grey))
    assert data.channels == 3
    assert data.train_images[7, :, 1, 1].tolist() == [180, 180, 180]


def test_images_are_scaled_and_their_centre_is_cut_out() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 200
    for make in (lambda x: Image.fromarray(wide), lambda x: wide):
        data = from_datasets((Pictures(make), Pictures(make)), image_size=10)
        assert data.train_images.shape[1:] == (3, 10, 10)
        assert int(data.train_images[0, :, :, 1:-1].min()) >= 195


def test_names_of_classes_come_along() -> None:
    named = Pictures(Image.fromarray)
    named.classes = ["a", "b", "c", "d"]  # type: ignore[attr-defined]
    assert from_datasets((Subset(named, range(20)), named)).class_names == ("a", "b", "c", "d")
    named.classes = ["a", "b"]  # type: ignore[attr-defined]
    data = from_datasets((named, named))
    assert (data.class_names, data.classes) == ((), 4)
    assert data.account == ("note     class names are left out: there are 2, and labels go up to 3",)
    few = Subset(Pictures(Image.fromarray), [i for i in range(40) if i % 4 != 1])
    assert from_datasets((few, few)).account == ("note     no training images of 1 of 4 classes (1)",)


def test_data_sets_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face is not installed")
    pixels = [Image.new("RGB", (8, 8), (i * 6, 0, 0)) for i in range(40)]
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["cat", "dog"])})
    one = datasets.Dataset.from_dict({"img": pixels, "fine_label": [i % 2 for i in range(40)]}, features=features)
    both = datasets.DatasetDict(train=one.select(range(30)), test=one.select(range(30, 40)))
    data = from_datasets(both)
    assert (data.class_names, len(data.train_labels), len(data.test_labels)) == (("cat", "dog"), 30, 10)
    assert data.train_images[7, :, 3, 3].tolist() == [42, 0, 0]
    arrays = both.with_format("torch")
    assert torch.equal(from_datasets(arrays).train_images, data.train_images)
    with pytest.raises(UsageError, match=r"^the training set of data must be a Dataset with __len__ and __getitem__"):
        from_datasets((one.to_iterable_dataset(), one))


def streamed(data: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> ImageData:
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "SHARE", 0.0)
        return from_datasets(data, **more)


@pytest.mark.parametrize("crop", ["padded", "random-resized"])
def test_a_padded_crop_is_of_the_scaled_image_wherever_images_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: str
) -> None:
    generator = np.random.default_rng(0)
    pictures = [(generator.integers(0, 256, (20, 20, 3), np.uint8), i % 4) for i in range(64)]
    sets, sized = (pictures, pictures[:8]), dict(image_size=8, processes=0)
    data = {"whole": from_datasets(sets, **sized), "lazy": streamed(sets, monkeypatch, **sized)}
    options: dict[str, Any] = {**QUICK, "crop": crop, "auto_augment": "trivialaugment"}
    for name, one in data.items():
        train(TrainConfig(**options, out=tmp_path / name), data=one, reporter=Reporter())
    whole, lazy = (load_run(tmp_path / name).steps["loss"].tolist() for name in data)
    assert (whole == lazy) is (crop == "padded")


@pytest.mark.parametrize("processes", [0, 2])
def test_sets_that_do_not_fit_are_read_as_they_are_used_and_train_the_same(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    few = first(digits, 300, 100)
    sets = [
        [(Image.fromarray(x[0].numpy()), int(y)) for x, y in zip(images, labels, strict=True)]
        for images, labels in ((few.train_images, few.train_labels), (few.test_images, few.test_labels))
    ]
    whole = from_datasets(sets, flip=False)
    assert torch.equal(whole.train_images, few.train_images)
    assert whole.fingerprint.train.pixels == few.fingerprint.train.pixels
    lazy = streamed(sets, monkeypatch, flip=False, processes=processes)
    assert isinstance(lazy.train_images, StreamedImages)
    assert "read on demand" in str(lazy)
    for name, data in (("whole", whole), ("lazy", lazy)):
        options = {**QUICK, "validation": 0.2, "out": tmp_path / name}
        train(TrainConfig(**options), data=data, reporter=Reporter())
    runs = [load_run(tmp_path / name) for name in ("whole", "lazy")]
    assert runs[0].steps["loss"].tolist() == runs[1].steps["loss"].tolist()
    assert runs[0].summary["test_loss"] == runs[1].summary["test_loss"]


def test_labels_beside_the_samples_spare_reading_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Counted(Pictures):
        read = 0

        def __getitem__(self, index: int) -> Any:
            Counted.read += 1
            return super().__getitem__(index)

    one = Counted(Image.fromarray)
    lazy = streamed((one, Pictures(Image.fromarray)), monkeypatch, processes=0)
    assert Counted.read >= len(one)
    assert "all training images are read once for their labels, since Counted has no targets" in capsys.readouterr().err
    for targets in ([i % 4 for i in range(40)], torch.arange(40) % 4):
        one.targets, Counted.read = targets, 0  # type: ignore[attr-defined]
        again = streamed((Subset(one, range(40)), Pictures(Image.fromarray)), monkeypatch, processes=0)
        assert torch.equal(again.train_labels, lazy.train_labels)
        assert Counted.read < len(one)
    one.targets = [0] * 40  # type: ignore[attr-defined]
    assert torch.equal(streamed((one, one), monkeypatch, processes=0).train_labels, lazy.train_labels)


class Broken(Pictures):
    def __getitem__(self, index: int) -> Any:
        if index == 13:
            raise KeyError("number 13 is missing")
        return super().__getitem__(index)


@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_of_their_own_is_raised_as_it_is(processes: int) -> None:
    with pytest.raises(KeyError, match="number 13 is missing"):
        from_datasets((Broken(Image.fromarray), Pictures(Image.fromarray)), processes=processes)


def test_a_reader_that_ends_is_one_sentence() -> None:
    class Deadly(Pictures):
        def __getitem__(self, index: int) -> Any:
            if index == 13 and os.getpid() != parent:
                os._exit(1)
            return super().__getitem__(index)

    parent = os.getpid()
    with pytest.raises(UsageError, match=r"^data_workers must be fewer, or 0: a process that reads images was killed"):
        from_datasets((Deadly(Image.fromarray), Pictures(Image.fromarray)), processes=2)


class Random(Pictures):
    def __getitem__(self, index: int) -> Any:
        return torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8), index % 4


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


GOOD = Pictures(Image.fromarray)
CLOCK = count()
SQUARES = "images must be squares of one size unless image_size is given: "


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (5, "data must be (train, test) or (train, validation, test), or a dictionary of these: Datasets, or"),
        ((GOOD,), "data must be (train, test) or"),
        ({"train": GOOD, "tset": GOOD}, "data must be (train, test) or .* got the keys train, tset"),
        ((GOOD, DataLoader(GOOD)), "the test set of data must be a Dataset, got a DataLoader"),
        ((Endless(), GOOD), "the training set of data must be a Dataset with __len__ and __getitem__"),
        ((Pictures(Image.fromarray, 0), GOOD), "the training set of data must have at least one sample"),
        ((Pictures(lambda x: torch.rand(3, 8, 8)), GOOD), "training image 0 must be a PIL image, .*float32: leave "),
        ((Pictures(lambda x: x.astype("float64")), GOOD), "training image 0 must be a PIL image, .* float64"),
        ((Pictures(lambda x: x[0, 0]), GOOD), r"training image 0 must be a PIL image, .* got the shape \(3,\)"),
        ((Pictures(lambda x: "cat.png"), GOOD), "training image 0 must be a PIL image, .* got 'cat.png'"),
        ((Pictures(lambda x: x[:5]), GOOD), f"{SQUARES}training image 0 is 8 x 5 pixels"),
        ((GOOD, Pictures(Image.fromarray, size=9)), f"{SQUARES}the first .* 8 x 8 .* test image 0 is 9 x 9"),
        ((GOOD, Pictures(lambda x: np.zeros((8, 8, 4), np.uint8))), "images must have the same number of channels"),
        ((Pictures(Image.fromarray, label=float), GOOD), "the label of training image 0 must be an integer .* got 0.0"),
        ((GOOD, Pictures(Image.fromarray, label=lambda i: i - 1)), "the label of test image 0 must be .* got -1"),
        ((GOOD, Pictures(Image.fromarray, label=lambda i: 4)), "labels of Pictures must be from 0 to 3, .* 0 has 4"),
        ((Pictures(Image.fromarray, label=lambda i: torch.eye(4)[i]), GOOD), r"the label of .* shape \(4,\)"),
        ((Pictures(Image.fromarray, label=lambda i: next(CLOCK)), GOOD), "training image 0 of data must be the same"),
        ((Random(Image.fromarray), GOOD), "training image 0 of data must be the same each time it is read"),
        ((TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)), GOOD), "training image 0 must be a pair .* 1 val"),
        (([{"pixels": 1, "label": 0}], GOOD), "training image 0 must be a dictionary .* the keys pixels, label"),
        (([math.pi], GOOD), "training image 0 must be a pair of image and label, or a dictionary of them, got 3.14"),
    ],
)  # fmt: skip
def test_what_data_must_not_be(data: Any, said: str) -> None:
    pattern = said.replace("(train", r"\(train").replace("test)", r"test\)")
    with pytest.raises(UsageError, match=f"^{pattern}"):
        from_datasets(data)


def test_runs_and_comparisons_of_given_data_say_so(tmp_path: Path) -> None:
    sets = Pictures(Image.fromarray, 128), Pictures(Image.fromarray)
    result = train(TrainConfig(**QUICK, out=tmp_path / "run"), data=sets, reporter=Reporter())
    assert result.config.data == "given:Pictures"
    again = train(TrainConfig(**QUICK, out=tmp_path / "run", resume=True), data=sets, reporter=Reporter())
    assert again.test_accuracy == result.test_accuracy
    assert evaluate(result, data=sets).accuracy == result.test_accuracy
    with pytest.raises(UsageError, match="data must be given again, as in train"):
        evaluate(result)
    named = train(TrainConfig(**QUICK, data="given:squares", out=tmp_path / "named"), data=sets, reporter=Reporter())
    assert named.config.label().startswith("squares-sgd")
    config = CompareConfig(TrainConfig(**QUICK), ("sgd", "lars"), (64,), (0,), out=tmp_path / "both")
    lines: list[str] = []
    done = compare(config, data=(*sets[:1], sets[1], sets[1]), reporter=Reporter, announce=lines.append)
    assert [run.status for run in done.runs] == ["finished"] * 2
    assert any("128 training, 40 validation and 40 test images" in line for line in lines)
    with pytest.raises(UsageError, match="workers must be 1, and ray None, with data given in Python"):
        compare(config, data=sets, workers=2)
    with pytest.raises(UsageError, match=r"data must be given again, as in train\(config, data=...\)"):
        train(TrainConfig(**QUICK, data="given:Pictures"))
