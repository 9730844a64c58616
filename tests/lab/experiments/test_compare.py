"""Comparisons: the table, the page, and runs that fail."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tvlars.lab import CompareConfig, Comparison, TrainConfig, compare
from tvlars.lab.comparison.comparison import RunRow
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.comparison.table import table_rows
from tvlars.lab.report import report, write_report


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Eight short runs on digits, two of which diverge."""
    return compare(
        CompareConfig(
            base=TrainConfig(epochs=3),
            optimizers=("tvlars", "sgd"),
            batch_sizes=(128, 256),
            seeds=(0, 1),
            overrides=(("sgd", "lr", 1e18), ("sgd", "schedule", "constant")),
            out=tmp_path_factory.mktemp("compare") / "out",
        )
    )


def test_mean_and_interval_by_hand() -> None:
    mean, half = mean_and_interval([0.90, 0.92, 0.94])
    assert mean == pytest.approx(0.92)
    assert half == pytest.approx(4.302653 * 0.02 / math.sqrt(3))  # t(0.975, 2 degrees of freedom)
    assert mean_and_interval([0.5])[0] == 0.5
    assert math.isnan(mean_and_interval([0.5])[1])
    assert math.isnan(mean_and_interval([])[0])


def test_the_table_is_what_the_runs_recorded(comparison: Comparison) -> None:
    table = comparison.table()
    assert list(zip(table["optimizer"], table["batch_size"], strict=True)) == [
        *(("tvlars", 128), ("sgd", 128)),
        *(("tvlars", 256), ("sgd", 256)),
    ]
    recorded = [
        pd.read_csv(comparison.folder / f"tvlars-b256-s{seed}" / "epochs.csv")["test_accuracy"].iloc[-1]
        for seed in (0, 1)
    ]
    row = table.iloc[2]
    assert row["accuracies"] == pytest.approx(recorded, rel=1e-6)
    assert row["accuracy"] == pytest.approx(np.mean(recorded), rel=1e-6)
    assert pd.read_csv(comparison.folder / "results.csv")["test_accuracy"].notna().sum() == 4


def test_diverged_runs_are_said_and_the_others_go_on(comparison: Comparison) -> None:
    assert {(run.optimizer, run.seed) for run in comparison.diverged} == {("sgd", 0), ("sgd", 1)}
    assert all(re.match(r"loss not finite at step \d+, lr 1e\+18", run.note) for run in comparison.diverged)
    row = table_rows(comparison)[1]
    assert (row["test accuracy"], row["runs"]) == ("-", "0 of 2")
    page = (comparison.folder / "report.html").read_text()
    assert page.count(": diverged, loss not finite") == len(comparison.diverged) == 4


def test_it_is_read_back(comparison: Comparison) -> None:
    again = Comparison.load(comparison.folder)
    assert again.runs == comparison.runs
    assert table_rows(again) == table_rows(comparison)


def test_markdown(comparison: Comparison, tmp_path: Path) -> None:
    text = report([comparison.folder], tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| optimizer | batch size | lr | test accuracy |")
    assert len(lines) == 2 + 4


def test_the_page_needs_no_network_and_has_the_numbers(comparison: Comparison) -> None:
    page = (comparison.folder / "report.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", own)
    for row in table_rows(comparison):
        assert f">{row['test accuracy']}</td>" in own
        assert f">{row['each seed']}</td>" in own
    assert html.escape(comparison.command).replace("&#x27;", "&#39;") in own
    assert len(page) < 5_000_000


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    row = RunRow(evil, 8, 0, 1.0, "diverged", note=evil, folder="none")
    write_report(Comparison(tmp_path, evil, [row]))
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_an_interrupted_comparison_keeps_what_was_measured(tmp_path: Path) -> None:
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        if line.startswith("run 2 of"):
            raise KeyboardInterrupt

    config = CompareConfig(base=TrainConfig(epochs=1), seeds=(0,), out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        compare(config, announce=announce)
    assert said[-1].startswith("interrupted after 1 of 3 runs; page: ")
    kept = Comparison.load(tmp_path / "out")
    assert [run.optimizer for run in kept.runs] == ["tvlars"]
    assert ">tvlars</td>" in (tmp_path / "out" / "report.html").read_text()


def test_a_page_without_room_does_not_hide_why_a_comparison_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        if line.startswith("run 1 of"):
            raise KeyboardInterrupt

    def no_room(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("tvlars.lab.comparison.comparison.write_whole", no_room)
    with pytest.raises(KeyboardInterrupt):
        compare(CompareConfig(base=TrainConfig(epochs=1), seeds=(0,), out=tmp_path / "out"), announce=announce)
    assert said[-1].startswith("results could not be written: [Errno 28] No space left on device")
