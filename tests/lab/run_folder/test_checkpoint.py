"""Checkpoints: a run that is cut off anywhere continues as if nothing had happened, and bad files are never used."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.command import CONTEXT, Command, slow_disk
from tests.lab.stops import StopAt
from tvlars.lab import DivergedError, LockedError, PreemptedError, TrainConfig, UsageError, load_run, train
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.files.disk import digest_of
from tvlars.lab.files.lock import locked
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.processes.launcher import _options as launch_options
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder import record
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.checkpoint import _prune
from tvlars.lab.run_folder.record import write_json
from tvlars.lab.run_folder.rows import StepRow
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(
    epochs=3, batch_size=128, precision="32-true", accelerator="cpu", checkpoint_every="2-steps"
)
TIMES = ["images_per_second", "seconds"]
"""Columns that are measured with a clock."""


def rows(folder: Path, name: str) -> pd.DataFrame:
    """A CSV file without what a clock measured."""
    frame = pd.read_csv(folder / name, dtype=str)
    return frame.drop(columns=[column for column in TIMES if column in frame])


def assert_same(a: Path, b: Path, *others: str) -> None:
    """Bit for bit: rows as they were written, and weights."""
    for name in ("steps.csv", "epochs.csv", *others):
        pd.testing.assert_frame_equal(rows(a, name), rows(b, name))
    first, second = (torch.load(folder / "weights.pt", weights_only=True) for folder in (a, b))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(optimizer="tvlars"),
        dict(optimizer="lamb", micro_batch_size=50, rotation=10.0),
        dict(optimizer="lars", warmup_epochs=1.0, layer_stats=2, log=("tensorboard",), noise_scale=True),
        dict(optimizer="adamw", augment=False, checkpoint_every="1-epoch"),
        dict(optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0),
        dict(optimizer="tvlars", task="byol", projector="32-32", evaluations="linear", layer_stats=1),
    ],
    ids=lambda options: f"{options['optimizer']}-{len(options)}",
)
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path: Path, few: ImageData, options: dict[str, Any]) -> None:
    config = TrainConfig(**{**QUICK, **options})
    train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    cut = replace(config, out=tmp_path / "cut")
    for reporter in (StopAt(step=8), StopAt(epoch=2), StopAt(step=13), Reporter()):  # the last one lets it finish
        try:
            train(cut, data=few, reporter=reporter)
        except SystemExit:
            (tmp_path / "cut" / "summary.json").unlink()  # what a killed process would not have written
        cut = replace(cut, resume=True)
    measured = [name for name in ("noise.csv", "representation.csv") if (tmp_path / "whole" / name).is_file()]
    assert_same(tmp_path / "whole", tmp_path / "cut", *measured)
    run = load_run(tmp_path / "cut")
    assert run.complete
    assert [entry["step"] for entry in run.environment["resumed"]] != []
    pd.testing.assert_frame_equal(run.layer_stats(), load_run(tmp_path / "whole").layer_stats())
    assert run.test_accuracy == load_run(tmp_path / "whole").test_accuracy


def test_dropout_goes_on_with_its_own_random_numbers(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    from tvlars.lab.models import MODELS

    def build(channels: int, size: int, classes: int) -> tuple[nn.Module, str]:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * size**2, classes)), "with dropout"

    monkeypatch.setitem(MODELS, "dropout", build)
    config = TrainConfig(model="dropout", **QUICK)
    train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    with pytest.raises(SystemExit):
        train(replace(config, out=tmp_path / "cut"), data=few, reporter=StopAt(step=7))
    train(replace(config, out=tmp_path / "cut", resume=True), data=few, reporter=Reporter())
    assert_same(tmp_path / "whole", tmp_path / "cut")


def run_quietly(config: TrainConfig) -> None:
    """In a process of its own, two steps per epoch."""
    torch.set_num_threads(1)
    slow_disk(0.01)
    data = load_data("digits")
    data = replace(data, train_images=data.train_images[:256], train_labels=data.train_labels[:256])
    train(config, data=data, reporter=Reporter())


@pytest.mark.slow
def test_kill_9_at_ten_random_moments(tmp_path: Path) -> None:
    """In training, in the test after an epoch and in a save: a save goes on most of the time here."""
    config = TrainConfig(
        out=tmp_path / "whole",
        **{**QUICK, "epochs": 40, "checkpoint_every": "1-steps"},
        resume=True,
    )
    whole = CONTEXT.Process(target=run_quietly, args=(config,))
    whole.start()
    moments, parts = random.Random(0), []
    cut = replace(config, out=tmp_path / "cut")
    saved = tmp_path / "cut" / "checkpoints"
    for moment in range(10):
        before = sorted(saved.glob("[0-9]*")) if saved.is_dir() else []
        child = CONTEXT.Process(target=run_quietly, args=(cut,))
        child.start()
        while child.is_alive() and sorted(saved.glob("[0-9]*")) == before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        while moment % 2 and child.is_alive() and not list(saved.glob(f"*{checkpoint.PART}")):
            time.sleep(0.0002)  # every second time, to the middle of a save
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, "it finished before it was killed"
        parts.append([path.name for path in saved.iterdir() if path.name.endswith(checkpoint.PART)])
    last = CONTEXT.Process(target=run_quietly, args=(cut,))
    last.start()
    for process in (last, whole):
        process.join()
        assert process.exitcode == 0
    assert any(parts)  # one at least was killed in a save
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_save_and_have_exit_codes(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["train", "--epochs", "100000", "--out", "run", "--accelerator", "cpu"]
    with Command(arguments, tmp_path, {**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        for line in child.stdout:
            if "     2/" in line:
                break
        child.send_signal(number)
        _, error = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert error == f"tvlars: stopped by {number.name}; what was measured is kept, and --resume continues\n"
    run = load_run(tmp_path / "run")
    assert run.status == "preempted"
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert checkpoint.check(saved).step == run.summary["steps"] == len(run.steps)


def test_a_second_sigterm_does_not_cut_off_what_is_written_last(tmp_path: Path, few: ImageData) -> None:
    """As where both a scheduler and a parent that dies send one."""

    class Terminated(Reporter):
        def step(self, row: StepRow) -> None:
            if row.step == 3:
                signal.raise_signal(signal.SIGTERM)

        def end(self, status: str) -> None:
            signal.raise_signal(signal.SIGTERM)
            ended.append(status)

    ended: list[str] = []
    with pytest.raises(PreemptedError):
        train(TrainConfig(out=tmp_path / "run", **QUICK), data=few, reporter=Terminated())
    assert ended == ["preempted"]
    assert load_run(tmp_path / "run").status == "preempted"


def test_an_ignored_signal_stays_ignored(tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SIGHUP is under nohup, and SIGINT in the background of a shell; in processes that are started, too."""

    raises = StopAt(step=3, error=partial(signal.raise_signal, signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(TrainConfig(out=tmp_path / "run", **QUICK), data=few, reporter=raises).epochs
        handled = launch_options(TrainConfig(devices=2), str(tmp_path)).signals_to_handle.split(",")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert sorted(handled) == ["SIGINT", "SIGTERM"]
    assert "SIGHUP" in launch_options(TrainConfig(devices=2), str(tmp_path)).signals_to_handle
    assert load_run(tmp_path / "run").complete


def test_a_signal_in_the_evaluation_is_obeyed_there(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "checkpoint_every": None})
    with pytest.raises(PreemptedError):
        train(config, data=few, reporter=StopAt(epoch=2, error=partial(signal.raise_signal, signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    train(replace(config, resume=True), data=few, reporter=Reporter())
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, few: ImageData) -> Path:
    """A run that was cut off, with checkpoints of steps 6 and 8."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(SystemExit):
        train(TrainConfig(out=folder, **QUICK), data=few, reporter=StopAt(step=9))
    (folder / "summary.json").unlink()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000000006", "000000008"]
    return folder


def resume(cut: Path, folder: Path, few: ImageData, stop: int = 0, **options: Any) -> str:
    """Go on from a copy of ``cut`` that was tampered with, to the end or to a step; what the user is told."""
    listens = StopAt(step=stop)
    with contextlib.suppress(SystemExit):
        train(TrainConfig(out=folder, resume=True, **{**QUICK, **options}), data=few, reporter=listens)
    return "\n".join(listens.lines)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def forge(path: Path, **entries: Any) -> None:
    """A manifest with a digest that fits."""
    manifest = checkpoint.Manifest(**entries)
    forged = replace(manifest, digest=digest_of(vars(manifest)))
    (path / "manifest.json").write_text(json.dumps(vars(forged)))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["tensors-0.bin", "tensors.json", "progress.json", "progress.bin", "manifest.json"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(
    tmp_path: Path, cut: Path, few: ImageData, damage: Any, name: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    damage(folder / "checkpoints" / "000000008" / name)
    said = resume(cut, folder, few, stop=7)
    assert "warning  checkpoint 000000008 is damaged (" in said
    assert "resumed  after step 6 of 15" in said
    taken = load_run(folder).steps
    pd.testing.assert_frame_equal(taken, load_run(cut).steps[: len(taken)])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, the lock aside."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if file.name != ".lock"}


def test_where_all_checkpoints_are_damaged_nothing_is_taken_away(tmp_path: Path, cut: Path, few: ImageData) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    for path in (folder / "checkpoints").iterdir():
        truncate(path / "manifest.json")
    before = contents(folder)
    with pytest.raises(
        UsageError, match=r"all are damaged: 000000008 \(.*\), 000000006 \(.*\)\. Move the run folder away"
    ):
        resume(cut, folder, few)
    assert contents(folder) == before


def others_config(folder: Path, _: ImageData) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 768}')
    (folder / "weights.pt").write_text("weeks of work")


def others_list(folder: Path, _: ImageData) -> None:
    (folder / "config.json").write_text("[1, 2]")


def others_checkpoints(folder: Path, _: ImageData) -> None:
    (folder / "checkpoints" / "7").mkdir(parents=True)
    (folder / "checkpoints" / "7" / "model.pt").write_text("weeks of work")


def a_comparison(folder: Path, _: ImageData) -> None:
    (folder / "config.json").write_text(json.dumps({"base": {}, "optimizers": ["lars"]}))
    (folder / "comparison.json").write_text("{}")


def a_picture(folder: Path, _: ImageData) -> None:
    (folder / "cat.png").write_text("meow")


def of_other_options(folder: Path, few: ImageData) -> None:
    options = {name: value for name, value in QUICK.items() if name != "checkpoint_every"}
    with pytest.raises(SystemExit):
        train(TrainConfig(out=folder, seed=5, **options), data=few, reporter=StopAt(step=9))
    (folder / "summary.json").unlink()


def finished_without_a_row(folder: Path, few: ImageData) -> None:
    options = {**QUICK, "checkpoint_every": None}
    train(TrainConfig(out=folder, **options), data=few, reporter=Reporter())
    file = folder / "epochs.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (others_config, "cannot be read: unknown option 'model_type'"),
        (others_list, "holds something else"),
        (others_checkpoints, "all are damaged"),
        (a_comparison, "cannot be read: unknown option 'base'"),
        (a_picture, "holds something else"),
        (of_other_options, "the config differs: seed 5 there, 0 here"),
        (finished_without_a_row, "has finished, lacks some of its results and has no checkpoint"),
    ],
)
def test_a_run_begins_over_nothing_that_is_not_its_own(
    tmp_path: Path, cut: Path, few: ImageData, make: Any, sentence: str
) -> None:
    (tmp_path / "run").mkdir()
    make(tmp_path / "run", few)
    before = contents(tmp_path / "run")
    with pytest.raises(UsageError, match=sentence):
        resume(cut, tmp_path / "run", few)
    assert contents(tmp_path / "run") == before


def test_a_run_that_was_cut_off_before_its_first_checkpoint_begins_anew(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "checkpoint_every": "3-epochs"}, layer_stats=2)
    with pytest.raises(SystemExit):
        train(config, data=few, reporter=StopAt(step=7))
    (tmp_path / "run" / "summary.json").unlink()
    train(replace(config, resume=True), data=few, reporter=Reporter())
    train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("lost", [["epochs.csv"], ["steps.csv"], ["config.json", "model.json", "plan.json"]], ids=str)
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_files_that_a_power_cut_took_are_made_again(
    tmp_path: Path, cut: Path, few: ImageData, lost: list[str], how: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    for name in lost:
        (folder / name).unlink()
        if how == "empty":
            (folder / name).touch()
    said = resume(cut, folder, few)
    run = load_run(folder)
    assert run.complete
    assert run.problems == ()
    assert run.model_facts()
    assert run.epochs["epoch"].tolist() == [1, 2, 3]
    # Checkpoints have the rows of all epochs, and those of the steps of the epoch that they are in.
    without = lost == ["steps.csv"]
    assert run.steps["step"].tolist() == list(range(6 if without else 1, 16))
    assert ("warning  steps.csv lacks 5 of the first 8 rows" in said) == without


def test_rows_before_a_checkpoint_are_on_the_disk_before_it(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses power keeps only what was synced: never a checkpoint without the rows before it."""
    synced: list[str] = []
    replaced = os.replace

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def replace_(a: Any, b: Any) -> None:
        synced.append(f"-> {Path(b).name}")
        replaced(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace_)
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "epochs": 1, "checkpoint_every": "1-epoch"})
    train(config, data=few, reporter=Reporter())
    saved = synced.index("-> 000000005")
    begun = max(i for i, name in enumerate(synced) if name == "-> epochs.csv")
    assert {"steps.csv", "epochs.csv", "progress.json", "manifest.json"} <= set(synced[begun:saved])


def test_a_run_that_was_cut_off_before_it_wrote_anything_begins(tmp_path: Path, few: ImageData) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    train(TrainConfig(out=tmp_path / "run", resume=True, **QUICK), data=few, reporter=Reporter())
    assert load_run(tmp_path / "run").complete


def test_what_differs_is_said(tmp_path: Path, cut: Path, few: ImageData) -> None:
    with pytest.raises(
        UsageError, match=r"the config differs: optimizer 'tvlars' there, 'lamb' here; take a new folder with --out$"
    ):
        resume(cut, cut, few, optimizer="lamb")
    with pytest.raises(UsageError, match=r"the config differs: epochs 3 there, 4 here; take a new folder with --out$"):
        resume(cut, cut, few, epochs=4)
    fewer = replace(few, train_images=few.train_images[:500], train_labels=few.train_labels[:500])
    with pytest.raises(UsageError, match=r"but have changed: class '0' had 62 training images, and has 40 now"):
        train(TrainConfig(out=cut, resume=True, **QUICK), data=fewer, reporter=Reporter())
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    path = folder / "checkpoints" / "000000008"
    manifest = json.loads((path / "manifest.json").read_text())
    (folder / "config.json").unlink()  # then the checkpoints alone say what they are of
    with pytest.raises(
        UsageError,
        match=r"checkpoint of this run, but its config differs: epochs 3 there, 4 here; take a new folder with --out$",
    ):
        resume(cut, folder, few, epochs=4)
    later = {**manifest, "format": 99, "tvlars": "7.0", "unheard_of": True}
    (path / "manifest.json").write_text(json.dumps({**later, "digest": digest_of(later)}))
    with pytest.raises(UsageError, match=r"must be a checkpoint of format 2 or 1.*format 99, written by tvlars '7\.0'"):
        resume(cut, folder, few)


def test_another_model_under_the_same_name_is_told_by_its_tensors(
    cut: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvlars.lab.models import MODELS, SmallResNet

    monkeypatch.setitem(MODELS, "small_resnet", lambda c, _, k: (SmallResNet(c, k, 1, width=8), "narrower"))
    with pytest.raises(
        UsageError, match=r"tensors differ: model\.stem\.weight is \(16, 1, 3, 3\) float32 there and \(8, 1"
    ):
        resume(cut, cut, few)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, notes = checkpoint.write_synced, []

    def full(file: Path, content: bytes) -> None:
        if file.parent.name.startswith("000000004"):
            raise OSError(28, "No space left on device")
        write(file, content)

    class Notes(StopAt):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(SystemExit):
        train(TrainConfig(out=tmp_path / "run", **QUICK), data=few, reporter=Notes(step=5))
    assert notes == ["checkpoint of step 4 could not be saved (No space left on device); earlier ones are kept"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000002"]


def test_a_full_disk_makes_rows_wait_and_loses_none(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, notes, full = os.write, [], True

    def no_room(handle: int, content: bytes) -> int:
        """A file that is full takes a part, and then no more."""
        if full:
            write(handle, content[:7])
            raise OSError(28, "No space left on device")
        return write(handle, content)

    class Frees(Reporter):
        def step(self, row: StepRow) -> None:
            nonlocal full
            full = 3 <= row.step < 8

        def note(self, text: str) -> None:
            notes.append(text)

    full = False
    monkeypatch.setattr(os, "write", no_room)
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "checkpoint_every": None})
    train(config, data=few, reporter=Frees())
    monkeypatch.undo()
    train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    assert_same(tmp_path / "whole", tmp_path / "run")
    waiting, written = notes
    assert waiting.endswith("csv: No space left on device; rows wait in memory, and the run continues")
    assert written == "all waiting rows are written, none is lost"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(handle: int) -> None:
        raise OSError(28, "No space left on device")

    write_json(tmp_path / "summary.json", {"status": "finished"})
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_json(tmp_path / "summary.json", {"status": "failed"})
    assert caught.value.filename == str(tmp_path / "summary.json")
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "finished"}


def test_a_finished_run_is_not_run_again(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "epochs": 1})
    first = train(config, data=few, reporter=Reporter())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*.*")}
    again = train(replace(config, resume=True), data=few, reporter=Reporter())
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*.*")} == before
    assert again.test_accuracy == pytest.approx(first.test_accuracy, rel=1e-6)
    assert again.epochs[-1].step == first.epochs[-1].step
    with pytest.raises(UsageError, match="the config differs: seed 0 there, 5 here"):
        train(replace(config, resume=True, seed=5), data=few, reporter=Reporter())


