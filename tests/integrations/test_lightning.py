"""Lightning: accumulation, clipping, manual optimization, schedulers by the step, and its monitor of learning rates."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.integrations.problem import assert_close, clock, data, lars, model, plain_run, tvlars

L = pytest.importorskip("lightning", reason="lightning is not installed")


class Task(L.LightningModule):
    def __init__(self, scheduled: bool = False) -> None:
        super().__init__()
        self.model, self.scheduled = model(), scheduled

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        if not self.scheduled:
            return tvlars(self)
        optimizer, scheduler = lars(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Manual(Task):
    """Steps by hand, on every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def fit(task: Task, resume: Path | None = None, **options: Any) -> Any:
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of workers and log intervals
        trainer = L.Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **options})
        trainer.fit(task, DataLoader(data(), 8), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_the_clock_counts_steps_not_batches(accumulated: int) -> None:
    task = Task()
    trainer = fit(task, accumulate_grad_batches=accumulated)
    assert clock(trainer.optimizers[0]) == [trainer.global_step] * 2 == [16 / accumulated] * 2
    assert_close(task.model, plain_run(2, accumulated))


def test_manual_optimization() -> None:
    task = Manual()
    assert clock(fit(task).optimizers[0]) == [8.0, 8.0]
    assert_close(task.model, plain_run(2, 2))


def test_clipping() -> None:
    task = Task()
    fit(task, gradient_clip_val=0.1)
    assert_close(task.model, plain_run(2, 1, lambda module: nn.utils.clip_grad_norm_(module.parameters(), 0.1)))


def test_bfloat16_stays_near_float32() -> None:
    task = Task()
    assert clock(fit(task, precision="bf16-mixed").optimizers[0]) == [16.0, 16.0]
    assert_close(task.model, plain_run(2), tolerance=0.05)


def test_a_scheduler_by_the_step_is_the_optimizer_of_its_own_schedule() -> None:
    task = Task(scheduled=True)
    trainer = fit(task, accumulate_grad_batches=2)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 8
    assert_close(task.model, plain_run(2, 2))


def test_the_monitor_shows_both_groups(tmp_path: Path) -> None:
    logger = L.pytorch.loggers.CSVLogger(tmp_path, "logs", version=0)
    monitor = L.pytorch.callbacks.LearningRateMonitor("step")
    fit(Task(), logger=logger, callbacks=[monitor], log_every_n_steps=1)
    assert monitor.lrs == {"lr-TVLARS/pg1": [2.0] * 16, "lr-TVLARS/pg2": [pytest.approx(0.1)] * 16}


def test_a_checkpoint_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, first, second = Task(), Task(), Task()
    fit(whole)
    save = L.pytorch.callbacks.ModelCheckpoint(tmp_path, "one")
    fit(first, max_epochs=1, callbacks=[save], enable_checkpointing=True)
    assert clock(fit(second, tmp_path / "one.ckpt").optimizers[0]) == [16.0, 16.0]
    assert_close(second.model, whole.model, tolerance=0.0)
