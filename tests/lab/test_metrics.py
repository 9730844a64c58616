"""Extra measures of classification: of torchmetrics, a user's own, and given in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.command import tvlars
from tests.lab.processes.forked import fork_ranks
from tvlars.cli import main
from tvlars.lab import Comparison, ImageData, Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.metrics import Metrics, parse_metrics
from tvlars.lab.report import report
from tvlars.lab.run_folder.record import read_object

TWO = ["--devices", "2", "--accelerator", "cpu"]
F1 = "torchmetrics.classification.MulticlassF1Score"
OWN = '''
import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score

class Sure(Metric):
    """Mean probability of the predicted class."""
    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")
    def update(self, probabilities, labels):
        self.total += probabilities.amax(1).sum()
        self.count += len(labels)
    def compute(self):
        return self.total / self.count

def weighted(num_classes):
    return MulticlassF1Score(num_classes, average="weighted")

built = MulticlassF1Score(10)

class Fails(Sure):
    def compute(self):
        raise KeyError("mine")
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.py"


def short(out: Path, **options: Any) -> TrainConfig:
    usual: dict[str, Any] = dict(batch_size=128, epochs=2, precision="32-true", accelerator="cpu", lr=1.0)
    return TrainConfig(out=out, **{**usual, **options})


def macro_f1(predicted: Tensor, labels: Tensor) -> float:
    """F1 of each class by its definition, and their mean."""
    found = []
    for k in range(10):
        hits = int(((predicted == k) & (labels == k)).sum())
        found.append(2 * hits / max(int((predicted == k).sum()) + int((labels == k).sum()), 1))
    return float(np.mean(found))


def test_values_are_those_of_the_final_weights(digits: ImageData, tmp_path: Path) -> None:
    folder = train(short(tmp_path / "run", metrics=F1), data=digits, reporter=Reporter()).folder
    run = load_run(folder)
    with torch.no_grad():
        predicted = run.model()(run.normalize(digits.test_images)).argmax(1)
    assert run.metrics == {"test_f1_score": pytest.approx(macro_f1(predicted, digits.test_labels), rel=1e-5)}
    assert run.epochs["test_f1_score"].tolist()[-1] == run.metrics["test_f1_score"]
    assert len(run.epochs) == 2
    assert not run.problems
    assert read_object(folder / "summary.json")["test_f1_score"] == pytest.approx(run.metrics["test_f1_score"], 1e-6)
    plain = train(short(tmp_path / "plain"), data=digits, reporter=Reporter())
    assert plain.epochs[-1].test_loss == train_loss_of(folder)
    assert not (plain.folder / "metrics.csv").exists()


def train_loss_of(folder: Path) -> float:
    return float(read_object(folder / "summary.json")["test_loss"])


def test_with_validation_the_test_set_is_measured_at_the_end(digits: ImageData, tmp_path: Path) -> None:
    config = short(tmp_path / "run", metrics=f"f1={F1}", validation=0.2, keep_best=True)
    run = load_run(train(config, reporter=Reporter()).folder)
    assert run.metrics.keys() == {"validation_f1", "test_f1"}
    assert run.metrics["validation_f1"] == run.epochs["validation_f1"][run.best_epoch - 1]
    assert 0 <= run.metrics["test_f1"] <= 1


def test_metrics_given_in_python(digits: ImageData, tmp_path: Path) -> None:
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

    config = short(tmp_path / "run", metrics=f"f1={F1}", checkpoint_every="1-epochs", resume=True)
    given = {
        "weighted": MulticlassF1Score(10, average="weighted"),
        "both": MetricCollection([MulticlassAccuracy(10), MulticlassF1Score(10)]),
    }
    result = train(config, data=digits, metrics=given, reporter=Reporter())
    found = load_run(result.folder).metrics
    assert found.keys() == {"test_f1", "test_weighted", "test_both_MulticlassAccuracy", "test_both_MulticlassF1Score"}
    assert found["test_f1"] == found["test_both_MulticlassF1Score"]
    assert int(given["weighted"].update_count) == 0, "a copy is used"
    (result.folder / "weights.pt").unlink()  # not finished: it resumes from the last checkpoint
    assert load_run(train(config, data=digits, metrics=given, reporter=Reporter()).folder).metrics == found
    with pytest.raises(UsageError, match=r"metrics must be given again, .*'weighted'"):
        train(result.config, data=digits, reporter=Reporter())


def test_a_resumed_run_has_the_same_values(digits: ImageData, tmp_path: Path) -> None:
    class Stop(Reporter):
        def epoch(self, row: Any) -> None:
            raise KeyboardInterrupt

    whole = train(short(tmp_path / "whole", metrics=F1), data=digits, reporter=Reporter()).folder
    config = short(tmp_path / "cut", metrics=F1, checkpoint_every="1-epochs", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(config, data=digits, reporter=Stop())
    train(config, data=digits, reporter=Reporter())
    assert (tmp_path / "cut" / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("f1", "metrics must be import paths, .* got 'f1'"),
        ("torchmetrics.classification.MulticlassF1Scor", r"did you mean 'MulticlassF1Score'"),
        ("torchmetrics.classification.MulticlassAccuracy", "must not be called accuracy, .* write my_accuracy="),
        (f"{F1}, {F1}", "different names, got f1_score twice"),
        ("matrix=torchmetrics.classification.MulticlassConfusionMatrix", r"got a tensor of shape \(10, 10\)"),
        ("torchmetrics.text.BLEUScore", "but that fails"),
        ("os.path.join", "cannot be made: TypeError"),
        ("f1=nosuch.metric.F1", "no module 'nosuch'"),
        ("f-1=x.y", "names of letters, digits and _, got 'f-1'"),
        ("math.pi", "must have the methods of torchmetrics, but pi, of type float, has no update"),
    ],
)
def test_metrics_that_do_not_suit(text: str, match: str, tmp_path: Path, digits: ImageData) -> None:
    with pytest.raises(UsageError, match=match):
        train(short(tmp_path / "run", metrics=text), data=digits, reporter=Reporter())
    assert not (tmp_path / "run").exists()


def test_metrics_of_users(own: Path, digits: ImageData) -> None:
    text = "./mine.py:Sure, ./mine.py:weighted, ./mine.py:built, torchmetrics.Precision"
    run = load_run(train(short(own.parent / "run", metrics=text), data=digits, reporter=Reporter()).folder)
    assert run.metrics.keys() == {"test_sure", "test_weighted", "test_built", "test_precision"}
    assert parse_metrics(run.config.metrics)["weighted"] == f"{own}:weighted"  # type: ignore[union-attr]
    with pytest.raises(KeyError, match="mine"):
        train(short(own.parent / "fails", metrics="./mine.py:Fails"), data=digits, reporter=Reporter())


def test_values_stand_in_tables_and_pages(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--optimizers", "lars", "sgd", "--seeds", "0", "1", "2", "--batch-size", "512", "--epochs", "1"]
    assert main([*words, "--metrics", f"f1={F1}", "--out", "both"]) == 0
    assert "test f1" in capsys.readouterr().out
    comparison = Comparison.load("both")
    table = comparison.table()
    values = [run.metrics["test_f1"] for run in comparison.runs if run.optimizer == "lars"]
    assert table["test_f1"][0] == pytest.approx(np.mean(values))
    assert table["test_f1_interval"].notna().all()
    assert "test_f1" in Path("both/results.csv").read_text().splitlines()[0]
    assert "test f1" in Path("both/report.html").read_text()
    for suffix in ("md", "tex", "csv"):
        report(["both"], f"table.{suffix}")
    assert "test f1" in Path("table.md").read_text()
    assert "test_f1" in Path("table.csv").read_text()


def test_two_processes_measure_what_one_does(own: Path) -> None:
    common = ["train", "--epochs", "1", "--batch-size", "256", "--metrics", f"f1={F1}, ./mine.py:Sure"]
    assert main([*common, "--out", "one"]) == 0
    done = tvlars(*common, "--out", "two", *TWO, cwd=own.parent, before=fork_ranks)
    assert done.returncode == 0, done.stderr
    one, two = load_run("one").metrics, load_run("two").metrics
    assert two == pytest.approx(one, rel=1e-3)


def test_the_values_do_not_depend_on_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(100, 10, generator=generator), torch.randint(10, (100,), generator=generator)
    metrics = Metrics(f"f1={F1}", 10)
    metrics.update(logits, labels)
    whole = metrics.compute()
    for part in torch.arange(100).split(7):
        metrics.update(logits[part], labels[part])
    assert metrics.compute() == pytest.approx(whole)
    assert whole["f1"] == pytest.approx(macro_f1(logits.argmax(1), labels))
