"""Label smoothing, clipped gradients, a moving average of weights, and augmentation of single samples and batches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tests.lab.stops import StopAt
from tests.lab.training.test_run import build
from tvlars.lab import Reporter, TrainConfig, UsageError, evaluate, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.data.augment.recipe import Recipe
from tvlars.lab.data.streamed import StreamedImages
from tvlars.lab.training.batches import Feed
from tvlars.lab.training.learner import Classification
from tvlars.lab.training.prepare import prepare
from tvlars.lab.training.run import Run

PLAIN: dict[str, Any] = dict(batch_size=128, epochs=2, precision="32-true", accelerator="cpu", optimizer="sgd")


def spied(run: Run, after: list[dict[str, torch.Tensor]]) -> Run:
    """Add a copy of the weights to ``after`` with every step."""
    update = run._update

    def spy() -> None:
        update()
        after.append(copy.deepcopy(run.learner.bare_model.state_dict()))

    run._update = spy  # type: ignore[method-assign]
    return run


def test_the_moving_average_is_tested_and_kept_and_does_not_touch_the_training(tmp_path: Path, few: ImageData) -> None:
    steps: list[dict[str, torch.Tensor]] = []
    plain = build(Classification, tmp_path, few, **PLAIN)
    run = spied(build(Classification, tmp_path, few, **PLAIN, ema=0.8), steps)
    result, without = run.train(), plain.train()
    assert [row.train_loss for row in result.epochs] == [row.train_loss for row in without.epochs]
    assert result.epochs[-1].test_loss != without.epochs[-1].test_loss
    assert all(torch.equal(value, steps[-1][name]) for name, value in plain.learner.weights().items())

    mean = {name: value.double() for name, value in steps[0].items()}
    for weights in steps[1:]:
        mean = {name: 0.8 * value + 0.2 * weights[name] for name, value in mean.items()}
    with run.learner.with_tested_weights():
        kept = copy.deepcopy(run.learner.weights())
    for name, value in mean.items():
        if kept[name].is_floating_point():  # buffers too
            torch.testing.assert_close(kept[name].double(), value, rtol=1e-5, atol=1e-6)


def test_kept_weights_of_a_run_with_an_average_give_its_accuracy(tmp_path: Path) -> None:
    result = train(TrainConfig(**PLAIN, ema=0.9, out=tmp_path / "run"), reporter=Reporter())
    again = evaluate(load_run(tmp_path / "run"))
    assert again.accuracy == result.test_accuracy
    assert again.loss == pytest.approx(result.epochs[-1].test_loss, rel=1e-5)
    assert "moving average of weights with decay 0.9" in load_run(tmp_path / "run").environment["recipe"]


def test_a_run_with_an_average_goes_on_from_its_state(tmp_path: Path, few: ImageData) -> None:
    one, other = (build(Classification, tmp_path, few, **PLAIN, ema=0.9, clip_grad_norm=0.3) for _ in range(2))
    one.run_epoch()
    state = copy.deepcopy(one.state_dict())
    one.run_epoch()
    other.load_state_dict(state)
    other.run_epoch()
    assert [row.test_loss for row in other.epochs] == [row.test_loss for row in one.epochs]
    for a, b in ((one.learner.average, other.learner.average), (one.learner.bare_model, other.learner.bare_model)):
        assert a is not None
        assert b is not None
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("size", [128, 50])
def test_the_gradient_of_the_whole_batch_is_clipped(tmp_path: Path, few: ImageData, size: int) -> None:
    """Also if it is accumulated: norms before and after are those of a step without micro-batches."""
    run = build(Classification, tmp_path, few, **PLAIN, micro_batch_size=size, clip_grad_norm=0.1)
    norms: list[float] = []

    def measure(*_: Any) -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in run.learner.bare_model.parameters()]).norm()))

    run.learner.bare_optimizer.register_step_pre_hook(measure)
    run.run_epoch()
    assert len(norms) == 5
    assert norms == pytest.approx([0.1] * 5, rel=1e-4)


def test_training_targets_are_smoothed_and_those_of_tests_are_not(tmp_path: Path, few: ImageData) -> None:
    run = build(Classification, tmp_path, few, **PLAIN, label_smoothing=0.2, augment=False)
    batch = torch.arange(128)
    images = run.learner.normalize(few.train_images[batch])
    run.learner.model.train()
    with torch.no_grad():
        logits = copy.deepcopy(run.learner.bare_model)(images)
    loss, _ = run.learner.gradient(batch, batch[:0])
    expected = F.cross_entropy(logits, few.train_labels[batch], label_smoothing=0.2)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    with torch.no_grad():
        run.learner.model.eval()
        plain = F.cross_entropy(run.learner.model(run.learner.normalize(few.test_images)), few.test_labels)
    assert run.learner.test(1, 1)[0] == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be >= 0 and < 1, got 1.0"),
        ({"ema": 1}, "ema must be > 0 and < 1, got 1"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be > 0, got 0.0"),
        ({"ema": 0.9, "shard": True}, "ema must not be given with shard"),
        ({"ema": 0.9, "task": "byol"}, "ema must not be given for byol"),
    ],
)
def test_what_a_recipe_must_not_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(**options)


# -- augmentation of single samples, and mixed batches ----------------------------------------------------------------

STRONG: dict[str, Any] = dict(crop="random-resized", crop_scale=0.3, auto_augment="randaugment", mixup=0.2, cutmix=1.0)


def inputs(run: Run, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(run.batches.parts(batch, batch[:0]))
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


@pytest.mark.parametrize(
    "options", [STRONG, {"auto_augment": "trivialaugment"}, {"mixup": 0.4, "rotation": 20.0}], ids=str
)
def test_images_are_the_same_whatever_a_batch_is_split_into(
    tmp_path: Path, few: ImageData, options: dict[str, Any]
) -> None:
    found = []
    for more in ({}, {"micro_batch_size": 30}, {"data_workers": 2}):
        run = build(Classification, tmp_path, few, **PLAIN, **options, **more)
        if (readers := run.batches.feed.readers) is not None:
            assert readers.processes == more.get("data_workers", 0)
        order = run.batches.shuffle(1)
        first, second = (inputs(run, order[i : i + 128]) for i in (0, 128))
        order = run.batches.shuffle(2)
        found.append((first, second, inputs(run, order[:128])))
        run.batches.feed.close()
    for other in found[1:]:
        for (a, b), (x, y) in zip(found[0], other, strict=True):
            torch.testing.assert_close(x, a)
            torch.testing.assert_close(y, b)
    assert not torch.equal(found[0][0][0], found[0][1][0])


def test_samples_have_other_draws_in_every_epoch_and_with_every_seed(tmp_path: Path, few: ImageData) -> None:
    batch, seen = torch.arange(64), []
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        run = build(Classification, tmp_path, few, **PLAIN, crop="random-resized", seed=seed)
        run.batches.shuffle(epoch)
        seen.append(inputs(run, batch)[0])
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_random_resized_crops_are_torchvisions(few: ImageData) -> None:
    from torchvision.transforms import v2

    image = few.train_images[3]
    ours = Recipe(8, "random-resized", 0.2, 0, True, "randaugment")(image, 5)
    torch.manual_seed(5)
    theirs = v2.Compose([v2.RandomResizedCrop(8, (0.2, 1)), v2.RandomHorizontalFlip(), v2.RandAugment()])(image)
    assert torch.equal(ours, theirs)


def test_images_that_are_augmented_here_come_to_the_device_too(few: ImageData) -> None:
    """Rotations are drawn on the device."""
    feed = Feed(few, torch.device("cpu"), Recipe(8, "padded", 0.0, 1, False, None), processes=0)
    feed.device = torch.device("meta")
    assert feed.take(torch.arange(3)).device.type == "meta"


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_batch_is_mixed_with_itself_shifted_by_one(tmp_path: Path, few: ImageData, name: str) -> None:
    batch = torch.arange(20, 84)
    plain = build(Classification, tmp_path, few, **PLAIN, augment=False)
    mixed = build(Classification, tmp_path, few, **PLAIN, crop_padding=0, flip=False, **{name: 1.0})
    (images, labels), (there, targets) = inputs(plain, batch), inputs(mixed, batch)
    one_hot = F.one_hot(labels, 10).float()
    share = (targets * one_hot).sum(1)[(one_hot * one_hot.roll(1, 0)).sum(1) == 0]
    assert share.unique().numel() == 1
    lam = float(share[0])
    assert 0 < lam < 1
    torch.testing.assert_close(targets, lam * one_hot + (1 - lam) * one_hot.roll(1, 0))
    if name == "mixup":
        torch.testing.assert_close(there, lam * images + (1 - lam) * images.roll(1, 0), rtol=1e-4, atol=1e-5)
    else:
        kept, pasted = (there == images).float().mean(), (there == images.roll(1, 0)).float().mean()
        assert kept >= lam - 0.01
        assert pasted >= 1 - lam - 0.01


def test_a_run_with_the_whole_recipe_goes_on_bit_for_bit(tmp_path: Path, few: ImageData) -> None:
    options = dict(PLAIN, **STRONG, ema=0.9, label_smoothing=0.1, clip_grad_norm=1.0, checkpoint_every="1-steps")
    whole = train(TrainConfig(**options, out=tmp_path / "whole"), data=few, reporter=Reporter())
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**options, out=tmp_path / "cut"), data=few, reporter=StopAt(step=7, error=KeyboardInterrupt))
    cut = train(TrainConfig(**options, out=tmp_path / "cut", resume=True), data=few, reporter=Reporter())
    assert [row.train_loss for row in cut.epochs] == [row.train_loss for row in whole.epochs]
    first, second = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert load_run(tmp_path / "cut").environment["recipe"].startswith("crops of 0.3 to 1 of the area, randaug")


def test_batch_norm_of_averaged_weights_sees_the_same_images_after_every_epoch(tmp_path: Path, few: ImageData) -> None:
    """Random numbers of the training are not used up."""
    run = build(Classification, tmp_path, few, **{**PLAIN, **STRONG, "optimizer": "schedulefree.SGDScheduleFree"})
    run.learner.bare_model.head = nn.Sequential(nn.Dropout(), run.learner.bare_model.head)
    random, found = torch.get_rng_state(), []
    for epoch in (1, 2):
        run.batches.shuffle(epoch, position=epoch)
        with run.learner.with_tested_weights():
            found.append(copy.deepcopy(run.learner.bare_model.state_dict()))
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())
    assert torch.equal(torch.get_rng_state(), random)


def test_crops_of_a_folder_are_taken_from_whole_images(tmp_path: Path) -> None:
    """Left halves are dark and right ones light: a central square of the same height shows both."""
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 60:] = 250
    for split, count in (("train", 12), ("val", 4)):
        for label in "ab":
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{i}.jpg")
    options: dict[str, Any] = dict(PLAIN, image_size=16, batch_size=8, crop="random-resized", data_workers=0)
    config = TrainConfig(**options, data=f"imagefolder:{tmp_path / 'images'}", out=tmp_path / "run")
    prepared = prepare(config)
    assert isinstance(prepared.data.train_images, StreamedImages)
    assert 0.4 < prepared.data.train_images[torch.arange(3)].float().mean() / 250 < 0.6
    run = build(Classification, tmp_path, prepared.data, **options)
    run.batches.shuffle(1)
    means = (inputs(run, torch.arange(24))[0].mean((1, 2, 3)) * prepared.mean_and_std[1].mean()).tolist()
    assert max(means) - min(means) > 150  # some show one half alone
    result = train(config, reporter=Reporter())
    assert evaluate(result.folder).accuracy == result.test_accuracy
    assert "read on demand" in load_run(result.folder).environment["data"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop": "random"}, "unknown crop 'random': did you mean 'random-resized'"),
        ({"crop_scale": 0.5}, "crop must be random-resized with crop_scale, got crop 'padded'"),
        ({"crop": "random-resized", "crop_padding": 2}, "crop_padding must not be given with crop random-resized"),
        ({"augment": False, "mixup": 0.2}, "mixup must not be given if augment is false"),
        ({"auto_augment": "randaug"}, "unknown auto_augment 'randaug': did you mean 'randaugment'"),
    ],
)
def test_what_an_augmentation_must_not_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(**options)
