"""Loggers of a run: real ones, read back; those of the user; and what is said where one fails."""

from __future__ import annotations

import itertools
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.stops import StopAt
from tvlars.cli import main
from tvlars.lab import Grid, ImageData, Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.experiments.run_name import arguments, run_name
from tvlars.lab.imported import load_object
from tvlars.lab.run_folder.loggers import Loggers
from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import StepRow

QUICK: dict[str, Any] = dict(batch_size=128, epochs=2, precision="32-true", accelerator="cpu")
STEP = StepRow(1, 0.1, 2.0, 0.5, 1.0, 1.0)


class Kept:
    """A logger that keeps what it is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.options: dict[str, Any] = {}
        self.metrics: list[tuple[str, int, float]] = []
        self.ended: list[str] = []

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.options = params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics += [(name, step, value) for name, value in metrics.items()]

    def save(self) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.ended.append(status)

    def of(self, name: str) -> dict[int, float]:
        return {step: value for one, step, value in self.metrics if one == name}


# -- those of a user -----------------------------------------------------------------------------------------------


def test_a_logger_is_given_every_row(tmp_path: Path, few: ImageData) -> None:
    kept = Kept()
    config = TrainConfig(out=tmp_path / "run", layer_stats=3, noise_scale=True, **QUICK)
    train(config, data=few, reporter=Reporter(), loggers=[kept])
    run = load_run(tmp_path / "run")
    assert kept.options["optimizer"] == "tvlars"
    assert kept.options["plan"]["total_steps"] == 10
    assert kept.of("steps/loss") == pytest.approx(dict(zip(run.steps["step"], run.steps["loss"], strict=True)))
    assert list(kept.of("epochs/test_accuracy").values()) == pytest.approx(run.epochs["test_accuracy"].tolist())
    assert list(kept.of("noise/noise_scale")) == [5, 10]
    layer = next(name for name, *_ in kept.metrics if name.startswith("LWN/"))
    assert list(kept.of(layer)) == [1, 4, 7, 10]
    assert kept.of("results/test_accuracy") == pytest.approx({10: run.test_accuracy})
    assert all(value == value for _, _, value in kept.metrics)
    assert kept.ended == ["success"]


def test_evaluations_of_features_are_given_too(tmp_path: Path, few: ImageData) -> None:
    kept = Kept()
    options = dict(task="byol", projector="32-32", evaluations="knn,random-knn", out=tmp_path / "run")
    train(TrainConfig(**{**QUICK, **options, "epochs": 1}), data=few, reporter=Reporter(), loggers=[kept])
    found = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    for name in ("knn", "random-knn"):
        assert kept.of(f"evaluations/{name}/accuracy") == {5: found[name]["accuracy"]}
    assert list(kept.of("representation/feature_rank")) == [5]


def test_logging_changes_no_number(tmp_path: Path, few: ImageData) -> None:
    weights = []
    for name, log in (("with", ("tensorboard",)), ("without", ())):
        config = TrainConfig(out=tmp_path / name, log=log, layer_stats=3, **QUICK)
        train(config, data=few, reporter=Reporter(), loggers=[Kept()] if log else [])
        weights.append(torch.load(tmp_path / name / "weights.pt", weights_only=True))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_a_logger_that_fails_costs_one_note_and_not_the_run(tmp_path: Path, few: ImageData) -> None:
    class Breaks(Kept):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            if step == 6:
                raise ConnectionError("the server is away")
            super().log_metrics(metrics, step)

    reporter, broken, other = StopAt(), Breaks(), Kept()
    config = TrainConfig(out=tmp_path / "run", **QUICK)
    train(config, data=few, reporter=reporter, loggers=[broken, other])
    (said,) = [note for note in reporter.notes if "logger" in note]
    assert said.startswith(
        "the logger Breaks ends here, and the run continues without it: ConnectionError: the server is away, raised in "
    )
    assert "test_loggers.py, line " in said
    assert max(step for _, step, _ in broken.metrics) == 5
    assert broken.ended == []
    assert len(other.of("steps/loss")) == 10
    assert load_run(tmp_path / "run").complete


def test_a_run_that_does_not_finish_ends_as_failed(tmp_path: Path, few: ImageData) -> None:
    kept = Kept()
    config = TrainConfig(out=tmp_path / "run", checkpoint_every="1-epoch", **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(config, data=few, reporter=StopAt(step=7, error=KeyboardInterrupt), loggers=[kept])
    assert kept.ended == ["failed"]
    assert not kept.of("results/test_accuracy")


def test_a_function_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from lightning_fabric.loggers import CSVLogger\n"
        "def rows(folder):\n    return CSVLogger(folder, name='csv', version='')\n"
        "def broken(folder):\n    return 1 / 0\n"
        "def nothing(folder):\n    return []\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["train", "--epochs", "1", "--accelerator", "cpu", "--log", "./mine.py:rows", "--out"]
    assert main([*words, "run"]) == 0
    lines = (tmp_path / "run" / "csv" / "metrics.csv").read_text().splitlines()
    assert "epochs/test_accuracy" in lines[0]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["log"] == [f"{file}:rows"]
    words[-2] = "./mine.py:broken"
    capsys.readouterr()
    assert main([*words, "broken"]) == 1
    said = capsys.readouterr().err
    assert "return 1 / 0" in said
    assert "src/tvlars" not in said
    words[-2] = "./mine.py:nothing"
    assert main([*words, "nothing"]) == 2
    assert "got a list, which has no log_metrics" in capsys.readouterr().err


# -- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (("wandbb",), "unknown logger 'wandbb': did you mean 'wandb'"),
        (("wandb", "wandb"), "log must not repeat"),
        ("wandb", "log must be a list"),
        ((3,), "unknown logger '3'"),
    ],
)
def test_a_bad_option(log: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(log=log)


@pytest.mark.parametrize(
    ("loggers", "said"),
    [
        ([object()], r"objects with the methods of Lightning's Logger \(log_metrics, .*\), got a object, which has no"),
        ([Kept], "got the class Kept"),
        ("wandb", "loggers must be a list of loggers, got 'wandb'"),
    ],
)
def test_an_object_that_is_no_logger(tmp_path: Path, few: ImageData, loggers: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(TrainConfig(out=tmp_path / "run", **QUICK), data=few, reporter=Reporter(), loggers=loggers)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_logger_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = sys.modules["tvlars.lab.run_folder.loggers"].find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "tvlars.lab.run_folder.loggers.find_spec", lambda package: None if package == name else found(package)
    )
    assert main(["train", "--log", name, "--out", str(tmp_path / "run")]) == 2
    extra = "lab" if name == "tensorboard" else "loggers"
    assert f"log {name} needs the package {name}, which is not installed: pip install '.[{extra}]'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_a_stored_config_of_an_earlier_version_is_read() -> None:
    assert TrainConfig.from_mapping({"tensorboard": True}).log == ("tensorboard",)
    assert TrainConfig.from_mapping({"tensorboard": False}).log == ()
    stored = TrainConfig(log=("wandb", "mlflow"))
    assert TrainConfig.from_mapping(json.loads(stored.to_json())) == stored


def test_files_of_loggers_stay_in_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="must lie in the run folder, but is a link that leaves it"):
        Loggers(tmp_path / "run", ["wandb"], [], {}, 0, print, lambda: None)


# -- TensorBoard ---------------------------------------------------------------------------------------------------


def test_tensorboard_ends_where_the_disk_fails_it_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    record = Record(tmp_path, said.append)
    loggers = Loggers(tmp_path, ["tensorboard"], [], {}, 0, record.tell, record.check_place)
    loggers.open({})
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", no_room)
    for _ in range(2):
        loggers.add("steps", [STEP])
    loggers.close(True, {})
    (sentence,) = said
    assert sentence.startswith(
        "the logger tensorboard ends here, and the run continues without it: No space left on device"
    )


# -- Weights & Biases and MLflow -----------------------------------------------------------------------------------


def offline_records(folder: Path) -> Iterator[Any]:
    """Records in the log of an offline run of wandb: blocks of 32 KiB, of pieces with checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(records: list[Any], name: str) -> list[tuple[int, float]]:
    """Step and value of a metric in each row that has it."""
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    return [(row["trainer/global_step"], row[name]) for row in rows if name in row]


