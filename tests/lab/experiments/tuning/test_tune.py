"""Tuning: equal budgets, fresh seeds for what is reported, and nothing lost when it is killed."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.command import Command, slow_disk
from tests.lab.experiments.tuning.pretended import quietly
from tests.lab.run_folder.disk import room
from tvlars.cli import main
from tvlars.lab import (
    Arm,
    LockedError,
    PreemptedError,
    TrainConfig,
    TuneConfig,
    UsageError,
    load_run,
    tune,
)
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.job import going_on, read_status
from tvlars.lab.experiments.run_name import run_name
from tvlars.lab.experiments.tuning import folder as tune_folder
from tvlars.lab.experiments.tuning import search as search_module
from tvlars.lab.experiments.tuning import tune as tuning_module
from tvlars.lab.experiments.tuning.journal import open_storage
from tvlars.lab.experiments.tuning.space import Choice, Range, grid_points, parse_spaces
from tvlars.lab.experiments.workers import in_process
from tvlars.lab.files.lock import locked
from tvlars.lab.run_folder.rows import EpochRow
from tvlars.lab.training import prepare as prepare_module
from tvlars.lab.training.batches import Batches
from tvlars.lab.training.progress import Reporter

RATES = {"tvlars": 16.0, "lamb": 0.015}
PLAIN = [Arm.of(name) for name in RATES]


# -- what is searched --------------------------------------------------------------------------------------


def test_lr_is_searched_over_as_many_octaves_for_each_optimizer() -> None:
    spaces, notes = parse_spaces(["delay-factor=0.01:1:log", "lamb.warmup-epochs=0,1"], PLAIN, "auto", RATES)
    assert spaces == {
        "tvlars": {"lr": Range(2.0, 128.0, log=True), "delay_factor": Range(0.01, 1.0, log=True)},
        "lamb": {"lr": Range(0.015 / 8, 0.12, log=True), "warmup_epochs": Choice((0.0, 1.0))},
    }
    assert notes == ["delay_factor has no effect in runs of lamb, and is not searched there"]
    spaces, _ = parse_spaces(["lr=1:4", "lamb.lr=1,2", "crop-padding=0:3"], PLAIN, "auto", RATES)
    assert spaces["tvlars"] == {"lr": Range(1.0, 4.0), "crop_padding": Range(0, 3, whole=True)}
    assert spaces["lamb"]["lr"] == Choice((1.0, 2.0))
    spaces, _ = parse_spaces(["schedule=constant,cosine", "warmup-epochs=1,2"], PLAIN, "auto", RATES)
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
    sizes = "trials must be the number of points of a grid, for lars 2, 4, 6, 8 and so on, got 5"
    with pytest.raises(UsageError, match=sizes):
        grid_points(space, 5, "lars")
    with pytest.raises(UsageError, match="for lars 2, got 5"):
        grid_points({"momentum": Choice((0.8, 0.9))}, 5, "lars")


@pytest.mark.parametrize(
    ("space", "trials", "sentence"),
    [
        ({"crop_padding": Range(1, 3, whole=True)}, 9, "for lars 1, 2, 3, got 9: of 9 points of crop_padding, 1"),
        ({"crop_padding": Range(1, 9, True, True)}, 9, "crop_padding, 1 to 9 (logarithmic), all but 7 repeat"),
        (
            {"lr": Range(1.0, 1.0 + 2**-52)},
            9,
            "for lars 1, got 9: of 9 points of lr, 1 to 1, all but 1 repeat",
        ),
        (
            {"lr": Range(1.0, 2.0), "crop_padding": Range(0, 1, whole=True), "momentum": Choice((0.8, 0.9))},
            18,
            "for lars 2, 8, got 18: of 3 points of crop_padding, 0 to 1, all but 2 repeat",
        ),
        ({"crop_padding": Range(0, 1, whole=True)}, 0, "for lars 1, 2, got 0"),
    ],
)
def test_a_grid_whose_points_repeat_is_refused(space: Any, trials: int, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        grid_points(space, trials, "lars")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--optimizers tvlars lasr", "unknown optimizer 'lasr': did you mean 'lars'"),
        ("--workers 0", "workers must be an integer from 1 to 10000, got 0"),
        ("--retries -1", "retries must be an integer from 0 to 10000, got -1"),
        ("--trials 0", "trials must be an integer >= 1, got 0"),
        ("--sampler tpee", "unknown sampler 'tpee': did you mean 'tpe'?"),
        ("--seeds 0 1000", "seeds must be fresh ones, got 1000"),
        ("--seeds 1 1", "seeds must not repeat, got 1, 1"),
        ("--tune-seeds -1", "tune_seeds must be an integer >= 0, got -1"),
        (
            "--space lr",
            "--space must be OPTION=LOW:HIGH, OPTION=LOW:HIGH:log, OPTION=LOW:HIGH:xFACTOR or OPTION=a,b,c, got 'lr'",
        ),
        ("--space lr=4:1", "--space lr must have LOW < HIGH, got '4:1'"),
        ("--space lr=0:1:log", "--space lr must have LOW < HIGH, both > 0 with :log, got '0:1:log'"),
        ("--space lr=a:b", "--space lr: lr must be a number, got 'a'"),
        (
            "--space lr=1:2:lin",
            "--space lr must be LOW:HIGH, LOW:HIGH:log, LOW:HIGH:xFACTOR, or values separated by commas, got",
        ),
        ("--space lr=1-10", "--space lr: lr must be a number, got '1-10'; a range is LOW:HIGH, as in lr=1:10"),
        ("--space lr=1e-3..1e-1", "got '1e-3..1e-1'; a range is LOW:HIGH, as in lr=1e-3:1e-1"),
        ("--space lr=low", "--space lr: lr must be a number, got 'low'; a range is LOW:HIGH"),
        ("--space lr=1:", "--space lr must be LOW:HIGH, LOW:HIGH:log, LOW:HIGH:xFACTOR, or values separated by commas"),
        ("--space lr=,", "--space lr must be LOW:HIGH, LOW:HIGH:log, LOW:HIGH:xFACTOR, or values separated by commas"),
        ("--space nesterov=yes", "--space nesterov: nesterov must be true or false, got 'yes'"),
        ("--dry-run", "unknown argument '--dry-run' of tune: tvlars compare, sweep and protocol check print runs"),
        ("--space lr=1,1", "--space lr must not repeat values, got '1,1'"),
        ("--space lr=1:2 lr=1:3", "--space must have lr once, got it again in 'lr=1:3'"),
        ("--space ler=1:2", "unknown option to tune 'ler': did you mean 'lr'"),
        ("--space sgd.lr=1:2", "unknown arm among those tuned 'sgd'"),
        ("--space epochs=1,2", "--space must have options that may differ between trials, but epochs is the same"),
        ("--space lr=-1:2", "--space must have valid values for tvlars: lr must be > 0"),
        ("--space lamb.momentum=0.8,0.9", "--space must have valid values for lamb: momentum and nesterov must not"),
        ("--space delay=1:9999", "--space must have valid values for tvlars: delay must be < 150"),
        ("--optimizers lars lamb --space delay=1,2", "--space must have options of the optimizers, but delay has no"),
        ("--optimizers lars lamb --delay 3", "delay must be an option of some optimizer, but is none of lars and lamb"),
        (
            "--sampler grid --trials 5 --space momentum=0.8,0.9",
            "trials must be the number of points of a grid, for tvlars 2, 4, 6",
        ),
        (
            "--sampler grid --trials 9 --space crop-padding=1:3 lr=4",
            "trials must be the number of points of a grid, for tvlars 1, 2, 3, got 9: of 9 points of crop_padding, "
            "1 to 3, all but 3 repeat",
        ),
        ("--batch-size 5000", "batch_size must be <= dataset_size (1,293 samples), got 5,000"),
        ("--out full", "out must be a new or empty folder, or one of a tuning, got 'full'"),
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "16-mixed"}, "precision must be bf16-mixed or 32-true without a CUDA device, got '16-mixed'"),
        ({"accelerator": "cuda"}, "accelerator must be auto or cpu on this machine, which has no such device"),
        ({"shard": True}, "shard must not be given for tuning, whose trials are run in one process"),
    ],
)
def test_what_this_machine_cannot_do_is_said_before_anything_is_written(
    options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=sentence):
        quietly(TuneConfig(base=TrainConfig(epochs=1, **options), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_data_without_labels_cannot_be_tuned_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.zeros(512, 1, 8, 8, dtype=torch.uint8), torch.zeros(512, dtype=torch.int64)
    data = ImageData("blank", "nowhere", images, labels, images, labels, classes=1, flip=False)
    monkeypatch.setattr(prepare_module, "load_data", lambda *_, **__: data)
    base = TrainConfig(epochs=1, task="simclr", evaluations="none")
    with pytest.raises(UsageError, match="data must have labels of two classes or more for tuning, blank has 1"):
        quietly(TuneConfig(base=base, optimizers=("lars",), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_options_of_the_base_go_to_those_who_have_them() -> None:
    base = TrainConfig(warmup_epochs=2.0, trust_coefficient=0.01, delay=5.0, checkpoint_every="1-epochs")
    config = TuneConfig(base=base)
    assert [config.run(name, {"lr": 3.0}, 7).warmup_epochs for name in config.optimizers] == [None, 2.0, 2.0]
    lamb = going_on(config.run("lamb", {"lr": 3.0}, 7), Path("x"))
    assert (lamb.trust_coefficient, lamb.delay, lamb.lr, lamb.seed) == (None, None, 3.0, 7)
    assert (lamb.resume, lamb.out, lamb.checkpoint_every) == (True, Path("x"), "1-epochs")
    assert going_on(TrainConfig(), Path("x")).checkpoint_every == "5m"  # of a run of an experiment, by default
    assert config.idle() == [
        "trust_coefficient has no effect in runs of lamb",
        "warmup_epochs has no effect in runs of tvlars",
        "delay has no effect in runs of lars and lamb",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation": 0.0}, "validation must be > 0 for tuning, whose trials are ranked on validation images, got 0"),
        ({"validation": 0.5, "test": False}, "test must be true for tuning"),
    ],
)
def test_what_trials_are_chosen_by_must_be_held_out(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TuneConfig(base=TrainConfig(**options))


def test_trials_never_read_the_test_set(
    few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials read no test image, and are the same whatever the labels of the test images are."""
    read: list[str] = []
    before = Batches.test

    def test(self: Batches, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        read.append(split)
        return before(self, split)

    monkeypatch.setattr(Batches, "test", test)
    base = TrainConfig(data="digits", batch_size=128, epochs=1, accelerator="cpu")
    chosen = []
    for name, labels in (("one", few.test_labels), ("other", few.test_labels.flip(0))):
        monkeypatch.setattr(prepare_module, "load_data", lambda *_, x=labels, **__: replace(few, test_labels=x))
        monkeypatch.setattr(tuning_module, "sweep", lambda *_, **__: None)
        config = TuneConfig(base=base, optimizers=("lars",), trials=2, out=tmp_path / name)
        result = tune(config, reporter=Reporter)
        chosen.append([one.best for one in result.tuned])
    assert chosen[0] == chosen[1]
    assert set(read) == {"validation"}
    assert len(read) == 4
    said = capsys.readouterr().out
    assert "ranked on 70 validation images, held out of 700 for training, by class with seed 0" in " ".join(
        said.split()
    )
    trial = load_run(tmp_path / "one" / "trials" / "lars-000")
    assert trial.config is not None
    assert (trial.config.validation, trial.test_accuracy) == (0.1, None)
    assert chosen[0][0] is not None
    assert max(0.0, *(load_run(tmp_path / "one" / "trials" / f"lars-00{i}").accuracy or 0 for i in (0, 1))) == (
        pytest.approx(chosen[0][0].value)
    )
    final = tuning_module._final_runs(config.with_validation(few), result.tuned, {})
    assert {(run.validation, run.validation_seed, run.test) for run in final} == {(0.1, 0, True)}


def test_a_tuning_that_chose_by_test_images_is_not_gone_on_with(pretend: list[TrainConfig], tmp_path: Path) -> None:
    config = TuneConfig(base=TrainConfig(epochs=1), optimizers=("lars",), trials=2, out=tmp_path / "out")
    quietly(config)
    file = tmp_path / "out" / "tune.json"
    stored = json.loads(file.read_text())
    assert stored.pop("objective") == "validation accuracy"
    del stored["base"]["validation"]
    file.write_text(json.dumps(stored))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="by their accuracy on test images: use a new folder"):
        quietly(config)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


