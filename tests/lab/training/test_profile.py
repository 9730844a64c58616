"""Profiles: where the time of a run went, and a trace of some of its steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tvlars.lab import TrainConfig, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.run_folder.record import Record
from tvlars.lab.training.profile import PHASES, Phases
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(epochs=2, precision="32-true", accelerator="cpu")


def test_a_profile_says_where_the_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tvlars.cli import main

    options = "train --epochs 3 --profile --checkpoint-every 5-steps --accelerator cpu --out"
    assert main([*options.split(), str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    seconds = found["seconds"]
    assert list(seconds) == [
        *("data", "augmentation", "forward", "backward", "optimizer", "evaluation", "logging", "checkpoint", "other")
    ]
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) == pytest.approx(found["whole"])
    assert found["steps"] == 15
    assert all(f"\n{name} " in table for name in seconds)
    assert (tmp_path / "run" / "trace.json.gz").stat().st_size > 1000
    config = TrainConfig(epochs=3, accelerator="cpu", out=tmp_path / "plain")
    train(replace(config, checkpoint_every="5-steps"), reporter=Reporter())
    columns = ["step", "loss", "train_accuracy"]
    runs = [load_run(tmp_path / name).steps[columns] for name in ("run", "plain")]
    assert runs[0].equals(runs[1])


def test_a_profile_says_how_many_steps_it_has_traced(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {**QUICK, "epochs": 1, "profile": True}
    train(TrainConfig(batch_size=1400, micro_batch_size=1400, out=tmp_path / "one", **one), data=digits)
    assert "no trace: it leaves out the first 2 steps, and there were 1" in capsys.readouterr().out
    train(TrainConfig(out=tmp_path / "five", **one), data=digits)
    assert f"trace of 3 steps: {tmp_path / 'five' / 'trace.json.gz'}" in capsys.readouterr().out

    def busy(self: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(torch.profiler.profile, "start", busy)
    train(TrainConfig(out=tmp_path / "busy", **one), data=digits)
    assert "trace.json.gz cannot be made: RuntimeError" in capsys.readouterr().out
    assert load_run(tmp_path / "busy").complete


@pytest.mark.parametrize("micro_batch_size", [128, 50], ids=["whole batches", "exact gradients of parts"])
def test_a_profile_of_self_supervised_learning_has_the_same_phases(
    tmp_path: Path, few: ImageData, micro_batch_size: int
) -> None:
    pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")
    options = dict(QUICK, task="simclr", projector="16", evaluations="knn", profile=True, checkpoint_every="2-steps")
    config = TrainConfig(**options, batch_size=128, micro_batch_size=micro_batch_size, out=tmp_path / "run")
    train(config, data=few, reporter=Reporter())
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert list(found["seconds"]) == [*PHASES, "other"]
    assert all(value > 0 for value in found["seconds"].values())
    assert sum(found["seconds"].values()) == pytest.approx(found["whole"])
    assert found["steps"] == 10


def test_a_phase_inside_another_is_taken_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("tvlars.lab.training.profile.time.perf_counter", lambda: float(next(now)))
    phase = Phases(Record(tmp_path, print), torch.device("cpu"))
    with phase("forward"), phase("data"):  # each looks at the clock when it begins and ends
        pass
    assert (phase.seconds["forward"], phase.seconds["data"]) == (2.0, 1.0)
