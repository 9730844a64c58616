"""Images held out for validation: which ones, from which data, and what cannot be held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.lab.data.folders import counts, read, said, write_classes
from tvlars.lab import ImageData, TrainConfig, UsageError
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.data.image_data import Chosen
from tvlars.lab.given import Given
from tvlars.lab.run_folder.identity import check_data
from tvlars.lab.training.prepare import prepare


def held_labels(data: ImageData) -> torch.Tensor:
    assert data.validation_labels is not None
    return data.validation_labels


def test_a_share_of_every_class_is_held_out(digits: ImageData) -> None:
    data = digits.hold_out(0.1)
    assert (len(data.train_labels), len(held_labels(data)), len(data.test_labels)) == (1293, 144, 360)
    shares = torch.bincount(held_labels(data)) / torch.bincount(digits.train_labels)
    assert (shares - 0.1).abs().max() < 0.01
    assert data.test_images is digits.test_images
    both = torch.cat([data.train_images, data.validation_images])
    assert {x.numpy().tobytes() for x in both} == {x.numpy().tobytes() for x in digits.train_images}
    assert "1,293 training, 144 validation and 360 test images" in str(data)


def test_a_number_is_a_number_of_images(digits: ImageData) -> None:
    assert len(held_labels(digits.hold_out(100))) == 100
    assert digits.hold_out(None) is digits


def test_the_seed_alone_decides_which(digits: ImageData) -> None:
    configs = [TrainConfig(validation=0.2, seed=seed, optimizer=name) for seed, name in ((0, "lars"), (7, "sgd"))]
    first, second = (prepare(config, Given(digits)).data for config in configs)
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint.validation is not None
    other = prepare(TrainConfig(validation=0.2, validation_seed=1), Given(digits)).data
    assert other.fingerprint.difference(first.fingerprint) != ""
    assert prepare(configs[0], Given(first)).data is first


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (1437, "less than the 1,437 training images of digits, got 1,437"),
        (1e6, "less than the 1,437 training images"),
        (9, "an image of each of its 10 classes for validation, but leaves 9 of 1,437, got 9"),
        (1430, "an image of each of its 10 classes for training, but leaves 7 of 1,437"),
        (1.5, "a number of images, as 5000, or a share of the training images below 1, as 0.1, got 1.5"),
        (-0.1, "a number of images"),
        (True, "a number of images"),
    ],
)
def test_an_impossible_amount(digits: ImageData, amount: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        digits.hold_out(amount)


def test_a_class_of_one_image_cannot_be_split(digits: ImageData) -> None:
    several = torch.cat([(digits.train_labels != 3).nonzero().flatten(), (digits.train_labels == 3).nonzero()[0]])
    data = replace(digits, train_images=digits.train_images[several], train_labels=digits.train_labels[several])
    with pytest.raises(UsageError, match="class '3' has one training image"):
        data.hold_out(0.1)


def test_every_class_keeps_a_training_image(digits: ImageData) -> None:
    several = torch.cat([(digits.train_labels == 2).nonzero()[:, 0], (digits.train_labels == 3).nonzero()[:2, 0]])
    data = replace(digits, train_images=digits.train_images[several], train_labels=digits.train_labels[several])
    with pytest.raises(UsageError, match="validation must leave a training image of class '3' of digits"):
        data.hold_out(len(several) - 4)


def test_a_small_class_without_validation_images_is_named(digits: ImageData) -> None:
    several = torch.cat([(digits.train_labels != 3).nonzero().flatten(), (digits.train_labels == 3).nonzero()[:2, 0]])
    data = replace(digits, train_images=digits.train_images[several], train_labels=digits.train_labels[several])
    assert data.hold_out(0.1).account == ("no validation images of 1 class ('3')",)


def test_a_seed_without_an_amount(digits: ImageData) -> None:
    with pytest.raises(UsageError, match="validation must be given with validation_seed"):
        prepare(TrainConfig(validation_seed=3), Given(digits))


def test_the_config_checks_the_amount() -> None:
    assert TrainConfig(validation=5000).validation == 5000
    with pytest.raises(UsageError, match="validation must be a number of images"):
        TrainConfig(validation=2.5)


def test_mean_and_deviation_are_of_the_training_part(digits: ImageData) -> None:
    data = digits.hold_out(0.5)
    assert torch.equal(
        data.mean_and_std()[0],
        replace(digits, train_images=data.train_images, train_labels=data.train_labels).mean_and_std()[0],
    )
    assert not torch.equal(data.mean_and_std()[0], digits.mean_and_std()[0])


def test_the_val_folder_beside_test_is_for_validation(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / part, count=2 + i, seed=i)
    data = read(tmp_path)
    assert counts(data) == ([2, 2], [4, 4])
    assert torch.bincount(held_labels(data)).tolist() == [3, 3]
    assert data.origin == "train, val and test"
    assert not said(data)
    with pytest.raises(
        UsageError, match=r"validation must not be given for imagefolder:.*its own validation images, got 0\.1"
    ):
        data.hold_out(0.1)
    assert not data.hold_out(0).validated


def test_a_val_folder_that_lacks_a_class_or_has_training_images(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=3)
    write_classes(tmp_path / "val", labels=("cat",), count=2)  # the same pictures
    write_classes(tmp_path / "test", seed=1)
    data = read(tmp_path)
    assert "no validation images of 1 class (dog)" in said(data)
    assert "2 validation images have the pixels of a training image (val/cat/0.png, train/cat/0.png)" in said(data)


def test_unknown_classes_in_val(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", labels=("cat", "cow"))
    write_classes(tmp_path / "test")
    with pytest.raises(UsageError, match="is of class 'cow', which has no training images"):
        read(tmp_path)


def test_images_of_a_mapped_file_stay_there(digits: ImageData) -> None:
    mapped, held = replace(digits, mapped=True).hold_out(0.1), digits.hold_out(0.1)
    images: object = mapped.train_images
    assert isinstance(images, Chosen)
    assert images.nbytes == held.train_images.nbytes
    assert torch.equal(images[torch.tensor([5, 0])], held.train_images[[5, 0]])
    assert torch.equal(images[3:9].to("cpu"), held.train_images[3:9])
    assert mapped.fingerprint == held.fingerprint
    assert torch.equal(mapped.mean_and_std()[1], held.mean_and_std()[1])


def test_fingerprints_are_read_back(digits: ImageData) -> None:
    plain, held = digits.fingerprint, digits.hold_out(0.1).fingerprint
    assert "validation" not in plain.as_json()
    assert Fingerprint.from_json(plain.as_json()) == plain
    assert Fingerprint.from_json(held.as_json()) == held
    assert Fingerprint.from_json({**held.as_json(), "validation": 3}) is None
    assert "there were 144 validation images, and are 0 now" in held.difference(plain, ("validation",))


def test_a_run_that_held_nothing_out_goes_on_without(digits: ImageData, tmp_path: Path) -> None:
    there = digits.fingerprint.as_json()
    with pytest.raises(UsageError, match="--validation 0"):
        check_data(tmp_path, there, digits.hold_out(0.1).fingerprint)
