"""Sharpness at steps and at levels of the training loss, with fresh statistics, through an interruption."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from tvlars.lab import PreemptedError, Reporter, TrainConfig, load_run, run_sharpness, train
from tvlars.lab.measure import each_epoch
from tvlars.lab.measure.each_epoch import SMOOTHED, SharpnessClock
from tvlars.lab.run_folder.rows import SharpnessRow
from tvlars.lab.training import run as run_module

CONFIG = TrainConfig(
    **dict(epochs=3, batch_size=256, precision="32-true", checkpoint_every="1-steps"),
    **dict(sharpness="steps:2,5,7; loss:2.2,1.9,0.001; end", sharpness_samples=64, sharpness_statistics_samples=128),
)


def network(channels: int, image_size: int, classes: int) -> nn.Module:
    """The least network with batch norm, so that measurements are fast."""
    layers = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with sharpness at steps, levels and its end."""
    pytest.importorskip("curvlinops", reason="the extra 'sharpness' is not installed")
    folder = tmp_path_factory.mktemp("clock") / "run"
    train(replace(CONFIG, out=folder, resume=True), model=network, reporter=Reporter())
    return folder


def test_rows_say_what_they_were_measured_for(measured: Path, tmp_path: Path) -> None:
    run = load_run(measured, model=network)
    assert run.problems == ()
    rows = run.sharpness.set_index("step")
    labels = {step: at.split("; ") for step, at in rows["at"].items()}
    assert {"step 2"} <= set(labels[2])
    assert {"step 5"} <= set(labels[5])
    assert {"epoch 3"} <= set(labels[15])
    assert rows.loc[5, "epoch"] == 1
    assert (rows["statistics"] == "fresh").all()
    means = run.steps.set_index("step")["loss"].rolling(SMOOTHED, min_periods=1).mean()
    for level in (2.2, 1.9):
        first = next((step for step, mean in means.items() if mean <= level), None)
        assert [step for step, found in labels.items() if f"loss {level:g}" in found] == [first] * (first is not None)
    assert not any("0.001" in at for at in rows["at"])
    assert rows["hessian_max_at_initial_norm"].gt(0).all()
    # The training is that of a run without any of it.
    bare = dict(sharpness=None, sharpness_samples=1024, sharpness_statistics_samples=4096, checkpoint_every=None)
    plain = train(replace(CONFIG, **bare, out=tmp_path / "plain"), model=network, reporter=Reporter())
    other = load_run(plain.folder, model=network)
    pd.testing.assert_frame_equal(run.steps, other.steps, check_exact=True)
    for name, value in other.model().state_dict().items():
        assert torch.equal(run.model().state_dict()[name], value), name


