"""A run whose folder is moved away, and replaced by another, writes nothing into the other one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tvlars import LARS, plan
from tvlars.cli import main
from tvlars.lab import TrainConfig, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.errors import MovedFolderError, UsageError
from tvlars.lab.measure.layer_stats import RunStats
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import checkpoint, tensors
from tvlars.lab.run_folder.loggers import Loggers
from tvlars.lab.run_folder.record import Record, new_folder
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.lab.training.profile import Phases
from tvlars.lab.training.progress import LineReporter, Reporter

QUICK: dict[str, Any] = dict(epochs=2, precision="32-true", accelerator="cpu", checkpoint_every="2-steps")
SENTENCE = "must stay the folder of this run, but it was moved or removed"


def exchange(folder: Path, by: str = "another") -> None:
    """Move ``folder`` to NAME-moved, and put another one, or nothing, in its place."""
    folder.rename(folder.with_name(f"{folder.name}-moved"))
    if by == "another":
        for name in ("checkpoints", "layer-stats", "tensorboard"):
            (folder / name).mkdir(parents=True)
        (folder / "steps.csv").write_text("another's")
        (folder / ".lock").touch()
    elif by == "a file":
        folder.write_text("another's")


def untouched(folder: Path, by: str = "another") -> bool:
    """Say if what :func:`exchange` put there is as it was."""
    if by == "nothing":
        return not folder.exists()
    if by == "a file":
        return folder.read_text() == "another's"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return names == [".lock", "checkpoints", "layer-stats", "steps.csv", "tensorboard"] and (
        (folder / "steps.csv").read_text() == "another's"
    )


STEP = StepRow(1, 0.1, 1.0, 0.5, 0.1, 1.0)
EPOCH = EpochRow(1, 1, 1.0, 0.5, 1.0, 0.5, 10.0, 1.0)
CONFIG = TrainConfig(accelerator="cpu")
PLAN = plan(256, 60_000, 1)
WRITERS: dict[str, Callable[[Record], object]] = {
    "begin": lambda record: record.begin(CONFIG, PLAN, {}, {}),
    "reopen": lambda record: record.reopen(CONFIG, PLAN, {}, {}, 1, [], [STEP]),
    "open_loggers": lambda record: record.open_loggers(),
    "steps": lambda record: record.add([STEP], None),
    "epochs": lambda record: record.add([], EPOCH),
    "measurement": lambda record: record.add_measurement("noise.csv", STEP),
    "flush": lambda record: record.flush(),
    "durable": lambda record: record.flush(durable=True),
    "evaluations": lambda record: record.add_evaluations({"linear": Evaluated(0.5, 10, 1.0)}),
    "finish": lambda record: record.finish("finished"),
    "correct": lambda record: record.save_correct(torch.ones(3, dtype=torch.bool)),
    "weights": lambda record: record.save_weights({"w": torch.ones(2)}),
}


def test_every_writer_of_a_record_is_tried() -> None:
    public = {name for name in vars(Record) if not name.startswith("_")} - {"check_place"}
    tried = {"steps": "add", "epochs": "add", "measurement": "add_measurement", "durable": "flush"}
    tried.update(evaluations="add_evaluations", correct="save_correct", weights="save_weights")
    assert public == {tried.get(name, name) for name in WRITERS}


@pytest.mark.parametrize("by", ["another", "nothing", "a file"])
@pytest.mark.parametrize("name", list(WRITERS))
def test_a_record(tmp_path: Path, name: str, by: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder, print)
    exchange(folder, by)
    with pytest.raises(MovedFolderError, match=SENTENCE):
        WRITERS[name](record)
    assert untouched(folder, by)


def test_a_folder_that_comes_back_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder, print)
    folder.rename(tmp_path / "away")
    (tmp_path / "away").rename(folder)
    record.finish("finished")
    assert (folder / "summary.json").is_file()


def test_a_folder_that_was_taken_away_and_made_anew_is_another(tmp_path: Path) -> None:
    """Its number on the file system would be free, were the folder not held."""
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder, print)
    folder.rmdir()
    folder.mkdir()
    with pytest.raises(MovedFolderError):
        record.finish("finished")
    assert list(folder.iterdir()) == []


def test_layer_statistics(tmp_path: Path) -> None:
    folder, model = tmp_path / "run", nn.Linear(2, 2)
    folder.mkdir()
    record, optimizer = Record(folder, print), LARS(model.parameters(), lr=0.1)
    stats = RunStats(record, optimizer, model, every=1, buffer=2)
    exchange(folder)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for work in (stats.try_flush, optimizer.step, stats.close):
        with pytest.raises(MovedFolderError):
            work()
    assert untouched(folder)


def test_loggers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder, print)
    begun, new = (Loggers(folder, ["tensorboard"], [], {}, 0, print, record.check_place) for _ in range(2))
    begun.open({})
    begun.add("steps", [STEP])
    exchange(folder)
    for loggers in (begun, new):
        with pytest.raises(MovedFolderError):
            loggers.add("epochs", [EPOCH])
    with pytest.raises(MovedFolderError):
        begun.close(True, {})
    new.close(True, {})
    assert untouched(folder)


@pytest.mark.parametrize("steps", [1, 8])
def test_profiles(tmp_path: Path, steps: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder, print)
    phases = Phases(record, torch.device("cpu"))
    for _ in range(steps - 1):
        phases.step()
    exchange(folder)
    with pytest.raises(MovedFolderError):
        phases.step() if steps == 8 else phases.finish()
    assert untouched(folder)


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a save, and while one is written: what the other folder has of that name is not swept away."""
    processes = Processes(make_fabric(CONFIG, "32-true"))
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder, print)

    def save() -> None:
        checkpoint.save(folder, 4, {"model": {"w": torch.ones(2)}}, {}, {}, processes, 1, record.check_place)

    written = tensors.write

    def moved_meanwhile(*arguments: Any) -> Any:
        found = written(*arguments)
        exchange(folder)
        (folder / "checkpoints" / "000000004.part").mkdir()
        shutil.copy(
            tmp_path / "run-moved" / "checkpoints" / "000000004.part" / "tensors-0.bin",
            folder / "checkpoints" / "000000004.part",
        )
        return found

    monkeypatch.setattr(tensors, "write", moved_meanwhile)
    with pytest.raises(MovedFolderError):
        save()
    monkeypatch.undo()
    assert (folder / "checkpoints" / "000000004.part" / "tensors-0.bin").is_file()
    shutil.rmtree(folder / "checkpoints" / "000000004.part")
    with pytest.raises(MovedFolderError):
        save()
    assert untouched(folder)


