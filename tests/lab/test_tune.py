"""Tuning: equal budgets, fresh seeds for what is reported, and nothing lost when it is killed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tvlars.cli import main
from tvlars.lab import DivergedError, TrainConfig, UsageError, load_run
from tvlars.lab.progress import Reporter
from tvlars.lab.record import EpochRow
from tvlars.lab.sweep import Board, TuneConfig, TuneResult, tune
from tvlars.lab.sweep import trials as trials_module
from tvlars.lab.sweep import tuning as tuning_module
from tvlars.lab.sweep.space import Choice, Range, grid_points, parse_spaces
from tvlars.lab.sweep.trials import open_storage

RATES = {"tvlars": 16.0, "lamb": 0.015}


# -- what is searched --------------------------------------------------------------------------------------


def test_lr_is_searched_over_as_many_octaves_for_each_optimizer() -> None:
    spaces, notes = parse_spaces(["delay-factor=0.01:1:log", "lamb.warmup-epochs=0,1"], list(RATES), "auto", RATES)
    assert spaces == {
        "tvlars": {"lr": Range(2.0, 128.0, log=True), "delay_factor": Range(0.01, 1.0, log=True)},
        "lamb": {"lr": Range(0.015 / 8, 0.12, log=True), "warmup_epochs": Choice((0.0, 1.0))},
    }
    assert notes == ["delay_factor plays no part in runs of lamb, and is not searched there"]
    spaces, _ = parse_spaces(["lr=1:4", "lamb.lr=1,2", "crop-padding=0:3"], list(RATES), "auto", RATES)
    assert spaces["tvlars"] == {"lr": Range(1.0, 4.0), "crop_padding": Range(0, 3, whole=True)}
    assert spaces["lamb"]["lr"] == Choice((1.0, 2.0))
    spaces, _ = parse_spaces(["schedule=constant,warmup-cosine", "warmup-epochs=1,2"], list(RATES), "auto", RATES)
    assert {name: list(space) for name, space in spaces.items()} == {
        "tvlars": ["lr"],
        "lamb": ["lr", "schedule", "warmup_epochs"],
    }


def test_a_grid_has_exactly_the_budget() -> None:
    space = {"lr": Range(1.0, 16.0, log=True), "momentum": Choice((0.8, 0.9))}
    points = grid_points(space, 10, "lars")
    assert [point["lr"] for point in points[::2]] == pytest.approx([1, 2, 4, 8, 16])
    assert {point["momentum"] for point in points} == {0.8, 0.9}
    assert grid_points({"lr": Range(1.0, 16.0, log=True)}, 1, "lars") == [{"lr": pytest.approx(4.0)}]
    assert len(grid_points({"lr": Range(1, 2), "alpha": Range(1, 2)}, 9, "lars")) == 9
    with pytest.raises(UsageError, match="trials must be the points of a grid, for lars 2, 4, 6, 8 and so on, got 5"):
        grid_points(space, 5, "lars")
    with pytest.raises(UsageError, match="for lars 2, got 5"):
        grid_points({"momentum": Choice((0.8, 0.9))}, 5, "lars")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--optimizers tvlars lasr", "unknown optimizer 'lasr': did you mean 'lars'"),
        ("--workers 0", "workers must be an integer from 1 to 10000, got 0"),
        ("--retries -1", "retries must be an integer from 0 to 10000, got -1"),
        ("--trials 0", "trials must be an integer from 1 to 10000, got 0"),
        ("--sampler tpee", "unknown sampler 'tpee': did you mean 'tpe'?"),
        ("--seeds 0 1000", "seeds must be fresh ones, got 1000"),
        ("--seeds 1 1", "seeds must not repeat, got 1, 1"),
        ("--tune-seed -1", "tune_seed must be an integer from 0 to 4294967295, got -1"),
        ("--space lr", "--space must be OPTION=LOW:HIGH, OPTION=LOW:HIGH:log or OPTION=a,b,c, got 'lr'"),
        ("--space lr=4:1", "--space lr must have LOW < HIGH, got '4:1'"),
        ("--space lr=0:1:log", "--space lr must have LOW < HIGH, both > 0 with :log, got '0:1:log'"),
        ("--space lr=a:b", "--space lr: lr must be a number, got 'a'"),
        (
            "--space lr=1:2:lin",
            "--space lr must be LOW:HIGH or LOW:HIGH:log, or values with commas between, got",
        ),
        ("--space lr=1,1", "--space lr must not repeat values, got '1,1'"),
        ("--space lr=1:2 lr=1:3", "--space must have lr once, got it again in 'lr=1:3'"),
        ("--space ler=1:2", "unknown option to tune 'ler': did you mean 'lr'"),
        ("--space sgd.lr=1:2", "unknown optimizer among those tuned 'sgd'"),
        ("--space epochs=1,2", "--space must have options that may differ between trials, and epochs is the same"),
        ("--space lr=-1:2", "--space must have values that tvlars takes: lr must be > 0"),
        ("--space lamb.momentum=0.8,0.9", "--space must have values that lamb takes: momentum and nesterov must not"),
        ("--space delay=1:9999", "--space must have values that tvlars takes: delay must be < 150"),
        ("--optimizers lars lamb --space delay=1,2", "--space must have options of the optimizers, but delay plays no"),
        ("--optimizers lars lamb --delay 3", "delay must be an option of some optimizer, and is none of lars and lamb"),
        (
            "--sampler grid --trials 5 --space momentum=0.8,0.9",
            "trials must be the points of a grid, for tvlars 2, 4, 6",
        ),
        ("--batch-size 5000", "batch_size must be <= dataset_size (1,437 samples), got 5,000"),
        ("--out full", "out must be a new or empty folder, or that of a tuning, got 'full'"),
        ("--lr 3", "unknown argument '--lr' of tune"),
        ("--seed 3", "unknown argument '--seed' of tune: did you mean --seeds"),
    ],
)
def test_bad_input_is_one_sentence(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/mine").touch()
    assert main(["tune", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tvlars: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_options_of_the_base_go_to_those_who_have_them() -> None:
    base = TrainConfig(warmup_epochs=2.0, trust_coefficient=0.01, delay=5.0, checkpoint_every="1-epochs")
    config = TuneConfig(base=base)
    assert [config.run(name, {"lr": 3.0}, 7).warmup_epochs for name in config.optimizers] == [None, 2.0, 2.0]
    lamb = config.run("lamb", {"lr": 3.0}, 7, Path("x"))
    assert (lamb.trust_coefficient, lamb.delay, lamb.lr, lamb.seed) == (None, None, 3.0, 7)
    assert (lamb.resume, lamb.out, lamb.checkpoint_every) == (True, Path("x"), "1-epochs")
    assert config.idle() == [
        "trust_coefficient plays no part in runs of lamb",
        "warmup_epochs plays no part in runs of tvlars",
        "delay plays no part in runs of lars and lamb",
    ]


# -- trials that only look like trials ---------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Trains nothing: accuracy is best at lr 8 and the same from the first epoch; far above 8 runs diverge.

    Returns the configs of all runs, which appear as they are trained; there is no final sweep.
    """
    seen: list[TrainConfig] = []

    def pretend_to_train(config: TrainConfig, *, data: Any, reporter: Reporter) -> Any:
        seen.append(config)
        assert config.lr is not None
        assert config.out is not None
        config.out.mkdir(exist_ok=True)
        if config.lr > 100:
            raise DivergedError(config.optimizer, 1, config.lr, config.out)
        accuracy = 1 / (1 + abs(math.log2(config.lr / 8)))
        reporter.start(config, config.plan(len(data.train_labels)), [], config.out)
        for epoch in range(1, config.epochs + 1):
            with open(config.out / "epochs.csv", "a") as file:
                file.write("epoch\n1\n" if epoch == 1 else f"{epoch}\n")
            reporter.epoch(EpochRow(epoch, epoch, 1.0, 0.5, 1.0, accuracy, 1.0, 1.0))
        reporter.end("finished")
        return type("Result", (), {"test_accuracy": accuracy})

    monkeypatch.setattr(trials_module, "train", pretend_to_train)
    monkeypatch.setattr(tuning_module, "sweep", lambda *_, **__: None)
    return seen


