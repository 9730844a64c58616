"""Run folders are read back: whole ones, and others as far as they go."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from tvlars.lab import Reporter, TrainConfig, UsageError, evaluate, load_data, load_run, train

EPOCHS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(TrainConfig(epochs=EPOCHS, batch_size=128, precision="32-true", out=folder), reporter=Reporter())
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run(finished: Path) -> None:
    run = load_run(str(finished))
    assert run.problems == ()
    assert run.status == "finished"
    assert run.config == TrainConfig(epochs=EPOCHS, batch_size=128, precision="32-true", out=finished)
    assert run.plan["total_steps"] == EPOCHS * 11
    pd.testing.assert_frame_equal(run.epochs, pd.read_csv(finished / "epochs.csv"), check_exact=True)
    pd.testing.assert_frame_equal(run.steps, pd.read_csv(finished / "steps.csv"), check_exact=True)
    assert run.test_accuracy == run.epochs["test_accuracy"].iloc[-1]
    assert run.environment["versions"]["torch"]


def test_its_model_has_the_accuracy_that_was_measured(finished: Path) -> None:
    run = load_run(finished)
    result = evaluate(run, device="cpu")
    assert result.samples == 360
    shown = str(result), result.data
    assert shown[0] == f"test accuracy {result.accuracy:.2%}, test loss {result.loss:.4f} over 360 images"
    assert all(f"<p>{html.escape(text)}</p>" in result._repr_html_() for text in shown)
    assert result.accuracy == pytest.approx(run.test_accuracy, abs=1 / 360)
    assert result.loss == pytest.approx(run.epochs["test_loss"].iloc[-1], rel=1e-3)
    assert not run.model().training
    assert run.normalize(torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)).shape == (1, 1, 8, 8)


def test_another_data_set_must_fit(finished: Path, tmp_path: Path) -> None:
    from tests.lab.data.test_data import write_folders

    write_folders(tmp_path, ("train", "val"))
    with pytest.raises(
        UsageError, match=r"data must have as many channels as the run's data, 1, but imagefolder:.* has 3"
    ):
        evaluate(finished, data=f"imagefolder:{tmp_path}")


def test_data_of_a_callers_own_is_not_taken_for_the_configs(tmp_path: Path) -> None:
    from dataclasses import replace

    mine = replace(load_data("digits"), name="mine")
    result = train(TrainConfig(epochs=1, out=tmp_path / "run"), data=mine, reporter=Reporter())
    with pytest.raises(UsageError, match=r"data must be given, since .* does not say where mine lies"):
        evaluate(result)
    assert evaluate(result, data="digits").samples == 360


def test_one_that_is_being_written(folder: Path) -> None:
    for name in ("summary.json", "weights.pt"):
        (folder / name).unlink()
    lines = (folder / "steps.csv").read_text().splitlines()
    (folder / "steps.csv").write_text("\n".join(lines[:20]) + "\n20,1.8,0.")
    run = load_run(folder)
    assert run.status == "unfinished"
    assert run.steps["step"].tolist() == list(range(1, 20))
    assert len(run.epochs) == EPOCHS
    assert run.problems == (
        "summary.json is missing: the run is being written, or was cut off",
        "steps.csv is being written at line 21: 19 rows are read",
    )
    with pytest.raises(UsageError, match=r"has no weights.pt: the run is unfinished, weights are written at its end"):
        run.model()


def test_an_older_one(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name in ("init", "rotation"):
        del config[name]
    (folder / "config.json").write_text(json.dumps({**config, "gone": 1}))
    steps = pd.read_csv(folder / "steps.csv").drop(columns="phi")
    steps.to_csv(folder / "steps.csv", index=False)
    run = load_run(folder)
    assert run.config is not None
    assert run.config.init == "default"
    assert run.steps["phi"].isna().all()
    assert run.problems == (
        "config.json is of an older version, defaults are taken for init, rotation",
        "config.json is of another version, gone is not understood",
        "steps.csv is of an older version, it lacks phi",
    )


def test_a_damaged_one(folder: Path) -> None:
    (folder / "config.json").write_text('{"data": "dig')
    (folder / "plan.json").unlink()
    (folder / "weights.pt").write_bytes(b"PK cut")
    (folder / "environment.json").write_bytes(b"\xff\xfe\x00")
    lines = (folder / "epochs.csv").read_text().splitlines()
    lines[2] = "2,x,y"
    (folder / "epochs.csv").write_text("\n".join(lines))
    run = load_run(folder)
    assert run.config is None
    assert run.status == "finished"
    assert len(run.epochs) == 1
    said = " | ".join(run.problems)
    for words in ("config.json cannot be read", "plan.json is missing", "environment.json cannot be read"):
        assert words in said
    assert "epochs.csv is damaged at line 3: 1 rows are read" in said
    with pytest.raises(UsageError, match=r"weights.pt must hold the weights of small_resnet, but it is damaged"):
        run.model()
    with pytest.raises(UsageError, match=r"data must be given, since .* does not say where digits lies"):
        evaluate(run)
    (folder / "model.json").write_text('{"model": "small_resnet"}')
    with pytest.raises(UsageError, match=r"model.json lacks data, channels, .*; the model cannot be built"):
        run.model()


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run must be an existing folder, got '.*nowhere'"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"is no run folder: it has no config\.json"):
        load_run(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(UsageError, match="it is a comparison, its runs are the folders in it"):
        load_run(tmp_path)
