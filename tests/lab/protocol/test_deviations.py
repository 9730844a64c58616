"""Deviations of runs from their protocol, of folders written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.registered.deviations import deviations, options_of_run, sentences
from tvlars.lab.registered.record import Planned, digest_of, register

CONTENT = {"name": "by-hand", "seeds": [0, 1]}
DIGEST = digest_of(CONTENT)
BASE = TrainConfig(optimizer="lars", epochs=2, protocol=DIGEST)
RUNS = [replace(BASE, seed=seed, lr=lr) for seed in (0, 1) for lr in (4.0, 8.0)]
PLANNED = Planned("sweep", tuple(map(options_of_run, RUNS)), declared={"family": "all", "margin": None})
LATER = "2999-01-01T00:00:00+00:00"


def write_run(folder: Path, config: TrainConfig, status: str = "finished", started: str = LATER) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    (folder / "summary.json").write_text(json.dumps({"status": status}))
    (folder / "environment.json").write_text(json.dumps({"started": started}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    register(tmp_path / "out", CONTENT, PLANNED, b"name: by-hand\n")
    for number, run in enumerate(RUNS):
        write_run(tmp_path / "out" / f"run{number}", run)
    (tmp_path / "out" / "sweep.json").write_text(json.dumps({"family": "all"}))
    return tmp_path / "out"


def rewrite(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_runs_as_planned_deviate_in_nothing(folder: Path) -> None:
    assert deviations(folder, DIGEST, PLANNED) == []
    assert sentences([folder, folder]) == [f"Protocol by-hand, digest {DIGEST[:12]}. Deviations: none."]
    rewrite(folder / "run0", arm=None, checkpoint_keep=5)  # options that do not affect results
    assert deviations(folder, DIGEST, PLANNED) == []


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"epochs": 3}, "epochs is 3 instead of 2 in 1 run"),
        ({"lr": 5.0}, "lr is 5.0 instead of 4.0 in 1 run"),
        ({"weight_decay": 0.1}, "weight_decay is 0.1 instead of the default in 1 run"),
        ({"protocol": None}, "1 run (run0) was done without a protocol"),
        ({"protocol": "0" * 64}, "1 run (run0) was done under another protocol, digest 000000000000"),
    ],
)
def test_what_differs_in_a_run_is_said(change: dict[str, Any], clause: str, folder: Path) -> None:
    rewrite(folder / "run0", **change)
    assert deviations(folder, DIGEST, PLANNED) == [clause]


def test_missing_and_further_runs_are_said(folder: Path) -> None:
    rewrite(folder / "run0", seed=7)
    assert deviations(folder, DIGEST, PLANNED) == [
        "missing: lars, batch size 256, lr 4, seed 0",
        "not planned: lars, batch size 256, lr 4, seed 7",
    ]
    rewrite(folder / "run0", seed=0)
    write_run(folder / "more", replace(RUNS[0], lr=16.0))
    assert deviations(folder, DIGEST, PLANNED) == ["not planned: lars, batch size 256, lr 16, seed 0"]
    rewrite(folder / "run2", optimizer="lamb")
    assert "missing: lars, batch size 256, lr 4, seed 1" in deviations(folder, DIGEST, PLANNED)
    assert "not planned: lamb, batch size 256, lr 4, seed 1" in deviations(folder, DIGEST, PLANNED)


def test_runs_without_result_or_begun_before_are_said(folder: Path) -> None:
    (folder / "run1" / "summary.json").unlink()
    (folder / "run2" / "environment.json").write_text('{"started": "2020-01-01T00:00:00+00:00"}')
    (folder / "run3" / "summary.json").write_text('{"status": "diverged"}')  # which is a result
    assert deviations(folder, DIGEST, PLANNED) == [
        "1 run (run2) started before the protocol was recorded",
        "1 run (run1) has no result",
    ]
    (folder / "run3" / "config.json").write_text("{}")
    assert "run3 cannot be read" in deviations(folder, DIGEST, PLANNED)


def test_another_family_or_margin_is_said(folder: Path) -> None:
    (folder / "sweep.json").write_text(json.dumps({"family": "lars:lamb", "margin": 1.0}))
    assert deviations(folder, DIGEST, PLANNED) == [
        "family is lars:lamb instead of all",
        "margin is 1 instead of the default",
    ]


def test_a_folder_without_a_record_says_so(folder: Path) -> None:
    (folder / "protocol.json").unlink()
    assert deviations(folder, DIGEST, PLANNED) == ["the protocol was not recorded in the folder"]
    assert sentences([folder]) == []
    (folder / "protocol.json").write_text("{")
    with pytest.raises(UsageError, match="must be the record of a protocol"):
        deviations(folder, DIGEST, PLANNED)
    assert "must be the record of a protocol" in sentences([folder])[0]


def test_trials_of_a_tuning_are_counted(tmp_path: Path) -> None:
    planned = Planned("tune", tuple(map(options_of_run, RUNS[:1])), True, {"sampler": "tpe"}, trials=4, widen=1)
    register(tmp_path, CONTENT, planned, b"")
    write_run(tmp_path / "final" / "best", replace(RUNS[0], lr=31.0))  # whatever the search has found
    write_run(tmp_path / "trials" / "lars-0", RUNS[3], status="pruned")
    tune = {"sampler": "tpe", "rounds": [{"trials": 2}], "seeds": [5]}
    (tmp_path / "arms.csv").write_text("arm,trials,alarm\nlars,6,\n")
    (tmp_path / "tune.json").write_text(json.dumps(tune))
    assert deviations(tmp_path, DIGEST, planned) == []
    (tmp_path / "arms.csv").write_text("arm,trials\nlars,9\n")
    tune["sampler"] = "qmc"
    (tmp_path / "tune.json").write_text(json.dumps(tune))
    assert deviations(tmp_path, DIGEST, planned) == [
        "sampler is qmc instead of tpe",
        "lars had 9 trials instead of 6",
    ]
    (tmp_path / "tune.json").write_text(json.dumps({**tune, "sampler": "tpe", "rounds": [{"trials": 2}] * 2}))
    found = deviations(tmp_path, DIGEST, planned)
    assert "spaces were widened in 2 rounds instead of at most 1" in found
    (tmp_path / "arms.csv").unlink()
    (tmp_path / "tune.json").write_text(json.dumps({**tune, "sampler": "tpe"}))
    (said,) = deviations(tmp_path, DIGEST, planned)
    assert said.startswith("arms.csv")
