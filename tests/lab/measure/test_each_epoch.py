"""Measurements after an epoch: they leave no trace in the training, and are read back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, load_run, train
from tvlars.lab.measure import each_epoch
from tvlars.lab.run_folder.rows import NoiseRow, SharpnessRow


def test_measuring_leaves_no_trace_in_the_training(runs: tuple[Path, Path]) -> None:
    plain, measured = map(load_run, runs)
    pd.testing.assert_frame_equal(plain.steps, measured.steps, check_exact=True)
    columns = ["train_loss", "test_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(plain.epochs[columns], measured.epochs[columns], check_exact=True)
    for (name, a), (_, b) in zip(
        plain.model().state_dict().items(), measured.model().state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_sharpness_is_measured_in_float32_whatever_the_precision_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = set()

    def measured(model: torch.nn.Module, batches: Iterable[tuple[Tensor, Tensor]], **where: Any) -> SharpnessRow:
        images, _ = next(iter(batches))
        dtypes.update((images.dtype, model(images).dtype, *(p.dtype for p in model.parameters())))
        fields = {name: where.get(name, 1) for name in SharpnessRow.__annotations__}
        return SharpnessRow(**{**fields, "statistics": "fresh"})

    monkeypatch.setattr(each_epoch, "measure_sharpness", measured)
    config = TrainConfig(
        epochs=None, steps=4, batch_size=512, precision="bf16-mixed", accelerator="cpu", out=tmp_path / "r"
    )
    train(replace(config, sharpness="steps:1,3,4", sharpness_samples=8), reporter=Reporter())
    assert load_run(tmp_path / "r").sharpness["step"].tolist() == [1, 3, 4]  # amid an epoch, and at the end of one
    assert dtypes == {torch.float32}


def test_what_was_measured_is_read_back(runs: tuple[Path, Path]) -> None:
    plain, run = map(load_run, runs)
    assert run.problems == ()
    assert list(run.sharpness["epoch"]) == [2, 3]
    assert set(run.sharpness.columns) == set(SharpnessRow.__annotations__)
    assert (run.sharpness["samples"] == 32).all()
    assert (run.sharpness[["worst_case", "hessian_max", "keskar"]] > 0).all(axis=None)
    assert list(run.noise["step"]) == [5, 10, 15]
    assert set(run.noise.columns) == set(NoiseRow.__annotations__)
    assert (run.noise["low"] <= run.noise["noise_scale"]).all()
    layers = run.layer_stats()
    assert sorted(set(layers["step"])) == [1, 5, 9, 13]
    assert "stem.weight" in set(layers["layer"])
    assert not len(plain.sharpness)
    assert not len(plain.noise)
    assert not len(plain.layer_stats())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "train --sharpness sometimes",
            "sharpness must be end, epochs:N with N >= 1, steps:N,N or loss:X,X with X > 0",
        ),
        ("train --sharpness end;epochs:0", "several joined by ';', got 'end;epochs:0'"),
        ("train --sharpness steps:3,", "got 'steps:3,'"),
        ("train --sharpness loss:0", "got 'loss:0'"),
        ("train --data digits --sharpness steps:3,99 --epochs 1", "sharpness must name steps up to"),
        ("train --sharpness-statistics-samples 9", "sharpness must be given with sharpness_statistics_samples, got 9"),
        ("train --sharpness end --sharpness-statistics old", "unknown sharpness_statistics 'old'"),
        ("train --layer-stats 0", "layer_stats must be an integer >= 1, got 0"),
        ("train --sharpness-samples 1", "sharpness_samples must be an integer >= 2, got 1"),
        ("sharpness nowhere", "run must be an existing folder, got 'nowhere'"),
        ("sharpness RUN --samples 0", "samples must be an integer >= 2, got 0"),
        ("landscape RUN --dimensions 3", "dimensions must be 1 or 2, got 3"),
        ("landscape RUN --span -1", "span must be > 0"),
        ("landscape RUN --to nowhere", "run must be an existing folder, got 'nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: str, sentence: str, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.replace("RUN", str(runs[0])).split()) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
