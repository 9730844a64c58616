"""Pretraining in the laboratory's loop: learns, records, evaluates, compares, and says what is wrong."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")

from tests.command import tvlars
from tvlars.cli import main
from tvlars.lab import (
    CompareConfig,
    DivergedError,
    Reporter,
    TrainConfig,
    UsageError,
    compare,
    evaluate,
    load_run,
    report,
    train,
)
from tvlars.lab.data import ImageData
from tvlars.lab.ssl.methods import METHODS, BarlowTwins
from tvlars.lab.training.progress import BarReporter

QUICK: dict[str, Any] = dict(
    task="barlow-twins", epochs=2, precision="32-true", accelerator="cpu", projector="64-64", evaluations="none"
)


def quick(folder: Path, digits: ImageData, **options: Any) -> Path:
    folder.mkdir(parents=True)
    train(TrainConfig(**{**QUICK, **options}), data=digits, folder=folder, reporter=Reporter())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", list(METHODS))
def test_every_method_learns_more_than_an_untrained_network_knows(tmp_path: Path, digits: ImageData, task: str) -> None:
    """Linear probe on real digits, against the same network untrained; nothing has collapsed."""
    config = TrainConfig(task=task, epochs=5, projector="128-128", evaluations="linear,random", out=tmp_path / "run")
    result = train(config, data=digits, reporter=Reporter())
    assert result.evaluations["linear"].accuracy > result.evaluations["random"].accuracy + 0.03
    assert result.test_accuracy == result.evaluations["linear"].accuracy
    last = load_run(result.folder).representation.iloc[-1]
    assert last["embedding_std"] > 0.3
    assert last["feature_rank"] > 4


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> Path:
    return quick(tmp_path_factory.mktemp("ssl") / "run", digits, evaluations="linear,knn,random,random-knn,linear-10%")


def test_the_run_folder_has_it_all_and_reads_back(one: Path) -> None:
    assert {"views.png", "evaluations.json", "representation.csv", "weights.pt"} <= {f.name for f in one.iterdir()}
    run = load_run(one)
    assert run.complete
    assert not run.problems
    assert list(run.evaluations) == ["linear", "knn", "random", "random-knn", "linear-10%"]
    assert run.evaluations["linear-10%"].labels == pytest.approx(144, abs=5)
    assert run.test_accuracy == run.evaluations["linear"].accuracy
    assert run.summary["test_accuracy"] == run.test_accuracy
    assert run.representation["epoch"].tolist() == [1, 2]
    assert {"task", "views"} <= set(run.environment)


def test_the_weights_are_the_model_with_the_probe_as_its_head(one: Path) -> None:
    """So that all that takes a run takes this one: evaluate tests it as any classifier."""
    assert evaluate(one).accuracy == pytest.approx(load_run(one).evaluations["linear"].accuracy, abs=1e-6)


def test_the_report_has_a_section_for_it(one: Path, tmp_path: Path) -> None:
    page = report([one], tmp_path / "report.html").read_text()
    assert "% linear-probe accuracy (one seed)." in page
    assert "<h2>Features</h2>" in page
    assert "data:image/png;base64," in page
    assert "<h2>Views</h2>" in page


def test_fine_tuning_after_training_on_a_terminal(tmp_path: Path, digits: ImageData) -> None:
    """A copy of the backbone is fine-tuned, and nothing that hangs on the run is copied with it."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = TrainConfig(**{**QUICK, "epochs": 1, "evaluations": "finetune-10%"}, log=("tensorboard",))
    result = train(config, data=digits, folder=folder, reporter=BarReporter())
    assert result.evaluations["finetune-10%"].labels == pytest.approx(144, abs=5)
    assert load_run(folder).accuracy_name == "online-probe accuracy"