def quietly(config: TuneConfig, **options: Any) -> TuneResult:
    return tune(config, announce=lambda _: None, reporter=Reporter, board=Board(), **options)


def test_every_optimizer_gets_the_same_budget(pretend: list[TrainConfig], tmp_path: Path) -> None:
    config = TuneConfig(
        base=TrainConfig(epochs=6), optimizers=("tvlars", "lars", "sgd"), trials=12, space=("sgd.lr=1:1000:log",),
        out=tmp_path / "out",
    )  # fmt: skip
    result = quietly(config)
    assert [one.trials for one in result.tuned] == [12, 12, 12]
    assert len(pretend) == 36
    assert [run.optimizer for run in pretend[:6]] == ["tvlars", "lars", "sgd"] * 2  # they take turns
    assert {run.seed for run in pretend} == {1000}
    assert sum(one.pruned for one in result.tuned) > 0
    assert result.tuned[2].diverged > 0
    frame = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert frame.groupby("optimizer").size().to_dict() == {"lars": 12, "sgd": 12, "tvlars": 12}
    for one in result.tuned:
        mine = frame[frame["optimizer"] == one.optimizer]
        assert one.best is not None
        finished = mine[mine["status"] == "finished"]
        assert one.best.accuracy == pytest.approx(finished["accuracy"].max())
        assert one.epochs == mine["epochs"].sum() <= 72
        assert (mine[mine["status"] == "pruned"]["epochs"] >= 2).all()  # a third of 6
        assert (mine[mine["status"] == "diverged"]["accuracy"] == 0).all()
    # Equal numbers draw alike, relative to the middle of each space.
    first = {run.optimizer: run.lr for run in reversed(pretend[:3])}
    assert first["tvlars"] == pytest.approx(first["lars"])
    stored = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert [one["trials"] for one in stored["spent"]] == [12, 12, 12]
    assert stored["seeds"] == [0, 1, 2]


