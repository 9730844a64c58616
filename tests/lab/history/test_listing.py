"""The list of runs: what is found, how it is filtered and sorted, and how it is printed."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.lab.history.folders import write_run
from tvlars.cli import main
from tvlars.lab import UsageError, list_runs
from tvlars.lab.config import names_of
from tvlars.lab.history.listing import NO_SETTING, Listing
from tvlars.lab.options import Is


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Runs of a comparison and alone, one interrupted, beside folders that are no readable runs."""
    study = tmp_path / "study"
    compared = study / "compare"
    for seed in (0, 9, 10):
        write_run(compared / f"lars-b256-s{seed}", 0.80 + seed / 100, optimizer="lars", seed=seed)
    (compared / "config.json").write_text(json.dumps({"base": {}, "optimizers": ["lars"]}))
    write_run(study / "big", 0.75, batch_size=1024, lr=4.0, nesterov=False, weight_decay=0.1)
    write_run(study / "big" / "kept" / "copy")
    write_run(study / "cut", None, optimizer="sgd")
    (study / "bert").mkdir()
    (study / "bert" / "config.json").write_text('{"hidden_size": 768}')
    damaged = write_run(study / "damaged")
    (damaged / "config.json").write_text("{")
    (study / "damaged" / "checkpoints").mkdir()
    no_config = write_run(study / "lost")
    (no_config / "config.json").unlink()
    return study


def names(folder: Path, *where: str, sort: Any = ()) -> list[str]:
    return [Path(path).name for path in list_runs(folder, where=where, sort=sort)["folder"]]


def test_all_runs_below_a_folder_are_found_each_once(study: Path, tmp_path: Path) -> None:
    assert names(study) == ["big", "lars-b256-s0", "lars-b256-s9", "lars-b256-s10", "cut"]
    assert names(study / "big") == ["big"]
    assert len(Listing.read([study, study / "compare", study / "big"]).rows) == 5
    frame = list_runs(study).set_index("folder")
    row = frame.loc[str(study / "compare" / "lars-b256-s9")]
    assert (row["test_accuracy"], row["lr"], row["epochs_done"], row["status"]) == (0.89, 16.0, 3, "finished")
    assert frame.loc[str(study / "big"), "lr"] == 4.0
    cut = frame.loc[str(study / "cut")]
    assert (cut["status"], cut["epochs_done"], cut["epochs"]) == ("unfinished", 1, 3)


def test_other_folders_are_counted(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = write_run(tmp_path / "elsewhere" / "run")
    (study / "link").symlink_to(elsewhere.parent)
    (study / "loop").symlink_to(study)
    assert main(["runs", str(study)]) == 0
    out = capsys.readouterr().out
    assert f"left out: 1 folder, a link to another folder; name that folder to list it: {study / 'link'}\n" in out
    assert f"left out: 1 folder, config.json does not belong to a run: {study / 'bert'}\n" in out
    assert f"left out: 1 folder, config.json is missing: {study / 'lost'}\n" in out
    assert "left out: 1 folder, config.json cannot be read (" in out
    assert "5 runs\n" in out
    assert len(list_runs(study / "link")) == 1


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("optimizer=lars", ["lars-b256-s0", "lars-b256-s9", "lars-b256-s10"]),
        ("optimizer!=l*", ["big", "cut"]),
        ("batch-size>=512", ["big"]),
        ("batch_size=1024", ["big"]),
        ("seed<10", ["big", "lars-b256-s0", "lars-b256-s9", "cut"]),
        ("lr > 4", ["lars-b256-s0", "lars-b256-s9", "lars-b256-s10", "cut"]),
        ("weight-decay=1e-1", ["big"]),
        ("test-accuracy>85%", ["lars-b256-s9", "lars-b256-s10"]),
        ("test-accuracy<=0.8", ["big", "lars-b256-s0"]),
        ("test-accuracy=none", ["cut"]),
        ("test-accuracy!=none", ["big", "lars-b256-s0", "lars-b256-s9", "lars-b256-s10"]),
        ("nesterov=false", ["big"]),
        ("status=finished", ["big", "lars-b256-s0", "lars-b256-s9", "lars-b256-s10"]),
        ("started>2026-11-30", []),
        ("started>=2026-11", ["big", "lars-b256-s0", "lars-b256-s9", "lars-b256-s10", "cut"]),
        ("folder=*/compare/*", ["lars-b256-s0", "lars-b256-s9", "lars-b256-s10"]),
        ("optimizer=[ls]*", []),
    ],
)
def test_conditions_compare_numbers_as_numbers(where: str, found: list[str], study: Path) -> None:
    assert names(study, where) == found
    assert names(study, where, "seed=0") == [name for name in found if "s9" not in name and "s10" not in name]


def test_an_empty_time_is_not_before_others(study: Path) -> None:
    (study / "big" / "environment.json").unlink()
    assert "big" not in names(study, "started<2027")
    assert names(study, "started!=2026-11-29", "optimizer!=none") == ["big"]