def test_weights_are_safe_when_an_evaluation_fails(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("tvlars.lab.training.pretraining.evaluate_features", fails)
    with pytest.raises(RuntimeError, match="no luck"):
        quick(tmp_path / "run", few, epochs=1, evaluations="linear")
    run = load_run(tmp_path / "run")
    assert run.status == "failed"
    run.model()


def test_a_run_without_the_evaluation_it_was_to_have_is_not_complete(one: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(one, copy)
    (copy / "evaluations.json").unlink()
    assert not load_run(copy).complete


def test_damaged_evaluations_are_said(one: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(one, copy)
    (copy / "evaluations.json").write_text('{"linear": {"accuracy": 7, "labels": 1, "seconds": 1}, "knn": 3}')
    run = load_run(copy)
    assert run.evaluations == {}
    assert [problem for problem in run.problems if "evaluations.json" in problem] == [
        "evaluations.json holds no result for linear",
        "evaluations.json holds no result for knn",
    ]


def test_parts_of_a_batch_change_views_and_loss_no_more_than_batch_norm_does(tmp_path: Path, few: ImageData) -> None:
    """The draws are the batch's: with batch norm still, losses are the same however it is split."""

    class Still(BarlowTwins):
        def train(self, mode: bool = True) -> Still:
            super().train(False)  # no batch statistics
            return self

    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "barlow-twins", Still)
        for size in (128, 50, 32):
            folder = quick(tmp_path / str(size), few, batch_size=128, micro_batch_size=size, epochs=1, optimizer="lars")
            losses.append(pd.read_csv(folder / "steps.csv")["loss"].tolist())
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=2e-4)


def test_labels_are_not_needed_and_change_nothing(tmp_path: Path, few: ImageData) -> None:
    """Shuffled labels give the same losses, bit for bit, and data without labels can be trained on."""
    zeros = {name: torch.zeros_like(getattr(few, name)) for name in ("train_labels", "test_labels")}
    shuffled = replace(few, train_labels=few.train_labels.roll(1))
    losses = [
        pd.read_csv(quick(tmp_path / name, data, seed=3) / "steps.csv")["loss"].tolist()
        for name, data in (("a", few), ("b", shuffled))
    ]
    assert losses[0] == losses[1]
    unlabelled = replace(few, classes=1, class_names=("x",), **zeros)
    run = load_run(quick(tmp_path / "c", unlabelled, seed=3))
    assert run.steps["train_accuracy"].isna().all()
    assert math.isnan(float(run.test_accuracy or 0.0))
    assert run.complete
    page = report([tmp_path / "c"], tmp_path / "report.html").read_text()
    assert "No run has finished" not in page
    assert ">nan<" not in page


def test_collapse_is_noticed(tmp_path: Path, few: ImageData) -> None:
    """BYOL whose loss pulls everything together: no predictor, no target."""
    notes: list[str] = []

    class Listening(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    class Collapsing(BarlowTwins):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.embed(x)

        def embed(self, x: torch.Tensor) -> torch.Tensor:
            z: torch.Tensor = self.projector(self.backbone(x))
            return z

        def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return (torch.cat([first, second]) - 1).square().mean()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "barlow-twins", Collapsing)
        folder = tmp_path / "run"
        folder.mkdir()
        config = TrainConfig(**{**QUICK, "epochs": 6}, batch_size=128, optimizer="adamw", lr=0.02)
        train(config, data=few, folder=folder, reporter=Listening())
    assert any(note.startswith("collapse after epoch") and "embeddings" in note for note in notes)
    assert load_run(folder).representation["embedding_std"].iloc[-1] < 0.1


def test_mixed_precision_trains(tmp_path: Path, few: ImageData) -> None:
    """Fabric's backward is used, which mixed precision insists on."""
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        folder = quick(tmp_path / precision, few, epochs=1, precision=precision, batch_size=128, micro_batch_size=64)
        losses.append(pd.read_csv(folder / "steps.csv")["loss"].tolist())
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_compare_has_the_linear_probe_as_its_headline(tmp_path: Path, few: ImageData) -> None:
    base = TrainConfig(**{**QUICK, "epochs": 1, "evaluations": "linear"})
    config = CompareConfig(base=base, optimizers=("tvlars", "lamb"), seeds=(0, 1), out=tmp_path / "c")
    said: list[str] = []
    found = compare(config, data=few, reporter=Reporter, announce=said.append)
    assert found.measure.name == "linear-probe accuracy"
    assert any("barlow-twins; views: crops" in line for line in said)
    for run in found.runs:
        stored = json.loads((tmp_path / "c" / run.folder / "evaluations.json").read_text())
        assert run.test_accuracy == stored["linear"]["accuracy"]
    assert "highest mean linear-probe accuracy" in (tmp_path / "c" / "report.html").read_text()


def test_nan_loss_stops_with_its_own_error(tmp_path: Path, few: ImageData) -> None:
    with pytest.raises(DivergedError, match="not finite at step"):
        quick(tmp_path / "run", few, optimizer="sgd", lr=1e25, epochs=3)
    assert load_run(tmp_path / "run").status == "diverged"


# -- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("ssl --batch-size 1", "batch_size must be an integer >= 2, got 1"),
        ("ssl --projector 4096-x", "projector must be layer widths from 1 to 65536 as in 4096-4096-4096, got '4096-x'"),
        ("ssl --method barlow", "unknown method 'barlow': did you mean 'barlow-twins'"),
        ("ssl --evaluations linaer", "unknown evaluation 'linaer': did you mean 'linear'"),
        ("ssl --sharpness end", "unknown argument '--sharpness' of ssl"),
        ("ssl --preset corected", "unknown preset 'corected': did you mean 'corrected'"),
        ("ssl --preset as-published --optimizer sgd", "preset 'as-published' is for tvlars, lars, lamb, got 'sgd'"),
        ("ssl --preset corrected --optimizer lars --epochs 4", "epochs must be > 10, the warm-up of this preset, or"),
        (
            "train --task barlow-twins --no-augment",
            "augment must be true for barlow-twins, which learns from augmented views, got false",
        ),
        ("ssl --batch-size 3 --micro-batch-size 2", "micro_batch_size must leave two samples in every part of a batch"),
        ("train --evaluations knn", "evaluations must not be given for classification, got 'knn'"),
        ("train --projector 64", "projector must not be given for classification, got '64'"),
        ("train --task barlow-twins --sharpness end", "sharpness must not be given for barlow-twins"),
        ("train --task barlow", "unknown task 'barlow': did you mean 'barlow-twins'"),
        ("probe nowhere", "run must be an existing folder, got 'nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_ssl_command_prints_probe_and_baseline(tmp_path: Path) -> None:
    command = ["ssl", "--data", "digits", "--epochs", "1", "--projector", "64-64", "--out", tmp_path / "r"]
    done = tvlars(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "views    crops of 50% to 100% of the area" in done.stdout
    assert "linear probe " in done.stdout
    assert "of the untrained network " in done.stdout
    assert (tmp_path / "r" / "report.html").is_file()
    again = main(
        ["ssl", "--config", str(tmp_path / "r"), "--epochs", "1", "--evaluations", "none", "--out", str(tmp_path / "s")]
    )
    assert again == 0
    assert json.loads((tmp_path / "s" / "config.json").read_text())["projector"] == "64-64"


def test_probe_command_takes_any_run(
    one: Path, tmp_path: Path, digits: ImageData, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_run(one).evaluations
    assert main(["probe", str(one), "--evaluations", "knn,random,finetune-10%"]) == 0
    said = capsys.readouterr().out
    found = re.search(r"untrained network, linear evaluation: ([\d.]+)%", said)
    assert found is not None
    assert float(found[1]) == pytest.approx(100 * before["random"].accuracy, abs=0.3)  # the same network, one image off
    assert "nearest neighbours (k = 20):" in said
    assert "fine-tuning with 1" in said
    assert {"linear", "finetune-10%"} <= set(load_run(one).evaluations)
    assert load_run(one).evaluations["random"] == before["random"]
    supervised = tmp_path / "supervised"
    train(TrainConfig(epochs=1, precision="32-true", out=supervised), data=digits, reporter=Reporter())
    assert main(["probe", str(supervised), "--evaluations", "linear,random"]) == 0
    assert not (supervised / "evaluations.json").exists()


def test_probe_of_weights_of_another_architecture(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(one, copy)
    facts = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**facts, "model": "resnet18"}))
    assert main(["probe", str(copy)]) == 2
    assert "model.json does not match its checksum" in capsys.readouterr().err


def test_a_folder_of_images_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pretraining takes it; evaluation and classification say what is missing."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    pixels = torch.randint(0, 256, (10, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for i, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(folder / f"{i}.png")
    ssl = f"ssl --data imagefolder:{folder} --batch-size 4 --epochs 1 --projector 16-16 --out {tmp_path / 'run'}"
    assert main(ssl.split()) == 2
    assert "evaluations need labels of two classes or more" in capsys.readouterr().err
    assert main([*ssl.split(), "--evaluations", "none"]) == 0
    assert "nan" not in capsys.readouterr().out
    assert (tmp_path / "run" / "weights.pt").is_file()
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "data must have labels of two classes or more for a test" in capsys.readouterr().err
    assert main(f"train --data imagefolder:{folder} --batch-size 4".split()) == 2
    assert "must have images of at least two classes, a folder each, got 1" in capsys.readouterr().err


def test_unlabelled_data_is_refused_for_evaluation(digits: ImageData) -> None:
    zeros = {name: torch.zeros_like(getattr(digits, name)) for name in ("train_labels", "test_labels")}
    unlabelled = replace(digits, classes=1, class_names=("x",), **zeros)
    with pytest.raises(UsageError, match="evaluations need labels of two classes or more"):
        train(TrainConfig(**{**QUICK, "evaluations": "linear"}), data=unlabelled, reporter=Reporter())
