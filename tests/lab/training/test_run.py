"""The loop: it knows nothing of a task but what ``Learner`` has, and resumes from its own state."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tvlars.lab import Reporter, TrainConfig, UsageError
from tvlars.lab.data import ImageData
from tvlars.lab.given import Given
from tvlars.lab.models import build_model
from tvlars.lab.run_folder.record import NoRecord
from tvlars.lab.training.learner import Classification, Learner
from tvlars.lab.training.prepare import prepare
from tvlars.lab.training.pretraining import Pretraining
from tvlars.lab.training.run import Run

QUICK: dict[str, Any] = dict(batch_size=480, epochs=2, precision="32-true", accelerator="cpu")


def build(kind: Any, folder: Path, data: ImageData, **options: Any) -> Run:
    prepared = prepare(TrainConfig(**{**QUICK, **options}), Given(data))
    prepared.fabric.seed_everything(0, verbose=False)
    model, _ = build_model("small_resnet", data.channels, data.image_size, data.classes)
    return Run(kind(prepared, model, NoRecord(folder), Reporter()))


@pytest.mark.parametrize("task", ["classification", "byol"])
@pytest.mark.parametrize("optimizer", ["tvlars", "sgd"])
def test_a_run_goes_on_from_its_state_as_if_nothing_had_happened(
    tmp_path: Path, digits: ImageData, task: str, optimizer: str
) -> None:
    kind, options = Classification, {"optimizer": optimizer}
    if task != "classification":
        pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")
        kind, options = Pretraining, {**options, "task": task, "projector": "16", "evaluations": "none"}
    one, other = (build(kind, tmp_path, digits, **options) for _ in range(2))
    one.run_epoch()
    state = copy.deepcopy(one.state_dict())
    one.run_epoch()
    other.load_state_dict(state)
    other.run_epoch()
    assert (other.step, other.epoch) == (one.step, one.epoch) == (4, 3)
    assert [row.test_loss for row in other.epochs] == [row.test_loss for row in one.epochs]
    weights, same = one.learner.weights(), other.learner.weights()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_state_of_another_run_is_refused(tmp_path: Path, digits: ImageData) -> None:
    one = build(Classification, tmp_path, digits, optimizer="sgd", warmup_epochs=0.5)
    one.run_epoch()
    other = build(Classification, tmp_path, digits, optimizer="sgd", warmup_epochs=1.0)
    with pytest.raises(UsageError, match=r"^state: scheduler.\S+ must be"):
        other.load_state_dict(one.state_dict())


class Darkness(Learner):
    """A task of its own: the first logit of an image is to be its darkness."""

    def _error(self, images: Tensor) -> Tensor:
        return (self.model(images)[:, 0] + images.mean((1, 2, 3))).square()

    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.zeros(())
        for images, _ in self.batches.parts(batch, upcoming):
            part = self._error(images).sum() / len(batch)
            self.fabric.backward(part)
            loss += part.detach()
        return loss, torch.zeros(())

    @torch.no_grad()
    def test(self, epoch: int, step: int, split: str = "test") -> tuple[float, float]:
        self.model.eval()
        return float(torch.cat([self._error(images) for images, _ in self.batches.test(split)]).mean()), 0.0


def test_a_task_needs_a_gradient_and_a_test(tmp_path: Path, digits: ImageData) -> None:
    run = build(Darkness, tmp_path, digits, optimizer="lars", epochs=4)
    result = run.train()
    assert [row.epoch for row in result.epochs] == [1, 2, 3, 4]
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss


def test_a_process_that_writes_no_record_measures_layers(tmp_path: Path, digits: ImageData) -> None:
    run = build(Classification, tmp_path, digits, layer_stats=1)
    run.open_logs()
    assert run.layer_stats is not None