@pytest.mark.parametrize("renames", [1, 2], ids=["the old one is aside", "the new one is there"])
def test_a_kill_while_a_checkpoint_of_the_same_step_is_replaced_loses_neither(
    tmp_path: Path, cut: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    newest = folder / "checkpoints" / "000000008"
    shutil.rmtree(folder / "checkpoints" / "000000006")
    shutil.copytree(newest, newest.with_name(f"{newest.name}{checkpoint.PART}"))
    replaced, done = os.replace, []

    def replace_(a: Any, b: Any) -> None:
        if len(done) == renames:
            raise SystemExit
        done.append(a)
        replaced(a, b)

    monkeypatch.setattr(os, "replace", replace_)
    with contextlib.suppress(SystemExit):
        checkpoint._put_in_place(newest.with_name(f"{newest.name}{checkpoint.PART}"))
    monkeypatch.undo()
    assert "resumed  after step 8 of 15" in resume(cut, folder, few, stop=9)


def test_a_resumed_run_does_not_save_what_it_has_just_read(tmp_path: Path, cut: Path, few: ImageData) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    before = (folder / "checkpoints" / "000000008").stat().st_mtime_ns

    class Preempted(Reporter):
        def start(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with contextlib.suppress(PreemptedError, SystemExit):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # before the loop takes signals
        train(TrainConfig(out=folder, resume=True, **QUICK), data=few, reporter=Preempted())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert (folder / "checkpoints" / "000000008").stat().st_mtime_ns == before


@pytest.mark.parametrize("how", ["not mounted", "no folder"])
def test_checkpoints_that_cannot_be_looked_for_are_not_taken_for_none(
    tmp_path: Path, cut: Path, few: ImageData, how: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    (folder / "checkpoints").rename(tmp_path / "elsewhere")
    if how == "not mounted":
        (folder / "checkpoints").symlink_to(tmp_path / "scratch" / "checkpoints")
    else:
        (folder / "checkpoints").write_text("")
    before = contents(folder)
    with pytest.raises(UsageError, match=r"checkpoints must be a folder of checkpoints, but cannot be read: N"):
        resume(cut, folder, few)
    assert contents(folder) == before


def test_what_is_done_again_is_said(tmp_path: Path, cut: Path, few: ImageData) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    shutil.rmtree(folder / "checkpoints")
    said = resume(cut, folder, few, stop=1)
    assert "there is no checkpoint yet, so the run begins, and repeats epochs: 1" in said


def test_sigterm_while_sharpness_is_measured_is_obeyed_and_loses_no_measurement(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvlars.lab.measure import each_epoch as measure

    measured = measure.measure_noise

    def stopped(*arguments: Any, **options: Any) -> Any:
        if options["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return measured(*arguments, **options)

    config = TrainConfig(out=tmp_path / "run", noise_scale=True, **{**QUICK, "checkpoint_every": None})
    with monkeypatch.context() as patch, pytest.raises(PreemptedError):  # noqa: PT012
        patch.setattr(measure, "measure_noise", stopped)
        train(config, data=few, reporter=Reporter())
    assert len(load_run(tmp_path / "run").noise) == 1
    train(replace(config, resume=True), data=few, reporter=Reporter())
    train(replace(config, out=tmp_path / "whole"), data=few, reporter=Reporter())
    assert_same(tmp_path / "whole", tmp_path / "run", "noise.csv")


@pytest.mark.parametrize(
    ("options", "error"),
    [({}, PreemptedError), (dict(optimizer="sgd", lr=1e18, schedule="constant"), DivergedError)],
    ids=["preempted", "diverged"],
)
def test_why_a_run_ended_comes_before_what_a_full_disk_says_of_it(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type
) -> None:
    notes = []

    def no_room(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(file))

    class Full(Reporter):
        def step(self, row: StepRow) -> None:
            if row.step == 1:
                monkeypatch.setattr(record, "write_whole", no_room)
                if not options:
                    os.kill(os.getpid(), signal.SIGTERM)

        def note(self, text: str) -> None:
            notes.append(text)

    with pytest.raises(error):
        train(TrainConfig(out=tmp_path / "run", **{**QUICK, **options}), data=few, reporter=Full())
    name = "summary.json" if options else "weights.pt"
    assert notes[-1] == f"cannot write {tmp_path / 'run' / name}: No space left on device; the record is incomplete"


def test_layer_statistics_and_profiles_withhold_neither_checkpoints_nor_weights(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = []

    class Taken(Reporter):
        def step(self, row: StepRow) -> None:
            if row.step == 1:
                shutil.rmtree(tmp_path / "run" / "layer-stats")  # it is made again
            elif row.step == 5:
                (tmp_path / "run" / "trace.json.gz").mkdir()
                (tmp_path / "run" / "profile.json").mkdir()
            elif row.step == 7:
                shutil.rmtree(tmp_path / "run" / "layer-stats")
                (tmp_path / "run" / "layer-stats").touch()  # where nothing can be written

        def note(self, text: str) -> None:
            notes.append(text)

    config = TrainConfig(out=tmp_path / "run", layer_stats=1, profile=True, **QUICK)
    train(config, data=few, reporter=Taken())
    said = "\n".join(notes)
    assert "cannot write layer statistics: File exists; they wait in memory, and the run continues" in said
    assert "cannot write layer statistics: File exists; those of the last steps are lost" in said
    assert "trace.json.gz cannot be written: " in said
    assert "profile.json cannot be written: Is a directory" in said
    assert load_run(tmp_path / "run").complete
    assert (tmp_path / "run" / "weights.pt").is_file()
    assert "000000015" in [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]


def test_weights_that_are_there_are_kept_where_a_run_begins_anew(tmp_path: Path, cut: Path, few: ImageData) -> None:
    """A finished run that has lost its summary, or one that was cut off before that was written, says no more."""
    options = {**QUICK, "checkpoint_every": None}
    folder = tmp_path / "run"
    train(TrainConfig(out=folder, **options), data=few, reporter=Reporter())
    (folder / "summary.json").write_text('{"sta')
    weights = (folder / "weights.pt").read_bytes()
    said = resume(cut, folder, few, stop=1)
    assert "repeats epochs: 3; earlier weights are in weights-before.pt" in said
    assert (folder / "weights-before.pt").read_bytes() == weights


def test_a_kill_in_the_last_save_does_not_look_like_no_checkpoint(tmp_path: Path, few: ImageData) -> None:
    """With one checkpoint that is kept, its successor of the same step ready, and neither at its place."""
    config = TrainConfig(out=tmp_path / "run", checkpoint_keep=1, **{**QUICK, "epochs": 1})
    train(config, data=few, reporter=Reporter())
    saved = tmp_path / "run" / "checkpoints" / "000000005"
    shutil.copytree(saved, saved.with_name("000000005.old.part"))
    saved.rename(saved.with_name("000000005.part"))
    (tmp_path / "run" / "epochs.csv").write_text("")
    train(replace(config, resume=True), data=few, reporter=Reporter())
    assert load_run(tmp_path / "run").complete
    assert [path.name for path in saved.parent.iterdir()] == ["000000005"]


def test_a_checkpoint_of_an_earlier_version_lacks_options(tmp_path: Path, cut: Path, few: ImageData) -> None:
    """Options that an older checkpoint lacks had their defaults."""
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    path = folder / "checkpoints" / "000000008"
    manifest = json.loads((path / "manifest.json").read_text())
    for option in ("evaluations", "rotation"):
        del manifest["run"]["config"][option]
    forge(path, **manifest)
    assert "resumed  after step 8" in resume(cut, folder, few, stop=9)
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"its config differs: rotation 0\.0 there, 5\.0 here"):
        resume(cut, folder, few, rotation=5.0)


def test_a_run_that_was_interrupted_without_a_checkpoint_begins_anew(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "epochs": 1, "checkpoint_every": None})
    with pytest.raises(KeyboardInterrupt):
        train(config, data=few, reporter=StopAt(step=3, error=KeyboardInterrupt))
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)  # as if the disk had had no room
    train(replace(config, resume=True), data=few, reporter=Reporter())
    assert load_run(tmp_path / "run").complete


def test_lost_weights_of_a_finished_run_are_made_again_from_its_checkpoint(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(out=tmp_path / "run", **{**QUICK, "epochs": 1})
    train(config, data=few, reporter=Reporter())
    weights = (tmp_path / "run" / "weights.pt").read_bytes()
    (tmp_path / "run" / "weights.pt").unlink()
    train(replace(config, resume=True), data=few, reporter=Reporter())
    assert (tmp_path / "run" / "weights.pt").read_bytes() == weights


def test_evaluations_are_those_of_the_run(tmp_path: Path, few: ImageData) -> None:
    """Others would take the results away that are there, or be left out without a word."""
    options: dict[str, Any] = dict(task="simclr", projector="32", epochs=1, precision="32-true", accelerator="cpu")
    config = TrainConfig(out=tmp_path / "run", evaluations="knn", **options)
    train(config, data=few, reporter=Reporter())
    with pytest.raises(UsageError, match="config differs: evaluations 'knn' there, 'linear' here"):
        train(replace(config, evaluations="linear", resume=True), data=few, reporter=Reporter())


def test_one_process_at_a_time_in_a_run_folder(tmp_path: Path, cut: Path, few: ImageData) -> None:
    with locked(cut), pytest.raises(LockedError, match="out must be a folder that no other process uses"):
        resume(cut, cut, few)


def test_the_newest_are_kept(tmp_path: Path, few: ImageData) -> None:
    train(TrainConfig(out=tmp_path / "run", checkpoint_keep=3, **QUICK), data=few, reporter=Reporter())
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["000000012", "000000014", "000000015"]  # and one of the end


def test_damaged_ones_do_not_drive_out_those_that_are_written_after_them(tmp_path: Path) -> None:
    names = ["000000030", "000000031", "000000032", "000000040"]  # 40 was damaged, so the run went on from 30
    for name in names:
        (tmp_path / name).mkdir()
    _prune(tmp_path / "000000032", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000032", "000000040"]


@pytest.mark.parametrize(
    ("text", "interval"),
    [("5m", ("seconds", 300)), ("1.5h", ("seconds", 5400)), ("2-epochs", ("epochs", 2)), ("1-step", ("steps", 1))],
)
def test_intervals(text: str, interval: tuple[str, float]) -> None:
    assert TrainConfig(checkpoint_every=text).checkpoint_interval() == interval


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-1-steps", "0-epochs", "5 m", "1e3s", "2-batches"])
def test_bad_intervals(text: str) -> None:
    with pytest.raises(UsageError, match="checkpoint_every must be as 5m, 30s, 2-epochs or 100-steps"):
        TrainConfig(checkpoint_every=text)


def test_by_the_clock(tmp_path: Path, few: ImageData) -> None:
    """Due at once and always: as many checkpoints as steps."""
    config = TrainConfig(out=tmp_path / "run", checkpoint_keep=100, **{**QUICK, "checkpoint_every": "0.000001s"})
    train(config, data=few, reporter=Reporter())
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 15


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Leftovers of a kill are never taken for a checkpoint, and the next save removes them."""
    processes = Processes(make_fabric(TrainConfig(accelerator="cpu"), "32-true"))
    left = tmp_path / checkpoint.FOLDER / f"000000003{checkpoint.PART}"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text("{}")
    assert checkpoint.newest(tmp_path, pytest.fail) is None
    saved = checkpoint.save(tmp_path, 4, {"model": {"w": torch.ones(3)}}, {"step": 4}, {}, processes, keep=2)
    assert [path.name for path in saved.parent.iterdir()] == ["000000004"]
    room = {"model": {"w": torch.zeros(3)}}
    table = checkpoint.read_tensor_table(saved, checkpoint.check(saved))
    checkpoint.load_tensors(saved, table, room)
    assert torch.equal(room["model"]["w"], torch.ones(3))
