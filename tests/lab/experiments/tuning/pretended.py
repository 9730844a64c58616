"""Trials that only look like trials, and tunings that say nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tvlars.lab import DivergedError, Reporter, TrainConfig, TuneConfig, TuneResult, tune
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.job import read_status
from tvlars.lab.experiments.tuning import tune as tuning_module
from tvlars.lab.experiments.workers import in_process
from tvlars.lab.run_folder.rows import EpochRow


def pretend_to_train_in(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Train nothing: accuracy is best at lr 8 with seed 1000, at 16 with 1001, and so on, and the same from the first
    epoch; above 100 runs diverge.

    As with a checkpoint after each epoch, a run continues after the rows that are there, and one that has finished is
    not done again. Returns the configs of all runs, which appear as they are trained; there is no final sweep.
    """
    seen: list[TrainConfig] = []

    def pretend_to_train(config: TrainConfig, *, data: Any, reporter: Reporter) -> Any:
        seen.append(config)
        assert config.lr is not None
        assert config.out is not None
        config.out.mkdir(exist_ok=True)
        (config.out / "config.json").write_text(config.to_json())
        if config.lr > 100:
            raise DivergedError(config.optimizer, 1, config.lr, config.out)
        accuracy = 1 / (1 + abs(math.log2(config.lr / 8) - config.seed % 1000))
        rows, summary = config.out / "epochs.csv", config.out / "summary.json"
        if read_status(config.out) != "finished":
            if not rows.is_file():
                rows.write_text("epoch,step,validation_accuracy\n")
            reporter.start(config, config.plan(len(data.train_labels)), [], config.out)
            summary.write_text('{"status": "failed"}')
            for epoch in range(len(rows.read_text().splitlines()), config.epochs + 1):
                with open(rows, "a") as file:
                    file.write(f"{epoch},{epoch},{accuracy:.7g}\n")
                reporter.epoch(EpochRow(epoch, epoch, 1.0, 0.5, math.nan, math.nan, 1.0, 1.0, 1.0, accuracy))
            reporter.end("finished")
            summary.write_text('{"status": "finished"}')
        else:
            accuracy = float(f"{accuracy:.7g}")
        return type("Result", (), {"test_accuracy": accuracy})

    monkeypatch.setattr(in_process, "train", pretend_to_train)
    monkeypatch.setattr(tuning_module, "sweep", lambda *_, **__: None)
    return seen


def quietly(config: TuneConfig, **options: Any) -> TuneResult:
    return tune(config, **{"announce": lambda _: None, "reporter": Reporter, "board": Board(), **options})
