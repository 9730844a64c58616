"""Tasks of users: regression, segmentation and others, in Python and on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tests.command import tvlars
from tests.lab.processes.forked import fork_ranks
from tvlars.cli import main
from tvlars.lab import Comparison, Reporter, Task, TrainConfig, UsageError, evaluate, load_run, probe_run, train
from tvlars.lab.data.own.rows import load_rows, rows_from
from tvlars.lab.tasks import metrics_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "lab"


class Square(Task):
    """Mean square error of a dictionary's "x" and "y"."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch["x"]), batch["y"])

    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"worst": (model(batch["x"]) - batch["y"]).abs().amax(1).mean()}


class Samples(Dataset[Any]):
    """y = x A, as samples that are dictionaries."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 5, generator=generator)
        self.y = self.x @ torch.arange(10.0).view(5, 2) / 10

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return {"x": self.x[i], "y": self.y[i]}


def short(out: Path, **options: Any) -> TrainConfig:
    usual: dict[str, Any] = dict(optimizer="adamw", lr=0.05, batch_size=64, epochs=3, precision="32-true")
    return TrainConfig(out=out, accelerator="cpu", **{**usual, **options})


def squares(out: Path, task: Task | None = None, **options: Any) -> Any:
    data = Samples(320, 0), Samples(100, 1)
    task = task or Square()
    return train(short(out, **options), data=data, model=linear(), task=task, reporter=Reporter())


def linear() -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return nn.Linear(5, 2)


def test_loss_and_measures_are_those_of_the_final_weights(tmp_path: Path) -> None:
    result = squares(tmp_path / "run")
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss
    run = load_run(result.folder, model=linear())
    test = Samples(100, 1)
    with torch.no_grad():
        error = run.model()(test.x) - test.y
    assert result.epochs[-1].test_loss == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert run.metrics == {"test_worst": pytest.approx(float(error.abs().amax(1).mean()), rel=1e-5)}
    assert run.complete
    assert not run.problems
    again = evaluate(run, data=(Samples(320, 0), test), task=Square(), batch_size=30)
    assert (again.samples, again.loss) == (100, pytest.approx(result.epochs[-1].test_loss, rel=1e-5))
    assert again.measures == {"worst": pytest.approx(run.metrics["test_worst"], rel=1e-5)}
    with pytest.raises(UsageError, match=r"task must be given again"):
        evaluate(run, data=(Samples(320, 0), test))
    with pytest.raises(UsageError, match=r"run must be one on images with labels, but"):
        probe_run(run)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    whole, parts = (squares(tmp_path / str(size), micro_batch_size=size) for size in (64, 10))
    assert parts.epochs[-1].test_loss == pytest.approx(whole.epochs[-1].test_loss, rel=1e-4)


def test_validation_and_resume(tmp_path: Path) -> None:
    class Stop(Reporter):
        def epoch(self, row: Any) -> None:
            raise KeyboardInterrupt

    options: dict[str, Any] = dict(validation=0.25, checkpoint_every="1-epochs", resume=True)
    whole = squares(tmp_path / "whole", **options)
    run = load_run(whole.folder)
    assert run.metrics.keys() == {"validation_worst", "test_worst"}
    assert run.epochs["test_loss"].isna().all()
    call: dict[str, Any] = dict(data=(Samples(320, 0), Samples(100, 1)), model=linear(), task=Square())
    with pytest.raises(KeyboardInterrupt):
        train(short(tmp_path / "cut", **options), **call, reporter=Stop())
    train(short(tmp_path / "cut", **options), **call, reporter=Reporter())
    assert load_run(tmp_path / "cut").metrics == run.metrics
    other = call | {"data": (Samples(320, 5), Samples(100, 1))}
    with pytest.raises(UsageError, match="have changed: training images have other pixels"):
        train(short(tmp_path / "cut", **options, epochs=3), **other, reporter=Reporter())
    with pytest.raises(UsageError, match=r"task must be given again, as in train\(config, task=...\)"):
        train(short(tmp_path / "cut", task="given:Square", **options), **call | {"task": None}, reporter=Reporter())


@pytest.mark.parametrize("name", ["regression", "segmentation"])
def test_an_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = EXAMPLES / f"{name}.py"
    assert file.read_text().count("\n") < 40
    words = ["train", "--task", f"{file}:{name.title()}", "--data", f"{file}:load", "--model", f"{file}:build"]
    options = ["--optimizer", "adamw", "--lr", "0.03", "--batch-size", "64", "--epochs", "6", "--out", "run"]
    assert main([*words, *options, "--precision", "32-true"]) == 0
    run = load_run("run")
    data: Any = load_rows(f"{file}:load", None)
    inputs, targets = data.test_images.values
    with torch.no_grad():
        out = run.model()(inputs)
    assert main(["evaluate", "run"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    values = {n.replace("_", " "): f"{value:.4g}" for n, value in run.metrics.items()}
    assert all(f"{text} {value}" in said for text, value in values.items())
    if name == "regression":
        assert run.metrics["test_r2"] == pytest.approx(r2_score(targets, out[:, 0]), abs=1e-4)
        assert run.metrics["test_r2"] > 0.2
    else:
        found, mask = out.argmax(1).bool(), targets.bool()
        assert run.metrics["test_iou"] == pytest.approx(float((found & mask).sum() / (found | mask).sum()), abs=1e-4)
        assert run.metrics["test_iou"] > 0.6


def test_a_comparison_has_the_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = EXAMPLES / "regression.py"
    words = ["compare", "--task", f"{file}:Regression", "--data", f"{file}:load", "--model", f"{file}:build"]
    options = ["--optimizers", "lars", "adamw", "--seeds", "0", "1", "--batch-size", "64", "--epochs", "1"]
    assert main([*words, *options, "--out", "both"]) == 0
    table = Comparison.load("both").table()
    assert table["test_r2"].notna().all()
    assert table["seeds"].tolist() == [2, 2]
    assert "test r2" in Path("both/report.html").read_text()


class Vector(Square):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch["x"]) - batch["y"]).square().mean(1)


class Detached(Square):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch).detach()


class Named(Square):
    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"accuracy": 1.0}


class Many(Square):
    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"error": batch["y"]}


class Sum(Square):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch["x"]), batch["y"], reduction="sum")


class Sums(Square):
    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"error": (model(batch["x"]) - batch["y"]).abs().sum()}


@pytest.mark.parametrize(
    ("task", "match"),
    [
        (Sum(), "the loss of task Sum must be the mean over the samples of a batch, but doubles"),
        (Sums(), "measure error of task Sums must be the mean"),
        (Vector(), r"must return a scalar loss .*, got a tensor of shape \(2,\)"),
        (Detached(), "a scalar loss that depends on the model's weights, got .* without a gradient"),
        (Named(), "must not be called accuracy"),
        (Many(), r"measure error must be a number, .* got a tensor of shape \(2, 2\)"),
    ],
)
def test_tasks_that_do_not_suit(task: Task, match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        squares(tmp_path / "run", task)
    assert not (tmp_path / "run").exists()


def test_a_model_of_ours_that_takes_no_such_inputs_is_one_sentence(tmp_path: Path) -> None:
    data, match = (
        (Samples(64, 0), Samples(32, 1)),
        "model must accept the inputs of task Square, .* small_resnet does not",
    )
    with pytest.raises(UsageError, match=match):
        train(short(tmp_path / "run"), data=data, task=Square(), reporter=Reporter())
    with pytest.raises(RuntimeError, match="shapes"):  # their own module: their traceback
        train(short(tmp_path / "run"), data=data, task=Square(), model=nn.Linear(3, 2), reporter=Reporter())


@pytest.mark.parametrize(
    ("chosen_by", "better", "match"),
    [
        ("wurst", "min", "unknown measure of task Square in chosen_by 'wurst': did you mean 'worst'"),
        ("worst", None, "better must be 'min' or 'max' in task Square, whose chosen_by is worst, got None"),
        ("worst", "lower", "better must be 'min' or 'max' in task Square, .* got 'lower'"),
        ("loss", "max", "better must be 'min' in task Square, whose chosen_by is the loss, got 'max'"),
    ],
)
def test_a_measure_to_choose_by_must_be_there(chosen_by: str, better: Any, match: str, tmp_path: Path) -> None:
    task = Square()
    task.chosen_by, task.better = chosen_by, better
    with pytest.raises(UsageError, match=match):
        squares(tmp_path / "run", task)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("better", ["min", "max"])
def test_the_best_epoch_is_that_of_the_measure_to_choose_by(better: str, tmp_path: Path) -> None:
    task = Square()
    task.chosen_by, task.better = "worst", better
    run = squares(tmp_path / "run", task, validation=0.2, keep_best=True)
    measured = load_run(run.folder).epochs["validation_worst"]
    assert run.best_epoch == (measured.idxmin() if better == "min" else measured.idxmax()) + 1
    losses = [row.validation_loss for row in run.epochs]
    assert run.best_epoch == 1 + losses.index(min(losses) if better == "min" else max(losses))
    assert losses[0] > losses[-1]  # the best by loss is another one than for "max"


def test_metrics_of_a_task_are_left_as_they_are() -> None:
    from torchmetrics import MeanSquaredError

    task, mean = Square(), MeanSquaredError()
    task.metrics = lambda: {"mean": mean}  # type: ignore[method-assign]
    metrics_of(task)["mean"].update(torch.ones(3), torch.zeros(3))
    assert not mean.update_called


class Moody(Square):
    """Has a measure for whole batches alone."""

    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return super().measure(model, batch) if len(batch["x"]) in (2, 64) else {}


def test_measures_of_some_batches_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the same measures for every batch, got worst and then none"):
        squares(tmp_path / "run", Moody(), micro_batch_size=64)


def test_a_task_without_a_loss(tmp_path: Path) -> None:
    with pytest.raises((UsageError, NotImplementedError), match="must have a method loss"):
        squares(tmp_path / "run", Task())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task": "regresion"}, "unknown task 'regresion'.*Or an import path"),
        ({"task": "./mine.py:T", "rotation": 3.0}, "rotation must not be given for a task of your own, mine.py:T"),
        ({"task": "./mine.py:T", "metrics": "a.B"}, "metrics must not be given for a task of your own"),
        (
            {"task": "./mine.py:T", "preset": "mlperf", "optimizer": "lars"},
            "preset must not be given for a task of",
        ),
    ],
)
def test_options_of_images_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        TrainConfig(**options)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((1, 2, 3, 4), "data must be .* or tuples or dictionaries of tensors; got 4 of them"),
        ({"train": Samples(3, 0)}, "got the keys train"),
        (None, "got None"),
        ((torch.zeros(3, 2), torch.zeros(3)), "must have a Dataset with samples, or a tuple or dictionary of tensors"),
        (((torch.zeros(3, 2), torch.zeros(4)),) * 2, r"the same number of rows, .* got \(3, 2\), \(4,\) for train"),
        ((TensorDataset(torch.zeros(0, 2)),) * 2, "must have a Dataset with samples"),
    ],
)
def test_data_that_do_not_suit(data: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        rows_from(data, "mine")


def test_numbers_of_double_precision_become_those_of_models() -> None:
    x, y = np.zeros((4, 3)), np.arange(4)
    data: Any = rows_from(((x, y), TensorDataset(torch.tensor(x), torch.tensor(y))), "mine")
    for rows in (data.train_images, data.test_images):
        assert [leaf.dtype for leaf in rows.values] == [torch.float32, torch.int64]
    assert data.fingerprint.train == data.fingerprint.test


def test_two_processes_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = EXAMPLES / "regression.py"
    words = ["train", "--task", f"{file}:Regression", "--data", f"{file}:load", "--model", f"{file}:build"]
    common = [*words, "--optimizer", "sgd", "--lr", "0.05", "--batch-size", "64", "--epochs", "2"]
    assert main([*common, "--out", "one"]) == 0
    two = ["--out", "two", "--devices", "2", "--accelerator", "cpu"]
    done = tvlars(*common, *two, cwd=tmp_path, before=fork_ranks)
    assert done.returncode == 0, done.stderr
    assert load_run("two").metrics == pytest.approx(load_run("one").metrics, rel=1e-3)
