"""The weights of the best epoch by validation: kept, resumed, tested and read back."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.first import first
from tvlars.lab import ImageData, TrainConfig, UsageError, evaluate, load_run, train
from tvlars.lab.experiments.job import going_on
from tvlars.lab.run_folder.best import best_epoch, epochs_kept
from tvlars.lab.run_folder.rows import EpochRow
from tvlars.lab.training.learner import Classification
from tvlars.lab.training.progress import Reporter

CONFIG = TrainConfig(
    optimizer="sgd", lr=0.1, batch_size=64, epochs=4, validation=0.2, keep_best=True, accelerator="cpu"
)  # fmt: skip


@pytest.fixture(scope="module")
def data(digits: ImageData) -> ImageData:
    return first(digits, 300)


def play(patch: pytest.MonkeyPatch, accuracies: Sequence[float]) -> None:
    """Have validation give these accuracies, whatever the weights."""
    before = Classification.test

    def test(self: Classification, epoch: int, step: int, split: str = "test") -> tuple[float, float]:
        loss, accuracy = before(self, epoch, step, split)
        return loss, accuracies[epoch - 1] if split == "validation" else accuracy

    patch.setattr(Classification, "test", test)


class Crash(Reporter):
    """Ends the process's run at its first step after ``epochs``, as if it were killed."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def step(self, row: Any) -> None:
        if row.epoch > self.epochs:
            raise BrokenPipeError("killed")


class Times:
    """Metric that counts how often it was computed; once before the run."""

    times = 0

    def update(self, *_: Any) -> None: ...
    def reset(self) -> None: ...

    def compute(self) -> float:
        self.times += 1
        return float(self.times)

    def to(self, _: Any) -> Times:
        return self


def row(epoch: int, accuracy: float, loss: float) -> EpochRow:
    return EpochRow(epoch, epoch, 1.0, 0.5, math.nan, math.nan, 1.0, 1.0, loss, accuracy)


def test_the_best_epoch() -> None:
    assert best_epoch([]) is None
    assert best_epoch([row(1, 0.5, 1.0), row(2, 0.7, 9.0), row(3, 0.6, 0.1)]) == 2
    assert best_epoch([row(1, 0.5, 1.0), row(2, 0.5, 0.9), row(3, 0.5, 0.9)]) == 2
    losses = [row(1, math.nan, 1.0), row(2, math.nan, 0.3), row(3, math.nan, 0.4)]
    assert best_epoch(losses) == 2
    assert best_epoch(losses, {1: 0.1, 2: math.nan, 3: 0.2}) == 3
    assert best_epoch(losses, {1: -5.0}) == 1


def test_the_best_weights_are_kept_and_tested(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Notes(Reporter):
        def note(self, text: str) -> None:
            print(text)

    play(monkeypatch, [0.5, 0.9, 0.7, 0.9])
    result = train(replace(CONFIG, out=tmp_path / "run"), data=data, reporter=Notes())
    best = 2 if result.epochs[1].validation_loss <= result.epochs[3].validation_loss else 4
    play(monkeypatch, [0.5, 0.95, 0.7, 0.9])
    metrics = {"times": Times()}
    result = train(replace(CONFIG, out=tmp_path / "other"), data=data, reporter=Notes(), metrics=metrics)
    assert load_run(tmp_path / "run").best_epoch == best
    assert result.best_epoch == 2
    assert result.validation_accuracy == 0.95
    assert "test set, read once by the weights of epoch 2, the best by validation: accuracy" in capsys.readouterr().out
    assert epochs_kept(result.folder) == [2]
    summary = json.loads((result.folder / "summary.json").read_text())
    assert (summary["best_epoch"], summary["validation_accuracy"]) == (2, 0.95)
    assert (summary["validation_times"], summary["test_times"]) == (3, 6)
    loaded = load_run(result.folder)
    assert (loaded.best_epoch, loaded.validation_accuracy) == (2, 0.95)
    found = evaluate(result)
    assert found.accuracy == result.test_accuracy == loaded.test_accuracy
    assert found.loss == pytest.approx(result.test_loss, rel=1e-5)
    correct = loaded.test_correct()
    assert correct is not None
    assert correct.mean() == pytest.approx(found.accuracy)
    last, kept = loaded.model(best=False).state_dict(), loaded.model(best=True).state_dict()
    assert not all(torch.equal(last[name], kept[name]) for name in last)
    assert all(torch.equal(loaded.model().state_dict()[name], kept[name]) for name in kept)
    config = replace(CONFIG, out=tmp_path / "other", resume=True)
    again = train(config, data=data, reporter=Reporter(), metrics=metrics)
    assert (again.best_epoch, again.test_accuracy) == (2, result.test_accuracy)


def test_training_is_the_same_without(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [0.5, 0.9, 0.7, 0.8])
    runs = [
        train(replace(CONFIG, keep_best=keep, out=tmp_path / str(keep)), data=data, reporter=Reporter())
        for keep in (True, False)
    ]
    one, other = (torch.load(run.folder / "weights.pt") for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert runs[0].test_loss != runs[1].test_loss
    with pytest.raises(UsageError, match="best must be False"):
        load_run(runs[1].folder).model(best=True)


@pytest.mark.parametrize("again", [[0.5, 0.6, 0.9, 0.1], [0.5, 0.6, 0.4, 0.1]])
def test_a_killed_run_finds_the_best_weights_of_its_checkpoint(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: list[float]
) -> None:
    """Killed after epoch 3, the best so far, it goes on from epoch 2, and epoch 3 may be another one then."""
    config = going_on(replace(CONFIG, checkpoint_every="2-epochs"), tmp_path / "run")
    play(monkeypatch, [0.5, 0.6, 0.9, 0.1])
    with pytest.raises(BrokenPipeError):
        train(config, data=data, reporter=Crash(3), metrics=(metrics := {"times": Times()}))
    assert epochs_kept(tmp_path / "run") == [2, 3]
    assert load_run(tmp_path / "run").best_epoch == 3
    shutil.copytree(tmp_path / "run", tmp_path / "lost")
    monkeypatch.undo()
    play(monkeypatch, again)
    result = train(config, data=data, reporter=Reporter(), metrics=metrics)
    best = again.index(max(again)) + 1
    assert result.best_epoch == best
    assert load_run(result.folder).summary["validation_times"] == {2: 3, 3: 2}[best]  # counted anew after the kill
    assert evaluate(result).accuracy == result.test_accuracy
    (tmp_path / "lost" / "best-2.pt").unlink()
    with pytest.raises(UsageError, match=r"best-2\.pt must hold the best weights so far, but does not"):
        train(going_on(config, tmp_path / "lost"), data=data, reporter=Reporter(), metrics=metrics)


def test_a_checkpoint_before_the_test_of_its_epoch_has_the_best_weights_before_it(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = going_on(replace(CONFIG, checkpoint_every="3-steps", checkpoint_keep=1), tmp_path / "run")
    play(monkeypatch, [0.5, 0.9, 0.1, 0.1])
    with pytest.raises(BrokenPipeError):
        train(config, data=data, reporter=Crash(2))
    assert epochs_kept(tmp_path / "run") == [1, 2]
    assert train(config, data=data, reporter=Reporter()).best_epoch == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation": None}, "keep_best must not be given without images for validation"),
        ({"task": "simclr", "batch_size": 128}, "keep_best must not be given for simclr"),
    ],
)
def test_where_nothing_is_best(data: ImageData, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        train(replace(CONFIG, **options), data=data)
