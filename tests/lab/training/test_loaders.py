"""Runs of users' own DataLoaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from tests.lab.first import first
from tests.lab.stops import StopAt
from tvlars.lab import ImageData, Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.data.own.loaders import from_loaders

QUICK: dict[str, Any] = dict(batch_size=64, epochs=2, precision="32-true", accelerator="cpu", optimizer="lars")


def normalized(data: ImageData, split: str) -> TensorDataset:
    images, labels = data.part(split)
    mean, std = (x.view(1, -1, 1, 1) for x in data.mean_and_std())
    return TensorDataset((images - mean) / std, labels)


class Named(TensorDataset):
    classes = tuple("0123456789")


@pytest.fixture
def sets(digits: ImageData) -> tuple[TensorDataset, TensorDataset]:
    few = first(digits, 330, 100)
    return normalized(few, "train"), normalized(few, "test")


def test_unshuffled_loaders_train_as_the_data_do(tmp_path: Path, sets: Any, digits: ImageData) -> None:
    """Steps of the first epoch are those of a loader that gives the laboratory's own order."""
    few = first(digits, 330, 100)
    order = torch.randperm(330, generator=torch.Generator().manual_seed(0))
    options = dict(QUICK, epochs=1, out=tmp_path / "data")
    ours = train(TrainConfig(**options, micro_batch_size=32, augment=False), data=few, reporter=Reporter())
    loader = DataLoader(TensorDataset(*sets[0][order]), 32)
    theirs = train(
        TrainConfig(**{**options, "out": tmp_path / "loader"}),
        loaders=(loader, DataLoader(sets[1], 30)),
        reporter=Reporter(),
    )
    first_run, second = load_run(ours.folder), load_run(theirs.folder)
    assert second.steps["loss"].tolist() == pytest.approx(first_run.steps["loss"].tolist(), rel=1e-6)
    assert theirs.test_accuracy == pytest.approx(ours.test_accuracy, abs=0.011)
    assert theirs.config.data == "given:TensorDataset"
    assert "note     the last batch of each epoch is left out, since it is smaller" in second.environment["account"]
    images = sets[1].tensors[0]
    with torch.no_grad():
        right = second.model()(second.normalize(images)).argmax(1) == sets[1].tensors[1]
    assert float(right.float().mean()) == pytest.approx(theirs.test_accuracy)


def test_shuffling_validation_and_names_are_the_loaders_own(tmp_path: Path, sets: Any) -> None:
    config = TrainConfig(**QUICK, keep_best=True, out=tmp_path / "run")
    loaders = {
        "train": DataLoader(Named(*sets[0].tensors), 32, shuffle=True, drop_last=True),
        "validation": DataLoader(sets[1], 30),
        "test": DataLoader(sets[1], 50),
    }
    result = train(config, loaders=loaders, reporter=Reporter())
    run = load_run(result.folder)
    assert run.model_facts()["class_names"] == list("0123456789")
    assert run.epochs["validation_accuracy"].notna().all()
    assert len(run.steps) == 2 * (330 // 32 // 2)


def test_a_run_of_loaders_goes_on(tmp_path: Path, sets: Any) -> None:
    options = dict(QUICK, checkpoint_every="1-steps", out=tmp_path / "run")
    loaders = DataLoader(sets[0], 32, drop_last=True), DataLoader(sets[1], 50)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**options), loaders=loaders, reporter=StopAt(step=7, error=KeyboardInterrupt))
    reporter = StopAt()
    train(TrainConfig(**options, resume=True), loaders=loaders, reporter=reporter)
    said = "warning  the run continues within an epoch, and the order of the loader is not restored bit for bit"
    assert said in reporter.lines
    whole = train(TrainConfig(**{**options, "out": tmp_path / "whole"}), loaders=loaders, reporter=Reporter())
    assert load_run(tmp_path / "run").steps["loss"].equals(load_run(whole.folder).steps["loss"])  # it does not shuffle


def test_an_epoch_has_the_batches_that_a_sampler_draws(tmp_path: Path, sets: Any) -> None:
    few = DataLoader(sets[0], 32, sampler=SubsetRandomSampler(range(100)))
    result = train(
        TrainConfig(**dict(QUICK, batch_size=32), out=tmp_path / "run"),
        loaders=(few, DataLoader(sets[1], 50)),
        reporter=Reporter(),
    )
    assert load_run(result.folder).steps["epoch"].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_batch_norm_of_averaged_weights_begins_the_loader_anew(tmp_path: Path, sets: Any) -> None:
    """The last batch of an epoch, which is smaller, is left."""
    result = train(
        TrainConfig(**dict(QUICK, optimizer="schedulefree.SGDScheduleFree", lr=0.1), out=tmp_path / "run"),
        loaders=(DataLoader(sets[0], 32), DataLoader(sets[1], 50)),
        reporter=Reporter(),
    )
    assert len(load_run(result.folder).steps) == 10