def test_a_run_that_is_stopped_while_it_measures_goes_on_with_the_same_rows(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stops = each_epoch.measure_sharpness, {2, 7}

    def stopped(*arguments: Any, **options: Any) -> SharpnessRow:
        if options["step"] in stops:
            stops.remove(options["step"])
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    monkeypatch.setattr(each_epoch, "measure_sharpness", stopped)
    config = replace(CONFIG, out=tmp_path / "run", resume=True)
    for _ in range(2):
        with pytest.raises(PreemptedError):
            train(config, model=network, reporter=Reporter())
    train(config, model=network, reporter=Reporter())
    pd.testing.assert_frame_equal(
        load_run(tmp_path / "run").sharpness.drop(columns="seconds"),
        load_run(measured).sharpness.drop(columns="seconds"),
    )


@pytest.mark.parametrize(("name", "checkpoints"), [("add_sharpness", "2-epochs"), ("noise_now", "1-steps")])
def test_a_run_that_is_stopped_at_the_end_of_an_epoch_measures_it_once(
    name: str, checkpoints: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the sharpness after the steps 5 and 15 is recorded, or after it: while the noise scale is measured."""
    stops = {1, 3}
    real = each_epoch.add_sharpness

    def row(*_: Any, epoch: int, step: int, at: str, **__: Any) -> SharpnessRow:
        return SharpnessRow(epoch, step, *[0] * 2, *[0.0] * 8, at=at)  # type: ignore[arg-type]

    def stopped(*arguments: Any, **options: Any) -> None:
        epoch = options.get("epoch") or (arguments[1].epoch if arguments[1].step in (5, 15) else 0)
        if epoch in stops:
            stops.remove(epoch)
            raise KeyboardInterrupt
        if name == "add_sharpness":
            real(*arguments)

    monkeypatch.setattr(each_epoch, "measure_sharpness", row)
    monkeypatch.setattr(run_module, name, stopped)
    changes = dict(sharpness="steps:2,5,15;end", noise_scale=name == "noise_now", checkpoint_every=checkpoints)
    config = replace(CONFIG, **changes, out=tmp_path / "run", resume=True)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(config, model=network, reporter=Reporter())
    train(config, model=network, reporter=Reporter())
    rows = load_run(tmp_path / "run").sharpness
    found = [(step, one) for step, at in zip(rows["step"], rows["at"], strict=True) for one in at.split("; ")]
    assert found == [(2, "step 2"), (5, "step 5"), (15, "step 15"), (15, "epoch 3")]


def test_levels_are_held_against_a_short_mean() -> None:
    clock = SharpnessClock(replace(CONFIG, sharpness="loss:0.8,1.0,0.5;steps:4"), 3)
    seen = []
    for step, loss in enumerate((1.3, 0.7, 1.0, 0.4, 0.1), 1):
        clock.see(step, loss)
        assert clock.check(step, clock.state_dict()) is None
        seen.append(clock.due)
        clock.due = []
    assert seen == [[], ["loss 1"], [], ["step 4", "loss 0.8"], ["loss 0.5"]]
    assert clock.check(5, {"left": [3.0], "recent": [], "due": []}) == "levels of the loss that the options name"
    assert clock.check(5, {"left": [], "recent": [], "due": ["step 4"]}) == "measurements of this step"


def test_a_file_of_an_earlier_version_is_read_and_mended(runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = (runs[1] / "sharpness.csv").read_text().splitlines()
    old = tmp_path / "run"
    old.mkdir()
    (old / "config.json").write_text((runs[1] / "config.json").read_text())
    lines = [",".join(line.split(",")[:12]) for line in text]
    (old / "sharpness.csv").write_text("\n".join(lines) + "\n")
    rows = load_run(old).sharpness
    assert list(rows["statistics"]) == ["running"] * 2
    assert list(rows["at"]) == ["epoch 2", "epoch 3"]
    assert rows["hessian_max_at_initial_norm"].isna().all()
    from tvlars.lab.run_folder.rows import cut_sharpness

    cut_sharpness(old / "sharpness.csv", 12, 2)
    first, *others = csv.reader((old / "sharpness.csv").read_text().splitlines())
    assert others == [[*lines[1].split(","), "running", "epoch 2", "nan"]]
    assert first == text[0].split(",")


def test_statistics_of_a_finished_run(measured: Path, tmp_path: Path) -> None:
    norms = json.loads((measured / "initial-norms.json").read_text())
    run = load_run(measured, model=network)
    model = run.model()
    assert set(norms) == {name for name, p in model.named_parameters() if p.ndim > 1}
    expected = load_run(measured).sharpness.iloc[-1]
    row = run_sharpness(run, samples=64, statistics_samples=128)
    for name in ("loss", "hessian_max", "hessian_max_at_initial_norm"):
        assert getattr(row, name) == pytest.approx(expected[name], rel=2e-2)
    assert row.at == expected["at"]
    running = run_sharpness(run, samples=64, statistics="running")
    assert running.statistics == "running"
    assert running.loss != pytest.approx(row.loss, rel=1e-3)
    assert load_run(measured).sharpness["statistics"].tolist()[-2:] == ["fresh", "running"]
