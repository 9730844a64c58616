"""Tuning of a user's task: by its loss, of which less is better, or by a measure that it names."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, TuneConfig, UsageError, load_run, report, tune
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.tuning.objective import Objective

optuna = pytest.importorskip("optuna")
journal_module = pytest.importorskip("tvlars.lab.experiments.tuning.journal")
search_module = pytest.importorskip("tvlars.lab.experiments.tuning.search")
tuning_module = pytest.importorskip("tvlars.lab.experiments.tuning.tune")

CODE = """
import torch
from torch import nn
from tvlars.lab import Task


class Square(Task):
    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def measure(self, model, batch):
        loss = self.loss(model, batch)
        return {"share": loss / (1 + loss)}  # looks like an accuracy, and is larger for larger losses


class ByShare(Square):
    chosen_by, better = "share", "max"


class ByLowShare(Square):
    chosen_by, better = "share", "min"


class ByHole(Square):
    chosen_by, better = "hole", "max"

    def measure(self, model, batch):
        return {"hole": 0.5 if len(batch[0]) == 2 else float("nan")}


class ByNothing(ByHole):
    def measure(self, model, batch):
        return {"hole": 0.5} if len(batch[0]) == 2 else {}


def load():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(420, 5, generator=generator)
    y = x @ torch.arange(10.0).view(5, 2) / 10
    return (x[:320], y[:320]), (x[320:], y[320:])


def build():
    return nn.Linear(5, 2)
