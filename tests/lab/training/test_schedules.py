"""Schedules by name and of users, in runs: rates in rows, exact resumes, and what is refused."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.stops import StopAt
from tvlars import plan
from tvlars.cli import main
from tvlars.lab import Arm, Grid, ImageData, Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.space import Choice, parse_spaces

MINE = """
    import torch

    def halving(step, plan, base=0.5):
        return base ** (5 * step / plan.total_steps)

    def restarts(optimizer, plan):
        return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, plan.total_steps // 2)

    def broken(step, plan):
        if step > 1:
            raise ValueError("a fault of the user's")
        return 1.0

    def from_file(step, plan):
        return float(open("value.txt").read())

    def text(step, plan):
        return "fast"

    anything = 3
"""
ONE_CYCLE = "torch.optim.lr_scheduler.OneCycleLR"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a user in the working directory."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        dict(optimizer="lars", schedule="./mine.py:halving", schedule_options="base=0.25"),
        dict(optimizer="lars", schedule=ONE_CYCLE, schedule_options="max_lr=4.0 pct_start=0.4"),
        dict(optimizer="adamw", schedule="./mine.py:restarts"),
        dict(optimizer="sgd", schedule="trapezoid", warmup_steps=2, decay_tail="sqrt"),
        dict(optimizer="lamb", schedule="sigmoid", warmup_steps=2),
        dict(optimizer="torch.optim.NAdam", schedule=ONE_CYCLE),
        dict(optimizer="sgd", schedule="polynomial", power=1.5),
    ],
    ids=lambda options: options["schedule"],
)
def test_rows_have_the_rate_and_a_resume_is_exact(mine: Path, few: ImageData, options: dict[str, Any]) -> None:
    config = TrainConfig(
        **options, batch_size=128, epochs=2, precision="32-true", checkpoint_every="1-epochs", out=mine / "whole"
    )
    result = train(config, data=few, reporter=Reporter())
    rates = load_run(mine / "whole").steps
    for step, lr, phi in zip(rates["step"], rates["lr"], rates["phi"], strict=True):
        assert phi == pytest.approx(result.plan.factor(int(step)), rel=1e-5)
        assert lr == pytest.approx(result.plan.lr * phi, rel=1e-5)
    cut = TrainConfig(**{**vars(config), "out": mine / "cut"})
    with pytest.raises(SystemExit):
        train(cut, data=few, reporter=StopAt(step=7))
    train(TrainConfig(**{**vars(cut), "resume": True}), data=few, reporter=Reporter())
    for name in ("steps.csv", "weights.pt"):
        assert (mine / "cut" / name).read_bytes() == (mine / "whole" / name).read_bytes()


def test_a_schedule_that_has_changed_is_said(mine: Path, few: ImageData) -> None:
    options = dict(batch_size=128, epochs=2, checkpoint_every="3-steps", resume=True, out=mine / "run")
    config = TrainConfig(optimizer="lars", schedule="./mine.py:from_file", **options)
    (mine / "value.txt").write_text("0.5")
    with pytest.raises(SystemExit):
        train(config, data=few, reporter=StopAt(step=4))
    (mine / "value.txt").write_text("0.25")
    message = "schedule must be as it was when the run began, but the learning rate after step 3 was .* and is .* now"
    with pytest.raises(UsageError, match=message):
        train(config, data=few, reporter=Reporter())


def test_groups_keep_their_ratio_under_a_scheduler(mine: Path) -> None:
    config = TrainConfig(optimizer="lars", schedule=ONE_CYCLE, schedule_options={"max_lr": 4.0}, epochs=3)
    made = config.plan(1437)
    assert made.users_schedule is not None
    high, low = made.users_schedule.arguments(made, [made.lr, made.lr * 0.03])["max_lr"]
    assert (high, low) == (4.0, pytest.approx(0.12))
    assert max(made.factor(step) for step in range(1, made.total_steps + 1)) * made.lr == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--schedule ./mine.py:halvng", "unknown schedule in mine.py 'halvng': did you mean 'halving'?"),
        ("--schedule ./mine.py:anything", "schedule must be a name, a function or an LR scheduler, got 3"),
        ("--schedule ./mine.py:text", "schedule must return a factor >= 0, but text returned 'fast' at step 1"),
        ("--schedule ./none.py:factor", "schedule must name a file that exists"),
        (
            "--schedule ./mine.py:halving --schedule-options bse=2",
            "unknown option of halving 'bse': did you mean 'base'?",
        ),
        (f"--schedule {ONE_CYCLE} --schedule-options max_rate=2", "unknown option of OneCycleLR 'max_rate': did you"),
        (f"--schedule {ONE_CYCLE} --schedule-options pct_start=2.0", "schedule_options of OneCycleLR: Expected float"),
        ("--schedule torch.optim.lr_scheduler.ReduceLROnPlateau", "ReduceLROnPlateau.step needs metrics"),
        ("--schedule torch.nn.Linear", "schedule must be a torch LR scheduler or a function, got the class Linear"),
        (f"--schedule {ONE_CYCLE} --warmup-epochs 1", "warmup_epochs must not be given for the OneCycleLR schedule"),
        ("--schedule-options gamma=0.9", "schedule_options must not be given for the linear schedule"),
        ("--schedule cosine --warmup-epochs 1 --warmup-steps 2", "warmup_steps must not be given with warmup_epochs"),
        ("--schedule linear --power 2", "power must not be given for the linear schedule, got 2.0"),
        ("--optimizer tvlars --schedule ./mine.py:halving", "schedule must be 'auto' for tvlars, which has its own"),
    ],
)
def test_what_is_no_schedule_is_one_sentence(
    mine: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = options.split()
    optimizer = [] if "--optimizer" in words else ["--optimizer", "lars"]
    assert main(["train", "--epochs", "3", *optimizer, *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (mine / "runs").exists()


def test_a_fault_in_their_schedule_is_theirs(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--epochs", "3", "--optimizer", "lars", "--schedule", "./mine.py:broken"]) == 1
    said = capsys.readouterr().err
    assert 'raise ValueError("a fault of the user' in said
    assert "src/tvlars" not in said


def test_schedules_are_axes_of_grids_and_searched(mine: Path) -> None:
    grid = Grid.from_mapping(
        {
            "base": {"epochs": 3, "optimizer": "lars"},
            "grid": {
                "schedule": ["cosine", "polynomial", "./mine.py:halving"],
                "power": [1, 2],
                "warmup-steps": [0, 3],
            },
        }
    )
    made = [(Path(run.schedule).name, run.power, run.warmup_steps) for run in grid.runs]
    assert made == [
        *(("cosine", None, 0), ("cosine", None, 3)),
        *(("polynomial", power, steps) for steps in (0, 3) for power in (1.0, 2.0)),
        ("mine.py:halving", None, None),
    ]
    spaces, _ = parse_spaces(["schedule=cosine,./mine.py:halving"], [Arm.of("lars")], "auto", {"lars": 16.0})
    assert spaces["lars"]["schedule"] == Choice(("cosine", "./mine.py:halving"))
    tuning = TuneConfig(optimizers=("lars",), space=("schedule=cosine,polynomial", "power=1.0:3.0"))
    assert tuning.run("lars", {"schedule": "cosine", "power": 2.5, "lr": 8.0}, 0).power is None
    assert tuning.run("lars", {"schedule": "polynomial", "power": 2.5, "lr": 8.0}, 0).power == 2.5


def test_a_run_is_found_again_from_another_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(optimizer="lars", schedule="./mine.py:halving")
    monkeypatch.chdir("/")
    assert config.plan(1437).schedule == "halving"
    assert TrainConfig.from_mapping(vars(config)) == config


def factor(step: int, run: Any) -> float:
    return 1.0 if step <= 2 else 0.1


def test_python_takes_the_same_by_import_path() -> None:
    made = TrainConfig(optimizer="lars", schedule=f"{__name__}:factor", epochs=10).plan(1437)
    assert [made.factor(step) for step in (2, 3)] == [1.0, 0.1]
    same = plan(256, 1437, 10, "lars", schedule=factor)
    assert [same.factor(step) for step in (2, 3)] == [1.0, 0.1]


@pytest.mark.parametrize("wrong", [lambda: TrainConfig(schedule="./mine"), lambda: TrainConfig(schedule="a b")])
def test_a_name_that_is_neither(wrong: Callable[[], TrainConfig]) -> None:
    with pytest.raises(
        UsageError, match=r"Or an import path, as torch\.optim\.lr_scheduler\.OneCycleLR or \./file\.py"
    ):
        wrong()