# -- trials that only look like trials ---------------------------------------------------------------------


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
    assert frame.groupby("arm").size().to_dict() == {"lars": 12, "sgd": 12, "tvlars": 12}
    for one in result.tuned:
        mine = frame[frame["arm"] == one.arm]
        assert one.best is not None
        finished = mine[mine["status"] == "finished"]
        assert one.best.value == pytest.approx(finished["validation_accuracy"].max())
        assert one.epochs == mine["epochs"].sum() <= 72
        assert (mine[mine["status"] == "pruned"]["epochs"] >= 2).all()  # a third of 6
        assert (mine[mine["status"] == "diverged"]["validation_accuracy"] == 0).all()
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


def test_one_process_at_a_time_tunes_in_a_folder(pretend: list[TrainConfig], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out), pytest.raises(LockedError, match="another process tunes in"):
        quietly(TuneConfig(base=TrainConfig(epochs=1), out=out))
    assert pretend == []
    assert [path.name for path in out.iterdir()] == [".lock"]


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
    stopping = Stopping(after)
    with pytest.raises(KeyboardInterrupt, match=f"^{(after - 1) // 2} of 10 trials are done; what was measured"):
        tune(config("parts"), announce=lambda text: None, reporter=lambda: stopping, board=Board())
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


def test_a_tuning_goes_on_with_its_own_data_alone(
    pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TuneConfig(base=TrainConfig(epochs=1), optimizers=("lars",), trials=2, out=tmp_path / "out")
    quietly(config)
    data = load_data("digits")
    changed = replace(data, test_images=255 - data.test_images)
    monkeypatch.setattr(prepare_module, "load_data", lambda *_, **__: changed)
    with pytest.raises(
        UsageError, match=r"data must be as they were .* but have changed: test images have other pixels"
    ):
        quietly(config)
    monkeypatch.setattr(prepare_module, "load_data", lambda *_, **__: data)
    stored = json.loads((tmp_path / "out" / "tune.json").read_text())
    del stored["fingerprint"]  # as an earlier version wrote it
    (tmp_path / "out" / "tune.json").write_text(json.dumps(stored))
    quietly(config)


def test_a_folder_is_of_one_tuning(pretend: list[TrainConfig], tmp_path: Path) -> None:
    def config(**options: Any) -> TuneConfig:
        values: dict[str, Any] = dict(base=TrainConfig(epochs=2), optimizers=("lars",), trials=2, out=tmp_path / "out")
        return TuneConfig(**{**values, **options})

    quietly(config())
    for other, name in (
        (config(base=TrainConfig(epochs=3)), "base"),
        (config(tune_seeds=(7,)), "tune_seed"),
        (config(space=("lr=1:2",)), "space"),
        (config(sampler="grid"), "sampler"),
    ):
        with pytest.raises(UsageError, match=f"out must be a folder of the same tuning, but has {name} "):
            quietly(other)
    with pytest.raises(UsageError, match="trials must be >= 2, the number already in the folder, got 1"):
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


def test_trials_with_other_defaults_do_not_join_a_tuning(pretend: list[TrainConfig], tmp_path: Path) -> None:
    options: dict[str, Any] = dict(base=TrainConfig(epochs=2), optimizers=("lars",), space=("lr=1:2",), seeds=(5,))
    quietly(TuneConfig(**options, trials=2, out=tmp_path / "out"))
    trial = tmp_path / "out" / "trials" / "lars-000"
    plan = load_run(trial).config.plan(1797 * 4 // 5)  # type: ignore[union-attr]
    (trial / "plan.json").write_text(json.dumps(plan.as_dict()))
    quietly(TuneConfig(**options, trials=3, out=tmp_path / "out"))
    (trial / "plan.json").write_text(json.dumps({**plan.as_dict(), "schedule": "cosine"}))
    with pytest.raises(
        UsageError, match="lars-000' the plan differs: schedule 'cosine' there, 'linear' here, since def"
    ):
        quietly(TuneConfig(**options, trials=4, out=tmp_path / "out"))


# -- trials that were over when the process was killed, and full disks -------------------------------------


def history(out: Path) -> list[Any]:
    """All that is known of the trials that count."""
    optuna = pytest.importorskip("optuna")
    study = optuna.load_study(study_name="lars", storage=open_storage(out / "study.journal"))
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))
    return [(one.state.name, one.params, one.value, one.intermediate_values) for one in trials]