"""


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_module, "sweep", lambda *_, **__: None)


def config(out: str, task: str = "Square", epochs: int = 2, **options: Any) -> TuneConfig:
    base = TrainConfig(
        task=f"./own.py:{task}", data="./own.py:load", model="./own.py:build", batch_size=64, epochs=epochs,
        accelerator="cpu", precision="32-true", schedule="constant",
    )  # fmt: skip
    usual: dict[str, Any] = dict(optimizers=("adamw",), trials=3, sampler="grid", space=("lr=0.001,0.1,0.01",))
    return TuneConfig(base=base, out=Path(out), **{**usual, **options})


def quietly(one: TuneConfig, announce: Any = lambda _: None, reporter: Any = Reporter, **options: Any) -> Any:
    return tune(one, announce=announce, reporter=reporter, board=Board(), **options)


def test_the_lower_loss_wins_and_all_files_say_so() -> None:
    said: list[str] = []
    data = runpy.run_path("own.py")["load"]()  # given, so that the final runs are done in this process too
    result = quietly(config("out", seeds=(0, 1)), announce=said.append, data=data)
    frame = pd.read_csv("out/trials.csv")
    assert frame["direction"].tolist() == ["minimize"] * 3
    runs = [load_run(Path("out/trials") / name) for name in frame["folder"]]
    losses = [float(run.epochs["validation_loss"].iloc[-1]) for run in runs]
    assert frame["validation_loss"].tolist() == losses
    best = result.tuned[0].best
    assert best.value == min(losses)
    shares = [run.metrics["validation_share"] for run in runs]
    assert shares[best.number] == min(shares)  # although it is the lowest
    assert best.params == {"lr": 0.1}
    stored = json.loads(Path("out/tune.json").read_text())
    assert (stored["objective"], stored["direction"]) == ("validation loss", "minimize")
    assert stored["best"]["adamw"]["validation_loss"] == best.value
    assert "pruned above the median" in said[0]
    assert "trials are ranked by the loss on 32 validation samples, held out of 320" in "\n".join(said)
    assert any("lower is better; only runs with fresh seeds read the test set" in line for line in said)
    assert any(line.endswith(f"best on validation loss {best.value:.4g} with lr 0.1") for line in said)
    assert not any("%" in line for line in said)
    # Trials never read the test set; fresh seeds do, and have the task's measures.
    assert all(run.epochs["test_loss"].isna().all() and "test_share" not in run.metrics for run in runs)
    table = result.final.comparison().table()
    assert table["seeds"].tolist() == [2]
    assert stored["results"][0]["test_share"] == pytest.approx(table["test_share"][0])
    assert stored["results"][0]["test_loss"] == pytest.approx(table["test_loss"][0])
    assert "accuracy" not in stored["results"][0]
    sentence = "Options were chosen in a tuning, by validation loss: lower is better."
    assert sentence in Path("out/final/report.html").read_text()
    report(["out/final"], "later.md")
    assert sentence in Path("later.md").read_text()


@pytest.mark.usefixtures("no_final")
def test_a_task_names_its_measure_and_which_is_better() -> None:
    high, low = (quietly(config(task, task)).tuned[0].best for task in ("ByShare", "ByLowShare"))
    assert (high.params["lr"], low.params["lr"]) == (0.001, 0.1)
    assert high.value > low.value
    assert str(high).endswith(f"share {high.value:.4g}")
    assert pd.read_csv("ByShare/trials.csv")["direction"].tolist() == ["maximize"] * 3
    study = optuna.load_study(study_name="adamw", storage=journal_module.open_storage(Path("ByShare/study.journal")))
    assert study.best_value == high.value


@pytest.mark.usefixtures("no_final")
def test_trials_above_the_median_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "PRUNE_TRIALS", 1)
    for name, rates, statuses in (
        ("falling", "0.1,0.0001", ["finished", "pruned"]),
        ("rising", "0.0001,0.1", ["finished", "finished"]),
    ):
        quietly(config(name, epochs=3, trials=2, space=(f"lr={rates}",)))
        frame = pd.read_csv(f"{name}/trials.csv")
        assert frame["lr"].tolist() == [float(rate) for rate in rates.split(",")]
        assert frame["status"].tolist() == statuses


@pytest.mark.usefixtures("no_final")
@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_an_interrupted_tuning_goes_on_as_itself(sampler: str) -> None:
    class Stopping(Reporter):
        left = 5

        def epoch(self, row: Any) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    options: dict[str, Any] = dict(sampler=sampler, trials=5, space=("lr=0.001:1:log",))
    quietly(config("whole", "ByLowShare", **options))
    with pytest.raises(KeyboardInterrupt):
        quietly(config("parts", "ByLowShare", **options), reporter=Stopping())
    quietly(config("parts", "ByLowShare", **options))
    whole, parts = (pd.read_csv(f"{name}/trials.csv") for name in ("whole", "parts"))
    key = "trial" if sampler == "tpe" else "lr"
    columns = ["status", "validation_share", "epochs", "lr"]
    whole, parts = (one.sort_values(key, ignore_index=True)[columns] for one in (whole, parts))
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)


@pytest.mark.usefixtures("no_final")
def test_a_trial_that_diverged_is_worst() -> None:
    one = config("out", space=("lr=1e30,0.1,0.01",))
    for _ in range(2):  # the journal is good when it is read again
        said: list[str] = []
        result = quietly(one, announce=said.append)
        assert (result.tuned[0].diverged, result.tuned[0].best.params) == (1, {"lr": 0.1})
    frame = pd.read_csv("out/trials.csv")
    assert frame["status"].tolist() == ["diverged", "finished", "finished"]
    assert math.isinf(frame["validation_loss"][0])
    hole = quietly(config("hole", "ByHole"), announce=said.append)  # a measure that is no number
    assert (hole.tuned[0].diverged, hole.tuned[0].best) == (3, None)
    assert any(line.startswith("adamw trial 1 of 3: lr 0.001: diverged, which counts as the worst") for line in said)


@pytest.mark.usefixtures("no_final")
def test_a_folder_has_one_objective() -> None:
    quietly(config("out"))
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    for task in ("ByShare", "ByLowShare"):
        with pytest.raises(UsageError, match="has objective validation loss, got validation share"):
            quietly(config("out", task))
    stored = json.loads(Path("out/tune.json").read_text())
    Path("out/tune.json").write_text(json.dumps(stored | {"objective": "validation accuracy", "direction": "maximize"}))
    with pytest.raises(UsageError, match="has objective validation accuracy, got validation loss"):
        quietly(config("out"))
    Path("out/tune.json").write_bytes(before[Path("out/tune.json")])
    storage = journal_module.open_storage(Path("out/study.journal"))
    with pytest.raises(ValueError, match="the study of adamw does not maximize one value"):
        journal_module.check_trials(storage, {}, Objective(), {}, {})
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_final")
def test_a_measure_that_is_missing_ends_the_command_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    words = "tune --task ./own.py:ByNothing --data ./own.py:load --model ./own.py:build --batch-size 64 --trials 2"
    assert main([*words.split(), "--optimizers", "adamw", "--epochs", "1", "--out", "out"]) == 2
    assert "must name a value that it measures after every epoch, got 'hole'" in capsys.readouterr().err
    assert pd.read_csv("out/trials.csv")["status"].tolist() == ["refused"]


@pytest.mark.usefixtures("forked_runs")
def test_the_command_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parents[4] / "examples" / "lab" / "regression.py"
    words = ["tune", "--task", f"{file}:Regression", "--data", f"{file}:load", "--model", f"{file}:build"]
    words += "--batch-size 64 --optimizers lars --trials 2 --epochs 1 --seeds 0 --out out".split()  # noqa: SIM905
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "test r2" in said
    assert "%" not in said.partition("with fresh seeds 0:")[0]
    assert [row["optimizer"] for row in json.loads(Path("out/tune.json").read_text())["results"]] == ["lars"]


def test_values_as_text() -> None:
    assert Objective().text(0.5) == "50.00%"
    assert Objective("validation loss", "loss", "minimize").text(0.5) == "loss 0.5"
    assert str(Objective("validation r2", "r2")) == "validation r2, higher is better"
    assert not Objective("validation loss", "loss", "minimize").is_valid(torch.inf)
