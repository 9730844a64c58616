"""The journal of a tuning, and its folder, as a stranger may have made them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvlars.cli import main
from tvlars.lab import TrainConfig, TuneConfig, UsageError, sweep, tune
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.tuning.objective import Objective
from tvlars.lab.experiments.tuning.space import Choice, Range

optuna = pytest.importorskip("optuna")
journal_module = pytest.importorskip("tvlars.lab.experiments.tuning.journal")
SPACE = {"lars": {"lr": Range(1.0, 64.0, log=True), "momentum": Choice((0.8, 0.9))}}


def make_journal(file: Path) -> list[dict[str, Any]]:
    """A journal with two trials of lars; returns its records."""
    storage = journal_module.open_storage(file)
    study = optuna.create_study(storage=storage, study_name="lars", direction="maximize")
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("lr", 1.0, 64.0, log=True)
        trial.suggest_categorical("momentum", (0.8, 0.9))
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
    return [json.loads(line) for line in file.read_text().splitlines()]


def read(file: Path, spaces: Any = SPACE) -> Any:
    with journal_module.damage_said(file):
        storage = journal_module.open_storage(file)
        journal_module.check_trials(storage, spaces, Objective(), {}, {})
        return journal_module.kept(storage, Objective(), file.parent / "trials")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    file = tmp_path / "study.journal"
    make_journal(file)
    return file


def test_a_good_one(journal: Path) -> None:
    for spaces in (SPACE, {}):
        found = read(journal, spaces)
        assert [trial.value for trial in found["lars"]] == [0.5, 0.5]


@pytest.mark.parametrize("folder", ["../../mine", "/etc", "lamb-001", 7])
def test_no_journal_says_where_a_trial_is_trained(tmp_path: Path, folder: Any) -> None:
    file = tmp_path / "study.journal"
    records = make_journal(file)
    _attribute("folder", folder)(records)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [trial.folder for trial in read(file)["lars"]] == ["lars-000", "lars-001"]


def _changed(operation: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(records: list[dict[str, Any]]) -> None:
        # The last record of a kind that has the first of the values.
        name = next(iter(values))
        records[max(i for i, one in enumerate(records) if one["op_code"] == operation and name in one)].update(values)

    return change


def _attribute(name: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(records: list[dict[str, Any]]) -> None:
        end = max(i for i, one in enumerate(records) if one["op_code"] == 6)
        records.insert(end, {"op_code": 8, "worker_id": "w", "trial_id": 1, "user_attr": {name: value}})

    return change


def _system(name: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(records: list[dict[str, Any]]) -> None:
        end = max(i for i, one in enumerate(records) if one["op_code"] == 6)
        records.insert(end, {"op_code": 9, "worker_id": "w", "trial_id": 1, "system_attr": {name: value}})

    return change


def _parameter(name: str, value: Any, distribution: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(records: list[dict[str, Any]]) -> None:
        end = max(i for i, one in enumerate(records) if one["op_code"] == 6)
        record = {"op_code": 5, "worker_id": "w", "trial_id": 1, "param_name": name, "param_value_internal": value}
        records.insert(end, {**record, "distribution": distribution})

    return change


def _rate(records: list[dict[str, Any]]) -> None:
    for record in records:
        if record["op_code"] == 5 and record["param_name"] == "lr":
            record.update(distribution=FLOATS, param_value_internal=1e6)


FLOATS = '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1e9, "log": false}}'
TEXTS = '{"name": "CategoricalDistribution", "attributes": {"choices": ["imagefolder:/etc", [1], null]}}'
HOSTILE = {
    "an option": (_parameter("data", 0, TEXTS), "trial 1 of lars: 'data' is not searched"),
    "a rate": (_rate, "lr is 1000000.0, and 1 to 64 .logarithmic. is searched"),
    "queued options": (_system("fixed_params", {"out": "/etc"}), "'out' is not searched"),
    "queued list": (_system("fixed_params", [1]), "."),
    "a choice beyond": (_parameter("weight_decay", 7, TEXTS), "."),
    "a class": (_parameter("weight_decay", 0, '{"name": "os.system", "attributes": {}}'), "."),
    "accuracy": (_changed(6, values=[7.0]), "its accuracy after epoch 1 is 7.0"),
    "no accuracy": (_changed(6, values=[float("nan")]), "."),
    "text": (_changed(6, values=["x"]), "."),
    "two values": (_changed(6, values=[0.1, 0.2]), "."),
    "a state": (_changed(6, state=99), "."),
    "intermediate": (_changed(7, intermediate_value=1e9), "its accuracy after epoch 1 is"),
    "a step": (_changed(7, step=-4), "its accuracy after epoch -4"),
    "a step of text": (_changed(7, step="x"), "."),
    "an operation": (_changed(6, op_code=77), "line [0-9]+ has the operation 77"),
    "an operation of text": (_changed(6, op_code="1"), "line [0-9]+ has the operation '1'"),
    "another name": (_changed(0, study_name="mine"), "'mine' is no optimizer"),
    "direction": (_changed(0, directions=[1]), "does not maximize"),
    "two directions": (_changed(0, directions=[2, 2]), "does not maximize"),
    "a date": (_changed(6, datetime_complete="yesterday"), "."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_tuning_writes(tmp_path: Path, name: str) -> None:
    file = tmp_path / "study.journal"
    records = make_journal(file)
    change, said = HOSTILE[name]
    change(records)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UsageError, match=rf"study\.journal' must be the journal of a tuning, but cannot be .*{said}"):
        read(file)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/evil",)


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"{}", b"7", b'{"op_code": 1e999, "worker_id": "w"}', b"\xff\xfe",
     b'{"op_code": 0, "op_code": 1, "worker_id": "w"}', b'{"op_code": ' + b"9" * 5000 + b"}", pickle.dumps(Evil())],
)  # fmt: skip
def test_lines_that_are_no_records(journal: Path, line: bytes) -> None:
    before = journal.read_bytes()
    journal.write_bytes(before + line.replace(b"\n", b" ") + b"\n" + b'{"op_code": 4, "wor')
    there = journal.read_bytes()
    with pytest.raises(UsageError, match="must be the journal of a tuning, but cannot be read: line"):
        read(journal)
    assert journal.read_bytes() == there  # not a byte was cut off


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _link(file: Path) -> None:
    (file.parents[1] / "mine").write_text("mine")
    file.symlink_to(file.parents[1] / "mine")


def _dangling(file: Path) -> None:
    file.symlink_to(file.parents[1] / "new")


@pytest.mark.parametrize("how", [_pipe, _device, _link, _dangling, Path.mkdir])
@pytest.mark.parametrize("name", ["study.journal", "tune.json", ".lock", "trials"])
def test_files_of_a_tuning_that_are_none(tmp_path: Path, name: str, how: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if name != "tune.json":
        (out / "tune.json").write_text("{}")
    how(out / name)
    with pytest.raises(UsageError, match=r"tune\.json|study\.journal|\.lock"):
        tune(TuneConfig(optimizers=("lars",), trials=1, base=TrainConfig(epochs=1), out=out), announce=print)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["[]", "7", '{"base": 7}', '{"base": {}, "space": [1]}', "[" * 100_000, "NaN"])
def test_tune_json_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "tune.json").write_text(content)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["tune", "--optimizers", "lars", "--trials", "1", "--epochs", "1", "--out", str(tmp_path)])
    assert code == 2
    assert out.getvalue().count("\n") == 1
    assert "tune.json" in out.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) in (["tune.json"], [".lock", "tune.json"])


def test_runs_of_a_sweep_are_its_own(tmp_path: Path) -> None:
    run = TrainConfig(epochs=1, optimizer="sgd")
    (tmp_path / "mine").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "sweep.json").write_text("{}")
    (out / run_name(at_home(run))).symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="must be a folder of the sweep, but is a link that leaves it"):
        sweep([run], out)
    assert not list((tmp_path / "mine").iterdir())