@pytest.mark.slow
def test_wandb_and_mlflow_have_every_row_once_after_a_resume(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra 'loggers' is not installed")
    mlflow = pytest.importorskip("mlflow", reason="the extra 'loggers' is not installed")
    for name in ("MLFLOW_TRACKING_URI", "WANDB_DIR", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_PROJECT", "trials")
    tracking = mlflow.get_tracking_uri()
    folder = tmp_path / "some run"
    config = TrainConfig(
        out=folder, log=("wandb", "mlflow", "tensorboard"), noise_scale=True, checkpoint_every="7-steps", **QUICK
    )
    first = StopAt(epoch=2)
    with pytest.raises(SystemExit):
        train(config, data=few, reporter=first)
    (folder / "summary.json").unlink()  # as if it had been killed; rows of the second epoch are taken again
    second = StopAt()
    train(replace(config, resume=True), data=few, reporter=second)
    assert second.lines[-1].startswith("resumed  after step 7")
    assert not [note for note in (*first.notes, *second.notes) if "logger" in note]
    run = load_run(folder)
    losses = dict(zip(run.steps["step"], run.steps["loss"], strict=True))

    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    records = list(itertools.chain.from_iterable(map(offline_records, parts)))
    runs = [record.run for record in records if record.HasField("run")]
    assert {(one.run_id, one.display_name, one.project) for one in runs} == {
        (json.loads((folder / "loggers.json").read_text())["wandb"]["id"], "some run", "trials")
    }
    assert [step for step, _ in history(records, "steps/loss")] == list(range(1, 11))
    assert dict(history(records, "steps/loss")) == pytest.approx(losses)
    assert len(history(records, "epochs/test_accuracy")) == len(history(records, "noise/noise_scale")) == 2
    options = {item.key: item.value_json for record in records for item in record.config.update}
    assert json.loads(options["batch_size"]) == 128
    assert json.loads(options["plan"])["total_steps"] == 10

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tvlars")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("some run", "FINISHED")
    assert found.data.params["batch_size"] == "128"
    assert found.data.params["plan/total_steps"] == "10"
    kept = [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "steps/loss")]
    assert [step for step, _ in sorted(kept)] == list(range(1, 11))
    assert dict(kept) == pytest.approx(losses)
    assert found.data.metrics["epochs/test_accuracy"] == pytest.approx(run.test_accuracy)
    assert mlflow.get_tracking_uri() == tracking

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("steps/loss")] == list(range(1, 11))