class Shrinking(list[Any]):
    """Batches, of which there are fewer each time."""

    def __iter__(self) -> Any:
        self.pop()
        return iter(list(super().__iter__()))

    def __len__(self) -> int:
        return 8


def test_an_epoch_does_not_begin_anew_by_itself(tmp_path: Path, sets: Any) -> None:
    batches = Shrinking(list(DataLoader(sets[0], 32))[:10])
    with pytest.raises(UsageError, match="the training loader must give 8 batches in every epoch, and gave fewer"):
        train(
            TrainConfig(**dict(QUICK, batch_size=32), out=tmp_path / "run"),
            loaders=(batches, DataLoader(sets[1], 50)),
            reporter=Reporter(),
        )


class Turning(list[Any]):
    """Batches whose order is turned each time."""

    def __iter__(self) -> Any:
        self.reverse()
        return iter(list(super().__iter__()))


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Shrinking, "must give 70 samples each time, and gave 40"), (Turning, "must give the same samples in the same")],
)
def test_a_test_loader_gives_the_same_each_time(tmp_path: Path, sets: Any, kind: Any, said: str) -> None:
    batches = list(DataLoader(sets[1], 30))
    config = TrainConfig(**dict(QUICK, epochs=1), out=tmp_path / "run")
    with pytest.raises(UsageError, match=f"the test loader {said}"):
        train(
            config,
            loaders=(DataLoader(sets[0], 32), kind([batches[0], batches[3], batches[1], batches[2]])),
            reporter=Reporter(),
        )


def test_the_order_of_test_labels_is_in_the_fingerprint(sets: Any) -> None:
    inputs, labels = sets[1].tensors
    other = TensorDataset(inputs, labels.flip(0))
    one, two = (from_loaders((DataLoader(sets[0], 32), DataLoader(s, 50))).fingerprint for s in (sets[1], other))
    assert one.difference(two) == "test images have other labels, or another order"


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


def test_inputs_of_double_precision_become_those_of_models(tmp_path: Path, sets: Any) -> None:
    losses = []
    for name, convert in (("single", torch.Tensor.float), ("double", torch.Tensor.double)):
        loaders = [DataLoader(TensorDataset(convert(x), y), 32) for x, y in (one.tensors for one in sets)]
        config = TrainConfig(batch_size=32, epochs=1, precision="32-true", optimizer="sgd", out=tmp_path / name)
        losses.append(train(config, loaders=loaders, reporter=Reporter()).test_loss)
    assert losses[0] == losses[1]


def test_what_loaders_must_not_be(sets: Any) -> None:
    train_set, test_set = sets
    inputs, labels = train_set.tensors
    good, test = DataLoader(train_set, 32), DataLoader(test_set, 50)

    def of(*tensors: torch.Tensor) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*tensors), 32)

    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (5, {}, r"loaders must be \(train, test\) or \(train, validation, test\), .*: DataLoaders; got 5"),
        ((DataLoader(Endless(), 32), test), {}, "the training loader must have a length, since the plan needs"),
        (
            (DataLoader(train_set, 30), test),
            {},
            "batch_size must be a multiple of the training loader's, 30",
        ),
        ((of(inputs), test), {}, "batches of the training loader must be pairs of tensors, .* got 1 values"),
        (
            (of((inputs * 9).byte(), labels), test),
            {},
            "batches of the training loader must have normalized inputs",
        ),
        ((of(inputs, labels.float()), test), {}, "batches of the training loader must have integer labels .*float32"),
        ((good, of(test_set.tensors[0], test_set.tensors[1] - 1)), {}, "labels of the test loader must be from 0"),
        (
            (good, DataLoader(test_set, 50, shuffle=True)),
            {},
            "the test loader must not shuffle",
        ),
        ((good, of(inputs[:, :, :4], labels)), {}, "inputs of the test loader must have the shape"),
        ((good, test), {"mixup": 0.2}, "mixup must not be given with loaders, whose batches are used unchanged"),
        ((good, test), {"validation": 0.1}, "validation must not be given with loaders: give a loader for it"),
        ((good, test), {"sharpness": "end"}, "sharpness must not be given with loaders"),
        ((good, test), {"task": "simclr", "optimizer": "lars"}, "loaders must not be given for simclr"),
    ]
    for loaders, options, said in wrong:
        with pytest.raises(UsageError, match=said):
            train(TrainConfig(**{**QUICK, **options}), loaders=loaders, reporter=Reporter())
    with pytest.raises(UsageError, match="data must not be given with loaders, which have the data"):
        train(TrainConfig(**QUICK), data=sets, loaders=(good, test))
