"""Warnings of runs in comparisons, sweeps and tunings: each is said once, whoever does the runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tvlars.cli import main
from tvlars.lab import CompareConfig, ImageData, Reporter, TrainConfig, TuneConfig, compare, sweep, tune
from tvlars.lab.experiments.board import Board

SOURCE = """
import torch


def first_alone(model, plan):
    return torch.optim.SGD([next(model.parameters())], lr=0.1)


class Counting(torch.optim.SGD):
    count = 0

    def step(self, closure=None):
        self.count += 1
        self.param_groups[0]["lr"] *= 1 + self.count % 2
        return super().step(closure)
"""
INEXACT = "a resumed run may not equal an uninterrupted one bit for bit: the state of mine.py:Counting lacks something"
HELD = "mine.py:first_alone holds 1 of "


class Said(Board):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return TrainConfig(epochs=1, accelerator="cpu", precision="32-true", batch_size=256)


def of(lines: list[str], beginning: str) -> list[str]:
    return [line for line in lines if line.startswith(f"warning  {beginning}")]


def test_a_comparison_says_each_warning_once_and_keeps_it_on_its_page(base: TrainConfig, few: ImageData) -> None:
    config = CompareConfig(
        base, optimizers=("./mine.py:Counting", "./mine.py:first_alone"), seeds=(0, 1), out=Path("out")
    )
    lines: list[str] = []
    compare(config, data=few, announce=lines.append, reporter=Reporter())
    assert (len(of(lines, INEXACT)), len(of(lines, HELD))) == (1, 1)
    begun = [number for number, line in enumerate(lines) if line.startswith("run ")]
    assert begun[0] < lines.index(*of(lines, INEXACT)) < begun[1]  # as the first run begins
    page = Path("out/report.html").read_text()
    assert f"mine.py-Counting-b256-s0, mine.py-Counting-b256-s1: {INEXACT}" in page
    assert page.count(HELD) == 1


@pytest.mark.usefixtures("forked_runs")
def test_warnings_of_runs_in_processes_of_their_own(base: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "compare --optimizers ./mine.py:first_alone --seeds 0 1 --epochs 1 --workers 2 --precision 32-true --out out"
    )
    assert main(words.split()) == 0
    assert len(of(capsys.readouterr().out.splitlines(), HELD)) == 1


def test_a_sweep_and_a_tuning_say_them_too(base: TrainConfig, few: ImageData) -> None:
    board = Said()
    run = replace(base, optimizer="./mine.py:Counting", lr=0.1)
    sweep([run, replace(run, seed=1)], "sweep", data=few, board=board)
    assert len(of(board.lines, INEXACT)) == 1
    lines: list[str] = []
    options: dict[str, Any] = dict(optimizers=("./mine.py:Counting",), trials=2, seeds=(0,), out=Path("tune"))
    pytest.importorskip("optuna")
    tune(TuneConfig(base, **options), data=few, announce=lines.append, reporter=Reporter(), board=Board())
    assert len(of(lines, INEXACT)) == 1
