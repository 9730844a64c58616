"""Tables and pages say which images choices were made by, and which ones results are of."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.lab.first import first
from tvlars.lab import CompareConfig, ImageData, TrainConfig, UsageError, compare, report, train
from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.comparison.held_out import NOTHING_HELD_OUT, held_out
from tvlars.lab.comparison.table import print_comparison
from tvlars.lab.training import prepare
from tvlars.lab.training.progress import Reporter

BASE = TrainConfig(batch_size=64, epochs=2, accelerator="cpu")


@pytest.fixture
def _few(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "load_data", lambda *_, **__: first(digits, 300))


def titles(page: Path) -> list[str]:
    packed = re.search(r'id="figures">([^<]+)<', page.read_text())
    assert packed is not None
    figures = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return [re.sub("<.*?>", "", figure["layout"]["title"]["text"]) for figure in figures]


def test_the_sentence() -> None:
    assert "Nothing was held out" in held_out(0)
    assert held_out(5000) == (
        "5,000 images were held out for validation, and curves are of these. The test set was read once, at the end."
    )
    assert held_out(1, test=False).startswith("Accuracies are of 1 image held out for validation; the test set was not")
    assert "by the weights of each run's best epoch" in held_out(5000, keep_best=True)


@pytest.mark.usefixtures("_few")
def test_a_comparison_with_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CompareConfig(
        TrainConfig(batch_size=64, epochs=2, validation=0.2, keep_best=True, accelerator="cpu"),
        optimizers=("sgd", "lars"),
        batch_sizes=(64,),
        seeds=(0,),
        out=tmp_path / "out",
    )
    made = compare(config, reporter=Reporter, announce=print)
    assert "240 training, 60 validation and 360 test images" in capsys.readouterr().out
    print_comparison(made)
    sentence = held_out(60, keep_best=True)
    assert sentence in capsys.readouterr().out
    page = tmp_path / "out" / "report.html"
    assert sentence.replace("'", "&#39;") in page.read_text()
    assert "Validation accuracy" in titles(page)
    assert "Test accuracy" not in titles(page)
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert rows["validation_accuracy"].notna().all()
    assert rows["test_accuracy"].tolist() == [run.test_accuracy for run in made.runs]
    loaded = Comparison.load(tmp_path / "out")
    assert (loaded.protocol, loaded.runs) == (sentence, made.runs)
    assert made.table()["accuracy"].tolist() == rows["test_accuracy"].tolist()
    assert all(made._correct(run) is not None for run in made.runs)  # verdicts are of the test at the end
    for suffix in ("md", "tex"):
        assert sentence in report([tmp_path / "out"], tmp_path / f"table.{suffix}").read_text()
    again = compare(config, reporter=Reporter, announce=print)
    assert again.runs == made.runs


@pytest.mark.usefixtures("_few")
def test_a_comparison_without_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CompareConfig(BASE, optimizers=("sgd",), batch_sizes=(64,), seeds=(0,), out=tmp_path / "out")
    made = compare(config, reporter=Reporter, announce=print)
    print_comparison(made)
    assert NOTHING_HELD_OUT in capsys.readouterr().out
    page = tmp_path / "out" / "report.html"
    assert NOTHING_HELD_OUT in page.read_text()
    assert "Test accuracy" in titles(page)
    assert "validation_accuracy" not in pd.read_csv(tmp_path / "out" / "results.csv")
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    del stored["protocol"]
    for run in stored["runs"]:
        del run["validation_accuracy"]
    (tmp_path / "out" / "comparison.json").write_text(json.dumps(stored))  # of an earlier version
    assert Comparison.load(tmp_path / "out") == made


def test_a_comparison_reads_the_test_set() -> None:
    with pytest.raises(UsageError, match="test must be true for a comparison"):
        CompareConfig(TrainConfig(validation=0.1, test=False))


def test_runs_with_other_held_out_images_are_parts(digits: ImageData, tmp_path: Path) -> None:
    data = first(digits, 300)
    held: dict[str, Any] = {"validation": 0.2}
    settings = ({}, held, {**held, "validation_seed": 1}, {**held, "test": False}, {**held, "keep_best": True})
    folders = []
    for i, options in enumerate(settings):
        config = TrainConfig(
            optimizer="sgd", batch_size=64, epochs=1, accelerator="cpu", out=tmp_path / str(i), **options
        )
        folders.append(train(config, data=data, reporter=Reporter()).folder)
    text = report(folders, tmp_path / "page.html").read_text()
    assert f"test accuracy, of the last epoch, no validation images. {NOTHING_HELD_OUT}" in text
    assert "test accuracy, of the last epoch, 60 validation images of seed 1. 60 images were held out" in text
    assert "test accuracy, of the best epoch, 60 validation images of seed 0. 60 images were held out" in text
    assert "validation accuracy, of the last epoch, 60 validation images of seed 0. Accuracies are of 60 images" in text
