"""Runs with images for validation: epochs see nothing else, and the test set is read once, at the end."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.lab.data.folders import write_classes
from tests.lab.first import first
from tvlars.lab import ImageData, TrainConfig, UsageError, evaluate, load_run, train
from tvlars.lab.data.image_data import sample
from tvlars.lab.measure import run_data
from tvlars.lab.measure.sharpness import training_batches
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.state_check import check_progress
from tvlars.lab.training.batches import Batches
from tvlars.lab.training.progress import LineReporter, Reporter
from tvlars.lab.training.state import as_table

CONFIG = TrainConfig(optimizer="sgd", lr=0.1, batch_size=64, epochs=2, validation=0.2, accelerator="cpu")


@pytest.fixture(scope="module")
def data(digits: ImageData) -> ImageData:
    return first(digits, 400)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits that are tested, in order."""
    splits: list[str] = []
    before = Batches.test

    def test(self: Batches, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        splits.append(split)
        return before(self, split)

    monkeypatch.setattr(Batches, "test", test)
    return splits


def permuted(data: ImageData) -> ImageData:
    """The same training images, but test images whose labels say nothing."""
    return replace(data, test_labels=data.test_labels[torch.randperm(len(data.test_labels))])


def cells(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "epochs.csv").read_text().splitlines()))


def test_epochs_see_validation_and_the_test_is_read_once(data: ImageData, tmp_path: Path, read: list[str]) -> None:
    result = train(replace(CONFIG, out=tmp_path / "run"), data=data, reporter=Reporter())
    assert read == ["validation", "validation", "test"]
    for row in cells(result.folder):
        assert row["test_loss"] == row["test_accuracy"] == "nan"
        assert 0 <= float(row["validation_accuracy"]) <= 1
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["test_accuracy"] == result.test_accuracy == evaluate(result).accuracy
    assert summary["validation_accuracy"] == result.validation_accuracy == result.epochs[-1].validation_accuracy
    loaded = load_run(result.folder)
    assert loaded.complete
    assert (loaded.test_accuracy, loaded.test_loss) == (result.test_accuracy, result.test_loss)
    assert loaded.accuracy_name == "test accuracy"
    correct = loaded.test_correct()
    assert correct is not None
    assert correct.mean() == pytest.approx(result.test_accuracy)
    assert (loaded.test_images(), loaded.validation_images()) == (360, 80)
    assert not loaded.problems


def test_weights_depend_on_no_test_image(data: ImageData, tmp_path: Path) -> None:
    runs = [
        train(replace(CONFIG, out=tmp_path / n), data=d, reporter=Reporter())
        for n, d in (("a", data), ("b", permuted(data)))
    ]
    one, other = ((run.folder / "epochs.csv", torch.load(run.folder / "weights.pt")) for run in runs)
    assert [r.validation_loss for r in runs[0].epochs] == [r.validation_loss for r in runs[1].epochs]
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert runs[0].test_accuracy != runs[1].test_accuracy


def test_a_run_without_a_test_never_reads_it(data: ImageData, tmp_path: Path, read: list[str]) -> None:
    result = train(replace(CONFIG, test=False, out=tmp_path / "run"), data=data, reporter=Reporter())
    assert read == ["validation", "validation"]
    assert math.isnan(result.test_accuracy)
    assert result.accuracy == result.validation_accuracy
    loaded = load_run(result.folder)
    assert loaded.complete
    assert loaded.test_accuracy is None
    assert loaded.accuracy == pytest.approx(result.accuracy)
    assert loaded.accuracy_name == "validation accuracy"
    assert not (result.folder / "test-correct.bits").exists()
    again = train(replace(CONFIG, test=False, out=tmp_path / "run", resume=True), data=data, reporter=Reporter())
    assert again.accuracy == pytest.approx(result.accuracy)


def test_without_validation_the_test_must_be_read(data: ImageData) -> None:
    with pytest.raises(UsageError, match="test must be true without images for validation"):
        train(replace(CONFIG, validation=None, test=False), data=data)


class Stop(Reporter):
    """Ends the run as Ctrl-C does, during its first step of epoch 2."""

    def step(self, row: Any) -> None:
        if row.epoch > 1:
            raise KeyboardInterrupt


def test_a_run_resumes_with_the_same_rows_and_test(data: ImageData, tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every="1-epochs")
    whole = train(replace(config, out=tmp_path / "whole"), data=data, reporter=Reporter())
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, out=tmp_path / "cut"), data=data, reporter=Stop())
    assert load_run(tmp_path / "cut").test_accuracy is None
    result = train(replace(config, out=tmp_path / "cut", resume=True), data=data, reporter=Reporter())
    assert [row.validation_loss for row in result.epochs] == [row.validation_loss for row in whole.epochs]
    assert (result.test_accuracy, result.test_loss) == (whole.test_accuracy, whole.test_loss)
    again = train(replace(config, out=tmp_path / "cut", resume=True), data=data, reporter=Reporter())
    assert again.tested == result.tested
    with pytest.raises(UsageError, match="validation_seed 0 there, 1 here"):
        train(replace(config, out=tmp_path / "cut", resume=True, validation_seed=1), data=data)


