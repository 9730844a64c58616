"""Differences of runs and of comparisons."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tvlars.cli import main
from tvlars.lab import Comparison, Reporter, TrainConfig, UsageError, diff_runs, load_run, train
from tvlars.lab.comparison.comparison import RunRow


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    config = TrainConfig(optimizer="lars", epochs=1, precision="32-true", out=tmp_path_factory.mktemp("runs") / "one")
    return train(config, reporter=Reporter()).folder


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def other(one: Path, tmp_path: Path) -> Path:
    """The same with another rate, version and accuracy; losses differ from the third step on."""
    other = tmp_path / "other"
    shutil.copytree(one, other)
    change(other, "config", lr=4.0, optimizer_options="nesterov=False", out="elsewhere", accelerator="cpu")
    change(other, "plan", lr=4.0)
    versions = json.loads((one / "environment.json").read_text())["versions"]
    change(other, "environment", versions={**versions, "torch": "1.0"}, started="2020-01-01", command="another")
    for name, column in (("epochs", "test_accuracy"), ("steps", "loss")):
        rows = pd.read_csv(other / f"{name}.csv")
        rows.loc[2 if name == "steps" else 0 :, column] -= 0.0625
        rows.to_csv(other / f"{name}.csv", index=False)
    change(other, "summary", test_accuracy=float(pd.read_csv(other / "epochs.csv")["test_accuracy"][0]))
    weights = torch.load(other / "weights.pt", weights_only=True)
    larger = {name: 1.5 * value if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(larger, other / "weights.pt")
    return other


def test_a_run_and_its_copy_are_the_same(one: Path, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "copy")
    found = diff_runs(one, tmp_path / "copy")
    assert found.differences == []
    lines = str(found).splitlines()
    assert [line.split()[:2] for line in lines if line[0] != " "] == [
        *(["a", str(one)], ["b", str(tmp_path / "copy")], ["settings", "same"], ["plan", "same"], ["model", "same:"]),
        *(["data", "same:"], ["environment", "same"], ["results", "status"]),
    ]
    assert any(line.endswith("same: bit for bit") for line in lines)
    assert any(line.endswith("same: 5 steps") for line in lines)


def test_each_difference_is_one_line(one: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {(row.part, row.name): row for row in diff_runs(one, other).differences}
    assert list(rows) == [
        *(("settings", "lr"), ("settings", "optimizer-options"), ("environment", "torch")),
        *(("results", "test accuracy"), ("results", "loss of each step"), ("results", "weights")),
    ]
    assert (rows["settings", "lr"].a, rows["settings", "lr"].b) == ("16", "4")
    assert rows["environment", "torch"].b == "1.0"
    assert rows["results", "test accuracy"].note == "-6.25 points"
    for pair in ((one, other), (other, one)):
        (row,) = (row for row in diff_runs(*pair).rows if row.name == "loss of each step")
        assert row.note == "differs from step 3 on"
    assert rows["results", "weights"].note == "differ, ‖a − b‖ / ‖a‖ = 0.5"
    assert main(["diff", str(one), str(other)]) == 0
    assert capsys.readouterr().out == f"{diff_runs(one, other)}\n"
    found = diff_runs(one, other)
    assert repr(found) == f"RunsDiff(6 of {len(found.rows)} rows differ)"
    assert str(found) in html.unescape(found._repr_html_())
    frame = diff_runs(one, other).frame()
    assert frame.columns.tolist() == ["part", "name", "a", "b", "note", "same"]
    assert (~frame["same"]).sum() == 6


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_a_difference_fits_the_terminal(
    width: int, one: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(one, tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    change(other, "config", optimizer_options="betas=(0.9, 0.95) " + "eps=1e-6 " * 6)
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["diff", "one", "other"]) == 0
    text, plain = shown.getvalue(), str(diff_runs(Path("one"), Path("other")))
    assert max(map(len, text.splitlines())) <= width
    assert " ".join(text.split()) == " ".join(plain.split())
    assert max(map(len, plain.splitlines())) > 100
    (accuracy,) = (row for row in diff_runs(Path("one"), Path("other")).rows if row.name == "test accuracy")
    assert width == 40 or re.search(rf"test accuracy +{accuracy.a} +{accuracy.b}  \(-6.25 points\)$", text, re.M)


def test_what_is_missing_is_said(one: Path, other: Path) -> None:
    for name in ("weights.pt", "summary.json", "epochs.csv", "model.json"):
        (other / name).unlink()
    rows = {(row.part, row.name): row for row in diff_runs(one, other).differences}
    assert rows["results", "weights"].note == "b has none"
    assert (rows["results", "status"].a, rows["results", "status"].b) == ("finished", "unfinished")
    assert rows["data", ""].note == "their content cannot be compared, since b has no fingerprint"


def test_other_data_are_said(one: Path, other: Path) -> None:
    stored = json.loads((other / "model.json").read_text())["fingerprint"]
    counts = [180, *stored["test"]["counts"][1:]]
    change(other, "model", fingerprint={**stored, "test": {**stored["test"], "counts": counts}})
    (row,) = [row for row in diff_runs(one, other).differences if row.part == "data"]
    assert row.note == "class '0' had 36 test images, and has 180 in b"


def test_comparisons_are_compared_arm_by_arm(one: Path, other: Path, tmp_path: Path) -> None:
    folders = {}
    for name, run, arms in (("x", one, ("cold", "lars")), ("y", other, ("lars", "sgd"))):
        rows = []
        for arm in arms:
            shutil.copytree(run, tmp_path / name / arm)
            if name == "y":
                change(tmp_path / name / arm, "config", epochs=2, **({"momentum": 0.5} if arm == "lars" else {}))
            accuracy = 0.75 if name == "x" else 0.5
            results = {"test_accuracy": accuracy, "test_images": 360, "folder": arm}
            rows.append(RunRow(arm, 256, 0, 1.0, "finished", **results))
        folders[name] = Comparison(tmp_path / name, "", rows)
        folders[name].save()
    lines = {(row.part, row.name): row for row in diff_runs(tmp_path / "x", tmp_path / "y").differences}
    assert lines["cold, batch size 256", ""].b == "not there"
    assert lines["sgd, batch size 256", ""].a == "not there"
    accuracy = lines["lars, batch size 256", "test accuracy"]
    assert (accuracy.a, accuracy.b, accuracy.note) == ("75.00 % (n = 1)", "50.00 % (n = 1)", "-25.00 points")
    assert lines["all arms", "settings: momentum"].b == "0.5"
    assert diff_runs(tmp_path / "x", tmp_path / "x").differences == []


def test_settings_that_differ_for_one_arm_stand_with_it(one: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        for arm in ("lars", "sgd"):
            shutil.copytree(one, tmp_path / name / arm)
            change(tmp_path / name / arm, "config", **({"epochs": 2} if name == "y" else {}))
        rows = [RunRow(arm, 256, 0, 1.0, "finished", 0.5, folder=arm, test_images=9) for arm in ("lars", "sgd")]
        Comparison(tmp_path / name, "", rows).save()
    change(tmp_path / "y" / "sgd", "config", weight_decay=0.25)
    found = [(row.part, row.name, row.a, row.b) for row in diff_runs(tmp_path / "x", tmp_path / "y").differences]
    assert found == [
        ("all arms", "settings: epochs", "1", "2"),
        ("sgd, batch size 256", "settings: weight-decay", "0.0001", "0.25"),
    ]


def test_folders_of_other_kinds_are_one_sentence(one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Comparison(tmp_path / "compared", "").folder.mkdir()
    Comparison(tmp_path / "compared", "").save()
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.json").write_text("{}")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "tune.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "compared": "a and b must be two runs or two comparisons, but",
        "swept": "is one of a sweep: name runs in it, tvlars runs",
        "tuned": "is one of a tuning: name runs in it, tvlars runs",
        "empty": "is no run folder: it has no config.json",
        "nowhere": "b must be a folder of a run or a comparison, got",
    }.items():
        assert main(["diff", str(one), str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    with pytest.raises(UsageError, match=r"it is a tuning, its reported runs are in .*final"):
        load_run(tmp_path / "tuned")
    with pytest.raises(UsageError, match="two runs or two comparisons"):
        diff_runs(tmp_path / "compared", one)
