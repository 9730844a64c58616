"""The measure that a user's task declares takes the place of the accuracy, in its own direction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from tvlars.lab import (
    CompareConfig,
    Comparison,
    Reporter,
    Task,
    TrainConfig,
    compare,
    diff_runs,
    list_runs,
    load_run,
    report,
)
from tvlars.lab.comparison.statistics import best_arms, differences, named_columns, table
from tvlars.lab.comparison.table import table_cells, table_rows
from tvlars.lab.comparison.verdict import answers, with_verdicts
from tvlars.lab.history.listing import Listing
from tvlars.lab.report.figures import over_batch_sizes, training
from tvlars.lab.report.parts import parts_of
from tvlars.lab.run_folder.rows import EpochRow
from tvlars.lab.tasks import Measure
from tvlars.lab.training.progress import LineReporter


class Square(Task):
    """Mean square error, compared by its root unless a subclass says otherwise."""

    chosen_by, better = "rms_error", "min"

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"rms_error": self.loss(model, batch).sqrt()}


def samples() -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 5, generator=generator)
    y = x @ torch.arange(10.0).view(5, 2) / 10
    return (x[:96], y[:96]), (x[96:], y[96:])


def build() -> nn.Module:
    return nn.Linear(5, 2)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A good and a bad learning rate."""
    base = TrainConfig(epochs=1, accelerator="cpu", precision="32-true", batch_size=32, schedule="constant")
    rates = (("adamw", "lr", 1e-4), ("sgd", "lr", 0.3))
    out = tmp_path_factory.mktemp("measures") / "out"
    config = CompareConfig(
        base, optimizers=("adamw", "sgd"), batch_sizes=(32,), overrides=rates, seeds=tuple(range(6)), out=out
    )
    return compare(config, data=samples(), model=build, task=Square(), reporter=Reporter(), announce=lambda _: None)


def test_table_and_verdict_are_of_the_measure(comparison: Comparison) -> None:
    assert comparison.measure == Measure("test rms error", "min")
    found = comparison.table()
    assert "accuracy" not in found
    errors = [run.metrics["test_rms_error"] for run in comparison.runs if run.optimizer == "sgd"]
    row = found.set_index("optimizer").loc["sgd"]
    assert row["test_rms_error"] == pytest.approx(np.mean(errors))
    assert row["test_rms_error_seeds"] == errors
    assert found["verdict"].tolist() == ["significant", "lowest mean"]
    assert found["seeds_needed"].isna().all()  # without a margin there is nothing to find
    pair = comparison.with_family("all", margin=100.0).differences().iloc[0]
    assert pair["verdict"] == "significant, equivalent within 100"
    assert found.set_index("optimizer").loc["adamw", "against_best"] > 0
    (sentence,) = comparison.answers()
    assert sentence.startswith(f"Batch size 32: sgd has the lowest mean test rms error, {np.mean(errors):.4g}; ")
    assert sentence.endswith("significantly below adamw (6 seeds, one comparison).")
    cells = table_rows(comparison)[1]
    assert cells["test rms error"].startswith(f"{np.mean(errors):.4g} ± ")
    assert not cells["test rms error"].endswith("%")
    assert cells["each seed"] == " ".join(f"{error:.4g}" for error in errors)
    assert list(cells).count("test rms error") == 1
    assert str(found).splitlines()[0].endswith("test rms error runs against the lowest mean")
    assert "nan" not in str(comparison)


def test_files_and_pages_have_it(comparison: Comparison, tmp_path: Path) -> None:
    again = Comparison.load(comparison.folder)
    assert (again.measure, again.answers()) == (comparison.measure, comparison.answers())
    text = (comparison.folder / "report.html").read_text()
    assert "Accuracy" not in text.partition("<script")[0]
    assert "lowest mean test rms error" in text
    (part,) = parts_of([load_run(comparison.folder / run.folder) for run in comparison.runs])
    assert training(part.arms, part.measure)[0].layout.title.text == "Test rms error"
    assert len(over_batch_sizes(part.arms, part.table, part.measure)[0].data) == 2
    markdown, latex = (report([comparison.folder], tmp_path / f"a.{kind}").read_text() for kind in ("md", "tex"))
    best = comparison.table().set_index("optimizer").loc["sgd", "test_rms_error"]
    assert f"**{best:.4g} ± " in markdown
    assert rf"\textbf{{{best:.4g} $\pm$" in latex
    assert "significantly above it (p ≤ 0.05, paired over seeds by the exact" in markdown
    frame = pd.read_csv(report([comparison.folder], tmp_path / "a.csv"))
    assert frame.set_index("optimizer").loc["sgd", "test_rms_error"] == pytest.approx(best)
    report([comparison.folder], tmp_path / "a.csv")  # known as a report, so it may be written anew
    assert comparison.to_markdown() in markdown