@pytest.mark.parametrize(
    ("ends", "where"),
    [
        *(("finished", "report"), ("finished", "_tell")),
        *(("pruned", "report"), ("pruned", "_say_pruned"), ("pruned", "_tell")),
    ],
)
def test_a_trial_that_was_over_when_it_was_killed_is_what_it_was(
    ends: str, where: str, pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> TuneConfig:
        return coming_and_going(tmp_path / name, "lars", base=TrainConfig(epochs=6), trials=9)

    quietly(config("whole"))
    whole = pd.read_csv(tmp_path / "whole" / "trials.csv")
    number = int(whole[whole["status"] == ends].index[-1])
    assert number >= 4  # others are compared with it, and it with others
    pretend.clear()

    class Killed(Reporter):
        """Before the last accuracy of the trial is in the journal."""

        def epoch(self, row: EpochRow) -> None:
            if where == "report" and len(pretend) == number + 1 and row.epoch == whole["epochs"][number]:
                raise KeyboardInterrupt

    def killed(*arguments: Any, **options: Any) -> None:
        if len(pretend) == number + 1:
            raise KeyboardInterrupt
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        if where != "report":
            owner: Any = search_module.Search if where == "_tell" else search_module
            real = getattr(owner, where)
            patch.setattr(owner, where, killed)
        with pytest.raises(KeyboardInterrupt):
            tune(config("parts"), announce=lambda _: None, reporter=Killed, board=Board())
    quietly(config("parts"))
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert len(pretend) == 9 + (ends == "finished")  # what was to be pruned does not train on
    parts = pd.read_csv(tmp_path / "parts" / "trials.csv")
    pd.testing.assert_frame_equal(parts, whole, check_exact=True)
    assert read_status(tmp_path / "parts" / "trials" / parts["folder"][number]) == ends


def test_accuracies_of_trials_taken_up_are_those_of_any_other(pretend: list[TrainConfig], tmp_path: Path) -> None:
    """A run folder has seven digits: were others told exactly, a trial as good as the median would be below it."""
    stopping = Stopping(2)
    config = coming_and_going(tmp_path / "out", "lars", base=TrainConfig(epochs=3), space=("lr=3:3.5",))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(config, announce=lambda _: None, reporter=lambda: stopping, board=Board())
        stopping.left = 1
    quietly(config)
    quietly(replace(config, out=tmp_path / "whole"))
    assert history(tmp_path / "out") == history(tmp_path / "whole")
    _, params, accuracy, values = history(tmp_path / "out")[0]
    assert accuracy == float(f"{1 / (1 + abs(math.log2(params['lr'] / 8))):.7g}")
    assert values == {1: accuracy, 2: accuracy, 3: accuracy}


def test_a_line_that_was_cut_off_is_removed_where_there_is_no_room(pretend: list[TrainConfig], tmp_path: Path) -> None:
    quietly(coming_and_going(tmp_path / "out", "lars"))
    journal = tmp_path / "out" / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    with room(2):
        open_storage(journal)
    assert journal.read_bytes() == whole


def test_a_record_without_room_spoils_none_that_comes_after_it(pretend: list[TrainConfig], tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    quietly(coming_and_going(tmp_path / "out", "lars"))
    journal = tmp_path / "out" / "study.journal"
    whole = journal.read_bytes()
    study = optuna.load_study(study_name="lars", storage=open_storage(journal))
    with room(len(whole) + 20), pytest.raises(OSError, match=r"study\.journal") as caught:
        study.set_user_attr("first", "without room")
    assert caught.value.filename == str(journal)
    assert journal.read_bytes() == whole
    study.set_user_attr("second", "with room")
    said = optuna.load_study(study_name="lars", storage=open_storage(journal)).user_attrs
    assert said["second"] == "with room"
    assert "first" not in said
    assert quietly(coming_and_going(tmp_path / "out", "lars", trials=3)).tuned[0].trials == 3


def test_results_that_cannot_be_written_are_named_and_the_same_command_writes_them(
    reported: list[list[TrainConfig]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = f"tune --optimizers lars --trials 2 --epochs 2 --seeds 0 1 --out {out}".split()
    monkeypatch.setattr("tvlars.cli._sweep.tell", lambda _: 0)
    assert main(words) == 0
    assert capsys.readouterr().out.endswith(f"tuning: {out / 'tune.json'}, every trial: {out / 'trials.csv'}\n")
    (out / "trials.csv").unlink()
    (out / "trials.csv").mkdir()
    sweep = tuning_module.sweep

    def no_room_at_the_end(*arguments: Any, **options: Any) -> Any:
        (out / "tune.json.part").mkdir()
        return sweep(*arguments, **options)

    words[words.index("--trials") + 1] = "4"
    for code_of_runs, code in ((0, 2), (1, 1), (3, 3)):
        with monkeypatch.context() as patch:
            patch.setattr(tuning_module, "sweep", no_room_at_the_end)
            patch.setattr("tvlars.cli._sweep.tell", lambda _, code=code_of_runs: code)
            assert main(words) == code
        (out / "tune.json.part").rmdir()
        captured = capsys.readouterr()
        for name in ("trials.csv", "tune.json"):
            assert captured.out.count(f"cannot write {out / name}: Is a directory\n") == 1
        assert "every trial" not in captured.out
        sentence = "trials.csv and tune.json could not be written; all trials are kept, and the same command writes"
        assert captured.err == f"tvlars: {sentence} them\n"
    (out / "trials.csv").rmdir()
    assert main(words) == 0
    assert len(pd.read_csv(out / "trials.csv")) == stored(out)["trials"] == 4


def test_a_stopped_tuning_says_so_wherever_trials_cannot_be_written(pretend: list[TrainConfig], tmp_path: Path) -> None:
    class Terminated(Reporter):
        def epoch(self, row: EpochRow) -> None:
            raise PreemptedError("stopped by SIGTERM")

    out, said = tmp_path / "out", list[str]()
    quietly(coming_and_going(out, "lars"))
    (out / "trials.csv").unlink()
    (out / "trials.csv").mkdir()
    with pytest.raises(PreemptedError, match="stopped by SIGTERM after 2 of 3 trials"):
        tune(coming_and_going(out, "lars", trials=3), announce=said.append, reporter=Terminated, board=Board())
    assert f"cannot write {out / 'trials.csv'}: Is a directory" in said


# -- optimizers that come and go ---------------------------------------------------------------------------


class Reported:
    """In the place of what the sweep of the best gives: a row for each optimizer."""

    def __init__(self, runs: list[TrainConfig]) -> None:
        self.runs = runs

    def comparison(self) -> Reported:
        return self

    def table(self) -> pd.DataFrame:
        names = list(dict.fromkeys(run.optimizer for run in self.runs))
        rows = []
        for name in names:
            mine = [run for run in self.runs if run.optimizer == name]
            rows.append(
                {"optimizer": name, "batch_size": 256, "lr": mine[0].lr, "seeds": len(mine), "of": len(mine)}
                | {"accuracy": 0.5, "interval": math.nan, "accuracies": [run.seed for run in mine]}
            )
        return pd.DataFrame(rows)


@pytest.fixture
def reported(pretend: list[TrainConfig], monkeypatch: pytest.MonkeyPatch) -> list[list[TrainConfig]]:
    """The runs of every sweep of the best, none of which is trained."""
    seen: list[list[TrainConfig]] = []

    def pretend_to_sweep(runs: list[TrainConfig], out: Path, **_: Any) -> Reported:
        seen.append(runs)
        for run in runs:
            (out / run_name(run)).mkdir(parents=True, exist_ok=True)
            (out / run_name(run) / "summary.json").write_text('{"status": "finished"}')
        return Reported(runs)

    monkeypatch.setattr(tuning_module, "sweep", pretend_to_sweep)
    return seen


def coming_and_going(out: Path, *optimizers: str, **options: Any) -> TuneConfig:
    values: dict[str, Any] = dict(base=TrainConfig(epochs=2), trials=2, seeds=(0, 1), out=out)
    return TuneConfig(optimizers=optimizers, **{**values, **options})


def stored(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "tune.json").read_text()))


def test_optimizers_of_an_earlier_call_are_kept(
    pretend: list[TrainConfig], reported: list[list[TrainConfig]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quietly(coming_and_going(out, "lars", "tvlars"))
    before, rows = stored(out), pd.read_csv(out / "trials.csv")
    said: list[str] = []
    result = tune(coming_and_going(out, "lamb"), announce=said.append, reporter=Reporter, board=Board())
    assert [one.arm for one in result.tuned] == ["lamb"]
    assert len(pretend) == 6
    assert "note: results of lars and tvlars have as many trials and the same seeds, and are kept" in said
    after = stored(out)
    assert list(after["space"]) == ["lars", "tvlars", "lamb"]
    assert {name: after["space"][name] for name in before["space"]} == before["space"]
    assert {name: after["best"][name] for name in before["best"]} == before["best"]
    assert [one["arm"] for one in after["spent"]] == ["lamb", "lars", "tvlars"]
    assert after["spent"][1:] == before["spent"]
    assert [row["optimizer"] for row in after["results"]] == ["lamb", "lars", "tvlars"]
    assert sorted(after["results"], key=str)[1:] == sorted(before["results"], key=str)
    assert [(run.optimizer, run.seed) for run in reported[-1][:3]] == [("lamb", 0), ("lars", 0), ("tvlars", 0)]
    frame = pd.read_csv(out / "trials.csv")
    assert len(frame) == 6
    pd.testing.assert_frame_equal(frame[frame["arm"] != "lamb"].reset_index(drop=True), rows)
    quietly(coming_and_going(out, "tvlars", "lars"))
    assert len(pretend) == 6
    assert stored(out)["best"] == after["best"]


@pytest.mark.parametrize("options", [{"trials": 3}, {"seeds": (0, 1, 5)}])
def test_results_stand_beside_each_other_with_equal_budgets_alone(
    options: dict[str, Any], reported: list[list[TrainConfig]], tmp_path: Path
) -> None:
    out, said = tmp_path / "out", list[str]()
    quietly(coming_and_going(out, "lars", "tvlars"))
    tune(coming_and_going(out, "lars", **options), announce=said.append, reporter=Reporter, board=Board())
    trials, seeds = options.get("trials", 2), options.get("seeds", (0, 1))
    numbers = ", ".join(map(str, seeds))
    assert (
        f"note: results of tvlars are left out, since they do not have {trials} trials and seeds {numbers}: to include "
        "them, name it too"
    ) in said
    after = stored(out)
    assert [row["optimizer"] for row in after["results"]] == ["lars"]
    assert {run.optimizer for run in reported[-1]} == {"lars"}
    assert {one["trials"] for one in after["spent"]} == {trials}  # as many trials, whatever the seeds
    assert list(after["best"]) == (["lars"] if trials == 3 else ["lars", "tvlars"])
    assert list(after["space"]) == ["lars", "tvlars"]
    assert set(pd.read_csv(out / "trials.csv")["arm"]) == {"lars", "tvlars"}
    quietly(coming_and_going(out, "lars", **options))  # what has other results has not come to these
    assert {run.optimizer for run in reported[-1]} == {"lars"}
    quietly(coming_and_going(out, "lars", "tvlars", **options))
    assert [row["optimizer"] for row in stored(out)["results"]] == ["lars", "tvlars"]


def test_a_call_that_is_interrupted_leaves_the_results_that_are_there(
    reported: list[list[TrainConfig]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quietly(coming_and_going(out, "lars"))
    before = stored(out)
    with pytest.raises(KeyboardInterrupt):
        tune(
            coming_and_going(out, "tvlars", trials=3),
            announce=lambda _: None,
            reporter=lambda: Stopping(1),
            board=Board(),
        )
    after = stored(out)
    for name in ("trials", "spent", "best", "seeds", "results"):
        assert after[name] == before[name]
    assert list(after["space"]) == ["lars", "tvlars"]


def test_the_space_of_an_optimizer_stays_its_own(reported: list[list[TrainConfig]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(coming_and_going(out, "lars"))
    quietly(coming_and_going(out, "tvlars", space=("lr=1:2",)))
    other = coming_and_going(out, "lars", space=("lr=1:2",))
    with pytest.raises(UsageError, match="out must be a folder of the same tuning, but has space "):
        quietly(other)
    whole = (out / "tune.json").read_text()
    without = stored(out)
    del without["space"]["lars"]
    (out / "tune.json").write_text(json.dumps(without))
    for config in (other, coming_and_going(out, "lars"), coming_and_going(out, "tvlars", space=("lr=1:2",))):
        with pytest.raises(UsageError, match=r"tune\.json' must have the search space of lars, but does not"):
            quietly(config)
    assert stored(out) == without
    (out / "tune.json").write_text(whole)
    assert quietly(coming_and_going(out, "lars")).tuned[0].trials == 2


def test_a_journal_alone_does_not_say_what_it_is_of(reported: list[list[TrainConfig]], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    quietly(coming_and_going(whole, "lars"))
    out.mkdir()
    (whole / "study.journal").rename(out / "study.journal")
    with pytest.raises(UsageError, match=r"tune\.json' must have the search space of lars, but does not"):
        quietly(coming_and_going(out, "lars"))
    assert not (out / "tune.json").exists()


def test_nothing_is_in_the_journal_before_it_is_said_what_is_tuned(
    pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, nothing of one tuning may be taken for one of another."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune_folder, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            quietly(coming_and_going(tmp_path / "out", "lars", sampler="grid", trials=9))
    quietly(coming_and_going(tmp_path / "out", "lars"))
    quietly(coming_and_going(tmp_path / "new", "lars"))
    assert [run.lr for run in pretend[:2]] == [run.lr for run in pretend[2:]]


# -- trials that are refused, and grids --------------------------------------------------------------------


def waiting(out: Path) -> int:
    optuna = pytest.importorskip("optuna")
    study = optuna.load_study(study_name="lars", storage=open_storage(out / "study.journal"))
    return sum(trial.state == optuna.trial.TrialState.WAITING for trial in study.trials)


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_trial_that_is_refused_is_not_queued_for_ever(
    sampler: str, pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = coming_and_going(tmp_path / "out", "lars", sampler=sampler, trials=4)
    whole = quietly(coming_and_going(tmp_path / "whole", "lars", sampler=sampler, trials=4))
    expected = sorted(run.lr or 0 for run in pretend)
    refused = pretend[1].lr
    train = in_process.train

    def refuse(run: TrainConfig, **options: Any) -> Any:
        if run.lr == refused:
            raise UsageError("micro_batch_size must be smaller for this device's memory, got 1024")
        return train(run, **options)

    with monkeypatch.context() as patch:
        patch.setattr(in_process, "train", refuse)
        for vain in range(1, 4):
            with pytest.raises(UsageError, match="micro_batch_size must be smaller"):
                quietly(config)
            frame = pd.read_csv(tmp_path / "out" / "trials.csv")
            assert (frame["status"] == "refused").sum() == vain
            assert waiting(tmp_path / "out") == (2 if sampler == "grid" and vain == 1 else 0)
    mended = quietly(config)
    assert [(one.trials, one.best and one.best.params) for one in mended.tuned] == [
        (one.trials, one.best and one.best.params) for one in whole.tuned
    ]
    frame = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert sorted(frame[frame["status"] != "refused"]["lr"]) == pytest.approx(expected)


def test_a_trial_that_was_cut_off_as_it_diverged_counts_once(
    pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    config = coming_and_going(tmp_path / "out", "lars", space=("lr=1000:2000",))
    with monkeypatch.context() as patch:
        patch.setattr(search_module.Search, "_tell", killed)
        with pytest.raises(KeyboardInterrupt):
            quietly(config)
    result = quietly(config)
    assert [(one.trials, one.diverged) for one in result.tuned] == [(2, 2)]
    assert pd.read_csv(tmp_path / "out" / "trials.csv")["status"].tolist() == ["diverged", "diverged"]


def test_a_grid_is_never_sampled(pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = 1 + 1e-6  # closer than Optuna tells apart in its queue
    config = coming_and_going(tmp_path / "out", "lars", sampler="grid", trials=9, space=(f"lr=1:{close}",))
    quietly(config)
    assert sorted(run.lr or 0 for run in pretend) == pytest.approx([1 + 1e-6 * i / 8 for i in range(9)], rel=1e-12)
    monkeypatch.setattr(search_module.Search, "_queue_points", lambda _: None)
    with pytest.raises(RuntimeError, match="the search of lars has no queued point after 0 of 9 trials"):
        quietly(coming_and_going(tmp_path / "other", "lars", sampler="grid", trials=9))


def test_sigterm_says_that_the_same_command_goes_on(pretend: list[TrainConfig], tmp_path: Path) -> None:
    class Terminated(Reporter):
        def epoch(self, row: EpochRow) -> None:
            if len(pretend) == 2:
                raise PreemptedError("stopped by SIGTERM; what was measured is kept, and --resume continues")

    with pytest.raises(PreemptedError, match=r"^stopped by SIGTERM after 1 of 2 trials; the same command continues$"):
        tune(coming_and_going(tmp_path / "out", "lars"), announce=lambda _: None, reporter=Terminated, board=Board())
    assert quietly(coming_and_going(tmp_path / "out", "lars")).tuned[0].trials == 2


# -- real trials -------------------------------------------------------------------------------------------

WORDS = ["--optimizers", "tvlars", "lamb", "--trials", "4", "--epochs", "2", "--seeds", "0", "--accelerator", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.mark.usefixtures("forked_runs")
def test_a_killed_tuning_goes_on_and_reports_fresh_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, killed by SIGKILL in its trials, and called again."""
    out = tmp_path / "out"
    words = ["tune", *WORDS, "--out", str(out)]
    with Command(words, tmp_path, before=slow_disk) as killed:
        end = time.monotonic() + 120
        while not (out / "trials" / "lamb-001").is_dir():
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        killed.kill()
    assert main(words) == 0
    told = capsys.readouterr().out
    there = re.search(r"(\d) of 8 trials are already done", told)
    assert there is not None
    assert 3 <= int(there[1]) < 8
    frame = pd.read_csv(out / "trials.csv")
    counted = frame[frame["status"] != "interrupted"]
    assert counted.groupby("arm").size().to_dict() == {"lamb": 4, "tvlars": 4}
    stored = json.loads((out / "tune.json").read_text())
    for optimizer, row in zip(("tvlars", "lamb"), stored["results"], strict=True):
        best = stored["best"][optimizer]
        trial = load_run(out / "trials" / best["folder"])
        assert trial.config is not None
        assert (trial.config.seed, trial.validation_accuracy) == (1000, pytest.approx(best["accuracy"], rel=1e-6))
        assert best["params"]["lr"] == trial.config.lr == row["lr"]
        assert (row["optimizer"], row["seeds"], row["of"]) == (optimizer, 1, 1)
    reported = pd.read_csv(out / "final" / "results.csv")
    assert reported["seed"].tolist() == [0, 0]  # the tuning seed is in no table
    assert [row["accuracy"] for row in stored["results"]] == pytest.approx(reported["test_accuracy"].tolist())
    assert f"page: {out / 'final' / 'report.html'}" in told
    assert "<h1>Tuning of " in (out / "final" / "report.html").read_text()
    assert "trials.csv" in told.splitlines()[-1]


def test_the_journal_is_optunas_own(pretend: list[TrainConfig], tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    quietly(TuneConfig(base=TrainConfig(epochs=1), optimizers=("lars",), trials=3, out=tmp_path / "out"))
    study = optuna.load_study(study_name="lars", storage=open_storage(tmp_path / "out" / "study.journal"))
    assert len(study.trials) == 3
    assert study.best_value == pytest.approx(max(1 / (1 + abs(math.log2((run.lr or 1) / 8))) for run in pretend))


@pytest.mark.usefixtures("forked_runs")
def test_trials_of_several_workers_are_those_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of two optimizers at a time, each in a process of its own, are pruned as those in this process are."""
    monkeypatch.setattr(tuning_module, "sweep", lambda *_, **__: None)
    monkeypatch.setattr(search_module, "PRUNE_TRIALS", 1)
    base = TrainConfig(epochs=2, accelerator="cpu", batch_size=128)
    space = ("tvlars.lr=16,0.01", "lamb.lr=0.02,0.00001")  # the second ones learn nothing
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for workers in (1, 2):
        config = coming_and_going(
            tmp_path / str(workers), "tvlars", "lamb", base=base, space=space, sampler="grid", trials=2
        )
        assert [one.trials for one in quietly(config, workers=workers).tuned] == [2, 2]
    torch.set_num_threads(threads)
    one, other = (pd.read_csv(tmp_path / str(workers) / "trials.csv") for workers in (1, 2))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert one["status"].tolist() == ["finished", "pruned"] * 2
    assert (tmp_path / "2" / "trials" / "lamb-001.log").is_file()
    for name in other[other["status"] == "finished"]["folder"]:
        steps = [(tmp_path / str(workers) / "trials" / name / "steps.csv").read_bytes() for workers in (1, 2)]
        assert steps[0] == steps[1]


def test_a_trial_that_fails_is_tried_again_and_then_ends_the_command(
    pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, attempts = in_process.train, list[Path | None]()

    def failing(run: TrainConfig, **options: Any) -> Any:
        attempts.append(run.out)
        if len(attempts) in (2, 4, 5):
            raise RuntimeError("the device is gone")
        return train(run, **options)

    monkeypatch.setattr(in_process, "train", failing)
    words = f"tune --optimizers lars --trials 4 --epochs 1 --out {tmp_path / 'out'}".split()
    assert main(words) == 1
    folders = [path.name for path in attempts if path is not None]
    assert folders == ["lars-000", "lars-001", "lars-001", "lars-002", "lars-002"]
    captured = capsys.readouterr()
    assert "lars-001: RuntimeError: the device is gone, tried again (1 of 1)" in captured.out
    assert captured.err.endswith("tvlars: RuntimeError: the device is gone\n")
    assert (
        quietly(coming_and_going(tmp_path / "out", "lars", base=TrainConfig(epochs=1), trials=4)).tuned[0].trials == 4
    )
    assert [path.name for path in attempts[5:] if path is not None] == ["lars-002", "lars-003"]
    quietly(coming_and_going(tmp_path / "whole", "lars", base=TrainConfig(epochs=1), trials=4))
    assert history(tmp_path / "out") == history(tmp_path / "whole")