def test_the_line_says_val(data: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(CONFIG, out=tmp_path / "run"), data=data, reporter=LineReporter(brief=True))
    said = capsys.readouterr().out
    assert said.count("  val ") == 2
    assert said.count("test") == 1
    assert "test set, read once: accuracy" in said


def test_rows_of_earlier_versions_are_read_from_checkpoints(data: ImageData, tmp_path: Path) -> None:
    config = replace(CONFIG, validation=None, checkpoint_every="1-epochs", out=tmp_path / "run")
    result = train(config, data=data, reporter=Reporter())
    table = as_table(result.epochs)
    assert table.shape == (2, 10)
    found = checkpoint.newest(result.folder, lambda text: None)
    assert found is not None
    path, manifest = found
    progress = checkpoint.read_progress(path, manifest)
    progress["epochs"] = progress["epochs"][:, :8]
    epochs, _ = check_progress(path, progress, manifest.step, 1, config, result.plan)
    assert [row.test_loss for row in epochs] == [row.test_loss for row in result.epochs]
    assert not any(row.validated for row in epochs)
    progress["epochs"] = torch.cat([progress["epochs"], torch.zeros(2, 2, dtype=torch.float64)], 1)
    with pytest.raises(UsageError, match="NaN"):
        check_progress(path, progress, manifest.step, 1, config, result.plan)


def test_features_are_watched_on_validation_images(data: ImageData, tmp_path: Path, read: list[str]) -> None:
    config = TrainConfig(
        task="simclr",
        optimizer="sgd",
        lr=0.1,
        batch_size=128,
        epochs=1,
        validation=0.25,
        projector="16-16",
        evaluations="knn",
        accelerator="cpu",
        out=tmp_path / "run",
    )
    result = train(config, data=data, reporter=Reporter())
    assert read == ["validation", "test"]
    frame = load_run(result.folder).representation
    assert frame["samples"].tolist() == [100]
    assert load_run(result.folder).test_accuracy == pytest.approx(result.test_accuracy)
    untested = replace(config, test=False, evaluations="linear,knn", out=tmp_path / "untested")
    one, other = (
        train(replace(untested, out=tmp_path / n), data=d, reporter=Reporter())
        for n, d in (("c", data), ("d", permuted(data)))
    )
    assert {name: e.accuracy for name, e in one.evaluations.items()} == {
        name: e.accuracy for name, e in other.evaluations.items()
    }
    assert load_run(one.folder).accuracy_name == "linear-probe validation accuracy"
    assert load_run(one.folder).complete


def test_measurements_after_training_are_of_the_training_part(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_data, "load_data", lambda *_, **__: digits)
    result = train(replace(CONFIG, batch_size=256, epochs=1, out=tmp_path / "run"), data=digits, reporter=Reporter())
    (images, labels), *_ = training_batches(load_run(result.folder), 64, None, "cpu")
    held = digits.hold_out(0.2)
    expected, of_these = sample(held.train_images, held.train_labels, 64)
    assert torch.equal(labels, of_these)
    assert torch.allclose(images, load_run(result.folder).normalize(expected))
    assert not evaluate(result).note


def test_a_run_that_did_not_use_the_val_folder_goes_on_without(tmp_path: Path) -> None:
    """An earlier version left the val folder alone; its runs are evaluated, and resumed with --validation 0."""
    for i, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / "data" / part, count=8, seed=i)
    config = TrainConfig(
        data=f"imagefolder:{tmp_path / 'data'}", optimizer="sgd", lr=0.1, batch_size=8, epochs=2, validation=0,
        accelerator="cpu", out=tmp_path / "run",
    )  # fmt: skip
    result = train(config, reporter=Reporter())
    file = tmp_path / "run" / "config.json"
    stored = json.loads(file.read_text())
    for name in ("validation", "validation_seed", "test", "keep_best"):
        del stored[name]
    file.write_text(json.dumps(stored))
    found = evaluate(tmp_path / "run")
    assert (found.accuracy, found.note) == (pytest.approx(result.test_accuracy), "")
    again = train(replace(config, resume=True), reporter=Reporter())
    assert again.test_accuracy == pytest.approx(result.test_accuracy)
    with pytest.raises(UsageError, match=r"held out no images for validation: --validation 0"):
        train(replace(config, validation=None, resume=True), reporter=Reporter())
