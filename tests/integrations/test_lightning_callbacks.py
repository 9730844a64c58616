"""Callbacks for Lightning's Trainer: what they record is what a loop without a framework would."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.integrations.problem import data, measured_run, model
from tests.integrations.test_lightning import tasks  # noqa: F401  a fixture
from tvlars.noise_scale import NoiseScaleMeter

pytest.importorskip("pandas", reason="the extra 'lab' is not installed")
import pandas as pd


@pytest.fixture
def monitors(tasks: Any) -> Any:  # noqa: F811
    from tvlars.integrations import lightning

    return lightning


def logged(folder: Path) -> dict[str, dict[int, float]]:
    """Values by name and the Trainer's step of what its CSVLogger has written."""
    (file,) = folder.rglob("metrics.csv")
    found: dict[str, dict[int, float]] = {}
    for row in csv.DictReader(file.open()):
        for name, value in row.items():
            if value:
                found.setdefault(name, {})[int(row["step"])] = float(value)
    return found


def test_all_of_them_at_once(tasks: Any, monitors: Any, tmp_path: Path) -> None:  # noqa: F811
    from lightning.pytorch.loggers import CSVLogger

    callbacks = monitors.PhiMonitor(), monitors.NoiseScaleMonitor(every=2), monitors.LayerStatsMonitor(every=2)
    _, noise, layers = callbacks
    options = dict(accumulate_grad_batches=2, logger=CSVLogger(tmp_path), log_every_n_steps=1, gradient_clip_val=0.5)
    trainer = tasks.fit(tasks.Task(), callbacks=list(callbacks), **options)
    found, (stats, meter, phi) = logged(tmp_path), measured_run(2, 2, every=2)
    assert trainer.global_step == len(phi) == 8
    # Lightning logs a step under the number of steps before it.
    assert found["phi"] == pytest.approx(dict(enumerate(phi)))
    assert found["lr"] == pytest.approx({i: 2.0 * value for i, value in enumerate(phi)})
    assert set(trainer.progress_bar_metrics) >= {"lr", "phi", "noise_scale"}
    assert layers.stats.step == 8
    assert found["LWN/model.0.weight"].keys() == {0, 2, 4, 6}
    assert found["LWN/model.0.weight"][0] == pytest.approx(
        float(stats.frame().query("layer == '0.weight' and quantity == 'LWN'")["value"].iloc[0])
    )
    assert found["noise_scale"][0] == pytest.approx(noise_after_one_step(), rel=1e-4)
    assert noise.result.layers.keys() == {f"model.{name}" for name in meter.names}


def noise_after_one_step() -> float:
    """Noise scale of the first step, which clipping does not change."""
    module, (x, y) = model(), data().tensors
    meter = NoiseScaleMeter(module, 8)
    for j in (0, 8):
        (nn.functional.cross_entropy(module(x[j : j + 8]), y[j : j + 8]) / 2).backward()
        meter.micro_batch()
    meter.step()
    return meter.result().value


def test_the_noise_scale_of_a_whole_run(tasks: Any, monitors: Any) -> None:  # noqa: F811
    noise = monitors.NoiseScaleMonitor(every=1)
    tasks.fit(tasks.Task(), callbacks=[noise], accumulate_grad_batches=2)
    expected = measured_run(2, 2)[1].result()
    assert noise.result.trace == pytest.approx(expected.trace, rel=1e-4)
    assert noise.result.gradient_square == pytest.approx(expected.gradient_square, rel=1e-4)


def test_steps_of_unequal_micro_batches_are_left_out(tasks: Any, monitors: Any) -> None:  # noqa: F811
    """Of 8 batches by threes the last step has two, divided by three all the same."""
    noise = monitors.NoiseScaleMonitor(every=1)
    trainer = tasks.fit(tasks.Task(), callbacks=[noise], accumulate_grad_batches=3)
    assert trainer.global_step == 6
    assert noise._batches.meter._weight == pytest.approx(1 - 0.95**4)


def test_layer_statistics_of_a_resumed_run_are_those_of_a_whole_one(
    tasks: Any,  # noqa: F811
    monitors: Any,
    tmp_path: Path,
) -> None:
    def run(folder: str, epochs: int, resume: Path | None = None) -> Any:
        callback = monitors.LayerStatsMonitor(every=3, path=tmp_path / folder, log=False)
        return tasks.fit(tasks.Task(), resume, max_epochs=epochs, callbacks=[callback]), callback

    trainer, first = run("cut", 1)
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    assert first.frame()["step"].max() == 7
    _, second = run("cut", 2, tmp_path / "middle.ckpt")
    _, whole = run("whole", 2)
    pd.testing.assert_frame_equal(second.frame(), whole.frame())
    expected = measured_run(2, 1, every=3)[0].frame()
    assert second.frame()["value"].tolist() == pytest.approx(expected["value"].tolist(), rel=1e-5)


def test_a_second_fit_goes_on_with_the_steps(tasks: Any, monitors: Any, tmp_path: Path) -> None:  # noqa: F811
    callback = monitors.LayerStatsMonitor(every=2, path=tmp_path / "stats", log=False)
    trainer = tasks.fit(tasks.Task(), max_epochs=1, callbacks=[callback])
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, trainer.train_dataloader)
    assert trainer.global_step == 16
    assert sorted(set(callback.frame()["step"])) == [1, 3, 5, 7, 9, 11, 13, 15]


def test_what_is_wrong_is_said_before_training(tasks: Any, monitors: Any) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="accumulate_grad_batches must be >= 2 for the noise scale"):
        tasks.fit(tasks.Task(), callbacks=[monitors.NoiseScaleMonitor()])
    with pytest.raises(ValueError, match="must be measured in automatic optimization"):
        tasks.fit(tasks.Manual(), callbacks=[monitors.NoiseScaleMonitor()])
    with pytest.raises(ValueError, match="every must be an integer >= 1"):
        monitors.LayerStatsMonitor(every=0)
    with pytest.raises(ValueError, match="must have started"):
        monitors.LayerStatsMonitor().frame()


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_a_package_that_is_not_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"tvlars.integrations.{package}", raising=False)
    with pytest.raises(ImportError, match=f"tvlars.integrations.{package} needs the package {package}: pip install"):
        __import__(f"tvlars.integrations.{package}")
