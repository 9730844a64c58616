"""Evaluation of the validation (or test) images after some epochs only: ``validate_every``."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.first import first
from tests.lab.stops import StopAt
from tvlars.cli import main
from tvlars.lab import (
    ImageData,
    Reporter,
    RunResult,
    TrainConfig,
    TuneConfig,
    UsageError,
    load_run,
    report,
    train,
    tune,
)
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.run_name import run_name
from tvlars.lab.experiments.tuning import search as search_module
from tvlars.lab.run_folder.rows import RESULTS, EpochRow
from tvlars.lab.training import prepare

CONFIG = TrainConfig(optimizer="sgd", lr=0.1, batch_size=64, epochs=5, validation=0.2, accelerator="cpu")
EVALUATED = [2, 4, 5]


@pytest.fixture(scope="module")
def data(digits: ImageData) -> ImageData:
    return first(digits, 200, 100)


@pytest.fixture(scope="module")
def runs(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunResult]:
    """A run that evaluates after every epoch, and the same one that does after every second one."""
    folder = tmp_path_factory.mktemp("runs")
    often, seldom = (
        train(replace(CONFIG, validate_every=n, keep_best=True, out=folder / str(n)), data=data, reporter=Reporter())
        for n in (1, 2)
    )
    return often, seldom


def evaluated(rows: list[EpochRow]) -> list[int]:
    return [row.epoch for row in rows if row.evaluated]


def test_training_is_the_same_and_results_are_those_of_the_epochs_evaluated(runs: tuple[RunResult, RunResult]) -> None:
    often, seldom = runs
    assert evaluated(often.epochs) == [1, 2, 3, 4, 5]
    assert evaluated(seldom.epochs) == EVALUATED
    for one, other in zip(often.epochs, seldom.epochs, strict=True):
        assert (one.step, one.train_loss, one.train_accuracy) == (other.step, other.train_loss, other.train_accuracy)
        if other.evaluated:
            assert [getattr(one, name) for name in RESULTS[2:]] == [getattr(other, name) for name in RESULTS[2:]]
        else:
            assert all(math.isnan(getattr(other, name)) for name in RESULTS)
    weights = [torch.load(run.folder / "weights.pt") for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_folder_has_missing_values_and_the_best_of_the_epochs_evaluated(runs: tuple[RunResult, RunResult]) -> None:
    result, folder = runs[1], runs[1].folder
    lines = (folder / "epochs.csv").read_text().splitlines()
    assert [line.split(",")[-1] == "nan" for line in lines[1:]] == [True, False, True, False, False]
    run = load_run(folder)
    assert run.problems == ()
    assert run.complete
    best = max((row for row in result.epochs if row.evaluated), key=lambda row: row.validation_accuracy)
    assert result.best_epoch == run.best_epoch
    assert result.epochs[result.best_epoch - 1].validation_accuracy == best.validation_accuracy
    assert (
        result.validation_accuracy == pytest.approx(run.validation_accuracy) == pytest.approx(best.validation_accuracy)
    )
    assert json.loads((folder / "summary.json").read_text())["test_accuracy"] == result.test_accuracy
    assert run.evaluated["epoch"].tolist() == EVALUATED
    assert list(run.over_epochs()[1]) == EVALUATED
    assert "<circle" not in run._repr_html_()  # a point between two gaps


def test_test_images_are_evaluated_as_often_where_nothing_is_held_out(data: ImageData, tmp_path: Path) -> None:
    config = replace(CONFIG, validation=None, epochs=None, steps=8, validate_every=9, sharpness="steps:3")
    config = replace(config, sharpness_samples=32, sharpness_statistics_samples=64, ema=0.5, out=tmp_path / "run")
    result = train(config, data=data, reporter=Reporter())
    assert evaluated(result.epochs) == [3]
    assert result.test_accuracy == result.epochs[-1].test_accuracy
    assert load_run(result.folder).test_accuracy == pytest.approx(result.test_accuracy)
    assert load_run(result.folder).sharpness["epoch"].tolist() == [1]  # after an epoch that is not evaluated


def test_a_run_that_resumes_has_the_same_cadence(
    runs: tuple[RunResult, RunResult], data: ImageData, tmp_path: Path
) -> None:
    config = replace(runs[1].config, out=tmp_path / "run", checkpoint_every="1-epochs", resume=True)
    with pytest.raises(SystemExit):
        train(config, data=data, reporter=StopAt(step=9))
    going = load_run(config.out)
    assert going.epochs["epoch"].tolist() == [1, 2, 3, 4]
    known = {row.epoch: row.validation_accuracy for row in runs[1].epochs}
    assert going.validation_accuracy == pytest.approx(max(known[2], known[4]))
    with pytest.raises(UsageError, match=r"config differs: validate_every 2 there, 1 here"):
        train(replace(config, validate_every=1), data=data, reporter=Reporter())
    resumed = train(config, data=data, reporter=Reporter())
    assert evaluated(resumed.epochs) == EVALUATED
    assert resumed.best_epoch == runs[1].best_epoch
    assert resumed.test_loss == runs[1].test_loss
    again = train(config, data=data, reporter=Reporter())  # it has finished
    assert again.validation_accuracy == pytest.approx(resumed.validation_accuracy)


def test_the_page_connects_fewer_points(runs: tuple[RunResult, RunResult], data: ImageData, tmp_path: Path) -> None:
    page = report([runs[1].folder], tmp_path / "report.html")
    packed = re.search(r'id="figures">([^<]+)<', Path(page).read_text())
    assert packed is not None
    figures = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    (figure,) = [one for one in figures if "Validation accuracy" in one["layout"]["title"]["text"]]
    (curve,) = figure["data"]
    assert (curve["x"], curve["mode"]) == (EVALUATED, "lines")
    assert None not in curve["y"]
    config = replace(CONFIG, validation=None, epochs=2, validate_every=2, out=tmp_path / "run")
    train(config, data=data, reporter=Reporter())
    page = report([config.out], tmp_path / "tested.md")
    assert "runs were tested on the test set after every 2 epochs." in Path(page).read_text()


def test_the_command_line(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "load_data", lambda *_, **__: data)
    words = ["train", "--optimizer=sgd", "--lr=0.1", "-b=64", "--epochs=3", "--accelerator=cpu", "--validation=0.2"]
    assert main([*words, "--validate-every=2", f"--out={tmp_path / 'run'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if re.search(r"epoch \d/3", line)]
    assert [bool(re.search(r"train +[\d.]+%  val +[\d.]+%  lr", line)) for line in lines] == [False, True, True]
    assert re.search(r"train +[\d.]+%  lr 0\.\d+  [\d,]+ images/s", lines[0])
    assert main([*words, "--validate-every=0"]) == 2
    assert "validate_every must be an integer >= 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    assert "epochs between two evaluations of the validation" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_bad_values(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^validate_every must be an integer >= 1, got"):
        TrainConfig(validate_every=value)


def test_what_is_the_best_of_all_epochs_needs_them_all() -> None:
    for options, why in ((dict(preset="as-published"), "preset as-published"), (dict(test_share=0.25), "test_share")):
        named: dict[str, Any] = options
        TrainConfig(**named)
        with pytest.raises(UsageError, match=f"^validate_every must be 1 with {why}, which tests every epoch, got 3$"):
            TrainConfig(validate_every=3, **named)
    TrainConfig(validate_every=3, preset="corrected")


def test_the_default_leaves_the_name_of_a_run() -> None:
    assert (
        run_name(replace(CONFIG, validate_every=1)) == run_name(CONFIG) != run_name(replace(CONFIG, validate_every=2))
    )


def test_trials_are_pruned_at_the_epochs_evaluated(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "PRUNE_TRIALS", 1)
    base = replace(CONFIG, lr=None, validate_every=2)
    space = ("lr=0.1,0.00001",)
    config = TuneConfig(
        base, optimizers=("sgd",), trials=2, sampler="grid", space=space, seeds=(0,), out=tmp_path / "out"
    )
    result = tune(config, data=data, announce=lambda _: None, reporter=Reporter, board=Board())
    frame = result.frame()
    assert frame["status"].tolist() == ["finished", "pruned"]
    assert frame["epochs"].tolist() == [5, 2]
    trials = [load_run(tmp_path / "out" / "trials" / name).epochs for name in frame["folder"]]
    assert trials[0]["validation_accuracy"].notna().tolist() == [False, True, False, True, True]
    assert result.final is not None
    assert result.final.frame()["validation_accuracy"].notna().all()