class Exchanges(Reporter):
    """Exchanges the folder after a step, or an epoch."""

    def __init__(self, folder: Path, step: int = 0, epoch: int = 0, by: str = "another") -> None:
        self.folder, self.at_step, self.at_epoch, self.by = folder, step, epoch, by

    def step(self, row: StepRow) -> None:
        if row.step == self.at_step:
            exchange(self.folder, self.by)

    def epoch(self, row: EpochRow) -> None:
        if row.epoch == self.at_epoch:
            exchange(self.folder, self.by)


@pytest.mark.parametrize(
    ("when", "options"),
    [
        (dict(step=3), {}),
        (dict(step=3, by="nothing"), {}),
        (dict(step=3, by="a file"), {}),
        (dict(step=3), dict(checkpoint_every=None)),
        (dict(step=10), dict(checkpoint_every=None)),
        (dict(epoch=2), dict(checkpoint_every=None)),
        (dict(epoch=1), dict(checkpoint_every=None, noise_scale=True)),
        (dict(step=2), dict(layer_stats=1, log=("tensorboard",), profile=True)),
        (dict(epoch=2), dict(layer_stats=1, log=("tensorboard",), profile=True, checkpoint_every=None)),
        (dict(epoch=2), dict(task="byol", projector="32-32", evaluations="linear")),
    ],
    ids=str,
)
def test_a_run(tmp_path: Path, digits: ImageData, when: dict[str, Any], options: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    config = TrainConfig(out=folder, **{**QUICK, **options})
    with pytest.raises(MovedFolderError, match=SENTENCE):
        train(config, data=digits, reporter=Exchanges(folder, **when))
    assert untouched(folder, when.get("by", "another"))
    moved = load_run(tmp_path / "run-moved")
    assert moved.status == "unfinished"
    assert len(moved.epochs) == (when.get("epoch", 2 if when.get("step", 0) == 10 else 1) - ("step" in when))


def test_a_probe(tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a probe go into the run folder that it has read."""
    from tvlars.lab.measure import probe_run

    folder = tmp_path / "run"
    config = TrainConfig(out=folder, task="byol", projector="32-32", evaluations="none", **{**QUICK, "epochs": 1})
    train(config, data=digits, reporter=Reporter())

    def found(*_: Any, **__: Any) -> Any:
        exchange(folder)
        return [("knn", Evaluated(0.5, 10, 1.0), None)]

    monkeypatch.setattr(probe_run, "evaluate_features", found)
    with pytest.raises(MovedFolderError):
        probe_run.probe_run(folder, evaluations="knn", device="cpu")
    assert untouched(folder)


def test_at_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def step(reporter: LineReporter, row: StepRow) -> None:
        if row.step == 3:
            exchange(folder)

    monkeypatch.setattr(LineReporter, "step", step)
    assert (
        main(["train", "--epochs", "1", "--accelerator", "cpu", "--checkpoint-every", "2-steps", "--out", str(folder)])
        == 1
    )
    assert untouched(folder)
    error = capsys.readouterr().err
    assert error.startswith(f"tvlars: {folder} {SENTENCE}")
    assert len(error.splitlines()) == 1


def test_a_folder_that_holds_a_lock_alone_is_empty(tmp_path: Path) -> None:
    """A run that ended before it began has left it."""
    (tmp_path / ".lock").touch()
    assert new_folder(tmp_path, "run") == tmp_path
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="holds something already"):
        new_folder(tmp_path, "run")
