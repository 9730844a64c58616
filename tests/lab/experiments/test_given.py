"""Objects of Python in comparisons, sweeps and tunings: the same runs as ``train`` does with them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tvlars.lab import (
    Arm,
    CompareConfig,
    Reporter,
    Task,
    TrainConfig,
    TuneConfig,
    UsageError,
    compare,
    sweep,
    train,
    tune,
)
from tvlars.lab.experiments.board import Board
from tvlars.lab.run_folder.loaded_run import RunResult, load_run
from tvlars.lab.run_folder.loaded_run import Tested as Result

BASE = TrainConfig(epochs=2, accelerator="cpu", precision="32-true", batch_size=64)


class Square(Task):
    """Mean square error, with a count of its own and a metric that each run must have for itself."""

    chosen_by, better = "mse", "min"

    def __init__(self) -> None:
        self.batches = 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.batches += 1
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"batches": self.batches}

    def metrics(self) -> Mapping[str, Any]:
        from torchmetrics import MeanSquaredError

        return {"mse": MeanSquaredError()}

    def predict(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch[0]), batch[1]


def samples() -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(320, 5, generator=generator)
    y = x @ torch.arange(10.0).view(5, 2) / 10
    return (x[:192], y[:192]), (x[192:256], y[192:256]), (x[256:], y[256:])


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 2)


def net(channels: int, image_size: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, classes))


def loaders() -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 4
    images = torch.randn(320, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)
    train_set, test_set = TensorDataset(images[:256], labels[:256]), TensorDataset(images[256:], labels[256:])
    return DataLoader(train_set, batch_size=32, shuffle=True), DataLoader(test_set, batch_size=64)


def alone(config: TrainConfig, folder: Path, **objects: Any) -> Any:
    return load_run(train(replace(config, out=folder), **objects, reporter=Reporter()).folder)


def quiet(**more: Any) -> dict[str, Any]:
    return dict(reporter=Reporter(), announce=lambda text: None, **more)


def test_a_comparison_of_a_task_is_that_of_single_runs(tmp_path: Path) -> None:
    config = CompareConfig(replace(BASE, lr=0.05), optimizers=("adamw", "sgd"), batch_sizes=(64,), seeds=(0, 1))
    task, model = Square(), linear()
    objects: dict[str, Any] = dict(data=samples(), model=model, task=task)
    done = compare(replace(config, out=tmp_path / "out"), **objects, **quiet())
    assert [run.status for run in done.runs] == ["finished"] * 4
    assert task.batches == 0
    assert torch.equal(model.weight, linear().weight)
    for run in done.runs:
        single = replace(config.base, optimizer=run.optimizer, seed=run.seed)
        here = alone(single, tmp_path / run.folder, **(objects | {"task": Square()}))
        assert run.metrics == {name: here.metrics[name] for name in ("test_batches", "test_mse")}
        assert run.test_loss == pytest.approx(here.test_loss, rel=1e-6)
    assert load_run(tmp_path / "out" / "adamw-b64-s0").config.model == "given:Linear"  # type: ignore[union-attr]
    again: list[str] = []
    compare(replace(config, out=tmp_path / "out"), **objects, reporter=Reporter(), announce=again.append)
    assert "4 of 4 runs are already done" in again


def test_a_function_builds_a_model_for_each_seed_and_a_module_is_the_same(tmp_path: Path) -> None:
    first: list[float] = []

    def build(channels: int, image_size: int, classes: int) -> nn.Module:
        built: Any = net(channels, image_size, classes)
        first.append(float(built[1].weight.detach().sum()))
        return built  # type: ignore[no-any-return]

    config = CompareConfig(replace(BASE, epochs=1), optimizers=("sgd",), batch_sizes=(256,), seeds=(0, 1))
    compare(replace(config, out=tmp_path / "built"), model=build, **quiet())
    assert first[-1] != first[-2]  # drawn by the seeds
    module: Any = net(1, 8, 10)
    kept = module[1].weight.detach().clone()
    compare(replace(config, out=tmp_path / "module"), model=module, **quiet())
    assert torch.equal(module[1].weight, kept)
    with pytest.raises(UsageError, match="config differs: model 'given:build' there, 'given:Sequential' here"):
        compare(replace(config, out=tmp_path / "built"), model=module, **quiet())
    base = replace(config.base, model="given:build")
    with pytest.raises(UsageError, match=r"model must be given again, as in train\(config, model=...\)"):
        compare(replace(config, base=base, out=tmp_path / "built"), **quiet())


def test_loaders_and_metrics(tmp_path: Path) -> None:
    from torchmetrics.classification import MulticlassF1Score

    config = CompareConfig(replace(BASE, lr=0.05), optimizers=("sgd",), batch_sizes=(32, 64), seeds=(0,))
    objects: dict[str, Any] = dict(loaders=loaders(), model=net, metrics={"f1": MulticlassF1Score(4)})
    done = compare(replace(config, out=tmp_path / "out"), **objects, **quiet())
    single = alone(replace(config.base, optimizer="sgd"), tmp_path / "one", **objects)
    assert done.runs[1].test_loss == pytest.approx(single.test_loss, rel=1e-6)
    assert done.runs[1].metrics == pytest.approx(single.metrics, rel=1e-6)
    with pytest.raises(UsageError, match="batch_size must be a multiple of the training loader's, 32"):
        compare(replace(config, batch_sizes=(32, 80), out=tmp_path / "other"), **objects, **quiet())
    assert not (tmp_path / "other").exists()


def test_a_sweep_and_a_tuning_take_them_too(tmp_path: Path) -> None:
    objects: dict[str, Any] = dict(data=samples(), model=linear(), task=Square())
    runs = [replace(BASE, optimizer="adamw", lr=0.05, seed=seed) for seed in (0, 1)]
    result = sweep(runs, tmp_path / "sweep", **objects, board=Board())
    assert [run.status for run in result.runs] == ["finished"] * 2
    here = alone(runs[0], tmp_path / "alone", **objects)
    (found,) = [run for run in result.load() if run.config is not None and run.config.seed == 0]
    assert found.metrics == here.metrics
    assert repr(result) == f"SweepResult(2 runs: 2 finished, folder {str(tmp_path / 'sweep')!r})"
    assert result.comparison().answers()[0] in html.unescape(result._repr_html_())
    mse, name = here.metrics["test_mse"], "rows-Square-adamw-b64-s0"
    where = f"folder {str(here.folder)!r}"
    assert repr(here) == f"LoadedRun({name}, finished, test mse {mse:.4g}, 2 epochs, {where})"
    assert here._repr_html_().count("<svg") == 2  # the measure of the task, and the loss
    assert here.config is not None
    one = RunResult(here.folder, here.config, here.config.plan(64), [], tested=Result(0.5, 0.0))
    assert repr(one) == f"RunResult({name}, loss 0.5, 0 epochs, {where})"
    assert one._repr_html_() == here._repr_html_()
    pytest.importorskip("optuna")
    config = TuneConfig(BASE, optimizers=("adamw",), trials=2, seeds=(0,), out=tmp_path / "tune")
    tuned = tune(config, **objects, **quiet(board=Board()))
    assert tuned.final is not None
    assert [run.status for run in tuned.final.runs] == ["finished"]
    assert tuned.tuned[0].best is not None
    assert repr(tuned) == f"TuneResult(adamw, folder {str(tmp_path / 'tune')!r})"
    assert str(tuned.tuned[0]) in html.unescape(tuned._repr_html_())


@pytest.mark.parametrize("name", ["data", "loaders", "model", "task", "metrics"])
def test_processes_of_their_own_have_no_objects(name: str, tmp_path: Path) -> None:
    objects: Any = {
        name: {"data": samples, "loaders": loaders, "model": linear, "task": Square, "metrics": dict}[name]()
    }
    with pytest.raises(UsageError, match=f"workers must be 1, and ray None, with {name} given in Python.*file.py:"):
        compare(CompareConfig(BASE), **objects, workers=2)
    with pytest.raises(UsageError, match=f"workers must be 1, and ray None, with {name} given in Python"):
        sweep([BASE], tmp_path, **objects, workers=2)


def test_optimizers_by_their_class_or_function() -> None:
    from tests.lab.experiments import optimizers

    config = CompareConfig(optimizers=("lars", torch.optim.NAdam, optimizers.build))  # type: ignore[arg-type]
    assert config.optimizers == ("lars", "torch.optim.NAdam", "tests.lab.experiments.optimizers.build")
    assert Arm("mine", optimizers.build).optimizer == config.optimizers[2]  # type: ignore[arg-type]
    assert TrainConfig(optimizer=torch.optim.NAdam).optimizer == "torch.optim.NAdam"  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"optimizer must be importable, but <lambda> is no name of the module"):
        TrainConfig(optimizer=lambda model, plan: None)  # type: ignore[arg-type]