# -- sets of runs --------------------------------------------------------------------------------------------------


def test_each_run_of_a_comparison_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.lab.run_folder.test_loggers import Kept\n"
        "made = []\n"
        "def keep(folder):\n    made.append(Kept(folder))\n    return made[-1]\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--epochs", "1", "--optimizers", "tvlars", "sgd", "--seeds", "0", "--accelerator", "cpu"]
    assert main([*words, "--log", "./mine.py:keep", "tensorboard", "--out", "all"]) == 0
    made = load_object("./mine.py:keep", "log").__globals__["made"]
    assert [one.options["optimizer"] for one in made] == ["tvlars", "sgd"]
    assert all(one.ended == ["success"] for one in made)
    assert all(any((one.folder / "tensorboard").iterdir()) for one in made)


def test_a_grid_and_the_processes_of_its_runs_have_the_option() -> None:
    grid = Grid.from_mapping({"base": {"log": "tensorboard, mlflow"}, "grid": {"seed": [0, 1]}})
    assert {run.log for run in grid.runs} == {("tensorboard", "mlflow")}
    assert Grid.from_mapping({"base": {"log": ["wandb"]}}).runs[0].log == ("wandb",)
    words = arguments(grid.runs[0], Path("run"))
    assert words[words.index("--log") :][:3] == ["--log", "tensorboard", "mlflow"]
    assert run_name(grid.runs[0]) == run_name(replace(grid.runs[0], log=()))
    with pytest.raises(UsageError, match="log must be in base"):
        Grid.from_mapping({"grid": {"log": ["wandb", "mlflow"]}})


def test_a_sweep_may_be_given_loggers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.yaml").write_text("base: {epochs: 1}\ngrid: {seed: [0, 1]}\n")
    words = ["sweep", str(tmp_path / "some.yaml"), "--out", str(tmp_path / "out"), "--dry-run", "--log"]
    assert main([*words, "tensorboard"]) == 0
    assert "2 runs, 2 to do" in capsys.readouterr().out
    assert main([*words, "tensorbord"]) == 2
    assert "unknown logger 'tensorbord': did you mean 'tensorboard'" in capsys.readouterr().err
