"""Layer statistics, sharpness and noise scale of runs: measured without a trace in the training, and read back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

pytest.importorskip("curvlinops", reason="the extra 'sharpness' (curvlinops-for-pytorch) is not installed")

from tvlars import LARS
from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, UsageError, load_run, run_landscape, run_sharpness, train
from tvlars.lab.measure.layer_stats import RunStats, layer_stats, measure_noise
from tvlars.lab.run_folder.rows import NoiseRow, SharpnessRow, StepRow
from tvlars.lab.run_folder.tensorboard import TensorBoardLog
from tvlars.stats import read_layer_stats

SHORT: dict[str, Any] = dict(epochs=3, batch_size=256, precision="32-true")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run without measurements and with all of them."""
    folder = tmp_path_factory.mktemp("runs")
    asked = dict(layer_stats=4, sharpness="epochs:2", sharpness_samples=32, noise_scale=True)
    for name, options in (("plain", {}), ("measured", asked)):
        train(TrainConfig(**SHORT, **options, out=folder / name), reporter=Reporter())
    return folder / "plain", folder / "measured"


def test_measuring_leaves_no_trace_in_the_training(runs: tuple[Path, Path]) -> None:
    plain, measured = map(load_run, runs)
    pd.testing.assert_frame_equal(plain.steps, measured.steps, check_exact=True)
    columns = ["train_loss", "test_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(plain.epochs[columns], measured.epochs[columns], check_exact=True)
    for (name, a), (_, b) in zip(
        plain.model().state_dict().items(), measured.model().state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


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


def test_sharpness_of_a_finished_run_is_what_was_measured_at_its_end(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, measured = (Path(shutil.copytree(run, tmp_path / run.name)) for run in runs)
    expected = load_run(measured).sharpness.iloc[-1]
    assert main(["sharpness", str(plain), "--samples", "32"]) == 0
    row = load_run(plain).sharpness.iloc[0]
    for name in ("epoch", "step", "samples"):
        assert row[name] == expected[name]
    for name in ("loss", "hessian_max", "hessian_trace", "worst_case", "average_case"):
        assert row[name] == pytest.approx(expected[name], rel=1e-3)
    out = capsys.readouterr().out
    assert f"top eigenvalue {row['hessian_max']:.4g}" in out
    run_sharpness(measured, samples=16)  # takes the place of the row of that step, and of no other
    assert list(load_run(measured).sharpness["samples"]) == [32, 16]


def test_landscapes(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, measured = (Path(shutil.copytree(run, tmp_path / run.name)) for run in runs)
    assert main(["landscape", str(plain), "--samples", "32", "--points", "5"]) == 0
    out = capsys.readouterr().out
    assert f"picture: {plain / 'landscape.png'}" in out
    assert (plain / "landscape.png").read_bytes().startswith(b"\x89PNG")
    one = pd.read_csv(plain / "landscape.csv")
    assert list(one["x"]) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert one["loss"].idxmin() == 2
    two, _ = run_landscape(plain, dimensions=2, points=3, samples=32)
    assert two.set_index(["x", "y"]).loc[(0.0, 0.0), "loss"] == pytest.approx(one["loss"][2], rel=1e-5)
    line, picture = run_landscape(plain, measured, points=4, samples=32)
    assert picture == plain / "line.png"
    assert line["loss"].std() == pytest.approx(0.0, abs=1e-6)  # both ends are the same weights


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train --sharpness sometimes", "sharpness must be 'end' or 'epochs:N' with N >= 1, got 'sometimes'"),
        ("train --sharpness epochs:0", "sharpness must be 'end' or 'epochs:N'"),
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


def test_a_run_without_weights_or_with_damaged_statistics(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[1], tmp_path / "run"))
    (run / "weights.pt").unlink()
    with pytest.raises(UsageError, match="has no weights"):
        run_sharpness(run)
    next((run / "layer-stats").glob("*.parquet")).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match="must hold layer statistics, but a file is damaged"):
        load_run(run).layer_stats()


def test_few_images_make_small_micro_batches() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.randn(10, 1, 2, 2), torch.randint(0, 3, (10,))
    assert measure_noise(model, images, labels).noise_scale > 0
    with pytest.raises(UsageError, match="at least 4 training images"):
        measure_noise(model, images[:3], labels[:3])


def test_layer_statistics_wait_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a run of the same steps whose disk was never full."""
    full = True

    def no_room(handle: int) -> None:
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    found = []
    for name in ("full", "free"):
        torch.manual_seed(0)
        model, said = torch.nn.Linear(4, 3), []
        optimizer = LARS(model.parameters(), lr=1.0)
        stats = RunStats(optimizer, model, every=1, path=tmp_path / name, buffer=2)
        stats.tell = said.append
        for step in range(9):
            full = name == "full" and 2 <= step < 6
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        stats.close()
        assert len(said) == (name == "full")
        found.append(read_layer_stats(tmp_path / name))
    pd.testing.assert_frame_equal(*found)


def test_tensorboard_ends_where_the_disk_fails_it_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    log = TensorBoardLog(tmp_path, tell=said.append)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", no_room)
    for _ in range(2):
        log.add([StepRow(1, 0.1, 2.0, 0.5, 1.0, 1.0)])
    log.close()
    assert said == ["TensorBoard logs end here, they cannot be written: No space left on device"]


def test_damaged_statistics_of_a_run_that_is_to_go_on(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 3)
    (tmp_path / "layer-stats").mkdir()
    (tmp_path / "layer-stats" / "000000001-000000002.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match=r"layer_stats must go on in .*layer-stats.*, which cannot be read: "):
        layer_stats(LARS(model.parameters(), lr=1.0), model, 1, tmp_path, None, 5)


def test_statistics_do_not_make_a_run_folder_again_that_was_taken_away(tmp_path: Path) -> None:
    model, said = torch.nn.Linear(4, 3), []
    (tmp_path / "run").mkdir()
    stats = RunStats(LARS(model.parameters(), lr=1.0), model, every=1, path=tmp_path / "run" / "layer-stats")
    stats.tell = said.append
    shutil.rmtree(tmp_path / "run")
    stats.try_flush()
    stats.close()
    assert not (tmp_path / "run").exists()
    assert all(text.startswith("cannot write layer statistics: No such file or directory") for text in said)