def test_a_run_knows_its_measure(comparison: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [comparison.folder / name for name in ("adamw-b32-s0", "sgd-b32-s0")]
    run = load_run(folders[0])
    assert (run.measure, run.value) == (comparison.measure, run.metrics["test_rms_error"])
    (row,) = [row for row in diff_runs(*folders).rows if row.name == "test rms error"]
    assert row.a == f"{run.value:.4g}"
    both = diff_runs(comparison.folder, comparison.folder)
    assert [row.note for row in both.rows if row.name == "test rms error"] == ["same", "same"]
    assert list_runs(comparison.folder, sort="test_rms_error")["optimizer"].tolist() == ["sgd"] * 6 + ["adamw"] * 6
    Listing.read([comparison.folder]).print()
    said = capsys.readouterr().out
    assert "test loss" in said
    assert "test rms error" in said
    stored = json.loads((folders[0] / "environment.json").read_text())
    for bad in ({"name": "<b>", "better": "min"}, {"name": "rms_error", "better": 3}, None, [1]):
        run.environment["measure"] = bad
        assert run.measure == Measure("test loss", "min")
    assert stored["measure"] == {"name": "rms_error", "better": "min"}


def runs(better: str) -> pd.DataFrame:
    values = {"a": [1.0, 1.1, 1.2] * 3, "b": [2.0, 2.1, 2.3] * 3, "c": [2.0, 2.2, 2.1] * 3}
    rows = [
        dict(arm=arm, batch_size=64, seed=seed, lr=0.1, status="finished", test_accuracy=np.nan, value=value)
        for arm, some in values.items()
        for seed, value in enumerate(some)
    ]
    means = dict(train_loss=1.0, test_loss=1.0, images_per_second=1.0, seconds=1.0)
    return pd.DataFrame(rows).assign(**means, better=better, test_images=np.nan)


@pytest.mark.parametrize(("better", "first", "word"), [("min", "a", "lowest"), ("max", "b", "highest")])
def test_directions(better: str, first: str, word: str) -> None:
    measure, frame = Measure("test error", better), runs(better)
    rows, pairs = table(frame), differences(frame)
    assert best_arms(rows, measure.lower) == {64: first}
    winners = {(pair["better"], pair["worse"]) for pair in pairs.to_dict("records") if pair["significant"]}
    assert winners == ({("a", "b"), ("a", "c")} if better == "min" else {("b", "a"), ("c", "a")})
    beside = with_verdicts(rows, pairs, measure).set_index("arm")
    assert beside.loc["a", "verdict"] == ("significant" if first == "b" else beside.loc["a", "verdict"])
    assert beside.loc["c", "against_best"] == pytest.approx(1.0 if better == "min" else -1 / 30)
    (sentence,) = answers(rows, pairs, measure)
    assert sentence.startswith(f"Batch size 64: {first} has the {word} mean test error, ")
    strong = [cells["test error"].strong for cells in table_cells(rows, pairs, measure)]
    assert strong == ([True, False, False] if better == "min" else [False] * 3)
    assert "test_error" in named_columns(rows, measure)


def test_progress_says_the_measures(capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(task="./a.py:Square", data="./a.py:load", model="./a.py:build")
    reporter = LineReporter(brief=True)
    reporter.start(config, config.plan(1000), [], Path("out"))
    reporter.measures({"test_rms_error": 0.25})
    reporter.epoch(EpochRow(1, 4, 0.5, np.nan, 0.0625, np.nan, 100.0, 1.0))
    said = capsys.readouterr().out
    assert "test loss 0.0625  rms error 0.25  lr" in said
    assert "nan" not in said
