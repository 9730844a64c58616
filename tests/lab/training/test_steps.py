"""Runs whose length is given in optimizer steps: the last epoch may be a part of one, and all else is as by epochs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.lab.stops import StopAt
from tvlars.cli._commands import make_parser
from tvlars.cli._options import train_config
from tvlars.lab import TrainConfig, UsageError, list_runs, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.experiments.job import going_on, is_whole, status_of
from tvlars.lab.experiments.run_name import arguments, digest
from tvlars.lab.run_folder.status import Status
from tvlars.lab.training.progress import LineReporter, Reporter

QUICK: dict[str, Any] = dict(batch_size=128, precision="32-true", accelerator="cpu")
"""Five steps per epoch of ``few``."""


def rows(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, dtype=str).drop(columns=["images_per_second", "seconds"], errors="ignore")


@pytest.mark.parametrize("optimizer", ["tvlars", "lars"])
def test_steps_of_whole_epochs_are_the_same_run(tmp_path: Path, few: ImageData, optimizer: str) -> None:
    ways = {"epochs": dict(epochs=2), "steps": dict(steps=10)}
    for name, length in ways.items():
        options: dict[str, Any] = {**QUICK, **length}
        train(TrainConfig(optimizer=optimizer, out=tmp_path / name, **options), data=few, reporter=Reporter())
    for file in ("steps.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(*(rows(tmp_path / name, file) for name in ways))
    first, second = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ways)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(("steps", "epochs"), [(3, [3]), (5, [5]), (7, [5, 7]), (13, [5, 10, 13])])
def test_the_last_epoch_is_a_part_of_one(
    tmp_path: Path, few: ImageData, steps: int, epochs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(steps=steps, sharpness="end", sharpness_samples=16, out=tmp_path / "run", **QUICK)
    result = train(config, data=few, reporter=LineReporter())
    run = load_run(tmp_path / "run")
    assert (run.complete, list(run.problems)) == (True, [])
    assert run.steps["step"].tolist() == list(range(1, steps + 1))
    assert run.epochs["step"].tolist() == epochs
    assert run.sharpness["epoch"].tolist() == [len(epochs)]
    assert (result.plan.total_steps, result.plan.epochs, result.config.epochs) == (steps, len(epochs), None)
    assert run.steps["phi"].tolist() == pytest.approx([result.plan.factor(t) for t in range(1, steps + 1)], rel=1e-5)
    assert result.plan.factor(steps) == pytest.approx(0.02, abs=0.002)  # the schedule ends with the run
    assert run.test_correct() is not None
    said = capsys.readouterr().out
    assert f"{steps / 5:g} epoch{'s' * (steps != 5)} of 700 samples" in said
    assert f"5 per epoch, {steps} in total" in said
    assert f"epoch {len(epochs)}/{len(epochs)}" in said
    again = going_on(config, tmp_path / "run")
    assert train(again, data=few, reporter=Reporter()).accuracy == pytest.approx(
        result.accuracy, abs=1e-6
    )  # it has finished
    assert status_of(tmp_path / "run", config) == Status.FINISHED
    assert status_of(tmp_path / "run", replace(config, steps=steps + 1)) == Status.NOT_DONE


def test_a_run_that_was_cut_off_goes_on_bit_for_bit_in_its_partial_epoch(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(
        steps=13, optimizer="lars", validation=0.2, keep_best=True, checkpoint_every="2-steps", **{**QUICK}
    )  # four steps per epoch of those that are left
    whole = train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    cut = replace(config, out=tmp_path / "cut", resume=True)
    for reporter in (StopAt(step=3), StopAt(step=10), StopAt(step=13), Reporter()):
        try:
            train(cut, data=few, reporter=reporter)
        except SystemExit:
            assert not is_whole(tmp_path / "cut", cut)
    for file in ("steps.csv", "epochs.csv"):
        pd.testing.assert_frame_equal(rows(tmp_path / "whole", file), rows(tmp_path / "cut", file))
    assert rows(tmp_path / "cut", "epochs.csv")["step"].tolist() == ["4", "8", "12", "13"]
    found = load_run(tmp_path / "cut")
    assert (found.best_epoch, found.test_accuracy) == (whole.best_epoch, pytest.approx(whole.test_accuracy, abs=1e-6))
    assert is_whole(tmp_path / "cut", cut)
    with pytest.raises(UsageError, match="steps 13 there, 14 here"):
        train(replace(cut, steps=14), data=few, reporter=Reporter())


def test_a_run_without_its_last_row_is_not_whole(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(steps=7, out=tmp_path / "run", **QUICK)
    train(config, data=few, reporter=Reporter())
    file = tmp_path / "run" / "epochs.csv"
    lines = file.read_text().splitlines(keepends=True)
    for kept in (lines[:2], lines[:1], [lines[0], lines[2]]):
        file.write_text("".join(kept))
        assert not is_whole(tmp_path / "run", config)


def test_epochs_and_steps_together_are_one_sentence() -> None:
    with pytest.raises(UsageError, match=re.escape("epochs must not be given with steps, got 5 and 20")):
        TrainConfig(epochs=5, steps=20)
    with pytest.raises(UsageError, match="steps must be an integer >= 1, got 0"):
        TrainConfig(steps=0)
    with pytest.raises(UsageError, match="epochs must be an integer >= 1, got None"):
        replace(TrainConfig(steps=20), steps=None)
    config = TrainConfig(steps=20)
    assert (config.epochs, config.length, TrainConfig(epochs=1).length) == (None, "20 steps", "1 epoch")
    assert replace(config, seed=3).steps == 20
    assert TrainConfig.from_mapping({"steps": 20}) == config


def test_a_run_in_steps_has_a_name_and_a_command_line() -> None:
    config = TrainConfig(steps=20)
    assert len({digest(config), digest(TrainConfig()), digest(TrainConfig(steps=21))}) == 3
    words = arguments(config, Path("out"))
    assert [word for word in words if "epochs" in word or "steps" in word] == ["--steps=20"]
    assert replace(train_config(make_parser(words).parse_args(words)), out=None, resume=False) == config


def test_warm_up_is_of_the_steps() -> None:
    plan = TrainConfig(steps=7, optimizer="lars", warmup_epochs=0.4).plan(700)
    assert (plan.warmup_steps, plan.steps_per_epoch) == (1, 2)  # of 256 samples
    assert TrainConfig(steps=10, optimizer="lars", schedule="cosine", batch_size=128).plan(700).warmup_steps == 2
    with pytest.raises(UsageError, match=re.escape("warmup_epochs must be >= 0 and < 3.5 (epochs), got 4.0")):
        TrainConfig(steps=7, optimizer="lars", warmup_epochs=4.0).plan(700)


def test_a_list_of_runs_has_their_steps(tmp_path: Path, few: ImageData) -> None:
    train(TrainConfig(steps=7, out=tmp_path / "run", **QUICK), data=few, reporter=Reporter())
    (row,) = list_runs(tmp_path).to_dict("records")
    assert (row["steps"], row["steps_done"], row["epochs"], row["epochs_done"]) == (7, 7, 2, 2)