def test_runs_are_sorted_with_empty_cells_last(study: Path) -> None:
    ascending = ["big", "lars-b256-s0", "lars-b256-s9", "lars-b256-s10", "cut"]
    assert names(study, sort="test-accuracy") == ascending
    assert names(study, sort="-test-accuracy") == [*reversed(ascending[:-1]), "cut"]
    assert names(study, sort=["-optimizer", "-seed"]) == ["big", "cut", *reversed(ascending[1:4])]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--where", "batch-siz=3"], "unknown column of runs 'batch-siz': did you mean 'batch-size'"),
        (["--where", "optimizer"], "where must be conditions as 'optimizer=lars' 'batch-size>=512', in quotes"),
        (["--where", "batch-size>many"], "where batch-size>many must compare with a number, got 'many'"),
        (["--where", "test-accuracy>90"], "must compare with a fraction or a percentage, as 0.9 or 90%, got 90"),
        (["--where", "model>a"], "must compare with = or !=, since model is text"),
        (["--where", "nesterov=1"], "must be = or != true or false"),
        (["--where", "lr>none"], "must compare with a value"),
        (["--sort", "-accuracy"], "unknown column of runs 'accuracy': did you mean 'test-accuracy'"),
        (["--columns", "lrr"], "unknown column of runs 'lrr': did you mean 'lr'"),
        (["--format", "cvs"], "unknown format 'cvs': did you mean 'csv'?"),
        (["--format", "json", "-o", "x.csv"], "format must be csv for a file 'x.csv', got 'json'"),
        (["-o", "x.txt"], "out must end in .csv or .json, got 'x.txt'"),
        (["--wher", "a=b"], "unknown argument '--wher' of runs: did you mean --where?"),
        (["nowhere"], "runs must be in an existing folder, got 'nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], sentence: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(study), *words] if words != ["nowhere"] else ["runs", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_list_is_written_as_csv_and_json(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["runs", str(study), "--sort", "-test-accuracy", "--columns", "lr", "test-accuracy"]
    assert main([*words, "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.reader(io.StringIO(printed)))
    assert rows[0] == ["folder", "status", "lr", "test_accuracy"]
    assert rows[1] == [str(study / "compare" / "lars-b256-s10"), "finished", "16.0", "0.9"]
    assert main([*words, "-o", str(tmp_path / "x.csv")]) == 0
    assert (tmp_path / "x.csv").read_text() == printed
    for _ in range(2):  # over the file that the command has written
        assert main(["runs", str(study), "--where", "seed>0", "-o", str(tmp_path / "x.json")]) == 0
    stored = json.loads((tmp_path / "x.json").read_text())
    assert [run["seed"] for run in stored["runs"]] == [9, 10]
    assert len(stored["left_out"]) == 3
    (tmp_path / "mine.csv").write_text("a,b\n")
    assert main([*words, "-o", str(tmp_path / "mine.csv")]) == 2
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


def test_the_table_has_what_differs_and_fits(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["runs", str(study / "compare")]) == 0
    out = capsys.readouterr().out
    head = out.splitlines()[1].replace("┃", " ").split()
    assert head == ["folder", "seed", "test", "accuracy", "started"]
    alike = "all of them: finished, optimizer lars, model small_resnet, data digits, batch size 256, lr 16, epochs done"
    assert f"{alike} 3\n" in out
    assert "89.00 %" in out
    monkeypatch.setenv("COLUMNS", "66")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("tvlars.lab.console.is_terminal", lambda stream: True)
    monkeypatch.chdir(study)
    assert main(["runs", "compare", "big", "--where", "seed<10"]) == 0
    out = capsys.readouterr().out
    assert "nesterov" not in out.splitlines()[1]
    *_, missing = out.partition("not shown for lack of room: ")
    assert " ".join(missing.split()).startswith(
        "weight decay, nesterov, started; --columns chooses, --format csv has all all of them: finished,"
    )
    lines = re.sub(r"\x1b\[\d*m", "", out).splitlines()
    assert max(len(line) for line in lines if line[0] in "┏┃│") <= 66
    monkeypatch.setenv("COLUMNS", "46")
    assert main(["runs", "compare", "big", "--where", "seed<10"]) == 0
    assert "│ compare/lars-b25 │" in re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)  # folded
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["runs", "cut"]) == 0
    assert "1 of 3" in capsys.readouterr().out


def test_nothing_that_meets_a_condition_is_said_with_what_is_there(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(study), "--where", "optimizer=larz"]) == 0
    assert "0 of 5 runs\nno run meets optimizer=larz: there are lars, sgd, tvlars\n" in capsys.readouterr().out
    (study / "empty").mkdir()
    assert main(["runs", str(study / "empty"), "--where", "what=ever", "--sort", "what", "--columns", "no"]) == 0
    assert capsys.readouterr().out == "0 runs\n"


def test_folders_of_strangers_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "runs" / "one")
    config = json.loads((run / "config.json").read_text())
    more = {"model": "\x1b]0;evil\x07[red]m", "status": 3, "folder": "/etc", "seed": 10**19, "arm": ["a", {"b": 1}]}
    (run / "config.json").write_text(json.dumps({**config, **more}))
    (run / "summary.json").write_text('{"status": ["x"], "epochs": "many", "test_accuracy": NaN, "more": {"f1": 0.5}}')
    (run / "plan.json").write_text("[1]")
    (run / "environment.json").write_text('{"versions": 3, "started": {"a": "b"}}')
    assert main(["runs", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    frame = list_runs(tmp_path / "runs")
    assert frame["folder"].tolist() == [str(run)]
    assert frame["status"].tolist() == ["damaged"]
    assert frame["more_f1"].tolist() == [0.5]
    with pytest.raises(UsageError, match="unknown column"):
        list_runs(tmp_path / "runs", sort="--more_f1")


def test_means_make_no_column() -> None:
    assert set(NO_SETTING) <= {*names_of(Is.MEANS | Is.MACHINE | Is.OWN), "epochs", "tensorboard"}  # of earlier runs


def test_further_measures_are_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(
        json.dumps({**summary, "test_f1": 0.25, "validation_loss": 1.5, "test_loss": 2.0})
    )
    assert main(["runs", str(tmp_path)]) == 0
    head = capsys.readouterr().out.splitlines()[1]
    assert "test f1" in head
    assert "loss" not in head