def test_not_pruned_means_all_epochs(pretend: list[TrainConfig], tmp_path: Path) -> None:
    config = TuneConfig(base=TrainConfig(epochs=3), trials=9, sampler="grid", prune=False, out=tmp_path / "out")
    result = quietly(config)
    assert [(one.trials, one.pruned, one.diverged) for one in result.tuned] == [(9, 0, 1), (9, 0, 1), (9, 0, 0)]
    assert [one.epochs for one in result.tuned] == [24, 24, 27]
    rates = sorted(run.lr or 0 for run in pretend if run.optimizer == "tvlars")
    assert rates == pytest.approx([2 * 64 ** (i / 8) for i in range(9)])


def test_when_all_diverge_there_is_nothing_to_report(
    pretend: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"tune --optimizers sgd --trials 2 --space lr=1000:2000 --epochs 2 --out {tmp_path / 'out'}"
    assert main(words.split()) == 3
    captured = capsys.readouterr()
    assert "sgd trial 2 of 2: lr " in captured.out
    assert "diverged, which counts as 0 %" in captured.out
    assert "2 trials (0 pruned, 2 diverged), 0 epochs; none finished" in captured.out
    assert "no trial of sgd finished" in captured.err


class Stopping(Reporter):
    """Is Ctrl-C after some epochs of all trials."""

    def __init__(self, after: int) -> None:
        self.left = after

    def epoch(self, row: EpochRow) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
@pytest.mark.parametrize("after", [1, 5, 8])
def test_an_interrupted_tuning_is_what_it_would_have_been(
    sampler: str, after: int, pretend: list[TrainConfig], tmp_path: Path
) -> None:
    def config(name: str) -> TuneConfig:
        return TuneConfig(
            base=TrainConfig(epochs=2), optimizers=("tvlars", "lamb"), trials=5, sampler=sampler, out=tmp_path / name
        )

    whole = quietly(config("whole"))
    expected = [(run.optimizer, run.lr) for run in pretend]
    pretend.clear()
    stopping, said = Stopping(after), list[str]()
    with pytest.raises(KeyboardInterrupt):
        tune(config("parts"), announce=said.append, reporter=lambda: stopping, board=Board())
    assert said[-1].startswith(f"stopped after {(after - 1) // 2} of 10 trials")
    begun, stopped = len(pretend), pretend[-1]
    again = quietly(config("parts"))
    once_more = [run for run in pretend[begun:] if run.out == stopped.out]  # from its newest checkpoint
    assert [(run.optimizer, run.lr) for run in once_more] == [(stopped.optimizer, stopped.lr)]
    assert sampler == "grid" or once_more == pretend[begun : begun + 1]
    done = [(run.optimizer, run.lr) for run in pretend[: begun - 1] + pretend[begun:]]
    assert sorted(done) == sorted(expected)
    assert [(one.trials, one.best and one.best.params) for one in again.tuned] == [
        (one.trials, one.best and one.best.params) for one in whole.tuned
    ]
    count = len(pretend)
    quietly(config("parts"))
    assert len(pretend) == count  # nothing is left to do


def test_a_folder_is_of_one_tuning(pretend: list[TrainConfig], tmp_path: Path) -> None:
    def config(**options: Any) -> TuneConfig:
        values: dict[str, Any] = dict(base=TrainConfig(epochs=2), optimizers=("lars",), trials=2, out=tmp_path / "out")
        return TuneConfig(**{**values, **options})

    quietly(config())
    for other, name in (
        (config(base=TrainConfig(epochs=3)), "base"),
        (config(tune_seed=7), "tune_seed"),
        (config(space=("lr=1:2",)), "space"),
        (config(sampler="grid"), "sampler"),
    ):
        with pytest.raises(UsageError, match=f"out must be a folder of the same tuning, but has {name} "):
            quietly(other)
    with pytest.raises(UsageError, match="trials must be >= 2, those that are there already, got 1"):
        quietly(config(trials=1))
    more = quietly(config(trials=3, optimizers=("lars", "tvlars"), seeds=(5,), base=TrainConfig(epochs=2, timeout=9.0)))
    assert [one.trials for one in more.tuned] == [3, 3]
    assert len(pretend) == 6
    journal = tmp_path / "out" / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')  # cut off by a machine that stopped
    quietly(config(trials=3))
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    with pytest.raises(UsageError, match="must be the journal of a tuning, but cannot be read"):
        quietly(config(trials=3))


# -- real trials -------------------------------------------------------------------------------------------

WORDS = ["--optimizers", "tvlars", "lamb", "--trials", "4", "--epochs", "2", "--seeds", "0", "--accelerator", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def test_a_killed_tuning_goes_on_and_reports_fresh_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, killed by SIGKILL in its trials, and called again."""
    out = tmp_path / "out"
    words = ["tune", *WORDS, "--out", str(out), "--workers", "2"]
    with subprocess.Popen([sys.executable, "-m", "tvlars", *words], stdout=subprocess.DEVNULL) as killed:
        end = time.monotonic() + 120
        while not (out / "trials" / "lamb-001").is_dir():
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        killed.kill()
    assert main(words) == 0
    told = capsys.readouterr().out
    there = re.search(r"(\d) of 8 trials are there already", told)
    assert there is not None
    assert 3 <= int(there[1]) < 8
    frame = pd.read_csv(out / "trials.csv")
    counted = frame[frame["status"] != "interrupted"]
    assert counted.groupby("optimizer").size().to_dict() == {"lamb": 4, "tvlars": 4}
    stored = json.loads((out / "tune.json").read_text())
    for optimizer, row in zip(("tvlars", "lamb"), stored["results"], strict=True):
        best = stored["best"][optimizer]
        trial = load_run(out / "trials" / best["folder"])
        assert trial.config is not None
        assert (trial.config.seed, trial.test_accuracy) == (1000, pytest.approx(best["accuracy"], rel=1e-6))
        assert best["params"]["lr"] == trial.config.lr == row["lr"]
        assert (row["optimizer"], row["seeds"], row["of"]) == (optimizer, 1, 1)
    reported = pd.read_csv(out / "final" / "results.csv")
    assert reported["seed"].tolist() == [0, 0]  # the tuning seed is in no table
    assert [row["accuracy"] for row in stored["results"]] == pytest.approx(reported["test_accuracy"].tolist())
    assert f"page: {out / 'final' / 'report.html'}" in told
    assert "trials.csv" in told.splitlines()[-1]


def test_the_journal_is_optunas_own(pretend: list[TrainConfig], tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    quietly(TuneConfig(base=TrainConfig(epochs=1), optimizers=("lars",), trials=3, out=tmp_path / "out"))
    study = optuna.load_study(study_name="lars", storage=open_storage(tmp_path / "out" / "study.journal"))
    assert len(study.trials) == 3
    assert study.best_value == pytest.approx(max(1 / (1 + abs(math.log2((run.lr or 1) / 8))) for run in pretend))
