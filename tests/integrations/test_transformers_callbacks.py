"""Callbacks for the Trainer of transformers: what they record is what a loop without a framework would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integrations.problem import data, measured_run, tvlars

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("pandas", reason="the extra 'lab' is not installed")

import transformers

from tests.integrations.test_transformers import InOrder, Task
from tvlars.integrations.transformers import LayerStatsCallback, NoiseScaleCallback, PhiCallback, add_first


class Reports(transformers.TrainerCallback):
    """As W&B's callback does, keeps what it is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))


def trained(out: Path, *callbacks: Any, accumulated: int = 2, resume: str | None = None, **options: Any) -> Any:
    task = Task()
    arguments = transformers.TrainingArguments(
        str(out),
        use_cpu=True,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulated,
        disable_tqdm=True,
        report_to="none",
        logging_steps=1,
        lr_scheduler_type="constant",
        **{"num_train_epochs": 2, "max_grad_norm": 0.0, "save_strategy": "no", **options},
    )
    samples, reports = [{"x": x, "labels": y} for x, y in data()], Reports()
    made = InOrder(task, arguments, train_dataset=samples, optimizers=(tvlars(task), None), callbacks=[reports])
    add_first(made, *callbacks)
    made.train(resume_from_checkpoint=resume)
    return made, [log for log in reports.logs if "loss" in log]


def test_all_of_them_at_once(tmp_path: Path) -> None:
    noise, layers = NoiseScaleCallback(every=2), LayerStatsCallback(every=2)
    made, logs = trained(tmp_path, PhiCallback(), noise, layers)
    stats, meter, phi = measured_run(2, 2, every=2)
    assert [log["phi"] for log in logs] == pytest.approx(phi)
    assert [log["lr"] for log in logs] == pytest.approx([2.0 * value for value in phi])
    assert [row["phi"] for row in made.state.log_history if "loss" in row] == pytest.approx(phi)
    assert logs[-1]["noise_scale"] == pytest.approx(meter.result().value, rel=1e-4)
    assert noise.result.trace == pytest.approx(meter.result().trace, rel=1e-4)
    frame = layers.frame()
    assert frame["step"].tolist() == stats.frame()["step"].tolist()
    assert frame["value"].tolist() == pytest.approx(stats.frame()["value"].tolist(), rel=1e-5)


def test_steps_of_unequal_micro_batches_are_left_out(tmp_path: Path) -> None:
    noise = NoiseScaleCallback(every=1)
    trained(tmp_path, noise, accumulated=3, num_train_epochs=1)  # 8 batches: two steps of three, one of two
    assert noise._batches is not None
    assert noise._batches.meter is not None
    assert noise._batches.meter._weight == pytest.approx(1 - 0.95**2)


def test_layer_statistics_go_on_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    trained(tmp_path / "out", LayerStatsCallback(3, folder), num_train_epochs=1, save_strategy="epoch", accumulated=1)
    second = LayerStatsCallback(3, folder)
    trained(tmp_path / "out", second, resume=str(tmp_path / "out" / "checkpoint-8"), accumulated=1)
    expected = measured_run(2, 1, every=3)[0].frame()
    assert second.frame()["step"].tolist() == expected["step"].tolist()
    assert second.frame()["value"].tolist() == pytest.approx(expected["value"].tolist(), rel=1e-4)


def test_what_is_wrong_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gradient_accumulation_steps must be >= 2 for the noise scale"):
        trained(tmp_path, NoiseScaleCallback(), accumulated=1)
    with pytest.raises(ValueError, match="max_grad_norm must be 0 for the noise scale, got 1:"):
        trained(tmp_path, NoiseScaleCallback(), max_grad_norm=1.0)
    with pytest.raises(ValueError, match="every must be an integer >= 1"):
        PhiCallback(), NoiseScaleCallback(every=0)
